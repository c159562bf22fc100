"""Why a stratum has its verdict, in a sentence: made from the figures, and never read back.

`harness.judge.decisions` says which reason holds; the words and figures come from here alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from harness.judge.comparison import Look, StratumNumbers
from harness.judge.decisions import Decision, Reason

__all__ = ["points", "reason_text"]

_MOST_DECIMALS = 4


def points(value: float | None, *, sign: bool = True, apart_from: float | None = None) -> str:
    """Return a proportion in points with one decimal (0.02 is ``+2.0``), ``-`` if there is none.

    More decimals if it would otherwise read like `apart_from` without being equal: a limit just beyond its margin.
    """
    if value is None or not math.isfinite(value):
        return "-"
    decimals = 1
    if apart_from is not None and value != apart_from:
        while decimals < _MOST_DECIMALS and f"{value * 100:.{decimals}f}" == f"{apart_from * 100:.{decimals}f}":
            decimals += 1
    return f"{value * 100 + 0.0:{'+' if sign else ''}.{decimals}f}"


def reason_text(numbers: StratumNumbers, decision: Decision) -> str:
    """Return the sentence for a decision's reason, with its figures; empty if it has none."""
    return _WORDS[decision.reason](numbers, decision) if decision.reason else ""


def _fail(numbers: StratumNumbers, decision: Decision) -> str:
    result = _look(decision).result
    return (
        f"{points(result.delta)} points against a margin of {100.0 * numbers.margin:.3g}: "
        f"{result.lost} lost, {result.gained} gained of {result.n}"
    )


def _undecided(numbers: StratumNumbers, decision: Decision) -> str:
    result, more = _look(decision).result, decision.items_to_decide
    limits = f"{points(result.low)} points to {points(result.high)} points around a margin of"
    return f"{limits} {100.0 * numbers.margin:.3g}; " + (NO_NUMBER if more is None else MORE_ITEMS.format(more))


BLIND_TO_CACHE = (
    "blind to the KV cache: its scores come from reading the prompt, in which no cache is used; ask for free text"
)
NO_NUMBER = "no number of items is sure to decide it"
MORE_ITEMS = "about {} more items would decide it"


def _no_signal(numbers: StratumNumbers, decision: Decision) -> str:
    mean = decision.look.baseline_mean if decision.look is not None else numbers.not_asked
    text = numbers.unusable or (
        f"the baseline's {mean:.3f} is not shown to be above guessing ({numbers.chance:.3f}) by more "
        f"than the margin {numbers.margin:g}, so no damage could be seen"
    )
    return text if decision.look is not None else f"{text}; the candidate was not asked (execution.skip_blind)"


def _one_sided(numbers: StratumNumbers, _: Decision) -> str:
    total = numbers.asked + numbers.unmatched
    return f"{numbers.one_sided} of {total} items have an answer on one side only"


def _worst_case(numbers: StratumNumbers, _: Decision) -> str:
    return f"it passes only if the {numbers.one_sided} items with an answer on one side only were not lost"


def _look(decision: Decision) -> Look:
    if decision.look is None:
        raise ValueError(f"the reason {decision.reason!r} needs figures, and the decision has none")
    return decision.look


_WORDS: Mapping[Reason, Callable[[StratumNumbers, Decision], str]] = {
    "fail": _fail,
    "undecided": _undecided,
    "no_signal": _no_signal,
    "one_sided": _one_sided,
    "worst_case": _worst_case,
    "unanswered": lambda *_: "none of its items was answered by both sides",
    "cache_blind": lambda *_: BLIND_TO_CACHE,
    "one_cluster": lambda *_: "all its items share one source: more sources are needed",
}
