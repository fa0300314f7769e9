import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from raw_safetensors import Raw, raw, read_folder, write

from sllm_store import convert
from sllm_store.checking import verify_checkpoint
from sllm_store.errors import ConflictError, CorruptCheckpointError, PermissionDeniedError

MIB = 1 << 20
HERE = str(Path(__file__).parent)


def source_of(folder: Path, seed: int = 0) -> dict[str, Raw]:
    folder.mkdir()
    data = bytes((seed + i) % 251 for i in range(3 * MIB + 10))
    tensors = {"a": Raw("U8", [len(data)], data), "b": raw("F32", [7], seed), "c": raw("BF16", [600, 1024], seed)}
    write(folder / "model.safetensors", tensors)
    (folder / "config.json").write_text("{}")
    return tensors


def run(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code, HERE, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


# Converts with files limited to so many bytes; with a limit of 0, on a disk whose free space nobody asks for.
FULL = """
import resource, signal, sys
from sllm_store import convert, converting
from sllm_store.errors import StoreIOError
if limit := int(sys.argv[4]):
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
else:
    converting.check_free_space = lambda folder, needed_bytes: None
try:
    convert(sys.argv[2], sys.argv[3], overwrite=True)
except StoreIOError as error:
    sys.exit(str(error))
"""


@pytest.mark.parametrize("is_replacing", [False, True])
def test_a_file_that_cannot_grow_leaves_the_destination_as_it_was(tmp_path: Path, *, is_replacing: bool) -> None:
    old = source_of(tmp_path / "old", 1)
    source_of(tmp_path / "src", 2)
    if is_replacing:
        convert(tmp_path / "old", tmp_path / "dst")
    ran = run(FULL, tmp_path / "src", tmp_path / "dst", 2 * MIB)
    assert ran.stderr.strip() == f"cannot write {tmp_path}/.dst.sllm-tmp/model.safetensors: file too large"
    assert sorted(path.name for path in tmp_path.iterdir()) == (["dst"] if is_replacing else []) + ["old", "src"]
    if is_replacing:
        assert read_folder(tmp_path / "dst") == old


@pytest.mark.skipif(os.getuid() != 0, reason="only root may mount")
def test_a_full_disk_is_named_and_leaves_nothing_behind(tmp_path: Path) -> None:
    source_of(tmp_path / "src")
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", disk], check=False)
    if mounted.returncode != 0:
        pytest.skip("this machine allows no mounts")
    try:
        ran = run(FULL, tmp_path / "src", disk / "dst", 1 << 40)
        assert re.search(r"has \d+ bytes free, the checkpoint needs \d+$", ran.stderr.strip())
        ran = run(FULL, tmp_path / "src", disk / "dst", 0)
        expected = f"cannot write {disk}/.dst.sllm-tmp/model.safetensors: no space left on device"
        assert ran.stderr.strip() == expected
        assert list(disk.iterdir()) == []
    finally:
        subprocess.run(["umount", disk], check=True)


# Converts, and kills itself before the k-th call of any of these.
KILLED = """
import os, signal, sys
from sllm_store import convert, converting, publishing, writing
moment = int(sys.argv[4])
calls = 0
def deadly(function):
    def call(*args, **kwargs):
        global calls
        if calls == moment:
            os.kill(os.getpid(), signal.SIGKILL)
        calls += 1
        return function(*args, **kwargs)
    return call
for name in ("mkdir", "rename", "fsync", "unlink", "rmdir", "preadv"):
    setattr(os, name, deadly(getattr(os, name)))
publishing._exchange_code = deadly(publishing._exchange_code)
writing._write_all = deadly(writing._write_all)
writing.shutil.copyfile = deadly(writing.shutil.copyfile)
convert(sys.argv[2], sys.argv[3], overwrite=True)
"""


@pytest.mark.parametrize("is_replacing", [False, True])
def test_a_kill_at_any_moment_leaves_the_old_or_the_new_whole(tmp_path: Path, *, is_replacing: bool) -> None:
    old = source_of(tmp_path / "old", 1)
    tensors = source_of(tmp_path / "src", 2)
    dst = tmp_path / "dst"
    seen = []
    for moment in range(100):
        if is_replacing:
            convert(tmp_path / "old", dst, overwrite=True)
        ran = run(KILLED, tmp_path / "src", dst, moment)
        assert ran.returncode in (0, -signal.SIGKILL), ran.stderr
        found = read_folder(dst) if dst.exists() else None
        assert found in (tensors, old if is_replacing else None)
        assert found is None or verify_checkpoint(dst).bad == ()
        seen.append(found == tensors)
        if ran.returncode == 0:
            break
        if not is_replacing and dst.exists():
            break
    assert seen[0] is False
    assert seen[-1] is True
    assert len(seen) > 15
    convert(tmp_path / "src", dst, overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dst", "old", "src"]


HOLDER = """
import sys
from sllm_store import convert
def wait(done, total):
    sys.stdout.write("going\\n")
    sys.stdout.flush()
    sys.stdin.readline()
convert(sys.argv[2], sys.argv[3], on_progress=wait)
"""


def test_a_second_conversion_of_another_process_fails_at_once_and_the_first_succeeds(tmp_path: Path) -> None:
    tensors = source_of(tmp_path / "src")
    command = [sys.executable, "-c", HOLDER, HERE, str(tmp_path / "src"), str(tmp_path / "dst")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "going\n"
        with pytest.raises(ConflictError, match="another conversion to .*dst is running"):
            convert(tmp_path / "src", tmp_path / "dst")
        first.communicate("\n" * 10)
        assert first.returncode == 0
    assert read_folder(tmp_path / "dst") == tensors


INTERRUPTED = """
import os, signal, sys
from sllm_store import convert
# A runner may have started us with the signal ignored, as shells do in the background.
signal.signal(signal.SIGINT, signal.default_int_handler)
try:
    convert(sys.argv[2], sys.argv[3], on_progress=lambda done, total: os.kill(os.getpid(), signal.SIGINT))
except KeyboardInterrupt:
    sys.exit("interrupted")
"""


def test_an_interrupt_leaves_nothing_behind(tmp_path: Path) -> None:
    source_of(tmp_path / "src")
    ran = run(INTERRUPTED, tmp_path / "src", tmp_path / "dst")
    assert ran.stderr.strip() == "interrupted"
    assert [path.name for path in tmp_path.iterdir()] == ["src"]


@pytest.mark.parametrize("span", [0, 1, 3, 4])
def test_damage_in_a_converted_source_is_found_where_it_is(tmp_path: Path, span: int) -> None:
    source_of(tmp_path / "src")
    convert(tmp_path / "src", tmp_path / "one")
    path = tmp_path / "one" / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[span * MIB + 5000] ^= 1
    path.write_bytes(content)
    with pytest.raises(CorruptCheckpointError, match=rf"one/model\.safetensors is damaged: the crc32c of span {span},"):
        convert(tmp_path / "one", tmp_path / "two")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "src"]


def test_a_truncated_source_is_refused(tmp_path: Path) -> None:
    source_of(tmp_path / "src")
    os.truncate(tmp_path / "src" / "model.safetensors", 2 * MIB)
    with pytest.raises(CorruptCheckpointError, match="truncated"):
        convert(tmp_path / "src", tmp_path / "dst")


def test_a_source_that_shrinks_while_it_is_read_is_refused(tmp_path: Path) -> None:
    data = bytes(40 * MIB)
    write(tmp_path / "one.safetensors", {"a": Raw("U8", [len(data)], data)})

    def shrink(done: int, total: int) -> None:
        os.truncate(tmp_path / "one.safetensors", 20 * MIB)

    with pytest.raises(CorruptCheckpointError, match="was truncated at 20971520 while it was read"):
        convert(tmp_path / "one.safetensors", tmp_path / "dst", on_progress=shrink)
    assert [path.name for path in tmp_path.iterdir()] == ["one.safetensors"]


NOBODY = """
import os, shutil, sys
from sllm_store import convert
from sllm_store.errors import PermissionDeniedError
if os.getuid() == 0:
    # Imports everything, before the package itself may not be read any more.
    convert(sys.argv[2], sys.argv[3])
    shutil.rmtree(sys.argv[3])
    os.setgroups([])
    os.setuid(65534)
try:
    convert(sys.argv[2], sys.argv[3])
except PermissionDeniedError as error:
    sys.exit(str(error))
"""


@pytest.mark.parametrize("denied", ["model.safetensors", "config.json"])
def test_files_that_may_not_be_read_are_named(tmp_path: Path, denied: str) -> None:
    source_of(tmp_path / "src")
    for folder in tmp_path.parents[:2]:
        folder.chmod(0o755)
    tmp_path.chmod(0o777)
    (tmp_path / "src").chmod(0o755)
    (tmp_path / "src" / denied).chmod(0)
    ran = run(NOBODY, tmp_path / "src", tmp_path / "dst")
    assert re.fullmatch(
        rf"cannot (open|copy) {tmp_path}/src/{re.escape(denied)}: permission denied", ran.stderr.strip()
    )
    assert [path.name for path in tmp_path.iterdir()] == ["src"]
    assert issubclass(PermissionDeniedError, PermissionError)
