"""The oracle of the soak: the CRC-32 (zlib's) of each tensor of each folder, as safetensors itself reads it.

Its arguments are folders of one file each; it prints one JSON object: folder to tensor to CRC.
"""

import json
import sys
import zlib
from pathlib import Path

from safetensors import deserialize


def main() -> None:
    """Read every folder."""
    print(json.dumps({folder: digests(Path(folder)) for folder in sys.argv[1:]}))


def digests(folder: Path) -> dict[str, int]:
    """Tensor to CRC."""
    (file,) = folder.glob("*.safetensors")
    return {name: zlib.crc32(tensor["data"]) for name, tensor in deserialize(file.read_bytes())}


if __name__ == "__main__":
    main()
