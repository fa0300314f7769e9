"""`sllm-store inspect`."""

import json

import click

from sllm_store.checkpoint import Checkpoint, Location, open_checkpoint


@click.command()
@click.argument("path", type=click.Path())
@click.option("--tensors", is_flag=True, help="List every tensor, in the order of their bytes.")
@click.option("--json", "as_json", is_flag=True, help="Print everything, tensors included, as JSON.")
def command(path: str, tensors: bool, as_json: bool) -> None:
    """Show what the checkpoint at PATH holds: files, dtypes, sizes, alignment."""
    checkpoint = open_checkpoint(path)
    if as_json:
        click.echo(json.dumps(_as_dict(checkpoint)))
        return
    _print_summary(checkpoint)
    if tensors:
        _print_tensors(checkpoint)


def _alignment(location: Location) -> int:
    """The largest power of two, up to 4096, at which the tensor lies in its file."""
    return min(location.offset & -location.offset, 4096)


def _as_dict(checkpoint: Checkpoint) -> dict[str, object]:
    return {
        "path": str(checkpoint.path),
        "verifiable": checkpoint.is_verifiable,
        "nbytes": checkpoint.nbytes,
        "files": [{"name": part.path.name, "nbytes": part.size} for part in checkpoint.partitions],
        "tensors": [_tensor_dict(checkpoint, location) for location in checkpoint.tensors.values()],
        "tied": dict(checkpoint.tied),
    }


def _tensor_dict(checkpoint: Checkpoint, location: Location) -> dict[str, object]:
    tensor = location.tensor
    return {
        "name": tensor.name,
        "dtype": tensor.dtype,
        "shape": list(tensor.shape),
        "nbytes": tensor.nbytes,
        "file": checkpoint.partitions[location.partition].path.name,
        "offset": location.offset,
        "alignment": _alignment(location),
    }


def _by_dtype(checkpoint: Checkpoint) -> dict[str, tuple[int, int]]:
    totals: dict[str, tuple[int, int]] = {}
    for location in checkpoint.tensors.values():
        count, nbytes = totals.get(location.tensor.dtype, (0, 0))
        totals[location.tensor.dtype] = (count + 1, nbytes + location.tensor.nbytes)
    return totals


def _print_summary(checkpoint: Checkpoint) -> None:
    from rich.console import Console
    from rich.table import Table

    proof = "every byte has a crc32c" if checkpoint.is_verifiable else "plain safetensors, unverified"
    console = Console(soft_wrap=True)
    console.print(f"{checkpoint.path}: {proof}", highlight=False)
    files = Table("file", "MB", "tensors", "data starts at")
    for part in checkpoint.partitions:
        count = len(part.header.tensors)
        files.add_row(part.path.name, f"{part.size / 1e6:.1f}", str(count), str(part.header.data_start))
    console.print(files)
    dtypes = Table("dtype", "tensors", "MB")
    for dtype, (count, nbytes) in sorted(_by_dtype(checkpoint).items()):
        dtypes.add_row(dtype, str(count), f"{nbytes / 1e6:.1f}")
    console.print(dtypes)
    for name, stored in checkpoint.tied.items():
        console.print(f"tied: {name} = {stored}", highlight=False)


def _print_tensors(checkpoint: Checkpoint) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("tensor", "dtype", "shape", "bytes", "aligned to", "file")
    for location in checkpoint.tensors.values():
        row = _tensor_dict(checkpoint, location)
        table.add_row(*(str(row[key]) for key in ("name", "dtype", "shape", "nbytes", "alignment", "file")))
    Console(soft_wrap=True).print(table)
