import errno
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from sllm_store import publishing
from sllm_store.errors import ConflictError, InvalidArgumentError, PermissionDeniedError, StoreIOError
from sllm_store.publishing import check_destination, publication, resolve_destination

MANIFEST = b'{"format":"sllm-checkpoint","version":1,'


def make_ours(folder: Path, mark: str = "old") -> None:
    folder.mkdir()
    (folder / "sllm.json").write_bytes(MANIFEST)
    (folder / "mark").write_text(mark)


def publish(dst: Path, *, overwrite: bool = False) -> None:
    with publication(dst, overwrite=overwrite) as folder:
        (folder / "mark").write_text("new")
        (folder / "sllm.json").write_bytes(MANIFEST)


def state(dst: Path) -> str | None:
    return (dst / "mark").read_text() if dst.exists() else None


def names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


def test_the_folder_appears_when_the_block_ends(tmp_path: Path) -> None:
    dst = tmp_path / "a" / "b" / "model"
    with publication(dst, overwrite=False) as folder:
        assert folder.parent == dst.parent
        assert not dst.exists()
        (folder / "mark").write_text("new")
    assert state(dst) == "new"
    assert names(dst.parent) == ["model"]


def test_an_empty_folder_is_taken(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    publish(tmp_path / "model")
    assert names(tmp_path) == ["model"]
    assert state(tmp_path / "model") == "new"


def test_a_checkpoint_of_ours_is_replaced_when_asked(tmp_path: Path) -> None:
    dst = tmp_path / "model"
    make_ours(dst)
    with pytest.raises(ConflictError, match="exists and is not empty; hint: --overwrite"):
        publish(dst)
    assert state(dst) == "old"
    publish(dst, overwrite=True)
    assert state(dst) == "new"
    assert names(tmp_path) == ["model"]


def test_what_is_not_ours_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("precious")
    with pytest.raises(ConflictError, match="is not a folder"):
        check_destination(tmp_path / "file", overwrite=True)
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "sllm.json").write_text('{"format": "something else"}')
    with pytest.raises(ConflictError, match="no checkpoint that sllm wrote"):
        check_destination(theirs, overwrite=True)
    make_ours(tmp_path / "mixed")
    (tmp_path / "mixed" / "notes").mkdir()
    with pytest.raises(ConflictError, match="has a folder notes that sllm did not write"):
        check_destination(tmp_path / "mixed", overwrite=True)


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_destination_that_appears_meanwhile_is_kept(tmp_path: Path, *, overwrite: bool) -> None:
    dst = tmp_path / "model"

    def convert() -> None:
        with publication(dst, overwrite=overwrite):
            dst.mkdir()
            (dst / "mark").write_text("theirs")

    with pytest.raises(ConflictError):
        convert()
    assert state(dst) == "theirs"
    assert names(tmp_path) == ["model"]


def test_rename_itself_spares_what_appears_in_the_last_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dst = tmp_path / "model"
    rename = os.rename

    def late(src: Path, target: Path) -> None:
        dst.mkdir()
        (dst / "mark").write_text("theirs")
        rename(src, target)

    monkeypatch.setattr(os, "rename", late)
    with pytest.raises(ConflictError, match="has appeared while"):
        publish(dst)
    assert state(dst) == "theirs"
    assert names(tmp_path) == ["model"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_an_exception_leaves_everything_as_it_was(tmp_path: Path, error: type[BaseException]) -> None:
    dst = tmp_path / "model"
    make_ours(dst)
    before = os.listdir("/proc/self/fd")

    def convert() -> None:
        with publication(dst, overwrite=True) as folder:
            (folder / "part").write_text("half")
            raise error

    with pytest.raises(error):
        convert()
    assert state(dst) == "old"
    assert names(tmp_path) == ["model"]
    assert len(os.listdir("/proc/self/fd")) == len(before)


def test_a_second_conversion_to_the_same_place_fails_at_once(tmp_path: Path) -> None:
    dst = tmp_path / "model"
    with publication(dst, overwrite=False) as folder:
        with pytest.raises(ConflictError, match="another conversion to .*model is running"):
            publish(dst)
        (folder / "mark").write_text("first")
    assert state(dst) == "first"


def test_a_lock_file_that_was_removed_while_we_locked_it_does_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = tmp_path / ".model.sllm-lock"
    flock = publishing.fcntl.flock
    stolen: list[int] = []

    def steal(fd: int, operation: int) -> None:
        flock(fd, operation)
        if not stolen:
            stolen.append(fd)
            lock.unlink()

    monkeypatch.setattr(publishing.fcntl, "flock", steal)
    with publication(tmp_path / "model", overwrite=False):
        assert lock.exists()
    assert names(tmp_path) == ["model"]


def test_a_link_is_followed_and_stays(tmp_path: Path) -> None:
    make_ours(tmp_path / "real")
    (tmp_path / "link").symlink_to("real")
    publish(resolve_destination(tmp_path / "link"), overwrite=True)
    assert (tmp_path / "link").is_symlink()
    assert state(tmp_path / "real") == "new"


def test_a_mount_point_is_refused() -> None:
    with pytest.raises(InvalidArgumentError, match="/proc is a mount point"):
        resolve_destination("/proc")


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOSYS])
def test_without_exchange_two_renames_replace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    monkeypatch.setattr(publishing, "_exchange_code", lambda one, other: code)
    make_ours(tmp_path / "model")
    publish(tmp_path / "model", overwrite=True)
    assert state(tmp_path / "model") == "new"
    assert names(tmp_path) == ["model"]


