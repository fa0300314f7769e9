"""Measurements in processes of their own, seen from the process that starts them (child.py has the other side)."""

import json
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

_CHILD = Path(__file__).with_name("child.py")
DEADLINE_S = 600.0


def measure(
    job: str, arguments: dict[str, Any], before_go: Callable[[], None], deadline_s: float = DEADLINE_S
) -> dict[str, Any]:
    """Start a child, let it prepare, call `before_go`, let it run. A child that fails, or is not done by the deadline,
    gives {"error": its last words}.

    What `before_go` raises ends the child and is raised.
    """
    command = [sys.executable, str(_CHILD)]
    with (
        tempfile.TemporaryFile("w+") as words,
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=words, text=True) as process,
    ):
        timer = threading.Timer(deadline_s, process.kill)
        timer.start()
        try:
            answer = _converse(process, {"job": job, **arguments}, before_go)
        except BaseException:
            process.kill()
            raise
        finally:
            timer.cancel()
        process.wait()
        return answer if answer is not None else {"error": _last_words(words, process.returncode)}


def _converse(
    process: "subprocess.Popen[str]", request: dict[str, Any], before_go: Callable[[], None]
) -> dict[str, Any] | None:
    """The child's result, or None where it went without one."""
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        print(json.dumps(request), file=process.stdin, flush=True)
        if not process.stdout.readline():
            return None
        before_go()
        print("go", file=process.stdin, flush=True)
        line = process.stdout.readline()
    except BrokenPipeError:
        return None
    return json.loads(line) if line else None


def _last_words(words: IO[str], status: int | None) -> str:
    words.seek(0)
    lines = [line for line in words.read().splitlines() if line.strip()]
    return f"ended with status {status}: {lines[-1][:500] if lines else 'no words'}"
