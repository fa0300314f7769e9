"""`sllm-store verify`."""

import json

import click

from sllm_store.checking import BadRange, Verification, verify_checkpoint


@click.command()
@click.argument("path", type=click.Path())
@click.option("--json", "as_json", is_flag=True, help="Print the outcome as JSON.")
def command(path: str, as_json: bool) -> int:
    """Compare every byte of the checkpoint at PATH with its manifest.

    Names each damaged file and byte range. Exit code 1 if there is one.
    """
    outcome = verify_checkpoint(path)
    if as_json:
        click.echo(json.dumps({**outcome._asdict(), "bad": [bad._asdict() for bad in outcome.bad]}))
    else:
        _print(outcome)
    return 1 if outcome.bad else 0


def _print(outcome: Verification) -> None:
    for bad in outcome.bad:
        click.echo(_line(bad))
    rate = outcome.nbytes / outcome.seconds / 1e9 if outcome.seconds else 0.0
    verdict = f"{len(outcome.bad)} damaged ranges" if outcome.bad else "all intact"
    click.echo(
        f"{outcome.files} files, {outcome.nbytes / 1e9:.3f} GB in {outcome.seconds:.2f} s ({rate:.2f} GB/s): {verdict}"
    )


def _line(bad: BadRange) -> str:
    return f"{bad.path}: bytes {bad.begin} to {bad.end} are damaged"
