"""Line charts as SVG, whose colours are the page's: they follow its light or dark scheme."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 460, 300
LEFT, RIGHT, BOTTOM = 78, 452, 252  # of the plot; its top is below the legend
LEGEND = 20  # a line of it


@dataclass(frozen=True)
class Line:
    """One curve.

    Parameters
    ----------
    style : {"first", "second", "grey"}
        A class in page.html.
    x, y : sequence of float
    name : str
        For the legend; without it there is none.
    spread : sequence of float, optional
        Half the width of a band around it.
    marked : bool
        Whether each value has a mark, which tells the value to a mouse.
    """

    style: str
    x: Sequence[float]
    y: Sequence[float]
    name: str = ""
    spread: Sequence[float] | None = None
    marked: bool = False


def chart(lines: Sequence[Line], y_label: str, *, description: str, log: bool = False, at: float | None = None) -> str:
    """An ``<svg>`` of the lines over epochs.

    Parameters
    ----------
    lines : sequence of Line
        With finite values, at least one; above 0 if `log`.
    y_label : str
    description : str
        What is to be seen, for those who do not see it.
    log : bool
        Whether the y axis is logarithmic.
    at : float, optional
        A dotted line at this value.
    """
    epochs = [x for line in lines for x in line.x]
    values = [
        y + side * s
        for line in lines
        for y, s in zip(line.y, line.spread or [0.0] * len(line.y), strict=True)
        for side in (-1, 1)
    ]
    values += [] if at is None else [at]
    y_ticks = powers(min(values), max(values)) if log else steps(min(values), max(values))
    x_low, x_high = (min(epochs) - 0.5, max(epochs) + 0.5) if len(set(epochs)) == 1 else (min(epochs), max(epochs))
    x_ticks = [tick for tick in steps(x_low, x_high, whole=x_high - x_low >= 1) if x_low <= tick <= x_high]
    named = [line for line in lines if line.name]
    top = 12 + LEGEND * len(named)

    def across(epoch: float) -> float:
        return LEFT + 8 + (RIGHT - LEFT - 16) * (epoch - x_low) / (x_high - x_low)

    def up(value: float) -> float:
        low, high, value = (math.log(v) if log else v for v in (y_ticks[0], y_ticks[-1], value))
        return BOTTOM - (BOTTOM - top) * (value - low) / (high - low)

    def path(points: Sequence[tuple[float, float]]) -> str:
        return "M" + "L".join(f"{across(x):.1f} {up(y):.1f}" for x, y in points)

    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(description)}">']
    for tick in y_ticks:
        parts.append(f'<path class="rule" d="M{LEFT} {up(tick):.1f}H{RIGHT}"/>')
        parts.append(f'<text class="end" x="{LEFT - 8}" y="{up(tick) + 5:.1f}">{_number(tick)}</text>')
    for tick in x_ticks:
        parts.append(f'<path class="tick" d="M{across(tick):.1f} {BOTTOM}v5"/>')
        parts.append(f'<text class="middle" x="{across(tick):.1f}" y="{BOTTOM + 21}">{_number(tick)}</text>')
    parts.append(f'<text class="middle" x="{(LEFT + RIGHT) / 2}" y="{HEIGHT - 6}">epoch</text>')
    middle = (top + BOTTOM) / 2
    parts.append(f'<text class="middle" transform="translate(14 {middle}) rotate(-90)">{escape(y_label)}</text>')
    if at is not None:
        parts.append(f'<path class="at" d="M{LEFT} {up(at):.1f}H{RIGHT}"/>')
    for line in lines:
        points = list(zip(line.x, line.y, strict=True))
        if line.spread is not None:
            around = list(zip(points, line.spread, strict=True))
            outline = [(x, y + s) for (x, y), s in around] + [(x, y - s) for (x, y), s in reversed(around)]
            parts.append(f'<path class="band {line.style}" d="{path(outline)}Z"/>')
        parts.append(f'<path class="line {line.style}" d="{path(points)}"/>')
        if line.marked:
            parts += [
                f'<circle class="mark {line.style}" cx="{across(x):.1f}" cy="{up(y):.1f}" r="3.5">'
                f"<title>epoch {x:g}: {y:.4g}</title></circle>"
                for x, y in points
            ]
    for place, line in enumerate(named):
        y = 14 + LEGEND * place
        parts.append(f'<path class="line {line.style}" d="M{LEFT + 8} {y - 5}h28"/>')
        parts.append(f'<text x="{LEFT + 46}" y="{y}">{escape(line.name)}</text>')
    return "\n".join([*parts, "</svg>"])


def steps(low: float, high: float, whole: bool = False) -> list[float]:
    """Round numbers at equal distances, five or so, from `low` or a little below to `high` or a little above."""
    if low == high:
        low, high = low - 0.5, high + 0.5
    power = 10.0 ** math.floor(math.log10((high - low) / 6))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor * 6 >= high - low)
    step = max(step, 1.0) if whole else step
    return [step * k for k in range(math.floor(low / step), math.ceil(high / step) + 1)]


def powers(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten, or these alone if there are many, around `low` to `high`, which are above 0."""
    exponents = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 2)
    for factors in ((1, 2, 5), (1,)):
        ticks = [float(f"{factor}e{exponent}") for exponent in exponents for factor in factors]
        first = max(tick for tick in ticks if tick <= low)
        last = min(tick for tick in ticks if tick >= high and tick > first)
        ticks = [tick for tick in ticks if first <= tick <= last]
        if len(ticks) <= 9:
            break
    return ticks


def _number(value: float) -> str:
    return f"{round(value, 10) + 0.0:g}".replace("-", "\N{MINUS SIGN}")
