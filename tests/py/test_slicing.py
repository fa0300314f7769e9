"""The bytes of a slice are those that numpy cuts from the same tensor."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from sllm_store.dtypes import DTYPES
from sllm_store.errors import InvalidArgumentError, UnsupportedError
from sllm_store.header import StoredTensor, tensor_nbytes
from sllm_store.slicing import ByteRows, Slice, byte_rows, sliced_shape

SHAPES = st.lists(st.integers(0, 6), min_size=1, max_size=4).map(tuple)


def stored(dtype, shape):
    return StoredTensor("w", dtype, shape, 4096, tensor_nbytes(dtype, shape))


def cut(data, rows):
    if rows.row_bytes == 0:
        return data[rows.offset : rows.offset + rows.nbytes]
    assert rows.nbytes > rows.pitch > rows.row_bytes
    starts = range(rows.offset, rows.offset + rows.nbytes, rows.pitch)
    assert starts[-1] + rows.row_bytes == rows.offset + rows.nbytes <= len(data)
    return b"".join(data[start : start + rows.row_bytes] for start in starts)


def cut_by_numpy(data, tensor, part):
    """The slice's shape and bytes. Elements are rows of bits here, so that it holds for those below a byte too."""
    bits = DTYPES[tensor.dtype].bits
    elements = np.unpackbits(np.frombuffer(data, np.uint8)).reshape(*tensor.shape, bits)
    groups = np.split(elements, part.groups, axis=part.dim)
    result = np.concatenate([group.take(range(part.start, part.stop), axis=part.dim) for group in groups], part.dim)
    return result.shape[:-1], np.packbits(result).tobytes()


@st.composite
def slices(draw, dtypes):
    shape, dtype = draw(SHAPES), draw(dtypes)
    assume(np.prod(shape, dtype=int) * DTYPES[dtype].bits % 8 == 0)
    dim = draw(st.integers(0, len(shape) - 1))
    groups = draw(st.sampled_from([count for count in range(1, 7) if shape[dim] % count == 0]))
    start, stop = sorted(draw(st.tuples(*[st.integers(0, shape[dim] // groups)] * 2)))
    return stored(dtype, shape), Slice(dim, start, stop, groups)


def random_bytes(count):
    return np.random.default_rng(count).bytes(count)


@given(case=slices(st.sampled_from([dtype.name for dtype in DTYPES.values() if dtype.bits >= 8])))
def test_the_bytes_of_a_slice_are_those_that_numpy_cuts(case):
    tensor, part = case
    data = random_bytes(tensor.nbytes)
    assert (sliced_shape(tensor, part), cut(data, byte_rows(tensor, part))) == cut_by_numpy(data, tensor, part)


@given(case=slices(st.sampled_from(["F4", "F6_E2M3", "F6_E3M2"])))
def test_elements_below_a_byte_are_cut_right_or_refused(case):
    tensor, part = case
    data = random_bytes(tensor.nbytes)
    shape, expected = cut_by_numpy(data, tensor, part)
    assert sliced_shape(tensor, part) == shape
    try:
        assert cut(data, byte_rows(tensor, part)) == expected
    except UnsupportedError:
        assert expected


@pytest.mark.parametrize(
    ("dtype", "shape", "part", "expected"),
    [
        ("BF16", (4, 3), Slice(0, 1, 3), ByteRows(6, 12, 0, 0)),
        ("BF16", (4, 3), Slice(1, 1, 3), ByteRows(2, 22, 4, 6)),
        ("F32", (2, 5, 3), Slice(1, 2, 3), ByteRows(24, 72, 12, 60)),
        ("F32", (1, 5, 3), Slice(1, 2, 3), ByteRows(24, 12, 0, 0)),
        ("F32", (5,), Slice(0, 0, 2), ByteRows(0, 8, 0, 0)),
        ("U8", (8, 2), Slice(0, 1, 3, groups=2), ByteRows(2, 12, 4, 8)),
        ("U8", (3, 8, 2), Slice(1, 0, 1, groups=2), ByteRows(0, 42, 2, 8)),
        ("F4", (2, 8), Slice(1, 2, 6), ByteRows(1, 6, 2, 4)),
        ("F4", (3, 4), Slice(0, 1, 2), ByteRows(2, 2, 0, 0)),
        ("F6_E3M2", (2, 8), Slice(1, 4, 8), ByteRows(3, 9, 3, 6)),
        ("F4", (1, 2, 3), Slice(2, 0, 3), ByteRows(0, 3, 0, 0)),
    ],
)
def test_a_slice_is_one_range_or_rows_of_one_pitch(dtype, shape, part, expected):
    assert byte_rows(stored(dtype, shape), part) == expected


@pytest.mark.parametrize("dim", [0, 1, 2])
def test_a_whole_dimension_is_one_range(dim):
    tensor = stored("F16", (3, 4, 5))
    assert byte_rows(tensor, Slice(dim, 0, tensor.shape[dim])) == ByteRows(0, 120, 0, 0)


@pytest.mark.parametrize("shape", [(4, 3), (0, 3), (4, 0)])
@pytest.mark.parametrize("dim", [0, 1])
def test_an_empty_slice_is_no_bytes(shape, dim):
    assert byte_rows(stored("F4", shape), Slice(dim, 0, 0)) == ByteRows(0, 0, 0, 0)


@pytest.mark.parametrize(
    ("dtype", "shape", "part"),
    [
        ("F4", (4, 4), Slice(1, 1, 3)),
        ("F4", (4, 4), Slice(1, 0, 3)),
        ("F4", (2, 3), Slice(1, 0, 2)),
        ("F4", (2, 3), Slice(0, 1, 2)),
        ("F6_E2M3", (4, 6), Slice(1, 0, 4)),
        ("F6_E2M3", (4, 3), Slice(0, 0, 2)),
    ],
)
def test_a_slice_that_ends_inside_a_byte_is_refused_by_name(dtype, shape, part):
    with pytest.raises(UnsupportedError, match=rf"elements {part.start} to {part.stop} .* tensor w .*as {dtype} is"):
        byte_rows(stored(dtype, shape), part)


@pytest.mark.parametrize(
    ("shape", "part", "message"),
    [
        ((), Slice(0, 0, 0), r"tensor w of shape \[\] has no dimension 0"),
        ((4, 3), Slice(2, 0, 1), r"tensor w of shape \[4, 3\] has no dimension 2"),
        ((4, 3), Slice(-1, 0, 1), "has no dimension -1"),
        ((4, 3), Slice(1, 0, 4), "elements 0 to 4 of dimension 1 of tensor w are not all among its 3"),
        ((4, 3), Slice(0, 3, 2), "elements 3 to 2"),
        ((4, 3), Slice(0, -1, 2), "elements -1 to 2"),
        ((4, 3), Slice(0, 0, 3, groups=2), "are not all among its 2"),
        ((4, 3), Slice(1, 0, 1, groups=2), "dimension 1 of tensor w, 3, is not 2 equal parts"),
        ((4, 3), Slice(1, 0, 1, groups=0), "is not 0 equal parts"),
    ],
)
@pytest.mark.parametrize("function", [byte_rows, sliced_shape])
def test_a_part_that_the_tensor_has_not_is_refused(shape, part, message, function):
    with pytest.raises(InvalidArgumentError, match=message):
        function(stored("F32", shape), part)
