"""The store's daemon and its clients, as processes of a benchmark."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, Self

_CHILD = Path(__file__).with_name("store_child.py")
_PROGRAM = [sys.executable, "-c", "from sllm_store.cli import main; main()"]
_DEADLINE_S = 60.0


class Daemon:
    """A store that serves on a socket of its own until the end of the `with`."""

    def __init__(self, folder: Path, pool_bytes: int, *options: str) -> None:
        self.socket = folder / "store.sock"
        self._environment = {**os.environ, "SLLM_STORE": str(self.socket)}
        ready = folder / "ready.sock"
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified:
            notified.bind(str(ready))
            notified.settimeout(_DEADLINE_S)
            command = [*_PROGRAM, "serve", "--pool", str(pool_bytes), "--socket", str(self.socket), *options]
            self._process = subprocess.Popen(command, env={**self._environment, "NOTIFY_SOCKET": str(ready)})
            while b"READY=1" not in notified.recv(4096):
                pass
        ready.unlink()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._process.terminate()
        self._process.wait(_DEADLINE_S)

    def ask(self, *command: str) -> dict[str, Any]:
        """What one of the program's commands says."""
        answer = subprocess.check_output([*_PROGRAM, *command, "--json"], text=True, env=self._environment)
        return json.loads(answer)

    def wait_until_warm(self) -> None:
        """Until the whole pool has been touched."""
        while (status := self.ask("status"))["touched_bytes"] < status["pool_bytes"]:
            pass

    def pss_bytes(self) -> int:
        """Its share of the memory that it maps."""
        lines = Path(f"/proc/{self._process.pid}/smaps_rollup").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))


class Client:
    """A fresh process with its imports done."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(_CHILD)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(_DEADLINE_S)

    def start(self, action: str, **arguments: Any) -> None:
        """Have it begin."""
        assert self._process.stdin is not None
        print(json.dumps({"do": action, **arguments}), file=self._process.stdin, flush=True)

    def finish(self) -> dict[str, Any]:
        """Its answer to what was begun."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the client ended with status {self._process.wait()}")
        return json.loads(line)

    def do(self, action: str, **arguments: Any) -> dict[str, Any]:
        """Begin and finish."""
        self.start(action, **arguments)
        return self.finish()
