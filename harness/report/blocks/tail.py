"""Tail events: a row per kind, and the gated rates."""

from __future__ import annotations

from collections.abc import Iterator

from harness.judge.verdicts import CandidateVerdict, Judgement
from harness.records import TAIL_KINDS
from harness.report import tail
from harness.report.evidence import Evidence
from harness.report.section import Block, Cell, Items, Places, Row, Section, names, numbers, texts

__all__ = ["BLOCKS", "kinds_section", "rates_section"]

Count = tuple[int, int]
"""Events, and the answers that were checked for them."""


def _counts(candidate: CandidateVerdict | None, kind: str) -> Count:
    rates = [] if candidate is None else [one for one in candidate.tail_events if one.kind == kind]
    return sum(one.events for one in rates), sum(one.n for one in rates)


def _own(candidate: CandidateVerdict, kind: str) -> Count:
    """Return how often the baseline's own answers show a kind; of none for what only a pair shows."""
    rates = [one for one in candidate.tail_events if one.kind == kind and one.baseline_rate is not None]
    return sum(round((one.baseline_rate or 0.0) * one.n) for one in rates), sum(one.n for one in rates)


def kinds_section(judgement: Judgement) -> Section:
    """Return the table of events by kind; kinds that were checked for and not found are its quiet rows."""
    gating = {one.kind for candidate in judgement.candidates for one in candidate.tail_events if one.verdict}
    said: list[Row] = []
    quiet: dict[str, Row] = {}
    for kind in TAIL_KINDS:
        found = [_counts(one, kind) for one in judgement.candidates]
        widest = max(judgement.candidates, key=lambda one: _counts(one, kind)[1], default=None)
        if widest is None or not _counts(widest, kind)[1]:
            continue
        own = [_cell(one) for one in (_own(widest, kind), _counts(judgement.control, kind))]
        cells = (_cell(one, kind, of.name) for one, of in zip(found, judgement.candidates, strict=True))
        row: Row = (Cell(kind, note=tail.meaning(kind)), *own, *cells)
        if kind in gating or any(cell.strong for cell in row[1:] if isinstance(cell, Cell)):
            said.append(row)
        else:
            quiet[kind] = row
    base = judgement.baseline
    columns = texts("event") + numbers(f"{base} itself", "A/A", *(one.name for one in judgement.candidates))
    note = (
        f"Answers of a candidate with an event that {base}'s answer to the same item does not have, of all answers "
        f"that were checked. The column of {base} counts its own answers with the event, which are false alarms of the "
        "detector or defects of the model itself; the A/A column is the noise."
    )
    title = "Tail events (answers with an event that the baseline's do not have, of all answers)"
    absent = f"Checked for and not found: {', '.join(quiet)}." if quiet else ""
    return Section(title, columns, tuple(said), note=note, quiet=tuple(quiet.values()), quiet_note=absent)


def _cell(count: Count, kind: str = "", candidate: str = "") -> Cell:
    events, n = count
    items = Items(candidate, kind=kind) if events and candidate else None
    return Cell(f"{events}/{n}" if n else "-", strong=bool(events), value=events / n if n else None, items=items)


def rates_section(judgement: Judgement, *, passed: bool) -> Section:
    """Return the table of the gated rates that pass, or of those that do not."""
    found = tail.gated(judgement.candidates, *(("pass",) if passed else tail.OPEN))
    rows = tuple(
        (
            Cell(candidate.name, verdict=one.verdict),
            Cell(tail.rate_place(one), note=tail.remark(one)),
            Cell(
                f"{one.events}/{one.n}",
                f"{tail.limits(one)}, tolerated {tail.rate_percent(one.tolerance)}",
                strong=True,
                value=one.rate,
                items=Items(candidate.name, "" if one.stratum == "all" else f"{one.slice}: {one.stratum}", one.kind),
            ),
        )
        for candidate, one in found
    )
    columns = names("candidate", "event") + numbers("rate, limits")
    title = "Gated rates within their tolerance" if passed else "Gated rates that do not pass"
    folded = f"{len(rows)} within the tolerance" if passed else ""
    return Section(title, columns, rows, folded=folded, formats=("page",))


def _tail(judgement: Judgement, _: Evidence) -> Iterator[Section]:
    yield kinds_section(judgement)
    yield from (rates_section(judgement, passed=passed) for passed in (False, True))


_PLACES: Places = {"terminal": 40, "markdown": 50, "page": 60}
_ABSENT = "No answer was checked for tail events."

BLOCKS = (Block("tail", "Tail events", _tail, _PLACES, "Tail events", _ABSENT),)
