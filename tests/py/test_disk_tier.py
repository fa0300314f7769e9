"""The disk tier: what it keeps, what goes, what a broken end leaves, and what it knows of CRCs."""

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from checkpoints import entry, write_safetensors
from hypothesis import given
from hypothesis import strategies as st

from sllm_store import open_checkpoint
from sllm_store.disk_copy import JOURNAL_NAME, DiskCopy, Origin, OriginFile, decode_records, encode_records
from sllm_store.disk_crcs import CrcFiles
from sllm_store.disk_eviction import Candidate, choose_victims, priority_of
from sllm_store.disk_tier import DiskTier, key_of
from sllm_store.errors import (
    ConflictError,
    InternalError,
    InvalidArgumentError,
    OutOfMemoryError,
    StoreIOError,
    UnsupportedError,
)

MIB = 1 << 20


def origin_of(name: str, *sizes: int, version: str = "1") -> Origin:
    files = [OriginFile(f"model-{number}.safetensors", size, version) for number, size in enumerate(sizes)]
    return Origin(f"s3://bucket/{name}", files)


def content_of(origin: Origin) -> list[bytes]:
    return [random.Random(file.name + origin.url).randbytes(file.nbytes) for file in origin.files]


def write_all(copy: DiskCopy) -> None:
    for number, data in enumerate(content_of(copy.origin)):
        for start in range(0, len(data), MIB):
            copy.write(number, start, data[start : start + MIB])


def publish(tier: DiskTier, origin: Origin) -> Path:
    with tier.copy(origin) as copy:
        write_all(copy)
        tier.publish(copy)
        return copy.folder


@pytest.fixture
def tier(tmp_path: Path):
    opened = DiskTier(tmp_path / "tier", 10 * MIB)
    yield opened
    opened.close()


def test_a_whole_copy_is_published_with_its_bytes(tier):
    origin = origin_of("llama", 2 * MIB + 5, 17, 0)
    assert not tier.is_published(origin)
    folder = publish(tier, origin)
    assert tier.is_published(origin)
    assert folder.parent == Path(tier.path) / "checkpoints"
    assert folder.name.startswith("llama-")
    assert [(folder / file.name).read_bytes() for file in origin.files] == content_of(origin)
    assert sorted(path.name for path in folder.iterdir() if not path.name.startswith(".")) == [
        file.name for file in origin.files
    ]
    assert tier.used_bytes() == tier.bytes_of(origin.url) == origin.nbytes
    assert list((Path(tier.path) / "partial").iterdir()) == []


def test_what_is_not_whole_is_not_published(tier):
    with tier.copy(origin_of("a", 2 * MIB)) as copy:
        copy.write(0, 0, bytes(MIB))
        with pytest.raises(InternalError, match="not whole"):
            tier.publish(copy)
        copy.write(0, MIB, bytes(MIB))
        tier.publish(copy)


def test_a_published_copy_survives_and_is_read_again(tmp_path):
    origin = origin_of("a", 3 * MIB)
    first = DiskTier(tmp_path / "tier")
    publish(first, origin)
    first.close()
    again = DiskTier(tmp_path / "tier")
    assert again.is_published(origin)
    assert again.bytes_of(origin.url) == origin.nbytes
    with again.copy(origin) as copy:
        assert copy.read(0, MIB, MIB) == content_of(origin)[0][MIB : 2 * MIB]
    again.close()


def test_one_store_works_on_a_folder(tmp_path):
    first = DiskTier(tmp_path / "tier")
    with pytest.raises(ConflictError, match="another store"):
        DiskTier(tmp_path / "tier")
    first.close()
    DiskTier(tmp_path / "tier").close()


def test_a_folder_with_other_things_is_let_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ConflictError, match=r"not empty: it has mine\.txt"):
        DiskTier(tmp_path)
    (tmp_path / "mine.txt").unlink()
    DiskTier(tmp_path).close()
    (tmp_path / "version").write_text("sllm disk tier 2\n")
    with pytest.raises(UnsupportedError, match="version 2"):
        DiskTier(tmp_path)
    (tmp_path / "version").write_text("something")
    with pytest.raises(ConflictError, match="something"):
        DiskTier(tmp_path)


def test_a_limit_is_a_positive_number(tmp_path):
    with pytest.raises(InvalidArgumentError, match="0 bytes"):
        DiskTier(tmp_path / "tier", 0)


