"""Intervals and exact tests for the gate. Pure; the numbers agree with scipy's (a test says so)."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """A two-sided interval of the stated confidence around a value."""

    value: float
    low: float
    high: float


def bootstrap(
    columns: Sequence[Sequence[float]],
    statistic: Callable[..., Floats],
    *,
    confidence: float = 0.9,
    draws: int = 2000,
    seed: int = 0,
) -> Interval:
    """Percentile interval of a statistic over n prompts, each drawn with all its columns.

    `statistic` gets one [draws, n] array per column and gives [draws]. The same input gives the same interval.
    """
    values = [np.asarray(column, dtype=np.float64) for column in columns]
    n = len(values[0])
    if n == 0:
        raise ValueError("there is nothing to draw from")
    chosen = np.random.default_rng(seed).integers(0, n, size=(draws, n))
    drawn = statistic(*(column[chosen] for column in values))
    tail = (1 - confidence) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail])
    return Interval(float(statistic(*(column[None, :] for column in values))[0]), float(low), float(high))


def clopper_pearson(successes: int, n: int, *, confidence: float = 0.9) -> Interval:
    """The exact interval of a share (Clopper and Pearson 1934); the whole of [0, 1] for n = 0."""
    if n == 0:
        return Interval(0.5, 0.0, 1.0)
    tail = (1 - confidence) / 2
    low = 0.0 if successes == 0 else _solve(lambda p: 1 - _binomial_cdf(successes - 1, n, p) - tail)
    high = 1.0 if successes == n else _solve(lambda p: tail - _binomial_cdf(successes, n, p))
    return Interval(successes / n, low, high)


def sign_test(wins: int, n: int) -> float:
    """One-sided exact p-value: the chance of `wins` or more among n when both sides are equal."""
    return 1.0 if wins == 0 else 1 - _binomial_cdf(wins - 1, n, 0.5)


def _binomial_cdf(k: int, n: int, p: float) -> float:
    """P(X ≤ k) for X ~ Binomial(n, p), 0 ≤ k < n, summed from the smaller tail."""
    if p <= 0:
        return 1.0
    if p >= 1:
        return 0.0
    log_p, log_q = math.log(p), math.log1p(-p)
    log_n = math.lgamma(n + 1)

    def mass(i: int) -> float:
        return math.exp(log_n - math.lgamma(i + 1) - math.lgamma(n - i + 1) + i * log_p + (n - i) * log_q)

    if k < n * p:
        return min(1.0, math.fsum(mass(i) for i in range(k + 1)))
    return max(0.0, 1 - math.fsum(mass(i) for i in range(k + 1, n + 1)))


def _solve(rising: Callable[[float], float]) -> float:
    """The root in (0, 1) of a rising function, by bisection."""
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        if rising(middle) < 0:
            low = middle
        else:
            high = middle
    return (low + high) / 2
