"""All sections of gpu.py in their order, each within its share of the time, and the result after each."""

import re
import shutil
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import building
import children
import device_tables
from brought import Brought
from budget import Budget
from device_checkpoint import DeviceFiles, llama_of, look_around, make_checkpoint
from device_ladder import STEPS
from device_loaders import LOADERS, DeviceLoader, is_simulated
from device_machine import describe_device, file_system_of
from device_summary import summarise_loads, summarise_speeds, summarise_steps
from measuring import make_console, save

from sllm_store import _core, errors

DEVICE = "cuda:0"
# Of each state; the first of all is a process's first load.
_COUNTS = {"cold": 4, "warm": 4}
_SECTION_S = {"speeds": 75.0, "steps": 60.0, "ours": 30.0, "peers": 25.0, "c++": 90.0}
# Beside what a section measures: a Python that imports torch and starts the device, and an end after the last run.
_START_S, _GRACE_S = 10.0, 20.0
_PATH = re.compile(r"(?<![\w.])/(?:[\w.+-]+/)+")

console = make_console()


@dataclass(frozen=True)
class Places:
    """Where checkpoints are made, and where results go."""

    scratch: Path
    output: Path


@dataclass
class Run:
    """One run of everything."""

    brought: Brought
    budget: Budget
    places: Places
    tests: dict[str, Any]
    result: dict[str, Any] = field(default_factory=dict)

    def all(self, *, most_bytes: int | None) -> int:
        """Every section; the exit status."""
        try:
            device = _core.find_device(DEVICE)
        except errors.SllmError as error:
            console.print(f"no device to measure: {error}")
            return 1
        self.result = {
            "command": "python benchmarks/gpu.py",
            **describe_device(device),
            "file_system": file_system_of(self.places.scratch),
            "tests": self.tests,
            "missing": self.brought.missing,
            "loaders": {},
        }
        folder = self.places.scratch / "checkpoint"
        shutil.rmtree(folder, ignore_errors=True)
        try:
            self._measure(self._make(folder, device.free_bytes, most_bytes))
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        self._test_cpp()
        self._save()
        console.print(device_tables.loads(self.result))
        console.print(device_tables.steps(self.result))
        device_tables.print_checks(self.result, console.print)
        return 0

    def _make(self, folder: Path, free_bytes: int, most_bytes: int | None) -> DeviceFiles:
        folder.mkdir(parents=True)
        llama = None
        if not is_simulated():
            room = look_around(folder, free_bytes)
            nbytes = min(room.checkpoint_bytes(), most_bytes or room.checkpoint_bytes())
            llama = llama_of(nbytes)
            self.result["room"] = room.as_dict()
        files = make_checkpoint(folder / "made", llama, with_lanes=not is_simulated())
        self.result |= {"nbytes": files.nbytes, "tensors": files.tensors, "checked_by": files.digest_kind}
        self._say(f"made {files.nbytes / 1e9:.3f} GB in {files.tensors} tensors")
        return files

    def _measure(self, files: DeviceFiles) -> None:
        self._take("speeds", files, summarise_speeds)
        ours = [loader for loader in LOADERS.values() if loader.is_ours]
        peers = [loader for loader in LOADERS.values() if not loader.is_ours]
        for loader in ours if not is_simulated() else ours[:1]:  # the others need torch's devices
            self._load(loader, loader.name, files)
        self._take("steps", files, partial(summarise_steps, STEPS, files.nbytes))
        for loader in peers if not is_simulated() else ():
            self._load(loader, loader.name, files)
        self._load(ours[0], f"{ours[0].name}, again", files)

    def _take(self, section: str, files: DeviceFiles, summarise: Any) -> None:
        found = self._child(section, _SECTION_S[section], {"files": files.as_dict(), "device": DEVICE})
        self.result[section] = found if "error" in found else summarise(found)
        self._say(f"{section}: {found.get('error') or device_tables.line(section, self.result)}")
        self._save()

    def _load(self, loader: DeviceLoader, name: str, files: DeviceFiles) -> None:
        site = self.brought.peers.get(loader.package)
        if not loader.is_ours and site is None and not building.module_is_there(loader.package.replace("-", "_")):
            self._note(name, {"failure": "not installed here, and not brought along"})
            return
        limits = {"counts": _COUNTS}
        arguments = {"loader": loader.name, "files": files.as_dict(), "device": DEVICE, "limits": limits}
        arguments["site"] = str(site) if site else None
        found = self._child(name, _SECTION_S["ours" if loader.is_ours else "peers"], arguments)
        if "error" in found:
            self._note(name, {"failure": found["error"]})
            return
        figures = summarise_loads(found["runs"], files.nbytes)
        self._note(name, {"is_ours": loader.is_ours, "version": found["version"], **figures})

    def _note(self, name: str, figures: dict[str, Any]) -> None:
        self.result["loaders"][name] = figures
        self._say(f"{name}: {device_tables.load_line(figures)}")
        self._save()

    def _child(self, section: str, seconds: float, arguments: dict[str, Any]) -> dict[str, Any]:
        allowed = self.budget.take(section, seconds)
        if not allowed:
            return {"error": "no time was left"}
        measured_s = max(1.0, allowed - _START_S)
        if "limits" in arguments:
            arguments["limits"]["seconds"] = measured_s
        else:
            arguments["seconds"] = measured_s
        job = {"speeds": "device speeds", "steps": "device steps"}.get(section, "device load")
        found = children.measure(job, arguments, lambda: None, allowed + _GRACE_S)
        return {"error": without_paths(found["error"])} if "error" in found else found

    def _test_cpp(self) -> None:
        if is_simulated():
            return
        if not building.has_googletest():
            self.tests["c++"] = {"error": "GoogleTest is not installed here"}
            return
        seconds = self.budget.take("c++ tests", _SECTION_S["c++"])
        if seconds:
            try:
                program = building.build_tests(self.places.scratch)
                self.tests["c++"] = building.run_cpp_tests(program, seconds)
            except building.BuildError as error:
                self.tests["c++"] = {"error": str(error)[-500:]}

    def _save(self) -> None:
        self.result["cuts"] = self.budget.cuts
        self.result["spent_s"] = round(self.budget.spent_s, 1)
        self.result["checks"] = device_tables.checks(self.result)
        save(file_name(self.result["gpu"]), self.result, self.places.output)

    def _say(self, text: str) -> None:
        console.print(f"[dim]{self.budget.spent_s:.0f} s:[/] {text}")


def file_name(model: str) -> str:
    """The name of the result of a model of GPU."""
    return "gpu-" + re.sub(r"[^a-z0-9]+", "-", model.lower()).strip("-")


def without_paths(text: str) -> str:
    """A message without the folders in it, which are one machine's."""
    return _PATH.sub("", text)
