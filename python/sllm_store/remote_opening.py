"""Opening a checkpoint at a URL: which objects it is made of, its headers, its manifest; no tensor's byte is fetched.

Buckets are listed. Web servers are not: there the manifest or the index names the partitions, and of the files beside
them those are found that have one of the usual names.
"""

import asyncio
import hashlib
from collections.abc import Coroutine, Iterable, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

from sllm_store.checkpoint import Checkpoint, FileHead, Identity, check_size, make_checkpoint
from sllm_store.disk_copy import Origin, OriginFile
from sllm_store.errors import CheckpointNotFoundError, CorruptCheckpointError
from sllm_store.header import LENGTH_BYTES, header_length
from sllm_store.manifest import MANIFEST_NAME, MAX_MANIFEST_BYTES, Manifest, ManifestFile, decode_manifest
from sllm_store.remote_objects import RemoteFolder, RemoteObject
from sllm_store.sources.folder import is_companion
from sllm_store.weight_files import INDEX_SUFFIX, STEMS, Index, choose_weights, decode_index

MAX_INDEX_BYTES: Final = 1 << 28
# A file beside the weights that is larger is none that a model is started with.
MAX_COMPANION_BYTES: Final = 1 << 28
HEAD_BYTES: Final = 1 << 16

# What lies beside weights on the Hugging Face hub, for servers that cannot be asked.
COMPANION_NAMES: Final = (
    "adapter_config.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "config.json",
    "generation_config.json",
    "merges.txt",
    "model_index.json",
    "preprocessor_config.json",
    "processor_config.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "video_preprocessor_config.json",
    "vocab.json",
    "vocab.txt",
)

_T = TypeVar("_T")


class RemoteCheckpoint(NamedTuple):
    """A checkpoint at a URL. `objects` are its partitions in their order, then the files beside them; `texts` are those
    of them that opening it has read already."""

    url: str
    checkpoint: Checkpoint
    objects: tuple[RemoteObject, ...]
    heads: tuple[FileHead, ...]
    manifest: bytes
    texts: dict[str, bytes]

    def origin(self) -> Origin:
        """What its copy on the disk is a copy of."""
        files = [OriginFile(one.name, one.nbytes, one.version) for one in self.objects]
        return Origin(self.url, files)


class _Names(NamedTuple):
    """What makes up a checkpoint: the partitions' names and what is known of each, and the text that says so."""

    partitions: list[str]
    proofs: Sequence[ManifestFile | None]
    manifest: bytes
    listing: Index | None
    texts: dict[str, bytes]


async def open_folder(folder: RemoteFolder) -> RemoteCheckpoint:
    """Raises what open_checkpoint raises, and what the server's answers become (remote_objects.py)."""
    if folder.url.file:
        names = _Names([folder.url.file], [None], b"", None, {})
        present = await _probe(folder, names.partitions)
    else:
        present = await (folder.listing() if folder.url.can_list else _probe(folder, _usual_names()))
        names = await _choose(folder, present)
    found = await _all(_find(folder, name, present) for name in names.partitions)
    heads = await _all(_read_head(folder, *pair) for pair in zip(found, names.proofs, strict=True))
    checkpoint = make_checkpoint(folder.url.url, heads, names.manifest, names.listing)
    beside = [present[name] for name in sorted(present) if _is_beside(present[name], names)]
    beside = [] if folder.url.file else beside
    return RemoteCheckpoint(folder.url.url, checkpoint, (*found, *beside), tuple(heads), names.manifest, names.texts)


async def _choose(folder: RemoteFolder, present: dict[str, RemoteObject]) -> _Names:
    if MANIFEST_NAME in present:
        text = await folder.read_whole(present[MANIFEST_NAME], MAX_MANIFEST_BYTES)
        manifest: Manifest = decode_manifest(text, folder.origin(MANIFEST_NAME))
        names = [file.name for file in manifest.files]
        return _Names(names, manifest.files, text, None, {MANIFEST_NAME: text})
    chosen = choose_weights(folder.url.folder, sorted(name for name in present if not name.startswith(".")))
    if not chosen.endswith(INDEX_SUFFIX):
        return _Names([chosen], [None], b"", None, {})
    text = await folder.read_whole(present[chosen], MAX_INDEX_BYTES)
    index = decode_index(text, Path(folder.origin(chosen)))
    names = [path.name for path in index.files]
    return _Names(names, [None] * len(names), b"", index, {chosen: text})


async def _find(folder: RemoteFolder, name: str, present: dict[str, RemoteObject]) -> RemoteObject:
    # A listing's word is enough for the files beside the weights; these are asked for, which gives the etag as answers
    # have it.
    known = present.get(name)
    found = known if known and not folder.url.can_list else await folder.stat(name)
    if found is None and folder.url.file:
        raise CheckpointNotFoundError(f"{folder.origin(name)} is not there, or may not be seen")
    if found is None:
        raise CorruptCheckpointError(f"{folder.origin(name)} is missing: its checkpoint is incomplete")
    return found


async def _read_head(folder: RemoteFolder, found: RemoteObject, proof: ManifestFile | None) -> FileHead:
    origin = folder.origin(found.name)
    check_size(found.nbytes, proof, origin)
    first = bytes(await folder.read_range(found, 0, min(found.nbytes, proof.header_bytes if proof else HEAD_BYTES)))
    end = LENGTH_BYTES + header_length(first[:LENGTH_BYTES], found.nbytes, origin)
    rest = bytes(await folder.read_range(found, len(first), max(end, len(first))))
    return FileHead(found.name, _identity(origin, found), (first + rest)[:end])


async def _probe(folder: RemoteFolder, names: Iterable[str]) -> dict[str, RemoteObject]:
    found = await _all(folder.stat(name) for name in names)
    return {one.name: one for one in found if one is not None}


def _usual_names() -> list[str]:
    weights = [name for stem in STEMS for name in (stem + INDEX_SUFFIX, f"{stem}.safetensors")]
    return [MANIFEST_NAME, *weights, *COMPANION_NAMES]


def _is_beside(one: RemoteObject, names: _Names) -> bool:
    is_text = one.name in names.texts or one.name.endswith(INDEX_SUFFIX)
    return is_text or (one.nbytes <= MAX_COMPANION_BYTES and is_companion(one.name))


def _identity(origin: str, found: RemoteObject) -> Identity:
    """As a file's: no device, and for an inode what tells this version of the object from others."""
    digest = hashlib.sha256(f"{origin}\0{found.version}".encode()).digest()
    return 0, int.from_bytes(digest[:7], "little"), found.nbytes, found.modified_ns


async def _all(made: Iterable[Coroutine[Any, Any, _T]]) -> list[_T]:
    """All results in order; the first failure ends the rest."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one) for one in made]
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None
    return [task.result() for task in tasks]
