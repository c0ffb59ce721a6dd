"""The sequential test: worked values, properties, and its promises computed exactly, path by path."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special, stats

from feedback.sequential import STAKES, evidence, log_e_value, lower_bound, upper_bound

ALPHA = 0.05
NEEDED = math.log(1 / ALPHA)
COUNTS = st.integers(0, 100_000)
SMALL = st.integers(0, 400)
CHANCES = st.floats(0.001, 0.999)
ALPHAS = st.floats(0.001, 0.2)


def wins_needed(votes: int, alpha: float = ALPHA) -> list[int]:
    """For each number of decisive votes, the fewest wins at which the canary is told to be better."""
    bounds, wins = [], 0
    for n in range(votes + 1):
        while wins <= n and log_e_value(wins, n - wins, 0.5) < math.log(1 / alpha):
            wins += 1
        bounds.append(wins)
    return bounds


def chance_told_better(chance_of_win: float, votes: int, alpha: float = ALPHA) -> list[float]:
    """How likely the canary has been told to be better after each vote, exactly: over all paths, none drawn."""
    bounds = wins_needed(votes, alpha)
    at_wins, told, so_far = np.zeros(votes + 2), 0.0, [0.0]
    at_wins[0] = 1.0
    for bound in bounds[1:]:
        at_wins[1:] = at_wins[1:] * (1 - chance_of_win) + at_wins[:-1] * chance_of_win
        at_wins[0] *= 1 - chance_of_win
        told += at_wins[bound:].sum()
        at_wins[bound:] = 0
        so_far.append(told)
    return so_far


def test_the_first_votes_give_the_wealth_worked_out_by_hand() -> None:
    mean_stake = sum(stake * share for stake, share in STAKES)
    mean_square = sum(stake**2 * share for stake, share in STAKES)
    assert sum(share for _, share in STAKES) == pytest.approx(1)
    assert log_e_value(0, 0, 0.5) == pytest.approx(0)
    # At even odds a stake f makes 1 + f of a win and 1 - f of a loss.
    assert math.exp(log_e_value(1, 0, 0.5)) == pytest.approx(1 + mean_stake)
    assert math.exp(log_e_value(0, 1, 0.5)) == pytest.approx(1 - mean_stake)
    assert math.exp(log_e_value(1, 1, 0.5)) == pytest.approx(1 - mean_square)
    # At m = 1/4 a hit pays three to one.
    assert math.exp(log_e_value(1, 0, 0.25)) == pytest.approx(1 + 3 * mean_stake)


@given(SMALL, SMALL)
def test_against_even_odds_it_is_the_mean_of_likelihood_ratios_as_scipy_has_them(wins: int, losses: int) -> None:
    shares = [share for _, share in STAKES]
    ratios = [
        stats.binom.logpmf(wins, wins + losses, (1 + stake) / 2) - stats.binom.logpmf(wins, wins + losses, 0.5)
        for stake, _ in STAKES
    ]
    assert log_e_value(wins, losses, 0.5) == pytest.approx(special.logsumexp(ratios, b=shares), rel=1e-9, abs=1e-9)


@given(st.integers(0, 60), CHANCES, st.floats(0, 1))
def test_the_wealth_is_no_better_than_fair_under_every_chance_up_to_the_one_tested(
    votes: int, chance: float, part: float
) -> None:
    actual = chance * part
    wins = np.arange(votes + 1)
    wealth = np.exp([log_e_value(int(w), votes - int(w), chance) for w in wins])
    mean = float(stats.binom.pmf(wins, votes, actual) @ wealth)
    assert mean <= 1 + 1e-9
    if part == 1:
        assert mean == pytest.approx(1)


@pytest.mark.parametrize("chance", [0.5, 0.48, 0.4])
def test_a_canary_that_is_not_better_is_ever_told_to_be_at_most_as_often_as_promised(chance: float) -> None:
    assert chance_told_better(chance, 3000)[-1] <= ALPHA


def test_a_test_for_one_look_would_break_the_promise_where_this_one_keeps_it() -> None:
    equal = chance_told_better(0.5, 1000)[-1]
    assert 0.03 <= equal <= ALPHA  # so the promise is not kept by never deciding
    looks = np.cumsum(np.random.default_rng(5).random((1000, 1000)) < 0.5, axis=1)
    n = np.arange(1, 1001)
    one_look = (looks - n / 2) / np.sqrt(n / 4) >= 1.645
    assert one_look[:, 19:].any(axis=1).mean() > 3 * ALPHA


def test_a_true_sixty_percent_is_found_within_two_hundred_votes_at_the_median() -> None:
    told = chance_told_better(0.6, 1000)
    assert told[200] > 0.65
    assert next(n for n, share in enumerate(told) if share >= 0.5) <= 150
    assert told[1000] > 0.999


@given(COUNTS, COUNTS, ALPHAS)
@settings(max_examples=200)
def test_the_decision_and_the_bounds_are_one_test(wins: int, losses: int, alpha: float) -> None:
    told = evidence(wins, losses, alpha)
    needed = math.log(1 / alpha)
    assert told.better == (told.lower >= 0.5) == (told.log_e_better >= needed)
    assert told.worse == (told.upper <= 0.5) == (told.log_e_worse >= needed)
    assert not (told.better and told.worse)


def test_decision_and_bounds_agree_on_either_side_of_the_border() -> None:
    for n, wins in enumerate(wins_needed(600)):
        if wins <= n:
            assert evidence(wins, n - wins, ALPHA).better
            assert evidence(n - wins, wins, ALPHA).worse
        if wins > 0:
            assert not evidence(wins - 1, n - wins + 1, ALPHA).better


@given(COUNTS, COUNTS, ALPHAS)
@settings(max_examples=200)
def test_the_bounds_hold_the_share_seen_and_refute_all_beyond_them(hits: int, misses: int, alpha: float) -> None:
    lower, upper = lower_bound(hits, misses, alpha), upper_bound(hits, misses, alpha)
    needed = math.log(1 / alpha)
    assert 0 <= lower < upper <= 1
    if hits + misses:
        assert lower <= hits / (hits + misses) <= upper
    if lower > 0:
        assert log_e_value(hits, misses, lower) >= needed
        assert log_e_value(hits, misses, lower + 1e-7) < needed
    else:
        assert hits == 0 or log_e_value(hits, misses, 1e-7) < needed


@given(SMALL, SMALL, ALPHAS)
def test_a_hit_raises_both_bounds_a_miss_lowers_them_and_a_looser_promise_narrows_them(
    hits: int, misses: int, alpha: float
) -> None:
    for bound in (lower_bound, upper_bound):
        here = bound(hits, misses, alpha)
        assert bound(hits + 1, misses, alpha) >= here
        assert bound(hits, misses + 1, alpha) <= here
    assert lower_bound(hits, misses, alpha * 1.5) >= lower_bound(hits, misses, alpha)
    assert upper_bound(hits, misses, alpha * 1.5) <= upper_bound(hits, misses, alpha)


@given(COUNTS, COUNTS)
def test_swapping_the_sides_swaps_what_it_says(wins: int, losses: int) -> None:
    one, other = evidence(wins, losses, ALPHA), evidence(losses, wins, ALPHA)
    assert (one.log_e_better, one.log_e_worse) == (other.log_e_worse, other.log_e_better)
    assert (one.lower, one.upper) == (1 - other.upper, pytest.approx(1 - other.lower, abs=1e-15))


@pytest.mark.parametrize("chance", [0.02, 0.3, 0.5, 0.9])
def test_the_bounds_hold_at_all_times_at_once(chance: float) -> None:
    paths, length = 400, 600
    hits = np.cumsum(np.random.default_rng(11).random((paths, length)) < chance, axis=1)
    n = np.arange(1, length + 1)
    # A bound fails where it refutes the truth, so the truth alone needs to be tested.
    cells = {(int(h), int(k)) for k, column in zip(n, hits.T, strict=True) for h in set(column.tolist())}
    low = {cell for cell in cells if log_e_value(cell[0], cell[1] - cell[0], chance) >= NEEDED}
    high = {cell for cell in cells if log_e_value(cell[1] - cell[0], cell[0], 1 - chance) >= NEEDED}
    for failing in (low, high):
        failed = sum(any((int(h), int(k)) in failing for h, k in zip(path, n, strict=True)) for path in hits)
        assert stats.binomtest(failed, paths, ALPHA, alternative="greater").pvalue > 0.001


def test_the_bounds_close_in_on_the_truth() -> None:
    told = [evidence(n * 6 // 10, n * 4 // 10, ALPHA) for n in (100, 1_000, 10_000, 100_000)]
    widths = [each.upper - each.lower for each in told]
    assert widths == sorted(widths, reverse=True)
    assert widths[-1] < 0.013
    assert upper_bound(0, 500, ALPHA) < 0.015


@pytest.mark.parametrize(("hits", "misses", "alpha"), [(-1, 3, 0.05), (3, -1, 0.05), (1, 1, 0.0), (1, 1, 1.0)])
def test_what_is_no_count_and_no_promise_is_refused(hits: int, misses: int, alpha: float) -> None:
    with pytest.raises(ValueError, match="not"):
        evidence(hits, misses, alpha)
    with pytest.raises(ValueError, match="between 0 and 1"):
        log_e_value(1, 1, 1.0)
