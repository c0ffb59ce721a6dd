"""Each preference loss against TRL's: the same adapter, the same batch, the loss and the adapter's gradients in fp32.

Ours goes the way that a job goes: the shared base, a packed pass with shared prompts, the reference's pass, one
gradient step of the loop.
"""

from dataclasses import replace
from typing import Any

import pytest
import torch

from tests.training.oracle.compare import ADAPTER, QUIET, Learned, Setting, assert_same, learned
from tests.training.oracle.peer import Kind, learn_pairs
from training.algorithms import PreferenceRecipe
from training.examples.example import TokenPair
from training.examples.tokens import ChatTokens
from training.loops.preference import POLICY, learn_pass, make_pair_pass, with_reference
from training.loops.reference import REFERENCE
from training.recipe import parse_recipe

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:You are importing from 'trl.experimental'"),
]

# Recipe, and the TRL trainer with its options. TRL's SimPO divides gamma by beta and multiplies by beta again.
SAME_DEFINITION: dict[str, tuple[dict[str, Any], Kind, dict[str, Any]]] = {
    "dpo": ({"beta": 0.3}, "dpo", {"loss_type": ["sigmoid"], "beta": 0.3}),
    "ipo": ({"beta": 0.3}, "dpo", {"loss_type": ["ipo"], "beta": 0.3}),
    "hinge": ({"beta": 0.3}, "dpo", {"loss_type": ["hinge"], "beta": 0.3}),
    "robust_dpo": (
        {"beta": 0.3, "flip_rate": 0.2},
        "dpo",
        {"loss_type": ["robust"], "beta": 0.3, "label_smoothing": 0.2},
    ),
    "normalised_dpo": ({"beta": 2.0}, "dpo", {"loss_type": ["sigmoid_norm"], "beta": 2.0}),
    "simpo": (
        {"beta": 2.0, "gamma": 0.7},
        "cpo",
        {"loss_type": "simpo", "cpo_alpha": 0.0, "beta": 2.0, "simpo_gamma": 0.7},
    ),
}


@pytest.fixture
def pairs(tiny_tokens: ChatTokens) -> list[TokenPair]:
    """Pairs of different lengths."""
    said = (
        ("Name a fruit.", "A pear.", "I would rather not say."),
        ("Why?", "Because it rains.", "No."),
        ("Hi", "Hello!", "Go away"),
    )
    return [
        TokenPair(ask, ask, tiny_tokens.prompt([{"role": "user", "content": ask}]), *map(tiny_tokens.answer, both))
        for ask, *both in said
    ]


def with_even_chosen_answers(pairs: list[TokenPair]) -> list[TokenPair]:
    """The same pairs, the chosen answers cut to the length of the shortest."""
    shortest = min(len(pair.chosen) for pair in pairs)
    return [replace(pair, chosen=(*pair.chosen[: shortest - 1], pair.chosen[-1])) for pair in pairs]


def learn_ours(setting: Setting, pairs: list[TokenPair], recipe: PreferenceRecipe) -> Learned:
    """One gradient step of the loop on all pairs in one pass."""
    base = setting.base()
    whole = make_pair_pass(pairs, torch.zeros(2 * len(pairs)))
    (ready,) = with_reference(base, [whole], setting.folder / REFERENCE, QUIET)
    base.add_adapter(POLICY, recipe.adapter, seed=0)
    base.set_adapter_state(POLICY, setting.state)
    values = learn_pass(base, ready, recipe, float(len(pairs)))
    return learned(float(values["loss"].mean()), base.parameters(POLICY))


def make_recipe(algorithm: str, **fields: object) -> PreferenceRecipe:
    return parse_recipe({"algorithm": algorithm, "adapter": ADAPTER.model_dump(), **fields})


@pytest.mark.parametrize("algorithm", SAME_DEFINITION)
def test_loss_and_gradients_are_trls(setting: Setting, pairs: list[TokenPair], algorithm: str) -> None:
    fields, kind, options = SAME_DEFINITION[algorithm]
    ours = learn_ours(setting, pairs, make_recipe(algorithm, **fields))
    assert_same(ours, learn_pairs(kind, setting, pairs, **options))


@pytest.mark.parametrize("place", range(3))
def test_conservative_dpo_is_trls_aot_with_smoothed_labels_on_one_pair(
    setting: Setting, pairs: list[TokenPair], place: int
) -> None:
    # TRL 1.16 smooths no labels under `sigmoid`; `aot` is that loss on sorted log-ratios, of which a pair has one.
    one = pairs[place : place + 1]
    ours = learn_ours(setting, one, make_recipe("conservative_dpo", beta=0.3, flip_rate=0.2))
    assert_same(ours, learn_pairs("dpo", setting, one, loss_type=["aot"], beta=0.3, label_smoothing=0.2))


def test_dpo_with_an_nll_term_is_trls_sum_of_sigmoid_and_sft(setting: Setting, pairs: list[TokenPair]) -> None:
    # TRL averages the NLL over the batch's tokens, we over its pairs: the same where chosen answers are equally long.
    even = with_even_chosen_answers(pairs)
    ours = learn_ours(setting, even, make_recipe("dpo", beta=0.3, nll_weight=0.5))
    theirs = learn_pairs("dpo", setting, even, loss_type=["sigmoid", "sft"], loss_weights=[1.0, 0.5], beta=0.3)
    assert_same(ours, theirs)


def test_orpo_is_trls_on_prompts_of_one_token(setting: Setting, pairs: list[TokenPair]) -> None:
    # TRL's NLL spans the prompt too and is averaged over the batch's tokens: a first token is never predicted.
    short = [replace(pair, prompt=pair.prompt[:1]) for pair in with_even_chosen_answers(pairs)]
    ours = learn_ours(setting, short, make_recipe("orpo", odds_weight=0.5))
    assert_same(ours, learn_pairs("orpo", setting, short, beta=0.5))


def test_orpos_odds_ratio_term_is_trls_on_any_prompt(setting: Setting, pairs: list[TokenPair]) -> None:
    # The NLL, which TRL takes over the prompt too, falls out of the difference of two weights of the odds ratio.
    ours = [learn_ours(setting, pairs, make_recipe("orpo", odds_weight=weight)) for weight in (2.5, 0.5)]
    theirs = [learn_pairs("orpo", setting, pairs, beta=weight) for weight in (2.5, 0.5)]
    assert_same(ours[0].minus(ours[1]), theirs[0].minus(theirs[1]))
