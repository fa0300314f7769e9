"""`sllm-store serve`."""

import grp
import logging
from pathlib import Path

import click

from sllm_store.commands.sizes import parse_size
from sllm_store.daemon import ServeOptions, serve
from sllm_store.pool_sizes import default_pool_bytes, memory_limit
from sllm_store.store_paths import socket_paths
from sllm_store.store_socket import Admission


def parse_address(text: str) -> tuple[str, int]:
    """Host and port of HOST:PORT, an IPv6 host in brackets, else a usage error."""
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise click.BadParameter(f"{text} is not an address like 127.0.0.1:9400")
    return host.removeprefix("[").removesuffix("]"), int(port)


def parse_group(name: str) -> int:
    """The number of a group, else a usage error."""
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError as error:
        raise click.BadParameter(f"there is no group {name}") from error


@click.command()
@click.option("--pool", type=parse_size, metavar="SIZE", help="Memory for checkpoints; half of what there is.")
@click.option("--disk", type=click.Path(path_type=Path), metavar="DIR", help="Where remote checkpoints are kept.")
@click.option("--disk-limit", type=parse_size, metavar="SIZE", help="The most that DIR may hold.")
@click.option("--socket", type=click.Path(path_type=Path), help="Where to listen.")
@click.option("--chunk", type=parse_size, metavar="SIZE", default="4MiB", show_default=True, help="Unit of residency.")
@click.option(
    "--eviction",
    type=click.Choice(["greedy-dual", "lru"]),
    default="greedy-dual",
    show_default=True,
    help="What goes first where room is needed.",
)
@click.option("--allow-uid", type=int, multiple=True, metavar="UID", help="Serve this user too; may be repeated.")
@click.option("--group", type=parse_group, metavar="NAME", help="Serve this group's members too.")
@click.option("--metrics", type=parse_address, metavar="HOST:PORT", help="Serve Prometheus metrics there.")
def command(
    *,
    pool: int | None,
    disk: Path | None,
    disk_limit: int | None,
    socket: Path | None,
    chunk: int,
    eviction: str,
    allow_uid: tuple[int, ...],
    group: int | None,
    metrics: tuple[str, int] | None,
) -> None:
    """Keep checkpoints in memory for every process of this machine, until a signal ends it."""
    if disk_limit is not None and disk is None:
        raise click.UsageError("--disk-limit is of --disk, which is not there")
    pool_bytes = pool // chunk * chunk if pool is not None else default_pool_bytes(memory_limit(), chunk)
    options = ServeOptions(
        socket=socket or socket_paths()[0],
        pool_bytes=max(pool_bytes, chunk),
        chunk_bytes=chunk,
        eviction=eviction,
        admission=Admission(frozenset(allow_uid), group),
        disk=disk,
        disk_limit_bytes=disk_limit,
        metrics=metrics,
    )
    logging.basicConfig(level=logging.INFO, format="sllm-store: %(levelname)s: %(message)s")
    serve(options)
