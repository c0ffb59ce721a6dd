"""The loop of all losses on pairs, on a tiny model: first loss, resumption bit for bit, weights, refusals."""

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.training.loops.notes import Notes, same
from tests.training.loops.positions import moved_positions
from tests.training.tiny import make_pairs, make_recipe
from training.algorithms import DpoRecipe
from training.base.loading import FP32
from training.base.model import SharedBase
from training.errors import Diverged, Stopped, WrongFirstLoss
from training.examples.batches import Item, make_pass
from training.examples.tokens import ChatTokens
from training.loops import preference, reference
from training.loops.preference import (
    POLICY,
    PairPass,
    check_first_loss,
    learn_pass,
    make_pair_pass,
    margin_of,
    summary,
    train_preference,
    with_reference,
)
from training.loops.reference import REFERENCE, reference_sums
from training.loops.steps import ENTROPY_EVERY
from training.losses.preference import PairScores
from training.tensor_files import write_tensors


def train(
    model: Path, tokens: ChatTokens, folder: Path, recipe: DpoRecipe, notes: Notes, *, every_s: float = 1e9
) -> dict[str, torch.Tensor]:
    """One attempt in a fresh process's stead: a model of its own, the folder shared."""
    base = SharedBase(model, torch.device("cpu"))
    train_preference(base, make_pairs(tokens), recipe, folder, notes.watch(), every_s=every_s)
    return base.adapter_state(POLICY)


def test_the_first_loss_is_ln_2_and_the_loss_falls(tiny_model: Path, tiny_tokens: ChatTokens, tmp_path: Path) -> None:
    notes = Notes()
    recipe = make_recipe(epochs=10, optimizer={"learning_rate": 5e-3})
    train(tiny_model, tiny_tokens, tmp_path, recipe, notes)
    assert notes.points[0]["loss"] == pytest.approx(math.log(2), abs=1e-3)
    assert notes.points[-1]["loss"] < 0.4
    assert notes.points[-1]["accuracy"] == 1.0
    assert notes.points[-1]["margin"] > 0
    assert [point["step"] for point in notes.points] == list(range(1, len(notes.points) + 1))


@pytest.mark.parametrize("algorithm", ["dpo", "ipo", "hinge", "robust_dpo", "dpo_positive", "orpo", "simpo"])
def test_the_loss_sends_no_gradient_through_positions_that_predict_no_answer_token(
    tiny_model: Path, tiny_tokens: ChatTokens, tmp_path: Path, algorithm: str
) -> None:
    base = SharedBase(tiny_model, torch.device("cpu"), FP32)
    recipe = make_recipe(algorithm=algorithm, nll_weight=0.5)
    whole = make_pair_pass(make_pairs(tiny_tokens, 3), torch.zeros(6))
    (each,) = with_reference(base, [whole], tmp_path / REFERENCE, Notes().watch())
    base.add_adapter(POLICY, recipe.adapter, seed=0)
    moved = moved_positions(lambda: learn_pass(base, each, recipe, total_weight=4.0))
    assert moved == sorted(set(each.batch.rows_S.tolist()))


@pytest.mark.parametrize("algorithm", ["dpo", "orpo"])
def test_the_curve_tells_the_distance_from_the_reference_and_the_entropy_of_some_tokens(
    tiny_model: Path, tiny_tokens: ChatTokens, tmp_path: Path, algorithm: str
) -> None:
    base, recipe = SharedBase(tiny_model, torch.device("cpu"), FP32), make_recipe(algorithm=algorithm)
    whole = make_pair_pass(make_pairs(tiny_tokens, 3), torch.zeros(6))
    (each,) = with_reference(base, [whole], tmp_path / REFERENCE, Notes().watch())
    base.add_adapter(POLICY, recipe.adapter, seed=0)  # still equal to the base
    told = summary(learn_pass(base, replace(each, reference_N=each.reference_N + 5), recipe, 4.0), recipe)
    if algorithm == "dpo":
        assert told["reference_kl"] == pytest.approx(6 * 5 / float(each.batch.lengths().sum()), rel=1e-4)
    else:
        assert "reference_kl" not in told, "it knows no reference"
    with torch.no_grad(), base.policy(POLICY):
        drawn_from = torch.distributions.Categorical(logits=base.logits(each.batch)[::ENTROPY_EVERY])
    assert told["entropy"] == pytest.approx(float(drawn_from.entropy().mean()), rel=1e-4)


