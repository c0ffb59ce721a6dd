"""From a snapshot's votes to token ids that can be trained on: held-out share apart, unusable ones counted by reason.

Pure, given a tokenizer.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Generic, Protocol, TypeVar

from feedback.chats import Answer, Taught
from feedback.demonstrations import Demonstration, DemonstrationSet
from feedback.events import OVERALL
from feedback.holdout import is_held_out
from feedback.pairs import Pair, PairSet
from feedback.thumbs import Thumb, ThumbSet
from feedback.turns import first_user_text
from training.algorithms import AnyRewardRecipe, KtoRecipe, PairTraining, SftRecipe
from training.errors import PromptRefused, TokenMismatch, TooFewDemonstrations, TooFewPairs, TooFewThumbs
from training.examples.batches import Item
from training.examples.example import TokenAnswer, TokenPair
from training.examples.tokens import ChatTokens, TokenIds

_NAMED = 20
"""Events named one by one, in an error or a report."""


class Limits(Protocol):
    """What a recipe says of every example."""

    @property
    def max_mismatched_share(self) -> float: ...
    @property
    def max_example_tokens(self) -> int: ...


Made = TypeVar("Made", TokenPair, TokenAnswer)
Said = TypeVar("Said", Pair, Thumb, Demonstration)


@dataclass(frozen=True)
class Curated(Generic[Made]):
    """Examples to train on and examples kept apart, in the order of their events; `skipped` counts the rest by reason.

    `mismatched` are the events whose prompt or end token is not the engine's, `tolerated` how many of those may be left
    out.
    """

    train: tuple[Made, ...]
    held_out: tuple[Made, ...]
    skipped: dict[str, int] = field(default_factory=dict)
    mismatched: tuple[str, ...] = ()
    tolerated: int = 0

    def report(self) -> dict[str, object]:
        """Plain JSON for the job's row."""
        return {
            "trained_on": len(self.train),
            "held_out": len(self.held_out),
            "left_out": self.skipped,
            "mismatched": {"events": list(self.mismatched[:_NAMED]), "tolerated": self.tolerated},
        }


class _Unusable(Exception):
    """Why an example is left out, in the words of the report."""


@dataclass(frozen=True)
class Wanted:
    """Which pairs are taken: with ties or without, compared in which aspects; a step of score is worth so many nats."""

    ties: bool = False
    aspects: tuple[str, ...] = (OVERALL,)
    margin_per_step: float = 0.0


def curate(found: PairSet, tokens: ChatTokens, recipe: PairTraining) -> Curated[TokenPair]:
    """Split and tokenise pairs. Ties are kept only where the recipe learns from them, and never held out.

    TokenMismatch when more pairs than the recipe tolerates have other tokens than the engine's, TooFewPairs when too
    few are left to train on, or to train a head on.
    """
    step = recipe.margin_per_step if isinstance(recipe, AnyRewardRecipe) else 0.0
    curated = curate_votes(found, tokens, recipe, Wanted(recipe.ties, recipe.aspects, step))
    if recipe.aspects != (OVERALL,):
        check_heads(curated, recipe)
    if len(curated.train) < recipe.min_pairs:
        raise TooFewPairs(
            f"{len(curated.train)} pairs are left to train on, the recipe needs {recipe.min_pairs} "
            f"(kept apart: {len(curated.held_out)}; left out: {curated.skipped or 'none'}); wait for more votes",
            curated.report(),
        )
    return curated


def check_heads(curated: Curated[TokenPair], recipe: PairTraining) -> None:
    """TooFewPairs when one of several heads has fewer pairs of its aspect than the recipe needs."""
    there = Counter(pair.aspect for pair in curated.train)
    if short := [f"{head} ({there[head]})" for head in recipe.aspects if there[head] < recipe.min_pairs]:
        raise TooFewPairs(
            f"too few pairs are left to train these heads on: {', '.join(short)}; the recipe needs {recipe.min_pairs} "
            f"for each (kept apart: {len(curated.held_out)}; left out: {curated.skipped or 'none'}). Score two answers "
            "to a prompt in that aspect (for overall, compare them), or take the head out of the recipe",
            curated.report(),
        )


def curate_votes(found: PairSet, tokens: ChatTokens, limits: Limits, wanted: Wanted = Wanted()) -> Curated[TokenPair]:
    """Split and tokenise pairs, however many are left. TokenMismatch as `curate`."""

    def tokenise(pair: Pair) -> TokenPair:
        if pair.aspect not in wanted.aspects:
            raise _Unusable(f"aspect {pair.aspect}: not learned from by this recipe")
        if pair.preference != 1 and (not wanted.ties or is_held_out(pair.messages)):
            raise _Unusable("tie")
        return replace(_token_pair(pair, tokens, limits), margin=wanted.margin_per_step * pair.margin_steps)

    return _sift(found.pairs, found.skipped, tokenise, limits)


def curate_thumbs(found: ThumbSet, tokens: ChatTokens, recipe: KtoRecipe) -> Curated[TokenAnswer]:
    """Split and tokenise thumbs. TokenMismatch as `curate`; TooFewThumbs when one side has too few."""

    def tokenise(thumb: Thumb) -> TokenAnswer:
        made = _token_answer(thumb, tokens, recipe)
        return replace(made, up=thumb.up)

    curated = _sift(found.thumbs, found.skipped, tokenise, recipe)
    up = sum(thumb.up for thumb in curated.train)
    down = len(curated.train) - up
    if min(up, down) < recipe.min_thumbs:
        raise TooFewThumbs(
            f"{up} thumbs up and {down} down are left to train on, the recipe needs {recipe.min_thumbs} of each "
            f"(kept apart: {len(curated.held_out)}; left out: {curated.skipped or 'none'}); wait for more votes",
            curated.report(),
        )
    return curated


