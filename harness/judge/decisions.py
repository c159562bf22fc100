"""Which strata of a candidate pass, fail or stay open, look by look.

The one implementation of the stopping rule: the runner asks it which strata need more items, and the gate asks it for
verdicts. Nothing is rounded before it is compared, and a figure that is missing never counts as a good one. It knows
numbers of strata, not items, and nothing of exit codes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from harness import stats
from harness.judge.comparison import Look, StratumNumbers
from harness.judge.summaries import Verdict
from harness.stats.sequential import look_p

__all__ = ["Decision", "Reason", "decide"]

Reason = Literal["fail", "undecided", "no_signal", "one_sided", "worst_case", "unanswered", "one_cluster"]
"""Why a stratum has its verdict; `harness.judge.reasons` has the sentences."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What one stratum comes to, and at which look."""

    verdict: Verdict
    """The word."""
    look: Look | None
    """The numbers that it rests on; None if there are none."""
    p_adjusted: float | None
    """p_fail after Holm over the gating strata (and Bonferroni over families); None in an advisory stratum."""
    reason: Reason | None = None
    """Why; None if the verdict speaks for itself."""
    items_to_decide: int | None = None
    """How many more items would decide it if the rates stay; None if none are needed or none would do."""


def decide(strata: Sequence[StratumNumbers], alpha: float, families: int = 1) -> list[Decision]:
    """Judge one candidate's strata together: at each look in turn, until each is decided or out of items.

    alpha: the chance of a wrong pass, and of a wrong fail, of the candidate. families: among how many families of tests
    the wrong fail is shared out; the scores are one of them and get an equal part (Bonferroni).
    """
    return _Deciding(strata, alpha, families).run()


class _Deciding:
    """One candidate's strata on their way through the looks."""

    def __init__(self, strata: Sequence[StratumNumbers], alpha: float, families: int) -> None:
        self.strata = strata
        self.alpha = alpha
        self.families = families
        self.done: dict[int, Decision] = {
            at: _unjudged(one) for at, one in enumerate(strata) if one.excessive or not one.looks
        }
        self.family = _family(strata, alpha / families)
        self.p_fail = [1.0] * len(strata)
        self.seen: dict[int, Look] = {}

    def run(self) -> list[Decision]:
        """Take every look, then say what is still open."""
        for number in sorted({look.number for one in self.strata for look in one.looks}):
            self._take(number)
            self._decide()
        adjusted = self._adjusted()
        for at in range(len(self.strata)):
            if at not in self.done:
                self.done[at] = _open(self.seen[at], self.alpha / self.families / max(len(self.family), 1))
        return [replace(self.done[at], p_adjusted=adjusted[at]) for at in range(len(self.strata))]

    def _take(self, number: int) -> None:
        for at, one in enumerate(self.strata):
            looks = [look for look in one.looks if look.number == number]
            if at not in self.done and looks:
                self.seen[at] = looks[0]
                # One p-value for all looks so far, see `harness.stats.sequential`.
                own = look_p(looks[0].result.p_fail, looks[0].fractions, looks[0].spending)
                self.p_fail[at] = min(self.p_fail[at], own)

    def _adjusted(self) -> list[float | None]:
        """p-values of failing after Holm over the gating strata that are large enough to fail at all (Tarone)."""
        adjusted: list[float | None] = [1.0 if one.gating else None for one in self.strata]
        for at, p in zip(self.family, stats.holm([self.p_fail[at] for at in self.family]), strict=True):
            adjusted[at] = min(float(p) * self.families, 1.0)
        return adjusted

    def _decide(self) -> None:
        adjusted = self._adjusted()
        for at, one in enumerate(self.strata):
            if at in self.done or at not in self.seen:
                continue
            look = self.seen[at]
            own = adjusted[at]
            if (self.p_fail[at] if own is None else own) < self.alpha:
                self.done[at] = Decision("fail", look, None, "fail")
            elif _passes(look, _missing(one)):
                self.done[at] = Decision("pass", look, None)
        self._close_pooled()

    def _close_pooled(self) -> None:
        """Leave the pooled difference open for good once a gating stratum has failed: it decides nothing any more."""
        if any(one.verdict == "fail" and self.strata[at].gating for at, one in self.done.items()):
            for at, one in enumerate(self.strata):
                if one.pooled and at not in self.done:
                    look = self.seen.get(at)
                    self.done[at] = Decision("inconclusive", look, None, "undecided" if look else None)


def _family(strata: Sequence[StratumNumbers], alpha: float) -> list[int]:
    """Return the gating strata that could fail, were every item lost: by their item counts, never by their answers."""
    gating = [at for at, one in enumerate(strata) if one.gating]
    smallest = [stats.smallest_fail_p(strata[at].planned, strata[at].margin) for at in gating]
    able = stats.tarone_can_reject(smallest, alpha)
    return [at for at, fits in zip(gating, able, strict=True) if fits]


def _more_items(look: Look, alpha: float) -> int | None:
    """How many more items would decide a stratum; where only Holm keeps it from failing, at its strictest level."""
    result, counts = look.result, look.result.counts
    more = result.items_to_decide
    if more == 0:
        more = stats.items_to_decide(counts.lost, counts.gained, counts.n, result.margin, alpha, unit=counts.unit)
    return more or None


def _missing(one: StratumNumbers) -> float:
    """Return the share of items that have an answer on one side only."""
    return one.one_sided / max(one.asked + one.unmatched, 1)


def _passes(look: Look, missing: float) -> bool:
    """Whether the drop is shown to be smaller than the margin, on a baseline that is shown to have skill to lose.

    Even if every item with an answer on one side only were lost: with a share m of them, the difference over all items
    is at least (1 - m) times that of the others, less m.
    """
    shown = look.result.p_pass < look.level and (1.0 - missing) * look.result.low - missing > -look.result.margin
    return shown and look.above_chance_p is not None and look.above_chance_p < look.above_chance_level


def _unjudged(one: StratumNumbers) -> Decision:
    if one.not_asked is not None:
        return Decision("no_signal", None, None, "no_signal")
    if one.excessive:
        return Decision("not_judged", one.looks[-1] if one.looks else None, None, "one_sided")
    return Decision("not_judged", None, None, "unanswered")


def _open(look: Look, strictest: float) -> Decision:
    """Return why a stratum neither passed nor failed, and what would decide it."""
    if look.above_chance_p is not None and not look.above_chance_p < look.above_chance_level:
        return Decision("no_signal", look, None, "no_signal")
    if look.above_chance_p is None:
        return Decision("inconclusive", look, None, "one_cluster")
    if _passes(look, 0.0):
        return Decision("inconclusive", look, None, "worst_case")
    return Decision("inconclusive", look, None, "undecided", _more_items(look, strictest))
