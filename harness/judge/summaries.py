"""The figures of a comparison as plain, frozen records, before anyone says what they mean.

Deltas are candidate minus baseline, as proportions (0.02 is two points); `low` and `high` are one-sided limits at level
1 - alpha; a figure that could not be computed is None. `slice` is a slice's label, `stratum` the cell of its axes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from harness.stats import PairedResult
from harness.stats.sequential import OBRIEN_FLEMING, Spending

Verdict = Literal["pass", "fail", "inconclusive", "no_signal", "not_judged"]


@dataclass(frozen=True, slots=True)
class ChoiceProbability:
    """How likely the right choice is on both sides: another quantity than the score, and never part of a verdict."""

    n: int  # items with choices that both sides weighed
    baseline_mean: float  # mean probability of the right choice
    candidate_mean: float
    delta: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class TailRate:
    """How often a candidate's answers show one kind of tail event that the baseline's do not, in one stratum."""

    slice: str
    stratum: str
    kind: str  # one of `harness.records.TAIL_KINDS`
    events: int  # items on which the candidate's answer shows it and the baseline's does not
    n: int  # items that both answered and that were looked at for it
    rate: float | None
    low: float | None
    high: float | None
    tolerance: float | None  # largest tolerated rate; None if the kind does not gate here
    verdict: Verdict | None  # None if it does not gate
    baseline_rate: float | None  # share of items on which the baseline itself shows it: a detector's false alarms
    p_adjusted: float | None = None  # p of 'the rate is at most the tolerance' after Holm over the gated rates
    items_to_decide: int | None = None  # how many more would, at this rate; None if none are needed or none would do
    reason: str = ""  # a sentence where the verdict needs one


@dataclass(frozen=True, slots=True)
class Quantity:
    """How much a candidate thinks or writes in one stratum, as a ratio to the baseline."""

    slice: str
    stratum: str
    kind: str  # one of `harness.records.QUANTITIES`
    n: int  # items that both answered in free text
    baseline: float | None  # per item or per solved item; None if it solved none
    candidate: float | None
    ratio: float | None  # candidate over baseline; None if a total is 0
    low: float | None
    high: float | None
    tolerance: float | None  # largest tolerated ratio; None if it does not gate here
    verdict: Verdict | None = None  # None if it does not gate
    reason: str = ""  # a sentence where the verdict needs one


@dataclass(frozen=True, slots=True)
class Average:
    """What the usual eval would have printed, to be read against the strata."""

    slice: str  # or ``all``
    n: int
    baseline_mean: float | None  # weighted by traffic where weights are given
    candidate_mean: float | None
    delta: float | None
    worst_delta: float | None  # of its strata
    worst_stratum: str


@dataclass(frozen=True, slots=True)
class Cliff:
    """Where along an ordered axis the candidate leaves the baseline, see `harness.judge.cliffs`."""

    slice: str
    axis: str
    group: str  # the other axes' levels that were held, empty if pooled
    levels: tuple[float, ...]  # of the axis, in order
    baseline: tuple[float, ...]  # mean at each level
    candidate: tuple[float, ...]
    at: float | None  # first level from which the drop is estimated above the margin, up to `at_high`; None without one
    at_low: float | None  # earliest level that the data allow for the cliff: all before it pass; None if all pass
    at_high: float | None  # latest level that the data allow: the first that fails after Holm; None if none does
    effective_baseline: float | None  # longest level up to which the stated score is kept
    effective_candidate: float | None
    score: float  # the stated score


@dataclass(frozen=True, slots=True)
class Look:
    """One stratum as it stood at one look."""

    number: int  # from 1
    fractions: tuple[float, ...]  # shares of the planned items at the looks so far; 1 at the last look of all
    level: float  # p-value to stay below: alpha if there is one look, 0 if nothing may be spent yet
    above_chance_level: float  # the same for the test of the baseline against guessing
    result: PairedResult  # limits (at `level`) and p-values
    baseline_mean: float
    candidate_mean: float
    above_chance_p: float | None  # p of 'the baseline is at most the margin above guessing'; None with a single source
    spending: Spending = OBRIEN_FLEMING  # what a look may spend of alpha
    worst: PairedResult | None = None  # were each item with an answer on one side only lost; None if there is none


@dataclass(frozen=True, slots=True)
class LayerCounts:
    """One layer of a stratum of which candidates were asked a part, see `harness.judge.layers`."""

    name: str  # unsure or sure
    pool: int  # items that the baseline was asked
    asked: int  # of these, asked of the candidate
    n: int  # answered by both
    lost: int
    gained: int


@dataclass(frozen=True, slots=True)
class StratumNumbers:
    """One candidate in one stratum."""

    slice: str
    stratum: str
    margin: float  # largest tolerated drop
    gating: bool  # whether it decides
    looks: tuple[Look, ...]  # in order; empty if no item was answered by both sides
    planned: int  # items of the fixed plan
    asked: int  # items asked of both sides by the last look
    unanswered: int  # items that one side or both did not answer
    unmatched: int  # items that only one side has
    one_sided: int  # items that only one side has, or answered
    excessive: bool  # whether `one_sided` is more than is allowed
    flips: int  # items whose score differs
    chance: float  # the score that guessing would give, mean over items
    weight: float  # its share of traffic, relative to the other strata
    levels: Mapping[str, str]  # axis to level, where all its items have the same
    not_asked: float | None = None  # the baseline's mean, if it alone was asked because it shows no signal here
    cache_blind: bool = False  # whether the candidate changes the KV cache alone, and no score here passes through it
    unusable: str = ""  # why the baseline's answers say nothing of what it can do, see `harness.judge.signals`
    choice_probability: ChoiceProbability | None = None  # of a stratum of choices
    layers: tuple[LayerCounts, ...] = ()  # if candidates were asked a part of its items by the baseline's confidence
    pooled: bool = False  # whether this is the weighted difference over all gating strata, see `harness.judge.pooled`

    @property
    def place(self) -> tuple[str, str]:
        """Its slice and stratum."""
        return self.slice, self.stratum


@dataclass(frozen=True, slots=True)
class Scope:
    """The mean difference over everything, a slice or a gating stratum, with its standard error by clusters."""

    slice: str  # empty for everything
    stratum: str  # empty for a slice
    delta: float
    error: float
    baseline_mean: float
    baseline_error: float
    sources: int  # clusters, or items if each is one


@dataclass(frozen=True, slots=True)
class Comparison:
    """One candidate against the baseline."""

    name: str
    refused: str = ""  # why the two cannot be compared; empty if they can
    strata: tuple[StratumNumbers, ...] = ()  # in the order in which a report shows them
    pooled: StratumNumbers | None = None  # the gating strata as one, if there is a pooled margin
    averages: tuple[Average, ...] = ()  # all first, then by slice
    cliffs: tuple[Cliff, ...] = ()
    scopes: tuple[Scope, ...] = ()  # all first, then by slice, then gating strata
    worse: int = 0  # strata significantly worse (Benjamini-Hochberg at 5 %)
    better: int = 0
    hidden: str = ""  # what the average hides, in one line
    warnings: tuple[str, ...] = ()  # what a reader must know of this pair: unmatched items

    @property
    def judged(self) -> tuple[StratumNumbers, ...]:
        """What is decided together: the strata, and their pooled difference last, if there is one."""
        return self.strata if self.pooled is None else (*self.strata, self.pooled)


@dataclass(frozen=True, slots=True)
class Comparisons:
    """Every candidate against one baseline."""

    baseline: str
    candidates: tuple[Comparison, ...]  # in the order given
    control: Comparison | None = None  # the baseline against itself at another batch size
    control_reversed: Comparison | None = None  # sides swapped: a baseline worse than its own repetition is no better
    warnings: tuple[str, ...] = ()  # what a reader must know of all of them
