"""Reading a base from its folder: weights, configuration, tokenizer. Everything is local, nothing is downloaded."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.modeling_layers import GradientCheckpointingLayer

from training.base import attention
from training.errors import ModelRefused
from training.examples.tokens import ChatTokens, Tokenizer


@dataclass(frozen=True)
class Precision:
    """The base's own dtype, and the one that products are made in (None: no autocast, everything in `base`)."""

    base: torch.dtype = torch.bfloat16
    products: torch.dtype | None = torch.bfloat16


_IN_BLOCK = re.compile(r".*\.\d+\..*\.weight")
"""A weight in one of the base's numbered blocks, whatever its family calls them."""
_UNLIMITED = 2**31
"""The context of a base whose config names none: one without position embeddings."""

BF16 = Precision()
FP32 = Precision(torch.float32, None)
PRECISIONS = {"bf16": BF16, "fp32": FP32}


def fastest_precision(device: torch.device) -> Precision:
    """bf16; fp32 on a CPU without AVX-512, where a product in bf16 takes three to six times as long."""
    slow_in_bf16 = device.type == "cpu" and torch.backends.cpu.get_cpu_capability() == "AVX2"
    return FP32 if slow_in_bf16 else BF16


def load_chat_tokens(folder: Path) -> ChatTokens:
    """The tokenizer of a base and its chat template."""
    try:
        return ChatTokens(cast(Tokenizer, AutoTokenizer.from_pretrained(str(folder), local_files_only=True)))
    except (OSError, ValueError) as error:
        raise ModelRefused(f"{folder} has no usable tokenizer ({error})") from error


def read_context_tokens(folder: Path) -> int:
    """The longest sequence that the base in a folder reads, without loading it. ModelRefused when there is none."""
    return context_tokens_of(_read_config(folder))


def linear_layers(folder: Path) -> frozenset[str]:
    """What the linear layers in the base's blocks are called, by the last part of their names, without loading it.

    ModelRefused when its files cannot be read.
    """
    found: set[str] = set()
    try:
        for path in folder.glob("*.safetensors"):
            with safe_open(path, framework="pt") as tensors:
                in_blocks = [name for name in tensors.keys() if _IN_BLOCK.fullmatch(name)]  # noqa: SIM118 - it is no mapping
                found.update(name.split(".")[-2] for name in in_blocks if len(tensors.get_slice(name).get_shape()) == 2)
    except (OSError, SafetensorError) as error:
        raise ModelRefused(f"the model in {folder} cannot be loaded: {error}") from error
    return frozenset(found)


def context_tokens_of(config: Any) -> int:
    """The longest sequence that a model with this configuration reads."""
    return int(getattr(config.get_text_config(), "max_position_embeddings", None) or _UNLIMITED)


def _read_config(folder: Path) -> Any:
    if not (folder / "config.json").exists():
        raise ModelRefused(f"there is no model in {folder}; make it with: burnish model convert")
    try:
        return AutoConfig.from_pretrained(str(folder), local_files_only=True)
    except (OSError, ValueError) as error:
        raise ModelRefused(f"the model in {folder} cannot be loaded: {error}") from error


def load_base(folder: Path, precision: Precision) -> Any:
    """The frozen model with the attention that reads passes. ModelRefused when there is none."""
    config = _read_config(folder)
    try:
        model = AutoModelForCausalLM.from_pretrained(
            str(folder), config=config, dtype=precision.base, attn_implementation=attention.NAME, local_files_only=True
        )
    except (OSError, ValueError, SafetensorError) as error:
        raise ModelRefused(f"the model in {folder} cannot be loaded: {error}") from error
    model.requires_grad_(False)
    return model.eval()


def recompute_layers(model: Any) -> None:
    """Have every layer keep its input alone, and compute the rest again in the backward pass.

    ModelRefused when the model has no layers that transformers can run again.
    """
    try:
        model.gradient_checkpointing_enable()
    except ValueError as error:
        raise ModelRefused(f"{error} Set training.recompute_activations to false.") from error
    for layer in model.modules():
        if isinstance(layer, GradientCheckpointingLayer):
            layer.training = True  # itself, which is when it does; what is in it stays as it is, without dropout
