"""The store's metrics, as Prometheus scrapes them."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Histogram, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from sllm_store.errors import from_os_error
from sllm_store.protocol import State
from sllm_store.store_state import StoreView, state_of

_GAUGES: Final = {
    "pool_bytes": "size of the pool",
    "touched_bytes": "of the pool, memory that is there",
    "resident_bytes": "of checkpoints, in the pool",
    "filling_bytes": "of checkpoints, on their way into the pool",
    "leased_bytes": "of the pool, held by some process",
    "free_bytes": "of the pool, with nothing in it",
    "disk_bytes": "of checkpoints, in the disk tier",
    "clients": "connections",
    "leases": "leases that are alive",
}
_COUNTERS: Final = {
    "hit_bytes": "asked for, and resident or on their way",
    "miss_bytes": "asked for, and not there",
    "filled_bytes": "brought into the pool",
    "evicted_bytes": "that went from the pool",
    "failed_fills": "fills that failed",
}
# From a resident adapter to a large model from far away.
_SECONDS: Final = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000)


class StoreMetrics(Collector):
    """What the daemon tells of loads and fills, and the store's state when it is scraped."""

    def __init__(self, view: StoreView) -> None:
        self._view = view
        self.registry = CollectorRegistry()
        self._load_seconds = Histogram(
            "sllm_store_load_seconds",
            "from a request to its answer, by the tier that bytes came from, pool where none did",
            ["tier"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._read_bytes = Counter(
            "sllm_store_tier_read_bytes", "read from a tier below the pool", ["tier"], registry=self.registry
        )
        self.registry.register(self)

    def note_load(self, tier: str, seconds: float) -> None:
        """A request was answered."""
        self._load_seconds.labels(tier).observe(seconds)

    def note_fill(self, tier: str, account: dict[str, float | int | str]) -> None:
        """A fill ended well."""
        self._read_bytes.labels(tier).inc(float(account["bytes_read"]))

    def collect(self) -> Iterator[Metric]:
        """The state's part of the metrics; called by the thread that serves them."""
        state = state_of(self._view)
        for name, text in _GAUGES.items():
            yield GaugeMetricFamily(f"sllm_store_{name}", text, value=getattr(state, name))
        for name, text in _COUNTERS.items():
            yield CounterMetricFamily(f"sllm_store_{name}", text, value=getattr(state, name))
        yield from _labelled(state)


@contextmanager
def serving_metrics(address: tuple[str, int], view: StoreView) -> Iterator[StoreMetrics]:
    """Serve the store's metrics at host and port inside the context. Raises StoreIOError."""
    metrics = StoreMetrics(view)
    host, port = address
    try:
        server, thread = start_http_server(port, host, metrics.registry)
    except OSError as error:
        raise from_os_error(error, f"cannot serve metrics at {host}:{port}") from error
    try:
        yield metrics
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _labelled(state: State) -> Iterator[Metric]:
    rates = GaugeMetricFamily("sllm_store_tier_bytes_per_second", "as last measured", labels=["tier"])
    for tier, rate in state.bytes_per_s.items():
        rates.add_metric([tier], rate)
    resident = GaugeMetricFamily("sllm_store_checkpoint_resident_bytes", "in the pool", labels=["checkpoint"])
    for checkpoint in state.checkpoints:
        if checkpoint.path and not checkpoint.is_retired:
            resident.add_metric([checkpoint.path], checkpoint.resident_bytes)
    yield rates
    yield resident