def test_room_is_kept_before_the_first_byte(tier):
    with tier.copy(origin_of("a", 6 * MIB)):
        assert tier.used_bytes() == 6 * MIB
        with pytest.raises(OutOfMemoryError, match=r"no room for s3://bucket/b: 5242880 bytes.*10485760"):
            tier.copy(origin_of("b", 5 * MIB)).__enter__()
        with tier.copy(origin_of("c", 4 * MIB)):
            assert tier.used_bytes() == 10 * MIB
    assert tier.used_bytes() == 0


def test_the_least_used_goes_when_room_is_needed(tier):
    often, seldom = origin_of("often", 4 * MIB), origin_of("seldom", 4 * MIB)
    for origin in (often, seldom):
        publish(tier, origin)
    for origin in (often, often, seldom):
        with tier.copy(origin):
            pass
    publish(tier, origin_of("third", 4 * MIB))
    assert tier.is_published(often)
    assert not tier.is_published(seldom)
    assert tier.used_bytes() == 8 * MIB
    assert tier.evict("") == 8 * MIB
    assert tier.used_bytes() == 0
    assert list((Path(tier.path) / "checkpoints").iterdir()) == []


def test_the_dearer_stays_of_equally_used_ones(tier):
    dear, cheap = origin_of("dear", 4 * MIB), origin_of("cheap", 4 * MIB)
    for origin, cost in ((dear, 1e-6), (cheap, 1e-9)):
        with tier.copy(origin) as copy:
            write_all(copy)
            tier.note_cost(copy, cost)
            tier.publish(copy)
    publish(tier, origin_of("third", 4 * MIB))
    assert tier.is_published(dear)
    assert not tier.is_published(cheap)


def test_nothing_in_use_goes(tier):
    used = origin_of("used", 6 * MIB)
    publish(tier, used)
    with tier.copy(used) as copy:
        assert tier.evict("") == 0
        with pytest.raises(OutOfMemoryError):
            publish(tier, origin_of("other", 6 * MIB))
        assert copy.read(0, 0, MIB) == content_of(used)[0][:MIB]
    publish(tier, origin_of("other", 6 * MIB))
    assert not tier.is_published(used)


def test_only_what_is_needed_is_kept_of_several_versions(tier):
    old, new = origin_of("a", MIB, version="1"), origin_of("a", MIB, version="2")
    assert key_of(old) != key_of(new)
    assert publish(tier, old) != publish(tier, new)
    assert tier.bytes_of(old.url) == 2 * MIB
    assert tier.evict(old.url) == 2 * MIB


def test_a_partial_copy_goes_on_where_it_ended(tmp_path):
    origin = origin_of("a", 4 * MIB + 100)
    content = content_of(origin)[0]
    tier = DiskTier(tmp_path / "tier")
    with tier.copy(origin) as copy:
        copy.write(0, MIB, content[MIB : 3 * MIB])
    tier.close()
    again = DiskTier(tmp_path / "tier")
    assert again.bytes_of(origin.url) == 2 * MIB
    with again.copy(origin) as copy:
        assert copy.missing(0) == [0, 3, 4]
        assert copy.read(0, MIB, 2 * MIB) == content[MIB : 3 * MIB]
        assert copy.read(0, 0, 2 * MIB) is None
    again.close()


def test_an_idle_partial_copy_goes_when_room_is_needed(tier):
    with tier.copy(origin_of("broken", 8 * MIB)) as copy:
        copy.write(0, 0, bytes(4 * MIB))
    assert tier.used_bytes() == 4 * MIB
    publish(tier, origin_of("other", 8 * MIB))
    assert tier.used_bytes() == 8 * MIB


WRITER = """
import sys
from test_disk_tier import MIB, content_of, origin_of
from sllm_store.disk_tier import DiskTier
origin = origin_of("killed", 6 * MIB)
tier = DiskTier(sys.argv[1])
held = tier.copy(origin)
copy = held.__enter__()
content = content_of(origin)[0]
copy.write(0, 0, content[:2 * MIB])
copy.sync()
copy.write(0, 2 * MIB, content[2 * MIB:3 * MIB])
print("written", flush=True)
sys.stdin.read()
"""


