"""Intervals and exact tests against scipy's and against cases worked out by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from training.judging.statistics import Floats, bootstrap, clopper_pearson, sign_test


@given(st.integers(1, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_clopper_pearson_agrees_with_scipy(case: tuple[int, int]) -> None:
    successes, n = case
    found = clopper_pearson(successes, n)
    wanted = stats.binomtest(successes, n).proportion_ci(0.9, method="exact")
    assert (found.low, found.high) == pytest.approx((wanted.low, wanted.high), abs=1e-7)


@given(st.integers(1, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_the_sign_test_agrees_with_scipy(case: tuple[int, int]) -> None:
    wins, n = case
    assert sign_test(wins, n) == pytest.approx(stats.binomtest(wins, n, alternative="greater").pvalue, abs=1e-9)


def test_ten_of_twelve_is_needed_for_five_percent() -> None:
    assert sign_test(10, 12) == pytest.approx(79 / 4096)
    assert sign_test(9, 12) > 0.05


def test_nothing_seen_says_nothing() -> None:
    assert (clopper_pearson(0, 0).low, clopper_pearson(0, 0).high) == (0, 1)
    assert sign_test(0, 0) == 1


def mean(values: Floats) -> Floats:
    return np.asarray(values.mean(axis=1))


def test_the_bootstrap_interval_of_a_mean_is_about_the_normal_one() -> None:
    values = np.random.default_rng(1).normal(3, 2, size=400)
    found = bootstrap([values.tolist()], mean)
    assert found.value == pytest.approx(values.mean())
    assert found.high - found.low == pytest.approx(2 * 1.645 * values.std() / 20, rel=0.1)


def test_the_bootstrap_is_the_same_every_time() -> None:
    assert bootstrap([[1.0, 5.0, 2.0]], mean) == bootstrap([[1.0, 5.0, 2.0]], mean)


def test_columns_are_drawn_together() -> None:
    column = np.random.default_rng(2).normal(size=50).tolist()
    difference = bootstrap([column, column], lambda a, b: np.asarray((a - b).mean(axis=1)))
    assert (difference.low, difference.high) == (0, 0)
