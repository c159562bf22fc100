"""The judgement as data, for JSON and every report: proportions, negative is worse; None if not computed."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from harness.judge.decisions import Decision, reason_text
from harness.judge.summaries import Average, ChoiceProbability, Cliff, Quantity, StratumNumbers, TailRate, Verdict
from harness.stats import PairedResult

_T = TypeVar("_T")


class Figure(Generic[_T]):
    """A figure of a `StratumVerdict`, read from its parts: a key of comparisons.json and a column of the tables."""

    def __init__(self, read: Callable[[StratumVerdict], _T], kind: str = "float64") -> None:
        self.read, self.kind = read, kind  # kind: its type in Parquet

    def __get__(self, stratum: StratumVerdict, owner: type) -> _T:
        return self.read(stratum)


def _tested(name: str) -> Figure[float | None]:
    return Figure(lambda one: getattr(one.result, name, None))


def _counted(name: str) -> Figure[int]:
    return Figure(lambda one: getattr(one.result, name, 0), "int64")


@dataclass(frozen=True, slots=True)
class ControlNoise:
    """What the A/A control shows in a stratum: differences no larger than this are noise."""

    delta: float  # its mean difference from the baseline
    flips: int  # items whose score it flipped, either way


@dataclass(frozen=True, slots=True)
class StratumVerdict:
    """One candidate in one stratum: its numbers, what was decided on them, and what stands next to it."""

    numbers: StratumNumbers
    decision: Decision
    control: ControlNoise | None = None  # None if no control was run here

    @property
    def choice_probability(self) -> ChoiceProbability | None:
        """How likely the right choice is, in a stratum of choices; never part of the verdict."""
        return self.numbers.choice_probability

    @property
    def result(self) -> PairedResult | None:
        """The test that the verdict rests on; None if there is none."""
        return None if self.decision.look is None else self.decision.look.result

    # In the order of comparisons.json.
    slice = Figure(lambda one: one.numbers.slice, "string")
    stratum = Figure(lambda one: one.numbers.stratum, "string")  # as ``hops=3,magnitude=large``; ``all`` if unsplit
    n = _counted("n")  # items that both sides answered
    clusters = _counted("clusters")  # sources that those items come from
    baseline_mean = Figure(lambda one: one.decision.look.baseline_mean if one.decision.look else one.numbers.not_asked)
    candidate_mean = Figure(lambda one: one.decision.look.candidate_mean if one.decision.look else None)
    delta = _tested("delta")
    low = _tested("low")  # one-sided limits of delta at level 1 - alpha
    high = _tested("high")
    lost = _counted("lost")  # items that only the baseline got right (graded: on which the candidate scored less)
    gained = _counted("gained")  # the other way round
    mid_p = _tested("mid_p")  # one-sided mid-p McNemar against no change (graded: sign-flips); not the verdict
    p_pass = _tested("p_pass")  # of 'the drop is at least the margin'
    p_fail = _tested("p_fail")  # of 'the drop is at most the margin'
    p_adjusted = Figure(lambda one: one.decision.p_adjusted)  # p_fail after Holm over the gating strata
    margin = Figure(lambda one: one.numbers.margin)
    gating = Figure(lambda one: one.numbers.gating, "bool_")
    verdict = Figure(lambda one: one.decision.verdict, "string")
    items_to_decide = Figure(lambda one: one.decision.items_to_decide, "int64")
    chance = Figure(lambda one: one.numbers.chance)  # the score that guessing would give
    weight = Figure(lambda one: one.numbers.weight)  # its share of traffic, relative to the other strata
    design_effect = _tested("design_effect")  # variance with its clusters over variance without; None if none is shared
    method = Figure(lambda one: "" if one.result is None else one.result.method, "string")  # of interval and tests
    reason = Figure(lambda one: reason_text(one.numbers, one.decision), "string")
    items_planned = Figure(lambda one: one.numbers.planned, "int64")  # above n if sequential looks saved some
    unanswered = Figure(lambda one: one.numbers.unanswered, "int64")
    looks = Figure(lambda one: 1 if one.decision.look is None else one.decision.look.number, "int64")
    levels = Figure(lambda one: one.numbers.levels, "string")  # axis to level
    floor_delta = Figure(lambda one: None if one.control is None else one.control.delta)
    floor_flips = Figure(lambda one: None if one.control is None else one.control.flips, "int64")

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON data, flat."""
        choice = self.choice_probability and dataclasses.asdict(self.choice_probability)
        figures = {name: figure.read(self) for name, figure in FIGURES.items()}
        more = {"layers": [dataclasses.asdict(one) for one in self.numbers.layers]} if self.numbers.layers else {}
        return figures | {"levels": dict(self.levels), "choice_probability": choice} | more


FIGURES = {name: figure for name, figure in vars(StratumVerdict).items() if isinstance(figure, Figure)}
"""Name to figure of a stratum, in the order of comparisons.json and of the tables' columns."""


@dataclass(frozen=True, slots=True)
class CandidateVerdict:
    """One candidate over all strata."""

    name: str
    verdict: Verdict
    reasons: tuple[str, ...]  # a sentence per failing, undecided or signal-less stratum, or why it was not judged
    strata: tuple[StratumVerdict, ...]  # in the config's order
    pooled: StratumVerdict | None = None  # the weighted difference over all gating strata, if the policy asks for it
    averages: tuple[Average, ...] = ()  # all first, then by slice
    cliffs: tuple[Cliff, ...] = ()  # along ordered axes
    worse: int = 0  # strata significantly worse (Benjamini-Hochberg at 5 %)
    better: int = 0
    hidden: str = ""  # what the average hides, in one line
    cost: Mapping[str, Any] = field(default_factory=dict)  # bytes, tokens and seconds, if measured
    proof: Mapping[str, Any] = field(default_factory=dict)  # what the loaded variant was measured to be
    tail_events: tuple[TailRate, ...] = ()  # every kind in every stratum of free text; empty if nobody looked for them
    quantities: tuple[Quantity, ...] = ()  # empty if no answer holds a thought and no tolerance is set

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON data."""
        plain = dataclasses.asdict(dataclasses.replace(self, strata=(), pooled=None))
        del plain["pooled"]
        if not self.quantities:
            del plain["quantities"]
        if self.pooled is not None:
            plain["pooled"] = self.pooled.to_json()
        return plain | {"strata": [one.to_json() for one in self.strata]}


@dataclass(frozen=True, slots=True)
class Judgement:
    """The whole answer."""

    verdict: Verdict  # pass only if every candidate passes
    exit_code: int  # see `harness.errors.ExitCode`
    policy: Mapping[str, Any]
    candidates: tuple[CandidateVerdict, ...]  # in the config's order
    baseline: str = "baseline"
    control: CandidateVerdict | None = None  # the A/A control judged like a candidate: information, unless it fails
    warnings: tuple[str, ...] = ()  # what a reader must know: a baseline gone wrong, unmatched items
    provenance: Mapping[str, Any] = field(default_factory=dict)  # no times: equal results give equal bytes

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON data, as `compare --json` prints it."""
        plain = dataclasses.asdict(dataclasses.replace(self, candidates=(), control=None))
        candidates = [one.to_json() for one in self.candidates]
        return plain | {"candidates": candidates, "control": self.control and self.control.to_json()}
