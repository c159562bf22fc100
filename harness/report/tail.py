"""Tail events as every report tells them: a row per kind, the gated rates that do not pass, and the floor.

Computes no figure but sums of counts over strata. What it gives may hold names from outside; whoever writes it out
sanitizes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from harness.judge.verdicts import CandidateVerdict, Judgement, StratumVerdict, TailRate, Verdict
from harness.records import TAIL_KINDS

__all__ = [
    "KindRow",
    "count_text",
    "gated",
    "holding_back",
    "kind_rows",
    "limits",
    "meaning",
    "passes",
    "rate_figures",
    "rate_percent",
    "rate_place",
    "rate_sentence",
    "remark",
    "shown_rows",
    "told",
]


_DIGITS = (2, 3, 4, 5, 6)


@dataclass(frozen=True, slots=True)
class KindRow:
    """One kind of tail event over all strata."""

    kind: str
    """Its name."""
    baseline: str
    """How often the baseline's own answers show it: ``3/120``; ``-`` for what only a pair shows."""
    control: str
    """Events of the A/A control against the baseline; ``-`` where none was run."""
    candidates: tuple[str, ...]
    """Events of each candidate, in the judgement's order."""


def meaning(kind: str) -> str:
    """Say what a kind of event is."""
    return TAIL_KINDS.get(kind, kind)


def count_text(rates: Sequence[TailRate]) -> str:
    """Write the events over strata as ``3/120``, ``-`` where nobody looked."""
    n = sum(one.n for one in rates)
    return f"{sum(one.events for one in rates)}/{n}" if n else "-"


def _own(rates: Sequence[TailRate]) -> str:
    shown = [one for one in rates if one.baseline_rate is not None]
    n = sum(one.n for one in shown)
    return f"{sum(round((one.baseline_rate or 0.0) * one.n) for one in shown)}/{n}" if n else "-"


def _of(candidate: CandidateVerdict | None, kind: str) -> list[TailRate]:
    return [] if candidate is None else [one for one in candidate.tail_events if one.kind == kind]


def kind_rows(judgement: Judgement) -> list[KindRow]:
    """Give a row per kind that some answer was looked at for; empty where nobody looked."""
    rows = []
    for kind in TAIL_KINDS:
        found = [_of(one, kind) for one in judgement.candidates]
        widest = max(found, key=lambda rates: sum(one.n for one in rates), default=[])
        if any(one.n for one in widest):
            control = count_text(_of(judgement.control, kind))
            rows.append(KindRow(kind, _own(widest), control, tuple(map(count_text, found))))
    return rows


def shown_rows(judgement: Judgement) -> tuple[list[KindRow], list[str]]:
    """Give the rows of what somebody showed or what gates, and the kinds that were looked for in vain."""
    gating = {one.kind for _, one in gated(judgement, "pass", "fail", "inconclusive", "no_signal", "not_judged")}
    rows, quiet = [], []
    for row in kind_rows(judgement):
        found = any(not text.startswith(("0/", "-")) for text in (row.baseline, row.control, *row.candidates))
        if found or row.kind in gating:
            rows.append(row)
        else:
            quiet.append(row.kind)
    return rows, quiet


def gated(judgement: Judgement, *verdicts: Verdict) -> list[tuple[CandidateVerdict, TailRate]]:
    """Give the gated rates with one of these verdicts, over all candidates."""
    return [(c, one) for c in judgement.candidates for one in c.tail_events if one.verdict in verdicts]


def told(candidate: CandidateVerdict, *verdicts: Verdict) -> list[TailRate]:
    """Give a candidate's gated rates with one of these verdicts, the furthest above their tolerance first."""
    found = [one for one in candidate.tail_events if one.verdict in verdicts]
    return sorted(found, key=lambda one: (one.tolerance or 0.0) - (one.rate or 0.0))


def holding_back(candidate: CandidateVerdict, stratum: StratumVerdict) -> list[TailRate]:
    """Give the gated rates of a stratum that do not pass; one of the whole slice is one of each of its strata."""
    return [
        one
        for one in candidate.tail_events
        if one.slice == stratum.slice and one.stratum in (stratum.stratum, "all") and one.verdict not in (None, "pass")
    ]


def passes(candidate: CandidateVerdict, stratum: StratumVerdict) -> bool:
    """Say whether a candidate may take a stratum's traffic: its scores pass there, and so does every gated rate.

    One that could not be judged (its control failed, say) passes nowhere, whatever its strata say.
    """
    return candidate.verdict != "not_judged" and stratum.verdict == "pass" and not holding_back(candidate, stratum)


def rate_place(one: TailRate) -> str:
    """Name where a rate stands: ``empty in typical, task=facts``."""
    return f"{one.kind} in {one.slice if one.stratum == 'all' else f'{one.slice}, {one.stratum}'}"


def rate_percent(value: float | None, apart_from: float | None = None) -> str:
    """Write a rate as a percentage with two digits that count, ``-`` where there is none.

    More digits where it would otherwise read like `apart_from` without being it: a limit just above its tolerance.
    """
    if value is None:
        return "-"
    texts = (f"{100 * value:.{digits}g} %" for digits in _DIGITS)
    return next((text for text in texts if value == apart_from or text != rate_percent(apart_from)), f"{100 * value} %")


def limits(one: TailRate) -> str:
    """Write a rate's limits, ``-`` where there are none."""
    if one.low is None and one.high is None:
        return "-"
    return f"{rate_percent(one.low, one.tolerance)} to {rate_percent(one.high, one.tolerance)}"


def remark(one: TailRate) -> str:
    """Say of a gated rate what its figures do not: what would decide it, or why it was not judged."""
    if one.verdict == "inconclusive" and one.items_to_decide:
        return f"about {one.items_to_decide:,} more items would decide it"
    return one.reason if one.verdict in ("inconclusive", "no_signal", "not_judged") else ""


def rate_sentence(one: TailRate, candidate: str) -> str:
    """Say how often, how sure and against which tolerance."""
    return f"{candidate}: {rate_place(one)} ({meaning(one.kind)}): {rate_figures(one)}"


def rate_figures(one: TailRate) -> str:
    """Say how often, how sure and against which tolerance, without saying where; the reason where nobody looked."""
    if not one.n:
        return f"{one.reason}."
    found = f"{one.events} of {one.n} items ({rate_percent(one.rate)}, limits {limits(one)})"
    own = "" if one.baseline_rate is None else f"; the baseline itself: {rate_percent(one.baseline_rate)}"
    more = f" About {one.items_to_decide:,} more items would decide it." if one.items_to_decide else ""
    return f"{found}, tolerated {rate_percent(one.tolerance)}{own}.{more}"
