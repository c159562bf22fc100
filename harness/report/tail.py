"""Rates of tail events in words, and which strata they hold back."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from harness.judge.summaries import TailRate, Verdict
from harness.judge.verdicts import CandidateVerdict, StratumVerdict
from harness.records import TAIL_KINDS
from harness.report.words import place

__all__ = [
    "OPEN", "gated", "holding_back", "limits", "meaning", "passes", "rate_figures", "rate_percent", "rate_place",
    "rate_sentence", "remark", "sentences",
]  # fmt: skip

_DIGITS = (2, 3, 4, 5, 6)
OPEN: tuple[Verdict, ...] = ("fail", "inconclusive", "no_signal", "not_judged")


def meaning(kind: str) -> str:
    """Return what a kind of event is."""
    return TAIL_KINDS.get(kind, kind)


def gated(candidates: Iterable[CandidateVerdict], *verdicts: Verdict) -> list[tuple[CandidateVerdict, TailRate]]:
    """Return the gated rates with these verdicts, in the order of the verdicts, the furthest above tolerance first."""
    found = []
    for verdict in verdicts:
        for candidate in candidates:
            rates = [one for one in candidate.tail_events if one.verdict == verdict]
            rates.sort(key=lambda one: (one.tolerance or 0.0) - (one.rate or 0.0))
            found += [(candidate, one) for one in rates]
    return found


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


def limits(one: TailRate) -> str:
    """Return the limits of a rate."""
    if one.low is None and one.high is None:
        return "-"
    return f"{rate_percent(one.low, one.tolerance)} to {rate_percent(one.high, one.tolerance)}"


def remark(one: TailRate) -> str:
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
    found = f"{one.events} of {one.n} items ({rate_percent(one.rate)}, limits {limits(one)})"
    own = "" if one.baseline_rate is None else f"; the baseline itself: {rate_percent(one.baseline_rate)}"
    more = f" About {one.items_to_decide:,} more items would decide it." if one.items_to_decide else ""
    return f"{found}, tolerated {rate_percent(one.tolerance)}{own}.{more}"


def sentences(candidates: Sequence[CandidateVerdict], *verdicts: Verdict) -> list[str]:
    """Return a sentence per gated rate with one of these verdicts."""
    return [rate_sentence(one, candidate.name) for candidate, one in gated(candidates, *verdicts)]
