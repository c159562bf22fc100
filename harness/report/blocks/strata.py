"""Every stratum with its change, limits and verdict: over all candidates, by candidate, and next to the averages."""

from collections.abc import Sequence
from dataclasses import replace

from harness.judge.decisions import points
from harness.judge.summaries import Verdict
from harness.judge.verdicts import Judgement, StratumVerdict
from harness.report import words
from harness.report.blocks.findings import hidden_by_averages
from harness.report.evidence import Evidence
from harness.report.section import Block, Cell, Interval, Items, Row, Section, names, numbers, strata, texts
from harness.report.words import score
from harness.store.units import grouped

_BY_IMPORTANCE: tuple[Verdict, ...] = ("fail", "inconclusive", "no_signal", "not_judged", "pass")
_Found = list[tuple[str, StratumVerdict]]  # a stratum of each candidate that has it, with the candidate's name


def _found(judgement: Judgement) -> tuple[list[_Found], list[_Found]]:
    """Return the strata in order of first appearance: those that say something, and those that do not."""
    every = ((candidate.name, one) for candidate in judgement.candidates for one in candidate.strata)
    found = grouped(((one.slice, one.stratum), (name, one)) for name, one in every)
    parts: tuple[list[_Found], list[_Found]] = ([], [])
    for own in found.values():
        parts[all(one.verdict == "no_signal" and not one.lost and not one.gained for _, one in own)].append(own)
    return parts


def _quiet_note(count: int) -> str:
    counted = "1 more stratum has" if count == 1 else f"{count} more strata have"
    return f"{counted} no signal and no flips." if count else ""


def matrix(judgement: Judgement) -> Section:
    """Return a row per stratum with a cell per candidate; candidates without any stratum have no column."""
    judged = [one.name for one in judgement.candidates if one.strata]
    said, quiet = (tuple(_across(own, judged) for own in part) for part in _found(judgement))
    columns = names("slice", minor=1) + strata("stratum") + numbers("n", "margin", judgement.baseline, minor=1)
    columns += numbers(*judged)
    note = words.NOTES["matrix"].format(limits=words.limits_label(judgement))
    counted, shown = _quiet_note(len(quiet)), (columns, said, (), note, "", quiet)
    return Section("Every stratum", *shown, quiet_note=counted, filters=True, formats=("page",))


def _across(own: _Found, judged: Sequence[str]) -> Row:
    (_, one), known = own[0], dict(own)
    name = Cell(one.stratum, "" if one.gating else "advisory")
    changes = (_change(each, known[each]) if each in known else "-" for each in judged)
    return one.slice, name, str(one.n), score(one.margin), score(one.baseline_mean), *changes


def _change(name: str, one: StratumVerdict) -> Cell:
    drawn = None if one.delta is None else Interval(one.low, one.delta, one.high, one.margin)
    items = Items(name, f"{one.slice}: {one.stratum}") if one.lost or one.gained else None
    limits = f"{words.interval(one)} -{one.lost}/+{one.gained}" if one.delta is not None else ""
    cell = Cell(points(one.delta), limits, one.verdict, strong=True, value=one.delta, interval=drawn)
    return replace(cell, items=items, why=words.why(one))


def on_terminal(judgement: Judgement) -> Section:
    """Return a row per stratum and candidate, under a heading per slice."""
    said, quiet = _found(judgement)
    rows = list[Row]()
    for label, inside in grouped((own[0][1].slice, own) for own in said).items():
        every = [one for own in inside for _, one in own]
        heading, axes = _heading(label, every), words.splitting(every)
        for own in inside:
            first = own[0][1]
            for name, one in own:
                shared = ("", "") if one is not first and one.n == first.n else (str(one.n), score(one.baseline_mean))
                short = ", ".join(level for axis, level in words.levels_of(one.stratum).items() if axis in axes)
                figures = score(one.candidate_mean), words.change(one), f"{one.lost}/{one.gained}"
                place = heading, Cell(one.stratum, short or one.stratum)
                rows.append((*place, *shared, name, *figures, Cell("", verdict=one.verdict)))
    columns = names("slice") + strata("stratum") + numbers("n", minor=4) + numbers(judgement.baseline, minor=2)
    columns += names("variant") + numbers("score", minor=3) + numbers("change [limits]") + numbers("-/+", minor=1)
    title = f"Strata (points, {words.limits_label(judgement)}, -/+ is items lost and gained)"
    shown = columns + texts("verdict"), tuple(rows)
    return Section(title, *shown, quiet_note=_quiet_note(len(quiet)), grouped=True, formats=("terminal",))


