"""Rows, grids and curves of the page, arranged from a judgement and its evidence.

Arranges and never judges. The template writes what these records hold; `harness.report.html` puts the two together.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from harness.judge.summaries import Cliff, Verdict
from harness.judge.verdicts import CandidateVerdict, Judgement, StratumVerdict
from harness.report import words
from harness.report.evidence import DivergenceRow, Evidence

__all__ = [
    "CliffGroup",
    "Grid",
    "MatrixRow",
    "cliff_groups",
    "divergence_groups",
    "forest_rows",
    "grids",
    "levels_of",
    "matrix",
]


@dataclass(frozen=True, slots=True)
class MatrixRow:
    """One stratum over all candidates."""

    first: StratumVerdict
    """The first candidate's verdict, for what all share: n, margin, the baseline's score."""
    cells: tuple[StratumVerdict | None, ...]
    """One per candidate in the judgement's order, None if it has no such stratum."""


def matrix(judgement: Judgement) -> list[MatrixRow]:
    """Return a row per stratum, in order of first appearance; candidates without any stratum have no column."""
    judged = [candidate for candidate in judgement.candidates if candidate.strata]
    found = [{(one.slice, one.stratum): one for one in candidate.strata} for candidate in judged]
    places = dict.fromkeys(place for strata in found for place in strata)
    rows = []
    for place in places:
        cells = tuple(strata.get(place) for strata in found)
        rows.append(MatrixRow(next(one for one in cells if one is not None), cells))
    return rows


def forest_rows(candidate: CandidateVerdict, most: int) -> tuple[list[StratumVerdict], int]:
    """Return the strata of a forest plot and how many were left out: all in order, or the worst `most`."""
    drawn = [one for one in candidate.strata if one.delta is not None]
    if len(drawn) <= most:
        return drawn, 0
    worst = sorted(drawn, key=lambda one: one.low if one.low is not None else one.delta or 0.0)
    return worst[:most], len(drawn) - most


def levels_of(stratum: StratumVerdict) -> dict[str, str]:
    """Return axis to level: of the cell's name, so that only the axes that split it count."""
    return dict(zip(*words.axes_and_levels(stratum.stratum), strict=False))


def _ordered(levels: Iterable[str]) -> list[str]:
    """Order levels by number where all are numbers, else as they came."""
    unique = list(dict.fromkeys(levels))
    try:
        return sorted(unique, key=float)
    except ValueError:
        return unique


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


_FULL = 0.6
"""Share of a grid's cells that must hold something: sparse pairs (language x script) say nothing."""
_LEAST_ROWS = 3


def grids(judgement: Judgement) -> list[Grid]:
    """Return the heat maps: two axes of a slice, an axis shared by slices, and strata over candidates for the rest."""
    made: list[Grid] = []
    shown: set[str] = set()
    judged = [candidate for candidate in judgement.candidates if candidate.strata]
    for candidate in judged:
        for label, strata in _slices(candidate.strata).items():
            pair = _fullest_pair(strata)
            if pair is not None:
                shown.add(label)
                title = f"{candidate.name}, {label}"
                made.append(_grid(title, pair, strata, [levels_of(one) for one in strata]))
        made += _shared_axes(candidate)
    rest = [label for one in judged[:1] for label in _slices(one.strata) if label not in shown]
    made += [grid for label in rest if (grid := _over_candidates(label, judged)) is not None]
    return made


def _over_candidates(label: str, judged: Sequence[CandidateVerdict]) -> Grid | None:
    """Return a slice's strata over the candidates; None if it has too few to be worth a picture."""
    named = [(candidate.name, one) for candidate in judged for one in candidate.strata if one.slice == label]
    if len({one.stratum for _, one in named}) < _LEAST_ROWS:
        return None
    levels = [{"candidate": name, "stratum": words.short_name(one.stratum)} for name, one in named]
    return _grid(f"{label}, all candidates", ("candidate", "stratum"), [one for _, one in named], levels)


def _slices(strata: Iterable[StratumVerdict]) -> dict[str, list[StratumVerdict]]:
    found: dict[str, list[StratumVerdict]] = {}
    for one in strata:
        found.setdefault(one.slice, []).append(one)
    return found


def _fullest_pair(strata: Sequence[StratumVerdict]) -> tuple[str, str] | None:
    """Return the two axes whose grid is fullest, at least two levels each; None if no grid is full enough."""
    named = [levels_of(one) for one in strata]
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
        for axis in levels_of(one):
            slices.setdefault(axis, {}).setdefault(one.slice, []).append(one)
    made = []
    for axis, found in slices.items():
        if len(found) > 1:
            strata = [one for part in found.values() for one in part]
            levels = [{"slice": one.slice, axis: levels_of(one)[axis]} for one in strata]
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


@dataclass(frozen=True, slots=True)
class CliffGroup:
    """The curves of all candidates along one axis of one slice."""

    title: str
    """Slice, axis, and what was held."""
    axis: str
    """The ordered axis."""
    curves: tuple[tuple[str, Cliff], ...]
    """Candidate's name and its cliff, the levels being the same."""


def cliff_groups(judgement: Judgement) -> list[CliffGroup]:
    """Gather the candidates' cliffs that share slice, axis, group and levels."""
    found: dict[tuple[str, str, str, tuple[float, ...]], list[tuple[str, Cliff]]] = {}
    for candidate in judgement.candidates:
        for one in candidate.cliffs:
            if one.levels:
                found.setdefault((one.slice, one.axis, one.group, one.levels), []).append((candidate.name, one))
    return [
        CliffGroup(f"{label} along {axis}{f', {group}' if group else ''}", axis, tuple(curves))
        for (label, axis, group, _), curves in found.items()
    ]


def divergence_groups(evidence: Evidence) -> list[tuple[str, dict[str, list[tuple[str, float]]], list[DivergenceRow]]]:
    """Return per slice: its name, KL by position per candidate (weighted by tokens), and the rows behind it."""
    made = []
    for label in dict.fromkeys(one.slice for one in evidence.divergence):
        rows = [one for one in evidence.divergence if one.slice == label]
        series: dict[str, list[tuple[str, float]]] = {}
        for name in dict.fromkeys(one.candidate for one in rows):
            own = [one for one in rows if one.candidate == name and one.position]
            for position in dict.fromkeys(one.position for one in own):
                part = [one for one in own if one.position == position]
                tokens = sum(one.summary.tokens for one in part)
                if tokens:
                    mean = math.fsum(one.summary.tokens * one.summary.kl for one in part) / tokens
                    series.setdefault(name, []).append((position, mean))
        made.append((label, series, rows))
    return made
