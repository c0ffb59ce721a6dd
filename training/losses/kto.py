"""The loss of single answers that were said to be good or bad, as a function of their log-ratios. Pure."""

import torch
from torch import Tensor


def kto(ratio_N: Tensor, kl: Tensor, up_N: Tensor, beta: float) -> Tensor:
    """[N] 1 − σ(β·(r − z₀)) of a good answer, 1 − σ(β·(z₀ − r)) of a bad one.

    Ethayarajh et al. 2024 (arXiv 2402.01306), equation 8, without the weights λ. `ratio_N` is r = log π(y|x) −
    log π_ref(y|x) summed over the answer, in nats; `kl` the estimate of z₀, through which no gradient flows; `up_N`
    1 for good answers and 0 for bad ones, or in between where raters disagree.
    """
    distance_N = beta * (ratio_N - kl.detach())
    return up_N * (1 - torch.sigmoid(distance_N)) + (1 - up_N) * (1 - torch.sigmoid(-distance_N))


def mismatched_kl(ratio_N: Tensor) -> Tensor:
    """[] z₀: the mean log-ratio of answers to prompts they do not belong to, at least 0 (section 4.1 of the paper)."""
    return ratio_N.mean().clamp(min=0).detach()
