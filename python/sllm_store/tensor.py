"""`Tensor`: one tensor of a load as its own memory, for every library that speaks DLPack."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from sllm_store import _core
from sllm_store.errors import UnsupportedError

if TYPE_CHECKING:
    from sllm_store.reading import Buffer, Loaded

_CPU: Final = 1  # DLDeviceType
_CUDA: Final = 2

# DLDataTypeCode and bits (dlpack.h, version 1.1). What packs several elements into a byte has no dense form there.
_DLPACK_TYPES: Final = {
    "BOOL": (6, 8),
    "U8": (1, 8),
    "I8": (0, 8),
    "I16": (0, 16),
    "U16": (1, 16),
    "F16": (2, 16),
    "BF16": (4, 16),
    "I32": (0, 32),
    "U32": (1, 32),
    "F32": (2, 32),
    "C64": (5, 64),
    "F64": (2, 64),
    "I64": (0, 64),
    "U64": (1, 64),
}
_SINCE_1_1: Final = {
    "F8_E4M3": (10, 8),
    "F8_E4M3FNUZ": (11, 8),
    "F8_E5M2": (12, 8),
    "F8_E5M2FNUZ": (13, 8),
    "F8_E8M0": (14, 8),
}


@dataclass(frozen=True, slots=True, eq=False)
class Tensor:
    """A dense tensor in memory that a load filled, kept alive by it and by whoever imported it.

    `dtype` is safetensors' name ("BF16"), `device` ours ("cpu", "cuda:0"). Import it with `torch.from_dlpack`,
    `cupy.from_dlpack`, or, on the host, `numpy.from_dlpack`; the importer shares the memory.
    """

    dtype: str
    shape: tuple[int, ...]
    nbytes: int
    device: str
    _buffer: "Buffer" = field(repr=False)
    _offset: int = field(repr=False)

    def __dlpack__(
        self,
        *,
        stream: object = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> object:
        """A capsule, as the array API standard has it.

        stream: the consumer's. Nothing has to wait: a load returns when its last copy is over, whatever the stream.
        Raises BufferError for a copy, another device than the tensor's, or a dtype that DLPack of this version lacks.
        """
        if copy:
            raise BufferError("a tensor of a load is shared, never copied")
        if dl_device is not None and dl_device != self.__dlpack_device__():
            raise BufferError(f"the tensor is on {self.device}, not on DLPack's device {dl_device}")
        if self.device == "cpu" and stream is not None:
            raise BufferError("a tensor in host memory has no stream")
        element = _DLPACK_TYPES.get(self.dtype)
        if element is None and max_version is not None and tuple(max_version) >= (1, 1):
            element = _SINCE_1_1.get(self.dtype)
        if element is None:
            raise BufferError(f"DLPack has no {self.dtype} before version 1.1, or none at all; load it raw")
        is_versioned = max_version is not None and tuple(max_version) >= (1, 0)
        return self._buffer.export_tensor(self._offset, element, list(self.shape), is_versioned)

    def __dlpack_device__(self) -> tuple[int, int]:
        """DLPack's kind and number of the device."""
        if isinstance(self._buffer, _core.DeviceBuffer):
            return _CUDA, self._buffer.device.ordinal
        return _CPU, 0

    def copy_to_host(self) -> bytearray:
        """The tensor's bytes, copied. Raises DeviceError."""
        copied = bytearray(self.nbytes)
        if not isinstance(self._buffer, _core.DeviceBuffer):
            copied[:] = memoryview(self._buffer)[self._offset : self._offset + self.nbytes]
        elif copied:
            self._buffer.copy_to_host(self._offset, copied)
        return copied


def to_tensors(loaded: "Loaded", *, raw: bool) -> dict[str, Tensor]:
    """A tensor for each name, on memory that the buffers share with it; tied names get the same memory."""
    tensors = {}
    for name in loaded.names:
        stored = loaded.tensor(name)
        place = loaded.plan.places[stored.name]
        buffer = loaded.buffers[place.target]
        dtype, shape = ("U8", (stored.nbytes,)) if raw else (stored.dtype, stored.shape)
        tensors[name] = Tensor(dtype, shape, stored.nbytes, device_of_buffer(buffer), buffer, place.offset)
    return tensors


def device_of_buffer(buffer: "Buffer") -> str:
    """Our name of the device that a buffer lies on."""
    return buffer.device.name if isinstance(buffer, _core.DeviceBuffer) else "cpu"


def check_framework(framework: object) -> None:
    """Raise UnsupportedError for one that no tensors are made for."""
    if framework not in (None, "torch"):
        raise UnsupportedError(f"no tensors for framework {framework!r}; hint: 'torch', or None for DLPack's")
