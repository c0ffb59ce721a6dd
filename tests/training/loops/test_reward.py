"""The loop of reward models, both kinds, on a tiny model: learning, resumption bit for bit, heads, ensembles."""

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.training.loops.notes import Notes, same
from tests.training.loops.positions import moved_positions
from tests.training.tiny import add_random_head, make_pairs, make_reward_recipe
from training.algorithms import AnyRewardRecipe
from training.base.loading import FP32
from training.base.model import SharedBase
from training.errors import Diverged, Stopped, TooFewPairs
from training.examples.example import TokenPair
from training.examples.tokens import ChatTokens
from training.loops.reward import (
    check_every_head_learns,
    halves,
    learn_pass,
    make_reward_pass,
    own_head,
    train_reward,
)
from training.rewards.reading import head_values, read_pairs

KINDS = ("reward", "pairwise_reward")


def train(
    model: Path,
    tokens: ChatTokens,
    folder: Path,
    recipe: AnyRewardRecipe,
    notes: Notes,
    *,
    pairs: list[TokenPair] | None = None,
    every_s: float = 1e9,
) -> dict[str, torch.Tensor]:
    """One attempt in a fresh process's stead: a model of its own, the folder shared. Every member's tensors."""
    base = SharedBase(model, torch.device("cpu"))
    readings = read_pairs(pairs or make_pairs(tokens), recipe, tokens)
    names = train_reward(base, readings, recipe, folder, notes.watch(), every_s=every_s)
    state = {f"{name}/{key}": value for name in names for key, value in base.adapter_state(name).items()}
    heads = {f"{name}/{key}": value.detach() for name in names for key, value in base.head_parameters(name).items()}
    return state | heads


@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_falls_and_the_rewards_part(
    tiny_model: Path, tiny_tokens: ChatTokens, tmp_path: Path, kind: str
) -> None:
    notes = Notes()
    recipe = make_reward_recipe(algorithm=kind, epochs=12, optimizer={"learning_rate": 5e-3})
    train(tiny_model, tiny_tokens, tmp_path, recipe, notes)
    first, last = notes.points[0], notes.points[-1]
    assert last["loss"] < 0.2 < first["loss"]
    assert last["accuracy"] == 1.0
    assert last["reward_margin"] > max(1.0, first["reward_margin"])
    assert {"reward_mean", "reward_spread", "grad_norm", "epoch", "member", "step"} <= last.keys()


@pytest.mark.parametrize("stop_at", [0, 4, 9])
@pytest.mark.parametrize("kind", KINDS)
def test_a_stopped_run_ends_with_the_same_members_as_an_unbroken_one(
    tiny_model: Path, tiny_tokens: ChatTokens, tmp_path: Path, kind: str, stop_at: int
) -> None:
    recipe = make_reward_recipe(algorithm=kind, ensemble=2, adapter={"rank": 8, "alpha": 16, "dropout": 0.1})
    unbroken = train(tiny_model, tiny_tokens, tmp_path / "unbroken", recipe, Notes())
    with pytest.raises(Stopped):
        train(tiny_model, tiny_tokens, tmp_path / "broken", recipe, Notes(stop_at))
    torch.manual_seed(99)  # whatever the second attempt's process did before
    assert same(train(tiny_model, tiny_tokens, tmp_path / "broken", recipe, Notes()), unbroken)


def test_a_run_killed_between_checkpoints_ends_with_the_same_members(
    tiny_model: Path, tiny_tokens: ChatTokens, tmp_path: Path
) -> None:
    class Killed(Exception):
        pass

    class Dying(Notes):
        def _take(self, point: Mapping[str, float]) -> None:
            super()._take(point)
            if len(self.points) == 5:
                raise Killed

    recipe = make_reward_recipe(epochs=3)
    unbroken = train(tiny_model, tiny_tokens, tmp_path / "unbroken", recipe, Notes())
    with pytest.raises(Killed):
        train(tiny_model, tiny_tokens, tmp_path / "broken", recipe, Dying(), every_s=0)
    second = Notes()
    assert same(train(tiny_model, tiny_tokens, tmp_path / "broken", recipe, second), unbroken)
    assert second.points[0]["step"] == 5


