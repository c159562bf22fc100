"""The page's pictures: small line charts that share their scale, and the change of a stratum against its margin.

Each turns figures that were computed before into SVG whose colours are the page's variables, so that one picture
follows the page from light to dark to print. No picture says by colour alone what it says: lines have their own marks
and dashes. Equal figures give equal bytes. Texts are escaped here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from xml.sax.saxutils import escape

from markupsafe import Markup

from harness.judge.summaries import Verdict
from harness.report.sanitize import clip, one_line
from harness.report.section import Chart, Interval, Line, Section

__all__ = ["draw", "legend", "strip"]

_WIDTH, _HEIGHT = 250, 150
_LEFT, _RIGHT, _TOP, _BOTTOM = 36, 10, 8, 32
_STRIP_WIDTH, _STRIP_HEIGHT = 96, 14
_DASHES = ("", "5 3", "2 2", "7 2 2 2", "1 3", "9 3")
_MARKS = ("square", "triangle", "diamond", "circle", "cross", "square")
_PATHS = {
    "cross": (-3, -3, "l6 6m0-6l-6 6"),
    "square": (-2.4, -2.4, "h4.8v4.8h-4.8z"),
    "triangle": (0, -3.2, "l3.2 5.6h-6.4z"),
    "diamond": (0, -3.4, "l3.4 3.4l-3.4 3.4l-3.4-3.4z"),
}
"""Where the path of a mark begins, and how it goes on."""
_LEVELS_SHOWN = 6
_WIDE_RANGE = 20
"""Largest to smallest value above which an axis is logarithmic: int8 and int4 in one picture."""


def _label(text: str, longest: int) -> str:
    safe = one_line(clip(text, 4 * longest))
    return escape(safe if len(safe) <= longest else f"{safe[: longest - 1]}…")


def _style(at: int, *, base: bool) -> tuple[str, str, str]:
    """Return a line's colour, dashes and mark: the baseline's if it is the first and `base` holds."""
    if base and at == 0:
        return "var(--ink)", "", "circle"
    number = at - base
    return f"var(--series-{number % 6})", _DASHES[(number + 1) % 6], _MARKS[number % 6]


def _mark(kind: str, x: float, y: float, tint: str, *, hollow: bool = False) -> str:
    fill = f'fill="{"var(--bg)" if hollow else tint}" stroke="{tint}" stroke-width="1.5"'
    if kind == "circle":
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.6" {fill}/>'
    left, up, path = _PATHS[kind]
    return f'<path d="M{x + left:.1f} {y + up:.1f}{path}" {fill}/>'


class _Scale:
    """The y axis that the charts of a section share."""

    def __init__(self, charts: Sequence[Chart]) -> None:
        lines = [line for chart in charts for line in chart.lines]
        values = [y for line in lines for _, y in line.points if math.isfinite(y)]
        values += [end for line in lines for pair in line.limits for end in pair]
        values += [chart.rule for chart in charts if chart.rule is not None]
        above = [one for one in values if one > 0]
        self._log = bool(above) and min(values) >= 0 and max(above) / min(above) > _WIDE_RANGE and max(above) <= 1
        if self._log:
            low, high = math.floor(math.log10(min(above))), math.ceil(math.log10(max(above)))
            self.ticks = [10.0**power for power in range(low, high + 1)]
        else:
            least, most = min(values, default=0.0), max(values, default=1.0)
            step = _step((most - least) or 1.0)
            self.ticks = [step * at for at in range(math.floor(least / step), math.ceil(most / step) + 1)]

    def _on(self, value: float) -> float:
        return math.log10(max(value, self.ticks[0])) if self._log else value

    def y(self, value: float) -> float:
        """Return where a value is drawn; what a logarithmic axis has no place for is at its lower end."""
        low, high = self._on(self.ticks[0]), self._on(self.ticks[-1])
        share = (self._on(value) - low) / ((high - low) or 1.0)
        return _HEIGHT - _BOTTOM - share * (_HEIGHT - _TOP - _BOTTOM)


def _step(span: float) -> float:
    """Return a round step that cuts a span into about four."""
    power = 10.0 ** math.floor(math.log10(span / 4))
    return next(power * one for one in (1, 2, 5, 10) if span / (power * one) <= 5)  # noqa: PLR2004 - ticks at most


def draw(section: Section, key: str, *, base: str) -> list[tuple[str, Markup]]:
    """Return title and SVG of each chart of a section. base: the baseline's name. key: unique on the page."""
    scale = _Scale(section.charts)
    return [(one.title, _chart(one, scale, f"{key}-{at}", base)) for at, one in enumerate(section.charts)]


