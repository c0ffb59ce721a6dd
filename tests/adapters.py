"""PEFT adapters made for tests: random weights on every linear layer of a Llama-shaped base.

Random adapters are no better than the base, but each moves the log-probs its own way, so that an answer shows
which adapter made it. Real adapters come from training.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
MLP = ("gate_proj", "up_proj", "down_proj")
ALL_LINEAR = ATTENTION + MLP


def make_adapter(
    directory: Path,
    base_dir: Path,
    *,
    seed: int,
    rank: int = 16,
    scale: float = 0.1,
    target_modules: tuple[str, ...] = ALL_LINEAR,
) -> Path:
    """Write `adapter_model.safetensors` and `adapter_config.json` to `directory`, and return it.

    `scale` is the size of the change each layer makes, as a share of the base layer's own typical output: 0 changes
    nothing, 0.1 moves a token's log-prob by some tenths, 1 leaves nothing of the base. The same seed gives the same
    bytes.
    """
    config = json.loads((base_dir / "config.json").read_text())
    generator = torch.Generator().manual_seed(seed)
    tensors: dict[str, torch.Tensor] = {}
    for layer in range(config["num_hidden_layers"]):
        for module in target_modules:
            n_in, n_out = linear_shape(config, module)
            prefix = f"base_model.model.model.layers.{layer}.{_block(module)}.{module}"
            lora_a = torch.randn(rank, n_in, generator=generator) * n_in**-0.5
            lora_b = torch.randn(n_out, rank, generator=generator) * scale * rank**-0.5
            tensors[f"{prefix}.lora_A.weight"] = lora_a.to(torch.bfloat16)
            tensors[f"{prefix}.lora_B.weight"] = lora_b.to(torch.bfloat16)
    directory.mkdir(parents=True, exist_ok=True)
    save_file(tensors, directory / "adapter_model.safetensors", metadata={"format": "pt"})
    (directory / "adapter_config.json").write_text(json.dumps(peft_config(rank, target_modules), indent=2))
    return directory


def linear_shape(config: Mapping[str, Any], module: str) -> tuple[int, int]:
    """(inputs, outputs) of a linear layer of a Llama-shaped model with this `config.json`."""
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    head = config.get("head_dim") or hidden // config["num_attention_heads"]
    queries, keys = config["num_attention_heads"] * head, config["num_key_value_heads"] * head
    shapes = {
        "q_proj": (hidden, queries),
        "k_proj": (hidden, keys),
        "v_proj": (hidden, keys),
        "o_proj": (queries, hidden),
        "gate_proj": (hidden, inner),
        "up_proj": (hidden, inner),
        "down_proj": (inner, hidden),
    }
    return shapes[module]


def _block(module: str) -> str:
    return "self_attn" if module in ATTENTION else "mlp"


def peft_config(rank: int, target_modules: tuple[str, ...]) -> dict[str, Any]:
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": "base",
        "r": rank,
        "lora_alpha": rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "use_rslora": False,
        "use_dora": False,
        "fan_in_fan_out": False,
        "modules_to_save": None,
        "target_modules": sorted(target_modules),
        "inference_mode": True,
    }
