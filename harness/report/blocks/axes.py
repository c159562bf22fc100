"""Change along the axes that split slices: curves along an ordered axis, grids over two axes."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import combinations

from harness.judge.decisions import points
from harness.judge.summaries import Cliff
from harness.judge.verdicts import Judgement, StratumVerdict
from harness.report.evidence import Evidence
from harness.report.section import Block, Cell, Chart, Line, Row, Section, names, numbers, texts
from harness.report.words import levels_of, readable, score

_FULL = 0.6  # share of a grid's cells that must hold something: sparse pairs (language x script) say nothing
_Placed = tuple[StratumVerdict, Mapping[str, str]]  # a stratum with its levels by axis


def grids(judgement: Judgement) -> Iterator[Section]:
    """Yield a grid of each candidate and slice with two axes, its cells tinted."""
    for candidate in judgement.candidates:
        for label in dict.fromkeys(one.slice for one in candidate.strata):
            own = [(one, levels_of(one.stratum)) for one in candidate.strata if one.slice == label]
            if (pair := _fullest_pair([levels for _, levels in own])) is not None:
                yield _grid(f"{candidate.name}, {label}", pair, own)


def _ordered(levels: Iterable[str]) -> list[str]:
    """Order levels by number where all are numbers, else as they came."""
    unique = list(dict.fromkeys(levels))
    try:
        return sorted(unique, key=float)
    except ValueError:
        return unique


def _fullest_pair(named: Sequence[Mapping[str, str]]) -> tuple[str, str] | None:
    """Return the two axes whose grid is fullest, at least two levels each; None if no grid is full enough."""
    axes = [axis for axis in dict.fromkeys(a for one in named for a in one) if len({n.get(axis) for n in named}) > 1]
    best, fullest = None, _FULL
    for column, row in combinations(axes, 2):
        cells = {(one[column], one[row]) for one in named if column in one and row in one}
        size = len({c for c, _ in cells}) * len({r for _, r in cells})
        if size and len(cells) / size > fullest:
            best, fullest = (column, row), len(cells) / size
    return best


def _grid(title: str, axes: tuple[str, str], placed: Iterable[_Placed]) -> Section:
    found: dict[tuple[str, str], list[StratumVerdict]] = defaultdict(list)
    for one, levels in placed:
        if axes[0] in levels and axes[1] in levels:
            found[levels[axes[0]], levels[axes[1]]].append(one)
    columns, rows = _ordered(column for column, _ in found), _ordered(row for _, row in found)
    cells = tuple((row, *(_cell(found.get((column, row), [])) for column in columns)) for row in rows)
    return Section(title, names(f"{axes[1]} \\ {axes[0]}") + numbers(*columns), cells)


def _cell(strata: Sequence[StratumVerdict]) -> Cell:
    """Return the change of a cell; strata that share it are averaged by their items and lose their verdicts."""
    known = [(one.n, one.delta) for one in strata if one.delta is not None]
    if not (items := sum(n for n, _ in known)):
        return Cell(points(None))
    delta = math.fsum(n * delta for n, delta in known) / items
    return Cell(points(delta), verdict=strata[0].verdict if len(strata) == 1 else None, tint=delta)


def _grids(judgement: Judgement, _: Evidence) -> Iterator[Section]:
    quiet = []
    for one in grids(judgement):
        if any(cell.tint for _, *cells in one.rows for cell in cells):
            yield one
        else:
            quiet.append(one.title)
    if quiet:
        yield Section.listed("", [f"Nothing changed in {len(quiet)} more grids: {'; '.join(quiet)}."])


def cliffs(judgement: Judgement) -> Section:
    """Return the scores along each ordered axis, and where a candidate leaves the baseline."""
    found: dict[tuple[str, str, str, tuple[float, ...]], dict[str, Cliff]] = defaultdict(dict)
    for candidate in judgement.candidates:
        for one in candidate.cliffs:
            if one.levels:
                found[one.slice, one.axis, one.group, one.levels][candidate.name] = one
    base, judged = judgement.baseline, [one.name for one in judgement.candidates if one.cliffs]
    rows, quiet, drawn, said = list[Row](), list[Row](), list[Chart](), list[str]()
    for (label, axis, group, levels), curves in found.items():
        x = axis.replace("_", " ")
        title, first = f"{label} by {x}{f', {readable(group)}' if group else ''}", next(iter(curves.values()))
        flat = all(one.candidate == one.baseline for one in curves.values())
        for at, level in enumerate(levels):
            scores = (score(curves[name].candidate[at]) if name in curves else "-" for name in judged)
            (quiet if flat else rows).append((title, f"{level:g}", score(first.baseline[at]), *scores))
        if not flat:
            means = {base: first.baseline} | {name: one.candidate for name, one in curves.items()}
            lines = (
                Line(name, tuple((f"{level:g}", 100 * y) for level, y in zip(levels, own, strict=True)))
                for name, own in means.items()
            )
            drawn.append(Chart(title, x, tuple(lines), rule=100 * first.score))
            said += [_leaves(base, title, *one) for one in curves.items() if one[1].at is not None]
    count = len({row[0] for row in quiet})
    return Section(
        "Scores along ordered axes",
        names("curve") + texts("level") + numbers(base, *judged),
        tuple(rows),
        tuple(said) or (("No candidate is significantly below its margin from any level on.",) if drawn else ()),
        note="Mean score by level; the dotted line is the score that the effective level is stated for.",
        folded="the scores at each level",
        quiet=tuple(quiet),
        quiet_note=f"Nothing changed along {count} more axes." if count else "",
        charts=tuple(drawn),
        y="score",
    )


def _leaves(baseline: str, title: str, name: str, one: Cliff) -> str:
    text = f"{name} leaves {baseline} in {title} at {one.at:g} by estimate"
    if one.at_low is not None and one.at_high is not None and one.at_low != one.at_high:
        text += f" (the data allow {one.at_low:g} to {one.at_high:g})"
    own, base = ("no level" if x is None else f"{x:g}" for x in (one.effective_candidate, one.effective_baseline))
    return f"{text}; it keeps a score of {score(one.score)} up to {own}, {baseline} up to {base}."


_NO_AXIS = "No slice has an ordered axis, such as context tokens or hops, with at least two levels."
BLOCKS = (
    Block("cliffs", "Where it falls off", lambda one, _: [cliffs(one)], {"page": 30}, "Cliffs", _NO_AXIS),
    Block("heat", "Along two axes", _grids, {"page": 40}, "", "No slice is split along two axes."),
)
