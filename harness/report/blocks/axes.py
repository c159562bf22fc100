"""Change along the axes that split slices: curves along an ordered axis, grids over two axes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from harness.judge.summaries import Cliff, Verdict
from harness.judge.verdicts import CandidateVerdict, Judgement, StratumVerdict
from harness.report import words
from harness.report.evidence import Evidence
from harness.report.section import Block, Cell, Chart, Line, Row, Section, names, numbers, texts
from harness.report.words import points, score

__all__ = ["BLOCKS", "Grid", "cliffs", "grid_section", "grids"]

_FULL = 0.6
"""Share of a grid's cells that must hold something: sparse pairs (language x script) say nothing."""


@dataclass(frozen=True, slots=True)
class Grid:
    """Delta over two axes."""

    title: str
    """What it shows."""
    axes: tuple[str, str]
    """The column axis and the row axis."""
    columns: tuple[str, ...]
    """Levels, in order."""
    rows: tuple[str, ...]
    """Levels, in order."""
    cells: Mapping[tuple[str, str], tuple[float | None, Verdict | None]]
    """(column, row) to delta and, where the cell is a single stratum, its verdict."""


def grids(judgement: Judgement) -> list[Grid]:
    """Return the grids of each candidate: two axes of a slice, and an axis that slices share, by slice."""
    made: list[Grid] = []
    for candidate in judgement.candidates:
        slices: dict[str, list[StratumVerdict]] = {}
        for one in candidate.strata:
            slices.setdefault(one.slice, []).append(one)
        for label, own in slices.items():
            if (pair := _fullest_pair(own)) is not None:
                made.append(_grid(f"{candidate.name}, {label}", pair, own, [_levels_of(one) for one in own]))
        made += _shared_axes(candidate)
    return made


def _levels_of(stratum: StratumVerdict) -> dict[str, str]:
    """Return axis to level: of the cell's name, so that only the axes that split it count."""
    return dict(zip(*words.axes_and_levels(stratum.stratum), strict=False))


def _ordered(levels: Iterable[str]) -> list[str]:
    """Order levels by number where all are numbers, else as they came."""
    unique = list(dict.fromkeys(levels))
    try:
        return sorted(unique, key=float)
    except ValueError:
        return unique


def _fullest_pair(strata: Sequence[StratumVerdict]) -> tuple[str, str] | None:
    """Return the two axes whose grid is fullest, at least two levels each; None if no grid is full enough."""
    named = [_levels_of(one) for one in strata]
    axes = [axis for axis in dict.fromkeys(a for one in named for a in one) if len({n.get(axis) for n in named}) > 1]
    best, fullest = None, _FULL
    for column, row in combinations(axes, 2):
        cells = {(one[column], one[row]) for one in named if column in one and row in one}
        size = len({c for c, _ in cells}) * len({r for _, r in cells})
        if size and len(cells) / size > fullest:
            best, fullest = (column, row), len(cells) / size
    return best


def _shared_axes(candidate: CandidateVerdict) -> list[Grid]:
    """Return a grid of slices over each axis that two slices or more are split by: language x task, say."""
    slices: dict[str, dict[str, list[StratumVerdict]]] = {}
    for one in candidate.strata:
        for axis in _levels_of(one):
            slices.setdefault(axis, {}).setdefault(one.slice, []).append(one)
    made = []
    for axis, found in slices.items():
        if len(found) > 1:
            strata = [one for part in found.values() for one in part]
            levels = [{"slice": one.slice, axis: _levels_of(one)[axis]} for one in strata]
            grid = _grid(f"{candidate.name}, {axis} by slice", ("slice", axis), strata, levels)
            if sum(delta is not None for delta, _ in grid.cells.values()) > _FULL * len(grid.cells):
                made.append(grid)
    return made


def _grid(
    title: str, axes: tuple[str, str], strata: Sequence[StratumVerdict], levels: Sequence[Mapping[str, str]]
) -> Grid:
    """Gather strata into cells; strata that share a cell are averaged by their items and lose their verdicts."""
    gathered: dict[tuple[str, str], list[StratumVerdict]] = {}
    for one, at in zip(strata, levels, strict=True):
        if axes[0] in at and axes[1] in at:
            gathered.setdefault((at[axes[0]], at[axes[1]]), []).append(one)
    columns, rows = _ordered(column for column, _ in gathered), _ordered(row for _, row in gathered)
    cells = {(column, row): _cell(gathered.get((column, row), [])) for row in rows for column in columns}
    return Grid(title, axes, tuple(columns), tuple(rows), cells)


def _cell(strata: Sequence[StratumVerdict]) -> tuple[float | None, Verdict | None]:
    known = [(one.n, one.delta) for one in strata if one.delta is not None]
    items = sum(n for n, _ in known)
    if not items:
        return None, None
    return math.fsum(n * delta for n, delta in known) / items, strata[0].verdict if len(strata) == 1 else None


