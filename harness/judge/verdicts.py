"""The judgement as data: what `compare --json` prints, what comparisons.json holds, what every report reads.

Deltas and margins are proportions (0.02 is two points), negative is worse. Every figure that could not be computed is
None, and a stratum with a None in place of a limit never passes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar, overload

from harness.judge.comparison import StratumNumbers
from harness.judge.decisions import Decision
from harness.judge.reasons import reason_text
from harness.judge.summaries import Average, ChoiceProbability, Cliff, TailRate, Verdict
from harness.stats import PairedResult

__all__ = ["FIGURES", "CandidateVerdict", "ControlNoise", "Figure", "Judgement", "StratumVerdict"]

_T = TypeVar("_T")


class Figure(Generic[_T]):
    """A figure of a `StratumVerdict`, read from its parts: a key of comparisons.json and a column of the tables."""

    def __init__(self, read: Callable[[StratumVerdict], _T], kind: str = "float64") -> None:
        self.read = read
        self.kind = kind
        """Its type in Parquet."""

    @overload
    def __get__(self, stratum: None, owner: type) -> Figure[_T]: ...

    @overload
    def __get__(self, stratum: StratumVerdict, owner: type) -> _T: ...

    def __get__(self, stratum: StratumVerdict | None, owner: type) -> Figure[_T] | _T:
        """Return the figure of a stratum; of the class, the column itself."""
        return self if stratum is None else self.read(stratum)


def _tested(read: Callable[[PairedResult], _T]) -> Callable[[StratumVerdict], _T | None]:
    return lambda one: None if one.result is None else read(one.result)


def _counted(read: Callable[[PairedResult], int]) -> Callable[[StratumVerdict], int]:
    return lambda one: 0 if one.result is None else read(one.result)


@dataclass(frozen=True, slots=True)
class ControlNoise:
    """What the A/A control shows in a stratum: differences no larger than this are noise."""

    delta: float
    """The control's mean difference from the baseline."""
    flips: int
    """Items whose score the control flipped, either way."""


