"""`sllm.json`, the proof of a converted checkpoint: files, sizes and a CRC32C for every span of them.

The last bytes of the file are the CRC32C of all bytes before them, so a damaged manifest is never believed
(docs/format.md, "The manifest").
"""

import array
import re
import sys
from typing import Annotated, Final, Literal

import msgspec

from sllm_store import _core
from sllm_store.errors import CorruptCheckpointError, UnsupportedError

MANIFEST_NAME: Final = "sllm.json"
FORMAT_VERSION: Final = 1
SPAN_BYTES: Final = 1 << 20
MAX_MANIFEST_BYTES: Final = 1 << 30

_TRAILER: Final = re.compile(rb',"crc32c":"([0-9a-f]{8})"}\n\Z')
_TRAILER_BYTES: Final = len(b',"crc32c":"00000000"}\n')

_Hex = Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]*\Z")]
_FileName = Annotated[str, msgspec.Meta(pattern=r"\A[^/\x00]+\.safetensors\Z")]


class ManifestFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One partition: its size, where its data begins, and its CRCs as eight hexadecimal digits a span."""

    name: _FileName
    bytes: Annotated[int, msgspec.Meta(ge=8)]
    header_bytes: Annotated[int, msgspec.Meta(ge=8)]
    header_crc32c: Annotated[_Hex, msgspec.Meta(min_length=8, max_length=8)]
    spans_crc32c: _Hex

    def span_crcs(self) -> "array.array[int]":
        """The CRC32C of each span, in file order."""
        crcs = array.array("I", bytes.fromhex(self.spans_crc32c))
        if sys.byteorder == "little":
            crcs.byteswap()
        return crcs


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What `sllm.json` says. `tied` maps a name that is not stored to the stored one whose bytes it shares."""

    format: Literal["sllm-checkpoint"]
    version: int
    span_bytes: int
    files: tuple[ManifestFile, ...]
    tied: dict[str, str] = {}
    created_by: str = ""


class _Versioned(msgspec.Struct):
    version: int


def span_hex(crcs: list[int]) -> str:
    """Span CRCs as a manifest holds them."""
    return "".join(f"{crc:08x}" for crc in crcs)


def encode_manifest(manifest: Manifest) -> bytes:
    """The bytes of `sllm.json`, its own CRC32C last."""
    body = msgspec.json.encode(manifest)[:-1]
    return body + f',"crc32c":"{_core.crc32c(body):08x}"}}\n'.encode()


def decode_manifest(text: bytes, origin: str) -> Manifest:
    """A valid manifest. `origin` names it in errors.

    Raises CorruptCheckpointError if a byte of it changed, UnsupportedError if a newer sllm wrote it.
    """
    trailer = _TRAILER.search(text[-_TRAILER_BYTES:])
    body = text[:-_TRAILER_BYTES]
    if trailer is None or int(trailer[1], 16) != _core.crc32c(body):
        raise CorruptCheckpointError(f"{origin} is damaged: its crc32c does not match; convert the checkpoint again")
    try:
        version = msgspec.json.decode(body + b"}", type=_Versioned).version
        if version > FORMAT_VERSION:
            raise UnsupportedError(
                f"{origin} has format version {version}, this sllm reads up to {FORMAT_VERSION}; install a newer sllm"
            )
        manifest = msgspec.json.decode(body + b"}", type=Manifest)
        _check(manifest)
    except ValueError as error:
        raise CorruptCheckpointError(f"{origin} is not a valid manifest: {error}") from error
    return manifest


def _check(manifest: Manifest) -> None:
    if manifest.span_bytes != SPAN_BYTES:
        raise ValueError(f"spans of {manifest.span_bytes} bytes, format {FORMAT_VERSION} has {SPAN_BYTES}")
    names = [file.name for file in manifest.files]
    if len(set(names)) != len(names):
        raise ValueError("a file is listed twice")
    for file in manifest.files:
        spans = -(-file.bytes // SPAN_BYTES)
        if len(file.spans_crc32c) != 8 * spans:
            raise ValueError(
                f"{file.name} has {len(file.spans_crc32c)} digits of crc32c, {spans} spans need {8 * spans}"
            )