def test_a_failing_exchange_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publishing, "_exchange_code", lambda one, other: errno.EIO)
    make_ours(tmp_path / "model")
    with pytest.raises(StoreIOError, match="cannot rename .*: input/output error"):
        publish(tmp_path / "model", overwrite=True)
    assert state(tmp_path / "model") == "old"


def test_a_second_rename_that_fails_is_undone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publishing, "_exchange_code", lambda one, other: errno.EINVAL)
    make_ours(tmp_path / "model")
    rename = os.rename

    def fail(src: Path, target: Path) -> None:
        if src.name == ".model.sllm-tmp":
            raise OSError(errno.EIO, "Input/output error")
        rename(src, target)

    monkeypatch.setattr(os, "rename", fail)
    with pytest.raises(StoreIOError, match="input/output error"):
        publish(tmp_path / "model", overwrite=True)
    assert state(tmp_path / "model") == "old"
    assert names(tmp_path) == ["model"]


# Runs one publication and kills itself before the k-th call that changes the file system or waits for the disk.
KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import test_publishing
from sllm_store import publishing
dst, moment, overwrite, code = Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4] == "1", int(sys.argv[5])
if code:
    publishing._exchange_code = lambda one, other: code
calls = 0
def deadly(function):
    def call(*args, **kwargs):
        global calls
        if calls == moment:
            os.kill(os.getpid(), signal.SIGKILL)
        calls += 1
        return function(*args, **kwargs)
    return call
for name in ("mkdir", "rename", "fsync", "unlink", "rmdir", "open"):
    setattr(os, name, deadly(getattr(os, name)))
publishing._exchange_code = deadly(publishing._exchange_code)
publishing.fcntl.flock = deadly(publishing.fcntl.flock)
test_publishing.publish(dst, overwrite=overwrite)
"""


def publish_and_die(dst: Path, moment: int, *, overwrite: bool, code: int) -> bool:
    """Whether the publication lived to its end."""
    arguments = [str(Path(__file__).parent), str(dst), str(moment), str(int(overwrite)), str(code)]
    ran = subprocess.run([sys.executable, "-c", KILLED, *arguments], capture_output=True, text=True, check=False)
    assert ran.returncode in (0, -signal.SIGKILL), ran.stderr
    return ran.returncode == 0


@pytest.mark.parametrize("code", [0, errno.EINVAL], ids=["exchange", "two-renames"])
@pytest.mark.parametrize("before", [None, "old"], ids=["absent", "ours"])
def test_a_kill_at_any_moment_leaves_the_old_or_the_new(tmp_path: Path, before: str | None, code: int) -> None:
    dst = tmp_path / "model"
    seen = set()
    for moment in range(100):
        shutil.rmtree(tmp_path)
        tmp_path.mkdir()
        if before:
            make_ours(dst, before)
        finished = publish_and_die(dst, moment, overwrite=True, code=code)
        if code == 0 or before is None:
            assert state(dst) in (before, "new")
            seen.add(state(dst))
        elif state(dst) is None:
            assert state(tmp_path / ".model.sllm-old") == before
        publish_nothing_after(dst, before)
        if finished:
            break
    assert finished
    assert moment > 8
    assert code or seen == {before, "new"}


def publish_nothing_after(dst: Path, before: str | None) -> None:
    """The next run, though it fails itself, finds the old or the new and cleans up all else."""

    def fail() -> None:
        with publication(dst, overwrite=True):
            raise InterruptedError

    with pytest.raises(InterruptedError):
        fail()
    assert state(dst) in (before, "new")
    assert names(dst.parent) == (["model"] if dst.exists() else [])


NOBODY = """
import os, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import test_publishing
from sllm_store.errors import PermissionDeniedError
if os.getuid() == 0:
    os.setgroups([])
    os.setuid(65534)
try:
    test_publishing.publish(Path(sys.argv[2]))
except PermissionDeniedError as error:
    sys.exit(str(error))
"""


def test_a_parent_without_permission_is_named(tmp_path: Path) -> None:
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(0o755)
    parent = tmp_path / "parent"
    parent.mkdir(mode=0o555)
    dst = parent / "model"
    command = [sys.executable, "-c", NOBODY, str(Path(__file__).parent), str(dst)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.stderr.strip() == f"cannot lock {parent}/.model.sllm-lock: permission denied"
    assert names(parent) == []
    assert issubclass(PermissionDeniedError, PermissionError)
