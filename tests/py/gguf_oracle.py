"""What transformers itself makes of GGUF files, in a process that has never seen our code.

Arguments: pairs of a GGUF file and the dtype to load it in. Beside each file it leaves NAME.safetensors, all
tensors of the model with tied ones written out, and NAME.tokenizer/.
"""

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

for path, dtype in zip(map(Path, sys.argv[1::2]), sys.argv[2::2], strict=True):
    model = AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=None if dtype == "default" else getattr(torch, dtype)
    )
    state = {name: tensor.clone().contiguous() for name, tensor in model.state_dict().items()}
    save_file(state, path.with_suffix(".safetensors"))
    if "gpt2" not in path.name:
        tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
        tokenizer.save_pretrained(path.with_suffix(".tokenizer"))
