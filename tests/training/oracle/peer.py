"""TRL's side of the comparison: the loss and the adapter's gradients that one of its trainers gives a batch of pairs.

TRL is imported by the functions, not by the module: it takes seconds, and only these tests need it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from peft import LoraConfig, set_peft_model_state_dict
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from training.algorithms import AdapterRecipe
from training.curate import TokenPair

Kind = Literal["dpo", "orpo", "cpo"]


@dataclass(frozen=True)
class Learned:
    """What a batch taught: its loss, and the gradients of the adapter's tensors by their name in a published file."""

    loss: float
    gradients: Mapping[str, Tensor]

    def minus(self, other: "Learned") -> "Learned":
        """The difference of two losses and of their gradients."""
        return Learned(
            self.loss - other.loss, {name: self.gradients[name] - other.gradients[name] for name in self.gradients}
        )

    def flat(self) -> Tensor:
        return torch.cat([self.gradients[name].flatten() for name in sorted(self.gradients)])


@dataclass(frozen=True)
class Setting:
    """What both sides are given: the base, the adapter's shape and tensors, the pairs, and a folder to write to."""

    model: Path
    adapter: AdapterRecipe
    state: Mapping[str, Tensor]
    pairs: Sequence[TokenPair]
    folder: Path


def learn(kind: Kind, setting: Setting, **options: Any) -> Learned:
    """One batch through TRL's own tokenising, collating, model call and loss, in fp32."""
    trainer = _trainer(kind, setting, options)
    (batch,) = trainer.get_train_dataloader()
    _check_tokens(kind, batch, setting.pairs)
    loss = trainer.compute_loss(trainer.model, batch)
    loss.backward()
    gradients = {
        name.replace(".default.", "."): parameter.grad.clone()
        for name, parameter in trainer.model.named_parameters()
        if parameter.requires_grad
    }
    return Learned(loss.item(), gradients)


def _trainer(kind: Kind, setting: Setting, options: Mapping[str, Any]) -> Any:
    from datasets import Dataset

    config, trainer = _classes(kind)
    tokenizer = AutoTokenizer.from_pretrained(str(setting.model))
    rows = [
        {
            name: tokenizer.decode(ids)
            for name, ids in (("prompt", p.prompt), ("chosen", p.chosen), ("rejected", p.rejected))
        }
        for p in setting.pairs
    ]
    arguments = config(
        output_dir=str(setting.folder),
        per_device_train_batch_size=len(rows),
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        report_to=[],
        disable_tqdm=True,
        **options,
    )
    adapter = LoraConfig(
        r=setting.adapter.rank,
        lora_alpha=setting.adapter.alpha,
        target_modules=list(setting.adapter.target_modules),
        task_type="CAUSAL_LM",
    )
    made = trainer(
        model=AutoModelForCausalLM.from_pretrained(str(setting.model), dtype=torch.float32),
        args=arguments,
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        peft_config=adapter,
    )
    set_peft_model_state_dict(made.model, dict(setting.state))
    return made


def _classes(kind: Kind) -> tuple[Any, Any]:
    match kind:
        case "dpo":
            from trl import DPOConfig, DPOTrainer

            return DPOConfig, DPOTrainer
        case "orpo":
            from trl.experimental.orpo import ORPOConfig, ORPOTrainer

            return ORPOConfig, ORPOTrainer
        case "cpo":
            from trl.experimental.cpo import CPOConfig, CPOTrainer

            return CPOConfig, CPOTrainer


def _check_tokens(kind: Kind, batch: Mapping[str, Tensor], pairs: Sequence[TokenPair]) -> None:
    """TRL made its own tokens of the texts: they are to be ours, so that the same thing is compared."""
    sequences = batch["input_ids"] if kind == "dpo" else [*batch["chosen_input_ids"], *batch["rejected_input_ids"]]
    masks = (
        batch["attention_mask"]
        if kind == "dpo"
        else [*batch["chosen_attention_mask"], *batch["rejected_attention_mask"]]
    )
    found = sorted(tuple(ids[mask.bool()].tolist()) for ids, mask in zip(sequences, masks, strict=True))
    assert found == sorted((*pair.prompt, *answer) for pair in pairs for answer in (pair.chosen, pair.rejected))
