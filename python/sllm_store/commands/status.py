"""`sllm-store status`."""

from pathlib import Path

import click

from sllm_store.commands.stores import binary_size, connect, echo_json, socket_option
from sllm_store.protocol import CheckpointState, State, Status


@click.command()
@socket_option
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
def command(*, socket: Path | None, as_json: bool) -> None:
    """Show how the store is: its pool, its tiers, and what is resident of each checkpoint."""
    with connect(socket) as store:
        state = store.request(Status(), State)
    if as_json:
        echo_json(state)
    else:
        _print(state)


def _print(state: State) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(soft_wrap=True)
    console.print(
        f"sllm {state.version}, process {state.pid}, up {state.uptime_s:.0f} s, {state.clients} clients, "
        f"{state.leases} leases",
        highlight=False,
    )
    summary = Table("what", "how much", "of it")
    for row in _rows(state):
        summary.add_row(*row)
    console.print(summary)
    checkpoints = Table("checkpoint", "resident", "filling", "of", "on disk", "leases", "uses", "")
    for checkpoint in state.checkpoints:
        checkpoints.add_row(*_columns(checkpoint))
    console.print(checkpoints)


def _rows(state: State) -> list[tuple[str, str, str]]:
    asked = state.hit_bytes + state.miss_bytes
    ratio = f"{100 * state.hit_bytes / asked:.0f} %" if asked else "nothing asked for"
    rows = [
        ("pool", binary_size(state.pool_bytes), f"{binary_size(state.touched_bytes)} touched"),
        ("- resident", binary_size(state.resident_bytes), f"{binary_size(state.leased_bytes)} leased"),
        ("- filling", binary_size(state.filling_bytes), ""),
        ("- free", binary_size(state.free_bytes), f"chunks of {binary_size(state.chunk_bytes)}"),
        ("hits", binary_size(state.hit_bytes), ratio),
        ("filled", binary_size(state.filled_bytes), f"{state.failed_fills} fills failed"),
        ("evicted", binary_size(state.evicted_bytes), ""),
    ]
    if state.disk_path:
        rows.append((f"disk {state.disk_path}", binary_size(state.disk_bytes), f"of {_limit(state.disk_limit_bytes)}"))
    for tier, rate in sorted(state.bytes_per_s.items()):
        rows.append((f"from {tier}", f"{rate / 1e9:.2f} GB/s", "as last measured"))
    for device in state.devices:
        rows.append((f"{device.model} {device.uuid}", binary_size(device.pinned_bytes), "of the pool pinned"))
    return rows


def _limit(nbytes: int) -> str:
    return binary_size(nbytes) if nbytes else "no limit"


def _columns(checkpoint: CheckpointState) -> list[str]:
    words = [
        "replaced" if checkpoint.is_retired else "",
        "verified" if checkpoint.is_verified else "unverified",
    ]
    sizes = (checkpoint.resident_bytes, checkpoint.filling_bytes, checkpoint.nbytes, checkpoint.disk_bytes)
    counts = (str(checkpoint.leases), str(checkpoint.uses))
    return [checkpoint.path, *map(binary_size, sizes), *counts, ", ".join(filter(None, words))]
