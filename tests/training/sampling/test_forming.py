"""Pairs of own answers: which are chosen, what is left out, how much people's votes weigh beside them."""

import pytest
import torch

from training.algorithms import OnlinePreferenceRecipe
from training.examples.example import TokenPair
from training.recipe import parse_recipe
from training.sampling.forming import best_and_worst, by_rejection, form_pairs, mix

PROMPT = (1, 2, 3)
ANSWERS = [(10,), (11,), (12,), (13,)]


def make(**fields: object) -> OnlinePreferenceRecipe:
    recipe = parse_recipe({"algorithm": "online_preference", **fields})
    assert isinstance(recipe, OnlinePreferenceRecipe)
    return recipe


def test_the_best_answer_stands_against_the_worst() -> None:
    assert best_and_worst([0.1, 0.9, -0.4, 0.2]) == [(1, 2)]
    (pair,) = form_pairs([(PROMPT, ANSWERS, [0.1, 0.9, -0.4, 0.2])], make(), 0)
    assert (pair.prompt, pair.chosen, pair.rejected) == (PROMPT, (11,), (12,))


def test_rejection_sampling_accepts_by_the_distance_to_the_best() -> None:
    rewards = [0.0, -1.0, -5.0, -30.0]
    counts = torch.zeros(4)
    for seed in range(400):
        for pair in by_rejection(rewards, 1.0, torch.Generator().manual_seed(seed)):
            assert rewards[pair[0]] >= rewards[pair[1]], "the better one first"
            counts[list(pair)] += 1
    assert counts[0] >= 395, "the best is accepted, but where two others were enough before it was drawn"
    assert counts[1] > 10 * counts[2] > 0
    assert counts[3] <= 1


def test_a_high_temperature_accepts_all_alike() -> None:
    counts = torch.zeros(4)
    for seed in range(400):
        for pair in by_rejection([0.0, -1.0, -5.0, -9.0], 100.0, torch.Generator().manual_seed(seed)):
            counts[list(pair)] += 1
    assert counts.min() > 0.8 * counts.max()
    assert counts.sum() == 800, "half of the answers are enough"


def test_rejection_sampling_takes_half_of_the_answers_and_no_more() -> None:
    for seed in range(50):
        assert len(by_rejection([0.01 * i for i in range(8)], 1.0, torch.Generator().manual_seed(seed))) == 2


@pytest.mark.parametrize("form", ["best_worst", "rejection"])
def test_equal_answers_and_small_differences_teach_nothing(form: str) -> None:
    recipe = make(form=form, least_margin=0.5, temperature=100)
    assert form_pairs([(PROMPT, [(10,), (10,)], [1.0, 0.0])], recipe, 0) == []
    assert form_pairs([(PROMPT, [(10,), (11,)], [1.0, 0.6])], recipe, 0) == []
    assert form_pairs([(PROMPT, [(10,)], [1.0])], recipe, 0) == []
    assert len(form_pairs([(PROMPT, [(10,), (11,)], [1.0, 0.4])], recipe, 0)) == 1


def test_votes_have_their_share_of_the_weight() -> None:
    votes = [TokenPair(f"v{i}", "", PROMPT, (1,), (2,), weight=2.0) for i in range(3)]
    own = [TokenPair(f"o{i}", "", PROMPT, (3,), (4,)) for i in range(4)]
    said, answered = mix(votes, own, 0.25)
    assert said == votes
    assert len(answered) == 4
    assert sum(pair.weight for pair in said) == pytest.approx(0.25 * sum(pair.weight for pair in [*said, *answered]))
    assert mix(votes, own, 0.0) == ([], own)
    assert mix(votes, [], 0.25) == (votes, [])
    assert mix(votes, [], 0.0) == ([], [])
