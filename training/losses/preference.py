"""Losses of pairs, as functions of what policy and reference give the two answers. Pure.

P is the number of pairs; log-probs are sums over an answer's tokens, in nats and fp32. Every loss is [P]; weights and
averages are the caller's. All but ORPO and SimPO measure the policy against the reference.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class PairScores:
    """Summed log-probs of both answers of P pairs under policy and reference, and the answers' lengths in tokens."""

    chosen_P: Tensor
    rejected_P: Tensor
    reference_chosen_P: Tensor
    reference_rejected_P: Tensor
    chosen_tokens_P: Tensor
    rejected_tokens_P: Tensor

    def swapped(self) -> "PairScores":
        """The same pairs with the preference the other way round."""
        return PairScores(
            self.rejected_P,
            self.chosen_P,
            self.reference_rejected_P,
            self.reference_chosen_P,
            self.rejected_tokens_P,
            self.chosen_tokens_P,
        )

    @property
    def chosen_ratio(self) -> Tensor:
        """[P] log π(y_w|x) − log π_ref(y_w|x)."""
        return self.chosen_P - self.reference_chosen_P

    @property
    def rejected_ratio(self) -> Tensor:
        """[P] log π(y_l|x) − log π_ref(y_l|x)."""
        return self.rejected_P - self.reference_rejected_P

    @property
    def chosen_mean(self) -> Tensor:
        """[P] mean log-prob per token."""
        return self.chosen_P / self.chosen_tokens_P

    @property
    def rejected_mean(self) -> Tensor:
        """[P] mean log-prob per token."""
        return self.rejected_P / self.rejected_tokens_P


PairLoss = Callable[[PairScores], Tensor]


def soften(loss: PairLoss, scores: PairScores, label_P: Tensor) -> Tensor:
    """[P] the loss expected when the chosen answer is the better one with probability `label_P`.

    q·L(w, l) + (1 − q)·L(l, w): 1 is a plain preference, 0.5 a tie.
    """
    straight_P = loss(scores)
    if bool((label_P == 1).all()):
        return straight_P
    return label_P * straight_P + (1 - label_P) * loss(scores.swapped())


def implicit_margin(scores: PairScores, beta: float) -> Tensor:
    """[P] the reward that DPO gives the chosen answer over the rejected one.

    β·[(log π(y_w|x) − log π_ref(y_w|x)) − (log π(y_l|x) − log π_ref(y_l|x))], Rafailov et al. 2023
    (arXiv 2305.18290), the argument of σ in equation 7.
    """
    return beta * (scores.chosen_ratio - scores.rejected_ratio)


def margin_per_token(scores: PairScores, beta: float) -> Tensor:
    """[P] β·[ratio_w / |y_w| − ratio_l / |y_l|]: the implicit margin on log-ratios per token."""
    return beta * (scores.chosen_ratio / scores.chosen_tokens_P - scores.rejected_ratio / scores.rejected_tokens_P)


def mean_margin(scores: PairScores, beta: float) -> Tensor:
    """[P] β·(mean log π(y_w) − mean log π(y_l)): SimPO's, without a reference."""
    return beta * (scores.chosen_mean - scores.rejected_mean)


def log_odds_ratio(scores: PairScores) -> Tensor:
    """[P] log odds(y_w) − log odds(y_l): ORPO's, with odds(y) = p / (1 − p) of the mean probability per token."""
    return (scores.chosen_mean - scores.rejected_mean) - (
        _log1mexp(scores.chosen_mean) - _log1mexp(scores.rejected_mean)
    )


def dpo(scores: PairScores, beta: float) -> Tensor:
    """−log σ(margin), Rafailov et al. 2023 (arXiv 2305.18290), equation 7. ln 2 where the margin is 0."""
    return -F.logsigmoid(implicit_margin(scores, beta))


