"""Ranks of a tensor-parallel group load their parts of one checkpoint, and together all of it."""

import pytest
import torch
from checkpoints import evict

import sllm_store
from sllm_store import load_tensors
from sllm_store.errors import InvalidArgumentError

PLAN = {"layers.*.q_proj": "colwise", "layers.*.o_proj": "rowwise", "layers.*.experts": 1}
DIMS = {"q_proj.weight": 0, "q_proj.bias": 0, "o_proj.weight": 1, "experts": 1}


def weights() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    made = {"model.norm.weight": torch.randn(64, generator=generator)}
    for layer in range(3):
        prefix = f"model.layers.{layer}"
        made |= {
            f"{prefix}.q_proj.weight": torch.randn(1032, 517, generator=generator),
            f"{prefix}.q_proj.bias": torch.randn(1032, generator=generator),
            f"{prefix}.o_proj.weight": torch.randn(517, 1032, generator=generator),
            f"{prefix}.o_proj.bias": torch.randn(517, generator=generator),
            f"{prefix}.experts": torch.randn(2, 2048, 300, generator=generator),
        }
    return made


@pytest.fixture(scope="module", params=["converted", "plain"])
def folder(request, tmp_path_factory):
    path = tmp_path_factory.mktemp(request.param) / "it"
    if request.param == "converted":
        sllm_store.save_tensors(weights(), path)
    else:
        from safetensors.torch import save_file

        path.mkdir()
        save_file(weights(), path / "model.safetensors")
    return path


def dimension(name: str) -> int | None:
    return next((dim for suffix, dim in DIMS.items() if name.endswith(suffix)), None)


@pytest.mark.parametrize("memory", ["own", "map"])
@pytest.mark.parametrize("world", [1, 2, 3, 5])
def test_all_ranks_together_have_every_element_once(folder, world, memory):
    ranks = [load_tensors(folder, shard=(rank, world), tp_plan=PLAN, memory=memory) for rank in range(world)]
    for name, whole in weights().items():
        parts = [rank[name] for rank in ranks]
        dim = dimension(name)
        if dim is None or world == 1:
            assert all(torch.equal(part, whole) for part in parts), name
        else:
            assert [part.shape for part in parts] == [part.shape for part in whole.chunk(world, dim)], name
            assert torch.equal(torch.cat(parts, dim), whole), name
        for part in parts:
            assert part.is_contiguous()
            assert part.untyped_storage().nbytes() == part.nbytes
            assert part.data_ptr() % 64 == 0


def test_a_rank_reads_its_rows_alone_and_the_bytes_in_place_once(folder):
    evict(folder)
    reports = []
    plan = {"layers.*.q_proj": "colwise"}
    names = [name for name in weights() if name.endswith("q_proj.weight")]
    load_tensors(folder, names=names, shard=(1, 4), tp_plan=plan, on_report=reports.append)
    # Whole spans of 1 MiB at either end of each tensor's quarter of 0.53 MB.
    assert reports[0].nbytes == sum(weights()[name].nbytes for name in names) // 4
    assert reports[0].bytes_read <= len(names) * (2 << 20)


def test_a_damaged_span_is_found_by_the_slices_that_touch_it(tmp_path):
    sllm_store.save_tensors(weights(), tmp_path / "it")
    checkpoint = sllm_store.open_checkpoint(tmp_path / "it")
    location = checkpoint.locate("model.layers.1.q_proj.weight")
    path = tmp_path / "it" / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[location.offset + location.tensor.nbytes - 1] ^= 1
    path.write_bytes(data)
    names = ["model.layers.1.q_proj.weight"]
    with pytest.raises(sllm_store.errors.CorruptCheckpointError, match="crc32c"):
        load_tensors(tmp_path / "it", names=names, shard=(3, 4), tp_plan=PLAN)


def test_a_shard_without_a_plan_and_a_rank_that_is_none_are_refused(folder):
    with pytest.raises(InvalidArgumentError, match="go together"):
        load_tensors(folder, shard=(0, 2))
    with pytest.raises(InvalidArgumentError, match="no rank 2 in a world of 2"):
        load_tensors(folder, shard=(2, 2), tp_plan=PLAN)
    with pytest.raises(InvalidArgumentError, match="unknown style"):
        load_tensors(folder, shard=(0, 2), tp_plan={"layers.*.q_proj": "sideways"})
