"""The losses of single answers, KTO and SFT, against TRL's: the same adapter, the same batch, in fp32.

Ours goes the way that a job goes: packed passes, the reference's passes for answers and strays, the loop's own step.
"""

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch

from tests.training.oracle.compare import ADAPTER, QUIET, Learned, Setting, assert_same, learned, moved_state
from tests.training.oracle.peer import learn_answers, learn_thumbs
from training.algorithms import KtoRecipe, SftRecipe
from training.examples.example import TokenAnswer
from training.examples.tokens import ChatTokens
from training.loops import kto, sft
from training.loops.reference import REFERENCE
from training.loops.steps import POLICY
from training.losses.kto import mismatched_kl
from training.recipe import parse_recipe

pytestmark = pytest.mark.slow


@pytest.fixture
def thumbs(tiny_tokens: ChatTokens) -> list[TokenAnswer]:
    """Thumbs of both kinds on answers of different lengths, each to a prompt of its own."""
    said = (
        ("Name a fruit.", "A pear.", True),
        ("Why?", "No.", False),
        ("Hi", "Hello! How are you today?", True),
        ("Is it late?", "I would rather not say.", False),
    )
    return [
        TokenAnswer(ask, ask, tiny_tokens.prompt([{"role": "user", "content": ask}]), tiny_tokens.answer(answer), up=up)
        for ask, answer, up in said
    ]


def learn_kto(setting: Setting, thumbs: Sequence[TokenAnswer], recipe: KtoRecipe) -> tuple[Learned, float]:
    """One gradient step of the loop, and its z₀."""
    base = setting.base()
    passes = kto.with_reference(base, kto.pack_thumbs(thumbs, recipe), setting.folder / REFERENCE, QUIET)
    base.add_adapter(POLICY, recipe.adapter, seed=0)
    base.set_adapter_state(POLICY, setting.state)
    kl = mismatched_kl(torch.cat([kto.stray_ratios(base, each) for each in passes]))
    total_weight = sum(float(kto.weights(each, recipe).sum()) for each in passes)
    parts = [kto.learn_pass(base, each, recipe, kl, total_weight)["loss"].sum() for each in passes]
    return learned(float(sum(parts)) / total_weight, base.parameters(POLICY)), float(kl)


def learn_sft(setting: Setting, answers: Sequence[TokenAnswer], recipe: SftRecipe) -> Learned:
    """One gradient step of the loop."""
    base = setting.base()
    base.add_adapter(POLICY, recipe.adapter, seed=0)
    base.set_adapter_state(POLICY, setting.state)
    passes = sft.pack_answers(answers, recipe)
    total_weight = sum(float(each.weights.sum()) for each in passes)
    loss = sum(sft.learn_pass(base, each, total_weight)[0] for each in passes)
    return learned(loss, base.parameters(POLICY))


def make_recipe(algorithm: str, **fields: object) -> KtoRecipe | SftRecipe:
    return parse_recipe({"algorithm": algorithm, "adapter": ADAPTER.model_dump(), **fields})


@pytest.mark.parametrize(("seed", "is_clamped"), [(12, False), (19, False), (13, True)])
@pytest.mark.parametrize("pass_tokens", [512, 96])
def test_kto_is_trls_with_the_same_strays(
    setting: Setting, thumbs: list[TokenAnswer], seed: int, is_clamped: bool, pass_tokens: int
) -> None:
    # TRL averages over the batch's thumbs, we by their weights: the same where these are 1 on average.
    setting = replace(setting, state=moved_state(setting.model, seed))
    recipe = make_recipe("kto", beta=0.3, up_weight=1.4, down_weight=0.6, pass_tokens=pass_tokens)
    ours, kl = learn_kto(setting, thumbs, recipe)
    assert (kl == 0) == is_clamped
    assert_same(ours, learn_thumbs(setting, thumbs, beta=0.3, desirable_weight=1.4, undesirable_weight=0.6))


@pytest.mark.parametrize("theirs_packed", [True, False])
@pytest.mark.parametrize("ours_packed", [True, False])
def test_sft_is_trls_on_the_answers_alone(
    setting: Setting, thumbs: list[TokenAnswer], ours_packed: bool, theirs_packed: bool
) -> None:
    ours = learn_sft(setting, thumbs, make_recipe("sft", pack=ours_packed))
    assert_same(ours, learn_answers(setting, thumbs, completion_only_loss=True, packing=theirs_packed))


def test_an_answer_of_weight_two_is_one_that_trls_sft_sees_twice(setting: Setting, thumbs: list[TokenAnswer]) -> None:
    first, *others = thumbs
    ours = learn_sft(setting, [replace(first, weight=2.0), *others], make_recipe("sft"))
    assert_same(ours, learn_answers(setting, [first, *thumbs], completion_only_loss=True))