@pytest.mark.parametrize("stop_at", [0, 3, 5, 8])
@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_a_stopped_run_ends_with_the_same_adapter_as_an_unbroken_one(
    tiny_model: Path, tiny_tokens: ChatTokens, tmp_path: Path, stop_at: int, dropout: float
) -> None:
    recipe = make_recipe(epochs=3, adapter={"rank": 8, "alpha": 16, "dropout": dropout})
    unbroken = train(tiny_model, tiny_tokens, tmp_path / "unbroken", recipe, Notes())
    with pytest.raises(Stopped):
        train(tiny_model, tiny_tokens, tmp_path / "broken", recipe, Notes(stop_at))
    torch.manual_seed(99)  # whatever the second attempt's process did before
    assert same(train(tiny_model, tiny_tokens, tmp_path / "broken", recipe, Notes()), unbroken)


def test_a_run_killed_between_checkpoints_ends_with_the_same_adapter(
    tiny_model: Path, tiny_tokens: ChatTokens, tmp_path: Path
) -> None:
    class Killed(Exception):
        pass

    class Dying(Notes):
        def _take(self, point: Mapping[str, float]) -> None:
            super()._take(point)
            if len(self.points) == 5:
                raise Killed  # the point is written before the checkpoint of its step

    recipe = make_recipe(epochs=4)
    unbroken = train(tiny_model, tiny_tokens, tmp_path / "unbroken", recipe, Notes())
    with pytest.raises(Killed):
        train(tiny_model, tiny_tokens, tmp_path / "broken", recipe, Dying(), every_s=0)
    second = Notes()
    assert same(train(tiny_model, tiny_tokens, tmp_path / "broken", recipe, second), unbroken)
    assert second.points[0]["step"] == 5


def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(
    tiny_model: Path, tiny_tokens: ChatTokens, tmp_path: Path
) -> None:
    recipe = make_recipe(epochs=2)
    unbroken = train(tiny_model, tiny_tokens, tmp_path, recipe, Notes(), every_s=0)
    newest = max((tmp_path / "checkpoints").glob("step-*")) / "state.safetensors"
    newest.write_bytes(newest.read_bytes()[:-1] + b"\0")
    second = Notes()
    assert same(train(tiny_model, tiny_tokens, tmp_path, recipe, second), unbroken)
    assert len(second.points) == 1


def test_another_recipes_checkpoints_and_reference_are_not_taken_up(
    tiny_model: Path, tiny_tokens: ChatTokens, tmp_path: Path
) -> None:
    train(tiny_model, tiny_tokens, tmp_path, make_recipe(), Notes())
    notes = Notes()
    train(tiny_model, tiny_tokens, tmp_path, make_recipe(seed=5), notes)
    assert notes.points[0]["step"] == 1


def test_a_run_that_is_stopped_at_its_reference_goes_on_from_what_is_kept(
    tiny_model: Path, tiny_tokens: ChatTokens, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reference, "_AT_A_TIME", 2)
    passes = [make_pass([Item(p.prompt, (p.chosen, p.rejected))]) for p in make_pairs(tiny_tokens, 7)]
    base = SharedBase(tiny_model, torch.device("cpu"), FP32)
    unbroken = reference_sums(base, passes, tmp_path / "unbroken", Notes().watch())
    with pytest.raises(Stopped):
        reference_sums(base, passes, tmp_path / "broken", Notes(stop_at=5).watch())
    kept = load_file(tmp_path / "broken")
    assert len(kept) == 4, "two and two passes; the fifth was stopped in its two"
    marked = {name: sums_N + 100 for name, sums_N in kept.items()}
    write_tensors(tmp_path / "broken", marked)
    again = reference_sums(base, passes, tmp_path / "broken", Notes().watch())
    for one, other, marks in zip(again, unbroken, [100.0] * 4 + [0.0] * 3, strict=True):
        torch.testing.assert_close(one - marks, other)


def test_the_reference_is_computed_once_per_job(tiny_model: Path, tiny_tokens: ChatTokens, tmp_path: Path) -> None:
    train(tiny_model, tiny_tokens, tmp_path, make_recipe(epochs=1), Notes())
    before = (tmp_path / REFERENCE).stat().st_mtime_ns
    train(tiny_model, tiny_tokens, tmp_path, make_recipe(epochs=1), Notes())
    assert (tmp_path / REFERENCE).stat().st_mtime_ns == before


def test_a_diverging_run_stops_and_names_what_to_change(
    tiny_model: Path, tiny_tokens: ChatTokens, tmp_path: Path
) -> None:
    recipe = make_recipe(epochs=40, optimizer={"learning_rate": 1e-2, "max_grad_norm": 100.0})
    base = SharedBase(tiny_model, torch.device("cpu"))
    pairs = make_pairs(tiny_tokens)
    broken = [pairs[0].__class__(**{**pairs[0].__dict__, "weight": float("inf")}), *pairs[1:]]
    with pytest.raises(Diverged, match="learning_rate"):
        train_preference(base, broken, recipe, tmp_path, Notes().watch())


