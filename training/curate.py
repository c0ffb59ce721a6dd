"""From a snapshot's pairs to token ids that can be trained on: held-out share apart, unusable pairs counted by reason.

Pure, given a tokenizer.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from feedback.holdout import is_held_out
from feedback.pairs import Answer, Pair, PairSet
from training.algorithms import OVERALL, PairTraining
from training.batches import Item
from training.errors import TokenMismatch, TooFewPairs
from training.tokens import ChatTokens, TokenIds

LONGEST_PROMPT_TOKENS = 1024
"""Longer prompts are not asked again for the gate: prompt and answer must fit into the engine's context."""


@dataclass(frozen=True)
class TokenPair:
    """A pair as token ids; `weight` multiplies its loss, `label` is how likely the chosen answer is the better one.

    `aspect` is what the answers were compared in, `margin` (nats) how far the chosen one is to be ahead: both for
    reward models.
    """

    event_id: str
    prompt: TokenIds
    chosen: TokenIds
    rejected: TokenIds
    weight: float = 1.0
    label: float = 1.0
    aspect: str = OVERALL
    margin: float = 0.0

    @property
    def item(self) -> Item:
        """Chosen first, rejected second."""
        return Item(self.prompt, (self.chosen, self.rejected))


@dataclass(frozen=True)
class Curated:
    """Pairs to train on and pairs kept apart, in the order of their events; `skipped` counts the rest by reason."""

    train: tuple[TokenPair, ...]
    held_out: tuple[TokenPair, ...]
    skipped: dict[str, int] = field(default_factory=dict)

    def report(self) -> dict[str, object]:
        return {"trained_on": len(self.train), "held_out": len(self.held_out), "left_out": self.skipped}


class _Unusable(Exception):
    """Why a pair is left out, in the words of the report."""


def curate(found: PairSet, tokens: ChatTokens, recipe: PairTraining) -> Curated:
    """Split and tokenise pairs.

    TokenMismatch when more pairs than the recipe tolerates have other tokens than the engine's, TooFewPairs when too
    few are left to train on.
    """
    train: list[TokenPair] = []
    held_out: list[TokenPair] = []
    skipped = Counter(dict(found.skipped))
    mismatches: list[TokenMismatch] = []
    for pair in found.pairs:
        try:
            made = _tokenise(pair, tokens, recipe)
        except TokenMismatch as error:
            mismatches.append(error)
            skipped["prompt tokens differ from the engine's"] += 1
        except _Unusable as reason:
            skipped[str(reason)] += 1
        else:
            (held_out if is_held_out(pair.messages) else train).append(made)
    if len(mismatches) > recipe.max_mismatched_share * len(found.pairs):
        raise TokenMismatch(f"{len(mismatches)} of {len(found.pairs)} pairs do not match the engine; {mismatches[0]}")
    curated = Curated(tuple(train), tuple(held_out), dict(skipped))
    if len(train) < recipe.min_pairs:
        raise TooFewPairs(
            f"{len(train)} pairs are left to train on, the recipe needs {recipe.min_pairs} "
            f"(kept apart: {len(held_out)}; left out: {dict(skipped) or 'none'}); wait for more votes"
        )
    return curated


def _tokenise(pair: Pair, tokens: ChatTokens, recipe: PairTraining) -> TokenPair:
    if pair.prompt_token_ids is not None:
        tokens.check_prompt(pair.messages, pair.prompt_token_ids, where=f"event {pair.event_id}")
    made = TokenPair(
        event_id=pair.event_id,
        prompt=pair.prompt_token_ids or tokens.prompt(pair.messages),
        chosen=_answer(pair.chosen, tokens),
        rejected=_answer(pair.rejected, tokens),
        weight=pair.weight,
    )
    if made.chosen == made.rejected:
        raise _Unusable("equal answers")
    if made.item.n_tokens > recipe.max_pair_tokens:
        raise _Unusable(f"longer than {recipe.max_pair_tokens} tokens")
    return made


def _answer(answer: Answer, tokens: ChatTokens) -> TokenIds:
    """The engine's own ids where there are any: a finished answer carries its end token, a cut one does not."""
    if answer.token_ids is None:
        return tokens.answer(answer.text)
    if not tokens.is_faithful(answer.text, answer.token_ids):
        raise _Unusable("answer tokens do not say the answer's text")
    return answer.token_ids


def held_out_prompts(pairs: Sequence[Pair]) -> list[tuple[dict[str, object], ...]]:
    """The distinct held-out prompts that people voted on, newest first, but for very long ones."""
    seen: dict[str, tuple[dict[str, object], ...]] = {}
    for pair in reversed(pairs):
        if is_held_out(pair.messages) and len(pair.prompt_token_ids or ()) <= LONGEST_PROMPT_TOKENS:
            seen.setdefault(repr(pair.messages), tuple(pair.messages))
    return list(seen.values())