def _heading(label: str, own: Sequence[StratumVerdict]) -> Cell:
    """Return a slice's heading: the axes that split it, its margins, and whether it decides."""
    margins = sorted({one.margin for one in own})
    margin, axes = " to ".join(map(score, dict.fromkeys((margins[0], margins[-1])))), ", ".join(words.splitting(own))
    advisory = "" if any(one.gating for one in own) else ", advisory"
    return Cell(label, f"{f' by {axes}' if axes else ''}, margin {margin}{advisory}")


def in_markdown(judgement: Judgement) -> Section:
    """Return the matrix with its worst rows first, so that what does not fit is what matters least."""
    shown = matrix(judgement)

    def importance(row: Row) -> int:
        return min(_BY_IMPORTANCE.index(one.verdict) for one in row if isinstance(one, Cell) and one.verdict)

    rows, title = tuple(sorted(shown.rows, key=importance)), f"All {len(shown.rows) + len(shown.quiet)} strata"
    note = f"Change in points with its {words.limits_label(judgement)}, -lost/+gained."
    return replace(shown, title=title, rows=rows, note=note, folded=title, formats=("markdown",))


def _strata(judgement: Judgement, _: Evidence) -> list[Section]:
    return [matrix(judgement), on_terminal(judgement), in_markdown(judgement)]


def averages(judgement: Judgement) -> Section:
    """Return each average with the worst stratum behind it; once if the whole is a single slice."""
    said, quiet = list[Row](), list[Row]()
    for candidate in judgement.candidates:
        for one in {(one.slice, one.n): one for one in candidate.averages}.values():
            drawn = None if one.delta is None else Interval(one.worst_delta, one.delta, None, None)
            change = Cell(points(one.delta), value=one.delta, interval=drawn)
            worst = Cell(points(one.worst_delta), strong=True), one.worst_stratum.removeprefix(f"{one.slice}/")
            means = score(one.baseline_mean), score(one.candidate_mean)
            row: Row = (candidate.name, one.slice, str(one.n), *means, change, *worst)
            (said if one.delta or one.worst_delta else quiet).append(row)
    columns = names("candidate", "average of") + numbers("n", judgement.baseline, "score", "change", "worst")
    title = "Averages next to the worst stratum (points)"
    note = "The drawing joins each average's change to its worst stratum."
    counted = f"Nothing changed in {len(quiet)} more averages." if quiet else ""
    columns += strata("worst stratum")
    return Section(title, columns, tuple(said), note=note, quiet=tuple(quiet), quiet_note=counted, stacked=True)


def _choice_probabilities(judgement: Judgement) -> Section:
    rows: list[Row] = []
    for candidate in judgement.candidates:
        for stratum in candidate.strata:
            if (one := stratum.choice_probability) is not None:
                means = score(one.baseline_mean), score(one.candidate_mean)
                change = Cell(points(one.delta), value=one.delta, interval=Interval(one.low, one.delta, one.high, None))
                limits = f"{points(one.low)} to {points(one.high)}"
                rows.append((candidate.name, words.place(stratum), str(one.n), *means, change, limits))
    columns = names("candidate", "stratum") + numbers("n", judgement.baseline, "candidate's", "change", "limits")
    note = words.NOTES["choice_probability"]
    title, folded = "Probability of the right choice (points)", "probability of the right choice"
    return Section(title, columns, tuple(rows), note=note, folded=folded)


def _averages(judgement: Judgement, _: Evidence) -> list[Section]:
    hidden = replace(hidden_by_averages(judgement), formats=("terminal",))
    return [averages(judgement), hidden, _choice_probabilities(judgement)]


_TITLE, _NONE, _NO_AVERAGE = "The average and the worst stratum", "No stratum was judged.", "No averages were computed."
BLOCKS = (
    Block("matrix", "Every stratum", _strata, {"terminal": 10, "markdown": 40, "page": 20}, "", _NONE),
    Block("averages", _TITLE, _averages, {"terminal": 20, "markdown": 30, "page": 50}, "Averages", _NO_AVERAGE),
)
