"""How far a reward model's margins can be believed: temperature, accuracy, calibration error, leaning to length. Pure.

A margin is the reward of the answer that people chose over the one they rejected, in nats; σ(margin / temperature) is
how likely the model holds it that people choose that way.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.judging.statistics import clopper_pearson

Floats = NDArray[np.float64]

COOLEST, HOTTEST = 0.01, 100.0
"""Bounds of a fitted temperature: reached where every margin is right, or margins say nothing."""
LEAST_PAIRS = 20
"""Fewer pairs than this fit no temperature; it stays 1."""
BINS = 5
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Calibration:
    """One temperature, the pairs it was fitted on, and their mean negative log-likelihood (nats) before and after."""

    temperature: float = 1.0
    pairs: int = 0
    loss_before: float | None = None
    loss_after: float | None = None

    @property
    def at_bound(self) -> bool:
        return self.temperature <= COOLEST or self.temperature >= HOTTEST


@dataclass(frozen=True)
class RewardReport:
    """What a reward model is worth on pairs that neither its weights nor its temperature have seen.

    low, high: exact 95 % interval of the accuracy. calibration_error: after the temperature, in five bins of equal
    mass; uncalibrated_error: before it.
    """

    pairs: int
    accuracy: float
    low: float
    high: float
    calibration_error: float
    uncalibrated_error: float
    loss: float
    length_correlation: float

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def fit_temperature(margins: Sequence[float]) -> Calibration:
    """The temperature T that makes the votes most likely: least mean of −log σ(margin / T).

    Guo et al. 2017 (arXiv 1706.04599), section 4.2, on one logit. The loss is convex in 1 / T; its root is found by
    bisection within the bounds.
    """
    if len(margins) < LEAST_PAIRS:
        return Calibration(pairs=len(margins))
    values = np.asarray(margins, dtype=np.float64)

    def slope(inverse: float) -> float:
        return -float((values / (1 + np.exp(np.clip(inverse * values, -700, 700)))).mean())

    inverse = _root(slope, 1 / HOTTEST, 1 / COOLEST)
    return Calibration(1 / inverse, len(margins), mean_loss(margins, 1.0), mean_loss(margins, 1 / inverse))


def mean_loss(margins: Sequence[float], temperature: float) -> float:
    """Mean of −log σ(margin / T), in nats; ln 2 for a model that knows nothing."""
    return float(np.logaddexp(0, -np.asarray(margins, dtype=np.float64) / temperature).mean())


def expected_calibration_error(margins: Sequence[float], temperature: float, *, bins: int = BINS) -> float:
    """Σ share of the bin · |accuracy − mean confidence|, over bins of equal mass ordered by confidence.

    Confidence is σ(|margin| / T), from 0.5 to 1, in the side the model prefers; it is right where the margin is above
    0. Naeini et al. 2015 (AAAI), with bins of equal mass as in Nixon et al. 2019 (arXiv 1904.01685).
    """
    values = np.asarray(margins, dtype=np.float64)
    values = values[np.argsort(np.abs(values), kind="stable")]
    confidence, right = 1 / (1 + np.exp(-np.abs(values) / temperature)), values > 0
    parts = zip(np.array_split(confidence, bins), np.array_split(right, bins), strict=True)
    return float(sum(abs(r.mean() - c.mean()) * len(c) for c, r in parts if len(c)) / len(values))


def length_correlation(margins: Sequence[float], longer_tokens: Sequence[float]) -> float:
    """Correlation of the reward's and the length's difference between the two answers of a pair, from −1 to 1.

    Every pair counts both ways round, so that it does not matter which answer was chosen: both means are 0, and the
    correlation is Σ xy / √(Σ x² Σ y²). 0 where all lengths or all rewards are equal.
    """
    x, y = np.asarray(margins, dtype=np.float64), np.asarray(longer_tokens, dtype=np.float64)
    size = math.sqrt(float((x * x).sum()) * float((y * y).sum()))
    return float((x * y).sum()) / size if size else 0.0


def report(margins: Sequence[float], longer_tokens: Sequence[float], temperature: float) -> RewardReport:
    """Everything that is told of held-out margins. ValueError when there are none."""
    if not margins:
        raise ValueError("a reward model is judged by at least one held-out pair")
    share = clopper_pearson(sum(margin > 0 for margin in margins), len(margins), confidence=CONFIDENCE)
    return RewardReport(
        pairs=len(margins),
        accuracy=share.value,
        low=share.low,
        high=share.high,
        calibration_error=expected_calibration_error(margins, temperature),
        uncalibrated_error=expected_calibration_error(margins, 1.0),
        loss=mean_loss(margins, temperature),
        length_correlation=length_correlation(margins, longer_tokens),
    )


def _root(rising: Callable[[float], float], low: float, high: float) -> float:
    """Where a rising function crosses 0 between two positive bounds; the nearer bound where it does not."""
    if rising(low) >= 0:
        return low
    if rising(high) <= 0:
        return high
    for _ in range(100):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if rising(middle) < 0 else (low, middle)
    return math.sqrt(low * high)
