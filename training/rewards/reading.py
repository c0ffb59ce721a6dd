"""How a reward model reads a pair: each answer alone after the prompt, or both in one context and in both orders.

Either way a pair becomes one prompt with two continuations, and a head looks at the last token of each. Pure.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from training.algorithms import AnyRewardRecipe, PairwiseRewardRecipe
from training.examples.batches import Item
from training.examples.example import TokenPair
from training.examples.tokens import ChatTokens, TokenIds


@dataclass(frozen=True)
class Reading:
    """A pair and what is read of it: the first continuation speaks for the chosen answer, the second against it."""

    pair: TokenPair
    item: Item


def read_pairs(pairs: Sequence[TokenPair], recipe: AnyRewardRecipe, tokens: ChatTokens) -> list[Reading]:
    """The pairs as the recipe's kind of model reads them."""
    if not isinstance(recipe, PairwiseRewardRecipe):
        return [Reading(pair, pair.item) for pair in pairs]
    between = tokens.again()
    return [Reading(pair, both_orders(pair, between)) for pair in pairs]


def both_orders(pair: TokenPair, between: TokenIds) -> Item:
    """The chosen answer read first, then the rejected one; and the other way round. They share the prompt."""
    return Item(pair.prompt, (pair.chosen + between + pair.rejected, pair.rejected + between + pair.chosen))


def share(recipe: AnyRewardRecipe) -> float:
    """What a head's output counts for: one half in a pairwise model, whose margin is the mean over both orders.

    With f the head's output, margin(a, b) = ½·[f(a, b) − f(b, a)] = −margin(b, a).
    """
    return 0.5 if isinstance(recipe, PairwiseRewardRecipe) else 1.0


def heads_of(recipe: AnyRewardRecipe) -> tuple[str, ...]:
    """The heads a recipe trains, in the order of their outputs; a pairwise model has one that takes every pair."""
    return ("",) if isinstance(recipe, PairwiseRewardRecipe) else recipe.heads


def head_index(aspect: str, heads: Sequence[str]) -> int | None:
    """The head that a pair compared in `aspect` teaches; a lone head learns from every pair."""
    if len(heads) == 1:
        return 0
    return heads.index(aspect) if aspect in heads else None
