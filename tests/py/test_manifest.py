"""The manifest proves itself: no changed byte of it is ever believed."""

import pytest

from sllm_store import _core
from sllm_store.errors import CorruptCheckpointError, UnsupportedError
from sllm_store.manifest import SPAN_BYTES, Manifest, ManifestFile, decode_manifest, encode_manifest, span_hex


def manifest(**changes) -> Manifest:
    file = ManifestFile("model.safetensors", SPAN_BYTES + 1, 4096, "00c0ffee", span_hex([1, 0xE3069283]))
    fields = {"format": "sllm-checkpoint", "version": 1, "span_bytes": SPAN_BYTES, "files": (file,)}
    return Manifest(**{**fields, "tied": {"lm_head.weight": "embed.weight"}, **changes})


def sealed(body: bytes) -> bytes:
    return body + f',"crc32c":"{_core.crc32c(body):08x}"}}\n'.encode()


def test_what_is_encoded_is_decoded():
    decoded = decode_manifest(encode_manifest(manifest()), "sllm.json")
    assert decoded == manifest()
    assert list(decoded.files[0].span_crcs()) == [1, 0xE3069283]


def test_every_single_flipped_bit_is_found():
    text = encode_manifest(manifest())
    for index in range(len(text)):
        for bit in range(8):
            spoiled = bytearray(text)
            spoiled[index] ^= 1 << bit
            with pytest.raises(CorruptCheckpointError, match=r"sllm\.json"):
                decode_manifest(bytes(spoiled), "sllm.json")


@pytest.mark.parametrize("length", [0, 1, 22, 23, 100])
def test_a_truncated_manifest_is_found(length):
    with pytest.raises(CorruptCheckpointError):
        decode_manifest(encode_manifest(manifest())[:length], "sllm.json")


def test_a_newer_version_is_refused_by_name_whatever_else_it_says():
    with pytest.raises(UnsupportedError, match=r"version 2.*up to 1"):
        decode_manifest(sealed(b'{"version":2,"something":{"new":true}'), "sllm.json")


BAD = {
    "spans of another size": encode_manifest(manifest(span_bytes=4096)),
    "another format": sealed(b'{"format":"x","version":1,"span_bytes":1048576,"files":[]'),
    "no files": sealed(b'{"format":"sllm-checkpoint","version":1,"span_bytes":1048576'),
    "a field it does not know": sealed(
        b'{"format":"sllm-checkpoint","version":1,"span_bytes":1048576,"files":[],"x":1'
    ),
    "a file twice": encode_manifest(manifest(files=manifest().files * 2)),
    "too few crcs": encode_manifest(
        manifest(files=(ManifestFile("a.safetensors", 3 * SPAN_BYTES, 4096, "00000000", span_hex([1])),))
    ),
    "a path for a name": encode_manifest(
        manifest(files=(ManifestFile("../a.safetensors", 9, 8, "00000000", span_hex([1])),))
    ),
    "no JSON": sealed(b"{"),
}


@pytest.mark.parametrize("name", BAD)
def test_refuses(name):
    with pytest.raises(CorruptCheckpointError, match=r"sllm\.json is not a valid manifest"):
        decode_manifest(BAD[name], "sllm.json")
