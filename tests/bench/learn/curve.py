"""The over-optimisation curve as a picture: what the reward model and the taste say of each round's answers, and KL.

A panel for each, with the rounds from left to right; drawn at twice the size and made smaller, for smooth lines. A
round has few pairs to agree on, so that stretches of rounds are taken together too, with their 95 % interval.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from training.judging.statistics import clopper_pearson

WIDTH, PANEL, MARGIN_LEFT, MARGIN_RIGHT, MARGIN_TOP, MARGIN_BOTTOM = 760, 210, 76, 24, 44, 26
_SCALE = 2
_INK, _GREY, _GRID = "#222222", "#777777", "#e2e2e2"
_TICKS = 4
_STRETCHES = 3


@dataclass(frozen=True)
class Stretch:
    """Rounds taken together, by their places: a value with its interval."""

    first: int
    last: int
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Line:
    """One curve: a value for each round, None where there is none; drawn pale where there are stretches."""

    title: str
    values: Sequence[float | None]
    colour: str
    low: float | None = None
    high: float | None = None
    stretches: Sequence[Stretch] = ()


def lines_of(rounds: Sequence[Mapping[str, Any]]) -> list[Line]:
    """The panels, from a cell's rounds."""
    return [
        Line("reward by the model (nats)", [each["reward"] for each in rounds], "#1f6fb2"),
        Line("score by the taste", [each["taste"] for each in rounds], "#2e8b57"),
        Line(
            "agreement of the two within a prompt (0.5: chance)",
            [each["agreement"] for each in rounds],
            "#c2601c",
            low=0.0,
            high=1.0,
            stretches=stretches_of(rounds),
        ),
        Line("KL from the base (nats a token)", [each["kl"] for each in rounds], "#8a4fae", low=0.0),
    ]


def stretches_of(rounds: Sequence[Mapping[str, Any]], count: int = _STRETCHES) -> list[Stretch]:
    """How often reward model and taste agree in each third of the rounds: exact 95 % intervals over all its pairs."""
    size = math.ceil(len(rounds) / count)
    found = []
    for first in range(0, len(rounds), size):
        own = rounds[first : first + size]
        pairs = sum(each["pairs"] for each in own)
        if pairs:
            share = clopper_pearson(
                sum(round(each["pairs"] * (each["agreement"] or 0)) for each in own), pairs, confidence=0.95
            )
            found.append(Stretch(first, first + len(own) - 1, share.value, share.low, share.high))
    return found


def draw(rounds: Sequence[Mapping[str, Any]], title: str, path: Path) -> None:
    """Write the picture as a PNG."""
    lines = lines_of(rounds)
    size = (WIDTH * _SCALE, (PANEL * len(lines) + MARGIN_TOP) * _SCALE)
    image = Image.new("RGB", size, "white")
    canvas = ImageDraw.Draw(image)
    canvas.text((MARGIN_LEFT * _SCALE, 8 * _SCALE), title, fill=_INK, font=_font(17))
    for nth, line in enumerate(lines):
        _panel(canvas, line, [each["round"] for each in rounds], MARGIN_TOP + nth * PANEL)
    path.parent.mkdir(parents=True, exist_ok=True)
    image.resize((size[0] // _SCALE, size[1] // _SCALE), Image.Resampling.LANCZOS).save(path, optimize=True)


def bounds(line: Line) -> tuple[float, float]:
    """The ends of a panel's axis: the line's own, or round numbers around its values."""
    values = [value for value in line.values if value is not None and math.isfinite(value)] or [0.0]
    low = line.low if line.low is not None else min(values)
    high = line.high if line.high is not None else max(values)
    if high <= low:
        high = low + 1
    step = 10 ** math.floor(math.log10(high - low)) / 2
    return (
        low if line.low is not None else math.floor(low / step) * step,
        high if line.high is not None else math.ceil(high / step) * step,
    )


def _panel(canvas: ImageDraw.ImageDraw, line: Line, rounds: Sequence[int], top: int) -> None:
    low, high = bounds(line)
    left, right = MARGIN_LEFT, WIDTH - MARGIN_RIGHT
    upper, lower = top + 26, top + PANEL - MARGIN_BOTTOM
    canvas.text((left * _SCALE, (top + 4) * _SCALE), line.title, fill=line.colour, font=_font(14))

    def at(nth: int, value: float) -> tuple[float, float]:
        share = nth / max(1, len(rounds) - 1)
        return (left + share * (right - left)) * _SCALE, (
            lower - (value - low) / (high - low) * (lower - upper)
        ) * _SCALE

    for tick in range(_TICKS + 1):
        value = low + (high - low) * tick / _TICKS
        y = at(0, value)[1]
        canvas.line([(left * _SCALE, y), (right * _SCALE, y)], fill=_GRID, width=_SCALE)
        canvas.text(((left - 8) * _SCALE, y), f"{value:.4g}", fill=_GREY, font=_font(11), anchor="rm")
    every = max(1, math.ceil(len(rounds) / 12))
    for nth in range(0, len(rounds), every):
        canvas.text((at(nth, low)[0], (lower + 6) * _SCALE), f"{rounds[nth]}", fill=_GREY, font=_font(11), anchor="ma")
    points = [at(nth, value) for nth, value in enumerate(line.values) if value is not None and math.isfinite(value)]
    canvas.text((right * _SCALE, (top + 6) * _SCALE), "by round", fill=_GREY, font=_font(11), anchor="ra")
    colour = _paler(line.colour, 0.6) if line.stretches else line.colour
    for each in line.stretches:
        edges = [at(each.first, each.high), at(each.last, each.low)]
        canvas.rectangle([*edges[0], *edges[1]], fill=_paler(line.colour, 0.85))
    canvas.line(points, fill=colour, width=(1 if line.stretches else 2) * _SCALE, joint="curve")
    for x, y in points:
        canvas.ellipse([x - 3 * _SCALE, y - 3 * _SCALE, x + 3 * _SCALE, y + 3 * _SCALE], fill=colour)
    for each in line.stretches:
        canvas.line([at(each.first, each.value), at(each.last, each.value)], fill=line.colour, width=3 * _SCALE)
        words = f"{each.value:.2f} [{each.low:.2f}, {each.high:.2f}]"
        place = at(each.first, each.low)[0] + 4 * _SCALE, at(each.first, each.low)[1] + 4 * _SCALE
        canvas.text(place, words, fill=line.colour, font=_font(11))


def _paler(colour: str, share: float) -> tuple[int, ...]:
    """The colour with so much white in it."""
    return tuple(round(int(colour[i : i + 2], 16) * (1 - share) + 255 * share) for i in (1, 3, 5))


def _font(size: int) -> Any:
    return ImageFont.load_default(size * _SCALE)
