"""What does a store give? Models that are resident, loads that are shared, small checkpoints side by side.

    python benchmarks/store.py [--checkpoint llama-2gb] [--rounds 7]

Measures, each in fresh processes, interleaved: a second load from a fresh process with imports done, until the tensors
are usable and until every page was touched; a first pass over every matrix, from the pool and from private memory; what
ten processes with the same model take; cold loads through the daemon, in-process, and by two processes at once; and
how much of the pool 500 adapters take. Prints a table and writes results/store.json; needs root, to drop the page
cache.
"""

import random
import statistics
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
from ballast import Ballast
from measuring import describe_commit, drop_page_cache, make_console, save, summarise
from rich.table import Table
from store_processes import Client, Daemon
from synthetic import SHAPES, synthetic_checkpoint

PROCESSES = 10
ADAPTERS = 500
ADAPTER_BYTES = 2_000_000
SPARE_POOL_BYTES = 512 << 20
CHUNK_BYTES = 4 << 20


@dataclass
class Trial:
    """One checkpoint, one daemon, and what was measured so far: values by name."""

    folder: Path
    warmup: Path
    daemon: Daemon
    values: dict[str, list[float]] = field(default_factory=dict)
    tensors: int = 0
    nbytes: int = 0

    def client(self, store: str | None) -> Client:
        """A fresh process whose imports are done and which has made one small load of the same kind."""
        client = Client()
        client.do("load", folder=str(self.warmup), store=store)
        client.do("drop")
        return client

    def note(self, name: str, value: float) -> None:
        """One more value."""
        self.values.setdefault(name, []).append(value)

    @property
    def store(self) -> str:
        """Where the daemon serves."""
        return str(self.daemon.socket)


def resident(trial: Trial) -> None:
    """A second load, by a fresh process, and a first pass over it; the same from memory of its own."""
    trial.daemon.ask("prefetch", str(trial.folder))
    with trial.client(trial.store) as client:
        loaded = client.do("load", folder=str(trial.folder), store=trial.store)
        trial.tensors, trial.nbytes = loaded["tensors"], loaded["nbytes"]
        trial.note("resident, usable, s", loaded["usable_s"])
        trial.note("resident, every page touched, s", loaded["touched_s"])
    with trial.client(trial.store) as client:
        client.do("load", folder=str(trial.folder), store=trial.store, touches=False)
        trial.note("first pass, from the pool, s", client.do("forward")["forward_s"])
    with trial.client(None) as client:
        client.do("load", folder=str(trial.folder), store=None, touches=False)
        trial.note("first pass, from private memory, s", client.do("forward")["forward_s"])


def cold_alone(trial: Trial) -> None:
    """A cold load through the daemon."""
    with trial.client(trial.store) as client:
        _make_cold(trial)
        loaded = client.do("load", folder=str(trial.folder), store=trial.store)
        trial.note("cold, through the store, s", loaded["usable_s"])


def cold_in_process(trial: Trial) -> None:
    """A cold load without the daemon, into memory that is touched, as the pool's is."""
    with trial.client(None) as client:
        client.do("allocate", folder=str(trial.folder))
        _make_cold(trial)
        trial.note("cold, in-process, s", client.do("load", folder=str(trial.folder), store=None)["usable_s"])


def cold_together(trial: Trial) -> None:
    """Two processes that load the same cold checkpoint at once: until both are done."""
    with trial.client(trial.store) as one, trial.client(trial.store) as other:
        _make_cold(trial)
        for client in (one, other):
            client.start("load", folder=str(trial.folder), store=trial.store)
        trial.note("cold, two processes, s", max(client.finish()["usable_s"] for client in (one, other)))


def _make_cold(trial: Trial) -> None:
    trial.daemon.ask("evict", str(trial.folder))
    if not drop_page_cache():
        raise click.ClickException("cannot drop the page cache; run as root")


def processes_share(trial: Trial) -> float:
    """What ten processes and the daemon take for one model, in copies of it, after a pass over every matrix each."""
    trial.daemon.ask("prefetch", str(trial.folder))
    with ExitStack() as ending:
        clients = [ending.enter_context(trial.client(trial.store)) for _ in range(PROCESSES)]
        before = sum(client.do("pss")["pss_bytes"] for client in clients)
        for client in clients:
            client.do("load", folder=str(trial.folder), store=trial.store, touches=False)
            client.do("forward")
        after = sum(client.do("pss")["pss_bytes"] for client in clients)
    return (after - before) / trial.nbytes


