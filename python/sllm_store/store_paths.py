"""Where the store's socket is, and whose sockets are trusted."""

import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from sllm_store.errors import ConflictError, PermissionDeniedError, from_os_error

ENVIRONMENT: Final = "SLLM_STORE"
_SYSTEM_SOCKET: Final = Path("/run/sllm/store.sock")


def socket_paths(environment: Mapping[str, str] = os.environ) -> list[Path]:
    """Where a socket is looked for, in this order; a daemon makes the first one."""
    if named := environment.get(ENVIRONMENT):
        return [Path(named)]
    runtime = environment.get("XDG_RUNTIME_DIR")
    own = [Path(runtime) / "sllm" / "store.sock"] if runtime else []
    return [*own, _SYSTEM_SOCKET]


def is_url(path: str) -> bool:
    """Whether a checkpoint's path names something that is not in the file system."""
    return "://" in path


def is_trusted_uid(uid: int) -> bool:
    """Whether a store of that user's may give us bytes: ours, or root's."""
    return uid in (0, os.geteuid())


def check_socket(path: Path) -> None:
    """Raise CheckpointNotFoundError where nothing is there, ConflictError for what is no socket, and
    PermissionDeniedError for the socket of somebody who is not trusted."""
    try:
        status = path.stat()
    except OSError as error:
        raise from_os_error(error, f"cannot find the store's socket {path}") from error
    if not stat.S_ISSOCK(status.st_mode):
        raise ConflictError(f"{path} is no socket")
    if not is_trusted_uid(status.st_uid):
        raise PermissionDeniedError(
            f"the store's socket {path} belongs to uid {status.st_uid}, which is neither ours nor root's"
        )
