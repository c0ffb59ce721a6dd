"""The sequential test: what yes-or-no outcomes say about their chance, valid however often it is looked at. Pure.

Whoever counts the outcomes (votes that a canary won or lost, requests that failed or not) decides what follows.
"""

import math
from dataclasses import dataclass

_SPREAD = tuple(0.4 * 2 ** (-k / 2) for k in range(16))
_LARGE, _LARGE_SHARE = 0.9, 0.1
STAKES = (*((stake, (1 - _LARGE_SHARE) * stake / sum(_SPREAD)) for stake in _SPREAD), (_LARGE, _LARGE_SHARE))
"""What is bet: fractions of the wealth, and the share of the first coin that goes to each.

Against even odds a stake f gains most where the chance is (1 + f) / 2. Nine tenths of the coin lie on stakes from 0.4
down to 0.002, thinning out as a uniform density would: chances between 0.5 and 0.7, where real preferences are, so that
60 % is found soon, and small differences too in the end. The last tenth makes bounds narrow near 0 and 1.
"""

_LOGS = tuple((stake, math.log(share), math.log1p(-stake)) for stake, share in STAKES)
_HALVINGS = 26


@dataclass(frozen=True)
class Evidence:
    """What wins and losses say at a promise of `alpha`.

    `log_e_better` is the log of the e-value against "wins are at most half of the decisive outcomes", `log_e_worse` of
    that against "at least half". `lower` and `upper` bound the chance of a win: each of the two bounds fails, at any of
    all times, with a chance of at most alpha. They are the same test, exactly: `lower >= 0.5` if and only if
    `log_e_better >= log(1 / alpha)`, and `upper <= 0.5` if and only if `log_e_worse >= log(1 / alpha)`.
    """

    log_e_better: float
    log_e_worse: float
    lower: float
    upper: float
    alpha: float

    @property
    def better(self) -> bool:
        return self.lower >= 0.5

    @property
    def worse(self) -> bool:
        return self.upper <= 0.5


def evidence(wins: int, losses: int, alpha: float) -> Evidence:
    """The test on decisive outcomes. ValueError for negative counts and for an alpha outside (0, 1).

    Ties leave it as it is. They say nothing about which side is better, and what is promised stays true without them:
    if, whatever came before, a win is at most as likely as a loss, then a bet that is handed back at a tie is no better
    than fair either.
    """
    return Evidence(
        log_e_better=log_e_value(wins, losses, 0.5),
        log_e_worse=log_e_value(losses, wins, 0.5),
        lower=lower_bound(wins, losses, alpha),
        upper=upper_bound(wins, losses, alpha),
        alpha=alpha,
    )


def log_e_value(hits: int, misses: int, chance: float) -> float:
    """The log of the e-value against "the chance of a hit is at most `chance`" (0 < chance < 1), by betting.

    A gambler bets a fraction f of the wealth on each hit at the odds that are fair if its chance is m = `chance`: a hit
    multiplies the wealth by 1 - f + f / m, a miss by 1 - f. If the chance is p, given all that came before, the wealth
    grows on average by 1 + f (p / m - 1), which is at most 1 for every p <= m: a supermartingale under the whole null
    hypothesis, not at its border alone, and with a p that differs from one outcome to the next. So is the weighted mean
    over STAKES, which starts at 1. By Ville's inequality it ever reaches 1 / alpha with a chance of at most alpha, so
    one may look after every outcome and stop when one likes (Waudby-Smith and Ramdas 2024, "Estimating means of bounded
    random variables by betting", section 4; mixing over alternatives is Robbins 1970, "Statistical methods related to
    the law of the iterated logarithm"). The mixture is a finite sum, so no integral is approximated.

    At m = 1/2 each stake's wealth is the likelihood ratio of the chance (1 + f) / 2 against 1/2.
    """
    if hits < 0 or misses < 0:
        raise ValueError(f"outcomes are counted from 0 up, not {hits} hits and {misses} misses")
    if not 0 < chance < 1:
        raise ValueError(f"a chance to test against lies between 0 and 1, not at {chance}")
    odds = 1 / chance - 1
    logs = [share + hits * math.log1p(stake * odds) + misses * miss for stake, share, miss in _LOGS]
    top = max(logs)
    return top + math.log(math.fsum(math.exp(each - top) for each in logs))


def lower_bound(hits: int, misses: int, alpha: float) -> float:
    """The largest chance of a hit that is refuted at 1 / alpha; 0 if none is. It holds at all times at once.

    Every stake's wealth falls as m grows, so the chances refuted are exactly those up to the bound. Such bounds at
    every time are a confidence sequence (Howard, Ramdas, McAuliffe and Sekhon 2021, "Time-uniform, nonparametric,
    nonasymptotic confidence sequences"). What it gives is itself refuted: it errs to the low side, by less than 1e-7.
    """
    if not 0 < alpha < 1:
        raise ValueError(f"alpha is a chance between 0 and 1, not {alpha}")
    needed = math.log(1 / alpha)
    low, high = 0.0, 1.0
    middle = 0.5
    for _ in range(_HALVINGS if hits else 0):
        if log_e_value(hits, misses, middle) >= needed:
            low = middle
        else:
            high = middle
        middle = (low + high) / 2
    return low


def upper_bound(hits: int, misses: int, alpha: float) -> float:
    """The least chance of a hit that is refuted from above; 1 if none is."""
    return 1 - lower_bound(misses, hits, alpha)
