"""The preference losses against numbers worked out by hand and against finite differences."""

import math
from functools import partial

import pytest
import torch
from torch import Tensor

from training.losses.preference import (
    PairLoss,
    PairScores,
    conservative_dpo,
    dpo,
    dpo_positive,
    hinge,
    implicit_margin,
    ipo,
    nll,
    normalised_dpo,
    orpo,
    robust_dpo,
    simpo,
    soften,
)

SIGMOID_07 = 1 / (1 + math.exp(-0.7))
ODDS = (-2 + 5) - (math.log(1 - math.exp(-2)) - math.log(1 - math.exp(-5)))
LOSSES: dict[str, PairLoss] = {
    "dpo": partial(dpo, beta=0.1),
    "ipo": partial(ipo, beta=0.1),
    "hinge": partial(hinge, beta=0.1),
    "conservative_dpo": partial(conservative_dpo, beta=0.1, flip_rate=0.2),
    "robust_dpo": partial(robust_dpo, beta=0.1, flip_rate=0.2),
    "dpo_positive": partial(dpo_positive, beta=0.1, penalty=5.0),
    "normalised_dpo": partial(normalised_dpo, beta=2.0),
    "orpo": partial(orpo, odds_weight=0.1),
    "simpo": partial(simpo, beta=2.0, gamma=1.0),
    "nll": nll,
}


def make_scores(**overrides: list[float]) -> PairScores:
    """One pair: log-ratios +2 over 5 tokens for the chosen and −5 over 4 for the rejected answer."""
    values: dict[str, list[float]] = {
        "chosen_P": [-10.0],
        "rejected_P": [-20.0],
        "reference_chosen_P": [-12.0],
        "reference_rejected_P": [-15.0],
        "chosen_tokens_P": [5.0],
        "rejected_tokens_P": [4.0],
    }
    return PairScores(**{name: torch.tensor(value).double() for name, value in {**values, **overrides}.items()})


def test_the_margin_is_beta_times_the_difference_of_log_ratios() -> None:
    assert implicit_margin(make_scores(), 0.1).item() == pytest.approx(0.1 * (2 + 5))


@pytest.mark.parametrize(
    ("name", "loss"),
    [
        ("dpo", -math.log(SIGMOID_07)),  # 0.403186
        ("ipo", (2 / 5 + 5 / 4 - 1 / 0.2) ** 2),  # 11.2225
        ("hinge", 1 - 0.7),
        ("conservative_dpo", -0.8 * math.log(SIGMOID_07) - 0.2 * math.log(1 - SIGMOID_07)),  # 0.543186
        ("robust_dpo", (-0.8 * math.log(SIGMOID_07) + 0.2 * math.log(1 - SIGMOID_07)) / 0.6),  # 0.169853
        ("dpo_positive", -math.log(SIGMOID_07)),  # the chosen answer did not sink
        ("normalised_dpo", math.log(1 + math.exp(-2 * (2 / 5 + 5 / 4)))),  # 0.036217
        ("orpo", 2 + 0.1 * math.log(1 + math.exp(-ODDS))),  # 2.004
        ("simpo", math.log(1 + math.exp(-(2 * (-2 + 5) - 1)))),  # 0.006715
        ("nll", 10 / 5),
    ],
)
def test_each_loss_is_what_its_formula_says(name: str, loss: float) -> None:
    assert LOSSES[name](make_scores()).item() == pytest.approx(loss, rel=1e-6)


def test_dpo_positive_pays_for_a_chosen_answer_that_sank() -> None:
    sunk = make_scores(chosen_P=[-13.0], reference_chosen_P=[-12.0])
    margin = 0.1 * (-1 + 5) - 0.1 * 5 * 1
    assert LOSSES["dpo_positive"](sunk).item() == pytest.approx(math.log(1 + math.exp(-margin)))


def test_hinge_is_nothing_beyond_a_margin_of_one() -> None:
    assert hinge(make_scores(), beta=0.2).item() == 0


def test_dpo_starts_at_ln_2_and_stays_finite_where_the_sigmoid_is_zero() -> None:
    start = make_scores(chosen_P=[-12.0], rejected_P=[-15.0])
    assert dpo(start, 0.1).item() == pytest.approx(math.log(2))
    assert dpo(make_scores(chosen_P=[-5017.0]), 0.1).item() == pytest.approx(0.1 * 5000, rel=1e-3)


def test_robust_dpo_is_dpo_on_clean_votes_in_expectation() -> None:
    straight, flipped = make_scores(), make_scores().swapped()
    loss = partial(robust_dpo, beta=0.1, flip_rate=0.2)
    assert (0.8 * loss(straight) + 0.2 * loss(flipped)).item() == pytest.approx(dpo(straight, 0.1).item())


@pytest.mark.parametrize("name", LOSSES)
def test_a_tie_costs_as_much_either_way_round(name: str) -> None:
    tie = torch.tensor([0.5]).double()
    loss = LOSSES[name]
    both = 0.5 * (loss(make_scores()) + loss(make_scores().swapped()))
    assert soften(loss, make_scores(), tie).item() == pytest.approx(both.item())
    assert soften(loss, make_scores().swapped(), tie).item() == pytest.approx(both.item())
    assert soften(loss, make_scores(), torch.tensor([1.0]).double()).item() == loss(make_scores()).item()


@pytest.mark.parametrize("name", LOSSES)
def test_the_gradient_of_each_loss_agrees_with_finite_differences(name: str) -> None:
    fixed = make_scores(reference_chosen_P=[-12.0, -8.0], reference_rejected_P=[-15.0, -7.0])

    def total(chosen_P: Tensor, rejected_P: Tensor) -> Tensor:
        tokens = torch.tensor([5.0, 3.0]).double(), torch.tensor([4.0, 6.0]).double()
        scores = PairScores(chosen_P, rejected_P, fixed.reference_chosen_P, fixed.reference_rejected_P, *tokens)
        return soften(LOSSES[name], scores, torch.tensor([1.0, 0.7]).double()).sum()

    chosen_P = torch.tensor([-10.0, -9.0], dtype=torch.float64, requires_grad=True)
    rejected_P = torch.tensor([-20.0, -6.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(total, (chosen_P, rejected_P), eps=1e-6, atol=1e-7)
