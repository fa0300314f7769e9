"""A plan places every tensor aligned, apart from every other, and reads neighbours as one extent."""

import pytest
from checkpoints import entry, write_safetensors
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sllm_store.checkpoint import open_checkpoint
from sllm_store.errors import InvalidArgumentError
from sllm_store.plan import BLOCK_BYTES, HUGE_PAGE_BYTES, TENSOR_ALIGNMENT, make_plan
from sllm_store.slicing import Slice


def checkpoint_of(folder, sizes, padding=0):
    members, offset = {}, 0
    for index, size in enumerate(sizes):
        members[f"t{index}"] = entry("U8", [size], offset, offset + size)
        offset += size
    import json

    text = json.dumps(members).encode()
    text += b" " * ((-8 - len(text)) % 4096 + padding)
    write_safetensors(folder / "model.safetensors", {}, bytes(offset), text)
    return open_checkpoint(folder)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    sizes=st.lists(st.one_of(st.integers(0, 200), st.sampled_from([64, 4096, 8192, 100_000])), min_size=1, max_size=30),
    padding=st.integers(0, 70),
    picks=st.sets(st.integers(0, 29)),
)
def test_every_tensor_is_aligned_and_alone(tmp_path, sizes, padding, picks):
    checkpoint = checkpoint_of(tmp_path, sizes, padding)
    names = [f"t{index}" for index in range(len(sizes)) if not picks or index in picks]
    plan = make_plan(checkpoint, names)
    assert plan.places.keys() == set(names)
    offsets = {name: place.offset for name, place in plan.places.items()}
    taken = sorted((offsets[name], offsets[name] + checkpoint.locate(name).tensor.nbytes) for name in names)
    for (_, end), (start, _) in zip(taken, taken[1:], strict=False):
        assert end <= start
    assert all(offset % TENSOR_ALIGNMENT == 0 for offset in offsets.values())
    assert not taken or taken[-1][1] <= plan.target_bytes[0]
    for name in names:
        location = checkpoint.locate(name)
        homes = [
            extent
            for extent in plan.extents
            if extent.offset <= location.offset
            and location.offset + location.tensor.nbytes <= extent.offset + extent.nbytes
            and extent.destination + location.offset - extent.offset == offsets[name]
        ]
        assert homes


def test_a_long_run_lies_as_in_the_file_modulo_a_huge_page(tmp_path):
    sizes = [20 << 20, 64, 17 << 20, 4096, 100]
    checkpoint = checkpoint_of(tmp_path, sizes)
    plan = make_plan(checkpoint, ["t0", "t2", "t4"])
    long, other, short = plan.extents
    assert long.destination % HUGE_PAGE_BYTES == long.offset % HUGE_PAGE_BYTES
    assert other.destination % HUGE_PAGE_BYTES == other.offset % HUGE_PAGE_BYTES
    assert short.destination - (other.destination + other.nbytes) < 2 * BLOCK_BYTES
    assert plan.target_bytes[0] < (37 << 20) + 2 * HUGE_PAGE_BYTES + 4 * BLOCK_BYTES


def test_rows_far_apart_are_read_apart_and_near_ones_as_one_extent(tmp_path):
    checkpoint = checkpoint_of(tmp_path, [4 * (5 << 20)])
    (location,) = checkpoint.tensors.values()
    rows = location.tensor.__class__("t0", "U8", (4, 5 << 20), location.tensor.start, location.tensor.nbytes)
    checkpoint = checkpoint._replace(tensors={"t0": location.__class__(0, location.offset, rows)})
    near = make_plan(checkpoint, ["t0"], slices={"t0": Slice(1, 0, 4 << 20)})
    assert [extent.nbytes for extent in near.extents] == [3 * (5 << 20) + (4 << 20)]
    far = make_plan(checkpoint, ["t0"], slices={"t0": Slice(1, 1 << 20, 2 << 20)})
    assert [extent.offset - location.offset for extent in far.extents] == [(1 << 20) + n * (5 << 20) for n in range(4)]
    assert [extent.destination for extent in far.extents] == [n << 20 for n in range(4)]
    assert far.target_bytes == (4 << 20,)


def test_an_aligned_file_is_one_extent_that_lies_as_in_the_file(tmp_path):
    checkpoint = checkpoint_of(tmp_path, [8192, 4096, 128, 64])
    plan = make_plan(checkpoint, checkpoint.names())
    assert len(plan.extents) == 1
    assert plan.extents[0].destination % BLOCK_BYTES == plan.extents[0].offset % BLOCK_BYTES


def test_what_the_file_packs_tighter_is_placed_apart(tmp_path):
    checkpoint = checkpoint_of(tmp_path, [4096, 64, 6, 6, 6])
    plan = make_plan(checkpoint, checkpoint.names())
    assert [extent.nbytes for extent in plan.extents] == [4166, 6, 6]


def test_a_direct_read_of_whole_blocks_meets_no_other_extent(tmp_path):
    checkpoint = checkpoint_of(tmp_path, [4096 + 64, 8192, 4096, 64])
    plan = make_plan(checkpoint, ["t0", "t2"])
    first, second = plan.extents
    assert -(-(first.destination + first.nbytes) // BLOCK_BYTES) <= second.destination // BLOCK_BYTES


def test_an_unknown_name_is_refused(tmp_path):
    with pytest.raises(InvalidArgumentError, match="no tensor x in"):
        make_plan(checkpoint_of(tmp_path, [1]), ["x"])
