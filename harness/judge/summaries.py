"""Figures of a candidate besides its strata: averages, cliffs, tail events, probabilities of choices. Plain records.

Deltas are candidate minus baseline, as proportions (0.02 is two points); a figure that could not be computed is None.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["Average", "ChoiceProbability", "Cliff", "Quantity", "TailRate", "Verdict"]

Verdict = Literal["pass", "fail", "inconclusive", "no_signal", "not_judged"]


@dataclass(frozen=True, slots=True)
class ChoiceProbability:
    """How likely the right choice is on both sides: another quantity than the score, and never part of a verdict."""

    n: int
    """Items with choices that both sides weighed."""
    baseline_mean: float
    """Mean probability of the right choice, the baseline's."""
    candidate_mean: float
    """The candidate's."""
    delta: float
    """Candidate minus baseline."""
    low: float
    """Lower one-sided limit of delta at level 1 - alpha."""
    high: float
    """Upper one-sided limit of delta at level 1 - alpha."""


@dataclass(frozen=True, slots=True)
class TailRate:
    """How often a candidate's answers show one kind of tail event that the baseline's do not, in one stratum."""

    slice: str
    """The slice's label."""
    stratum: str
    """The cell of its axes."""
    kind: str
    """One of `harness.records.TAIL_KINDS`."""
    events: int
    """Items on which the candidate's answer shows it and the baseline's does not."""
    n: int
    """Items that both answered and that were looked at for it."""
    rate: float | None
    """Their share; None if n is 0."""
    low: float | None
    """Lower one-sided limit of the rate at level 1 - alpha."""
    high: float | None
    """Upper one-sided limit of the rate at level 1 - alpha."""
    tolerance: float | None
    """Largest tolerated rate; None if the kind does not gate here."""
    verdict: Verdict | None
    """What it comes to; None if it does not gate."""
    baseline_rate: float | None
    """Share of the items on which the baseline itself shows it: a detector's alarms where nothing was quantized."""
    p_adjusted: float | None = None
    """p-value of 'the rate is at most the tolerance' after Holm over the candidate's gated rates."""
    items_to_decide: int | None = None
    """How many more items would decide it if the rate stays; None if none are needed or none would do."""
    reason: str = ""
    """A sentence where the verdict needs one."""


@dataclass(frozen=True, slots=True)
class Quantity:
    """How much a candidate thinks or writes in one stratum, as a ratio to the baseline."""

    slice: str
    """The slice's label."""
    stratum: str
    """The cell of its axes."""
    kind: str
    """One of `harness.records.QUANTITIES`."""
    n: int
    """Items that both answered in free text."""
    baseline: float | None
    """The baseline's, per item or per solved item; None if it solved none."""
    candidate: float | None
    """The candidate's."""
    ratio: float | None
    """Candidate over baseline; None if a total is 0."""
    low: float | None
    """Lower one-sided limit of the ratio at level 1 - alpha."""
    high: float | None
    """Upper one-sided limit of the ratio at level 1 - alpha."""
    tolerance: float | None
    """Largest tolerated ratio; None if it does not gate here."""
    verdict: Verdict | None = None
    """What it comes to; None if it does not gate."""
    reason: str = ""
    """A sentence where the verdict needs one."""


@dataclass(frozen=True, slots=True)
class Average:
    """What the usual eval would have printed, to be read against the strata."""

    slice: str
    """The slice's label, or ``all``."""
    n: int
    """Items."""
    baseline_mean: float | None
    """Mean over its items, weighted by traffic where weights are given."""
    candidate_mean: float | None
    """The candidate's."""
    delta: float | None
    """Candidate minus baseline."""
    worst_delta: float | None
    """The worst stratum's delta."""
    worst_stratum: str
    """Which that is."""


@dataclass(frozen=True, slots=True)
class Cliff:
    """Where along an ordered axis the candidate leaves the baseline."""

    slice: str
    """The slice's label."""
    axis: str
    """The ordered axis: context tokens, hops."""
    group: str
    """The other axes' levels that were held, empty if pooled."""
    levels: tuple[float, ...]
    """The axis' levels in order."""
    baseline: tuple[float, ...]
    """The baseline's mean at each level."""
    candidate: tuple[float, ...]
    """The candidate's mean at each level."""
    at: float | None
    """First level from which the candidate's drop is estimated above the margin, up to `at_high`; None without one."""
    at_low: float | None
    """Earliest level that the data allow for the cliff: all before it pass; None if all pass."""
    at_high: float | None
    """Latest level that the data allow: the first that fails after Holm; None if none does."""
    effective_baseline: float | None
    """Longest level up to which the baseline keeps the stated score."""
    effective_candidate: float | None
    """The candidate's."""
    score: float
    """The stated score."""
