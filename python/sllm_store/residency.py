"""The checkpoints that the daemon knows: each opened once, and opened again where its files have changed."""

import asyncio
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol
from weakref import WeakValueDictionary

from sllm_store import _core
from sllm_store.checkpoint import Checkpoint
from sllm_store.errors import ConflictError, SllmError
from sllm_store.protocol import Identity
from sllm_store.tier_rates import TierRates
from sllm_store.tiers import Source, Sources

if TYPE_CHECKING:
    from sllm_store.pool_loads import Fill


class CrcMemory(Protocol):
    """Remembers the CRCs of partitions that came without any; the disk tier does it for good."""

    def keep_crcs(self, checkpoint: Checkpoint, file: int, crcs: Sequence[int]) -> None:
        """Remember each span's, as long as the file is the same."""

    def known_crcs(self, checkpoint: Checkpoint) -> Mapping[int, Sequence[int]]:
        """What was kept, by the partition's number."""


class CrcsInMemory:
    """Remembers them as long as the daemon lives. Any thread may call it."""

    def __init__(self) -> None:
        self._kept: dict[tuple[str, Identity], list[int]] = {}

    def keep_crcs(self, checkpoint: Checkpoint, file: int, crcs: Sequence[int]) -> None:
        """Remember each span's, as long as the file is the same."""
        part = checkpoint.partitions[file]
        self._kept[os.fspath(part.path), part.identity] = list(crcs)

    def known_crcs(self, checkpoint: Checkpoint) -> Mapping[int, Sequence[int]]:
        """What was kept, by the partition's number."""
        keys = {number: (os.fspath(part.path), part.identity) for number, part in enumerate(checkpoint.partitions)}
        return {number: self._kept[key] for number, key in keys.items() if key in self._kept}


@dataclass(eq=False, slots=True)
class Resident:
    """One version of a checkpoint, by the store's number of it.

    `unproven` are the partitions that nobody knows CRCs of. `waiting` counts the requests that wait for bytes of it,
    `fills` are under way, `fills_ended` counts those that were.
    """

    path: str
    number: int
    source: Source
    unproven: set[int]
    waiting: int = 0
    fills: "set[Fill]" = field(default_factory=set)
    fills_ended: int = 0
    is_proving: bool = False

    @property
    def identities(self) -> list[Identity]:
        """Its partitions', which tell it from any other version."""
        return [part.identity for part in self.source.checkpoint.partitions]

    def is_verified(self, files: Iterable[int]) -> bool:
        """Whether the bytes of all these partitions are checked."""
        return self.unproven.isdisjoint(files)


class Residency:
    """The versions of checkpoints by the paths that clients ask for them by. For one event loop, but for `known` and
    `numbered`, which any thread may ask."""

    def __init__(self, store: _core.Store, sources: Sources, rates: TierRates) -> None:
        self._store = store
        self._sources = sources
        self._rates = rates
        self._current: dict[str, Resident] = {}
        self._all: dict[int, Resident] = {}
        self._opening: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self.crcs: CrcMemory = sources.disk_tier or CrcsInMemory()

    async def find(self, path: str, identities: Sequence[Identity] = ()) -> Resident:
        """The version of a checkpoint that its files are.

        Raises what opening raises, and ConflictError where the client has met another version, by its `identities`.
        """
        # One at a time for each path, so that a checkpoint that many ask for is opened once.
        async with self._opening.setdefault(path, asyncio.Lock()):
            found = self._current.get(path)
            if found is None or not await asyncio.to_thread(found.source.is_current):
                found = await self._open(path, found)
        if identities and list(identities) != found.identities:
            raise ConflictError(f"{path} was replaced while it was opened")
        return found

    def known(self, path: str) -> list[Resident]:
        """All versions that clients asked for by this path, or all there are where it is empty."""
        return [resident for resident in list(self._all.values()) if path in ("", resident.path)]

    def numbered(self, number: int) -> Resident | None:
        """The version with the store's number, unless it was forgotten."""
        return self._all.get(number)

    async def close(self) -> None:
        """End what sources still do."""
        for resident in self.known(""):
            await resident.source.close()

    def reprice(self) -> None:
        """Tell the store what its tiers have been measured to cost."""
        for resident in self._current.values():
            self._store.set_cost(resident.number, self._rates.cost_s_per_byte(resident.source.tier))

    async def _open(self, path: str, old: Resident | None) -> Resident:
        try:
            source = await self._sources.open(path)
        except SllmError:
            self._retire(old)
            raise
        if old is not None and _is_same(old.source.checkpoint, source.checkpoint):
            old.source = source
            return old
        self._retire(old)
        crcs = await asyncio.to_thread(self._span_crcs, source.checkpoint)
        sizes = [part.size for part in source.checkpoint.partitions]
        number = self._store.add(
            [(size, crcs.get(file, [])) for file, size in enumerate(sizes)], self._rates.cost_s_per_byte(source.tier)
        )
        opened = Resident(path, number, source, set(range(len(sizes))) - crcs.keys())
        self._current[path] = self._all[number] = opened
        self._forget_old()
        return opened

    def _retire(self, old: Resident | None) -> None:
        if old is not None and self._current.pop(old.path, None) is old:
            self._store.retire(old.number)

    def _forget_old(self) -> None:
        """Forget versions of which the store has nothing any more."""
        kept = {resident.number for resident in self._current.values()}
        kept.update(known["number"] for known in self._store.status()["checkpoints"])
        for number in self._all.keys() - kept:
            del self._all[number]

    def _span_crcs(self, checkpoint: Checkpoint) -> dict[int, Sequence[int]]:
        parts = checkpoint.partitions
        if not checkpoint.is_verifiable:
            return dict(self.crcs.known_crcs(checkpoint))
        return {file: list(part.proof.span_crcs()) for file, part in enumerate(parts) if part.proof}


def _is_same(first: Checkpoint, second: Checkpoint) -> bool:
    """Whether nothing but the folder's time is different."""
    return [(part.path, part.identity, part.proof) for part in first.partitions] == [
        (part.path, part.identity, part.proof) for part in second.partitions
    ]
