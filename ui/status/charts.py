"""Curves as inline SVG: no script, the colours of the page, and a sentence for who cannot see them. Pure."""

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

WIDTH, HEIGHT = 400, 150
LEFT, RIGHT, TOP, BOTTOM = 56, 12, 12, 24
Tone = Literal["one", "two"]
Point = tuple[float, float]


@dataclass(frozen=True)
class Line:
    """One line of a chart; `points` are (x, y) with x rising."""

    name: str
    points: Sequence[Point]
    tone: Tone = "one"


def line_chart(title: str, lines: Sequence[Line], *, unit: str = "") -> str:
    """A figure with its title, the lines' last values, and one axis each way. Points must be finite to be drawn."""
    drawn = [Line(line.name, _finite(line.points), line.tone) for line in lines]
    points = [point for line in drawn for point in line.points]
    if not points:
        empty = '<p class="faint">No points yet.</p>'
        return f'<figure class="chart"><figcaption>{html.escape(title)}</figcaption>{empty}</figure>'
    left, right = _range([x for x, _ in points], pad=0.0)
    low, high = _range([y for _, y in points], pad=0.08)
    ticks = [low + (high - low) * share for share in (0.1, 0.5, 0.9)]

    def at(x: float, y: float) -> tuple[float, float]:
        across = LEFT + (x - left) / (right - left) * (WIDTH - LEFT - RIGHT)
        return across, HEIGHT - BOTTOM - (y - low) / (high - low) * (HEIGHT - TOP - BOTTOM)

    grid = "".join(_tick(at(left, tick)[1], tick) for tick in ticks)
    curves = "".join(_curve([at(x, y) for x, y in line.points], line.tone) for line in drawn if line.points)
    steps = (
        f'<text class="tick" x="{LEFT}" y="{HEIGHT - 6}">{left:g}</text>'
        f'<text class="tick" x="{WIDTH - RIGHT}" y="{HEIGHT - 6}" text-anchor="end">step {right:g}</text>'
    )
    told = "; ".join(_told(line) for line in drawn if line.points)
    legend = "".join(_legend(line, unit) for line in drawn if line.points)
    return (
        f'<figure class="chart"><figcaption>{html.escape(title)}<span class="legend">{legend}</span></figcaption>'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{html.escape(f"{title}: {told}")}">'
        f"{grid}{steps}{curves}</svg></figure>"
    )


def _finite(points: Sequence[Point]) -> list[Point]:
    return [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)]


def _range(values: Sequence[float], *, pad: float) -> tuple[float, float]:
    low, high = min(values), max(values)
    if low == high:
        return low - 0.5, high + 0.5
    return low - (high - low) * pad, high + (high - low) * pad


def _tick(y: float, value: float) -> str:
    return (
        f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        f'<text class="tick" x="{LEFT - 6}" y="{y + 3.5:.1f}" text-anchor="end">{number(value)}</text>'
    )


def _curve(points: Sequence[tuple[float, float]], tone: Tone) -> str:
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    x, y = points[-1]
    end = f'<circle class="dot {tone}" cx="{x:.1f}" cy="{y:.1f}" r="2.8"/>'
    return f'<polyline class="curve {tone}" points="{path}"/>{end}'


def _legend(line: Line, unit: str) -> str:
    name = f"{html.escape(line.name)} " if line.name else ""
    return f'<span class="{line.tone}">{name}<b>{number(line.points[-1][1])}{unit}</b></span>'


def _told(line: Line) -> str:
    first, last = line.points[0][1], line.points[-1][1]
    return f"{line.name or 'value'} from {number(first)} to {number(last)} in {len(line.points)} steps"


def number(value: float) -> str:
    """At most three figures, without an exponent where one can do without."""
    if value == 0:
        return "0"
    digits = min(max(0, 2 - math.floor(math.log10(abs(value)))), 6)
    written = f"{value:.{digits}f}"
    return (written.rstrip("0").rstrip(".") if digits else written).replace("-", "−")
