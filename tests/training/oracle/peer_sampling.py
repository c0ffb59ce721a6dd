"""TRL's side for sampled answers: GRPO and RLOO from rewards to gradients, the answers themselves being given.

Only the sampling is replaced. Rewards become advantages, log-probs under old policy and reference are taken, and the
loss is made in TRL's own code.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import pytest
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoTokenizer

from tests.training.oracle.compare import Learned, Setting
from tests.training.oracle.peer import build, check_tokens, learn, set_state
from training.examples.tokens import TokenIds

Sampler = Literal["grpo", "rloo"]


@dataclass(frozen=True)
class Samples:
    """N answers with S tokens, equally many to each prompt and in the prompts' order.

    old: the adapter that was held when they were sampled; engine_S: the log-probs that the engine said they had, None
    where it is to be believed; advantage_S: advantages to use instead of those that follow from the rewards.
    """

    prompts: tuple[TokenIds, ...]
    answers: tuple[tuple[TokenIds, ...], ...]
    reward_N: Tensor
    old: Mapping[str, Tensor]
    engine_S: Tensor | None = None
    advantage_S: Tensor | None = None

    def flat(self) -> list[tuple[TokenIds, TokenIds]]:
        """Every answer with its prompt."""
        return [(prompt, answer) for prompt, group in zip(self.prompts, self.answers, strict=True) for answer in group]

    def groups(self) -> Tensor:
        """[N] the number of each answer's prompt."""
        return torch.tensor([number for number, group in enumerate(self.answers) for _ in group])

    def split(self, values_S: Tensor) -> list[Tensor]:
        """A value per token, by answers."""
        return list(values_S.split([len(answer) for _, answer in self.flat()]))


def learn_samples(kind: Sampler, setting: Setting, samples: Samples, **options: Any) -> Learned:
    """Rewards, advantages and one batch's loss as TRL makes them, in fp32."""
    trainer = _trainer(kind, setting, samples, options)
    answers = [list(answer) for _, answer in samples.flat()]
    if kind == "rloo":
        trainer._generate_single_turn = lambda *_: answers
    else:
        said = None if samples.engine_S is None else [part.tolist() for part in samples.split(samples.engine_S)]
        trainer._generate_single_turn = lambda *_: (answers, said)
        trainer.use_vllm = said is not None  # weighs tokens by what the engine said; no engine is started
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1
    set_state(trainer, samples.old)
    batch = trainer._generate_and_score_completions(list(trainer.train_dataset))
    _check_batch(batch, samples)
    if samples.advantage_S is not None:
        batch["advantages"] = pad_sequence(samples.split(samples.advantage_S), batch_first=True)
    set_state(trainer, setting.state)
    return learn(trainer, batch)


def _trainer(kind: Sampler, setting: Setting, samples: Samples, options: Mapping[str, Any]) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "vllm", None)  # TRL would import it and warn of its version: none of it is used
        from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer

    def reward(**_: object) -> list[float]:
        return [float(value) for value in samples.reward_N]

    tokenizer = AutoTokenizer.from_pretrained(str(setting.model))
    rows = [{"prompt": tokenizer.decode(prompt)} for prompt, _ in samples.flat()]
    config, trainer = (GRPOConfig, GRPOTrainer) if kind == "grpo" else (RLOOConfig, RLOOTrainer)
    # With two updates to a batch, the policy that is trained is not the one that the answers were sampled from.
    shape = {"num_generations": len(samples.answers[0]), "num_iterations": 2}
    return build(config, trainer, setting, rows, {**shape, **options}, reward_funcs=reward)


def _check_batch(batch: Mapping[str, Tensor], samples: Samples) -> None:
    """Our tokens, in our order: advantages and log-probs are told by place."""
    sides = [[batch[f"{side}_{part}"] for side in ("prompt", "completion")] for part in ("ids", "mask")]
    for ids, mask, (prompt, answer) in zip(*(torch.cat(side, dim=1) for side in sides), samples.flat(), strict=True):
        check_tokens([(*prompt, *answer)], (ids[None], mask[None]))