@dataclass(frozen=True, slots=True)
class StratumVerdict:
    """One candidate in one stratum: its numbers, what was decided on them, and what stands next to it."""

    numbers: StratumNumbers
    """Everything counted and tested."""
    decision: Decision
    """The verdict, its reason, and the look that it rests on."""
    control: ControlNoise | None = None
    """None if no control was run here."""
    choice_probability: ChoiceProbability | None = None
    """Of a stratum of choices: how likely the right one is; else None. Never part of the verdict."""

    @property
    def result(self) -> PairedResult | None:
        """The test that the verdict rests on; None if there is none."""
        return None if self.decision.look is None else self.decision.look.result

    # In the order of comparisons.json.
    slice = Figure(lambda one: one.numbers.slice, "string")
    """The slice's label."""
    stratum = Figure(lambda one: one.numbers.stratum, "string")
    """The levels of its axes, as in ``hops=3,magnitude=large``; ``all`` if nothing splits the slice."""
    n = Figure(_counted(lambda result: result.n), "int64")
    """Items that both sides answered."""
    clusters = Figure(_counted(lambda result: result.clusters), "int64")
    """Sources that those items come from."""
    baseline_mean = Figure(lambda one: one.decision.look.baseline_mean if one.decision.look else one.numbers.not_asked)
    """Mean score of the baseline."""
    candidate_mean = Figure(lambda one: one.decision.look.candidate_mean if one.decision.look else None)
    """Mean score of the candidate."""
    delta = Figure(_tested(lambda result: result.delta))
    """Candidate minus baseline."""
    low = Figure(_tested(lambda result: result.low))
    """Lower one-sided limit of delta at level 1 - alpha."""
    high = Figure(_tested(lambda result: result.high))
    """Upper one-sided limit of delta at level 1 - alpha."""
    lost = Figure(_counted(lambda result: result.lost), "int64")
    """Items that only the baseline got right (graded: on which the candidate scored less)."""
    gained = Figure(_counted(lambda result: result.gained), "int64")
    """Items that only the candidate got right (graded: on which it scored more)."""
    mid_p = Figure(_tested(lambda result: result.mid_p))
    """One-sided mid-p McNemar against no change (graded: sign-flip permutation): information, not the verdict."""
    p_pass = Figure(_tested(lambda result: result.p_pass))
    """p-value of 'the drop is at least the margin'."""
    p_fail = Figure(_tested(lambda result: result.p_fail))
    """p-value of 'the drop is at most the margin'."""
    p_adjusted = Figure(lambda one: one.decision.p_adjusted)
    """p_fail after Holm over the gating strata."""
    margin = Figure(lambda one: one.numbers.margin)
    """Largest tolerated drop."""
    gating = Figure(lambda one: one.numbers.gating, "bool_")
    """Whether it decides."""
    verdict = Figure(lambda one: one.decision.verdict, "string")
    """What it comes to."""
    items_to_decide = Figure(lambda one: one.decision.items_to_decide, "int64")
    """How many more items would decide it if the rates stay; None if none are needed or none would do."""
    chance = Figure(lambda one: one.numbers.chance)
    """The score that guessing would give."""
    weight = Figure(lambda one: one.numbers.weight)
    """Its share of traffic, relative to the other strata."""
    design_effect = Figure(_tested(lambda result: result.design_effect))
    """Variance with its clusters over variance without; None if no items share a source."""
    method = Figure(lambda one: "" if one.result is None else one.result.method, "string")
    """The interval's and tests' names."""
    reason = Figure(lambda one: reason_text(one.numbers, one.decision), "string")
    """A sentence if the verdict needs one."""
    items_planned = Figure(lambda one: one.numbers.planned, "int64")
    """Items of the fixed plan; above n if sequential looks saved some."""
    unanswered = Figure(lambda one: one.numbers.unanswered, "int64")
    """Items that could not be asked of one side or the other."""
    looks = Figure(lambda one: 1 if one.decision.look is None else one.decision.look.number, "int64")
    """Looks taken until it was decided."""
    levels = Figure(lambda one: one.numbers.levels, "string")
    """Axis to level, for tables along an axis."""
    floor_delta = Figure(lambda one: None if one.control is None else one.control.delta)
    """Mean difference of the A/A control in this stratum: differences no larger than it are noise."""
    floor_flips = Figure(lambda one: None if one.control is None else one.control.flips, "int64")
    """Items whose score the A/A control flipped, either way."""

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON data, flat."""
        known = self.choice_probability
        figures = {name: figure.read(self) for name, figure in FIGURES.items()}
        return figures | {
            "levels": dict(self.levels),
            "choice_probability": None if known is None else dataclasses.asdict(known),
        }


FIGURES: Mapping[str, Figure[Any]] = {
    name: figure for name, figure in vars(StratumVerdict).items() if isinstance(figure, Figure)
}
"""Name to figure of a stratum, in the order of comparisons.json and of the tables' columns."""


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
    pooled: StratumVerdict | None = None
    """The weighted difference over all gating strata, if the policy has a margin for it."""
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
    """Weight bytes, tokens per second, peak bytes, load seconds: if measured. Never part of the verdict."""
    proof: Mapping[str, Any] = field(default_factory=dict)
    """What the loaded variant was measured to be."""
    tail_events: tuple[TailRate, ...] = ()
    """Every kind in every stratum of free text; empty if answers were not checked for them."""

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON data."""
        plain = dataclasses.asdict(dataclasses.replace(self, strata=(), pooled=None))
        del plain["pooled"]
        if self.pooled is not None:
            plain["pooled"] = self.pooled.to_json()
        return plain | {"strata": [one.to_json() for one in self.strata]}


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
    """The A/A control judged like a candidate: information, unless it fails; None if none was run."""
    warnings: tuple[str, ...] = ()
    """What a reader must know before believing the table: a baseline gone wrong, unmatched items."""
    provenance: Mapping[str, Any] = field(default_factory=dict)
    """Run name, config digest, versions, devices, seed: no times, so that equal results give equal bytes."""

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON data, as `compare --json` prints it."""
        plain = dataclasses.asdict(dataclasses.replace(self, candidates=(), control=None))
        candidates = [one.to_json() for one in self.candidates]
        return plain | {"candidates": candidates, "control": None if self.control is None else self.control.to_json()}
