"""What does loading onto this machine's GPU reach? One command, which needs no network, no root and no fio.

    python benchmarks/gpu.py [--wheels FOLDER] [--commit COMMIT] [--minutes 8] [--output FOLDER]
    python benchmarks/gpu.py --pack FOLDER

The machine needs a Python of 3.11 or newer with a torch that sees the GPU, scikit-build-core, pybind11, cmake, a
compiler, and what brought.py lists as tools. What it lacks of the tools, and the loaders to compare with, are brought
along as wheels: `--pack` downloads them, on a machine that has an index, for Python 3.12 on x86-64. What is missing is
named in the results, and what needs it is left out.

1. The package is built and installed into build/gpu, with that Python, without an index. Tests marked `gpu` run.
2. A checkpoint of random tensors is made, as large as device, memory, drive and time allow.
3. Each measurement runs in a process of its own (device_speeds.py, device_loads.py and device_ladder.py say what is
   taken), in turn: the drive and the link, our loads, the staircase, other projects' loaders, and ours once more, so
   that a machine that changed meanwhile is noticed.
4. The contract of devices (C++), where GoogleTest is there and time is left.

Prints as it goes and writes results/gpu-MODEL.json after each section. Sections that were cut short are named there.
With --simulated, the same on a tiny checkpoint over the simulated driver (make cuda-sim prints its path), which tests
this script and measures nothing; --installed takes the package that this Python has.
"""

import argparse
import os
import sys
from pathlib import Path

import brought
import building
from budget import Budget

_TEST_S = 90.0


def main() -> int:
    """Prepare, test, measure; the exit status."""
    options = _parser().parse_args()
    if options.pack:
        return brought.pack(options.pack)
    budget = Budget(options.minutes * 60)
    scratch = options.scratch.resolve()
    if options.simulated:
        os.environ["SLLM_CUDA_DRIVER"] = str(options.simulated.resolve())
    if options.commit:
        os.environ["SLLM_COMMIT"] = options.commit
    there = brought.install(options.wheels, scratch)
    _put_on_path(there.tools)
    for package, reason in there.missing.items():
        print(f"missing: {package}: {reason}", flush=True)
    if lacking := [wheel.package for wheel in brought.NEEDED if not building.module_is_there(wheel.module)]:
        print(f"cannot measure without {', '.join(lacking)}: bring wheels along (--pack, --wheels)", file=sys.stderr)
        return 1
    if not options.installed:
        try:
            _put_on_path(building.build_package(scratch))
        except building.BuildError as error:
            print(error, file=sys.stderr)
            return 1
        print(f"built the package, {budget.spent_s:.0f} s", flush=True)
    import device_run

    tests = {} if options.simulated else {"python": _python_tests(scratch, budget)}
    run = device_run.Run(there, budget, device_run.Places(scratch, options.output), tests)
    return run.all(most_bytes=None if options.gib is None else int(options.gib * 2**30))


def _python_tests(scratch: Path, budget: Budget) -> dict[str, object]:
    if not building.module_is_there("pytest"):
        return {"error": "pytest is missing"}
    return building.run_python_tests(scratch, budget.take("python tests", _TEST_S))


def _put_on_path(folder: Path) -> None:
    """For this process and all that it starts."""
    if not folder.exists():
        return
    sys.path.insert(0, str(folder))
    entries = [str(folder), *filter(None, [os.environ.get("PYTHONPATH")])]
    os.environ["PYTHONPATH"] = os.pathsep.join(entries)
    os.environ["PATH"] = os.pathsep.join([str(folder / "bin"), os.environ.get("PATH", os.defpath)])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--pack", type=Path, metavar="FOLDER", help="download wheels to bring along, and do nothing else"
    )
    parser.add_argument("--wheels", type=Path, metavar="FOLDER", help="the wheels that were brought along")
    parser.add_argument("--commit", help="what is measured, where git cannot say it; or $SLLM_COMMIT")
    parser.add_argument("--minutes", type=float, default=8.0, help="what all of it may take")
    parser.add_argument("--gib", type=float, help="the most that the checkpoint may have")
    parser.add_argument("--scratch", type=Path, default=brought.ROOT / "build/gpu", help="on the drive to be measured")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results", help="where results go")
    parser.add_argument("--installed", action="store_true", help="build nothing, take what this Python has")
    parser.add_argument("--simulated", type=Path, metavar="DRIVER", help="the simulated driver's library")
    return parser


if __name__ == "__main__":
    sys.exit(main())
