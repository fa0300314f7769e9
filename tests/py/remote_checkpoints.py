"""Checkpoints to be fetched, as the bytes of their files, and loads of them."""

import asyncio
import json
import random
from pathlib import Path
from typing import Any

from checkpoints import entry, write_safetensors
from fake_reservation import FakeReservation

import sllm_store
from sllm_store import _core
from sllm_store.disk_tier import DiskTier
from sllm_store.remote import RemoteSource, open_remote
from sllm_store.remote_urls import RemoteOptions

MIB = 1 << 20
SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
COMPANIONS = {"config.json": b'{"model_type": "llama"}', "tokenizer.json": b"[]" * 700_000}
# Quick to fail, small enough that a few MiB are many ranges.
QUICK = RemoteOptions(range_bytes=MIB, in_flight=4, progress_s=1.0, attempts=3, pause_s=0.01)


def write_plain(folder: Path) -> Path:
    """A Hugging Face folder of two shards with an index, about nine MiB."""
    folder.mkdir()
    weight_map = {}
    for number, shard in enumerate(SHARDS):
        data = random.Random(number).randbytes(4 * MIB + 3 * MIB * number // 2 + 64)
        half = len(data) // 2
        members = {
            f"layers.{number}.a": entry("U8", [half], 0, half),
            f"layers.{number}.b": entry("U8", [len(data) - half], half, len(data)),
        }
        write_safetensors(folder / shard, members, data)
        weight_map |= dict.fromkeys(members, shard)
    index = {"metadata": {"total_size": 0}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    for name, content in COMPANIONS.items():
        (folder / name).write_bytes(content)
    return folder


def write_converted(folder: Path) -> Path:
    """The same, converted: three partitions or so, and a manifest."""
    plain = write_plain(folder.with_name(folder.name + "-plain"))
    sllm_store.convert(plain, folder, partition_size=4 * MIB)
    return folder


def files_of(folder: Path) -> dict[str, bytes]:
    """What a server serves of it."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def reservation_of(source: RemoteSource, ranges: list[tuple[int, int, int]] | None = None) -> FakeReservation:
    parts = source.checkpoint.partitions
    crcs = [list(part.proof.span_crcs()) if part.proof else None for part in parts]
    return FakeReservation([part.size for part in parts], crcs, ranges)


async def load(
    url: str, tier: DiskTier | None, options: RemoteOptions = QUICK
) -> tuple[RemoteSource, FakeReservation, dict[str, Any]]:
    """Open a checkpoint and bring all of it."""
    source = await open_remote(url, tier, options)
    reservation = reservation_of(source)
    account = await source.fill(reservation, _core.StopFlag())
    await source.settle()
    return source, reservation, account


def run_load(url: str, tier: DiskTier | None, options: RemoteOptions = QUICK) -> Any:
    return asyncio.run(load(url, tier, options))


def assert_same(reservation: FakeReservation, source: RemoteSource, files: dict[str, bytes]) -> None:
    """Every byte of every partition is the server's."""
    assert reservation.is_complete
    for part, memory in zip(source.checkpoint.partitions, reservation.memory, strict=True):
        assert bytes(memory) == files[part.path.name], part.path.name


def published(tier: DiskTier) -> list[Path]:
    return sorted((Path(tier.path) / "checkpoints").iterdir())


def assert_published(tier: DiskTier, files: dict[str, bytes]) -> Path:
    """One published copy, of exactly these files."""
    (folder,) = published(tier)
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.name[0] != "."} == files
    return folder
