"""A round as it is scored: several prompts to a pass, and each answer with what was said of it alone."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from tests.training.loops.notes import Notes
from tests.training.tiny import add_random_head, make_recipe
from training.gateway import Sample
from training.loops.experience import Scoring, gather, passes_of
from training.model import FP32, SharedBase
from training.reward_model import Answered
from training.rollouts import Group


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
