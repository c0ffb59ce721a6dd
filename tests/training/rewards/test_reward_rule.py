"""Several heads' rewards as one."""

import torch

from training.algorithms import SafetyFirst, WeightedSum
from training.rewards.reward_rule import join

HEADS = ("helpful", "harmless", "honest")
REWARDS_NK = torch.tensor([[2.0, 1.0, 0.5], [3.0, -0.5, 1.0], [-1.0, 0.0, 0.0]])


def test_a_weighted_sum_counts_an_unnamed_head_once() -> None:
    rule = WeightedSum(weights={"helpful": 0.5, "harmless": 2.0})
    assert join(REWARDS_NK, HEADS, rule).tolist() == [3.5, 1.5, -0.5]


def test_below_the_threshold_safety_alone_speaks() -> None:
    rule = SafetyFirst(kind="safety_first", safety="harmless", threshold=0.0)
    assert join(REWARDS_NK, HEADS, rule).tolist() == [2.5, -0.5, -1.0]


def test_the_other_heads_weights_hold_above_the_threshold() -> None:
    rule = SafetyFirst(kind="safety_first", safety="harmless", threshold=-1.0, weights={"honest": 0.0})
    assert join(REWARDS_NK, HEADS, rule).tolist() == [2.0, 3.0, -1.0]


def test_one_head_is_its_own_sum() -> None:
    assert join(REWARDS_NK[:, :1], ("overall",), WeightedSum()).tolist() == [2.0, 3.0, -1.0]
