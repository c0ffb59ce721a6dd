"""A round as it is scored: several prompts to a pass, and each answer with what was said of it alone."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from tests.training.loops.notes import Notes
from tests.training.tiny import add_random_head, make_recipe
from training.base.crew import Crew
from training.base.loading import FP32
from training.base.model import SharedBase
from training.errors import EngineMismatch, LostStep, OutOfMemory, Stopped
from training.examples.batches import Item
from training.loops.experience import Experience, Part, Scoring, check_engine, gather, halves, passes_of
from training.rewards.reward_model import Answered
from training.sampling.gateway import Sample
from training.sampling.rollouts import Group


def sample(*ids: int, reason: str = "stop") -> Sample:
    return Sample("", ids, reason, tuple(-float(each) for each in ids))


GROUPS = (
    Group(2, (256, 5, 9), (sample(7, 8), sample(3))),
    Group(0, (256, 6), (sample(11, 12, 13), sample(11, 12, 13, reason="length"), sample(4))),
    Group(1, (256, 1, 2, 3), (sample(9, 257), sample(8, 8, 8, 8))),
)


def by_length(asked: Sequence[Answered]) -> list[float]:
    return [float(len(each.prompt) + 100 * len(each.answer)) for each in asked]


def test_a_pass_is_filled_with_what_comes() -> None:
    def seen(pass_tokens: int) -> list[list[tuple[int, int]]]:
        found = passes_of(GROUPS, pass_tokens)
        return [[(each.part.group, len(each.samples)) for each in one] for one in found]

    assert seen(1000) == [[(2, 2), (0, 3), (1, 2)]]
    assert seen(16) == [[(2, 2), (0, 3)], [(1, 2)]]
    assert seen(9) == [[(2, 2)], [(0, 3)], [(1, 1)], [(1, 1)]]


def test_a_pass_is_scored_before_the_next_group_is_waited_for() -> None:
    def coming() -> Sequence[Group]:
        yield from GROUPS[:2]
        raise AssertionError("asked for more than the pass needs")

    assert len(next(passes_of(coming(), 9))) == 1


@pytest.mark.parametrize("pass_tokens", [9, 16, 1000])
def test_each_answer_gets_its_own_in_any_company(tiny_model: Path, pass_tokens: int) -> None:
    base = SharedBase(tiny_model, torch.device("cpu"), FP32)
    base.add_adapter("policy", make_recipe().adapter, seed=1)
    base.add_adapter("value", make_recipe().adapter, seed=2)
    add_random_head(base, "value", seed=2)
    notes = Notes()
    alone, found = (
        gather(GROUPS, Scoring(base, "policy", "value", by_length, each), notes.watch()) for each in (1, pass_tokens)
    )
    assert found.groups.tolist() == [0, 0, 0, 1, 1, 2, 2]
    assert found.lengths.tolist() == [3, 3, 1, 2, 4, 2, 1]
    assert found.reward_N.tolist() == [302, 302, 102, 204, 404, 203, 103]
    assert found.cut_N.tolist() == [0, 1, 0, 0, 0, 0, 0]
    assert found.engine_S.tolist()[:7] == [-11, -12, -13, -11, -12, -13, -4]
    for name in ("old_S", "reference_S", "value_S"):
        torch.testing.assert_close(getattr(found, name), getattr(alone, name), atol=1e-5, rtol=1e-5)
        assert len(set(getattr(found, name).tolist())) > 7, name


def test_a_pass_that_does_not_fit_into_memory_is_scored_in_halves(tiny_model: Path) -> None:
    base = SharedBase(tiny_model, torch.device("cpu"), FP32)
    base.add_adapter("policy", make_recipe().adapter, seed=1)

    def scored(most_answers: int) -> Experience:
        def reward(asked: Sequence[Answered]) -> list[float]:
            if len(asked) > most_answers:
                raise torch.OutOfMemoryError("out of memory")
            return by_length(asked)

        return gather(iter(GROUPS), Scoring(base, "policy", None, reward, 1000), Notes().watch())

    whole, halved = scored(7), scored(5)
    assert halved.reward_N.tolist() == whole.reward_N.tolist()
    torch.testing.assert_close(halved.old_S, whole.old_S, atol=1e-5, rtol=1e-5)
    with pytest.raises(OutOfMemory, match="pass_tokens"):
        scored(2)


def test_a_pass_that_other_processes_take_part_in_is_not_tried_again(tiny_model: Path) -> None:
    base = SharedBase(tiny_model, torch.device("cpu"), FP32, crew=Crew())
    base.add_adapter("policy", make_recipe().adapter, seed=1)
    base.crew.shards = base
    asked: list[int] = []

    def reward(answers: Sequence[Answered]) -> list[float]:
        asked.append(len(answers))
        raise torch.OutOfMemoryError("out of memory")

    with pytest.raises(LostStep, match="pass_tokens"):
        base.crew.first(lambda: gather(iter(GROUPS), Scoring(base, "policy", None, reward, 1000), Notes().watch()))
    assert len(asked) == 1


def test_who_is_stopped_between_passes_that_others_take_part_in_has_lost_none(tiny_model: Path) -> None:
    base = SharedBase(tiny_model, torch.device("cpu"), FP32, crew=Crew())
    base.add_adapter("policy", make_recipe().adapter, seed=1)
    base.crew.shards = base

    def reward(answers: Sequence[Answered]) -> list[float]:
        raise Stopped("while answers were rewarded")

    with pytest.raises(Stopped):
        gather(iter(GROUPS), Scoring(base, "policy", None, reward, 1000), Notes().watch())


def test_a_single_prompt_is_halved_by_its_answers() -> None:
    ((own,),) = passes_of(GROUPS[1:2], 1000)
    first, second = halves([own])
    assert [each.part.item.answers for each in (*first, *second)] == [((11, 12, 13),), ((11, 12, 13), (4,))]
    assert (first[0].samples + second[0].samples, first[0].part.group) == (own.samples, 0)


def make_experience(engine: Sequence[float], *, policy: float = -1.0, base: float = -1.5) -> Experience:
    """An answer of two tokens for each of the engine's log-probs, the same under policy and base for all."""
    parts = tuple(Part(Item((256,), ((7, 8),)), group) for group in range(len(engine)))
    of = torch.ones(2 * len(engine))
    said_S = torch.tensor(engine).repeat_interleave(2)
    none_N = torch.zeros(len(engine))
    return Experience(parts, none_N, none_N, policy * of, said_S, base * of, 0 * of)


def test_a_replica_without_the_adapter_is_found_among_others_that_have_it() -> None:
    right, of_base = -1.01, -1.49
    assert check_engine(make_experience([right] * 20), 0.3) == pytest.approx(0.01, abs=1e-6)
    assert check_engine(make_experience([right] * 19 + [of_base]), 0.3) < 0.05, "one odd answer is no replica"
    with pytest.raises(EngineMismatch, match=r"4 of 20 answers .* a replica"):
        check_engine(make_experience([right] * 16 + [of_base] * 4), 0.3)
    with pytest.raises(EngineMismatch, match="nan nats"):
        check_engine(make_experience([right, float("nan")]), 0.3)
    near = make_experience([-1.0] * 10 + [-1.03] * 10, base=-1.03)
    assert check_engine(near, 0.3) < 0.05, "where the policy has hardly moved, nobody can tell"
