"""A client of the store in a process of its own. Each line on stdin is what to do, {"do": NAME, ...}; each is answered
with a line of JSON. It ends with its stdin.
"""

import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from child import say, take_stdout

import sllm_store

_PAGE = 4096
_SPARE_BYTES = 64 << 20


class Client:
    """The tensors that this process has, and what can be done to them."""

    def __init__(self) -> None:
        self.tensors: dict[str, torch.Tensor] = {}
        self._memory: sllm_store.HostBuffer | None = None

    def allocate(self, folder: str) -> dict[str, Any]:
        """Memory for the next loads without a store, as a load leaves it: in huge pages where those are to be had."""
        report = self.load(folder, None, touches=False)
        self._memory = sllm_store.HostBuffer(report["nbytes"] + _SPARE_BYTES)
        self.load(folder, None, touches=False)
        return self.drop()

    def load(self, folder: str, store: str | None, *, touches: bool = True) -> dict[str, Any]:
        """Load, through the store or without, and, if wanted, touch every page once; seconds until either is done."""
        reports: list[sllm_store.LoadReport] = []
        memory = "own" if store is not None or self._memory is None else self._memory
        start = time.perf_counter()
        self.tensors = sllm_store.load_tensors(folder, store=store, memory=memory, on_report=reports.append)
        usable = time.perf_counter()
        touched = sum(int(part[::_PAGE].sum()) for part in self._parts()) if touches else 0
        end = time.perf_counter()
        report = {name: value for name, value in reports[0].as_dict().items() if name != "path"}
        return {
            "usable_s": usable - start,
            "touched_s": end - start,
            "tensors": len(self.tensors),
            "nbytes": reports[0].nbytes,
            "sum": touched,
            "report": report,
        }

    def forward(self) -> dict[str, Any]:
        """One token through every matrix, in the order of the model: what a first forward pass reads of the weights."""
        state = torch.ones(1, dtype=torch.bfloat16)
        start = time.perf_counter()
        for tensor in self.tensors.values():
            if tensor.dim() == 2:
                state = torch.nn.functional.linear(state[:1].expand(1, tensor.shape[1]), tensor)[0]
        return {"forward_s": time.perf_counter() - start, "result": float(state[0])}

    def pss(self) -> dict[str, Any]:
        """The process's share of the memory that it maps."""
        lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
        return {"pss_bytes": next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))}

    def drop(self) -> dict[str, Any]:
        """Let all tensors go."""
        self.tensors = {}
        return {}

    def _parts(self) -> Iterator[torch.Tensor]:
        for tensor in self.tensors.values():
            yield tensor.view(-1).view(torch.uint8)


def main() -> None:
    """Do what each line says."""
    torch.set_num_threads(1)
    answers = take_stdout()
    client = Client()
    for line in sys.stdin:
        request = json.loads(line)
        action: Callable[..., dict[str, Any]] = getattr(client, request.pop("do"))
        say(answers, action(**request))


if __name__ == "__main__":
    main()