@pytest.mark.parametrize("loss", [0.6919, 0.6950, float("nan")])
def test_a_first_loss_that_is_not_ln_2_is_refused(loss: float) -> None:
    with pytest.raises(WrongFirstLoss, match="must be ln 2"):
        check_first_loss(loss)


def test_a_first_loss_within_a_thousandth_is_taken() -> None:
    check_first_loss(math.log(2) + 9e-4)


def gradient_of(tiny_model: Path, tokens: ChatTokens, label: float) -> torch.Tensor:
    """What DPO teaches the policy, still equal to the reference, from pairs with that label."""
    base, recipe = SharedBase(tiny_model, torch.device("cpu"), FP32), make_recipe(nll_weight=0.0)
    whole = make_pair_pass([replace(pair, label=label) for pair in make_pairs(tokens, 3)], torch.zeros(6))
    with torch.no_grad(), base.policy(None):
        reference_N = whole.batch.sum_answers(base.logprobs(whole.batch))
    base.add_adapter(POLICY, recipe.adapter, seed=0)
    learn_pass(base, replace(whole, reference_N=reference_N), recipe, 3.0)
    return torch.cat([p.grad.flatten() for p in base.parameters(POLICY).values() if p.grad is not None])


def test_a_tie_pulls_neither_way_and_a_doubtful_vote_pulls_less(tiny_model: Path, tiny_tokens: ChatTokens) -> None:
    sure = gradient_of(tiny_model, tiny_tokens, 1.0)
    assert sure.abs().max() > 1e-4
    torch.testing.assert_close(gradient_of(tiny_model, tiny_tokens, 0.75), sure / 2, atol=1e-7, rtol=1e-3)
    assert gradient_of(tiny_model, tiny_tokens, 0.5).abs().max() < 1e-6


def test_a_pairs_weight_counts_in_a_step_of_its_own(tiny_model: Path, tiny_tokens: ChatTokens, tmp_path: Path) -> None:
    recipe = make_recipe(epochs=1, batch_pairs=1, pass_tokens=64, optimizer={"learning_rate": 1e-9})

    def norms(weights: tuple[float, float]) -> list[float]:
        pairs = [replace(p, weight=w) for p, w in zip(make_pairs(tiny_tokens, 2), weights, strict=True)]
        base, notes = SharedBase(tiny_model, torch.device("cpu"), FP32), Notes()
        train_preference(base, pairs, recipe, tmp_path / str(weights), notes.watch())
        return [point["grad_norm"] for point in notes.points]

    ratios = [two / one for one, two in zip(norms((1, 1)), norms((1, 3)), strict=True)]
    assert sorted(ratios) == pytest.approx([0.5, 1.5], rel=1e-3)


@pytest.mark.parametrize(
    ("fields", "margin"),
    [
        ({"algorithm": "dpo", "beta": 0.5}, 0.5 * (3 - -2)),
        ({"algorithm": "robust_dpo", "beta": 0.5}, 0.5 * (3 - -2)),
        ({"algorithm": "ipo", "beta": 0.5}, 0.5 * (3 / 3 - -2 / 4)),
        ({"algorithm": "normalised_dpo", "beta": 2.0}, 2 * (3 / 3 - -2 / 4)),
        ({"algorithm": "simpo", "beta": 2.0}, 2 * (-6 / 3 - -12 / 4)),
        ({"algorithm": "orpo"}, (-2 - math.log(1 - math.exp(-2))) - (-3 - math.log(1 - math.exp(-3)))),
    ],
)
def test_the_margin_that_is_told_is_the_one_that_the_loss_pushes_up(fields: dict[str, object], margin: float) -> None:
    scores = PairScores(*(torch.tensor([x]).double() for x in (-6.0, -12.0, -9.0, -10.0, 3.0, 4.0)))
    assert margin_of(make_recipe(**fields))(scores).item() == pytest.approx(margin)


def test_sums_of_halves_are_not_held_to_the_whole_passes_reference(
    tiny_model: Path, tiny_tokens: ChatTokens, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Halves round otherwise in bf16. Here by far more than that, so that the check would tell."""

    def off(*arguments: object) -> list[PairPass]:
        found = with_reference(*arguments)  # type: ignore[arg-type]
        return [
            replace(each, reference_N=each.reference_N + torch.tensor([1.0, 0.0]).repeat(len(each.pairs)))
            for each in found
        ]

    failures = [torch.OutOfMemoryError("out of memory")]

    def learn(*arguments: object) -> dict[str, torch.Tensor]:
        if failures:
            raise failures.pop()
        return learn_pass(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(preference, "with_reference", off)
    monkeypatch.setattr(preference, "learn_pass", learn)
    train(tiny_model, tiny_tokens, tmp_path / "halved", make_recipe(), Notes())
    assert not failures
    with pytest.raises(WrongFirstLoss):
        train(tiny_model, tiny_tokens, tmp_path / "whole", make_recipe(), Notes())
