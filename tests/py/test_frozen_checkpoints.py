"""Checkpoints that earlier versions wrote stay readable for ever; those in tests/data are never made again."""

import hashlib
import json
from pathlib import Path

import pytest

from sllm_store import load_tensors, open_checkpoint
from sllm_store.checking import verify_checkpoint

DATA = Path(__file__).parent.parent / "data"
EXPECTED = json.loads((DATA / "expected.json").read_text())


@pytest.mark.parametrize("name", EXPECTED)
def test_reads_what_was_written_then(name):
    checkpoint = open_checkpoint(DATA / name)
    tensors = load_tensors(DATA / name, raw=True)
    assert tensors.keys() == EXPECTED[name].keys()
    for tensor, (dtype, shape, digest) in EXPECTED[name].items():
        stored = checkpoint.locate(tensor).tensor
        assert (stored.dtype, list(stored.shape)) == (dtype, shape)
        assert hashlib.sha256(tensors[tensor].numpy().tobytes()).hexdigest() == digest


@pytest.mark.parametrize("name", EXPECTED)
def test_every_byte_still_has_its_crc(name):
    assert verify_checkpoint(DATA / name).bad == ()