def grid_section(one: Grid) -> Section:
    """Return the figures of a grid, each cell in the colour of its change."""

    def cell(column: str, row: str) -> Cell:
        delta, verdict = one.cells[column, row]
        return Cell(points(delta), verdict=verdict, tint=delta)

    rows: tuple[Row, ...] = tuple((row, *(cell(column, row) for column in one.columns)) for row in one.rows)
    columns = names(f"{one.axes[1]} \\ {one.axes[0]}") + numbers(*one.columns)
    return Section(one.title, columns, rows)


def _grids(judgement: Judgement, _: Evidence) -> Iterator[Section]:
    quiet = []
    for one in grids(judgement):
        if any(delta for delta, _ in one.cells.values()):
            yield grid_section(one)
        else:
            quiet.append(one.title)
    if quiet:
        yield Section.listed("", [f"Nothing changed in {len(quiet)} more grids: {'; '.join(quiet)}."])


_Curves = list[tuple[str, Cliff]]


def _curves(judgement: Judgement) -> dict[tuple[str, str, str, tuple[float, ...]], _Curves]:
    """Gather the candidates' cliffs that share slice, axis, group and levels."""
    found: dict[tuple[str, str, str, tuple[float, ...]], _Curves] = {}
    for candidate in judgement.candidates:
        for one in candidate.cliffs:
            if one.levels:
                found.setdefault((one.slice, one.axis, one.group, one.levels), []).append((candidate.name, one))
    return found


def cliffs(judgement: Judgement) -> Section:
    """Return the scores along each ordered axis, and where a candidate leaves the baseline."""
    rows: list[Row] = []
    quiet: list[Row] = []
    drawn, said = [], []
    for (label, axis, group, _), curves in _curves(judgement).items():
        title = f"{label} by {axis.replace('_', ' ')}{f', {words.readable(group)}' if group else ''}"
        flat = all(one.candidate == one.baseline for _, one in curves)
        (quiet if flat else rows).extend(_curve_rows(judgement, title, curves))
        if not flat:
            drawn.append(_chart(judgement.baseline, title, axis, curves))
            said += [_leaves(judgement.baseline, title, name, one) for name, one in curves if one.at is not None]
    count = len({row[0] for row in quiet})
    columns = names("curve") + texts("level") + numbers(judgement.baseline, *_judged(judgement))
    return Section(
        "Scores along ordered axes",
        columns,
        tuple(rows),
        tuple(said) or (("No candidate is significantly below its margin from any level on.",) if drawn else ()),
        note="Mean score by level; the dotted line is the score that the effective level is stated for.",
        folded="the scores at each level",
        quiet=tuple(quiet),
        quiet_note=f"Nothing changed along {count} more axes." if count else "",
        charts=tuple(drawn),
        y="score",
    )


def _judged(judgement: Judgement) -> list[str]:
    return [one.name for one in judgement.candidates if one.cliffs]


def _curve_rows(judgement: Judgement, title: str, curves: _Curves) -> Iterator[Row]:
    known = dict(curves)
    first = curves[0][1]
    for at, level in enumerate(first.levels):
        own = (known.get(name) for name in _judged(judgement))
        scores = ("-" if one is None else score(one.candidate[at]) for one in own)
        yield title, f"{level:g}", score(first.baseline[at]), *scores


def _chart(baseline: str, title: str, axis: str, curves: _Curves) -> Chart:
    first = curves[0][1]

    def line(name: str, values: Sequence[float]) -> Line:
        return Line(name, tuple((f"{x:g}", 100 * y) for x, y in zip(first.levels, values, strict=True)))

    lines = (line(baseline, first.baseline), *(line(name, one.candidate) for name, one in curves))
    return Chart(title, axis.replace("_", " "), lines, rule=100 * first.score)


def _leaves(baseline: str, title: str, name: str, one: Cliff) -> str:
    text = f"{name} leaves {baseline} in {title} at {one.at:g} by estimate"
    if one.at_low is not None and one.at_high is not None and one.at_low != one.at_high:
        text += f" (the data allow {one.at_low:g} to {one.at_high:g})"
    own, base = ("no level" if x is None else f"{x:g}" for x in (one.effective_candidate, one.effective_baseline))
    return f"{text}; it keeps a score of {score(one.score)} up to {own}, {baseline} up to {base}."


def _cliffs(judgement: Judgement, _: Evidence) -> Iterator[Section]:
    yield cliffs(judgement)


_NO_AXIS = "No slice has an ordered axis, such as context tokens or hops, with at least two levels."

BLOCKS = (
    Block("cliffs", "Where it falls off", _cliffs, {"page": 30}, "Cliffs", _NO_AXIS),
    Block("heat", "Along two axes", _grids, {"page": 40}, "", "No slice is split along two axes."),
)
