"""What a version's requests came to, and whether one version's are worse than another's beyond chance. Pure.

Counting belongs to whoever answers the requests; what follows from a difference, to `feedback.canary`.
"""

import math
from bisect import bisect_left
from dataclasses import asdict, dataclass
from itertools import accumulate
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt

from feedback.sequential import log_e_value, lower_bound, upper_bound

BUCKETS_PER_DECADE = 20
LAST_BUCKET = 6 * BUCKETS_PER_DECADE
"""Bucket b holds first tokens that took up to 10^(b / 20) ms, 12 % more than the one before; the last, all others."""


class Traffic(BaseModel):
    """Requests that a version answered, and how many of them failed, came out empty or refused.

    `first_tokens` counts times to the first token by `latency_bucket`. Two versions can be compared where both were
    counted over the same time and their users were drawn by chance.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    requests: NonNegativeInt = 0
    errors: NonNegativeInt = 0
    empty: NonNegativeInt = 0
    refusals: NonNegativeInt = 0
    first_tokens: dict[int, NonNegativeInt] = Field(default_factory=dict)


def latency_bucket(first_token_s: float) -> int:
    """The bucket of a time to the first token."""
    if first_token_s <= 0.001:
        return 0
    return min(LAST_BUCKET, math.ceil(BUCKETS_PER_DECADE * math.log10(first_token_s * 1000)))


def bucket_edge_s(bucket: int) -> float:
    """The longest time that a bucket holds; infinite for the last."""
    return math.inf if bucket >= LAST_BUCKET else 0.001 * 10 ** (bucket / BUCKETS_PER_DECADE)


@dataclass(frozen=True)
class Interval:
    """A figure with bounds that hold at all times at once; `value` is None before there is anything to take it from."""

    value: float | None
    lower: float
    upper: float

    def row(self) -> dict[str, float | None]:
        """As it goes into JSON, which has no infinity: None stands for it."""
        figures = asdict(self).items()
        return {name: None if each is None or math.isinf(each) else round(each, 6) for name, each in figures}


@dataclass(frozen=True)
class Comparison:
    """One figure of canary and live, the limit for the canary's, and whether it is beyond that and beyond chance."""

    canary: Interval
    live: Interval
    limit: float
    fires: bool

    def row(self) -> dict[str, Any]:
        limit = None if math.isinf(self.limit) else round(self.limit, 6)
        return {"canary": self.canary.row(), "live": self.live.row(), "limit": limit, "fires": self.fires}


def compare_rates(canary: Interval, live: Interval, allowed: float) -> Comparison:
    """Fires where the canary's rate is above live's by more than `allowed`: its lower bound above live's upper one."""
    limit = live.upper + allowed
    return Comparison(canary, live, limit, canary.lower > limit)


def compare_medians(canary: Interval, live: Interval, ratio: float) -> Comparison:
    """Fires where the canary's median is more than `ratio` times live's, by the nearer bound of each."""
    limit = live.upper * ratio
    return Comparison(canary, live, limit, canary.lower > limit)


def rate(count: int, requests: int, alpha: float) -> Interval:
    """The share of requests that were counted. Each bound fails with a chance of at most `alpha`, at any of all times.

    A count may be ahead of `requests` for a moment, when both are being counted while they are read.
    """
    others = max(0, requests - count)
    if count + others == 0:
        return Interval(None, 0.0, 1.0)
    share = count / (count + others)
    return Interval(share, lower_bound(count, others, alpha), upper_bound(count, others, alpha))


def median_first_token_s(traffic: Traffic, alpha: float) -> Interval:
    """The median time to the first token, to the edge of a bucket above. Each bound fails as in `rate`.

    The upper bound is the least edge that at least half of all first tokens keep to, as shown by the sequential test
    on "up to this edge or later"; the lower one is the largest edge that at least half are later than. One `alpha` is
    enough for all the edges: only those below the true median can make the upper bound fail, and where one of them
    does, the largest of them does too, since it has the most tokens up to it.
    """
    counts, needed = traffic.first_tokens, math.log(1 / alpha)
    total, edges = sum(counts.values()), range(LAST_BUCKET)
    if not total:
        return Interval(None, 0.0, math.inf)
    up_to = list(accumulate(counts.get(bucket, 0) for bucket in edges))
    value = bisect_left(edges, True, key=lambda b: 2 * up_to[b] >= total)
    above = bisect_left(edges, True, key=lambda b: log_e_value(up_to[b], total - up_to[b], 0.5) >= needed)
    below = bisect_left(edges, True, key=lambda b: log_e_value(total - up_to[b], up_to[b], 0.5) < needed) - 1
    return Interval(bucket_edge_s(value), bucket_edge_s(below) if below >= 0 else 0.0, bucket_edge_s(above))
