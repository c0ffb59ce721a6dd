"""TRL's sides of `make bench-ppo`.

To be imported where TRL 1.12 is put before the environment's own, which has no PPO any more.
"""

import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import trl
from datasets import Dataset
from peft import inject_adapter_in_model
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer
from trl.experimental.ppo import PPOConfig, PPOTrainer, ppo_trainer

from tests.bench.ppo_shared import CLIP, KL_WEIGHT, TRACE, VALUE_WEIGHT, Told
from tests.bench.sides import LEARNING_RATE, Task, lora, peak_mib, precision_of
from training.base.loading import PRECISIONS


def trl_best(task: Task) -> Told:
    """A round answered in one batch, `trl_batch` answers to a pass, as many steps as ours; bases in `trl_dtype`."""
    answers = len(task["prompts"]) * task["answers"]
    options = {
        "gradient_checkpointing": False,
        "per_device_train_batch_size": task["trl_batch"],
        "gradient_accumulation_steps": answers // task["trl_batch"],
        "local_rollout_forward_batch_size": task["trl_rollout_batch"] or answers,
    }
    return _run(task, PRECISIONS[task["trl_dtype"]].base, options)


def trl_default(task: Task) -> Told:
    """TRL with its defaults and LoRA: bases in fp32 (autocast as ours), batches of its own size or all rows."""
    batch = min(8, len(task["prompts"]) * task["answers"])  # it would wait for ever for a batch to be full
    return _run(task, torch.float32, {"per_device_train_batch_size": batch})


@dataclass(frozen=True)
class _Loaded:
    """What is there before the clock starts."""

    tokenizer: Any
    policy: Any
    reward: Any
    value: Any


def _run(task: Task, dtype: torch.dtype, options: Mapping[str, Any]) -> Told:
    loaded = _load(task, dtype)
    waited = Timer(ppo_trainer.batch_generation)
    ppo_trainer.batch_generation = waited
    with tempfile.TemporaryDirectory() as work:
        arguments = PPOConfig(output_dir=work, **_ppo_options(task), **options)
        start = time.perf_counter()
        trainer = _trainer(loaded, arguments, _rows(task, loaded.tokenizer))
        trainer.train()
        seconds = time.perf_counter() - start
    return _told(trainer, waited, loaded.tokenizer, seconds)


def _load(task: Task, dtype: torch.dtype) -> _Loaded:
    tokenizer = AutoTokenizer.from_pretrained(task["model"], padding_side="left")
    tokenizer.pad_token = tokenizer.unk_token  # its own is the end token too, which this trainer would take for padding
    policy = AutoModelForCausalLM.from_pretrained(task["model"], dtype=dtype)
    reward = _classifier(task["reward_merged"], dtype)
    value = _with_adapter(_classifier(task["model"], dtype))
    return _Loaded(tokenizer, policy, reward, value)


def _rows(task: Task, tokenizer: Any) -> list[dict[str, list[int]]]:
    """The prompts as token ids, each as often as it is answered."""
    chats = [[{"role": "user", "content": text}] for text in task["prompts"]]
    prompts = [tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=False) for chat in chats]
    return [{"input_ids": prompt} for prompt in prompts for _ in range(task["answers"])]


def _trainer(loaded: _Loaded, arguments: PPOConfig, rows: list[dict[str, list[int]]]) -> PPOTrainer:
    trainer = PPOTrainer(
        args=arguments,
        processing_class=loaded.tokenizer,
        model=loaded.policy,
        ref_model=None,
        reward_model=loaded.reward,
        value_model=loaded.value,
        train_dataset=Dataset.from_list(rows),
        eval_dataset=Dataset.from_list(rows[:1]),
        peft_config=lora("CAUSAL_LM"),
    )
    # Else whatever is the last of the rows' batches is stepped on after every pass, and a round is all rows.
    trainer.accelerator.gradient_state.plugin_kwargs["sync_with_dataloader"] = False
    return trainer


def _told(trainer: PPOTrainer, waited: "Timer", tokenizer: Any, seconds: float) -> Told:
    lengths = torch.cat([_answer_lengths(found, tokenizer) for found in waited.found])
    return Told(
        seconds=seconds,
        waiting_s=waited.seconds,
        peak_mib=peak_mib(),
        steps=max(int(state["step"]) for state in trainer.optimizer.state.values()),
        answer_tokens=float(lengths.float().mean()),
        reward_mean=trainer.state.log_history[0]["objective/scores"],
        trl=trl.__version__,
    )


def _ppo_options(task: Task) -> dict[str, Any]:
    """What both of TRL's sides share with ours: the same answers, learned from as often, at the same strengths."""
    return {
        "use_cpu": True,
        "bf16": precision_of(task).products is torch.bfloat16,
        "learning_rate": LEARNING_RATE,
        "total_episodes": task["rounds_each"] * len(task["prompts"]) * task["answers"],
        "num_ppo_epochs": task["epochs"],
        "num_mini_batches": 1,
        "num_sample_generations": 0,
        "response_length": task["max_tokens"],
        "temperature": 1.0,
        "stop_token": "eos",  # a name, no secret
        "kl_coef": KL_WEIGHT,
        "vf_coef": VALUE_WEIGHT,
        "cliprange": CLIP,
        "cliprange_value": CLIP,
        "lam": TRACE,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
    }


def _classifier(folder: str, dtype: torch.dtype) -> Any:
    model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=1, dtype=dtype)
    return model.requires_grad_(False)


def _with_adapter(model: Any) -> Any:
    """The value model with an adapter that is trained, in fp32 as peft does for policies, and its head.

    The head keeps the base's dtype: the trainer values answers without autocast.
    """
    model = inject_adapter_in_model(lora("SEQ_CLS"), model)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    model.score.requires_grad_(True)
    return model


class Timer:
    """A function, the seconds spent in it, and what was generated: sequences cut to their answers, without logits."""

    def __init__(self, function: Callable[..., tuple[Tensor, Tensor]]) -> None:
        self.seconds = 0.0
        self.found: list[Tensor] = []
        self._function = function

    def __call__(self, model: Any, queries: Tensor, *arguments: Any) -> tuple[Tensor, Tensor]:
        start = time.perf_counter()
        sequences, logits = self._function(model, queries, *arguments)
        self.seconds += time.perf_counter() - start
        self.found.append(sequences[:, queries.shape[1] :].clone())
        return sequences, logits


def _answer_lengths(answers_BT: Tensor, tokenizer: Any) -> Tensor:
    """[B] tokens up to the end token, which counts."""
    ended_BT = (answers_BT == tokenizer.eos_token_id).int()
    return (ended_BT.cumsum(1) - ended_BT == 0).sum(1)
