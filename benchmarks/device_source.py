"""One checkpoint's way onto one device through the native core, with its parts apart: reading, and copying."""

from pathlib import Path
from typing import Any

from device_checkpoint import DeviceFiles
from device_digests import digest_by, fault_of

from sllm_store import _core
from sllm_store.checkpoint import open_checkpoint
from sllm_store.plan import BLOCK_BYTES, Extent, Targets, make_plan, round_up
from sllm_store.reading import is_main_thread, native_files, native_plan


class _Part:
    """A tensor's bytes in a device buffer, without torch."""

    def __init__(self, buffer: _core.DeviceBuffer, place: tuple[int, int]) -> None:
        self._buffer = buffer
        self._offset, self._nbytes = place

    def copy_to_host(self) -> bytearray:
        """The bytes, copied."""
        copied = bytearray(self._nbytes)
        self._buffer.copy_to_host(self._offset, copied)
        return copied


class Source:
    """A checkpoint in one file, host memory that can hold the file, and device memory for them."""

    def __init__(self, files: DeviceFiles, device: str) -> None:
        self.files = files
        self.checkpoint = open_checkpoint(files.folder)
        self.device = _core.find_device(device)
        self._onto_device = make_plan(self.checkpoint, self.checkpoint.names(), Targets((device,)))
        self.host = _core.HostBuffer(round_up(Path(files.safetensors).stat().st_size, BLOCK_BYTES))
        self.target = self.device.allocate(self._onto_device.target_bytes[0])

    @property
    def names(self) -> list[str]:
        """Every tensor's, in the order of their bytes."""
        return list(self._onto_device.places)

    def read(self, options: _core.LoadOptions) -> dict[str, Any]:
        """All tensors into host memory, unverified, as they lie in the file."""
        return self._read(list(self._onto_device.extents), options)

    def read_alone(self, name: str, options: _core.LoadOptions) -> None:
        """One tensor into host memory, likewise."""
        self._read([self._extent(name)], options)

    def copy_alone(self, name: str, options: _core.LoadOptions) -> None:
        """One tensor out of host memory onto the device."""
        self._copy([self._extent(name)], options)

    def copy(self, options: _core.LoadOptions) -> dict[str, Any]:
        """All tensors from host memory that has the file, onto the device."""
        return self._copy(list(self._onto_device.extents), options)

    def load(self, options: _core.LoadOptions, *, verify: bool) -> dict[str, Any]:
        """All tensors from the drive onto the device."""
        return _load(native_plan(self.checkpoint, self._onto_device, verify=verify), self.target, options)

    def fault(self) -> str:
        """What is wrong with what lies on the device, or nothing."""
        places = {
            name: (place.offset, self.checkpoint.locate(name).tensor.nbytes)
            for name, place in self._onto_device.places.items()
        }
        if self.files.digest_kind == "crc32c":
            tensors: dict[str, Any] = {name: _Part(self.target, place) for name, place in places.items()}
        else:
            tensors = self._torch_parts(places)
        return fault_of(tensors, self.files.reference(), digest_by(self.files.digest_kind))

    def wipe(self) -> None:
        """Leave nothing on the device that a later load could be taken to have brought."""
        if self.files.digest_kind == "lanes":
            self._torch_parts({"all": (0, len(self.target))})["all"].zero_()
            import torch

            torch.cuda.synchronize()

    def _torch_parts(self, places: dict[str, tuple[int, int]]) -> dict[str, Any]:
        from torch.utils.dlpack import from_dlpack

        offsets, sizes = zip(*places.values(), strict=True)
        capsules = self.target.export_bytes(offsets, [(size,) for size in sizes])
        return dict(zip(places, map(from_dlpack, capsules), strict=True))

    def _extent(self, name: str) -> Extent:
        location = self.checkpoint.locate(name)
        return Extent(0, location.offset, location.tensor.nbytes, 0, self._onto_device.places[name].offset)

    def _read(self, extents: list[Extent], options: _core.LoadOptions) -> dict[str, Any]:
        files = native_files(self.checkpoint.partitions, verify=False)
        as_in_file = [extent._replace(destination=extent.offset) for extent in extents]
        return _load(_core.LoadPlan(files, as_in_file, [len(self.host)]), self.host, options)

    def _copy(self, extents: list[Extent], options: _core.LoadOptions) -> dict[str, Any]:
        (file,) = native_files(self.checkpoint.partitions, verify=False)
        plan = _core.LoadPlan([(*file, self.host)], extents, self._onto_device.target_bytes)
        return _load(plan, self.target, options)


def _load(
    plan: _core.LoadPlan, memory: _core.HostBuffer | _core.DeviceBuffer, options: _core.LoadOptions
) -> dict[str, Any]:
    return _core.load(plan, [memory], options, _core.StopFlag(), is_main_thread())
