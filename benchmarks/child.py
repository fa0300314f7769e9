"""A measurement in a process of its own.

1. One line comes in on stdin: the job and its arguments. The job prepares: it imports, allocates, warms up.
2. A line goes out: ready. The parent puts the page cache into the state that it wants.
3. A line comes in: go. The job runs.
4. A line goes out: the result. What libraries print goes to stderr, beside a traceback where something failed.
"""

import json
import os
import sys
from collections.abc import Callable
from typing import Any, TextIO

import device_ladder
import device_loads
import device_speeds
import ladder
import measured_load
import rates
import remote_loads

JOBS: dict[str, Callable[..., Callable[[], dict[str, Any]]]] = {
    "device load": device_loads.prepare,
    "device speeds": device_speeds.prepare,
    "device steps": device_ladder.prepare,
    "load": measured_load.prepare,
    "rates": rates.prepare,
    "remote load": remote_loads.prepare,
    "step": ladder.prepare,
}


def main() -> None:
    """Serve the one job that this process was started for."""
    answers = take_stdout()
    request = json.loads(sys.stdin.readline())
    run = JOBS[request.pop("job")](**request)
    say(answers, {"ready": True})
    if sys.stdin.readline().strip() == "go":
        say(answers, run())


def take_stdout() -> TextIO:
    """The real stdout, for answers alone: whatever else prints, C++ included, prints to stderr from here on."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return answers


def say(answers: TextIO, message: dict[str, Any]) -> None:
    """One line to the parent."""
    answers.write(json.dumps(message) + "\n")
    answers.flush()


if __name__ == "__main__":
    main()
