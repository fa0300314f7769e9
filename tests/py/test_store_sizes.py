"""How large a pool may be, on machines that are trees of a few files."""

from pathlib import Path

import pytest

from sllm_store.errors import OutOfMemoryError, StoreIOError
from sllm_store.pool_sizes import RESERVED_BYTES, MemoryLimit, check_pool, default_pool_bytes, memory_limit

GIB = 1 << 30


@pytest.fixture
def machine(tmp_path):
    """A machine of 64 GiB; gives a function that writes further files of it."""

    def write(files: dict[str, str]) -> Path:
        for name, text in {"proc/meminfo": "MemTotal:       67108864 kB\nMemFree: 1 kB\n", **files}.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tmp_path

    return write


def test_without_groups_the_machine_is_the_limit(machine):
    assert memory_limit(machine({})) == MemoryLimit(64 * GIB, "the machine's memory")


def test_of_version_2_the_least_limit_up_the_tree_counts(machine):
    tree = {
        "proc/self/cgroup": "0::/a/b/c\n",
        "sys/fs/cgroup/a/memory.max": f"{8 * GIB}\n",
        "sys/fs/cgroup/a/b/memory.max": f"{4 * GIB}\n",
        "sys/fs/cgroup/a/b/c/memory.max": "max\n",
    }
    limit = memory_limit(machine(tree))
    assert (limit.nbytes, limit.origin.endswith("a/b/memory.max")) == (4 * GIB, True)


def test_of_version_1_as_well_and_no_limit_is_none(machine):
    none = "9223372036854771712\n"
    tree = {
        "proc/self/cgroup": "9:cpu,cpuacct:/x\n5:memory:/docker/id\n0::/\n",
        "sys/fs/cgroup/memory/memory.limit_in_bytes": none,
    }
    assert memory_limit(machine(tree)).nbytes == 64 * GIB
    # A container sees its own group as the mount's root, under the host's name.
    tree["sys/fs/cgroup/memory/memory.limit_in_bytes"] = str(2 * GIB)
    assert memory_limit(machine(tree)).nbytes == 2 * GIB


def test_a_path_out_of_the_namespace_leads_nowhere(machine):
    tree = {"proc/self/cgroup": "0::/../../etc\n", "etc/memory.max": "1\n", "sys/fs/cgroup/memory.max": str(GIB)}
    assert memory_limit(machine(tree)).nbytes == GIB


def test_a_group_can_allow_more_than_there_is(machine):
    tree = {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": str(99 * GIB)}
    assert memory_limit(machine(tree)).nbytes == 64 * GIB


def test_no_meminfo_is_an_error(tmp_path):
    with pytest.raises(StoreIOError, match="how much memory"):
        memory_limit(tmp_path)


def test_this_machine_has_some(tmp_path):
    assert memory_limit().nbytes > 0


def test_the_default_pool_is_half_of_it_in_whole_chunks():
    chunk = 4 << 20
    assert default_pool_bytes(MemoryLimit(8 * GIB + 12345, ""), chunk) == 4 * GIB
    assert default_pool_bytes(MemoryLimit(1, ""), chunk) == chunk


def test_a_pool_over_the_limit_names_both():
    limit = MemoryLimit(GIB, "the limit in /sys/fs/cgroup/memory.max")
    check_pool(GIB - RESERVED_BYTES, limit)
    with pytest.raises(OutOfMemoryError, match=rf"{GIB - RESERVED_BYTES + 1} bytes.*{GIB} bytes of the limit in /sys"):
        check_pool(GIB - RESERVED_BYTES + 1, limit)
