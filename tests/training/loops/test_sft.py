"""The supervised loop on a tiny model: what it learns, packing, mixing, resumption bit for bit."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from tests.training.loops.notes import Notes, same
from tests.training.loops.positions import moved_positions
from tests.training.tiny import make_demonstrations, make_sft_recipe
from training.algorithms import SftRecipe
from training.base.loading import FP32
from training.base.model import SharedBase
from training.errors import Stopped
from training.examples.example import TokenAnswer
from training.examples.tokens import ChatTokens
from training.loops.sft import learn_pass, make_answer_pass, mix, pack_answers, train_sft
from training.loops.steps import POLICY


def train(model: Path, tokens: ChatTokens, folder: Path, recipe: SftRecipe, notes: Notes) -> dict[str, torch.Tensor]:
    base = SharedBase(model, torch.device("cpu"))
    train_sft(base, make_demonstrations(tokens), recipe, folder, notes.watch(), every_s=1e9)
    return base.adapter_state(POLICY)


def test_the_loss_begins_at_the_bases_own_and_falls(tiny_model: Path, tiny_tokens: ChatTokens, tmp_path: Path) -> None:
    notes = Notes()
    shown = make_demonstrations(tiny_tokens)
    recipe = make_sft_recipe(epochs=20, batch_examples=len(shown), optimizer={"learning_rate": 5e-3})
    train(tiny_model, tiny_tokens, tmp_path, recipe, notes)
    base = SharedBase(tiny_model, torch.device("cpu"))
    with torch.no_grad(), base.policy(None):
        expected = -torch.cat([base.logprobs(make_answer_pass([each]).batch) for each in shown]).mean()
    assert notes.points[0]["loss"] == pytest.approx(expected.item(), abs=0.05)
    assert notes.points[-1]["loss"] < 0.7 * notes.points[0]["loss"]


def test_the_loss_sends_no_gradient_through_positions_that_predict_no_answer_token(
    tiny_model: Path, tiny_tokens: ChatTokens
) -> None:
    base = SharedBase(tiny_model, torch.device("cpu"), FP32)
    base.add_adapter(POLICY, make_sft_recipe().adapter, seed=0)
    each = make_answer_pass(make_demonstrations(tiny_tokens))
    moved = moved_positions(lambda: learn_pass(base, each, float(each.weights.sum())))
    assert moved == sorted(each.batch.rows_S.tolist())


def test_a_stopped_run_ends_with_the_same_adapter_as_an_unbroken_one(
    tiny_model: Path, tiny_tokens: ChatTokens, tmp_path: Path
) -> None:
    recipe = make_sft_recipe(epochs=3)
    unbroken = train(tiny_model, tiny_tokens, tmp_path / "unbroken", recipe, Notes())
    with pytest.raises(Stopped):
        train(tiny_model, tiny_tokens, tmp_path / "broken", recipe, Notes(2))
    torch.manual_seed(99)
    assert same(train(tiny_model, tiny_tokens, tmp_path / "broken", recipe, Notes()), unbroken)


def test_packed_examples_never_see_each_other(tiny_model: Path, tiny_tokens: ChatTokens) -> None:
    shown = make_demonstrations(tiny_tokens)
    base = SharedBase(tiny_model, torch.device("cpu"), FP32)
    with torch.no_grad(), base.policy(None):
        packed = base.logprobs(make_answer_pass(shown).batch)
        alone = torch.cat([base.logprobs(make_answer_pass([each]).batch) for each in shown])
    assert torch.allclose(packed, alone, atol=1e-5)


def test_without_packing_every_example_has_a_pass_of_its_own(tiny_tokens: ChatTokens) -> None:
    shown = make_demonstrations(tiny_tokens)
    assert [len(each.answers) for each in pack_answers(shown, make_sft_recipe(pack=False))] == [1] * len(shown)
    assert len(pack_answers(shown, make_sft_recipe(pass_tokens=10_000, batch_examples=20))) == 1


def test_a_pass_in_halves_teaches_the_same(tiny_model: Path, tiny_tokens: ChatTokens) -> None:
    base = SharedBase(tiny_model, torch.device("cpu"), FP32)
    base.add_adapter(POLICY, make_sft_recipe().adapter, seed=0)
    whole = make_answer_pass(make_demonstrations(tiny_tokens))
    total = float(whole.weights.sum())
    gradients = []
    for parts in ([whole], whole.halves()):
        assert sum(len(part.answers) for part in parts) == len(whole.answers)
        for parameter in base.parameters(POLICY).values():
            parameter.grad = None
        for part in parts:
            learn_pass(base, part, total)
        gradients.append(torch.cat([p.grad.flatten() for p in base.parameters(POLICY).values() if p.grad is not None]))
    assert gradients[0].abs().max() > 0
    torch.testing.assert_close(gradients[1], gradients[0], atol=1e-6, rtol=1e-3)
    [alone] = make_answer_pass(whole.answers[:1]).halves()
    assert alone.answers == whole.answers[:1]


def named(source: str, n: int) -> Sequence[TokenAnswer]:
    return [TokenAnswer(f"{source}-{i}", "q", (1,), (2,), source=source) for i in range(n)]


@pytest.mark.parametrize(
    ("shares", "most", "expected"),
    [
        ({"edit": 1.0}, 4.0, {"edit": 6}),
        ({"edit": 1.0, "preferred": 1.0}, 4.0, {"edit": 20, "preferred": 20}),  # 6 edits, repeated to keep up
        ({"edit": 1.0, "preferred": 1.0}, 2.0, {"edit": 12, "preferred": 20}),  # but at most twice over
        ({"edit": 3.0, "preferred": 1.0}, 100.0, {"edit": 60, "preferred": 20}),
    ],
)
def test_sources_are_mixed_by_their_shares_with_a_cap(
    shares: dict[str, float], most: float, expected: dict[str, int]
) -> None:
    mixed = mix([*named("edit", 6), *named("preferred", 20)], shares, most, seed=0)
    assert Counter(each.source for each in mixed) == expected
    assert {each.event_id for each in mixed if each.source == "edit"} == {f"edit-{i}" for i in range(6)}
    assert mixed == mix([*named("edit", 6), *named("preferred", 20)], shares, most, seed=0)


@pytest.mark.parametrize(
    ("n_edits", "n_replayed", "share", "expected"),
    [
        (10, 500, 1.0, {"edit": 10, "replay": 10}),
        (10, 500, 0.5, {"edit": 10, "replay": 5}),
        (10, 2, 1.0, {"edit": 10, "replay": 4}),  # each twice over at most
        (0, 500, 1.0, {"replay": 500}),
    ],
)
def test_replayed_text_keeps_to_its_share_however_much_there_is(
    n_edits: int, n_replayed: int, share: float, expected: dict[str, int]
) -> None:
    shown = [*named("edit", n_edits), *named("replay", n_replayed)]
    mixed = mix(shown, {"edit": 1.0, "replay": share}, 2.0, seed=0)
    assert Counter(each.source for each in mixed) == expected
    assert len(set(mixed)) == min(n_edits, expected.get("edit", 0)) + min(n_replayed, expected["replay"])
