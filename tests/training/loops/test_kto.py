"""The KTO loop on a tiny model: first loss, what it learns, resumption bit for bit, strays."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.training.loops.notes import Notes, same
from tests.training.loops.positions import moved_positions
from tests.training.tiny import make_kto_recipe, make_thumbs
from training.algorithms import KtoRecipe
from training.base.loading import FP32
from training.base.model import SharedBase
from training.errors import Stopped
from training.examples.batches import Item
from training.examples.example import TokenAnswer
from training.examples.tokens import ChatTokens
from training.loops.kto import learn_pass, make_strays, pack_thumbs, stray_ratios, train_kto, with_reference
from training.loops.reference import REFERENCE
from training.loops.steps import POLICY
from training.losses.kto import mismatched_kl


def train(model: Path, tokens: ChatTokens, folder: Path, recipe: KtoRecipe, notes: Notes) -> dict[str, torch.Tensor]:
    base = SharedBase(model, torch.device("cpu"))
    train_kto(base, make_thumbs(tokens), recipe, folder, notes.watch(), every_s=1e9)
    return base.adapter_state(POLICY)


def test_the_first_loss_is_a_half_and_good_answers_rise_above_bad_ones(
    tiny_model: Path, tiny_tokens: ChatTokens, tmp_path: Path
) -> None:
    notes = Notes()
    train(tiny_model, tiny_tokens, tmp_path, make_kto_recipe(epochs=10, optimizer={"learning_rate": 5e-3}), notes)
    assert notes.points[0]["loss"] == pytest.approx(0.5, abs=1e-3)
    assert notes.points[0]["margin"] == pytest.approx(0, abs=1e-2)
    assert notes.points[-1]["loss"] < 0.4
    assert notes.points[-1]["margin"] > 1
    assert all(point["kto_baseline"] >= 0 for point in notes.points)
    assert notes.points[0]["reference_kl"] == pytest.approx(0, abs=1e-3)
    assert abs(notes.points[-1]["reference_kl"]) > 0.01


def test_the_loss_sends_no_gradient_through_positions_that_predict_no_answer_token(
    tiny_model: Path, tiny_tokens: ChatTokens, tmp_path: Path
) -> None:
    base = SharedBase(tiny_model, torch.device("cpu"), FP32)
    recipe = make_kto_recipe(nll_weight=0.5, pass_tokens=10_000, batch_thumbs=20)
    packed = pack_thumbs(make_thumbs(tiny_tokens), recipe)
    (each,) = with_reference(base, packed, tmp_path / REFERENCE, Notes().watch())
    base.add_adapter(POLICY, recipe.adapter, seed=0)

    def learn() -> None:
        kl = mismatched_kl(stray_ratios(base, each))
        learn_pass(base, each, recipe, kl, total_weight=12.0)

    assert moved_positions(learn) == sorted(each.batch.rows_S.tolist())


@pytest.mark.parametrize("stop_at", [0, 3, 9])
def test_a_stopped_run_ends_with_the_same_adapter_as_an_unbroken_one(
    tiny_model: Path, tiny_tokens: ChatTokens, tmp_path: Path, stop_at: int
) -> None:
    recipe = make_kto_recipe(epochs=3)
    unbroken = train(tiny_model, tiny_tokens, tmp_path / "unbroken", recipe, Notes())
    with pytest.raises(Stopped):
        train(tiny_model, tiny_tokens, tmp_path / "broken", recipe, Notes(stop_at))
    torch.manual_seed(99)  # whatever the second attempt's process did before
    assert same(train(tiny_model, tiny_tokens, tmp_path / "broken", recipe, Notes()), unbroken)


def test_every_answer_strays_once_and_to_another_prompt(tiny_tokens: ChatTokens) -> None:
    # Both sides of a pair lie next to each other, and three prompts come twice; no two answers are the same.
    thumbs = [replace(thumb, answer=(*thumb.answer, i)) for i, thumb in enumerate(make_thumbs(tiny_tokens))]
    strays = make_strays(thumbs, 2048)
    assert [stray.prompt for stray in strays] == [thumb.prompt for thumb in thumbs]
    assert sorted(stray.answers[0] for stray in strays) == sorted(thumb.answer for thumb in thumbs)
    own = {(thumb.prompt, thumb.answer) for thumb in thumbs}
    assert not own & {(stray.prompt, stray.answers[0]) for stray in strays}


def test_a_stray_is_no_longer_than_an_example_may_be() -> None:
    thumbs = [TokenAnswer(f"e{n}", "", (n,) * n, (7,) * (100 - n)) for n in (20, 90)]
    strays = make_strays(thumbs, 100)
    assert [stray.n_tokens for stray in strays] == [30, 100]


def test_where_all_prompts_differ_a_stray_is_the_answer_of_the_thumb_before(tiny_tokens: ChatTokens) -> None:
    thumbs = [replace(thumb, prompt=(*thumb.prompt, i)) for i, thumb in enumerate(make_thumbs(tiny_tokens))]
    assert make_strays(thumbs, 2048) == [Item(thumb.prompt, (thumbs[i - 1].answer,)) for i, thumb in enumerate(thumbs)]


@pytest.mark.parametrize("n_thumbs", [0, 1, 5])
def test_answers_to_one_prompt_alone_stray_among_themselves(tiny_tokens: ChatTokens, n_thumbs: int) -> None:
    thumbs = [replace(thumb, prompt=(1, 2)) for thumb in make_thumbs(tiny_tokens)[:n_thumbs]]
    assert sorted(stray.answers[0] for stray in make_strays(thumbs, 2048)) == sorted(thumb.answer for thumb in thumbs)


def test_a_pass_keeps_its_thumbs_and_their_strays_together(tiny_tokens: ChatTokens) -> None:
    thumbs = make_thumbs(tiny_tokens)
    strays = make_strays(thumbs, 2048)
    for each in pack_thumbs(thumbs, make_kto_recipe()):
        assert list(each.strays) == [strays[thumbs.index(thumb)] for thumb in each.thumbs]


def test_a_pass_in_halves_scores_the_same_answers(tiny_model: Path, tiny_tokens: ChatTokens) -> None:
    (whole,) = pack_thumbs(make_thumbs(tiny_tokens), make_kto_recipe(pass_tokens=10_000, batch_thumbs=20))
    parts = whole.halves()
    assert [thumb for part in parts for thumb in part.thumbs] == list(whole.thumbs)
    assert [stray for part in parts for stray in part.strays] == list(whole.strays)


def gradient_norms(model: Path, thumbs: Sequence[TokenAnswer], folder: Path, **fields: object) -> list[float]:
    """The gradient's size at each step of a run that hardly moves."""
    recipe = make_kto_recipe(epochs=1, optimizer={"learning_rate": 1e-9}, **fields)
    notes = Notes()
    train_kto(SharedBase(model, torch.device("cpu"), FP32), thumbs, recipe, folder, notes.watch())
    return [point["grad_norm"] for point in notes.points]


