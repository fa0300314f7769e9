"""A load's extents, found again in a pool where their bytes lie scattered."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sllm_store.errors import UnavailableError
from sllm_store.plan import Extent
from sllm_store.pooled_pieces import portions, region_pieces, wanted_ranges

PAGE = 4096


def scatter(content: bytes, begin: int, end: int, cuts: list[int]) -> tuple[bytearray, list]:
    """Pages of a file put into a pool in another order, in pieces that begin at the cuts."""
    begin, end = begin // PAGE * PAGE, -(-end // PAGE) * PAGE
    edges = sorted({begin, end, *(cut * PAGE for cut in cuts if begin < cut * PAGE < end)})
    spans = list(zip(edges, edges[1:], strict=False))
    random.Random(len(spans)).shuffle(spans)
    pool, pieces = bytearray(), []
    for start, stop in spans:
        pool += bytes(PAGE)
        pieces.append((0, start, stop - start, len(pool)))
        pool += content[start:stop].ljust(stop - start, b"\0")
    return pool, sorted(pieces)


def fill(pool: bytes, pieces: list, nbytes: int) -> bytearray:
    region = bytearray(nbytes + PAGE)
    for destination, offset, count in pieces:
        region[destination : destination + count] = pool[offset : offset + count]
    return region


@settings(deadline=None)
@given(
    offset=st.integers(0, 3 * PAGE),
    nbytes=st.integers(1, 6 * PAGE),
    is_congruent=st.booleans(),
    cuts=st.lists(st.integers(1, 9), max_size=6),
)
def test_every_byte_arrives_and_what_can_be_mapped_is_aligned(offset, nbytes, is_congruent, cuts):
    content = random.Random(offset).randbytes(10 * PAGE)
    pool, pieces = scatter(content, offset, offset + nbytes, cuts)
    destination = PAGE + offset % PAGE if is_congruent else PAGE + (offset + 64) % PAGE
    found = region_pieces([Extent(0, offset, nbytes, 0, destination)], pieces)
    region = fill(pool, found, destination + nbytes)
    assert region[destination : destination + nbytes] == content[offset : offset + nbytes]
    if is_congruent:
        assert all(to % PAGE == 0 and start % PAGE == 0 for to, start, _ in found)


def test_rows_are_cut_one_by_one():
    content = random.Random(5).randbytes(4 * PAGE)
    pool, pieces = scatter(content, 100, 3 * PAGE, [1, 2])
    extent = Extent(0, 100, 2 * 3000 + 500, 0, 64, 500, 3000, 500)
    region = fill(pool, region_pieces([extent], pieces), 2000)
    assert region[64:1564] == b"".join(content[at : at + 500] for at in (100, 3100, 6100))


def test_what_the_daemon_left_out_is_noticed():
    for pieces in ([], [(0, 0, PAGE, 0)], [(1, 0, 2 * PAGE, 0)], [(0, 0, PAGE, 0), (0, 2 * PAGE, PAGE, PAGE)]):
        with pytest.raises(UnavailableError, match="left out byte"):
            region_pieces([Extent(0, 0, 2 * PAGE, 0, 0)], pieces)


@given(st.lists(st.tuples(st.integers(0, 50_000), st.integers(0, 50_000)), max_size=5), st.integers(1, 20_000))
def test_portions_have_every_byte_once_and_are_not_large(shapes, nbytes):
    extents = [Extent(number, offset, count, 0, offset + 7) for number, (offset, count) in enumerate(shapes)]
    parts = []
    for portion in portions(extents, nbytes):
        assert sum(part.nbytes for part in portion) < 2 * nbytes
        parts += portion
    for extent in extents:
        mine = [part for part in parts if part.partition == extent.partition]
        assert sum(part.nbytes for part in mine) == extent.nbytes
        assert all(part.destination - part.offset == 7 for part in mine)
        edges = [extent.offset, *(part.offset + part.nbytes for part in mine)]
        assert [part.offset for part in mine] == edges[:-1]
    rows = Extent(0, 0, 10 * nbytes, 0, 0, 1, 2, 3)
    assert list(portions([rows], nbytes)) == [[rows]]


def test_neighbours_are_wanted_in_one_range():
    extents = [
        Extent(0, 10, 100, 0, 0),
        Extent(0, 200, 10, 0, 0),
        Extent(0, 3 * PAGE, 5, 0, 0),
        Extent(1, 0, 0, 0, 0),
        Extent(1, 7, 5, 0, 0),
    ]
    assert wanted_ranges(extents) == [(0, 10, 210), (0, 3 * PAGE, 3 * PAGE + 5), (1, 7, 12)]
