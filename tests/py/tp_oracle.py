"""What transformers gives each tensor-parallel rank, in a process that has never seen our code.

Arguments: a folder, then the kind of parallelism and the size of each world, as tp.2 or ep.2. It leaves in the folder
MODEL.safetensors, the whole tensors of a tiny model; MODEL.json, its plans; and MODEL.KIND.WORLD.RANK.safetensors, the
tensors of which that rank has a part. The other ranks do not run: torch's fake process group only counts them, and
transformers' own reader cuts a part from the whole tensor. styles.json has the names of all styles.
"""

import json
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor
from torch.testing._internal.distributed.fake_pg import FakeStore
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.distributed import DistributedConfig
from transformers.distributed.expert_parallel import apply_expert_parallelism
from transformers.distributed.sharding_utils import DtensorShardOperation
from transformers.distributed.tensor_parallel import ALL_PARALLEL_STYLES, apply_tensor_parallelism

SIZES = {
    "vocab_size": 37,
    "hidden_size": 24,
    "intermediate_size": 20,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 6,
    "head_dim": 4,
    "tie_word_embeddings": False,
}
EXPERTS = {"num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 13}
CONFIGS = {
    "llama": AutoConfig.for_model("llama", attention_bias=True, mlp_bias=True, **SIZES),
    "qwen3_moe": AutoConfig.for_model("qwen3_moe", mlp_only_layers=[1], **EXPERTS, **SIZES),
    "aria_text": AutoConfig.for_model("aria_text", moe_num_experts=6, **SIZES),
}


def empty_model(config: PreTrainedConfig) -> PreTrainedModel:
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config)


def shard(model: PreTrainedModel, kind: str, world: int) -> None:
    mesh = init_device_mesh("cpu", (world,), mesh_dim_names=("tp",))
    if kind == "tp":
        plan, _, _ = model._resolve_parallel_plans(DistributedConfig(tp_size=world))
        apply_tensor_parallelism(model, mesh, plan)
    else:
        _, plan, _ = model._resolve_parallel_plans(DistributedConfig(tp_size=world, ep_size=world))
        apply_expert_parallelism(model, mesh, mesh, plan)


def parts(model: PreTrainedModel, whole: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {
        name: DtensorShardOperation(param).shard_tensor(whole[name]).contiguous()
        for name, param in model.named_parameters()
        if isinstance(param, DTensor)
    }


def consult(name: str, folder: Path, worlds: list[str]) -> None:
    model = empty_model(CONFIGS[name])
    whole = {key: torch.rand(param.shape) for key, param in model.named_parameters()}
    save_file(whole, folder / f"{name}.safetensors")
    plans = {"tp": model.tp_plan, "ep": model.ep_plan, "base": model.config.base_model_tp_plan}
    (folder / f"{name}.json").write_text(json.dumps(plans))
    for kind, world in (text.split(".") for text in worlds):
        for rank in range(int(world) if plans[kind] else 0):
            dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=int(world))
            sharded = empty_model(CONFIGS[name])
            shard(sharded, kind, int(world))
            save_file(parts(sharded, whole), folder / f"{name}.{kind}.{world}.{rank}.safetensors")
            dist.destroy_process_group()


folder = Path(sys.argv[1])
(folder / "styles.json").write_text(json.dumps(list(ALL_PARALLEL_STYLES)))
for name in CONFIGS:
    consult(name, folder, sys.argv[2:])
