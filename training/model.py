"""The adapter for model loading: one frozen base, with named LoRA adapters switched on and off over it.

The policy is an adapter, the reference the base with adapters off.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from training import attention
from training.algorithms import AdapterRecipe
from training.batches import Pass
from training.errors import ModelRefused
from training.tokens import ChatTokens, Tokenizer


@dataclass(frozen=True)
class Precision:
    """The base's own dtype, and the one that products are made in (None: no autocast, everything in `base`)."""

    base: torch.dtype = torch.bfloat16
    products: torch.dtype | None = torch.bfloat16


BF16 = Precision()
FP32 = Precision(torch.float32, None)


class SharedBase:
    """A frozen base on one device and the adapters over it, which are kept in fp32."""

    def __init__(self, folder: Path, device: torch.device, precision: Precision = BF16) -> None:
        attention.register()
        self.device = device
        self._precision = precision
        self._base = _load(folder, precision).to(device)
        self._peft: PeftModel | None = None

    # Adapters ----------------------------------------------------------------------------------------------------
    def add_adapter(self, name: str, recipe: AdapterRecipe, *, seed: int) -> None:
        """A fresh adapter that changes nothing yet: A random from `seed`, B zero."""
        torch.manual_seed(seed)
        self._add(name, recipe)

    def load_adapter(self, name: str, folder: Path) -> None:
        """An adapter as it was published, frozen."""
        config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        recipe = AdapterRecipe(
            kind="rslora" if config.get("use_rslora") else "lora",
            rank=config["r"],
            alpha=config["lora_alpha"],
            target_modules=tuple(config["target_modules"]),
        )
        self._add(name, recipe)
        self.set_adapter_state(name, load_file(folder / "adapter_model.safetensors"))
        for parameter in self.parameters(name).values():
            parameter.requires_grad_(False)

    def drop_adapter(self, name: str) -> None:
        model = self._with_adapters()
        others = [other for other in model.peft_config if other != name]
        if others:
            model.set_adapter(others[0])
            model.delete_adapter(name)

    def parameters(self, name: str) -> dict[str, torch.nn.Parameter]:
        """An adapter's own tensors, by their name in a published file, sorted."""
        model = self._with_adapters()
        marker = f".{name}."
        own = {n.replace(marker, "."): p for n, p in model.named_parameters() if marker in n}
        return dict(sorted(own.items()))

    def adapter_state(self, name: str) -> dict[str, Tensor]:
        """Copies of an adapter's tensors in fp32, by their name in a published file."""
        state = get_peft_model_state_dict(self._with_adapters(), adapter_name=name, save_embedding_layers=False)
        return {key: state[key].detach().cpu().float().clone() for key in sorted(state)}

    def set_adapter_state(self, name: str, state: Mapping[str, Tensor]) -> None:
        """Overwrite an adapter; ModelRefused when the names are not exactly its own."""
        own = set(self.adapter_state(name))
        if own != set(state):
            odd = sorted(own ^ set(state))[:3]
            raise ModelRefused(f"the adapter's tensors do not fit this base: {odd} …")
        set_peft_model_state_dict(self._with_adapters(), dict(state), adapter_name=name)

    @contextmanager
    def policy(self, name: str | None) -> Iterator[None]:
        """Within: answers come from that adapter; from the bare base for None."""
        if name is None:
            if self._peft is None:
                yield
                return
            with self._peft.disable_adapter():
                yield
            return
        trainable = {n: p.requires_grad for n, p in self.parameters(name).items()}
        self._with_adapters().set_adapter(name)
        for n, parameter in self.parameters(name).items():
            parameter.requires_grad_(trainable[n])
        yield

    # Log-probs ---------------------------------------------------------------------------------------------------
    def logits(self, batch: Pass) -> Tensor:
        """[S, V] fp32 logits of the positions that predict the scored tokens, under the policy in use."""
        batch = batch.to(self.device)
        model = self._peft if self._peft is not None else self._base
        products = self._precision.products
        with torch.autocast(self.device.type, dtype=products or torch.bfloat16, enabled=products is not None):
            out = model(
                input_ids=batch.tokens_T[None],
                position_ids=batch.positions_T[None],
                use_cache=False,
                logits_to_keep=batch.rows_S,
                spans=batch.spans,
            )
        logits: Tensor = out.logits[0]
        return logits.float()

    def logprobs(self, batch: Pass) -> Tensor:
        """[S] fp32 log-probs (nats) of the scored tokens under the policy in use."""
        return -torch.nn.functional.cross_entropy(self.logits(batch), batch.targets_S.to(self.device), reduction="none")

    # Inside ------------------------------------------------------------------------------------------------------
    def _add(self, name: str, recipe: AdapterRecipe) -> None:
        config = LoraConfig(
            r=recipe.rank,
            lora_alpha=recipe.alpha,
            lora_dropout=recipe.dropout,
            use_rslora=recipe.kind == "rslora",
            target_modules=list(recipe.target_modules),
            bias="none",
            task_type="CAUSAL_LM",
        )
        try:
            if self._peft is None:
                self._peft = get_peft_model(self._base, config, adapter_name=name)
            else:
                self._peft.add_adapter(name, config)
        except ValueError as error:
            raise ModelRefused(f"this base cannot take the adapter: {error}") from error

    def _with_adapters(self) -> PeftModel:
        if self._peft is None:
            raise ModelRefused("no adapter was added to the base yet")
        return self._peft


def load_chat_tokens(folder: Path) -> ChatTokens:
    """The tokenizer of a base and its chat template."""
    try:
        return ChatTokens(cast(Tokenizer, AutoTokenizer.from_pretrained(str(folder), local_files_only=True)))
    except (OSError, ValueError) as error:
        raise ModelRefused(f"{folder} has no usable tokenizer ({error})") from error


def _load(folder: Path, precision: Precision) -> Any:
    if not (folder / "config.json").exists():
        raise ModelRefused(f"there is no model in {folder}; make it with: burnish model convert")
    try:
        config = AutoConfig.from_pretrained(str(folder), local_files_only=True)
        model = AutoModelForCausalLM.from_pretrained(
            str(folder), config=config, dtype=precision.base, attn_implementation=attention.NAME, local_files_only=True
        )
    except (OSError, ValueError, SafetensorError) as error:
        raise ModelRefused(f"the model in {folder} cannot be loaded: {error}") from error
    model.requires_grad_(False)
    return model.eval()
