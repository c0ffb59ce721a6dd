"""The Bradley-Terry reward model against TRL's: the same adapter, the same head, the same batch, in fp32.

Ours goes the way that a job goes: a packed pass with shared prompts, rewards at last tokens, one step of the loop.
"""

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tests.training.oracle.compare import ADAPTER, Learned, Setting, assert_same, learned
from tests.training.oracle.peer import learn_rewards
from tests.training.tiny import make_pairs
from training.base.loading import load_chat_tokens
from training.examples.example import TokenPair
from training.examples.tokens import ChatTokens
from training.loops.reward import learn_pass, make_reward_pass
from training.recipe import parse_recipe
from training.rewards.reading import read_pairs

pytestmark = pytest.mark.slow

NAME = "reward-0"
MARGINS = (0.5, 0.0, 2.0, 1.0)


@pytest.fixture
def pairs(tiny_tokens: ChatTokens) -> list[TokenPair]:
    """Pairs of different lengths, all of weight 1, with margins of their own."""
    made = make_pairs(tiny_tokens, len(MARGINS))
    return [replace(pair, weight=1.0, margin=margin) for pair, margin in zip(made, MARGINS, strict=True)]


@pytest.fixture
def head() -> Tensor:
    """[1, H]"""
    return 0.1 * torch.randn(1, 32, generator=torch.Generator().manual_seed(3))


def learn_ours(setting: Setting, pairs: Sequence[TokenPair], head: Tensor, **fields: object) -> Learned:
    """One gradient step of the loop on all pairs in one pass."""
    recipe = parse_recipe({"algorithm": "reward", "adapter": ADAPTER.model_dump(), **fields})
    base = setting.base()
    base.add_adapter(NAME, recipe.adapter, seed=0)
    base.set_adapter_state(NAME, setting.state)
    base.add_head(NAME, 1)
    own = base.head_parameters(NAME)
    with torch.no_grad():
        own["head.weight"].copy_(head)
    whole = make_reward_pass(read_pairs(pairs, recipe, load_chat_tokens(setting.model)), recipe.heads)
    total_weight = float(whole.weights_P.sum())
    values = learn_pass(base, NAME, whole, recipe, total_weight)
    loss = float((values["weight"] * values["loss"]).sum()) / total_weight
    return learned(loss, {**base.parameters(NAME), **own})


@pytest.mark.parametrize(("centring", "coefficient"), [(0.0, None), (0.3, 0.3)])
def test_loss_and_gradients_are_trls(
    setting: Setting, pairs: list[TokenPair], head: Tensor, centring: float, coefficient: float | None
) -> None:
    ours = learn_ours(setting, pairs, head, centring=centring)
    assert_same(ours, learn_rewards(setting, pairs, head, center_rewards_coefficient=coefficient))


def test_a_margin_for_all_adds_to_those_of_the_pairs(setting: Setting, pairs: list[TokenPair], head: Tensor) -> None:
    # TRL knows the margins of pairs alone.
    ours = learn_ours(setting, pairs, head, centring=0.0, margin=0.25)
    assert_same(ours, learn_rewards(setting, [replace(pair, margin=pair.margin + 0.25) for pair in pairs], head))


def test_a_pair_of_weight_two_is_one_that_trl_sees_twice(
    setting: Setting, pairs: list[TokenPair], head: Tensor
) -> None:
    first, *others = pairs
    ours = learn_ours(setting, [replace(first, weight=2.0), *others], head, centring=0.3)
    assert_same(ours, learn_rewards(setting, [first, *pairs], head, center_rewards_coefficient=0.3))
