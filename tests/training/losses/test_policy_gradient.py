"""Rewards, advantages and losses of sampled answers against numbers worked out by hand."""

import math

import pytest
import torch

from training.losses.policy_gradient import (
    Clip,
    advantages_and_returns,
    clipped_share,
    clipped_surrogate,
    group_relative,
    kl_estimate,
    kl_of_policy,
    leave_one_out,
    next_kl_weight,
    token_rewards,
    truncated_importance,
    value_loss,
    whiten,
)


def of(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


TWO_ANSWERS = torch.tensor([3, 2])


def test_the_score_is_paid_at_an_answers_last_token_and_the_kl_at_each() -> None:
    rewards_S = token_rewards(of(1.0, -2.0), of(0.1, 0.2, 0.3, 0.4, 0.5), TWO_ANSWERS, kl_weight=0.5)
    assert rewards_S.tolist() == pytest.approx([-0.05, -0.1, 0.85, -0.2, -2.25])


def test_advantages_are_discounted_sums_of_what_was_better_than_expected() -> None:
    rewards_S, values_S = of(0.0, 0.0, 1.0, 0.0, -1.0), of(0.5, 0.4, 0.6, 0.2, 0.1)
    advantages_S, returns_S = advantages_and_returns(rewards_S, values_S, TWO_ANSWERS, discount=0.9, trace=0.8)
    last = 1.0 - 0.6
    middle = 0.9 * 0.6 - 0.4 + 0.72 * last
    first = 0.9 * 0.4 - 0.5 + 0.72 * middle
    other_last = -1.0 - 0.1
    other_first = 0.9 * 0.1 - 0.2 + 0.72 * other_last
    assert advantages_S.tolist() == pytest.approx([first, middle, last, other_first, other_last])
    assert returns_S.tolist() == pytest.approx((advantages_S + values_S).tolist())


def test_with_a_full_trace_the_return_is_what_was_paid_from_there_on() -> None:
    _, returns_S = advantages_and_returns(of(1, 2, 3, 4, 5), of(9, 9, 9, 9, 9), TWO_ANSWERS, trace=1.0)
    assert returns_S.tolist() == pytest.approx([6, 5, 3, 9, 5])


def test_leave_one_out_compares_with_the_other_answers_to_the_prompt() -> None:
    found = leave_one_out(of(1, 2, 6, 5), torch.tensor([0, 0, 0, 1]))
    assert found.tolist() == pytest.approx([1 - 4, 2 - 3.5, 6 - 1.5, 0])


def test_group_relative_is_in_standard_deviations_of_the_group() -> None:
    group_N = torch.tensor([0, 0, 1, 1])
    found = group_relative(of(1, 3, 5, 5), group_N, least_spread=0.0 + 1e-9)
    assert found.tolist() == pytest.approx([-1 / math.sqrt(2), 1 / math.sqrt(2), 0, 0], abs=1e-6)
    assert group_relative(of(1, 3, 5, 7), group_N, by_spread=False).tolist() == [-1, 1, -1, 1]


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "cut"),
    [
        (1.0, 2.0, -2.0, 0),
        (1.1, 2.0, -2.2, 0),
        (1.5, 2.0, -2.4, 1),  # held at 1.2
        (0.5, 2.0, -1.0, 0),  # an answer that is good and became rarer: the full gradient
        (0.5, -2.0, 1.6, 1),  # held at 0.8
        (1.5, -2.0, 3.0, 0),
    ],
)
def test_the_surrogate_stops_at_its_bounds_where_moving_on_would_pay(
    ratio: float, advantage: float, loss: float, cut: int
) -> None:
    logprob_S = of(math.log(ratio)).requires_grad_()
    found_S = clipped_surrogate(logprob_S, of(0.0), of(advantage), Clip())
    found_S.sum().backward()
    assert found_S.item() == pytest.approx(loss)
    assert clipped_share(logprob_S, of(0.0), of(advantage), Clip()).item() == cut
    assert logprob_S.grad is not None
    assert (logprob_S.grad.item() == 0) == bool(cut)


def test_the_surrogates_gradient_agrees_with_finite_differences() -> None:
    logprob_S = of(-1.0, -2.05, -0.4).requires_grad_()
    old_S, advantage_S = of(-1.05, -2.0, -1.0), of(1.0, -0.5, -2.0)
    assert torch.autograd.gradcheck(
        lambda x: clipped_surrogate(x, old_S, advantage_S, Clip()).sum(), (logprob_S,), eps=1e-6, atol=1e-8
    )


@pytest.mark.parametrize(("value", "loss"), [(1.1, 0.5 * 0.81), (1.5, 0.5 * 0.64), (3.0, 0.5 * 1.0)])
def test_the_value_loss_takes_the_larger_of_both_errors(value: float, loss: float) -> None:
    # Old value 1, held within ±0.2 of it; the return is 2.
    assert value_loss(of(value), of(1.0), of(2.0), 0.2).item() == pytest.approx(loss)


def test_importance_is_the_ratio_up_to_its_bound_and_has_no_gradient() -> None:
    old_S = of(-1.0, -1.0).requires_grad_()
    found_S = truncated_importance(old_S, of(-1.5, -4.0), most=2.0)
    assert found_S.tolist() == pytest.approx([math.exp(0.5), 2.0])
    assert not found_S.requires_grad


def test_the_kl_as_a_loss_has_the_gradient_of_the_kl() -> None:
    chance = torch.Generator().manual_seed(3)
    logits, reference = torch.randn(6, generator=chance), torch.randn(6, generator=chance).log_softmax(0)
    exact, sampled = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    policy = exact.log_softmax(0)
    (policy.exp() * (policy - reference)).sum().backward()
    policy = sampled.log_softmax(0)
    old = policy.detach()
    (old.exp() * kl_of_policy(policy, old, reference)).sum().backward()  # its mean over tokens drawn from the policy
    assert exact.grad is not None
    assert sampled.grad is not None
    assert torch.allclose(sampled.grad, exact.grad, atol=1e-6)


def test_the_kl_estimate_is_nothing_at_equality_never_negative_and_right_on_average() -> None:
    policy, reference = torch.tensor([0.7, 0.2, 0.1]).double(), torch.tensor([0.5, 0.3, 0.2]).double()
    estimate = kl_estimate(policy.log(), reference.log())
    assert (estimate >= 0).all()
    assert kl_estimate(policy.log(), policy.log()).abs().max().item() == 0
    assert (policy * estimate).sum().item() == pytest.approx((policy * (policy / reference).log()).sum().item())


@pytest.mark.parametrize(("kl", "weight"), [(6.0, 0.1), (12.0, 0.1 * 1.02), (0.0, 0.1 * 0.98), (6.6, 0.1 * 1.01)])
def test_the_kl_weight_follows_its_target_by_bounded_steps(kl: float, weight: float) -> None:
    assert next_kl_weight(0.1, kl, 6.0, answers=100, horizon=1000) == pytest.approx(weight)


def test_a_round_of_any_size_leaves_the_kl_weight_above_0() -> None:
    assert next_kl_weight(0.1, 0.0, 6.0, answers=8192, horizon=1000) == pytest.approx(0.08)
    assert next_kl_weight(0.1, 60.0, 6.0, answers=8192, horizon=1000) == pytest.approx(0.12)


def test_whitened_values_have_mean_0_and_spread_1() -> None:
    found_S = whiten(of(1, 2, 3, 6))
    assert found_S.mean().item() == pytest.approx(0)
    assert found_S.std(unbiased=False).item() == pytest.approx(1)
    assert whiten(of(2, 2, 2)).tolist() == [0, 0, 0]
