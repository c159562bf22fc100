"""Tail events for every report: a row per kind, the gated rates, and which strata they hold back.

Computes no figure but sums of counts over strata.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from harness.judge.summaries import TailRate, Verdict
from harness.judge.verdicts import CandidateVerdict, Judgement, StratumVerdict
from harness.records import LATENCY_KINDS, TAIL_KINDS
from harness.report.section import Cell, Row, Section, names, numbers, texts
from harness.report.words import place

__all__ = [
    "gated",
    "holding_back",
    "kinds_section",
    "meaning",
    "passes",
    "rate_figures",
    "rate_place",
    "rate_sentence",
    "rates_section",
    "sentences",
]

_DIGITS = (2, 3, 4, 5, 6)
_OPEN: tuple[Verdict, ...] = ("fail", "inconclusive", "no_signal", "not_judged")


def meaning(kind: str) -> str:
    """Return what a kind of event is."""
    return (TAIL_KINDS | LATENCY_KINDS).get(kind, kind)


Count = tuple[int, int]
"""Events, and the answers that were checked for them."""


def _counts(candidate: CandidateVerdict | None, kind: str) -> Count:
    rates = [] if candidate is None else [one for one in candidate.tail_events if one.kind == kind]
    return sum(one.events for one in rates), sum(one.n for one in rates)


def _own(candidate: CandidateVerdict, kind: str) -> Count:
    """Return how often the baseline's own answers show a kind; of none for what only a pair shows."""
    rates = [one for one in candidate.tail_events if one.kind == kind and one.baseline_rate is not None]
    return sum(round((one.baseline_rate or 0.0) * one.n) for one in rates), sum(one.n for one in rates)


def kinds_section(judgement: Judgement, *, all_kinds: bool) -> tuple[Section, list[str]]:
    """Return the table of events by kind, and the kinds that were checked for and not found.

    all_kinds: whether the table has these too.
    """
    gating = {one.kind for candidate in judgement.candidates for one in candidate.tail_events if one.verdict}
    rows: list[Row] = []
    absent = []
    for kind in TAIL_KINDS | LATENCY_KINDS:
        found = [_counts(one, kind) for one in judgement.candidates]
        widest = max(judgement.candidates, key=lambda one: _counts(one, kind)[1], default=None)
        if widest is None or not _counts(widest, kind)[1]:
            continue
        counts = [_own(widest, kind), _counts(judgement.control, kind), *found]
        if not any(events for events, _ in counts) and kind not in gating:
            absent.append(kind)
            if not all_kinds:
                continue
        cells = (Cell(f"{events}/{n}" if n else "-", strong=bool(events)) for events, n in counts)
        rows.append((Cell(kind, note=meaning(kind)), *cells))
    columns = texts("event") + numbers(
        f"{judgement.baseline} itself", "A/A", *(one.name for one in judgement.candidates)
    )
    note = (
        f"Answers of a candidate with an event that {judgement.baseline}'s answer to the same item does not have, of "
        f"all answers that were checked. The column of {judgement.baseline} counts its own answers with the event, "
        "which are false alarms of the detector or defects of the model itself; the A/A column is the noise."
    )
    title = "Tail events (answers with an event that the baseline's do not have, of all answers)"
    return Section(title, columns, tuple(rows), note=note), absent


def gated(candidates: Iterable[CandidateVerdict], *verdicts: Verdict) -> list[tuple[CandidateVerdict, TailRate]]:
    """Return the gated rates with these verdicts, in the order of the verdicts, the furthest above tolerance first."""
    found = []
    for verdict in verdicts:
        for candidate in candidates:
            rates = [one for one in candidate.tail_events if one.verdict == verdict]
            rates.sort(key=lambda one: (one.tolerance or 0.0) - (one.rate or 0.0))
            found += [(candidate, one) for one in rates]
    return found


def rates_section(judgement: Judgement, *, passed: bool) -> Section:
    """Return the table of the gated rates that pass, or of those that do not."""
    found = gated(judgement.candidates, *(("pass",) if passed else _OPEN))
    rows = tuple(
        (
            Cell(candidate.name, verdict=one.verdict),
            Cell(rate_place(one), note=_remark(one)),
            Cell(f"{one.events}/{one.n}", f"{_limits(one)}, tolerated {rate_percent(one.tolerance)}", strong=True),
        )
        for candidate, one in found
    )
    columns = names("candidate", "event") + numbers("rate, limits")
    title = "Gated rates within their tolerance" if passed else "Gated rates that do not pass"
    return Section(title, columns, rows, folded=f"{len(rows)} within the tolerance" if passed else "")


def holding_back(candidate: CandidateVerdict, stratum: StratumVerdict) -> list[TailRate]:
    """Return the gated rates of a stratum that do not pass; a rate of the whole slice belongs to all its strata."""
    return [
        one
        for one in candidate.tail_events
        if one.slice == stratum.slice and one.stratum in (stratum.stratum, "all") and one.verdict not in (None, "pass")
    ]


def passes(candidate: CandidateVerdict, stratum: StratumVerdict) -> bool:
    """Return whether a candidate may take a stratum's traffic: its scores pass there, and so does every gated rate.

    One that could not be judged (its control failed, say) passes nowhere, whatever its strata say.
    """
    return candidate.verdict != "not_judged" and stratum.verdict == "pass" and not holding_back(candidate, stratum)


def rate_place(one: TailRate) -> str:
    """Name a rate: ``empty in typical, task=facts``."""
    return f"{one.kind} in {place(one)}"


def rate_percent(value: float | None, apart_from: float | None = None) -> str:
    """Return a rate as a percentage with two significant digits, ``-`` if there is none.

    More digits if it would otherwise read like `apart_from` without being equal: a limit just above its tolerance.
    """
    if value is None:
        return "-"
    texts_ = (f"{100 * value:.{digits}g} %" for digits in _DIGITS)
    return next((one for one in texts_ if value == apart_from or one != rate_percent(apart_from)), f"{100 * value} %")


def _limits(one: TailRate) -> str:
    if one.low is None and one.high is None:
        return "-"
    return f"{rate_percent(one.low, one.tolerance)} to {rate_percent(one.high, one.tolerance)}"


def _remark(one: TailRate) -> str:
    """Return what the figures of a gated rate do not say: what would decide it, or why it was not judged."""
    if one.verdict == "inconclusive" and one.items_to_decide:
        return f"about {one.items_to_decide:,} more items would decide it"
    return one.reason if one.verdict in ("inconclusive", "no_signal", "not_judged") else ""


def rate_sentence(one: TailRate, candidate: str) -> str:
    """Return how often, how sure and against which tolerance, with the place."""
    return f"{candidate}: {rate_place(one)} ({meaning(one.kind)}): {rate_figures(one)}"


def rate_figures(one: TailRate) -> str:
    """Return how often, how sure and against which tolerance; the reason if no answer was checked."""
    if not one.n:
        return f"{one.reason}."
    found = f"{one.events} of {one.n} items ({rate_percent(one.rate)}, limits {_limits(one)})"
    own = "" if one.baseline_rate is None else f"; the baseline itself: {rate_percent(one.baseline_rate)}"
    more = f" About {one.items_to_decide:,} more items would decide it." if one.items_to_decide else ""
    return f"{found}, tolerated {rate_percent(one.tolerance)}{own}.{more}"


def sentences(candidates: Sequence[CandidateVerdict], *verdicts: Verdict) -> list[str]:
    """Return a sentence per gated rate with one of these verdicts."""
    return [rate_sentence(one, candidate.name) for candidate, one in gated(candidates, *verdicts)]
