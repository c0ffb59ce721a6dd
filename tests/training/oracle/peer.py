"""TRL's side of the comparison: the loss and the gradients that one of its trainers gives a batch of examples.

TRL is imported by the functions, not by the module: it takes seconds, and only these tests need it.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from peft import LoraConfig, set_peft_model_state_dict
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from tests.training.oracle.compare import ADAPTER, Learned, Setting
from training.examples.example import TokenAnswer, TokenPair
from training.examples.tokens import TokenIds

Kind = Literal["dpo", "orpo", "cpo"]


def learn_pairs(kind: Kind, setting: Setting, pairs: Sequence[TokenPair], **options: Any) -> Learned:
    """One batch through TRL's own tokenising, collating, model call and loss, in fp32."""
    made = build(*_pair_classes(kind), setting, rows_of_pairs(setting, pairs), options)
    (batch,) = made.get_train_dataloader()
    wanted = [(*pair.prompt, *answer) for pair in pairs for answer in (pair.chosen, pair.rejected)]
    if kind == "dpo":
        check_tokens(wanted, (batch["input_ids"], batch["attention_mask"]))
    else:
        sides = [(batch[f"{side}_input_ids"], batch[f"{side}_attention_mask"]) for side in ("chosen", "rejected")]
        check_tokens(wanted, *sides)
    return learn(made, batch)


def learn_thumbs(setting: Setting, thumbs: Sequence[TokenAnswer], **options: Any) -> Learned:
    """One batch of single answers through TRL's KTO. It takes the answer before, in the batch, as a stray."""
    from trl import KTOConfig, KTOTrainer

    rows = [{**row, "label": each.up} for row, each in zip(rows_of_answers(setting, thumbs), thumbs, strict=True)]
    made = build(KTOConfig, KTOTrainer, setting, rows, options)
    (batch,) = made.get_train_dataloader()
    check_tokens([(*t.prompt, *t.answer) for t in thumbs], (batch["input_ids"], batch["attention_mask"]))
    strays = [(*thumb.prompt, *thumbs[i - 1].answer) for i, thumb in enumerate(thumbs)]
    check_tokens(strays, (batch["KL_input_ids"], batch["KL_attention_mask"]))
    return learn(made, batch)


def learn_answers(setting: Setting, answers: Sequence[TokenAnswer], **options: Any) -> Learned:
    """One batch of demonstrations through TRL's SFT, padded or packed."""
    from trl import SFTConfig, SFTTrainer

    made = build(SFTConfig, SFTTrainer, setting, rows_of_answers(setting, answers), options)
    (batch,) = made.get_train_dataloader()
    wanted = [(*each.prompt, *each.answer) for each in answers]
    if "attention_mask" in batch:
        check_tokens(wanted, (batch["input_ids"], batch["attention_mask"]))
    else:
        check_tokens(wanted, *_unpacked(batch))
    return learn(made, batch)


def learn_rewards(setting: Setting, pairs: Sequence[TokenPair], head_1H: Tensor, **options: Any) -> Learned:
    """One batch of pairs with their margins through TRL's reward model, whose head is `head_1H`."""
    from trl import RewardConfig, RewardTrainer

    rows = [{**row, "margin": each.margin} for row, each in zip(rows_of_pairs(setting, pairs), pairs, strict=True)]
    with_head = replace(setting, state={**setting.state, "base_model.model.score.weight": head_1H})
    made = build(RewardConfig, RewardTrainer, with_head, rows, options)
    (batch,) = made.get_train_dataloader()
    wanted = [(*pair.prompt, *answer) for pair in pairs for answer in (pair.chosen, pair.rejected)]
    check_tokens(wanted, (batch["input_ids"], batch["attention_mask"]))
    return learn(made, batch)


def build(
    config: Any,
    trainer: Any,
    setting: Setting,
    rows: Sequence[Mapping[str, Any]],
    options: Mapping[str, Any],
    **more: Any,
) -> Any:
    """A trainer of TRL's, in fp32, with our base and adapter; it takes all rows in one batch."""
    from datasets import Dataset
    from trl import RewardTrainer

    scores = trainer is RewardTrainer
    tokenizer = AutoTokenizer.from_pretrained(str(setting.model))
    if scores:  # its head reads the last token that is not padding: answers end with what is the padding otherwise
        tokenizer.pad_token = tokenizer.bos_token
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
        r=ADAPTER.rank,
        lora_alpha=ADAPTER.alpha,
        target_modules=list(ADAPTER.target_modules),
        task_type="SEQ_CLS" if scores else "CAUSAL_LM",
    )
    made = trainer(
        model=_load(setting, scores),
        args=arguments,
        train_dataset=Dataset.from_list([dict(row) for row in rows]),
        processing_class=tokenizer,
        peft_config=adapter,
        **more,
    )
    set_state(made, setting.state)
    return made


def set_state(trainer: Any, state: Mapping[str, Tensor]) -> None:
    """Overwrite the adapter of one of TRL's trainers."""
    unknown = set_peft_model_state_dict(trainer.model, dict(state)).unexpected_keys
    assert not unknown, unknown


def learn(trainer: Any, batch: Any) -> Learned:
    """The loss and the gradients that a trainer gives a batch, by the names that the tensors have in our files."""
    loss = trainer.compute_loss(trainer.model, batch)
    loss.backward()
    return Learned(
        loss.item(),
        {
            _our_name(name): parameter.grad.clone()
            for name, parameter in trainer.model.named_parameters()
            if parameter.requires_grad
        },
    )


def rows_of_pairs(setting: Setting, pairs: Sequence[TokenPair]) -> list[dict[str, Any]]:
    """The texts of pairs, as TRL takes them."""
    tokenizer = AutoTokenizer.from_pretrained(str(setting.model))
    return [
        {
            name: tokenizer.decode(ids)
            for name, ids in (("prompt", pair.prompt), ("chosen", pair.chosen), ("rejected", pair.rejected))
        }
        for pair in pairs
    ]


def rows_of_answers(setting: Setting, answers: Sequence[TokenAnswer]) -> list[dict[str, Any]]:
    """The texts of single answers, as TRL takes them."""
    tokenizer = AutoTokenizer.from_pretrained(str(setting.model))
    return [{"prompt": tokenizer.decode(each.prompt), "completion": tokenizer.decode(each.answer)} for each in answers]


def check_tokens(wanted: Iterable[TokenIds], *found: tuple[Tensor, Tensor]) -> None:
    """TRL made its own tokens of the texts: they are to be ours, so that the same thing is compared.

    `found` are token ids with their masks, each [sequences, tokens].
    """
    seen = [tuple(ids[mask.bool()].tolist()) for both in found for ids, mask in zip(*both, strict=True)]
    assert sorted(seen) == sorted(wanted)


def _unpacked(batch: Mapping[str, Tensor]) -> list[tuple[Tensor, Tensor]]:
    """The sequences of a packed batch, each of which begins at position 0."""
    starts = (batch["position_ids"][0] == 0).nonzero()[1:, 0]
    return [(ids[None], torch.ones_like(ids)[None]) for ids in batch["input_ids"][0].tensor_split(starts)]


def _pair_classes(kind: Kind) -> tuple[Any, Any]:
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


def _load(setting: Setting, scores: bool) -> Any:
    if not scores:
        return AutoModelForCausalLM.from_pretrained(str(setting.model), dtype=torch.float32)
    return AutoModelForSequenceClassification.from_pretrained(str(setting.model), dtype=torch.float32, num_labels=1)


def _our_name(name: str) -> str:
    return "head.weight" if ".score." in name else name.replace(".default.", ".")
