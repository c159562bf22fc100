"""The pictures of the page: forest plots, heat maps, cliff curves, averages, cost against quality, divergence.

Each function turns figures that the gate computed into one SVG and computes none itself. No picture says by colour
alone what it says: verdicts have their own markers, lines their own dashes, cells their numbers. Everything shown
here also stands in a table on the page.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import NullFormatter, StrMethodFormatter

from harness.judge.verdicts import CandidateVerdict, Cliff, StratumVerdict, Verdict
from harness.report import words
from harness.report.svg import chart, colour, label, svg

__all__ = ["MOST_ROWS", "averages", "cliff", "divergence", "forest", "frontier", "heat"]

MOST_ROWS = 120
"""Rows that a forest plot shows at most."""

_MARKERS: Mapping[Verdict, str] = {
    "pass": "o",
    "fail": "X",
    "inconclusive": "s",
    "no_signal": "D",
    "not_judged": "P",
}
_SERIES_MARKERS = ("o", "s", "^", "D", "v", "P")
_DASHES = ("-", "--", "-.", ":", (0, (6, 1, 1, 1)), (0, (1, 2)))
_WIDTH = 7.6
_CURVES_WIDTH = 4.4
"""Inches; with the shrinking that `harness.report.svg` allows, such a picture fits a phone."""


def forest(candidate: CandidateVerdict, strata: Sequence[StratumVerdict], key: str, *, narrow: bool = False) -> str:
    """Draw delta with its limits per stratum against the line of its margin. strata: at most `MOST_ROWS`.

    narrow: for a phone, each stratum's name above its line.
    """
    rows = [one for one in strata if one.delta is not None]
    with _rows_chart([_row_label(one) for one in rows], 0.19, narrow=narrow) as (figure, axes):
        axes.axvline(0.0, color=colour("muted"), linewidth=0.8)
        _forest_marks(axes, rows, reach=(0.2, 0.3) if narrow else (0.5, 0.5))
        _verdict_legend(axes, rows, columns=3 if narrow else 6)
        axes.set_xlabel("change in points; the dashed line is the margin")
        return svg(
            figure,
            key=key,
            title=f"Change of {candidate.name} in each stratum",
            description=f"A forest plot of {len(rows)} strata: the change with its limits against the margin. "
            f"{sum(one.verdict == 'fail' for one in rows)} lie below the margin. The matrix holds the same figures.",
        )


@contextmanager
def _rows_chart(names: Sequence[str], height: float, *, narrow: bool) -> Iterator[tuple[Figure, Axes]]:
    """Give a chart with a row of `height` inches per name, the first on top, and a grid of changes."""
    count = max(len(names), 3)
    width, each = (_CURVES_WIDTH, 2 * height) if narrow else (_WIDTH, height)
    with chart(width, (1.2 if narrow else 0.9) + each * count) as (figure, axes):
        axes.set_ylim(len(names) - 0.5, -0.8 if narrow else -0.5)
        if narrow:
            axes.set_yticks([])
            axes.spines["left"].set_visible(False)
            place = axes.get_yaxis_transform()
            for y, name in enumerate(names):
                axes.text(0.0, y - 0.45, label(name, 60), transform=place, fontsize=9.5, va="center", zorder=4)
        else:
            axes.set_yticks(range(len(names)), [label(name, 40) for name in names])
        axes.grid(visible=True, axis="x")
        yield figure, axes


def _row_label(one: StratumVerdict) -> str:
    name = words.short_name(one.stratum)
    return one.slice if name == "all" else f"{one.slice}: {name}"


def _forest_marks(axes: Axes, rows: Sequence[StratumVerdict], reach: tuple[float, float]) -> None:
    """Draw margins, limits and marks, verdict by verdict: few large artists, where one per row would be slow.

    reach: how far up and down a margin's line goes, in rows; names may stand between.
    """
    places = np.arange(len(rows))
    margins = np.array([-100 * one.margin for one in rows])
    axes.vlines(
        margins,
        places - reach[0],
        places + reach[1],
        colors=colour("fail"),
        linewidth=1.0,
        linestyles=(0, (3, 2)),
        zorder=1,
    )
    for verdict, marker in _MARKERS.items():
        tint = colour(verdict)
        own = [(y, one) for y, one in enumerate(rows) if one.verdict == verdict]
        limited = [(y, 100 * one.low, 100 * one.high) for y, one in own if one.low is not None and one.high is not None]
        if limited:
            at, low, high = zip(*limited, strict=True)
            axes.hlines(at, low, high, colors=tint, linewidth=1.6, zorder=2)
        for gating, face in ((True, tint), (False, colour("panel"))):
            marks = [(100 * one.delta, y) for y, one in own if one.gating is gating and one.delta is not None]
            if marks:
                x, y = zip(*marks, strict=True)
                axes.plot(x, y, linestyle="", marker=marker, color=tint, markerfacecolor=face, markersize=5, zorder=3)


def _verdict_legend(axes: Axes, rows: Sequence[StratumVerdict], columns: int) -> None:
    seen = [verdict for verdict in _MARKERS if any(one.verdict == verdict for one in rows)]
    for verdict in seen:
        axes.plot(
            [],
            [],
            marker=_MARKERS[verdict],
            color=colour(verdict),
            label=words.word(verdict),
            linewidth=1.6,
            markersize=5,
        )
    if any(not one.gating for one in rows):
        axes.plot([], [], marker="o", color=colour("muted"), markerfacecolor=colour("panel"), label="hollow: advisory")
    if seen:
        axes.legend(
            loc="lower center",
            bbox_to_anchor=(0.4, 1.0),
            ncols=min(len(seen) + 1, columns),
            handlelength=1.2,
            columnspacing=1.0,
        )


_HEAT_STEPS = ((-0.2, "heat-n4"), (-0.1, "heat-n3"), (-0.05, "heat-n2"), (-0.02, "heat-n1"))


def _heat_colour(delta: float) -> str:
    """Give the tint of a delta: four steps of loss, none within two points, two of gain."""
    for line, name in _HEAT_STEPS:
        if delta <= line:
            return name
    if delta < 0.02:  # noqa: PLR2004 - two points, the mirror of the first step of loss
        return "heat-0"
    return "heat-p1" if delta < 0.1 else "heat-p2"  # noqa: PLR2004 - ten points


def heat(
    cells: Mapping[tuple[str, str], tuple[float | None, Verdict | None]],
    axes_names: tuple[str, str],
    *,
    key: str,
    title: str,
) -> str:
    """Draw delta over two axes. cells: (column level, row level) to delta and verdict, in the order to draw."""
    columns = list(dict.fromkeys(column for column, _ in cells))
    rows = list(dict.fromkeys(row for _, row in cells))
    with chart(min(_WIDTH, 1.9 + 0.65 * len(columns)), 0.9 + 0.36 * len(rows)) as (figure, axes):
        for (column, row), (delta, verdict) in cells.items():
            _heat_cell(axes, columns.index(column), rows.index(row), delta, verdict)
        axes.set_xlim(-0.5, len(columns) - 0.5)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_xticks(range(len(columns)), [label(column, 14) for column in columns])
        axes.set_yticks(range(len(rows)), [label(row, 24) for row in rows])
        axes.set_xlabel(label(axes_names[0]))
        axes.set_ylabel(label(axes_names[1]))
        axes.tick_params(length=0)
        for side in ("left", "bottom"):
            axes.spines[side].set_visible(False)
        return svg(
            figure,
            key=key,
            title=title,
            description=f"A heat map of the change in points over {axes_names[0]} and {axes_names[1]}; "
            "each cell holds its number. The table below it holds the same figures.",
        )


def _heat_cell(axes: Axes, x: int, y: int, delta: float | None, verdict: Verdict | None) -> None:
    tint = "panel" if delta is None else _heat_colour(delta)
    ink = "heat-ink-strong" if tint in {"heat-n4", "heat-n3", "heat-p2"} else "heat-ink"
    axes.add_patch(
        Rectangle((x - 0.47, y - 0.45), 0.94, 0.9, facecolor=colour(tint), edgecolor=colour("line"), linewidth=0.6)
    )
    sign = "" if verdict is None else f" {words.SYMBOLS[verdict]}"
    text = "no data" if delta is None else f"{words.points(delta)}{sign}"
    shade = colour("muted" if delta is None else ink)
    axes.text(x, y, text, ha="center", va="center", fontsize=8, color=shade)


def cliff(curves: Sequence[tuple[str, Cliff]], baseline: str, *, key: str, title: str) -> str:
    """Draw the mean score along an ordered axis. curves: candidate's name and its cliff, all of one axis and group."""
    first = curves[0][1]
    with chart(_CURVES_WIDTH, 3.3) as (figure, axes):
        _cliff_scale(axes, first.levels)
        axes.plot(
            first.levels,
            [100 * one for one in first.baseline],
            color=colour("ink"),
            marker="o",
            label=label(baseline, 24),
        )
        for index, (name, one) in enumerate(curves):
            tint = colour(f"series-{index % 6}")
            marker, dash = _SERIES_MARKERS[(index + 1) % 6], _DASHES[(index + 1) % 6]
            scores = [100 * value for value in one.candidate]
            axes.plot(one.levels, scores, color=tint, marker=marker, linestyle=dash, label=label(name, 24))
            if one.at is not None and one.at in one.levels:
                at = scores[one.levels.index(one.at)]
                inward = one.at == min(one.levels)  # left of the first level stand the axis' own figures
                axes.annotate(
                    f"cliff at {one.at:g}",
                    (one.at, at),
                    (6 if inward else -6, -12),
                    textcoords="offset points",
                    fontsize=8,
                    color=tint,
                    ha="left" if inward else "right",
                )
        axes.axhline(100 * first.score, color=colour("muted"), linewidth=0.8, linestyle=(0, (2, 3)))
        axes.set_xlabel(label(first.axis))
        axes.set_ylabel(f"score, dotted: {words.score(first.score)}")
        axes.grid(visible=True, axis="y")
        axes.legend(loc="best")
        return svg(
            figure,
            key=key,
            title=title,
            description=f"Curves of the mean score along {first.axis} for {baseline} and {len(curves)} candidates. "
            "The table below it holds the same figures.",
        )


