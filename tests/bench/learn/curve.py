"""The over-optimisation curve as a picture: what the reward model and the taste say of each round's answers, and KL.

A panel for each, with the rounds from left to right; drawn at twice the size and made smaller, for smooth lines.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

WIDTH, PANEL, MARGIN_LEFT, MARGIN_RIGHT, MARGIN_TOP, MARGIN_BOTTOM = 760, 210, 76, 24, 44, 26
_SCALE = 2
_INK, _GREY, _GRID = "#222222", "#777777", "#e2e2e2"
_TICKS = 4


@dataclass(frozen=True)
class Line:
    """One curve: a value for each round, None where there is none."""

    title: str
    values: Sequence[float | None]
    colour: str
    low: float | None = None
    high: float | None = None


def lines_of(rounds: Sequence[Mapping[str, Any]]) -> list[Line]:
    """The panels, from a cell's rounds."""
    return [
        Line("reward by the model (nats)", [each["reward"] for each in rounds], "#1f6fb2"),
        Line("score by the taste", [each["taste"] for each in rounds], "#2e8b57"),
        Line("agreement of the two", [each["agreement"] for each in rounds], "#c2601c", low=0.0, high=1.0),
        Line("KL from the base (nats a token)", [each["kl"] for each in rounds], "#8a4fae", low=0.0),
    ]


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
    canvas.line(points, fill=line.colour, width=2 * _SCALE, joint="curve")
    for x, y in points:
        canvas.ellipse([x - 3 * _SCALE, y - 3 * _SCALE, x + 3 * _SCALE, y + 3 * _SCALE], fill=line.colour)


def _font(size: int) -> Any:
    return ImageFont.load_default(size * _SCALE)
