"""Where the page's pictures place their figures; `templates/charts.html.j2` draws them.

Small line charts share their scale; strips show the change of a stratum against its margin.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from harness.report.section import Chart, Interval, Section

WIDTH, HEIGHT = 250, 150
LEFT, RIGHT, _TOP, BOTTOM = 36, 240, 8, 118  # where the axes end
_DASHES = ("", "5 3", "2 2", "7 2 2 2", "1 3", "9 3")
CIRCLE = "m-2.6 0a2.6 2.6 0 1 0 5.2 0a2.6 2.6 0 1 0-5.2 0z"
_SQUARE = "m-2.4-2.4h4.8v4.8h-4.8z"
_MARKS = (_SQUARE, "m0-3.2l3.2 5.6h-6.4z", "m0-3.4l3.4 3.4l-3.4 3.4l-3.4-3.4z", CIRCLE, "m-3-3l6 6m0-6l-6 6", _SQUARE)
_LEVELS_SHOWN = 6
_WIDE_RANGE = 20  # largest to smallest value above which an axis is logarithmic: int8 and int4 in one picture


def mark(at: int, *, base: bool) -> tuple[str, str, str]:
    """Return a line's colour, dashes and the path of its marks: the baseline's if it is the first and `base` holds."""
    if base and at == 0:
        return "var(--ink)", "", CIRCLE
    number = (at - base) % 6
    return f"var(--series-{number})", _DASHES[(number + 1) % 6], _MARKS[number]


def heights(charts: Sequence[Chart]) -> tuple[list[float], Callable[[float], float]]:
    """Return the ticks of the y axis that charts share, and where a value is drawn."""
    lines = [line for chart in charts for line in chart.lines]
    values = [y for line in lines for _, y in line.points if math.isfinite(y)]
    values += [end for line in lines for pair in line.limits for end in pair]
    values += [chart.rule for chart in charts if chart.rule is not None]
    above = [one for one in values if one > 0]
    if log := bool(above) and min(values) >= 0 and max(above) / min(above) > _WIDE_RANGE and max(above) <= 1:
        low, high = math.floor(math.log10(min(above))), math.ceil(math.log10(max(above)))
        ticks = [10.0**power for power in range(low, high + 1)]
    else:
        least, most = min(values, default=0.0), max(values, default=1.0)
        span = (most - least) or 1.0
        power = 10.0 ** math.floor(math.log10(span / 4))
        step = next(power * one for one in (1, 2, 5, 10) if span / (power * one) <= 5)  # noqa: PLR2004 - ticks at most
        ticks = [step * at for at in range(math.floor(least / step), math.ceil(most / step) + 1)]

    def on(value: float) -> float:
        return math.log10(max(value, ticks[0])) if log else value  # what has no place is at the lower end

    first, last = on(ticks[0]), on(ticks[-1])
    return ticks, lambda value: BOTTOM - (on(value) - first) / ((last - first) or 1.0) * (BOTTOM - _TOP)


def widths(chart: Chart) -> tuple[list[str | float], Callable[[str | float], float]]:
    """Return the levels that are named on the x axis, not more than fit, and where a level is drawn."""
    levels = list(dict.fromkeys(x for line in chart.lines for x, _ in line.points))
    numbers = [x for x in levels if isinstance(x, float)] if chart.scatter else []
    low, high = min(numbers, default=0.0), max(numbers, default=1.0)

    def share(level: str | float) -> float:
        if chart.scatter and isinstance(level, float):
            return (level - low) / ((high - low) or 1.0)
        return levels.index(level) / max(len(levels) - 1, 1)

    shown: list[str | float] = [low, high] if chart.scatter else levels
    every = -(-len(shown) // _LEVELS_SHOWN) or 1
    return shown[::every], lambda level: LEFT + 8 + share(level) * (RIGHT - LEFT - 16)


def legend(section: Section, *, base: str) -> list[tuple[str, tuple[str, str, str]]]:
    """Return name and mark of each line that the charts of a section share."""
    order = sorted(dict.fromkeys(line.name for chart in section.charts for line in chart.lines), key=base.__ne__)
    return [(name, mark(at, base=order[0] == base)) for at, name in enumerate(order)]


def strip(interval: Interval, reach: float) -> list[float | None]:
    """Return where a change, its limits and its margin are drawn; `reach` is where the drawing ends."""
    low, high = (interval.delta if one is None else one for one in (interval.low, interval.high))
    ends = interval.delta, low, high, None if interval.margin is None else -interval.margin
    return [None if one is None else 48 * (1 + max(-1.0, min(1.0, one / reach))) for one in ends]