def curate_demonstrations(found: DemonstrationSet, tokens: ChatTokens, recipe: SftRecipe) -> Curated[TokenAnswer]:
    """Split and tokenise demonstrations of the origins the recipe names. TooFewDemonstrations when few are left."""

    def tokenise(shown: Demonstration) -> TokenAnswer:
        if shown.origin.value not in recipe.shares:
            raise _Unusable(f"{shown.origin.value}: not learned from by this recipe")
        return replace(_token_answer(shown, tokens, recipe), source=shown.origin.value)

    curated = _sift(found.demonstrations, found.skipped, tokenise, recipe)
    if len(curated.train) < recipe.min_demonstrations:
        raise TooFewDemonstrations(
            f"{len(curated.train)} demonstrations are left to train on, the recipe needs {recipe.min_demonstrations} "
            f"(kept apart: {len(curated.held_out)}; left out: {curated.skipped or 'none'}); wait for more edits",
            curated.report(),
        )
    return curated


def _sift(
    said: Sequence[Said], skipped_before: Mapping[str, int], tokenise: Callable[[Said], Made], limits: Limits
) -> Curated[Made]:
    """Tokenise all, count what cannot be used, keep the held-out share apart."""
    train: list[Made] = []
    held_out: list[Made] = []
    skipped = Counter(dict(skipped_before))
    mismatches: dict[str, TokenMismatch] = {}
    tolerated = tolerated_mismatches(limits.max_mismatched_share, len(said))
    for each in said:
        try:
            made = tokenise(each)
        except TokenMismatch as error:
            mismatches[each.event_id] = error
            skipped[error.left_out] += 1
        except PromptRefused:
            skipped["the chat template cannot take the messages"] += 1
        except _Unusable as reason:
            skipped[str(reason)] += 1
        else:
            (held_out if is_held_out(each.messages) else train).append(made)
    if len(mismatches) > tolerated:
        raise TokenMismatch(
            f"{len(mismatches)} of {len(said)} votes do not match the engine, {tolerated} may be left out "
            f"(max_mismatched_share = {limits.max_mismatched_share:g}): {_named(list(mismatches))}. "
            f"The first: {next(iter(mismatches.values()))}"
        )
    return Curated(tuple(train), tuple(held_out), dict(skipped), tuple(mismatches), tolerated)


def tolerated_mismatches(share: float, n_pairs: int) -> int:
    """How many of `n_pairs` may differ from the engine: the share of them, but one at least unless the share is 0.

    One odd conversation among a few votes must not stop every job from then on.
    """
    return max(1, int(share * n_pairs)) if share else 0


def _named(event_ids: Sequence[str]) -> str:
    rest = len(event_ids) - _NAMED
    return "events " + ", ".join(event_ids[:_NAMED]) + (f" and {rest} more" if rest > 0 else "")


def _token_pair(pair: Pair, tokens: ChatTokens, limits: Limits) -> TokenPair:
    made = TokenPair(
        event_id=pair.event_id,
        question=_question(pair),
        prompt=_prompt(pair, tokens),
        chosen=_answer(pair.chosen, tokens, pair.event_id),
        rejected=_answer(pair.rejected, tokens, pair.event_id),
        weight=pair.weight,
        label=pair.preference,
        aspect=pair.aspect,
    )
    if made.chosen == made.rejected:
        raise _Unusable("equal answers")
    _check_length(made.item, limits)
    return made


def _token_answer(said: Thumb | Demonstration, tokens: ChatTokens, limits: Limits) -> TokenAnswer:
    made = TokenAnswer(
        event_id=said.event_id,
        question=_question(said),
        prompt=_prompt(said, tokens),
        answer=_answer(said.answer, tokens, said.event_id),
        weight=said.weight,
    )
    _check_length(made.item, limits)
    return made


def _prompt(said: Taught, tokens: ChatTokens) -> TokenIds:
    """The engine's own ids where there are any. TokenMismatch when they are not those training makes."""
    if said.prompt_token_ids is None:
        return tokens.prompt(said.messages)
    tokens.check_prompt(said.messages, said.prompt_token_ids, where=f"event {said.event_id}")
    return said.prompt_token_ids


def _question(said: Taught) -> str:
    return " ".join(first_user_text(said.messages).split()).casefold()


def _check_length(item: Item, limits: Limits) -> None:
    if item.n_tokens > limits.max_example_tokens:
        raise _Unusable(f"longer than {limits.max_example_tokens} tokens")


def _answer(answer: Answer, tokens: ChatTokens, event_id: str) -> TokenIds:
    """The engine's own ids where there are any: a finished answer carries its end token, a cut one does not.

    EndMismatch when that token is not the one that training writes after an answer.
    """
    if answer.token_ids is None:
        return tokens.answer(answer.text)
    if answer.finish_reason == "stop":
        tokens.check_end(answer.token_ids, answer.stops, where=f"event {event_id}")
    if not tokens.is_faithful(answer.text, answer.token_ids):
        raise _Unusable("answer tokens do not say the answer's text")
    return answer.token_ids
