"""How a reward model reads a pair: each answer alone after the prompt, or both in one context and in both orders.

Either way a pair becomes one prompt with two continuations, and a head gives a number for each.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from training.algorithms import AnyRewardRecipe, PairwiseRewardRecipe
from training.base.model import SharedBase
from training.examples.batches import Item, Pass
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


def head_values(model: SharedBase, name: str, batch: Pass, recipe: AnyRewardRecipe) -> Tensor:
    """[N, K] fp32 what the heads of adapter `name` give for each continuation, on the CPU.

    With f a head's output, the margin of a pairwise model is the mean over both orders, ½·[f(a, b) − f(b, a)]: its
    outputs count half.
    """
    if isinstance(recipe, PairwiseRewardRecipe):
        return 0.5 * model.values(name, batch).cpu()
    look = model.mean_values if recipe.pooling == "mean" else model.values
    return look(name, batch).cpu()


def heads_of(recipe: AnyRewardRecipe) -> tuple[str, ...]:
    """The heads a recipe trains, in the order of their outputs; a pairwise model has one that takes every pair."""
    return ("",) if isinstance(recipe, PairwiseRewardRecipe) else recipe.heads


def head_index(aspect: str, heads: Sequence[str]) -> int | None:
    """The head that a pair compared in `aspect` teaches; a lone head learns from every pair."""
    if len(heads) == 1:
        return 0
    return heads.index(aspect) if aspect in heads else None
