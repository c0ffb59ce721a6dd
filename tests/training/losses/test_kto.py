"""The KTO loss against numbers worked out by hand and against finite differences."""

import math

import pytest
import torch

from training.losses.kto import kto, mismatched_kl


def test_kto_is_what_its_formula_says_for_a_good_and_a_bad_answer() -> None:
    loss_N = kto(torch.tensor([5.0, 5.0]).double(), torch.tensor(2.0).double(), torch.tensor([1.0, 0.0]).double(), 0.1)
    sigmoid = 1 / (1 + math.exp(-0.3))
    assert loss_N.tolist() == pytest.approx([1 - sigmoid, sigmoid])


def test_an_answer_at_the_reference_costs_a_half_either_way() -> None:
    loss_N = kto(torch.zeros(2), torch.tensor(0.0), torch.tensor([1.0, 0.0]), 0.1)
    assert loss_N.tolist() == [0.5, 0.5]


def test_the_estimate_of_the_kl_is_a_mean_and_never_negative() -> None:
    assert mismatched_kl(torch.tensor([1.0, 3.0])).item() == 2
    assert mismatched_kl(torch.tensor([-1.0, -3.0])).item() == 0


def test_the_gradient_agrees_with_finite_differences_and_none_flows_through_the_kl() -> None:
    up_N = torch.tensor([1.0, 0.0, 0.3]).double()
    ratio_N = torch.tensor([2.0, -1.0, 0.5], dtype=torch.float64, requires_grad=True)
    kl = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda r: kto(r, kl.detach(), up_N, 0.3).sum(), (ratio_N,), eps=1e-6, atol=1e-8)
    kto(ratio_N, kl, up_N, 0.3).sum().backward()
    assert kl.grad is None
