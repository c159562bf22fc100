"""Which rates of tail events pass, fail or stay open, under the tolerances that were declared.

Pass: the upper limit lies below the tolerance, at level alpha, in every gated cell (an intersection-union test, no
correction). Fail: the lower limit lies above it, after Holm over the candidate's gated cells at this family's part of
alpha; the scores' family has the other part, see docs/decisions.md. A cell without a tolerance has limits and no
verdict. It knows counts and rules, not answers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from harness import stats
from harness.judge.rules import Rules
from harness.judge.summaries import TailRate
from harness.judge.tail_counts import BLOW_UP, Cell
from harness.records import LATENCY_KINDS
from harness.stats.events import EventRate, event_rate, items_to_decide_rate

__all__ = ["ALLOW_ONE_SIDED", "judge_rates", "unmatched_tolerances"]

ALLOW_ONE_SIDED = 0.01
"""Share of a stratum's items that one side alone may have answered."""


def judge_rates(cells: Sequence[Cell], rules: Rules) -> tuple[TailRate, ...]:
    """Return every cell its limits and, where a tolerance gates it, its verdict, in the order given.

    A kind that a slice's rules name and that no answer of it was looked at for is not judged, and says so.
    """
    alpha = rules.policy.alpha
    found = [event_rate(one.events, one.clusters, alpha=alpha) if one.items else None for one in cells]
    tolerances = [rules.tolerance(one.slice, one.stratum, one.kind) for one in cells]
    gated = [at for at, tolerance in enumerate(tolerances) if tolerance is not None]
    adjusted: dict[int, float] = dict.fromkeys(gated, 1.0)
    tested = [at for at in gated if not _unjudged(cells[at]) and not cells[at].unasked]
    raw = [_p_high(found[at], tolerances[at]) for at in tested]
    for at, p in zip(tested, stats.holm(raw), strict=True):
        adjusted[at] = min(float(p) * rules.families, 1.0)
    strictest = alpha / rules.families / max(len(tested), 1)
    rates = [
        _judged(_rate(cell, rate, tolerance), cell, rate, adjusted.get(at), alpha, strictest)
        for at, (cell, rate, tolerance) in enumerate(zip(cells, found, tolerances, strict=True))
    ]
    return (*rates, *_never_seen(rates, rules))


def _p_high(rate: EventRate | None, tolerance: float | None) -> float:
    return 1.0 if rate is None or tolerance is None else rate.p_high(tolerance)


def _rate(cell: Cell, rate: EventRate | None, tolerance: float | None) -> TailRate:
    n = len(cell.items)
    return TailRate(
        slice=cell.slice,
        stratum=cell.stratum,
        kind=cell.kind,
        events=sum(cell.events),
        n=n,
        rate=None if rate is None else rate.rate,
        low=None if rate is None else rate.low,
        high=None if rate is None else rate.high,
        tolerance=tolerance,
        verdict=None,
        baseline_rate=None if rate is None or cell.kind == BLOW_UP else sum(cell.baseline) / n,
    )


def _unjudged(cell: Cell) -> str:
    """Return why nothing can be said of a cell; empty if something can."""
    if cell.unseen:
        return f"{cell.unseen} of its items were answered before tail events were recorded: run them again"
    asked = len(cell.items) + cell.one_sided
    if cell.one_sided > math.ceil(ALLOW_ONE_SIDED * asked):
        return f"{cell.one_sided} of {asked} items have an answer on one side only"
    if cell.items:
        return ""
    if cell.kind in LATENCY_KINDS:
        return "none of its answers was timed on both sides, by a warm server to which the prompt was new"
    return "none of its items was answered by both sides"


def _judged(  # noqa: PLR0911 - one return per verdict
    one: TailRate, cell: Cell, rate: EventRate | None, adjusted: float | None, alpha: float, strictest: float
) -> TailRate:
    if one.tolerance is None or adjusted is None:
        return one
    why = _unjudged(cell)
    if why or rate is None:
        return replace(one, verdict="not_judged", p_adjusted=adjusted, reason=why)
    told = f"{one.events} of {one.n} against a tolerance of {100.0 * one.tolerance:.3g} %"
    if cell.unasked:
        why = f"{told}; {cell.unasked} items were skipped by early stopping, so the remaining ones are a biased sample"
        return replace(one, verdict="inconclusive", p_adjusted=adjusted, reason=why)
    if adjusted < alpha:
        return replace(one, verdict="fail", p_adjusted=adjusted, reason=told)
    clean = event_rate([not shown for shown in cell.baseline], cell.clusters, alpha=alpha)
    if clean.low <= one.tolerance:
        why = (
            f"the baseline's own answers show it in {sum(cell.baseline)} of {one.n}, so not enough are left for more "
            f"than {100.0 * one.tolerance:.3g} % to be seen"
        )
        return replace(one, verdict="no_signal", p_adjusted=adjusted, reason=why)
    # An item with an answer on one side only may have been an event, as it may have been lost: see `decisions`.
    missing = cell.one_sided / (len(cell.items) + cell.one_sided)
    if (1.0 - missing) * rate.high + missing < one.tolerance:
        return replace(one, verdict="pass", p_adjusted=adjusted)
    more = None if rate.high < one.tolerance else items_to_decide_rate(rate, one.tolerance, alpha, strictest)
    what = f"about {more} more items would decide it" if more is not None else "no number of items is sure to decide it"
    why = f"{told}: the rate may be up to {100.0 * rate.high:.2g} %; {what}"
    if rate.high < one.tolerance:
        why = f"it passes only if the {cell.one_sided} items with an answer on one side only were no events"
    return replace(one, verdict="inconclusive", p_adjusted=adjusted, items_to_decide=more, reason=why)


def _never_seen(rates: Sequence[TailRate], rules: Rules) -> list[TailRate]:
    """Return a rate that is not judged for every kind that a slice names and no answer was looked at for.

    A missing figure is never a good one.
    """
    lacking = []
    for name, own in rules.slices.items():
        for kind, tolerance in (own.tail_events or {}).items():
            if not any(one.slice == name and kind in (one.kind, "*") for one in rates):
                reason = "a tolerance was declared, and no answer was looked at for it"
                empty = TailRate(name, "all", kind, 0, 0, None, None, None, tolerance, "not_judged", None)
                lacking.append(replace(empty, p_adjusted=1.0, reason=reason))
    return lacking


def unmatched_tolerances(rates: Sequence[TailRate], rules: Rules) -> list[str]:
    """Return a sentence for each of the policy's tolerances that applies to no answer."""
    own = {name for name, one in rules.slices.items() if one.tail_events is not None}
    held = {one.kind for one in rates if one.tolerance is not None and one.slice not in own}
    return [
        f"the tolerance for tail events of kind {kind!r} applies to no answer and has no effect"
        for kind in rules.policy.tail_events
        if not (held if kind == "*" else kind in held)
    ]
