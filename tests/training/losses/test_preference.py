"""The preference losses against numbers worked out by hand and against finite differences."""

import math

import pytest
import torch

from training.losses.preference import PairLogprobs, dpo, implicit_margin, nll


def make_pair(chosen: float, rejected: float) -> PairLogprobs:
    return PairLogprobs(torch.tensor([chosen]), torch.tensor([rejected]))


def test_the_margin_is_beta_times_the_difference_of_log_ratios() -> None:
    margin = implicit_margin(make_pair(-10.0, -20.0), make_pair(-12.0, -15.0), beta=0.1)
    assert margin.item() == pytest.approx(0.1 * ((-10 + 12) - (-20 + 15)))  # 0.1 * (2 + 5) = 0.7


@pytest.mark.parametrize(("margin", "loss"), [(0.0, 0.693147), (0.7, 0.403186), (-0.7, 1.103186), (20.0, 2.0612e-9)])
def test_dpo_is_minus_log_sigmoid_of_the_margin(margin: float, loss: float) -> None:
    assert dpo(torch.tensor([margin], dtype=torch.float64)).item() == pytest.approx(loss, rel=1e-4)


def test_dpo_stays_finite_where_the_sigmoid_is_zero() -> None:
    assert dpo(torch.tensor([-500.0])).item() == pytest.approx(500)


def test_nll_is_the_mean_over_the_answers_tokens() -> None:
    assert nll(torch.tensor([-6.0]), torch.tensor([4.0])).item() == pytest.approx(1.5)


def test_the_gradient_of_dpo_with_nll_agrees_with_finite_differences() -> None:
    reference = PairLogprobs(torch.tensor([-12.0, -8.0]).double(), torch.tensor([-15.0, -7.0]).double())
    lengths = torch.tensor([5.0, 3.0]).double()

    def loss(chosen: torch.Tensor, rejected: torch.Tensor) -> torch.Tensor:
        margin = implicit_margin(PairLogprobs(chosen, rejected), reference, beta=0.3)
        return (dpo(margin) + 0.5 * nll(chosen, lengths)).sum()

    chosen = torch.tensor([-10.0, -9.0], dtype=torch.float64, requires_grad=True)
    rejected = torch.tensor([-20.0, -6.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(loss, (chosen, rejected), eps=1e-6, atol=1e-8)
    loss(chosen, rejected).backward()
    margin = 0.3 * ((-10 + 12) - (-20 + 15))
    by_hand = -0.3 / (1 + math.exp(margin)) - 0.5 / 5
    assert chosen.grad is not None
    assert chosen.grad[0].item() == pytest.approx(by_hand)
