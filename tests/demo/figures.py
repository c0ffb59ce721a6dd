"""The figures the demo ends with, computed from answers and log-probs. Pure."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tests.demo.taste import Seen, verdict

FOREIGN_NATS = 0.5
"""How much closer the other version must come to a run of tokens before the claimed one cannot have made it. On answers
of a learned version this tells a change halfway from rounding (0.03 nats a token) without a mistake either way."""

Judge = Callable[[Seen, Seen], str]
"""Says `first`, `second` or `tie` of two answers."""

_SCORE = {"first": 1.0, "tie": 0.5, "second": 0.0}


@dataclass(frozen=True)
class Share:
    """A share of wins with its 95 % interval."""

    value: float
    low: float
    high: float


def wins(
    new: Sequence[Sequence[Seen]],
    old: Sequence[Sequence[Seen]],
    *,
    judge: Judge = verdict,
    draws: int = 10_000,
    seed: int = 0,
) -> Share:
    """Share of wins of new over old answers, ties half, every answer of a prompt against every other.

    `new` and `old` hold the answers by prompt, in one order of prompts. The interval is a percentile bootstrap over
    prompts, since answers to one prompt are no independent observations.
    """
    by_prompt = [_prompt_share(n, o, judge) for n, o in zip(new, old, strict=True)]
    chance = random.Random(seed)
    means = sorted(_mean(chance.choices(by_prompt, k=len(by_prompt))) for _ in range(draws))
    return Share(_mean(by_prompt), means[int(0.025 * draws)], means[int(0.975 * draws) - 1])


def loss_per_token(scored: Sequence[Sequence[float]]) -> float:
    """Mean negative log-prob (nats) of all tokens of all answers."""
    tokens = [logprob for answer in scored for logprob in answer]
    return -_mean(tokens)


def changed_midway(sampled: Sequence[float], claimed: Sequence[float], other: Sequence[float]) -> bool:
    """Whether an answer changed its version midway: some run of its tokens fits the other version, not the claimed.

    All three are log-probs (nats) of the answer's tokens: as the engine gave them while it answered, and as the
    claimed and the other version score them afterwards.
    """
    gains = [abs(s - c) - abs(s - o) for s, c, o in zip(sampled, claimed, other, strict=True)]
    best_run = run = 0.0
    for gain in gains:
        run = max(0.0, run + gain)
        best_run = max(best_run, run)
    return best_run > FOREIGN_NATS


def _prompt_share(new: Sequence[Seen], old: Sequence[Seen], judge: Judge) -> float:
    return _mean([_SCORE[judge(n, o)] for n in new for o in old])


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
