"""Every stratum with its change, limits and verdict: over all candidates, by candidate, and next to the averages."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from harness.judge.summaries import Average, Verdict
from harness.judge.verdicts import CandidateVerdict, Judgement, StratumVerdict
from harness.report import words
from harness.report.blocks.findings import hidden_by_averages
from harness.report.evidence import Evidence
from harness.report.section import Block, Cell, Interval, Items, Row, Section, names, numbers, strata, texts
from harness.report.words import points, score

__all__ = ["BLOCKS", "average_rows", "averages", "by_candidate", "choice_probabilities", "matrix", "on_terminal"]

_BY_IMPORTANCE: tuple[Verdict, ...] = ("fail", "inconclusive", "no_signal", "not_judged", "pass")

_Found = dict[tuple[str, str], dict[str, StratumVerdict]]


def _found(judgement: Judgement) -> _Found:
    """Return the strata in order of first appearance, each by candidate."""
    found: _Found = {}
    for candidate in judgement.candidates:
        for one in candidate.strata:
            found.setdefault((one.slice, one.stratum), {})[candidate.name] = one
    return found


def _quiet(cells: Sequence[StratumVerdict]) -> bool:
    """Return whether a stratum has no signal and nothing flipped on either side."""
    return all(one.verdict == "no_signal" and not one.lost and not one.gained for one in cells)


def _quiet_note(count: int) -> str:
    counted = "1 more stratum has" if count == 1 else f"{count} more strata have"
    return f"{counted} no signal and no flips." if count else ""


def matrix(judgement: Judgement) -> Section:
    """Return a row per stratum with a cell per candidate; candidates without any stratum have no column."""
    judged = [one.name for one in judgement.candidates if one.strata]
    said: list[Row] = []
    quiet: list[Row] = []
    for (label, stratum), cells in _found(judgement).items():
        first = next(iter(cells.values()))
        shared = (
            label,
            Cell(stratum, "" if first.gating else "advisory"),
            str(first.n),
            score(first.margin),
            score(first.baseline_mean),
        )
        changes = (_change(name, cells[name]) if name in cells else "-" for name in judged)
        (quiet if _quiet([*cells.values()]) else said).append((*shared, *changes))
    columns = names("slice", minor=1) + strata("stratum") + numbers("n", "margin", judgement.baseline, minor=1)
    return Section(
        "Every stratum",
        columns + numbers(*judged),
        tuple(said),
        note=f"Change in points with its {words.limits_label(judgement)}; the dashed line is the margin. "
        "Lost and gained items lead to the answers.",
        quiet=tuple(quiet),
        quiet_note=_quiet_note(len(quiet)),
        filters=True,
        formats=("page",),
    )


def _change(name: str, one: StratumVerdict) -> Cell:
    drawn = None if one.delta is None else Interval(one.low, one.delta, one.high, one.margin)
    items = Items(name, f"{one.slice}: {one.stratum}") if one.lost or one.gained else None
    limits = f"{words.interval(one)} -{one.lost}/+{one.gained}" if one.delta is not None else ""
    return Cell(points(one.delta), limits, one.verdict, strong=True, value=one.delta, interval=drawn, items=items)


def on_terminal(judgement: Judgement) -> Section:
    """Return a row per stratum and candidate, under a heading per slice."""
    found = _found(judgement)
    rows: list[Row] = []
    said = {place: cells for place, cells in found.items() if not _quiet([*cells.values()])}
    slices: dict[str, list[StratumVerdict]] = {}
    for (label, _), cells in said.items():
        slices.setdefault(label, []).extend(cells.values())
    headings = {label: (_heading(label, own), words.splitting(own)) for label, own in slices.items()}
    for (label, stratum), cells in said.items():
        heading, axes = headings[label]
        first = next(iter(cells.values()))
        for name, one in cells.items():
            again = one is not first and one.n == first.n
            rows.append(
                (
                    heading,
                    Cell(stratum, words.level(stratum, axes)),
                    "" if again else str(one.n),
                    "" if again else score(one.baseline_mean),
                    name,
                    score(one.candidate_mean),
                    words.change(one),
                    f"{one.lost}/{one.gained}",
                    Cell("", verdict=one.verdict),
                )
            )
    columns = names("slice") + strata("stratum") + numbers("n", minor=4) + numbers(judgement.baseline, minor=2)
    columns += names("variant") + numbers("score", minor=3) + numbers("change [limits]") + numbers("-/+", minor=1)
    title = f"Strata (points, {words.limits_label(judgement)}, -/+ is items lost and gained)"
    note = _quiet_note(len(found) - len(said))
    columns += texts("verdict")
    return Section(title, columns, tuple(rows), quiet_note=note, grouped=True, formats=("terminal",))


def _heading(label: str, own: Sequence[StratumVerdict]) -> Cell:
    """Return a slice's heading: the axes that split it, its margins, and whether it decides."""
    margins = sorted({one.margin for one in own})
    margin = " to ".join(score(one) for one in dict.fromkeys((margins[0], margins[-1])))
    axes = ", ".join(words.splitting(own))
    advisory = "" if any(one.gating for one in own) else ", advisory"
    return Cell(label, f"{f' by {axes}' if axes else ''}, margin {margin}{advisory}")


