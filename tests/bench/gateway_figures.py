"""From the rounds of `make bench-gateway` to its figures: paired differences, medians, bootstrap intervals. Pure."""

import random
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

Round = dict[str, dict[str, float]]
"""Side → what was measured of it: `first_s`, `stream_s`, `whole_s`, and in some rounds `events_per_cpu_s`."""

KINDS = ("first_s", "stream_s", "whole_s")
_RESAMPLES = 2000


def median(values: Iterable[float]) -> float:
    return statistics.median(values)


def added_s(rounds: Sequence[Round], side: str, kind: str) -> float:
    """What a side adds to the bare engine's time of the same round, the median over the rounds."""
    return median(each[side][kind] - each["direct"][kind] for each in rounds)


def added_ratio(rounds: Sequence[Round], to: str, kind: str) -> float:
    return added_s(rounds, "ours", kind) / added_s(rounds, to, kind)


def interval(rounds: Sequence[Any], figure: Callable[[Sequence[Any]], float]) -> tuple[float, float]:
    """A 95 % bootstrap interval: rounds drawn again with replacement, always the same for the same rounds."""
    draw = random.Random(7)
    drawn = sorted(figure(draw.choices(rounds, k=len(rounds))) for _ in range(_RESAMPLES))
    return drawn[round(0.025 * _RESAMPLES)], drawn[round(0.975 * _RESAMPLES) - 1]


def result(rounds: Sequence[Round], speeds: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """The JSON line's figures. The key of each comparison is the worst of the three kinds of time."""
    found: dict[str, Any] = {}
    for key, to in (("added_vs_litellm", "litellm"), ("added_vs_floor", "floor")):
        ratios = {
            kind: _with_interval(rounds, lambda some, to=to, kind=kind: added_ratio(some, to, kind)) for kind in KINDS
        }
        found[key] = max(value for value, _, _ in ratios.values())
        found[f"{key}_each"] = ratios
    streamed = [each for each in rounds if "events_per_cpu_s" in each["ours"]]
    if streamed:
        found["events_vs_litellm"], *found["events_vs_litellm_interval"] = _with_interval(streamed, events_ratio)
    if speeds:
        found["throughput_vs_direct"], *found["throughput_vs_direct_interval"] = _with_interval(speeds, speed_ratio)
        found["tokens_per_s"] = {side: round(median(each[side] for each in speeds), 1) for side in speeds[0]}
    found["added_ms"] = {
        side: {kind: round(added_s(rounds, side, kind) * 1000, 3) for kind in KINDS}
        for side in rounds[0]
        if side != "direct"
    }
    found["median_ms"] = {
        side: {kind: round(median(each[side][kind] for each in rounds) * 1000, 3) for kind in KINDS}
        for side in rounds[0]
    }
    if streamed:
        events = {side: [each[side]["events_per_cpu_s"] for each in streamed] for side in ("ours", "litellm", "floor")}
        found["events_per_cpu_s"] = {side: round(median(values)) for side, values in events.items()}
    return found


def events_ratio(rounds: Sequence[Round]) -> float:
    return median(each["ours"]["events_per_cpu_s"] / each["litellm"]["events_per_cpu_s"] for each in rounds)


def speed_ratio(speeds: Sequence[Mapping[str, float]]) -> float:
    return median(each["ours"] / each["direct"] for each in speeds)


def _with_interval(rounds: Sequence[Any], figure: Callable[[Sequence[Any]], float]) -> tuple[float, float, float]:
    low, high = interval(rounds, figure)
    return round(figure(rounds), 3), round(low, 3), round(high, 3)


def line(measured: Round) -> str:
    return ", ".join(f"{side} {_ms(times)}" for side, times in sorted(measured.items()))


def table(rounds: Sequence[Round]) -> str:
    """Milliseconds, one line per side and round."""
    head = f"{'round':>5}  {'side':<8} {'first':>8} {'stream':>8} {'whole':>8} {'events/CPU s':>12}"
    lines = [
        f"{number:>5}  {side:<8} "
        + " ".join(f"{times[kind] * 1000:>8.3f}" for kind in KINDS)
        + f" {times.get('events_per_cpu_s', 0):>12.0f}"
        for number, each in enumerate(rounds, start=1)
        for side, times in sorted(each.items())
    ]
    return "\n".join([head, *lines])


def _ms(times: Mapping[str, float]) -> str:
    return "/".join(f"{times[kind] * 1000:.2f}" for kind in KINDS) + " ms"
