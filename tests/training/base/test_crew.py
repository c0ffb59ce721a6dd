"""Several processes train what one would: two real ones over gloo, with the base whole and in shards."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.training.loops.notes import same
from tests.training.two import (
    KINDS,
    Learned,
    Short,
    Two,
    learn,
    learn_apart,
    reference_twice,
    run_short,
    sum_up,
    two_processes,
)
from training.base.crew import Crew
from training.errors import LostStep, OutOfMemory, Stopped


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Two]:
    with two_processes(tmp_path_factory.mktemp("two")) as both:
        yield both


def assert_close(one: Learned, other: Learned) -> None:
    """The same adapters and the same curve, to the rounding of sums."""
    assert one.state.keys() == other.state.keys()
    apart = {name: float((one.state[name] - other.state[name]).abs().max()) for name in one.state}
    assert max(apart.values()) < 1e-5, apart
    assert max(float(each.abs().max()) for each in one.state.values()) > 0.01
    assert len(one.points) == len(other.points)
    for point, same_step in zip(one.points, other.points, strict=True):
        assert point == pytest.approx(same_step, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize(
    ("kind", "sharded"), [*((kind, False) for kind in KINDS), ("dpo", True), ("reward", True), ("ppo", True)]
)
def test_two_processes_end_with_what_one_ends_with(
    two: Two, tiny_model: Path, tmp_path: Path, kind: str, sharded: bool
) -> None:
    alone = learn(Crew(), kind, tiny_model, tmp_path / "alone")
    first, second = two.play(learn, kind, tiny_model, tmp_path / "two", sharded=sharded)
    # For two processes PPO's prompts are put together otherwise, and the entropy is drawn from other tokens.
    drawn = ("entropy",) if kind == "ppo" else ()
    assert_close(first.without(*drawn), alone.without(*drawn))
    assert same(first.state, second.state)
    assert 0 < second.passes <= first.passes
    if not sharded and kind != "ppo":  # where they are, some are made twice, for company
        assert first.passes + second.passes == alone.passes


def test_a_base_in_shards_may_compute_its_layers_again(two: Two, tiny_model: Path, tmp_path: Path) -> None:
    alone = learn(Crew(), "dpo", tiny_model, tmp_path / "alone")
    first, second = two.play(learn, "dpo", tiny_model, tmp_path / "two", sharded=True, recompute=True)
    assert_close(first, alone)
    assert same(first.state, second.state)


@pytest.mark.parametrize(
    ("recipe", "sharded"),
    [
        ({"batch_pairs": 1}, False),
        ({"batch_pairs": 3}, False),
        ({"batch_pairs": 3, "adapter": {"rank": 8, "alpha": 16, "dropout": 0.3}}, True),
    ],
    ids=["fewer passes than processes", "an odd pass", "an odd pass and dropout, sharded"],
)
def test_whoever_has_no_pass_of_a_step_and_dropout_make_no_difference(
    two: Two, tiny_model: Path, tmp_path: Path, recipe: dict[str, Any], sharded: bool
) -> None:
    alone = learn(Crew(), "dpo", tiny_model, tmp_path / "alone", **recipe)
    first, second = two.play(learn, "dpo", tiny_model, tmp_path / "two", sharded=sharded, **recipe)
    assert_close(first, alone)
    assert same(first.state, second.state)


@pytest.mark.parametrize(
    ("kind", "stop_at", "sharded"), [("dpo", 1, False), ("dpo", 5, True), ("kto", 15, False), ("ppo", 6, True)]
)
def test_a_first_process_that_is_stopped_stops_the_other_and_both_go_on_to_the_same_end(
    two: Two, tiny_model: Path, tmp_path: Path, kind: str, stop_at: int, sharded: bool
) -> None:
    unbroken, _ = two.play(learn, kind, tiny_model, tmp_path / "unbroken", sharded=sharded)
    stopped = two.play(learn, kind, tiny_model, tmp_path / "broken", sharded=sharded, stop_at=stop_at)
    assert [type(each) for each in stopped] == [Stopped, Stopped]
    first, second = two.play(learn, kind, tiny_model, tmp_path / "broken", sharded=sharded)
    assert same(first.state, unbroken.state)
    assert same(second.state, unbroken.state)


@pytest.mark.parametrize("kind", ["kto", "reward"])
def test_the_first_process_alone_writes(two: Two, tiny_model: Path, tmp_path: Path, kind: str) -> None:
    two.play(learn_apart, kind, tiny_model, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["0"]
    assert list((tmp_path / "0").rglob("step-*"))


def test_what_the_first_process_has_of_the_reference_is_what_both_take(
    two: Two, tiny_model: Path, tmp_path: Path
) -> None:
    first, second = two.play(reference_twice, tiny_model, tmp_path)
    assert first == second
    assert [path.name for path in tmp_path.iterdir()] == ["0"]
    assert first == pytest.approx(reference_twice(Crew(), tiny_model, tmp_path / "alone"), rel=1e-5)


def test_what_two_processes_began_one_can_end(two: Two, tiny_model: Path, tmp_path: Path) -> None:
    unbroken = learn(Crew(), "dpo", tiny_model, tmp_path / "unbroken")
    stopped = two.play(learn, "dpo", tiny_model, tmp_path / "broken", stop_at=6)
    assert [type(each) for each in stopped] == [Stopped, Stopped]
    ended = learn(Crew(), "dpo", tiny_model, tmp_path / "broken")
    assert 0 < len(ended.points) < len(unbroken.points)
    assert_close(replace(ended, points=[]), replace(unbroken, points=[]))


@pytest.mark.parametrize("rank", [0, 1])
def test_memory_that_runs_out_in_one_process_halves_the_passes_of_both(
    two: Two, tiny_model: Path, tmp_path: Path, rank: int
) -> None:
    recipe = {"pass_tokens": 128, "batch_pairs": 6}  # three passes of two pairs
    alone = learn(Crew(), "dpo", tiny_model, tmp_path / "alone", **recipe)
    first, second = two.play(learn, "dpo", tiny_model, tmp_path / "two", short=Short(rank, 0, 1), **recipe)
    assert_close(first.without("entropy"), alone.without("entropy"))  # halves draw it from other tokens
    assert same(first.state, second.state)
    in_vain = {0: 2, 1: 3}[rank]  # who ran out takes no other, the other one takes all of its own
    assert alone.passes == 2 * 3
    assert first.passes + second.passes == in_vain + 2 * alone.passes


def test_memory_that_runs_out_in_halves_too_ends_both(two: Two, tiny_model: Path, tmp_path: Path) -> None:
    ended = two.play(learn, "dpo", tiny_model, tmp_path / "two", short=Short(1, 1, 100))
    assert [type(each) for each in ended] == [OutOfMemory, OutOfMemory]


def test_what_ran_out_of_memory_holds_none_of_it_any_more(two: Two) -> None:
    assert two.play(run_short) == [True, True]


def test_gradients_that_only_one_process_has_reach_both_and_what_none_has_stays_without(two: Two) -> None:
    assert two.play(sum_up) == [[[2.0], [4.0], None]] * 2


def test_a_failure_in_a_pass_that_all_make_ends_its_own_process_with_what_to_change(
    two: Two, tiny_model: Path, tmp_path: Path
) -> None:
    """The last one here: it leaves the first process waiting, as it would be until it is ended."""
    two.begin(learn, "dpo", tiny_model, tmp_path / "two", sharded=True, short=Short(1, 1, 2))
    lost = two.end(1)
    assert isinstance(lost, LostStep)
    assert "pass_tokens" in str(lost)
