"""Recipes that ask for longer examples than the base reads take those that fit."""

from typing import Any

import pytest

from training.algorithms import OnlinePreferenceRecipe, PairwiseRewardRecipe, PpoRecipe, Training
from training.examples.batches import Item
from training.examples.context import within_context
from training.examples.example import TokenPair
from training.examples.tokens import ChatTokens
from training.recipe import ALGORITHMS, parse_recipe
from training.rewards.reading import both_orders

CONTEXT = 512
KINDS = [name for name in ALGORITHMS if name not in ("online_preference", "pairwise_reward")]


def fitted(tokens: ChatTokens, **body: Any) -> Any:
    return within_context(parse_recipe(body), CONTEXT, tokens)


@pytest.mark.parametrize("algorithm", KINDS)
def test_examples_are_no_longer_than_the_context(algorithm: str, tiny_tokens: ChatTokens) -> None:
    for asked, given in ((4096, CONTEXT), (CONTEXT, CONTEXT), (100, 100)):
        recipe = fitted(tiny_tokens, algorithm=algorithm, max_example_tokens=asked, epochs=3)
        assert isinstance(recipe, Training)
        assert (recipe.max_example_tokens, recipe.epochs) == (given, 3)


def test_what_a_recipe_has_within_itself_is_fitted_too(tiny_tokens: ChatTokens) -> None:
    ppo = fitted(tiny_tokens, algorithm="ppo", reward={"algorithm": "reward", "max_example_tokens": 4096})
    assert isinstance(ppo, PpoRecipe)
    assert (ppo.max_example_tokens, ppo.reward.max_example_tokens) == (CONTEXT, CONTEXT)
    online = fitted(tiny_tokens, algorithm="online_preference", loss={"algorithm": "dpo", "max_example_tokens": 4096})
    assert isinstance(online, OnlinePreferenceRecipe)
    assert (online.max_example_tokens, online.reward.max_example_tokens) == (CONTEXT, CONTEXT)


def test_a_pair_that_is_read_as_one_sequence_fits_with_what_stands_between_its_answers(
    tiny_tokens: ChatTokens,
) -> None:
    recipe = fitted(tiny_tokens, algorithm="pairwise_reward", max_example_tokens=4096)
    assert isinstance(recipe, PairwiseRewardRecipe)
    each = (1,) * ((recipe.max_example_tokens - 2) // 2)
    pair = TokenPair("ev", "", (1,) * (recipe.max_example_tokens - 2 * len(each)), each, each)
    assert pair.item.n_tokens == recipe.max_example_tokens
    assert longest(both_orders(pair, tiny_tokens.again())) == CONTEXT


def longest(item: Item) -> int:
    return len(item.prompt) + max(map(len, item.answers))
