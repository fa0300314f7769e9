"""How the store is, for `status`, `lease list` and metrics."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from sllm_store import _core
from sllm_store._version import __version__
from sllm_store.disk_tier import DiskTier
from sllm_store.protocol import CheckpointState, LeaseList, LeaseState, State
from sllm_store.residency import Residency
from sllm_store.store_devices import StoreDevices
from sllm_store.tier_rates import TierRates


class Lessee(NamedTuple):
    """Who got a lease, and of what."""

    path: str
    pid: int
    uid: int


@dataclass(slots=True)
class StoreView:
    """What the daemon has and knows. Written in its event loop alone; any thread may read it.

    `on_load` is told of each load that was answered: the tier that its bytes came from, "pool" where all were resident
    or on their way, and the seconds from the request to the answer.
    """

    store: _core.Store
    residency: Residency
    rates: TierRates
    devices: StoreDevices
    disk_tier: DiskTier | None = None
    clients: int = 0
    lessees: dict[int, Lessee] = field(default_factory=dict)
    on_load: Callable[[str, float], None] = lambda _tier, _seconds: None
    started_at: float = field(default_factory=time.monotonic)


def state_of(view: StoreView) -> State:
    """Everything about it. Blocking where there is a disk tier."""
    status, tier = view.store.status(), view.disk_tier
    totals = {name: status[name] for name in State.__struct_fields__ if name in status and name != "checkpoints"}
    return State(
        version=__version__,
        pid=os.getpid(),
        uptime_s=time.monotonic() - view.started_at,
        disk_path=tier.path if tier else "",
        disk_limit_bytes=tier.limit_bytes if tier else 0,
        disk_bytes=tier.used_bytes() if tier else 0,
        clients=view.clients,
        leases=len(view.store.leases()),
        bytes_per_s=dict(view.rates.bytes_per_s),
        checkpoints=[_checkpoint_state(view, known) for known in status["checkpoints"]],
        devices=view.devices.states(),
        **totals,
    )


def leases_of(view: StoreView) -> LeaseList:
    """All leases that some process still maps or has the descriptor of; forgets who had the others."""
    alive = view.store.leases()
    numbers = {lease["number"] for lease in alive}
    for number in view.lessees.keys() - numbers:
        del view.lessees[number]
    return LeaseList([_lease_state(lease, view.lessees.get(lease["number"])) for lease in alive])


def _checkpoint_state(view: StoreView, known: dict[str, Any]) -> CheckpointState:
    resident = view.residency.numbered(known["number"])
    path = resident.path if resident else ""
    return CheckpointState(
        path=path,
        nbytes=known["bytes"],
        resident_bytes=known["resident_bytes"],
        filling_bytes=known["filling_bytes"],
        disk_bytes=view.disk_tier.bytes_of(path) if view.disk_tier and path else 0,
        leases=known["leases"],
        uses=known["uses"],
        is_retired=known["is_retired"],
        is_verified=resident is not None and not resident.unproven,
    )


def _lease_state(lease: dict[str, Any], lessee: Lessee | None) -> LeaseState:
    path, pid, uid = lessee or Lessee("", 0, 0)
    return LeaseState(lease["number"], path, lease["bytes"], lease["age_s"], pid, uid)
