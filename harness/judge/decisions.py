"""Which strata of a candidate pass, fail or stay open, look by look, and why.

The one implementation of the stopping rule: the runner asks it which strata need more items, and the gate asks it for
verdicts. Nothing is rounded before it is compared, and a figure that is missing never counts as a good one.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from harness import stats
from harness.judge.summaries import Look, StratumNumbers, Verdict
from harness.stats import PairedResult
from harness.stats.sequential import look_p

Reason = Literal[
    "fail", "undecided", "no_signal", "one_sided", "worst_case", "unanswered", "one_cluster", "cache_blind"
]
"""Why a stratum has its verdict; `reason_text` has the sentences."""

NO_NUMBER = "no number of items is sure to decide it"


@dataclass(frozen=True, slots=True)
class Decision:
    """What one stratum comes to, and at which look."""

    verdict: Verdict
    look: Look | None  # the numbers that it rests on
    p_adjusted: float | None  # p_fail after Holm over gating strata, Bonferroni over families; None if advisory
    reason: Reason | None = None  # None if the verdict speaks for itself
    items_to_decide: int | None = None  # how many more would, at these rates; None if none are needed or none would do


def decide(strata: Sequence[StratumNumbers], alpha: float, families: int = 1) -> list[Decision]:
    """Judge one candidate's strata together: at each look in turn, until each is decided or out of items.

    alpha: the chance of a wrong pass, and of a wrong fail, of the candidate. families: among how many families of tests
    the wrong fail is shared out; the scores are one of them and get an equal part (Bonferroni).
    """
    family = _family(strata, alpha / families)
    done = {at: _unjudged(one) for at, one in enumerate(strata) if one.excessive or not one.looks}
    seen: dict[int, Look] = {}
    p_fail = [1.0] * len(strata)
    adjusted = _adjusted(strata, family, p_fail, families)
    for number in sorted({look.number for one in strata for look in one.looks}):
        for at, one in enumerate(strata):
            for look in one.looks:
                if look.number == number and at not in done:
                    seen[at] = look
                    # One p-value for all looks so far, see `harness.stats.sequential`.
                    p_fail[at] = min(p_fail[at], look_p(look.result.p_fail, look.fractions, look.spending))
        adjusted = _adjusted(strata, family, p_fail, families)
        for at, look in seen.items():
            word = None if at in done else _word(strata[at], look, p_fail[at], adjusted[at], alpha)
            if word is not None:
                done[at] = Decision(word, look, None, "fail" if word == "fail" else None)
        if any(one.verdict == "fail" and strata[at].gating for at, one in done.items()):
            # The pooled difference decides nothing any more, and stays open for good.
            for at, one in enumerate(strata):
                if one.pooled and at not in done:
                    done[at] = Decision("inconclusive", seen.get(at), None, "undecided" if at in seen else None)
    strictest = alpha / families / max(len(family), 1)
    found = [done.get(at) or _open(seen[at], strictest) for at in range(len(strata))]
    return [_settled(numbers, one, p) for numbers, one, p in zip(strata, found, adjusted, strict=True)]


def _settled(numbers: StratumNumbers, found: Decision, p_adjusted: float | None) -> Decision:
    """Return a decision with its p-value; no signal in a stratum that the change cannot reach."""
    if numbers.cache_blind and found.verdict in ("pass", "inconclusive"):
        found = replace(found, verdict="no_signal", reason="cache_blind", items_to_decide=None)
    return replace(found, p_adjusted=p_adjusted)


def _family(strata: Sequence[StratumNumbers], alpha: float) -> list[int]:
    """Return the gating strata that could fail, were every item lost: by their item counts, never by their answers."""
    gating = [at for at, one in enumerate(strata) if one.gating]
    smallest = [stats.smallest_fail_p(strata[at].planned, strata[at].margin) for at in gating]
    return [at for at, fits in zip(gating, stats.tarone_can_reject(smallest, alpha), strict=True) if fits]


def _adjusted(
    strata: Sequence[StratumNumbers], family: Sequence[int], p_fail: Sequence[float], families: int
) -> list[float | None]:
    """p-values of failing after Holm over the gating strata that are large enough to fail at all (Tarone)."""
    adjusted: list[float | None] = [1.0 if one.gating else None for one in strata]
    for at, p in zip(family, stats.holm([p_fail[at] for at in family]), strict=True):
        adjusted[at] = min(float(p) * families, 1.0)
    return adjusted


def _word(one: StratumNumbers, look: Look, p_fail: float, adjusted: float | None, alpha: float) -> Verdict | None:
    if (p_fail if adjusted is None else adjusted) < alpha:
        return "fail"
    half_answered = 2 * one.unanswered <= one.asked
    return "pass" if half_answered and _passes(look, look.result, look.worst or look.result) else None


def _passes(look: Look, *results: PairedResult) -> bool:
    """Whether each result shows a drop smaller than the margin, on a baseline that is shown to have skill to lose."""
    shown = all(one.p_pass < look.level and one.low > -one.margin for one in results)
    return shown and look.above_chance_p is not None and look.above_chance_p < look.above_chance_level


def _unjudged(one: StratumNumbers) -> Decision:
    if one.not_asked is not None:
        return Decision("no_signal", None, None, "no_signal")
    reason: Reason = "one_sided" if one.excessive else "unanswered"
    return Decision("not_judged", one.looks[-1] if one.looks else None, None, reason)


def _open(look: Look, strictest: float) -> Decision:
    """Return why a stratum neither passed nor failed, and what would decide it."""
    if look.above_chance_p is None:
        return Decision("inconclusive", look, None, "one_cluster")
    if not look.above_chance_p < look.above_chance_level:
        return Decision("no_signal", look, None, "no_signal")
    if _passes(look, look.result):
        return Decision("inconclusive", look, None, "worst_case")
    result, counts = look.result, look.result.counts
    more = result.items_to_decide
    if more == 0:  # only Holm keeps it from failing: at its strictest level
        more = stats.items_to_decide(counts.lost, counts.gained, counts.n, result.margin, strictest, unit=counts.unit)
    return Decision("inconclusive", look, None, "undecided", more or None)


def points(value: float | None, *, sign: bool = True, apart_from: float | None = None) -> str:
    """Return a proportion in points with one decimal (0.02 is ``+2.0``), ``-`` if there is none.

    More decimals, up to 4, for a limit just beyond its margin, which would read like it: like `apart_from`.
    """
    if value is None or not math.isfinite(value):
        return "-"
    decimals = 1
    if apart_from is not None and value != apart_from:
        while decimals < 4 and f"{value * 100:.{decimals}f}" == f"{apart_from * 100:.{decimals}f}":  # noqa: PLR2004
            decimals += 1
    return f"{value * 100 + 0.0:{'+' if sign else ''}.{decimals}f}"


def reason_text(numbers: StratumNumbers, decision: Decision) -> str:  # noqa: PLR0911 - one per reason
    """Return the sentence for a decision's reason, with its figures; empty if it has none."""
    more, margin = decision.items_to_decide, f"{100.0 * numbers.margin:.3g}"
    match decision.reason, decision.look:
        case "fail", Look(result=result):
            layered = " in layers" if numbers.layers else ""
            moved = f"{result.lost} lost, {result.gained} gained of {result.n}{layered}"
            return f"{points(result.delta)} points against a margin of {margin}: {moved}"
        case "undecided", Look(result=result):
            limits = f"{points(result.low)} points to {points(result.high)} points around a margin of {margin}"
            return f"{limits}; {NO_NUMBER if more is None else f'about {more} more items would decide it'}"
        case "no_signal", look:
            text = numbers.unusable or (
                f"the baseline's {numbers.not_asked if look is None else look.baseline_mean:.3f} is not shown to be "
                f"above guessing ({numbers.chance:.3f}) by more than the margin {numbers.margin:g}, so no damage could "
                "be seen"
            )
            return text if look is not None else f"{text}; the candidate was not asked (execution.skip_blind)"
        case "one_sided", _:
            return f"{numbers.one_sided} of {numbers.asked + numbers.unmatched} items have an answer on one side only"
        case "worst_case", _ if 2 * numbers.unanswered > numbers.asked:
            return f"{numbers.unanswered} of its {numbers.asked} items were not answered by both sides"
        case "worst_case", _:
            return f"it passes only if the {numbers.one_sided} items with an answer on one side only were not lost"
        case "unanswered", _:
            return "none of its items was answered by both sides"
        case "cache_blind", _:
            seen = "its scores come from reading the prompt, in which no cache is used"
            return f"blind to the KV cache: {seen}; ask for free text"
        case "one_cluster", _:
            return "all its items share one source: more sources are needed"
    return ""
