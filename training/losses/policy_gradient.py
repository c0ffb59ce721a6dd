"""Rewards, advantages and losses of sampled answers: PPO, RLOO and GRPO. Pure.

S tokens of N answers lie one after another; `tokens_N` says how many belong to each. Log-probs are in nats and fp32.
`old` is the policy that the trainer held when the answers were sampled, `engine` what the engine said of itself then.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Clip:
    """How far a ratio may move before its gradient stops: within [1 − low, 1 + high]."""

    low: float = 0.2
    high: float = 0.2


def token_rewards(score_N: Tensor, kl_S: Tensor, tokens_N: Tensor, kl_weight: float) -> Tensor:
    """[S] −β·KL at every token, and an answer's score at its last one.

    Ziegler et al. 2019 (arXiv 1909.08593), equation 2; spread over tokens in Stiennon et al. 2020 (arXiv 2009.01325).
    """
    rewards_S = -kl_weight * kl_S
    ends_N = tokens_N.cumsum(0) - 1
    return rewards_S.index_add(0, ends_N, score_N)


def advantages_and_returns(
    rewards_S: Tensor, values_S: Tensor, tokens_N: Tensor, *, discount: float = 1.0, trace: float = 0.95
) -> tuple[Tensor, Tensor]:
    """[S], [S] generalised advantage estimates and the returns that the values are to meet.

    A_t = Σ (γλ)^k δ_{t+k} with δ_t = r_t + γ·V_{t+1} − V_t, Schulman et al. 2015 (arXiv 1506.02438), equation 16; an
    answer's last token is followed by nothing. Neither carries a gradient.
    """
    values_S = values_S.detach()
    advantages_S = torch.zeros_like(values_S)
    ends = tokens_N.cumsum(0).tolist()
    for start, end in zip([0, *ends[:-1]], ends, strict=True):
        carried = torch.zeros((), dtype=values_S.dtype)
        following = torch.zeros((), dtype=values_S.dtype)
        for t in range(end - 1, start - 1, -1):
            delta = rewards_S[t] + discount * following - values_S[t]
            carried = delta + discount * trace * carried
            advantages_S[t], following = carried, values_S[t]
    return advantages_S, advantages_S + values_S


def leave_one_out(reward_N: Tensor, group_N: Tensor) -> Tensor:
    """[N] an answer's reward above the mean of the other answers to its prompt; 0 for an answer without others.

    RLOO, Ahmadian et al. 2024 (arXiv 2402.14740), section 3.2; `group_N` numbers the prompts.
    """
    sums_G, counts_G = _by_group(reward_N, group_N), _by_group(torch.ones_like(reward_N), group_N)
    others_N = counts_G[group_N] - 1
    mean_N = (sums_G[group_N] - reward_N) / others_N.clamp(min=1)
    return torch.where(others_N > 0, reward_N - mean_N, torch.zeros_like(reward_N))


def group_relative(reward_N: Tensor, group_N: Tensor, *, by_spread: bool = True, least_spread: float = 1e-4) -> Tensor:
    """[N] an answer's reward above the mean of its prompt's answers, divided by their standard deviation.

    GRPO, Shao et al. 2024 (arXiv 2402.03300), section 4.1.2; without `by_spread` as Liu et al. 2025 (arXiv 2503.20783)
    propose, so that prompts whose answers hardly differ do not weigh more.
    """
    counts_G = _by_group(torch.ones_like(reward_N), group_N)
    mean_G = _by_group(reward_N, group_N) / counts_G.clamp(min=1)
    above_N = reward_N - mean_G[group_N]
    if not by_spread:
        return above_N
    variance_G = _by_group(above_N.square(), group_N) / (counts_G - 1).clamp(min=1)
    return above_N / (variance_G.sqrt()[group_N] + least_spread)


def clipped_surrogate(logprob_S: Tensor, old_S: Tensor, advantage_S: Tensor, clip: Clip) -> Tensor:
    """[S] −min(ρ·A, clip(ρ, 1 − ε, 1 + ε)·A), ρ = π / π_old: Schulman et al. 2017 (arXiv 1707.06347), equation 7."""
    ratio_S = (logprob_S - old_S).exp()
    held_S = ratio_S.clamp(1 - clip.low, 1 + clip.high)
    return -torch.minimum(ratio_S * advantage_S, held_S * advantage_S)


def clipped_share(logprob_S: Tensor, old_S: Tensor, advantage_S: Tensor, clip: Clip) -> Tensor:
    """[S] 1 where the ratio has moved so far that the token's gradient is cut off."""
    ratio_S = (logprob_S - old_S).exp()
    up_S = (advantage_S > 0) & (ratio_S > 1 + clip.high)
    down_S = (advantage_S < 0) & (ratio_S < 1 - clip.low)
    return (up_S | down_S).float()


def value_loss(value_S: Tensor, old_value_S: Tensor, return_S: Tensor, clip: float) -> Tensor:
    """[S] half the squared error, or that of the value held within ±clip of the old one where it is larger.

    As in the implementation of PPO; Huang et al. 2024 (arXiv 2403.17031).
    """
    held_S = old_value_S + (value_S - old_value_S).clamp(-clip, clip)
    return 0.5 * torch.maximum((value_S - return_S).square(), (held_S - return_S).square())


def truncated_importance(old_S: Tensor, engine_S: Tensor, most: float) -> Tensor:
    """[S] min(π_old / π_engine, C): weighs tokens for the mismatch between trainer and engine; carries no gradient.

    Truncated importance sampling, Ionides 2008; for rollouts Yao et al. 2025, "Your efficient RL framework secretly
    brings you off-policy RL training".
    """
    return (old_S - engine_S).detach().exp().clamp(max=most)


def kl_estimate(logprob_S: Tensor, reference_S: Tensor) -> Tensor:
    """[S] e^d − 1 − d with d = log π_ref − log π: an estimate of KL(π ‖ π_ref) that is never negative.

    Schulman 2020, "Approximating KL divergence", k3; unbiased for tokens sampled from π.
    """
    d_S = reference_S - logprob_S
    return d_S.exp() - 1 - d_S


def kl_of_policy(logprob_S: Tensor, old_S: Tensor, reference_S: Tensor) -> Tensor:
    """[S] ρ·k3 with ρ = π / π_old: as a loss, its gradient is that of KL(π ‖ π_ref), which plain k3's is not.

    For tokens sampled from π_old; DeepSeek-V3.2 (arXiv 2512.02556), section 3.1.
    """
    return (logprob_S - old_S).exp() * kl_estimate(logprob_S, reference_S)


def next_kl_weight(weight: float, kl: float, target: float, *, answers: int, horizon: int) -> float:
    """The KL weight after a step of the adaptive controller, Ziegler et al. 2019 (arXiv 1909.08593), section 2.2.

    β·(1 + clip(KL / target − 1, −0.2, 0.2)·answers / horizon). `kl` and `target` are in nats an answer. A step of more
    answers than the horizon counts as one of the horizon: the weight would else overshoot, and could turn negative.
    """
    off = max(-0.2, min(0.2, kl / target - 1))
    return weight * (1 + off * min(1.0, answers / horizon))


def whiten(values_S: Tensor) -> Tensor:
    """[S] mean 0 and standard deviation 1; zeros where all are the same."""
    return (values_S - values_S.mean()) / values_S.std(unbiased=False).clamp(min=1e-8)


def _by_group(values_N: Tensor, group_N: Tensor) -> Tensor:
    return torch.zeros(int(group_N.max()) + 1, dtype=values_N.dtype).index_add(0, group_N, values_N)
