"""Measures answers and votes under the base: what the gate judges by."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from training.base.model import SharedBase
from training.examples.asked import Prompt
from training.examples.batches import Item, make_pass, pack
from training.examples.example import TokenPair
from training.examples.tokens import ChatTokens
from training.judging.gate import Measures, Votes
from training.sampling.gateway import Sample

_PASS_TOKENS = 512
_GRAM = 4


@dataclass(frozen=True)
class Judge:
    """The base that scores, its tokens, and how often scoring looks up to see whether to stop."""

    model: SharedBase
    tokens: ChatTokens
    stopping: Callable[[], None]


def measure(judge: Judge, policy: str | None, prompts: Sequence[Prompt], samples: Sequence[Sample]) -> Measures:
    """Score one policy's answers. `policy` is its adapter in the judge's model, for KL; None where it is the base."""
    items = [
        Item(judge.tokens.prompt(prompt), (sample.token_ids,)) for prompt, sample in zip(prompts, samples, strict=True)
    ]
    nats = [0.0] * len(items)
    kl = [0.0] * len(items)
    for group in pack([item.n_tokens for item in items], _PASS_TOKENS, len(items)):
        judge.stopping()
        batch = make_pass([items[i] for i in group])
        if policy is None:
            with torch.no_grad(), judge.model.policy(None):
                logprob_S = judge.model.logprobs(batch)
            kl_S = torch.zeros_like(logprob_S)
        else:
            logprob_S, kl_S = judge.model.logprobs_and_divergence(policy, batch)
        nats_S, kl_S = -logprob_S.cpu(), kl_S.cpu()
        for i, item_nats, item_kl in zip(
            group, batch.sum_answers(nats_S).tolist(), batch.sum_answers(kl_S).tolist(), strict=True
        ):
            nats[i], kl[i] = item_nats, item_kl
    return Measures(
        tokens=[float(len(item.answers[0])) for item in items],
        nats=nats,
        kl_nats=kl,
        repeats=[repeated_share(item.answers[0]) for item in items],
        empty=[float(not sample.text.strip()) for sample in samples],
        cut=[float(sample.finish_reason == "length") for sample in samples],
    )


def compare_on_votes(judge: Judge, draft: str, live: str | None, held_out: Sequence[TokenPair]) -> Votes:
    """On which held-out pairs the draft puts the chosen answer further above the rejected one than live does."""
    sides = [0] * len(held_out)
    for group in pack([pair.item.n_tokens for pair in held_out], _PASS_TOKENS, max(1, len(held_out))):
        judge.stopping()
        batch = make_pass([held_out[i].item for i in group])
        margins = []
        for policy in (draft, live):
            with torch.no_grad(), judge.model.policy(policy):
                sums_N = batch.sum_answers(judge.model.logprobs(batch).cpu())
            margins.append(sums_N[0::2] - sums_N[1::2])
        for i, side in zip(group, torch.sign(margins[0] - margins[1]).int().tolist(), strict=True):
            sides[i] = side
    return count_votes([pair.question for pair in held_out], sides)


def count_votes(questions: Sequence[str], sides: Sequence[int]) -> Votes:
    """Votes from one side (1 won, −1 lost, 0 neither) for each pair; a prompt counts by the sum of its sides.

    A prompt whose sides add up to 0 is left out: it decides nothing.
    """
    sums: Counter[str] = Counter()
    for question, side in zip(questions, sides, strict=True):
        sums[question] += side
    decided = [total for total in sums.values() if total]
    return Votes(
        n=len(decided), wins=sum(total > 0 for total in decided), pairs=len(sides), pair_wins=list(sides).count(1)
    )


def repeated_share(token_ids: Sequence[int]) -> float:
    """Share of an answer's 4-grams that stood in it before: 0 for ordinary text, near 1 for a loop."""
    grams = list(zip(*(token_ids[i:] for i in range(_GRAM)), strict=False))
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def summarise(measures: Measures) -> dict[str, Any]:
    """The means of one policy's measures, for the job's report."""
    n, tokens = len(measures.tokens), max(1.0, sum(measures.tokens))
    return {
        "answers": n,
        "tokens": sum(measures.tokens) / n,
        "loss_per_token": sum(measures.nats) / tokens,
        "kl_per_token": sum(measures.kl_nats) / tokens,
        "repeated": sum(measures.repeats) / n,
        "empty": sum(measures.empty) / n,
        "cut_off": sum(measures.cut) / n,
    }
