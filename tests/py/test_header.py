"""A header is decoded totally: into valid values, or into an error that names the file and the fault."""

import contextlib
import json

import pytest
from checkpoints import entry, every_dtype
from hypothesis import given
from hypothesis import strategies as st

from sllm_store.dtypes import DTYPES
from sllm_store.errors import CorruptCheckpointError
from sllm_store.header import (
    DATA_ALIGNMENT,
    MAX_DIMENSIONS,
    MAX_HEADER_BYTES,
    StoredTensor,
    decode_header,
    encode_header,
    header_length,
)


def decode(members: dict | bytes, data_bytes: int):
    text = members if isinstance(members, bytes) else json.dumps(members).encode()
    return decode_header(text, 8 + len(text) + data_bytes, "some.safetensors")


def test_decodes_every_dtype_scalars_and_empty_tensors():
    members, data = every_dtype()
    header = decode(members, len(data))
    assert {t.name for t in header.tensors} == members.keys() - {"__metadata__"}
    assert header.metadata == {"format": "pt"}
    for tensor in header.tensors:
        expected = members[tensor.name]
        assert (tensor.dtype, list(tensor.shape)) == (expected["dtype"], expected["shape"])
        assert [tensor.start, tensor.start + tensor.nbytes] == expected["data_offsets"]


def test_knows_exactly_the_dtypes_of_safetensors():
    from safetensors import SafetensorError, deserialize

    def theirs(dtype: str, bits: int) -> list:
        text = json.dumps({"a": entry(dtype, [8], 0, bits)}).encode()
        return deserialize(len(text).to_bytes(8, "little") + text + bytes(bits))

    for dtype in DTYPES.values():
        assert theirs(dtype.name, dtype.bits)[0][1]["dtype"] == dtype.name
    with pytest.raises(SafetensorError) as caught:
        theirs("F7", 7)
    # Its refusal lists the types that it knows.
    for name in DTYPES:
        assert f"`{name}`" in str(caught.value)
    assert str(caught.value).count("`") == 2 * (len(DTYPES) + 1)


BAD = {
    "a hole": ({"a": entry("U8", [2], 0, 2), "b": entry("U8", [2], 3, 5)}, 5, "a hole before tensor b"),
    "a hole at the start": ({"a": entry("U8", [2], 1, 3)}, 3, "a hole before tensor a"),
    "an overlap": ({"a": entry("U8", [3], 0, 3), "b": entry("U8", [3], 2, 5)}, 5, "an overlap at tensor b"),
    "bytes behind the last": ({"a": entry("U8", [2], 0, 2)}, 3, "1 bytes behind the last tensor"),
    "an end past the file": ({"a": entry("U8", [4], 0, 4)}, 3, "truncated"),
    "a size unlike its shape": ({"a": entry("F32", [2], 0, 4)}, 4, "tensor a"),
    "an end before the start": ({"a": entry("U8", [0], 4, 2)}, 4, "tensor a"),
    "an unknown dtype": ({"a": entry("F7", [1], 0, 1)}, 1, "unknown dtype F7"),
    "a dtype that ends inside a byte": ({"a": entry("F4", [3], 0, 1)}, 1, "12 bits"),
    "a negative dimension": ({"a": entry("U8", [-1], 0, 1)}, 1, "tensor a"),
    "an overflowing shape": ({"a": entry("U8", [2**62, 4], 0, 0)}, 0, "tensor a"),
    "too many dimensions": ({"a": entry("U8", [1] * (MAX_DIMENSIONS + 1), 0, 1)}, 1, "tensor a"),
    "a shape of strings": ({"a": {"dtype": "U8", "shape": ["1"], "data_offsets": [0, 1]}}, 1, "tensor a"),
    "three offsets": ({"a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1, 2]}}, 1, "tensor a"),
    "no dtype": ({"a": {"shape": [1], "data_offsets": [0, 1]}}, 1, "tensor a"),
    "metadata that is no strings": ({"__metadata__": {"format": 1}}, 0, "invalid header"),
    "a list": (b"[]", 0, "object"),
    "no JSON": (b"{", 0, "invalid header"),
    "no UTF-8": (b'{"\xff": 1}', 0, "invalid header"),
    "leading space": (b" {}", 0, "object"),
    "text behind": (b"{} x", 0, "invalid header"),
    "deep nesting": (b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", 0, "invalid header"),
}


@pytest.mark.parametrize("name", BAD)
def test_refuses(name):
    members, data_bytes, text = BAD[name]
    with pytest.raises(CorruptCheckpointError, match=text) as caught:
        decode(members, data_bytes)
    assert "some.safetensors" in str(caught.value)


@pytest.mark.parametrize("spelling", [b'"a"', b'"\\u0061"'])
@pytest.mark.parametrize("keys", [(0, 1), (0, 0)])
def test_refuses_a_name_twice_even_with_the_same_range(spelling, keys):
    one = json.dumps(entry("U8", [1], 0, 1)).encode()
    other = json.dumps(entry("U8", list(keys)[1:], *keys)).encode() if keys == (0, 0) else one
    with pytest.raises(CorruptCheckpointError, match="names a twice"):
        decode(b'{"a": ' + one + b", " + spelling + b": " + other + b"}", 1)


@pytest.mark.parametrize(
    "text",
    [
        b'{"__metadata__": {"a": "1"}, "__metadata__": {"a": "2"}}',
        b'{"x": {"dtype": "U8", "shape": [0], "shape": [0], "data_offsets": [0, 0]}}',
    ],
)
def test_refuses_a_key_twice_inside(text):
    with pytest.raises(CorruptCheckpointError, match="twice"):
        decode(text, 0)


def test_takes_a_name_that_looks_like_a_key():
    members = {'"data_offsets"': entry("U8", [1], 0, 1), "dtype": entry("U8", [1], 1, 2)}
    assert len(decode(members, 2).tensors) == 2


def test_refuses_a_length_over_the_limit_and_past_the_end():
    with pytest.raises(CorruptCheckpointError, match="over the limit"):
        header_length((MAX_HEADER_BYTES + 1).to_bytes(8, "little"), 1 << 40, "f")
    with pytest.raises(CorruptCheckpointError, match="truncated"):
        header_length((100).to_bytes(8, "little"), 50, "f")
    with pytest.raises(CorruptCheckpointError, match="truncated"):
        header_length(b"abc", 3, "f")


NAMES = st.text(min_size=1, max_size=20).filter(lambda name: name != "__metadata__")


@given(st.dictionaries(NAMES, st.tuples(st.sampled_from(sorted(DTYPES)), st.lists(st.integers(0, 5), max_size=4))))
def test_what_is_encoded_is_decoded(spec):
    tensors, start = [], 0
    for name, (dtype, dims) in spec.items():
        shape = (*dims, 8)
        count = 8
        for size in dims:
            count *= size
        tensors.append(StoredTensor(name, dtype, shape, start, count * DTYPES[dtype].bits // 8))
        start += tensors[-1].nbytes
    prefix = encode_header(tensors, {"format": "pt"})
    assert len(prefix) % DATA_ALIGNMENT == 0
    decoded = decode_header(prefix[8:], len(prefix) + start, "f")
    assert sorted(decoded.tensors, key=lambda t: t.name) == sorted(tensors, key=lambda t: t.name)
    assert decoded.data_start == len(prefix)


@given(st.binary(max_size=200))
def test_any_bytes_give_a_header_or_the_error(text):
    with contextlib.suppress(CorruptCheckpointError):
        decode(text, 0)
