"""The judgement as data: what `compare --json` prints, what comparisons.json holds, what every report reads.

Plain frozen records and their JSON. Deltas and margins are proportions (0.02 is two points), negative is worse. Every
figure that could not be computed is None, and a stratum with a None where a limit belongs never passes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

__all__ = [
    "Average",
    "CandidateVerdict",
    "ChoiceProbability",
    "Cliff",
    "Judgement",
    "StratumVerdict",
    "Verdict",
]

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
class StratumVerdict:
    """One candidate in one stratum."""

    slice: str
    """The slice's label."""
    stratum: str
    """The cell of its axes, as in ``hops=3,magnitude=large``; ``all`` where nothing splits it."""
    n: int
    """Items that both sides answered."""
    clusters: int
    """Sources that those items come from."""
    baseline_mean: float | None
    """Mean score of the baseline."""
    candidate_mean: float | None
    """Mean score of the candidate."""
    delta: float | None
    """Candidate minus baseline."""
    low: float | None
    """Lower one-sided limit of delta at level 1 - alpha."""
    high: float | None
    """Upper one-sided limit of delta at level 1 - alpha."""
    lost: int
    """Items that only the baseline got right (graded: on which the candidate scored less)."""
    gained: int
    """Items that only the candidate got right (graded: on which it scored more)."""
    mid_p: float | None
    """One-sided mid-p McNemar against no change (graded: sign-flip permutation): information, not the verdict."""
    p_pass: float | None
    """p-value of 'the drop is at least the margin'."""
    p_fail: float | None
    """p-value of 'the drop is at most the margin'."""
    p_adjusted: float | None
    """p_fail after Holm over the gating strata."""
    margin: float
    """Largest tolerated drop."""
    gating: bool
    """Whether it decides."""
    verdict: Verdict
    """What it comes to."""
    items_to_decide: int | None
    """How many more items would decide it if the rates stay; None where none are needed or none would do."""
    chance: float = 0.0
    """The score that guessing would give."""
    weight: float = 1.0
    """Its share of traffic, relative to the other strata."""
    design_effect: float | None = None
    """Variance with its clusters over variance without."""
    method: str = ""
    """The interval's and tests' names."""
    reason: str = ""
    """A sentence where the verdict needs one."""
    items_planned: int = 0
    """Items of the fixed plan; above n where sequential looks saved some."""
    unanswered: int = 0
    """Items that could not be asked of one side or the other."""
    looks: int = 1
    """Looks taken until it was decided."""
    levels: Mapping[str, str] = field(default_factory=dict)
    """Axis to level, for tables along an axis."""
    floor_delta: float | None = None
    """Delta of the A/A control in this stratum: differences inside it are not news."""
    floor_flips: int | None = None
    """Items whose score the A/A control flipped, either way."""
    choice_probability: ChoiceProbability | None = None
    """Of a stratum of choices: how likely the right one is; else None."""


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
    """Their share; None where n is 0."""
    low: float | None
    """Lower one-sided limit of the rate at level 1 - alpha."""
    high: float | None
    """Upper one-sided limit of the rate at level 1 - alpha."""
    tolerance: float | None
    """Largest tolerated rate; None where the kind does not gate here."""
    verdict: Verdict | None
    """What it comes to; None where it does not gate."""
    baseline_rate: float | None
    """Share of the items on which the baseline itself shows it: a detector's alarms where nothing was quantized."""
    p_adjusted: float | None = None
    """p-value of 'the rate is at most the tolerance' after Holm over the candidate's gated rates."""
    items_to_decide: int | None = None
    """How many more items would decide it if the rate stays; None where none are needed or none would do."""
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
    """The other axes' levels that were held, empty where pooled."""
    levels: tuple[float, ...]
    """The axis' levels in order."""
    baseline: tuple[float, ...]
    """The baseline's mean at each level."""
    candidate: tuple[float, ...]
    """The candidate's mean at each level."""
    at: float | None
    """First level from which the candidate's drop is estimated above the margin, up to `at_high`; None without one."""
    at_low: float | None
    """Earliest level that the data allow for the cliff: all before it pass; None where all pass."""
    at_high: float | None
    """Latest level that the data allow: the first that fails after Holm; None where none does."""
    effective_baseline: float | None
    """Longest level up to which the baseline keeps the stated score."""
    effective_candidate: float | None
    """The candidate's."""
    score: float
    """The stated score."""


@dataclass(frozen=True, slots=True)
class CandidateVerdict:
    """One candidate over all strata."""

    name: str
    """The variant's name."""
    verdict: Verdict
    """What the gate says of it."""
    reasons: tuple[str, ...]
    """A sentence per failing, undecided or signal-less stratum, or why it was not judged."""
    strata: tuple[StratumVerdict, ...]
    """Every stratum, in the config's order."""
    averages: tuple[Average, ...] = ()
    """The plain averages: all first, then by slice."""
    cliffs: tuple[Cliff, ...] = ()
    """Along ordered axes."""
    worse: int = 0
    """Strata significantly worse (Benjamini-Hochberg at 5 %)."""
    better: int = 0
    """Strata significantly better (likewise)."""
    hidden: str = ""
    """What the average hides, in one line."""
    cost: Mapping[str, Any] = field(default_factory=dict)
    """Weight bytes, tokens per second, peak bytes, load seconds: where measured. Never part of the verdict."""
    proof: Mapping[str, Any] = field(default_factory=dict)
    """What the loaded variant showed of itself."""
    tail_events: tuple[TailRate, ...] = ()
    """Every kind in every stratum of free text; empty where nobody looked."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """The whole answer."""

    verdict: Verdict
    """Of the run: pass only if every candidate passes."""
    exit_code: int
    """See `harness.errors.ExitCode`."""
    policy: Mapping[str, Any]
    """alpha, margins and what inconclusive does."""
    candidates: tuple[CandidateVerdict, ...]
    """One each, in the config's order."""
    baseline: str = "baseline"
    """The baseline's name."""
    control: CandidateVerdict | None = None
    """The A/A control judged like a candidate: information, unless it fails; None where none was run."""
    warnings: tuple[str, ...] = ()
    """What a reader must know before believing the table: a baseline gone wrong, unmatched items."""
    provenance: Mapping[str, Any] = field(default_factory=dict)
    """Run name, config digest, versions, devices, seed: no times, so that equal results give equal bytes."""

    def to_json(self) -> dict[str, Any]:
        """Give plain JSON data, as `compare --json` prints it."""
        return dataclasses.asdict(self)
