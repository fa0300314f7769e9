"""The border to obstore: each error that it may raise, and the class that it becomes."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from sllm_store.errors import (
    AuthenticationError,
    CheckpointNotFoundError,
    ConflictError,
    DeadlineError,
    InternalError,
    InvalidArgumentError,
    PermissionDeniedError,
    SllmError,
    StoreIOError,
    UnavailableError,
    UnsupportedError,
)

# By name, so that obstore is imported where it is used: the classes of obstore.exceptions, then Python's own that it
# raises as well. GenericError is whatever a server or the way to it did, answers of 5xx among it.
CLASSES: Final[dict[str, type[SllmError]]] = {
    "BaseError": UnavailableError,
    "GenericError": UnavailableError,
    "NotFoundError": CheckpointNotFoundError,
    "InvalidPathError": InvalidArgumentError,
    "JoinError": InternalError,
    "NotSupportedError": UnsupportedError,
    "AlreadyExistsError": ConflictError,
    "PreconditionError": ConflictError,
    "NotModifiedError": ConflictError,
    "PermissionDeniedError": PermissionDeniedError,
    "UnauthenticatedError": AuthenticationError,
    "UnknownConfigurationKeyError": InvalidArgumentError,
    "FileNotFoundError": CheckpointNotFoundError,
    "NotImplementedError": UnsupportedError,
    "TimeoutError": DeadlineError,
    "OSError": UnavailableError,
    "ValueError": InvalidArgumentError,
}

# Errors after which the same request may do better in a while.
PASSING: Final = (UnavailableError, DeadlineError)

_TIMED_OUT: Final = re.compile(r"TimedOut|timed out")
_STATUS: Final = re.compile(r"status code: (\d{3})")
# Of a generic error. 408, 425 and 429 ask for patience; what else is a client's fault stays one.
_PATIENCE: Final = (408, 425, 429)
# Behind this, obstore says the same again, in many lines.
_DEBUG: Final = "Debug source:"
# What may carry a signature or a password.
_SECRET: Final = re.compile(r"(?<=://)[^/@\s\"]+@|\?[^\s\"]+")
_TEXT_LENGTH: Final = 300


def from_obstore(error: Exception, failed: str) -> SllmError:
    """Translate what obstore raised; `failed` says what could not be done.

    A class that nobody knows is an InternalError: it belongs into the table.
    """
    cls = next((CLASSES[base.__name__] for base in type(error).__mro__ if base.__name__ in CLASSES), InternalError)
    whole = str(error)
    if cls is UnavailableError:
        cls = _class_of_failure(whole)
    text = _SECRET.sub("", " ".join(whole.partition(_DEBUG)[0].split()))
    return cls(f"{failed}: {text[:_TEXT_LENGTH]}")


@contextmanager
def obstore_errors(failed: str) -> Iterator[None]:
    """Translate what obstore raises in the block, as from_obstore does; errors of ours pass."""
    from obstore.exceptions import BaseError

    try:
        yield
    except SllmError:
        raise
    except (BaseError, OSError, ValueError, NotImplementedError) as error:
        raise from_obstore(error, failed) from error


def _class_of_failure(text: str) -> type[SllmError]:
    if _TIMED_OUT.search(text):
        return DeadlineError
    status = int(found[1]) if (found := _STATUS.search(text)) else 500
    if status == 404:
        return CheckpointNotFoundError
    return StoreIOError if 400 <= status < 500 and status not in _PATIENCE else UnavailableError
