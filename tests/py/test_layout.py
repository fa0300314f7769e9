import json
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sllm_store import layout
from sllm_store.errors import InvalidArgumentError, UnsupportedError
from sllm_store.layout import alignment_class, encode_index, lay_out, partition_names
from sllm_store.sources.base import Buffer, Source, SourceTensor


def no_slices() -> Iterator[Buffer]:
    return iter(())


def tensor(name: str, nbytes: int) -> SourceTensor:
    return SourceTensor(name, "U8", (nbytes,), nbytes, no_slices)


def source(sizes: list[int], metadata: dict[str, str] | None = None) -> Source:
    return Source(tuple(tensor(f"t{i}", nbytes) for i, nbytes in enumerate(sizes)), metadata=metadata or {})


SIZES = st.lists(st.one_of(st.integers(0, 10_000), st.integers(0, 4).map(lambda n: n * 4096)), max_size=30)


@given(SIZES, st.integers(1, 30_000))
def test_partitions_follow_model_order_and_break_only_at_the_limit(sizes: list[int], limit: int) -> None:
    plan = lay_out(source(sizes), limit)
    groups = [sorted(int(one.name[1:]) for one in planned.tensors) for planned in plan]
    assert [number for group in groups for number in group] == list(range(len(sizes)))
    for group, following in zip(groups, groups[1:], strict=False):
        filled = sum(sizes[number] for number in group)
        assert filled + sizes[following[0]] > limit
    for group in groups:
        assert len(group) <= 1 or sum(sizes[number] for number in group) <= limit


@given(SIZES)
def test_every_tensor_starts_at_a_multiple_of_its_class(sizes: list[int]) -> None:
    (planned,) = lay_out(source(sizes), 1 << 40)
    position = len(planned.header)
    assert position % 4096 == 0
    for one in planned.tensors:
        assert position % alignment_class(one.nbytes) == 0
        position += one.nbytes
    assert position == planned.nbytes


@given(SIZES)
def test_within_a_class_the_model_order_stays(sizes: list[int]) -> None:
    (planned,) = lay_out(source(sizes), 1 << 40)
    keys = [(-alignment_class(one.nbytes), int(one.name[1:])) for one in planned.tensors]
    assert keys == sorted(keys)


@pytest.mark.parametrize(
    ("nbytes", "expected"), [(0, 4096), (1, 1), (6, 2), (4096, 4096), (12288, 4096), (1 << 40, 4096)]
)
def test_class_is_the_largest_power_of_two_that_divides_up_to_a_page(nbytes: int, expected: int) -> None:
    assert alignment_class(nbytes) == expected


def test_a_header_is_padded_json_with_format_kept_or_set() -> None:
    (planned,) = lay_out(source([4], {"author": "me"}))
    length = int.from_bytes(planned.header[:8], "little")
    header = json.loads(planned.header[8:])
    assert len(planned.header) == 8 + length
    assert header == {
        "__metadata__": {"format": "pt", "author": "me"},
        "t0": {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]},
    }
    (planned,) = lay_out(source([4], {"format": "mlx"}))
    assert json.loads(planned.header[8:])["__metadata__"] == {"format": "mlx"}


def test_nothing_at_all_is_one_empty_partition() -> None:
    (planned,) = lay_out(source([]))
    assert planned.name == "model.safetensors"
    assert planned.nbytes == 4096


def test_files_are_named_as_hugging_face_names_them() -> None:
    assert partition_names(1, "model") == ["model.safetensors"]
    assert partition_names(2, "model") == ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]


def test_the_index_maps_each_tensor_to_its_file() -> None:
    plan = lay_out(source([5, 5, 5]), 10)
    index = json.loads(encode_index(plan))
    first, second = partition_names(2, "model")
    assert index == {"metadata": {"total_size": 15}, "weight_map": {"t0": first, "t1": first, "t2": second}}


@pytest.mark.parametrize("name", ["__metadata__", "broken \ud800"])
def test_names_that_a_header_cannot_hold_are_refused(name: str) -> None:
    with pytest.raises(InvalidArgumentError, match="cannot have the name"):
        lay_out(Source((tensor(name, 1),)))


def test_a_name_given_twice_is_refused_tied_ones_included() -> None:
    with pytest.raises(InvalidArgumentError, match="two tensors have the name a"):
        lay_out(Source((tensor("a", 1), tensor("a", 2))))
    with pytest.raises(InvalidArgumentError, match="two tensors have the name a"):
        lay_out(Source((tensor("a", 1),), tied={"a": "a"}))


@pytest.mark.parametrize("limit", [0, -1])
def test_a_limit_that_nothing_fits_is_refused(limit: int) -> None:
    with pytest.raises(InvalidArgumentError, match=f"partition size {limit}"):
        lay_out(source([1]), limit)


def test_a_header_over_the_limit_is_refused_before_anything_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout, "MAX_HEADER_BYTES", 5000)
    with pytest.raises(UnsupportedError, match="needs a header of .* over the limit of 5000"):
        lay_out(source([1] * 200))


def test_a_partition_holds_no_more_tensors_than_a_reader_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout, "MAX_TENSORS", 2)
    assert [len(planned.tensors) for planned in lay_out(source([1] * 5))] == [2, 2, 1]
