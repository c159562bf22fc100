"""Where the page's pictures place their figures; `templates/charts.html.j2` draws them."""

import math
from collections.abc import Callable, Sequence
from itertools import zip_longest
from typing import Any

from harness.report.section import Chart, Interval, Section

WIDTH, HEIGHT = 250, 150
ACROSS, ROW = 360, 10  # width of a picture whose levels are one below the other, and the height of a dot in it
LEFT, RIGHT, _TOP, BOTTOM = 36, 240, 8, 118  # where the axes end
_DASHES = ("", "5 3", "2 2", "7 2 2 2", "1 3", "9 3")
CIRCLE, _SQUARE = "m-2.6 0a2.6 2.6 0 1 0 5.2 0a2.6 2.6 0 1 0-5.2 0z", "m-2.4-2.4h4.8v4.8h-4.8z"
_MARKS = (_SQUARE, "m0-3.2l3.2 5.6h-6.4z", "m0-3.4l3.4 3.4l-3.4 3.4l-3.4-3.4z", CIRCLE, "m-3-3l6 6m0-6l-6 6", _SQUARE)
_LEVELS_SHOWN = 6
_WIDE_RANGE = 20  # largest to smallest value above which an axis is logarithmic: int8 and int4 in one picture


def mark(at: int, *, base: bool) -> tuple[str, str, str]:
    """Return a line's colour, dashes and the path of its marks: the baseline's if it is the first and `base` holds."""
    if base and at == 0:
        return "var(--ink)", "", CIRCLE
    number = (at - base) % 6
    return f"var(--series-{number})", _DASHES[(number + 1) % 6], _MARKS[number]


def _scale(charts: Sequence[Chart]) -> tuple[list[float], Callable[[float], float]]:
    """Return the ticks of the axis that the charts' values share, and where on it, in [0, 1], a value is drawn."""
    lines = [line for chart in charts for line in chart.lines]
    values = [y for line in lines for _, y in line.points if math.isfinite(y)]
    values += [end for line in lines for pair in line.limits for end in pair]
    values += [chart.rule for chart in charts if chart.rule is not None]
    values += [one for chart in charts for one in chart.tolerated.values()]
    values += [0.0 for chart in charts if chart.across and chart.rule is None]  # shares begin at none
    above, ratios = [one for one in values if one > 0], any(chart.across and chart.rule for chart in charts)
    wide = bool(above) and min(values) >= 0 and max(above) / min(above) > _WIDE_RANGE
    if log := wide and (ratios or max(above) <= 1):
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
    return ticks, lambda value: (on(value) - first) / ((last - first) or 1.0)


def heights(charts: Sequence[Chart]) -> tuple[list[float], Callable[[float], float]]:
    """Return the ticks of the y axis that charts share, and where a value is drawn."""
    ticks, share = _scale(charts)
    return ticks, lambda value: BOTTOM - share(value) * (BOTTOM - _TOP)


def rows(chart: Chart, *, with_base: bool) -> tuple[list[float], Callable[[float], float], list[dict[str, Any]]]:
    """Return of a chart `across` its ticks, where a value is drawn, and each level with its dots from top to bottom."""
    ticks, share = _scale([chart])
    found: dict[str | float, list[dict[str, Any]]] = {x: [] for line in chart.lines for x, _ in line.points}
    for number, line in enumerate(chart.lines):
        for (level, value), limits in zip_longest(line.points, line.limits):
            dot = {"at": value, "limits": limits or (), "y": 20 + ROW * number, "mark": mark(number, base=with_base)}
            found[level].append(dot)
    levels = [{"name": x, "dots": dots, "tolerated": chart.tolerated.get(x)} for x, dots in found.items()]
    return ticks, lambda value: 13 + share(value) * (ACROSS - 26), levels


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
    return shown[:: -(-len(shown) // _LEVELS_SHOWN) or 1], lambda level: LEFT + 8 + share(level) * (RIGHT - LEFT - 16)


def legend(section: Section, *, base: str) -> list[tuple[str, tuple[str, str, str]]]:
    """Return name and mark of each line that the charts of a section share."""
    order = sorted(dict.fromkeys(line.name for chart in section.charts for line in chart.lines), key=base.__ne__)
    return [(name, mark(at, base=order[0] == base)) for at, name in enumerate(order)]


def strip(interval: Interval, reach: float) -> list[float | None]:
    """Return where a change, its limits and its margin are drawn; `reach` is where the drawing ends."""
    low, high = (interval.delta if one is None else one for one in (interval.low, interval.high))
    ends = interval.delta, low, high, None if interval.margin is None else -interval.margin
    return [None if one is None else 48 * (1 + max(-1.0, min(1.0, one / reach))) for one in ends]