def test_members_of_an_ensemble_differ_and_progress_covers_all(
    tiny_model: Path, tiny_tokens: ChatTokens, tmp_path: Path
) -> None:
    notes = Notes()
    state = train(tiny_model, tiny_tokens, tmp_path, make_reward_recipe(ensemble=2), notes)
    assert {point["member"] for point in notes.points} == {0, 1}
    assert not torch.equal(state["reward-0/head.weight"], state["reward-1/head.weight"])
    of_first = [key for key in state if key.startswith("reward-0/") and "lora_B" in key]
    assert all(state[key].abs().max() > 0 for key in of_first)
    assert all(state[key.replace("reward-0", "reward-1")].abs().max() > 0 for key in of_first)


def test_a_pair_teaches_the_head_of_its_aspect_only(tiny_model: Path, tiny_tokens: ChatTokens, tmp_path: Path) -> None:
    recipe = make_reward_recipe(heads=["helpful", "harmless"], epochs=1, centring=0.0)
    aspects = ("helpful", "harmless", "honest")
    pairs = [replace(pair, aspect=aspects[i % 3]) for i, pair in enumerate(make_pairs(tiny_tokens))]
    each = make_reward_pass(read_pairs(pairs[:2], recipe, tiny_tokens), recipe.heads)
    rewards_NK = torch.tensor([[1.0, 10.0], [2.0, 20.0], [3.0, 30.0], [4.0, 40.0]])
    chosen_P, rejected_P = own_head(rewards_NK, each.head_P)
    assert (chosen_P.tolist(), rejected_P.tolist()) == ([1.0, 30.0], [2.0, 40.0])
    notes = Notes()
    train(tiny_model, tiny_tokens, tmp_path, recipe, notes, pairs=pairs)
    assert sum(point["pairs"] for point in notes.points) == 4  # nobody has a head for honest


def test_a_head_that_no_pair_teaches_is_refused(tiny_tokens: ChatTokens) -> None:
    recipe = make_reward_recipe(heads=["overall", "harmless"])
    with pytest.raises(TooFewPairs, match="harmless"):
        check_every_head_learns(read_pairs(make_pairs(tiny_tokens), recipe, tiny_tokens), recipe.heads)


@pytest.mark.parametrize(
    ("fields", "tokens"),
    [({}, "last"), ({"algorithm": "pairwise_reward"}, "last"), ({"pooling": "mean"}, "all")],
)
def test_the_loss_sends_its_gradient_through_the_tokens_that_heads_look_at(
    tiny_model: Path, tiny_tokens: ChatTokens, fields: dict[str, object], tokens: str
) -> None:
    recipe = make_reward_recipe(**fields)
    base = SharedBase(tiny_model, torch.device("cpu"), FP32)
    base.add_adapter("member", recipe.adapter, seed=0)
    add_random_head(base, "member", seed=0)
    each = make_reward_pass(read_pairs(make_pairs(tiny_tokens, 3), recipe, tiny_tokens), ("overall",))
    moved = moved_positions(lambda: learn_pass(base, "member", each, recipe, total_weight=4.0))
    looked_at = each.batch.ends() if tokens == "last" else each.batch.places()
    assert moved == sorted(looked_at.tolist())


@pytest.mark.parametrize("kind", KINDS)
def test_halves_give_the_rewards_of_the_whole(tiny_model: Path, tiny_tokens: ChatTokens, kind: str) -> None:
    recipe = make_reward_recipe(algorithm=kind)
    base = SharedBase(tiny_model, torch.device("cpu"), FP32)
    base.add_adapter("whole", recipe.adapter, seed=0)
    add_random_head(base, "whole", seed=0)
    whole = make_reward_pass(read_pairs(make_pairs(tiny_tokens, 3), recipe, tiny_tokens), ("overall",))
    parts = halves(whole, ("overall",))
    assert [len(part.readings) for part in parts] == [1, 2]
    values = torch.cat([base.values("whole", part.batch) for part in parts])
    assert torch.allclose(values, base.values("whole", whole.batch), atol=1e-5)