def test_a_sides_weight_counts_in_steps_of_that_side_alone(
    tiny_model: Path, tiny_tokens: ChatTokens, tmp_path: Path
) -> None:
    down = [replace(thumb, up=False) for thumb in make_thumbs(tiny_tokens)]
    whole = gradient_norms(tiny_model, down, tmp_path / "whole")
    half = gradient_norms(tiny_model, down, tmp_path / "half", down_weight=0.5)
    assert half == pytest.approx([norm / 2 for norm in whole], rel=1e-4)


def test_the_weights_of_thumbs_count_between_steps(tiny_model: Path, tiny_tokens: ChatTokens, tmp_path: Path) -> None:
    """Two steps of two equal thumbs each, those of one step three times as heavy as the other's."""
    even = [thumb for thumb in make_thumbs(tiny_tokens)[:2] for _ in range(2)]
    uneven = [replace(thumb, weight=weight) for thumb, weight in zip(even, (1.0, 1.0, 3.0, 3.0), strict=True)]
    alone = {"batch_thumbs": 2, "pass_tokens": 2048}
    before = gradient_norms(tiny_model, even, tmp_path / "even", **alone)
    after = gradient_norms(tiny_model, uneven, tmp_path / "uneven", **alone)
    assert sorted(b / a for a, b in zip(before, after, strict=True)) == pytest.approx([0.5, 1.5], rel=1e-3)
