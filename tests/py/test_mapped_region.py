"""`MappedRegion`: scattered pieces of a sealed memfd as one buffer, handed on as tensors are."""

import fcntl
import os

import pytest
import torch

from sllm_store import _core
from sllm_store.errors import InvalidArgumentError

PAGE = os.sysconf("SC_PAGESIZE")
POOL = os.urandom(16 * PAGE)
SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


@pytest.fixture
def pool() -> int:
    """A descriptor that the region closes."""
    fd = os.memfd_create("pool", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.write(fd, POOL)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, SEALS)
    return fd


def test_a_region_shows_its_pieces_side_by_side(pool: int) -> None:
    region = _core.MappedRegion(pool, [(0, 3 * PAGE, 2 * PAGE), (2 * PAGE, 64, 100)], 3 * PAGE)
    assert len(region) == 3 * PAGE
    assert region.mapped_bytes == 2 * PAGE
    assert bytes(memoryview(region)) == POOL[3 * PAGE : 5 * PAGE] + POOL[64:164] + bytes(PAGE - 100)
    assert not os.path.exists(f"/proc/self/fd/{pool}")


def test_tensors_of_it_are_writable_and_keep_it(pool: int) -> None:
    region = _core.MappedRegion(pool, [(0, 0, 4 * PAGE)], 4 * PAGE)
    first, second = (
        torch.utils.dlpack.from_dlpack(capsule) for capsule in region.export_bytes([0, PAGE], [[PAGE], [PAGE]])
    )
    floats = torch.utils.dlpack.from_dlpack(region.export_tensor(2 * PAGE, (2, 32), [PAGE // 4], False))
    del region
    first.fill_(1)
    floats.fill_(1.5)
    assert second.numpy().tobytes() == POOL[PAGE : 2 * PAGE]
    assert floats.tolist() == [1.5] * (PAGE // 4)
    assert first.tolist() == [1] * PAGE


@pytest.mark.parametrize("piece", [(0, 16 * PAGE, 1), (PAGE, 0, 1), (0, 0, PAGE + 1)])
def test_pieces_outside_are_refused_and_the_descriptor_closed(pool: int, piece: tuple[int, int, int]) -> None:
    with pytest.raises(InvalidArgumentError, match="leave a pool of"):
        _core.MappedRegion(pool, [piece], PAGE)
    assert not os.path.exists(f"/proc/self/fd/{pool}")


def test_a_number_that_is_no_descriptor_is_refused() -> None:
    with pytest.raises(InvalidArgumentError, match="-1 is no descriptor"):
        _core.MappedRegion(-1, [], 0)
