"""Where a checkpoint's bytes come from, as the store sees it."""

import asyncio
import os
from concurrent.futures import ThreadPoolExecutor

import pytest
import raw_safetensors
from raw_safetensors import raw

import sllm_store
from sllm_store.errors import CheckpointNotFoundError, InvalidArgumentError
from sllm_store.store_paths import is_url
from sllm_store.tiers import LocalSource, Sources


@pytest.fixture
def executor():
    with ThreadPoolExecutor(1) as threads:
        yield threads


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "plain").mkdir()
    raw_safetensors.write(tmp_path / "plain" / "model.safetensors", {"w": raw("U8", [5000], 1)})
    return tmp_path / "plain"


def test_a_local_checkpoint_is_current_until_a_file_or_its_folder_changes(folder, executor):
    source = LocalSource(str(folder), executor)
    assert source.is_current()
    os.utime(folder / "model.safetensors", ns=(1, 1))
    assert not source.is_current()
    source = LocalSource(str(folder), executor)
    raw_safetensors.write(folder / "another.safetensors", {"v": raw("U8", [5], 1)})
    assert not source.is_current()
    (folder / "model.safetensors").unlink()
    assert not source.is_current()


def test_a_description_has_each_files_header_and_the_manifest(folder, executor, tmp_path):
    sllm_store.convert(folder, tmp_path / "it", partition_size=4096)
    source = LocalSource(str(tmp_path / "it"), executor)
    described = source.described()
    assert described.manifest == (tmp_path / "it" / "sllm.json").read_bytes()
    for file, part in zip(described.files, source.checkpoint.partitions, strict=True):
        content = part.path.read_bytes()
        assert file.header == content[: 8 + int.from_bytes(content[:8], "little")]
        assert (file.name, file.identity) == (part.path.name, part.identity)
    assert LocalSource(str(folder), executor).described().manifest == b""


def test_sources_open_absolute_paths(folder, executor):
    opened = asyncio.run(Sources(executor).open(str(folder)))
    assert (opened.tier, list(opened.checkpoint.tensors)) == ("disk", ["w"])
    with pytest.raises(InvalidArgumentError, match="no absolute path"):
        asyncio.run(Sources(executor).open("it"))
    with pytest.raises(CheckpointNotFoundError):
        asyncio.run(Sources(executor).open(str(folder / "absent")))


def test_urls_are_told_from_paths():
    assert is_url("s3://bucket/model")
    assert is_url("https://host/model")
    assert not is_url("/models/it")
