"""Checksums of tensors on a device, without a trip over the link where torch can compute there.

`lanes`: a tensor's bytes as 64-bit integers, each mixed with its place, summed modulo 2**64. The mixing is one-to-one,
so that one wrong lane is always noticed, and others but for one case in 2**64 of those that did not aim at it.
`crc32c`: what the native core computes, of bytes that were copied back.
"""

from collections.abc import Callable, Mapping
from typing import Any

from sllm_store import _core

_PLACE, _MIX = 0x9E3779B97F4A7C15 - (1 << 64), 0xBF58476D1CE4E5B9 - (1 << 64)  # odd; as signed integers
_SHIFT = 31
_KINDS = ("lanes", "crc32c")

Digest = Callable[[Any], int]


def digest_by(kind: str) -> Digest:
    """The function of a tensor: torch's for lanes, one of ours for crc32c."""
    return {"lanes": lanes, "crc32c": lambda tensor: _core.crc32c(tensor.copy_to_host())}[kind]


def of_host_bytes(data: bytearray, *, with_lanes: bool) -> dict[str, int]:
    """Every kind of digest of bytes in host memory; lanes need torch."""
    digests = {"crc32c": _core.crc32c(data)}
    if with_lanes:
        import torch

        digests["lanes"] = lanes(torch.frombuffer(data, dtype=torch.uint8))
    return digests


def lanes(tensor: Any) -> int:
    """The digest of a torch tensor, computed on its device."""
    import torch

    data = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
    padded = torch.zeros(-(-data.numel() // 8) * 8, dtype=torch.uint8, device=data.device)
    padded[: data.numel()].copy_(data)
    mixed = padded.view(torch.int64)
    mixed.bitwise_xor_(torch.arange(1, mixed.numel() + 1, device=data.device).mul_(_PLACE)).mul_(_MIX)
    # torch shifts arithmetically: without the mask the sign would be lost, and with it one-to-one.
    mixed.bitwise_xor_((mixed >> _SHIFT).bitwise_and_((1 << (64 - _SHIFT)) - 1)).mul_(_PLACE)
    return int(mixed.sum())


def fault_of(tensors: Mapping[str, Any], reference: Mapping[str, int], digest: Digest) -> str:
    """What is wrong with tensors that a loader gave, or nothing."""
    missing = sorted(reference.keys() - tensors.keys())
    if missing:
        return f"{len(missing)} tensors are missing, {missing[0]} first"
    wrong = [name for name, tensor in tensors.items() if name in reference and digest(tensor) != reference[name]]
    return f"{len(wrong)} tensors differ, {wrong[0]} first" if wrong else ""
