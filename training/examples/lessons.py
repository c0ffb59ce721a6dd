"""What a job learns from: the examples its recipe takes from a snapshot, and the votes kept apart to judge by.

Pure, given a tokenizer.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from feedback.demonstrations import build_demonstrations
from feedback.events import Event
from feedback.ids import TurnId
from feedback.pairs import build_pairs
from feedback.thumbs import build_thumbs
from feedback.turns import Message, Turn
from training.algorithms import (
    AnyRewardRecipe,
    KtoRecipe,
    OnlinePreferenceRecipe,
    OnPolicy,
    PairTraining,
    Recipe,
    SftRecipe,
)
from training.examples.asked import asked_prompts, held_out_prompts
from training.examples.curate import Curated, Wanted, curate, curate_demonstrations, curate_thumbs, curate_votes
from training.examples.example import TokenAnswer, TokenPair
from training.examples.tokens import ChatTokens


@dataclass(frozen=True)
class Snapshot:
    """The events a job learns from, and the turns they are about."""

    events: Sequence[Event]
    turns: Mapping[TurnId, Turn]


@dataclass(frozen=True)
class Lessons:
    """The examples to train on, the held-out pairs and prompts to judge by, and what is to be reported of them.

    `asked` are prompts for the policy to answer itself, where its recipe wants that; none of them is held out.
    `beside` are the votes that a loss learns from beside the policy's own answers, taken as that loss takes them.
    `held_out` judges policies, and is of no other aspect than the overall one. `held_out_of_heads` judges the reward
    model that the recipe trains, and is of all the aspects that its heads are about.
    """

    train: tuple[TokenPair, ...] | tuple[TokenAnswer, ...]
    held_out: tuple[TokenPair, ...]
    held_out_of_heads: tuple[TokenPair, ...]
    prompts: list[tuple[Message, ...]]
    report: dict[str, object]
    asked: list[tuple[Message, ...]] = field(default_factory=list)
    beside: tuple[TokenPair, ...] = ()


def draw_lessons(
    snapshot: Snapshot, tokens: ChatTokens, recipe: Recipe, replayed: Sequence[TokenAnswer] = ()
) -> Lessons:
    """What `recipe` learns from in `snapshot`, and in `replayed` text where it asks for that.

    TokenMismatch, or TooFew… when too little is left.
    """
    pairs = build_pairs(snapshot.events, snapshot.turns)
    votes = rewarded = curate_votes(pairs, tokens, recipe)
    found: Curated[TokenPair] | Curated[TokenAnswer]
    asked: list[tuple[Message, ...]] = []
    match recipe:
        case PairTraining():
            found = rewarded = curate(pairs, tokens, recipe)
        case KtoRecipe():
            thumbs = build_thumbs(snapshot.events, snapshot.turns, from_pairs=recipe.from_pairs)
            found = curate_thumbs(thumbs, tokens, recipe)
        case SftRecipe():
            shown = curate_demonstrations(build_demonstrations(snapshot.events, snapshot.turns), tokens, recipe)
            found = replace(shown, train=(*shown.train, *replayed))
        case OnPolicy():
            found = rewarded = curate(pairs, tokens, recipe.reward) if recipe.reward_model is None else votes
            asked = asked_prompts(snapshot.turns.values(), tokens)
    beside = recipe.loss if isinstance(recipe, OnlinePreferenceRecipe) else None
    judges = rewarded if isinstance(recipe, AnyRewardRecipe) else votes
    return Lessons(
        train=found.train,
        held_out=votes.held_out,
        held_out_of_heads=rewarded.held_out,
        prompts=held_out_prompts(pairs.pairs, tokens),
        report={**found.report(), "held_out": len(judges.held_out)},
        asked=asked,
        beside=curate_votes(pairs, tokens, beside, Wanted(ties=beside.ties)).train if beside else (),
    )
