"""Every error this package raises, and the only place where codes of the native core become classes.

    SllmError
    ├── InvalidArgumentError        (ValueError)            an argument makes no sense
    ├── CheckpointNotFoundError     (FileNotFoundError)     no checkpoint at that path
    ├── ModelNotFoundError          (LookupError)           no model of that name
    ├── ConflictError               (FileExistsError)       it exists, or somebody else is at it
    ├── AuthenticationError                                 who are you?
    ├── PermissionDeniedError       (PermissionError)       you may not
    ├── CorruptCheckpointError                              the bytes are not what they should be
    ├── UnsupportedError            (NotImplementedError)   this version, machine or torch cannot
    ├── StoreIOError                (OSError)               the operating system failed to read or write
    ├── OutOfMemoryError            (MemoryError)           a tier is full; the message says which
    ├── QueueFullError                                      try again later
    ├── UnavailableError            (ConnectionError)       the store or the engine is gone
    ├── DeadlineError               (TimeoutError)          it took too long
    ├── DeviceError                                         the device or its driver failed
    ├── CancelledError                                      the caller gave up
    └── InternalError                                       a bug in sllm

Messages name the thing, in lower case, without a full stop. `code` is the native core's name for the class.
"""

from typing import ClassVar


class SllmError(Exception):
    """The root of all errors that sllm raises."""

    code: ClassVar[str] = "internal"


class InvalidArgumentError(SllmError, ValueError):
    code = "invalid"


class CheckpointNotFoundError(SllmError, FileNotFoundError):
    code = "not_found"


class ModelNotFoundError(SllmError, LookupError):
    code = "not_found"


class ConflictError(SllmError, FileExistsError):
    code = "conflict"


class AuthenticationError(SllmError):
    code = "unauthenticated"


class PermissionDeniedError(SllmError, PermissionError):
    code = "forbidden"


class CorruptCheckpointError(SllmError):
    code = "corrupt"


class UnsupportedError(SllmError, NotImplementedError):
    code = "unsupported"


class StoreIOError(SllmError, OSError):
    code = "io"


class OutOfMemoryError(SllmError, MemoryError):
    code = "exhausted"


class QueueFullError(SllmError):
    code = "busy"


class UnavailableError(SllmError, ConnectionError):
    code = "unavailable"


class DeadlineError(SllmError, TimeoutError):
    code = "deadline"


class DeviceError(SllmError):
    code = "device"


class CancelledError(SllmError):
    code = "cancelled"


class InternalError(SllmError):
    code = "internal"


_CLASSES: dict[str, type[SllmError]] = {
    cls.code: cls
    for cls in (
        InvalidArgumentError,
        CheckpointNotFoundError,
        ConflictError,
        AuthenticationError,
        PermissionDeniedError,
        CorruptCheckpointError,
        UnsupportedError,
        StoreIOError,
        OutOfMemoryError,
        QueueFullError,
        UnavailableError,
        DeadlineError,
        DeviceError,
        CancelledError,
        InternalError,
    )
}


def class_of(code: str) -> type[SllmError]:
    """The class that the native core's error code is raised as."""
    return _CLASSES[code]


def from_os_error(error: OSError, failed: str) -> SllmError:
    """Translate what the operating system raised; `failed` says what could not be done."""
    message = f"{failed}: {(error.strerror or str(error)).lower()}"
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return CheckpointNotFoundError(message)
    if isinstance(error, PermissionError):
        return PermissionDeniedError(message)
    if isinstance(error, FileExistsError):
        return ConflictError(message)
    return StoreIOError(message)
