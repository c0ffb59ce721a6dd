"""How the rewards of several heads become one. Pure."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from training.algorithms import SafetyFirst, WeightedSum


def join(rewards_NK: Tensor, heads: Sequence[str], rule: WeightedSum | SafetyFirst) -> Tensor:
    """[N] one reward for each answer, from those of K heads in the order of `heads`.

    safety_first: the safety head's reward where it is below the threshold, else the weighted sum of the others
    (Touvron et al. 2023, arXiv 2307.09288, section 3.2.3).
    """
    if isinstance(rule, WeightedSum):
        return weighted_sum(rewards_NK, heads, rule.weights)
    place = list(heads).index(rule.safety)
    safety_N = rewards_NK[:, place]
    others = [number for number in range(len(heads)) if number != place]
    rest_N = weighted_sum(rewards_NK[:, others], [heads[number] for number in others], rule.weights)
    return torch.where(safety_N < rule.threshold, safety_N, rest_N)


def weighted_sum(rewards_NK: Tensor, heads: Sequence[str], weights: Mapping[str, float]) -> Tensor:
    """[N] Σ weight · reward; a head that `weights` does not name counts once."""
    weights_K = torch.tensor([weights.get(head, 1.0) for head in heads], dtype=rewards_NK.dtype)
    return (rewards_NK * weights_K).sum(dim=1)