def ipo(scores: PairScores, beta: float) -> Tensor:
    """(h − 1/(2β))², Azar et al. 2023 (arXiv 2310.12036), equation 17 with τ = β.

    h is the difference of the answers' log-ratios per token, so that long answers do not weigh more.
    """
    return (margin_per_token(scores, 1.0) - 1 / (2 * beta)).square()


def hinge(scores: PairScores, beta: float) -> Tensor:
    """max(0, 1 − margin): SLiC's calibration loss on DPO's margin, Liu et al. 2023 (arXiv 2309.06657), equation 9."""
    return torch.relu(1 - implicit_margin(scores, beta))


def conservative_dpo(scores: PairScores, beta: float, flip_rate: float) -> Tensor:
    """−(1 − ε) log σ(margin) − ε log σ(−margin): DPO where a share ε of the votes is taken to be the wrong way round.

    Mitchell 2023, "A note on DPO with noisy preferences and relationship to IPO", equation 3.
    """
    margin_P = implicit_margin(scores, beta)
    return -(1 - flip_rate) * F.logsigmoid(margin_P) - flip_rate * F.logsigmoid(-margin_P)


def robust_dpo(scores: PairScores, beta: float, flip_rate: float) -> Tensor:
    """[−(1 − ε) log σ(margin) + ε log σ(−margin)] / (1 − 2ε): equal to DPO on clean votes in expectation.

    Chowdhury et al. 2024 (arXiv 2403.00409), equation 12. May be negative.
    """
    margin_P = implicit_margin(scores, beta)
    clean_P, flipped_P = -F.logsigmoid(margin_P), -F.logsigmoid(-margin_P)
    return ((1 - flip_rate) * clean_P - flip_rate * flipped_P) / (1 - 2 * flip_rate)


def dpo_positive(scores: PairScores, beta: float, penalty: float) -> Tensor:
    """−log σ(margin − β·λ·max(0, log π_ref(y_w) − log π(y_w))): DPO that does not let chosen answers sink.

    Pal et al. 2024 (arXiv 2402.13228), equation 3.
    """
    sunk_P = torch.relu(-scores.chosen_ratio)
    return -F.logsigmoid(implicit_margin(scores, beta) - beta * penalty * sunk_P)


def normalised_dpo(scores: PairScores, beta: float) -> Tensor:
    """−log σ(β·[ratio_w / |y_w| − ratio_l / |y_l|]): DPO on log-ratios per token.

    Meng et al. 2024 (arXiv 2405.14734), section 4.4; Tülu 3 (arXiv 2411.15124), equation 6.
    """
    return -F.logsigmoid(margin_per_token(scores, beta))


def orpo(scores: PairScores, odds_weight: float) -> Tensor:
    """NLL per token of the chosen answer − λ·log σ(log odds ratio), Hong et al. 2024 (arXiv 2403.07691), equation 6.

    p is an answer's geometric mean probability per token. No reference.
    """
    return nll(scores) - odds_weight * F.logsigmoid(log_odds_ratio(scores))


def simpo(scores: PairScores, beta: float, gamma: float) -> Tensor:
    """−log σ(β·(mean log π(y_w) − mean log π(y_l)) − γ), Meng et al. 2024 (arXiv 2405.14734), equation 6.

    `gamma` is the target margin itself (not divided by β). No reference.
    """
    return -F.logsigmoid(mean_margin(scores, beta) - gamma)


def nll(scores: PairScores) -> Tensor:
    """Negative log-likelihood per token of the chosen answers.

    The added term of Pang et al. 2024 (arXiv 2404.19733), equation 1, which keeps the chosen answers likely.
    """
    return -scores.chosen_mean


def _log1mexp(x: Tensor) -> Tensor:
    """log(1 − eˣ) for x < 0, stable at both ends (Mächler 2012)."""
    x = x.clamp(max=-1e-6)
    small = x > -0.6931471805599453
    return torch.where(small, torch.log(-torch.expm1(x)), torch.log1p(-torch.exp(x)))
