"""The numbers of a comparison, before anyone says what they mean: what `compare` hands to `gate`.

Frozen, plain records. Deltas are candidate minus baseline, in proportions. They know no policy and no verdict.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from harness.judge.summaries import Average, Cliff
from harness.stats import PairedResult
from harness.stats.sequential import OBRIEN_FLEMING, Spending

__all__ = ["Comparison", "Comparisons", "Look", "Scope", "StratumNumbers"]


@dataclass(frozen=True, slots=True)
class Look:
    """One stratum as it stood at one look."""

    number: int
    """The look, from 1."""
    fractions: tuple[float, ...]
    """Shares of the planned items at the looks so far, its own last; 1 at the last look of all."""
    level: float
    """p-value to stay below at this look: alpha if there is one look, 0 if nothing may be spent yet."""
    above_chance_level: float
    """The same for the test of the baseline against guessing."""
    result: PairedResult
    """Limits (at `level`) and p-values."""
    baseline_mean: float
    """Mean score of the baseline."""
    candidate_mean: float
    """Mean score of the candidate."""
    above_chance_p: float | None
    """p-value of 'the baseline is at most the margin above guessing'; None if one source alone cannot say."""
    spending: Spending = OBRIEN_FLEMING
    """What a look may spend of alpha."""


@dataclass(frozen=True, slots=True)
class StratumNumbers:
    """One candidate in one stratum."""

    slice: str
    """The slice's label."""
    stratum: str
    """The cell of its axes."""
    margin: float
    """Largest tolerated drop."""
    gating: bool
    """Whether it decides."""
    looks: tuple[Look, ...]
    """In order; empty if no item was answered by both sides."""
    planned: int
    """Items of the fixed plan."""
    asked: int
    """Items asked of both sides by the last look."""
    unanswered: int
    """Items that one side or both did not answer."""
    unmatched: int
    """Items that only one side has."""
    one_sided: int
    """Items that only one side has, or answered."""
    excessive: bool
    """Whether `one_sided` is more than is allowed."""
    flips: int
    """Items whose score differs."""
    chance: float
    """The score that guessing would give, mean over items."""
    weight: float
    """Its share of traffic, relative to the other strata."""
    levels: Mapping[str, str]
    """Axis to level, where all its items have the same."""
    not_asked: float | None = None
    """The baseline's mean score, if only the baseline was asked because it shows no signal here; else None."""
    unusable: str = ""
    """Why the baseline's answers say nothing of what it can do, see `harness.judge.unusable`."""
    pooled: bool = False
    """Whether this is no stratum but the weighted difference over all gating ones, see `harness.judge.pooled`."""


@dataclass(frozen=True, slots=True)
class Scope:
    """The mean difference over everything, or over one slice, as one number with its error."""

    slice: str
    """The slice's label, empty for everything."""
    delta: float
    """Candidate minus baseline, mean over items."""
    error: float
    """Its standard error, by clusters."""
    baseline_mean: float
    """Mean score of the baseline."""
    baseline_error: float
    """Its standard error, by clusters."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """One candidate against the baseline."""

    name: str
    """The candidate's name."""
    refused: str = ""
    """Why the two cannot be compared; empty if they can."""
    strata: tuple[StratumNumbers, ...] = ()
    """In the order in which a report shows them."""
    pooled: StratumNumbers | None = None
    """The gating strata as one, if there is a pooled margin."""
    averages: tuple[Average, ...] = ()
    """All first, then by slice."""
    cliffs: tuple[Cliff, ...] = ()
    """Along ordered axes."""
    scopes: tuple[Scope, ...] = ()
    """All first, then by slice."""
    worse: int = 0
    """Strata significantly worse (Benjamini-Hochberg at 5 %)."""
    better: int = 0
    """Strata significantly better (likewise)."""
    hidden: str = ""
    """What the average hides, in one line."""
    warnings: tuple[str, ...] = ()
    """What a reader must know of this pair: unmatched items."""

    @property
    def judged(self) -> tuple[StratumNumbers, ...]:
        """What is decided together: the strata, and their pooled difference last, if there is one."""
        return self.strata if self.pooled is None else (*self.strata, self.pooled)


@dataclass(frozen=True, slots=True)
class Comparisons:
    """Every candidate against one baseline."""

    baseline: str
    """The baseline's name."""
    candidates: tuple[Comparison, ...]
    """One each, in the order given."""
    control: Comparison | None = None
    """The baseline against itself at another batch size."""
    control_reversed: Comparison | None = None
    """The same with the sides swapped: a baseline worse than its own repetition is no better."""
    warnings: tuple[str, ...] = field(default=())
    """What a reader must know of all of them."""
