"""Temperature, calibration error, accuracy and leaning to length, against numbers worked out by hand and scipy's."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import optimize, stats

from training.rewards.calibration import (
    COOLEST,
    HOTTEST,
    expected_calibration_error,
    fit_temperature,
    length_correlation,
    mean_loss,
    report,
)

MARGINS = st.lists(st.floats(-8, 8).filter(lambda x: abs(x) > 1e-3), min_size=20, max_size=60)


def draw(true_temperature: float, n: int = 20_000, seed: int = 0) -> list[float]:
    """Margins of a model whose votes fall by σ(margin / temperature)."""
    chance = np.random.default_rng(seed)
    size = chance.normal(0, 3, n)
    agrees = chance.random(n) < 1 / (1 + np.exp(-size / true_temperature))
    return np.where(agrees, size, -size).tolist()


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
def test_the_temperature_that_made_the_votes_is_found_again(temperature: float) -> None:
    assert fit_temperature(draw(temperature)).temperature == pytest.approx(temperature, rel=0.08)


@given(MARGINS)
def test_no_other_temperature_makes_the_votes_more_likely(margins: list[float]) -> None:
    found = fit_temperature(margins)
    best = optimize.minimize_scalar(
        lambda log: mean_loss(margins, math.exp(log)), bounds=(math.log(COOLEST), math.log(HOTTEST)), method="bounded"
    )
    assert found.loss_after is not None
    assert found.loss_after <= best.fun + 1e-6
    assert found.loss_before == pytest.approx(mean_loss(margins, 1.0))


def test_three_of_four_right_at_one_margin_gives_the_temperature_worked_out_by_hand() -> None:
    found = fit_temperature([2.0, 2.0, 2.0, -2.0] * 10)
    assert found.temperature == pytest.approx(2 / math.log(3))  # σ(2 / T) = 3 / 4
    assert found.loss_after == pytest.approx(-0.75 * math.log(0.75) - 0.25 * math.log(0.25))


def test_margins_that_are_all_right_or_say_nothing_end_at_the_bounds() -> None:
    assert fit_temperature([1.0] * 20).temperature == pytest.approx(COOLEST)
    worse = fit_temperature([1.0, -1.0, -1.0] * 10)
    assert worse.temperature == pytest.approx(HOTTEST)
    assert worse.at_bound


def test_too_few_pairs_leave_the_temperature_at_one() -> None:
    found = fit_temperature([1.0] * 19)
    assert (found.temperature, found.pairs, found.loss_after) == (1.0, 19, None)


def test_the_calibration_error_is_what_two_bins_worked_out_by_hand_give() -> None:
    low, high = math.log(0.6 / 0.4), math.log(0.9 / 0.1)  # confidences 0.6 and 0.9
    margins = [low, -low, high, high]
    assert expected_calibration_error(margins, 1.0, bins=2) == pytest.approx((abs(0.5 - 0.6) + abs(1 - 0.9)) / 2)


def test_bins_hold_equal_numbers_and_the_uneven_rest_counts_by_its_size() -> None:
    margins = [math.log(0.6 / 0.4)] * 3 + [-math.log(0.8 / 0.2)] * 2  # two bins: three right at 0.6, two wrong at 0.8
    assert expected_calibration_error(margins, 1.0, bins=2) == pytest.approx(0.6 * 0.4 + 0.4 * 0.8)


def test_a_calibrated_model_has_a_small_error_and_a_boastful_one_a_large_one() -> None:
    margins = draw(2.5)
    assert expected_calibration_error(margins, 2.5) < 0.02
    assert expected_calibration_error(margins, 0.5) > 0.1


def test_the_length_correlation_is_pearsons_over_both_ways_round() -> None:
    x, y = [1.0, -2.0, 0.5, 3.0], [10.0, -5.0, 4.0, -1.0]
    both_x, both_y = x + [-each for each in x], y + [-each for each in y]
    assert length_correlation(x, y) == pytest.approx(stats.pearsonr(both_x, both_y).statistic)
    turned = length_correlation([1.0, 2.0, 0.5, 3.0], [10.0, 5.0, 4.0, -1.0])
    assert length_correlation(x, y) == pytest.approx(turned)
    assert length_correlation([1.0, 2.0], [0.0, 0.0]) == 0


def test_the_report_has_an_exact_interval() -> None:
    margins = [1.0] * 180 + [-0.5] * 120
    found = report(margins, [1.0] * 300, 1.0)
    wanted = stats.binomtest(180, 300).proportion_ci(0.95, method="exact")
    assert (found.accuracy, found.pairs) == (0.6, 300)
    assert (found.low, found.high) == (pytest.approx(wanted.low), pytest.approx(wanted.high))
    with pytest.raises(ValueError, match="at least one"):
        report([], [], 1.0)
