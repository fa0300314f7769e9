"""Soak of the store: clients load random checkpoints out of a pool of a third of their bytes, and compare every one.

    python tests/soak/store.py [--minutes 10] [--clients 32] [--pool-mib 256]

Some clients are killed in the middle and replaced. At the end no lease is left, no byte was different, the pool has
been evicted several times over, and the daemon's memory has stayed within the pool and 256 MiB. The result is JSON on
stdout; the exit code is 0 where all of that holds.
"""

import json
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

import click
from msgspec.structs import asdict

from sllm_store.protocol import State

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "py"))

from store_process import running_store  # noqa: E402

MIB = 1 << 20
ALLOWED_ABOVE_POOL = 256 * MIB
POOLS_TO_EVICT = 3


class Client:
    """A client process, and a thread that counts what it says."""

    def __init__(self, socket: Path, references: Path, seed: int, counts: Counter[str]) -> None:
        command = [sys.executable, str(HERE / "client.py"), str(socket), str(references), str(seed)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._counts = counts
        self._thread = threading.Thread(target=self._count)
        self._thread.start()

    def kill(self) -> None:
        """End it wherever it is."""
        self.process.kill()
        self._end()

    def stop(self) -> int:
        """Let it finish what it has; its exit code."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self._end()
        return self.process.returncode

    def _end(self) -> None:
        self.process.wait(timeout=120)
        self._thread.join()
        assert self.process.stdout is not None
        self.process.stdout.close()

    def _count(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._counts[line.split()[0]] += 1


def make_checkpoints(folder: Path, total_bytes: int) -> list[Path]:
    """Folders of random bytes, of one span to four chunks each, that sum up to at least that many bytes."""
    import torch

    import sllm_store

    choice = random.Random(1)
    generator = torch.Generator().manual_seed(1)
    folders, made = [], 0
    while made < total_bytes:
        nbytes = int(MIB * 2 ** choice.uniform(0, 4))
        sizes = [nbytes // 2, nbytes // 3, nbytes // 7, 13]
        parts = [torch.randint(256, (size,), generator=generator, dtype=torch.uint8) for size in sizes]
        tensors = {f"w{number}": part for number, part in enumerate(parts)}
        folders.append(folder / f"checkpoint-{len(folders)}")
        sllm_store.save_tensors(tensors, folders[-1])
        made += sum(sizes)
    return folders


def peak_bytes(pid: int) -> int:
    """The most that the process had in memory so far."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def run_clients(socket: Path, references: Path, clients: int, seconds: float) -> tuple[Counter[str], list[int]]:
    """What the clients counted, and how those ended that nobody killed."""
    counts: Counter[str] = Counter()
    choice = random.Random(2)
    running = [Client(socket, references, seed, counts) for seed in range(clients)]
    end = time.monotonic() + seconds
    pause = threading.Event()
    while (left := end - time.monotonic()) > 0:
        pause.wait(min(left, seconds / 20))
        victim = choice.randrange(clients)
        running[victim].kill()
        counts["killed"] += 1
        running[victim] = Client(socket, references, counts["killed"] + clients, counts)
    return counts, [client.stop() for client in running]


def judge(state: State, counts: Counter[str], exits: list[int], memory: int) -> dict[str, bool]:
    """Each promise, and whether it was kept."""
    return {
        "every byte compared was equal": counts["different"] == 0 and counts["equal"] > 0,
        "every client ended well": not any(exits),
        "the pool was evicted three times over": state.evicted_bytes >= POOLS_TO_EVICT * state.pool_bytes,
        "no lease is left": state.leases == 0 and state.leased_bytes == 0,
        "memory stayed within the pool and 256 MiB": memory <= state.pool_bytes + ALLOWED_ABOVE_POOL,
    }


def soak(folder: Path, minutes: float, clients: int, pool: int) -> dict:
    """Run it all; the result."""
    references = folder / "references.json"
    folders = make_checkpoints(folder, 3 * pool)
    oracle = [sys.executable, str(HERE / "reference.py"), *map(str, folders)]
    references.write_text(subprocess.check_output(oracle, text=True))
    with running_store(folder / "store.sock", pool=str(pool)) as store:
        counts, exits = run_clients(store.path, references, clients, minutes * 60)
        state = store.state()
        memory = peak_bytes(store.process.pid)
        status = store.stop()
    promises = {**judge(state, counts, exits, memory), "the daemon ended well": status == 0}
    return {
        "minutes": minutes,
        "clients": clients,
        "checkpoints": len(folders),
        "counts": dict(counts),
        "daemon_peak_bytes": memory,
        "promises": promises,
        "status": {name: value for name, value in asdict(state).items() if isinstance(value, int | float)},
    }


@click.command()
@click.option("--minutes", default=10.0, show_default=True)
@click.option("--clients", default=32, show_default=True)
@click.option("--pool-mib", default=256, show_default=True)
def main(minutes: float, clients: int, pool_mib: int) -> None:
    """Soak the store."""
    with tempfile.TemporaryDirectory(prefix="sllm-soak-") as folder:
        result = soak(Path(folder), minutes, clients, pool_mib * MIB)
    print(json.dumps(result, indent=1))
    sys.exit(not all(result["promises"].values()))


if __name__ == "__main__":
    main()