def test_a_pairs_own_margin_and_weight_reach_the_loss(
    tiny_model: Path, tiny_tokens: ChatTokens, tmp_path: Path
) -> None:
    """With the head at zero, as it begins, every loss is ln(1 + e^margin), so the weighted mean can be worked out."""
    recipe = make_reward_recipe(epochs=1, batch_pairs=2, pass_tokens=2048, margin=0.5, centring=0.0)
    plain, eager = make_pairs(tiny_tokens, 2)
    pairs = [replace(plain, weight=1.0), replace(eager, weight=3.0, margin=1.0)]
    notes = Notes()

    base = SharedBase(tiny_model, torch.device("cpu"))
    train_reward(base, read_pairs(pairs, recipe, tiny_tokens), recipe, tmp_path, notes.watch())
    wanted = (math.log(1 + math.exp(0.5)) + 3 * math.log(1 + math.exp(1.5))) / 4
    assert notes.points[0]["loss"] == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize(("label", "share"), [(1.0, 1.0), (0.75, 0.5), (0.5, 0.0)])
def test_a_doubtful_pair_parts_its_rewards_less(
    tiny_model: Path, tiny_tokens: ChatTokens, label: float, share: float
) -> None:
    recipe = make_reward_recipe(centring=0.0)
    base = SharedBase(tiny_model, torch.device("cpu"), FP32)
    base.add_adapter("member", recipe.adapter, seed=0)
    base.add_head("member", 1)

    def head_gradient(label: float) -> torch.Tensor:
        pairs = [replace(pair, label=label) for pair in make_pairs(tiny_tokens, 3)]
        (weight,) = base.head_parameters("member").values()
        weight.grad = None
        learn_pass(base, "member", make_reward_pass(read_pairs(pairs, recipe, tiny_tokens), ("overall",)), recipe, 3.0)
        assert weight.grad is not None
        return weight.grad

    sure = head_gradient(1.0)
    assert sure.abs().max() > 1e-3
    torch.testing.assert_close(head_gradient(label), share * sure, atol=1e-6, rtol=1e-4)


def test_a_diverging_run_stops_and_names_what_to_change(
    tiny_model: Path, tiny_tokens: ChatTokens, tmp_path: Path
) -> None:
    pairs = [replace(pair, weight=float("inf")) for pair in make_pairs(tiny_tokens)]
    with pytest.raises(Diverged, match="learning_rate"):
        train(tiny_model, tiny_tokens, tmp_path, make_reward_recipe(), Notes(), pairs=pairs)


@pytest.mark.parametrize(
    ("fields", "looks", "share"),
    [
        ({"algorithm": "pairwise_reward"}, "values", 0.5),
        ({}, "values", 1.0),
        ({"pooling": "mean"}, "mean_values", 1.0),
    ],
)
def test_heads_look_where_the_recipe_says_and_a_pairwise_one_counts_half(
    tiny_model: Path, tiny_tokens: ChatTokens, fields: dict[str, object], looks: str, share: float
) -> None:
    recipe = make_reward_recipe(**fields)
    base = SharedBase(tiny_model, torch.device("cpu"), FP32)
    base.add_adapter("member", recipe.adapter, seed=0)
    add_random_head(base, "member", seed=0)
    batch = make_reward_pass(read_pairs(make_pairs(tiny_tokens, 3), recipe, tiny_tokens), ("overall",)).batch
    assert torch.equal(head_values(base, "member", batch, recipe), share * getattr(base, looks)("member", batch))
