"""The bounds that loading has to keep, evaluated from one result of loading.py.

Which time a bound means:

- Against the drive, the time to return: fio moves bytes and so does a load until then, ours checked already.
- Against other loaders, the time until every byte was checksummed, so that what a mapping put off is paid.
- Against first touch and memcpy, by one thread, the time to return of warm loads into memory of the process's own.
- Processor seconds until the load returned, ours with verification in them and, since no peer verifies, once more
  without. They are compared with loaders that own their bytes, since one that maps has done nothing by then.
- Memory: the peak until every byte was checksummed, less the tensors' bytes, mapped pages counted.
- A tensor's share of opening, planning and handing over, as LoadReport gives them, warm.

Rates and processor seconds are bounds for the large shape, where fixed costs vanish; comparisons hold for every shape.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

LARGE, MANY, SMALL = "llama-4gb", "experts-20k", "adapter-20mb"
_OURS_OWNED = ("own", "reused")


@dataclass(frozen=True)
class Check:
    """One bound. `sense` is ">=" or "<=", as the value has to be."""

    name: str
    value: float
    sense: str
    bound: float

    @property
    def holds(self) -> bool:
        """Whether the value keeps the bound."""
        return self.value >= self.bound if self.sense == ">=" else self.value <= self.bound

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "name": self.name,
            "value": self.value,
            "sense": self.sense,
            "bound": self.bound,
            "holds": self.holds,
        }


def evaluate(result: dict[str, Any]) -> list[Check]:
    """Every bound that this result has figures for."""
    figures = Figures(result)
    checks = [*_against_peers(figures), *_against_mapping(figures), *_memory(figures)]
    shape = result["shape"]
    if shape == LARGE:
        checks += [*_against_drive(figures), *_against_memory(figures), *_processor(figures)]
    if shape == MANY:
        checks += _tensors(figures)
    if shape == SMALL:
        checks += _small(figures)
    return checks


class Figures:
    """Medians of a result; None where it has none."""

    def __init__(self, result: dict[str, Any]) -> None:
        self._result = result
        self.nbytes: int = result["nbytes"]

    def of(self, loader: str, state: str, name: str) -> float | None:
        """A loader's figure."""
        return _median(self._result["loaders"].get(loader, {}).get(state, {}).get(name))

    def rate(self, name: str) -> float | None:
        """A rate of the machine."""
        return _median(self._result["rates"].get(name))

    @property
    def drive_gb_per_s(self) -> float | None:
        """The best median of fio's grid."""
        drive = self._result.get("fio")
        return drive["best_gb_per_s"] if drive else None

    def peers(self, *, owning: bool = False) -> list[str]:
        """Other projects' loaders; with `owning`, those whose tensors are memory of the process's own."""
        loaders = self._result["loaders"].items()
        return [name for name, one in loaders if not one["is_ours"] and (one["owns"] == "yes" or not owning)]


def _median(figure: Any) -> float | None:
    return figure["median"] if isinstance(figure, dict) else figure


def _ratio(name: str, parts: tuple[float | None, float | None], bound: float) -> Iterator[Check]:
    above, below = parts
    if above is not None and below:
        yield Check(name, above / below, ">=", bound)


def _at_most(name: str, value: float | None, bound: float | None) -> Iterator[Check]:
    if value is not None and bound is not None:
        yield Check(name, value, "<=", bound)


def _against_drive(figures: Figures) -> Iterator[Check]:
    for loader, bound in (("reused", 0.95), ("own", 0.9)):
        rate = figures.of(loader, "cold", "return_gb_per_s")
        yield from _ratio(f"cold, {loader}: of fio's best", (rate, figures.drive_gb_per_s), bound)


def _against_peers(figures: Figures) -> Iterator[Check]:
    for state in ("cold", "warm"):
        for peer in figures.peers(owning=state == "warm"):
            speeds = [figures.of(loader, state, "ready_gb_per_s") for loader in ("own", peer)]
            yield from _ratio(f"{state}, own: speed to ready against {peer}", (speeds[0], speeds[1]), 1.0)


def _against_mapping(figures: Figures) -> Iterator[Check]:
    theirs = figures.of("safetensors", "warm", "ready_s")
    if theirs is None:
        return
    bound = 1.05 * theirs
    yield from _at_most(
        "warm, map, no verify: seconds to ready, of safetensors", figures.of("map, no verify", "warm", "ready_s"), bound
    )
    if crc := figures.rate("crc32c_gb_per_s"):
        bound += figures.nbytes / 1e9 / crc
        yield from _at_most(
            "warm, map: seconds to ready, of safetensors and a CRC pass", figures.of("map", "warm", "ready_s"), bound
        )


def _against_memory(figures: Figures) -> Iterator[Check]:
    for loader, rate in (("own", "first_touch"), ("reused", "memcpy")):
        speeds = (figures.of(loader, "warm", "return_gb_per_s"), figures.rate(f"{rate}_gb_per_s"))
        yield from _ratio(f"warm, {loader}: of the rate of {rate.replace('_', ' ')}", speeds, 0.9)


def _processor(figures: Figures) -> Iterator[Check]:
    touch = figures.rate("first_touch_cpu_s_per_gb")
    bounds = {"own": None if touch is None else touch + 0.10, "reused": 0.15}
    for loader in ("own", "own, no verify", "reused"):
        spent = figures.of(loader, "cold", "cpu_return_s_per_gb")
        yield from _at_most(f"cold, {loader}: cpu s/GB", spent, bounds.get(loader))
        for peer in figures.peers(owning=True):
            theirs = figures.of(peer, "cold", "cpu_return_s_per_gb")
            yield from _at_most(f"cold, {loader}: cpu s/GB, {peer}'s", spent, theirs)


def _memory(figures: Figures) -> Iterator[Check]:
    for state in ("cold", "warm"):
        for loader in (*_OURS_OWNED, "map", "auto"):
            peak = figures.of(loader, state, "peak_above_checkpoint_bytes")
            yield from _at_most(f"{state}, {loader}: MiB above the checkpoint", _mebibytes(peak), 256)


def _mebibytes(nbytes: float | None) -> float | None:
    return None if nbytes is None else nbytes / 2**20


def _tensors(figures: Figures) -> Iterator[Check]:
    for name, bound in (("open_to_tensor", 15), ("after_header", 6)):
        value = figures.of("own", "warm", f"{name}_us_per_tensor")
        yield from _at_most(f"warm, own: µs a tensor, {name.replace('_', ' ')}", value, bound)


def _small(figures: Figures) -> Iterator[Check]:
    for loader in ("map", "reused"):
        seconds = figures.of(loader, "warm", "return_s")
        yield from _at_most(f"warm, {loader}: ms", None if seconds is None else seconds * 1e3, 10)