def adapters_share(folder: Path) -> float:
    """What 500 adapters take of a pool, by their bytes."""
    import torch

    import sllm_store

    generator = torch.Generator().manual_seed(1)
    for number in range(ADAPTERS):
        halves = torch.randint(256, (2, ADAPTER_BYTES // 2), generator=generator, dtype=torch.uint8)
        sllm_store.save_tensors({"lora_A": halves[0], "lora_B": halves[1]}, folder / f"adapter-{number}")
    with Daemon(folder, 2 * ADAPTERS * ADAPTER_BYTES // CHUNK_BYTES * CHUNK_BYTES) as daemon:
        for number in range(ADAPTERS):
            daemon.ask("prefetch", str(folder / f"adapter-{number}"))
        status = daemon.ask("status")
    return (status["pool_bytes"] - status["free_bytes"]) / (ADAPTERS * ADAPTER_BYTES)


STEPS: list[Callable[[Trial], None]] = [resident, cold_alone, cold_in_process, cold_together]


def measure(checkpoint: str, rounds: int) -> dict[str, Any]:
    """All of it."""
    folder, warmup = synthetic_checkpoint(checkpoint), synthetic_checkpoint("tiny")
    nbytes = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    ballast = Ballast(nbytes)
    pool_bytes = (nbytes + SPARE_POOL_BYTES) // CHUNK_BYTES * CHUNK_BYTES
    with tempfile.TemporaryDirectory(prefix="sllm-store-") as place:
        with Daemon(Path(place), pool_bytes) as daemon:
            daemon.wait_until_warm()
            trial = Trial(folder, warmup, daemon)
            run_rounds(trial, rounds, ballast)
            copies = processes_share(trial)
        adapters = adapters_share(Path(place))
    return summary(trial, copies, adapters)


def run_rounds(trial: Trial, rounds: int, ballast: Ballast) -> None:
    """Every step in each round, in an order of its own: drives remember what went before."""
    console, order = make_console(), random.Random(rounds)
    for number in range(rounds):
        for step in order.sample(STEPS, len(STEPS)):
            ballast.release()
            step(trial)
            ballast.hold()
            console.print(f"round {number + 1}/{rounds}: {step.__name__}")


def summary(trial: Trial, copies: float, adapters: float) -> dict[str, Any]:
    """Medians, and each bound with what it is compared with."""
    median = {name: statistics.median(values) for name, values in trial.values.items()}
    figures = [
        ("resident, usable, s", median["resident, usable, s"], 0.005 + 5e-6 * trial.tensors),
        ("resident, every page touched, s", median["resident, every page touched, s"], 0.25),
        (
            "first pass, s more than from private memory",
            median["first pass, from the pool, s"] - median["first pass, from private memory, s"],
            0.1,
        ),
        (f"memory of {PROCESSES} processes, in copies", copies, 1.1),
        (f"{ADAPTERS} adapters, pool by their bytes", adapters, 1.2),
        ("two processes, of one", median["cold, two processes, s"] / median["cold, through the store, s"], 1.05),
        ("cold, of in-process", median["cold, through the store, s"] / median["cold, in-process, s"], 1.05),
    ]
    return {
        "bytes": trial.nbytes,
        "tensors": trial.tensors,
        "cache": "page cache dropped before each cold load; the pool touched before the first round",
        "seconds": {name: summarise(values) for name, values in trial.values.items()},
        "figures": [{"what": what, "value": value, "bound": bound} for what, value, bound in figures],
    }


@click.command()
@click.option("--checkpoint", type=click.Choice(list(SHAPES)), default="llama-2gb", show_default=True)
@click.option("--rounds", default=7, show_default=True)
def main(checkpoint: str, rounds: int) -> None:
    """Measure what a store gives."""
    result = {"checkpoint": checkpoint, "commit": describe_commit(), **measure(checkpoint, rounds)}
    table = Table("", "measured", "bound")
    for figure in result["figures"]:
        table.add_row(figure["what"], f"{figure['value']:.4f}", f"{figure['bound']:.4f}")
    make_console().print(table)
    print(save("store", result))


if __name__ == "__main__":
    main()