def _chart(chart: Chart, scale: _Scale, key: str, base: str) -> Markup:
    parts = [
        f'<path d="M{_LEFT} {scale.y(tick):.1f}H{_WIDTH - _RIGHT}" stroke="var(--line)"/>'
        f'<text x="{_LEFT - 4}" y="{scale.y(tick) + 3:.1f}" text-anchor="end">{tick:g}</text>'
        for tick in scale.ticks
    ]
    if chart.rule is not None:
        y = f"{scale.y(chart.rule):.1f}"
        parts.append(f'<path d="M{_LEFT} {y}H{_WIDTH - _RIGHT}" stroke="var(--muted)" stroke-dasharray="2 3"/>')
    place = _Places(chart)
    parts += place.labels()
    first = bool(chart.lines) and chart.lines[0].name == base
    for at, line in enumerate(chart.lines):
        parts += _line(line, place, scale, _style(at, base=first), joined=not chart.scatter)
    middle = (_LEFT + _WIDTH) / 2
    parts.append(f'<text x="{middle}" y="{_HEIGHT - 3}" text-anchor="middle">{_label(chart.x, 40)}</text>')
    said = f"{len(chart.lines)} variants by {one_line(clip(chart.x, 80))}. The table holds the same figures."
    return Markup(  # noqa: S704 - texts are escaped
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-labelledby="{key}-t {key}-d"><title id="{key}-t">'
        f'{_label(chart.title, 200)}</title><desc id="{key}-d">{escape(said)}</desc>{"".join(parts)}</svg>'
    )


class _Places:
    """The x axis of one chart: levels at equal distances in order, or numbers if nothing is joined."""

    def __init__(self, chart: Chart) -> None:
        self._levels = list(dict.fromkeys(x for line in chart.lines for x, _ in line.points))
        self._scatter = chart.scatter
        numbers = [x for x in self._levels if isinstance(x, float)] if chart.scatter else []
        self._low, self._high = min(numbers, default=0.0), max(numbers, default=1.0)

    def x(self, level: str | float) -> float:
        """Return where a level is drawn."""
        if self._scatter and isinstance(level, float):
            share = (level - self._low) / ((self._high - self._low) or 1.0)
        else:
            share = self._levels.index(level) / max(len(self._levels) - 1, 1)
        return _LEFT + 8 + share * (_WIDTH - _LEFT - _RIGHT - 16)

    def labels(self) -> list[str]:
        """Return the levels' names, not more than fit."""
        shown = [self._low, self._high] if self._scatter else self._levels
        return [
            f'<text x="{self.x(one):.1f}" y="{_HEIGHT - _BOTTOM + 13}" text-anchor="middle">'
            f"{_label(one if isinstance(one, str) else f'{one:,.0f}' if one >= 100 else f'{one:.3g}', 9)}</text>"  # noqa: PLR2004
            for one in shown[:: -(-len(shown) // _LEVELS_SHOWN)]
        ]


def _line(line: Line, place: _Places, scale: _Scale, style: tuple[str, str, str], *, joined: bool) -> list[str]:
    tint, dashes, mark = style
    points = [(place.x(x), scale.y(y)) for x, y in line.points if math.isfinite(y)]
    marks = [_mark(mark, x, y, tint, hollow=line.hollow) for x, y in points]
    marks += [
        f'<path d="M{place.x(x):.1f} {scale.y(low):.1f}V{scale.y(high):.1f}" stroke="{tint}" opacity=".5"/>'
        for (x, _), (low, high) in zip(line.points, line.limits, strict=False)
    ]
    if not joined or len(points) < 2:  # noqa: PLR2004 - a line has two ends
        return marks
    path = "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    return [f'<path d="M{path}" fill="none" stroke="{tint}" stroke-width="1.6" stroke-dasharray="{dashes}"/>', *marks]


def legend(section: Section, *, base: str) -> list[tuple[str, Markup]]:
    """Return name and sample of each line that the charts of a section share."""
    order = sorted(dict.fromkeys(line.name for chart in section.charts for line in chart.lines), key=base.__ne__)
    made = []
    for at, name in enumerate(order):
        tint, dashes, mark = _style(at, base=order[0] == base)
        path = f'<path d="M0 6H28" stroke="{tint}" stroke-width="1.6" stroke-dasharray="{dashes}"/>'
        sample = f'<svg class="sample" viewBox="0 0 28 12" aria-hidden="true">{path}{_mark(mark, 14, 6, tint)}</svg>'
        made.append((name, Markup(sample)))  # noqa: S704 - no text from outside
    return made


def strip(interval: Interval, reach: float, verdict: Verdict | None) -> Markup:
    """Return a change with its limits against the line of its margin; `reach` is where the drawing ends."""

    def x(value: float) -> float:
        return _STRIP_WIDTH / 2 * (1 + max(-1.0, min(1.0, value / reach)))

    low, high = (x(interval.delta if one is None else one) for one in (interval.low, interval.high))
    tint, margin = f"var(--{verdict or 'series-0'})", ""
    if interval.margin is not None:
        margin = f'<path d="M{x(-interval.margin):.1f} 0V{_STRIP_HEIGHT}" stroke="var(--fail)" stroke-dasharray="2 2"/>'
    return Markup(  # noqa: S704 - figures alone
        f'<svg class="strip" viewBox="0 0 {_STRIP_WIDTH} {_STRIP_HEIGHT}" aria-hidden="true">'
        f'<path d="M{_STRIP_WIDTH / 2} 0V{_STRIP_HEIGHT}" stroke="var(--muted)"/>{margin}'
        f'<path d="M{low:.1f} 7H{high:.1f}" stroke="{tint}" stroke-width="2"/>'
        f"{_mark('circle', x(interval.delta), 7, tint)}</svg>"
    )