def test_kill_9_leaves_what_the_journal_says_and_no_lock(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    command = [sys.executable, "-c", WRITER, str(tmp_path / "tier")]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "written\n"
        process.send_signal(signal.SIGKILL)
        process.wait(30)
    tier = DiskTier(tmp_path / "tier")
    origin = origin_of("killed", 6 * MIB)
    with tier.copy(origin) as copy:
        assert copy.missing(0) == [2, 3, 4, 5]
        assert copy.read(0, 0, 2 * MIB) == content_of(origin)[0][: 2 * MIB]
    tier.close()


def test_a_torn_journal_is_believed_up_to_the_tear(tmp_path):
    origin = origin_of("a", 3 * MIB)
    tier = DiskTier(tmp_path / "tier")
    with tier.copy(origin) as copy:
        for span in range(3):
            copy.write(0, span * MIB, bytes(MIB))
            copy.sync()
        journal = copy.folder / JOURNAL_NAME
    assert journal.stat().st_size == 48
    content = bytearray(journal.read_bytes())
    content[20] ^= 1
    journal.write_bytes(content)
    with tier.copy(origin) as copy:
        assert copy.missing(0) == [1, 2]
        copy.write(0, MIB, bytes(MIB))
    with tier.copy(origin) as copy:
        assert copy.missing(0) == [2]
    tier.close()


@given(
    st.lists(st.tuples(*[st.integers(0, 2**32 - 1)] * 3), max_size=20),
    st.integers(0, 15),
)
def test_records_are_read_as_they_were_written(records, torn):
    encoded = encode_records(records)
    assert list(decode_records(encoded)) == records
    assert list(decode_records(encoded + bytes(range(1, 1 + torn)))) == records


def test_a_damaged_record_of_the_origin_is_no_copy(tmp_path):
    origin = origin_of("a", MIB)
    tier = DiskTier(tmp_path / "tier")
    folder = publish(tier, origin)
    tier.close()
    (folder / ".sllm-origin.json").write_text("{}")
    again = DiskTier(tmp_path / "tier")
    assert again.used_bytes() == 0
    assert not folder.exists()
    again.close()


def test_what_was_on_its_way_out_is_removed_at_the_next_start(tmp_path):
    tier = DiskTier(tmp_path / "tier")
    tier.close()
    gone = tmp_path / "tier/partial/a-1.gone"
    gone.mkdir()
    (gone / "model.safetensors").write_bytes(b"1")
    DiskTier(tmp_path / "tier").close()
    assert not gone.exists()


@pytest.mark.parametrize("is_reopened", [False, True])
def test_a_published_copy_with_a_file_cut_is_no_copy(tmp_path, is_reopened):
    tier = DiskTier(tmp_path / "tier")
    origin = origin_of("a", 2 * MIB, MIB)
    folder = publish(tier, origin)
    os.truncate(folder / "model-0.safetensors", MIB)
    if is_reopened:
        tier.close()
        tier = DiskTier(tmp_path / "tier")
        assert not tier.is_published(origin)
    with tier.copy(origin) as copy:
        assert not copy.is_published
        assert copy.missing(0) == [0, 1]
        assert copy.missing(1) == [0]
    assert publish(tier, origin) == folder
    tier.close()


def test_a_repair_leaves_the_time_of_the_file(tier):
    origin = origin_of("a", 2 * MIB)
    path = publish(tier, origin) / "model-0.safetensors"
    os.utime(path, ns=(10**18, 10**18))
    with tier.copy(origin) as copy:
        copy.repair(0, MIB, b"x" * MIB)
    assert path.stat().st_mtime_ns == 10**18
    assert path.read_bytes()[MIB:] == b"x" * MIB


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 6 MiB, where mounting one is allowed."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=6m", "none", str(folder)]
    mounted = subprocess.run(command, check=False, capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting a small file system needs root")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_full_disk_is_a_full_tier_and_what_is_there_stays(small_disk):
    origin = origin_of("a", 5 * MIB)
    tier = DiskTier(small_disk / "tier")
    with tier.copy(origin) as copy:
        copy.write(0, 0, bytes(2 * MIB))
        filler = small_disk / "filler"
        with pytest.raises(OSError, match="No space"):
            filler.write_bytes(bytes(5 * MIB))
        with pytest.raises(OutOfMemoryError, match=r"disk tier is full: cannot write 1048576 bytes.*5242880"):
            copy.write(0, 2 * MIB, bytes(MIB))
        filler.unlink()
        assert copy.read(0, 0, 2 * MIB) == bytes(2 * MIB)
        for span in range(2, 5):
            copy.write(0, span * MIB, bytes(MIB))
        tier.publish(copy)
    tier.close()


def test_room_is_made_on_a_disk_without_a_limit(small_disk):
    tier = DiskTier(small_disk / "tier")
    first = origin_of("first", 4 * MIB)
    publish(tier, first)
    publish(tier, origin_of("second", 4 * MIB))
    assert not tier.is_published(first)
    with pytest.raises(OutOfMemoryError, match="its limit is the disk"):
        publish(tier, origin_of("third", 8 * MIB))
    tier.close()


candidates = st.lists(
    st.builds(
        Candidate,
        st.uuids().map(str),
        st.integers(0, 100),
        st.floats(0, 10, allow_nan=False),
        st.floats(0, 10, allow_nan=False),
    ),
    max_size=12,
)


@given(candidates, st.integers(1, 300))
def test_victims_are_the_least_and_no_more_than_needed(those, needed):
    victims = choose_victims(those, needed)
    total = sum(one.nbytes for one in those)
    if total < needed:
        assert victims == []
        return
    assert sum(one.nbytes for one in victims) >= needed
    assert sum(one.nbytes for one in victims[:-1]) < needed
    kept = [one for one in those if one not in victims]
    assert all(victim.priority <= one.priority for victim in victims for one in kept)


def test_priorities_grow_with_uses_cost_and_time():
    assert priority_of(0.0, 2, 1e-9) > priority_of(0.0, 1, 1e-9)
    assert priority_of(0.0, 1, 2e-9) > priority_of(0.0, 1, 1e-9)
    assert priority_of(1.0, 1, 1e-9) > priority_of(0.0, 9, 1e-9)


@pytest.fixture
def plain(tmp_path):
    data = random.Random(3).randbytes(2 * MIB + 16)
    folder = tmp_path / "plain"
    folder.mkdir()
    write_safetensors(folder / "model.safetensors", {"w": entry("U8", [len(data)], 0, len(data))}, data)
    return folder


def test_crcs_are_known_of_the_very_file(tier, plain):
    checkpoint = open_checkpoint(plain)
    assert tier.known_crcs(checkpoint) == {}
    tier.keep_crcs(checkpoint, 0, [1, 2, 2**32 - 1])
    assert tier.known_crcs(checkpoint) == {0: [1, 2, 2**32 - 1]}
    assert tier.known_crcs(open_checkpoint(plain)) == {0: [1, 2, 2**32 - 1]}
    os.utime(plain / "model.safetensors", ns=(1, 1))
    assert tier.known_crcs(open_checkpoint(plain)) == {}


def test_crcs_are_one_a_span(tier, plain):
    with pytest.raises(InvalidArgumentError, match="has 3 spans"):
        tier.keep_crcs(open_checkpoint(plain), 0, [1, 2])


@pytest.mark.parametrize("damage", [b"", b"1234", bytes(100)])
def test_damaged_crcs_are_none(tier, plain, damage):
    checkpoint = open_checkpoint(plain)
    tier.keep_crcs(checkpoint, 0, [1, 2, 3])
    (kept,) = (Path(tier.path) / "crcs").iterdir()
    content = kept.read_bytes()
    kept.write_bytes(damage)
    assert tier.known_crcs(checkpoint) == {}
    kept.write_bytes(content[:9] + bytes([content[9] ^ 1]) + content[10:])
    assert tier.known_crcs(checkpoint) == {}
    kept.write_bytes(content)
    assert tier.known_crcs(checkpoint) == {0: [1, 2, 3]}


def test_the_oldest_crcs_go(tmp_path, plain):
    crcs = CrcFiles(tmp_path, 3)
    parts = []
    for number in range(5):
        path = plain / f"{number}.safetensors"
        path.write_bytes((plain / "model.safetensors").read_bytes())
        parts.append(open_checkpoint(path).partitions[0])
        crcs.keep(parts[-1], [number] * 3)
        for kept in tmp_path.glob("*.crcs"):
            os.utime(kept, ns=(kept.stat().st_mtime_ns - 10**9,) * 2)
    assert [crcs.known(part) for part in parts] == [None, None, [2] * 3, [3] * 3, [4] * 3]


def test_what_the_operating_system_refuses_is_named(tier):
    origin = origin_of("a", MIB)
    folder = Path(tier.path) / "partial" / key_of(origin)
    folder.mkdir()
    (folder / "model-0.safetensors").symlink_to("/etc/passwd")
    (folder / ".sllm-origin.json").write_bytes(b"")
    with tier.copy(origin) as copy:  # what nobody knows is replaced
        assert copy.missing(0) == [0]
    tier.evict("")
    folder.write_text("a file where a folder should be")
    with pytest.raises((StoreIOError, ConflictError), match="cannot open"):
        tier.copy(origin).__enter__()
