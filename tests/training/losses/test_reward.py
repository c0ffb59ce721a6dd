"""The reward model's loss against numbers worked out by hand, TRL's formula and finite differences."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from training.losses.reward import bradley_terry, centring


def double(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def loss(chosen: float, rejected: float, *, margin: float = 0.0, label: float = 1.0) -> float:
    return bradley_terry(double(chosen), double(rejected), double(margin), double(label)).item()


def test_equal_rewards_cost_ln_2() -> None:
    assert loss(0.3, 0.3) == pytest.approx(math.log(2))


def test_a_lead_of_one_nat_costs_0_3133() -> None:
    assert loss(1.5, 0.5) == pytest.approx(0.31326168751822286)


def test_a_margin_takes_its_nats_off_the_lead() -> None:
    assert loss(2.5, 0.5, margin=1.0) == pytest.approx(0.31326168751822286)
    assert loss(0.5, 0.5, margin=1.0) == pytest.approx(1.3132616875182228)  # ln(1 + e)


def test_a_soft_label_mixes_both_ways_round() -> None:
    assert loss(1.5, 0.5, label=0.75) == pytest.approx(0.75 * 0.31326168751822286 + 0.25 * 1.3132616875182228)


def test_a_tie_costs_the_same_either_way_round_and_least_at_equal_rewards() -> None:
    assert loss(1.5, 0.5, margin=0.7, label=0.5) == pytest.approx(loss(0.5, 1.5, margin=0.7, label=0.5))
    assert loss(1.0, 1.0, margin=0.7, label=0.5) < loss(1.1, 1.0, margin=0.7, label=0.5)


def test_the_loss_stays_finite_where_the_sigmoid_is_zero() -> None:
    assert loss(-2000, 3000) == pytest.approx(5000)


def test_centring_is_the_square_of_the_sum() -> None:
    assert centring(double(1.5, 2.0), double(0.5, -2.0)).tolist() == [4.0, 0.0]


def test_the_terms_together_are_those_of_trl() -> None:
    """As TRL's RewardTrainer writes them."""
    chosen, rejected, margin = double(1.2, -0.3, 0.8), double(0.1, 0.4, -2.0), double(0.0, 0.5, 1.0)
    theirs = -F.logsigmoid(chosen - rejected - margin).mean() + 0.01 * torch.mean((chosen + rejected) ** 2)
    ours = bradley_terry(chosen, rejected, margin, double(1, 1, 1)) + 0.01 * centring(chosen, rejected)
    assert ours.mean().item() == pytest.approx(theirs.item())


def test_the_gradient_agrees_with_finite_differences() -> None:
    def total(chosen_P: Tensor, rejected_P: Tensor) -> Tensor:
        loss_P = bradley_terry(chosen_P, rejected_P, double(0.0, 0.5, 1.0), double(1.0, 0.5, 0.8))
        return (loss_P + 0.3 * centring(chosen_P, rejected_P)).sum()

    chosen_P, rejected_P = double(1.2, -0.3, 0.8).requires_grad_(), double(0.1, 0.4, -2.0).requires_grad_()
    assert torch.autograd.gradcheck(total, (chosen_P, rejected_P), eps=1e-6, atol=1e-8)