def _cliff_scale(axes: Axes, levels: Sequence[float]) -> None:
    """Scale the axis by powers of two where the levels span more than a factor of eight."""
    ordered = sorted(levels)
    if ordered[0] > 0 and ordered[-1] / ordered[0] > 8:  # noqa: PLR2004 - contexts double, hops do not
        axes.set_xscale("log", base=2)
    axes.set_xticks(ordered, [f"{one:g}" for one in ordered])
    axes.minorticks_off()


def averages(candidates: Sequence[CandidateVerdict], *, key: str, narrow: bool = False) -> str:
    """Draw each slice's average change beside its worst stratum, so that a mean that hides a tail is seen.

    narrow: for a phone, each row's name above its line.
    """
    rows = [(candidate.name, one) for candidate in candidates for one in candidate.averages]
    shown = [(name, one) for name, one in rows if one.delta is not None and one.worst_delta is not None]
    with _rows_chart([f"{name}: {one.slice}" for name, one in shown], 0.21, narrow=narrow) as (figure, axes):
        axes.axvline(0.0, color=colour("muted"), linewidth=0.8)
        for y, (_, one) in enumerate(shown):
            ends = [100 * (one.worst_delta or 0.0), 100 * (one.delta or 0.0)]
            axes.plot(ends, [y, y], color=colour("line"), linewidth=2.4, zorder=1)
            axes.plot(
                ends[:1], [y], marker="X", color=colour("fail"), linestyle="", label="worst stratum" if not y else None
            )
            axes.plot(
                ends[1:], [y], marker="o", color=colour("series-0"), linestyle="", label="average" if not y else None
            )
        axes.set_xlabel("change in points")
        if shown:
            axes.legend(loc="lower center", bbox_to_anchor=(0.4, 1.0), ncols=2)
        return svg(
            figure,
            key=key,
            title="The average and the worst stratum",
            description=f"{len(shown)} averages, each joined by a line to its worst stratum. "
            "The table below it holds the same figures.",
        )