def by_candidate(judgement: Judgement, candidate: CandidateVerdict) -> Section:
    """Return all strata of a candidate, failing ones first, so that what does not fit is what matters least."""
    order = sorted(candidate.strata, key=lambda one: (_BY_IMPORTANCE.index(one.verdict), not one.gating))
    quiet = [one for one in order if _quiet([one])]
    rows = tuple(
        (
            one.slice,
            one.stratum,
            Cell("" if one.gating else "(advisory)", verdict=one.verdict),
            str(one.n),
            score(one.baseline_mean),
            score(one.candidate_mean),
            words.change(one),
            score(one.margin),
            f"{one.lost}/{one.gained}",
        )
        for one in order
        if not _quiet([one])
    )
    figures = numbers("n", judgement.baseline, "candidate", "change", "margin", "lost/gained")
    title = f"All {len(order)} strata of {candidate.name}, {words.limits_label(judgement)}"
    columns = names("slice") + strata("stratum") + texts("verdict") + figures
    note = _quiet_note(len(quiet))
    return Section(title, columns, rows, folded=title, quiet_note=note, formats=("markdown",))


def _strata(judgement: Judgement, _: Evidence) -> Iterator[Section]:
    if any(candidate.strata for candidate in judgement.candidates):
        yield matrix(judgement)
        yield on_terminal(judgement)
        yield from (by_candidate(judgement, one) for one in judgement.candidates if one.strata)


def average_rows(candidate: CandidateVerdict) -> tuple[Average, ...]:
    """Return the averages to show: one line if the whole is a single slice, whatever it is called."""
    first = candidate.averages[:1]
    return first + tuple(one for one in candidate.averages[1:] if (one.slice, one.n) != (first[0].slice, first[0].n))


def averages(judgement: Judgement) -> Section:
    """Return each average with the worst stratum behind it."""
    said: list[Row] = []
    quiet: list[Row] = []
    for candidate in judgement.candidates:
        for one in average_rows(candidate):
            worst = one.worst_stratum.removeprefix(f"{one.slice}/")
            scores = str(one.n), score(one.baseline_mean), score(one.candidate_mean)
            drawn = None if one.delta is None else Interval(one.worst_delta, one.delta, None, None)
            changes = (
                Cell(points(one.delta), value=one.delta, interval=drawn),
                Cell(points(one.worst_delta), strong=True),
            )
            row: Row = (candidate.name, one.slice, *scores, *changes, worst)
            (said if one.delta or one.worst_delta else quiet).append(row)
    columns = names("candidate", "average of") + numbers("n", judgement.baseline, "score", "change", "worst")
    return Section(
        "Averages next to the worst stratum (points)",
        columns + strata("worst stratum"),
        tuple(said),
        note="The drawing joins each average's change to its worst stratum.",
        quiet=tuple(quiet),
        quiet_note=f"Nothing changed in {len(quiet)} more averages." if quiet else "",
    )


def choice_probabilities(judgement: Judgement) -> Section:
    """Return how likely the right choices are, by candidate and stratum."""
    rows: list[Row] = []
    for candidate in judgement.candidates:
        for stratum in candidate.strata:
            if (one := stratum.choice_probability) is not None:
                means = score(one.baseline_mean), score(one.candidate_mean)
                limits = f"{points(one.low)} to {points(one.high)}"
                change = Cell(points(one.delta), value=one.delta, interval=Interval(one.low, one.delta, one.high, None))
                rows.append((candidate.name, words.place(stratum), str(one.n), *means, change, limits))
    return Section(
        "Probability of the right choice (points)",
        names("candidate", "stratum") + numbers("n", judgement.baseline, "candidate's", "change", "limits"),
        tuple(rows),
        note="How likely the right choice is among the choices: not the score. It moves before the preferred choice "
        "changes; it has no margin and is not part of a verdict.",
        folded="probability of the right choice",
    )


def _averages(judgement: Judgement, _: Evidence) -> Iterator[Section]:
    if any(one.averages for one in judgement.candidates):
        yield averages(judgement)
        hidden = hidden_by_averages(judgement)
        yield Section.listed(hidden.title, hidden.sentences, ("terminal",))
    yield choice_probabilities(judgement)


BLOCKS = (
    Block(
        "matrix", "Every stratum", _strata, {"terminal": 10, "markdown": 40, "page": 20}, "", "No stratum was judged."
    ),
    Block(
        "averages",
        "The average and the worst stratum",
        _averages,
        {"terminal": 20, "markdown": 30, "page": 50},
        "Averages",
        "No averages were computed.",
    ),
)
