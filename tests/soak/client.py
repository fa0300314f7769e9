"""A client of the store that never rests: it loads random checkpoints until it is told to stop, and compares all bytes.

Its arguments: the store's socket, a JSON file with each folder's digests by tensor, and a seed. It prints a line for
each checkpoint whose bytes were compared, and stops when its stdin ends. Some tensors are kept while others are
loaded, and compared again.
"""

import json
import random
import select
import sys
import zlib
from pathlib import Path
from typing import Any

import sllm_store
from sllm_store.errors import OutOfMemoryError

KEEPS = 0.3


def main() -> None:
    """Load and compare, one checkpoint after another."""
    socket, references, seed = sys.argv[1], json.loads(Path(sys.argv[2]).read_text()), int(sys.argv[3])
    choice = random.Random(seed)
    kept: tuple[str, dict[str, Any]] | None = None
    while not select.select([sys.stdin], [], [], 0)[0]:
        folder = choice.choice(list(references))
        try:
            tensors = sllm_store.load_tensors(folder, framework=None, store=socket)
        except OutOfMemoryError:
            # Others lease so much that there is no room: let go of what is held, and try something else.
            say("full", folder)
            kept = None
            continue
        compare(folder, tensors, references[folder])
        if kept is not None:
            compare(*kept, references[kept[0]])
        kept = (folder, tensors) if choice.random() < KEEPS else None
        del tensors


def compare(folder: str, tensors: dict[str, Any], reference: dict[str, int]) -> None:
    """Every byte of every tensor with what another process read from the file."""
    found = {name: zlib.crc32(tensor.copy_to_host()) for name, tensor in tensors.items()}
    say("equal" if found == reference else "different", folder)


def say(what: str, folder: str) -> None:
    """One line to who counts."""
    print(what, folder, flush=True)


if __name__ == "__main__":
    main()