def frontier(points: Sequence[tuple[str, float, float, bool]], *, key: str, axis: str, title: str) -> str:
    """Draw quality against cost. points: name, cost, change as a proportion, and whether on the frontier."""
    with chart(_WIDTH / 2, 3.0) as (figure, axes):
        for index, (name, cost, change, best) in enumerate(points):
            tint = colour("ink" if index == 0 else f"series-{(index - 1) % 6}")
            face = tint if best else colour("panel")
            axes.plot([cost], [100 * change], marker=_SERIES_MARKERS[index % 6], color=tint, markerfacecolor=face)
            axes.annotate(label(name, 20), (cost, 100 * change), (5, 5), textcoords="offset points", fontsize=8)
        edge = sorted((cost, 100 * change) for _, cost, change, best in points if best)
        axes.plot(
            [x for x, _ in edge], [y for _, y in edge], color=colour("muted"), linewidth=0.9, linestyle=(0, (4, 2))
        )
        axes.set_xlabel(axis)
        axes.set_ylabel("average change in points")
        axes.grid(visible=True)
        axes.margins(0.18)
        return svg(
            figure,
            key=key,
            title=title,
            description=f"{len(points)} variants by cost and average change; filled markers lie on the frontier: "
            "no other variant is both cheaper and better. The table holds the same figures.",
        )


def divergence(series: Mapping[str, Sequence[tuple[str, float]]], *, key: str, title: str) -> str:
    """Draw mean KL by position. series: candidate to (bucket of positions, nats per token), buckets in order."""
    buckets = list(dict.fromkeys(bucket for found in series.values() for bucket, _ in found))
    with chart(_CURVES_WIDTH, 2.8) as (figure, axes):
        for index, (name, found) in enumerate(series.items()):
            places = [buckets.index(bucket) for bucket, _ in found]
            values = [max(value, 0.0) for _, value in found]
            tint, marker = colour(f"series-{index % 6}"), _SERIES_MARKERS[(index + 1) % 6]
            dash = _DASHES[(index + 1) % 6]
            said = label(name, 24) if any(values) else f"{label(name, 24)} (0)"  # a zero has no place on a log scale
            axes.plot(places, values, color=tint, marker=marker, linestyle=dash, label=said)
        values = [value for found in series.values() for _, value in found if value > 0 and math.isfinite(value)]
        if values and max(values) / min(values) > 20:  # noqa: PLR2004 - int8 and int4 on one picture
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
            axes.yaxis.set_minor_formatter(NullFormatter())
        axes.set_xticks(range(len(buckets)), [label(bucket, 14) for bucket in buckets])
        axes.set_xlabel("token position")
        axes.set_ylabel("mean KL, nats per token")
        axes.grid(visible=True, axis="y")
        if series:
            axes.legend(loc="best")
        return svg(
            figure,
            key=key,
            title=title,
            description=f"Mean divergence by token position for {len(series)} candidates. "
            "The table below it holds the same figures.",
        )
