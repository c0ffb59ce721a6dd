"""Losses of pairs, as functions of summed answer log-probs (nats) under the policy and under the reference.

P is the number of pairs. Everything is fp32; weights and averages are the caller's.
"""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class PairLogprobs:
    """Summed log-probs of the two answers of P pairs."""

    chosen_P: Tensor
    rejected_P: Tensor


def implicit_margin(policy: PairLogprobs, reference: PairLogprobs, beta: float) -> Tensor:
    """[P] the reward that DPO gives the chosen answer over the rejected one.

    β·[(log π(y_w|x) − log π_ref(y_w|x)) − (log π(y_l|x) − log π_ref(y_l|x))], Rafailov et al. 2023
    (arXiv 2305.18290), the argument of σ in equation 7.
    """
    chosen_P = policy.chosen_P - reference.chosen_P
    rejected_P = policy.rejected_P - reference.rejected_P
    return beta * (chosen_P - rejected_P)


def dpo(margin_P: Tensor) -> Tensor:
    """[P] −log σ(margin), Rafailov et al. 2023 (arXiv 2305.18290), equation 7. ln 2 where the margin is 0."""
    return -F.logsigmoid(margin_P)


def nll(logprobs_P: Tensor, lengths_P: Tensor) -> Tensor:
    """[P] negative log-likelihood per token of the chosen answers.

    The added term of Pang et al. 2024 (arXiv 2404.19733), equation 1, which keeps the chosen answers likely.
    """
    return -logprobs_P / lengths_P
