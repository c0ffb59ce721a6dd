"""Each preference loss against TRL's: the same adapter, the same batch, the loss and the adapter's gradients in fp32.

Ours goes the way that a job goes: the shared base, a packed pass with shared prompts, the reference's pass, one
gradient step of the loop.
"""

import importlib.util
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import cosine_similarity

from tests.services import missing
from tests.training.oracle.peer import Kind, Learned, Setting, learn
from training.algorithms import AdapterRecipe, PreferenceRecipe
from training.curate import TokenPair
from training.loops.preference import POLICY, learn_pass, make_pair_pass, with_reference
from training.loops.steps import Watch
from training.model import FP32, SharedBase
from training.recipe import parse_recipe
from training.tokens import ChatTokens

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:You are importing from 'trl.experimental'"),
]

QUIET = Watch(point=lambda point: None, progress=lambda share: None, stopping=lambda: False)
ADAPTER = AdapterRecipe(rank=8, alpha=16)

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


@pytest.fixture(scope="module", autouse=True)
def _trl_is_installed() -> None:
    if importlib.util.find_spec("trl") is None:
        missing("TRL is not installed: run `make setup`")


@pytest.fixture
def setting(tiny_model: Path, tiny_tokens: ChatTokens, tmp_path: Path) -> Setting:
    """Pairs of different lengths, and an adapter that has moved away from its start."""
    base = SharedBase(tiny_model, torch.device("cpu"), FP32)
    base.add_adapter(POLICY, ADAPTER, seed=0)
    chance = torch.Generator().manual_seed(7)
    state = {
        name: 0.2 * torch.randn(tensor.shape, generator=chance) for name, tensor in base.adapter_state(POLICY).items()
    }
    return Setting(tiny_model, ADAPTER, state, make_pairs(tiny_tokens), tmp_path)


def make_pairs(tokens: ChatTokens, *, prompts: tuple[str, ...] = ("Name a fruit.", "Why?", "Hi")) -> list[TokenPair]:
    answers = (("A pear.", "I would rather not say."), ("Because it rains.", "No."), ("Hello!", "Go away"))
    return [
        TokenPair(prompt, prompt, tokens.prompt([{"role": "user", "content": prompt}]), *map(tokens.answer, both))
        for prompt, both in zip(prompts, answers, strict=True)
    ]


def with_even_chosen_answers(pairs: list[TokenPair]) -> list[TokenPair]:
    """The same pairs, the chosen answers cut to the length of the shortest."""
    shortest = min(len(pair.chosen) for pair in pairs)
    return [replace(pair, chosen=(*pair.chosen[: shortest - 1], pair.chosen[-1])) for pair in pairs]


def learn_ours(setting: Setting, recipe: PreferenceRecipe) -> Learned:
    """One gradient step of the loop on all pairs in one pass."""
    base = SharedBase(setting.model, torch.device("cpu"), FP32)
    whole = make_pair_pass(setting.pairs, torch.zeros(2 * len(setting.pairs)))
    (ready,) = with_reference(base, [whole], setting.folder / "reference.safetensors", "run", QUIET)
    base.add_adapter(POLICY, recipe.adapter, seed=0)
    base.set_adapter_state(POLICY, setting.state)
    values = learn_pass(base, ready, recipe, float(len(setting.pairs)))
    gradients = {name: p.grad.clone() for name, p in base.parameters(POLICY).items() if p.grad is not None}
    return Learned(float(values["loss"].mean()), gradients)


def make_recipe(algorithm: str, **fields: object) -> PreferenceRecipe:
    return parse_recipe({"algorithm": algorithm, "adapter": ADAPTER.model_dump(), **fields})


def assert_same(ours: Learned, theirs: Learned) -> None:
    assert ours.gradients.keys() == theirs.gradients.keys()
    assert ours.loss == pytest.approx(theirs.loss, abs=1e-4)
    one, other = ours.flat().double(), theirs.flat().double()
    assert one.norm() > 1e-3
    assert one.norm().item() == pytest.approx(other.norm().item(), rel=1e-3)
    assert cosine_similarity(one, other, dim=0) >= 0.9999


@pytest.mark.parametrize("algorithm", SAME_DEFINITION)
def test_loss_and_gradients_are_trls(setting: Setting, algorithm: str) -> None:
    fields, kind, options = SAME_DEFINITION[algorithm]
    assert_same(learn_ours(setting, make_recipe(algorithm, **fields)), learn(kind, setting, **options))


@pytest.mark.parametrize("place", range(3))
def test_conservative_dpo_is_trls_aot_with_smoothed_labels_on_one_pair(setting: Setting, place: int) -> None:
    # TRL 1.16 smooths no labels under `sigmoid`; `aot` is that loss on sorted log-ratios, of which a pair has one.
    setting = replace(setting, pairs=setting.pairs[place : place + 1])
    ours = learn_ours(setting, make_recipe("conservative_dpo", beta=0.3, flip_rate=0.2))
    assert_same(ours, learn("dpo", setting, loss_type=["aot"], beta=0.3, label_smoothing=0.2))


def test_dpo_with_an_nll_term_is_trls_sum_of_sigmoid_and_sft(setting: Setting) -> None:
    # TRL averages the NLL over the batch's tokens, we over its pairs: the same where chosen answers are equally long.
    setting = replace(setting, pairs=with_even_chosen_answers(setting.pairs))
    ours = learn_ours(setting, make_recipe("dpo", beta=0.3, nll_weight=0.5))
    assert_same(ours, learn("dpo", setting, loss_type=["sigmoid", "sft"], loss_weights=[1.0, 0.5], beta=0.3))


def test_orpo_is_trls_on_prompts_of_one_token(setting: Setting) -> None:
    # TRL's NLL spans the prompt too and is averaged over the batch's tokens: a first token is never predicted.
    pairs = [replace(pair, prompt=pair.prompt[:1]) for pair in with_even_chosen_answers(setting.pairs)]
    setting = replace(setting, pairs=pairs)
    assert_same(learn_ours(setting, make_recipe("orpo", odds_weight=0.5)), learn("orpo", setting, beta=0.5))


def test_orpos_odds_ratio_term_is_trls_on_any_prompt(setting: Setting) -> None:
    # The NLL, which TRL takes over the prompt too, falls out of the difference of two weights of the odds ratio.
    ours = [learn_ours(setting, make_recipe("orpo", odds_weight=weight)) for weight in (2.5, 0.5)]
    theirs = [learn("orpo", setting, beta=weight) for weight in (2.5, 0.5)]
    assert_same(ours[0].minus(ours[1]), theirs[0].minus(theirs[1]))
