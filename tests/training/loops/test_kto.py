"""The KTO loop on a tiny model: first loss, what it learns, resumption bit for bit, strays."""

from pathlib import Path

import pytest
import torch

from tests.training.loops.notes import Notes, same
from tests.training.tiny import make_kto_recipe, make_thumbs
from training.algorithms import KtoRecipe
from training.errors import Stopped
from training.loops.kto import pack_thumbs, train_kto
from training.loops.steps import POLICY
from training.model import SharedBase
from training.tokens import ChatTokens


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
    assert all(point["kl"] >= 0 for point in notes.points)


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


def test_a_stray_is_another_prompts_answer(tiny_tokens: ChatTokens) -> None:
    thumbs = make_thumbs(tiny_tokens)
    for each in pack_thumbs(thumbs, make_kto_recipe()):
        for thumb, stray in zip(each.thumbs, each.strays, strict=True):
            assert stray.prompt == thumb.prompt
            assert stray.answers == (thumbs[thumbs.index(thumb) - 1].answer,)


def test_a_pass_in_halves_scores_the_same_answers(tiny_model: Path, tiny_tokens: ChatTokens) -> None:
    (whole,) = pack_thumbs(make_thumbs(tiny_tokens), make_kto_recipe(pass_tokens=10_000, batch_thumbs=20))
    parts = whole.halves()
    assert [thumb for part in parts for thumb in part.thumbs] == list(whole.thumbs)
    assert [stray for part in parts for stray in part.strays] == list(whole.strays)
