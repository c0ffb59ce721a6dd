"""The loss of reward models, as a function of the rewards of both answers. Pure.

P is the number of pairs; rewards are in nats (their difference is a log-odds) and fp32. Every term is [P]; weights and
averages are the caller's.
"""

import torch.nn.functional as F
from torch import Tensor


def bradley_terry(chosen_P: Tensor, rejected_P: Tensor, margin_P: Tensor, label_P: Tensor) -> Tensor:
    """−q·log σ(r_w − r_l − m) − (1 − q)·log σ(r_l − r_w − m): Bradley-Terry with a margin m and a soft label q.

    q is how likely the chosen answer is the better one: 1 a plain preference, 0.5 a tie. Ouyang et al. 2022
    (arXiv 2203.02155), equation 1; the margin is Touvron et al. 2023 (arXiv 2307.09288), equation 2.
    """
    ahead_P = chosen_P - rejected_P
    return -label_P * F.logsigmoid(ahead_P - margin_P) - (1 - label_P) * F.logsigmoid(-ahead_P - margin_P)


def centring(chosen_P: Tensor, rejected_P: Tensor) -> Tensor:
    """(r_w + r_l)²: least when a pair's rewards lie around 0, which Bradley-Terry leaves open.

    Eisenstein et al. 2023 (arXiv 2312.09244), section 3; TRL's `center_rewards_coefficient` is its weight.
    """
    return (chosen_P + rejected_P).square()
