"""On-policy preference rounds on a tiny model: what is learned, resumption, rounds with nothing to learn from."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.training.loops.notes import Notes, same
from tests.training.loops.on_policy import Bench
from training.algorithms import OnlinePreferenceRecipe
from training.errors import EngineMismatch, Stopped, TooFewPairs
from training.examples.tokens import ChatTokens
from training.loops.online_preference import LEARNED
from training.loops.reference import REFERENCE
from training.recipe import parse_recipe


def make(
    rollouts: dict[str, object] | None = None, loss: dict[str, object] | None = None, **fields: object
) -> OnlinePreferenceRecipe:
    sizes = {"rounds": 3, "prompts": 3, "answers": 4, "max_tokens": 6}
    learn = {"algorithm": "dpo", "epochs": 1, "batch_pairs": 2, "pass_tokens": 200}
    body = {
        "algorithm": "online_preference",
        "rollouts": {**sizes, **(rollouts or {})},
        "loss": {**learn, "adapter": {"rank": 8, "alpha": 16}, **(loss or {})},
        **fields,
    }
    recipe = parse_recipe(body)
    assert isinstance(recipe, OnlinePreferenceRecipe)
    return recipe


@pytest.fixture
def bench(tiny_model: Path, tiny_tokens: ChatTokens, tmp_path: Path) -> Bench:
    return Bench(tiny_model, tiny_tokens, tmp_path / "run")


@pytest.mark.parametrize("form", ["best_worst", "rejection"])
def test_rewarded_answers_become_more_likely(bench: Bench, form: str) -> None:
    notes = Notes()
    recipe = make(
        {"rounds": 3, "prompts": 48, "answers": 4, "max_tokens": 2},
        {"epochs": 2, "batch_pairs": 8, "optimizer": {"learning_rate": 1e-2}},
        votes_share=0.0,
        form=form,
    )
    assert bench.gained(bench.train(recipe, notes)) > 0.05
    assert [point["step"] for point in notes.points] == list(range(1, len(notes.points) + 1))
    assert notes.points[0]["kl"] == pytest.approx(0, abs=1e-6)
    assert notes.points[-1]["kl"] > 0.01


def test_votes_are_learned_from_in_every_round(bench: Bench) -> None:
    notes = Notes()
    bench.train(make(loss={"epochs": 1, "batch_pairs": 50}, votes_share=0.5), notes)
    assert [point["pairs"] for point in notes.points] == [6 + 3] * 3
    answers = sum(len(sums_N) for sums_N in load_file(bench.folder / REFERENCE).values())
    assert answers == 2 * (6 + 3 * 3), "what the reference gives the votes is computed once for all rounds"


@pytest.mark.parametrize("stop_at", [2, 8, 24])
def test_a_stopped_run_ends_with_the_same_adapter_as_an_unbroken_one(
    tiny_model: Path, tiny_tokens: ChatTokens, tmp_path: Path, stop_at: int
) -> None:
    notes = Notes()
    unbroken = Bench(tiny_model, tiny_tokens, tmp_path / "unbroken").train(make(), notes)
    broken = Bench(tiny_model, tiny_tokens, tmp_path / "broken")
    first, second = Notes(stop_at), Notes()
    with pytest.raises(Stopped):
        broken.train(make(), first)
    finished = len(list(broken.folder.glob("round-*.safetensors")))
    torch.manual_seed(99)  # whatever the second attempt's process did before
    assert same(broken.train(make(), second), unbroken)
    assert broken.rollouts is not None
    assert len(broken.rollouts.begun) == 3 - finished, "finished rounds are not answered again"
    assert [point["step"] for point in (*first.points, *second.points)] == [point["step"] for point in notes.points]
    left = {path.name for path in broken.folder.iterdir()}
    assert left == {LEARNED, REFERENCE, *(f"round-{number:04d}.safetensors" for number in range(3))}, "no checkpoints"


def test_a_round_that_gives_no_pair_is_told(bench: Bench) -> None:
    with pytest.raises(TooFewPairs, match="round 1 gave no pair"):
        bench.train(make(least_margin=50), Notes(), votes=False)


def test_an_engine_that_answers_without_the_adapter_is_refused(bench: Bench) -> None:
    recipe = make({"rounds": 9}, {"epochs": 4, "optimizer": {"learning_rate": 1e-2}})
    with pytest.raises(EngineMismatch, match="without the adapter"):
        bench.train(recipe, Notes(), serves=False)
