"""What a report shows besides the judgement: costs, proofs, flips, power, where it all came from.

Plain frozen records with empty defaults, so that `compare` on files that others wrote reports as well. A section
without evidence is left out or says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from harness.run.planning import Power
from harness.stats.divergence import Summary

__all__ = ["ChurnRow", "DivergenceRow", "Evidence", "FlipPair", "LatencyRow", "ScoringRow", "TailEvent"]


@dataclass(frozen=True, slots=True)
class LatencyRow:
    """Times or lengths of streamed answers."""

    variant: str
    """The variant's name."""
    stratum: str
    """Slice and stratum; empty for the whole run."""
    figure: str
    """What was measured, and under which condition."""
    n: int
    """Answers."""
    median: str
    """With its limits."""
    p95: str
    """The 95th percentile, with its limits."""


@dataclass(frozen=True, slots=True)
class FlipPair:
    """One item on which the two sides scored differently, with both answers. All texts are hostile until sanitized."""

    candidate: str
    """The candidate's name."""
    slice: str
    """The slice's label."""
    stratum: str
    """The levels of its axes."""
    item_id: str
    """The item, as `quantcliff show` takes it."""
    prompt: str
    """The whole prompt; empty if texts are not stored."""
    target: str
    """The right answer."""
    baseline_text: str
    """The baseline's answer (of choices: the one it preferred)."""
    candidate_text: str
    """The candidate's."""
    baseline_score: float
    """In [0, 1]."""
    candidate_score: float
    """In [0, 1]."""
    language: str = ""
    """BCP 47, for the page's ``lang`` attribute; empty if unknown."""
    stored: bool = True
    """Whether the run holds the texts; if not, only the scores can be shown."""


@dataclass(frozen=True, slots=True)
class TailEvent:
    """One catastrophic answer of a candidate that the baseline did not give."""

    candidate: str
    """The candidate's name."""
    kind: str
    """What happened: ``repetition``, ``wrong_script``, ``empty``, ..."""
    pair: FlipPair
    """The item with both answers."""


@dataclass(frozen=True, slots=True)
class DivergenceRow:
    """How far a candidate's next-token distribution is from the baseline's, over one bucket."""

    candidate: str
    """The candidate's name."""
    slice: str
    """The slice's label."""
    stratum: str
    """The levels of its axes; ``all`` over the slice."""
    position: str
    """The bucket of token positions, as in ``0-255``; empty over all positions."""
    summary: Summary
    """Means and errors over the bucket."""
    control_kl: float | None = None
    """Mean KL of the A/A pass in the same bucket: what a different batch size alone makes."""


@dataclass(frozen=True, slots=True)
class ScoringRow:
    """What scoring one variant's answers met."""

    variant: str
    """The variant's name."""
    answers: int
    """Its answers."""
    thinking: int
    """Of these, answers with a thinking part, which is not scored."""
    thinking_characters: float | None
    """Mean length of that part; None if there is none."""
    limited: int
    """Answers that reached a limit of scoring: too long, or too slow to score."""


@dataclass(frozen=True, slots=True)
class ChurnRow:
    """How many of a candidate's free texts are the baseline's, in one slice."""

    candidate: str
    """The candidate's name."""
    slice: str
    """The slice's label."""
    compared: int
    """Texts that both sides gave."""
    same: int
    """Of these, texts that are the same to the token."""
    flips: int
    """Of these, texts with another score."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """Everything besides the verdict that a reader may ask for. Every field may be left out."""

    name: str = ""
    """The run's name."""
    path: str = ""
    """The run's directory."""
    description: str = ""
    """The config's sentence about itself."""
    notes: tuple[str, ...] = ()
    """Sentences that a reader must see, such as what the reference really is."""
    costs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Variant to ``load_seconds``, ``weight_bytes``, ``peak_bytes``, ``tokens_per_second`` if measured."""
    proofs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Variant to its `harness.records.Proof` as plain data."""
    provenance: Mapping[str, Any] = field(default_factory=dict)
    """Digests, versions, devices, seed, command; nested mappings are shown with their path."""
    flips: tuple[FlipPair, ...] = ()
    """Pairs to browse, at most so many."""
    flips_left_out: int = 0
    """Flips that the cap left out."""
    tail_events: tuple[TailEvent, ...] = ()
    """Catastrophic answers with their pairs."""
    churn: tuple[ChurnRow, ...] = ()
    """Texts that are the same or not, by candidate and slice."""
    divergence: tuple[DivergenceRow, ...] = ()
    """By stratum and position."""
    power: tuple[Power, ...] = ()
    """The plan's power table."""
    items_spent: int | None = None
    """Answers asked for, over all variants."""
    items_planned: int | None = None
    """Answers that the fixed plan would have asked for."""
    scoring: tuple[ScoringRow, ...] = ()
    """Variants with a thinking part or a limit of scoring in any answer."""
    latency: tuple[LatencyRow, ...] = ()
    """Times and lengths of streamed answers: of the whole run, and by stratum."""
    store_text: Literal["full", "redacted", "none"] = "full"
    """What the run stores of its texts."""
    erased: int = 0
    """Items whose texts were erased from the run."""
