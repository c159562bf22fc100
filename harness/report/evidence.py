"""What a report shows beside the judgement: costs, proofs, flips, power, where it all came from.

Plain frozen records with empty defaults, so that `compare` on files that others wrote reports as well. A section
whose evidence is empty says so. This module knows no file and no format; the runner fills it, the reports read it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

__all__ = ["Divergence", "Evidence", "FlipPair", "PowerRow", "TailEvent"]


@dataclass(frozen=True, slots=True)
class FlipPair:
    """One item on which the two sides scored differently, with both answers. All texts are hostile until sanitized."""

    candidate: str
    """The candidate's name."""
    slice: str
    """The slice's label."""
    stratum: str
    """The cell of its axes."""
    item_id: str
    """The item, as `quantcliff show` takes it."""
    prompt: str
    """The whole prompt; empty where texts are not stored."""
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
    """BCP 47, for the page's ``lang`` attribute; empty where unknown."""
    stored: bool = True
    """Whether the run holds the texts; where it does not, the scores are all there is to show."""


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
class PowerRow:
    """What the plan knew about one stratum before anything ran."""

    slice: str
    """The slice's label."""
    stratum: str
    """The cell of its axes."""
    items: int
    """Items planned."""
    smallest_drop: float | None
    """The smallest drop that so many items detect with 80 % power, a proportion."""
    items_for_pass: int | None
    """Items with which an unchanged candidate passes with 80 % power."""


@dataclass(frozen=True, slots=True)
class Divergence:
    """How far a candidate's next-token distribution is from the baseline's, over one bucket."""

    candidate: str
    """The candidate's name."""
    slice: str
    """The slice's label."""
    stratum: str
    """The cell of its axes; ``all`` over the slice."""
    position: str
    """The bucket of token positions, as in ``0-255``; empty over all positions."""
    tokens: int
    """Tokens in the bucket."""
    kl: float
    """Mean KL divergence of candidate from baseline, nats per token."""
    agreement: float
    """Share of positions at which both prefer the same token."""
    kl_error: float | None = None
    """Standard error of `kl` by clusters of sequences; infinite for one cluster, None where unknown."""
    agreement_error: float | None = None
    """The same of `agreement`."""
    reverse_kl: float | None = None
    """Mean KL divergence of baseline from candidate, nats per token."""
    probability_change: float | None = None
    """Mean change of the probability of the baseline's token, candidate minus baseline."""
    floor: float | None = None
    """`kl` of the A/A pass in the same bucket: what the machine alone makes."""
    sequences: int | None = None
    """Answers in the bucket."""
    worst: str = ""
    """The item with the largest mean KL."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """Everything beside the verdict that a reader may ask for. Every field may be left out."""

    name: str = ""
    """The run's name."""
    path: str = ""
    """Where the run lies."""
    description: str = ""
    """The config's sentence about itself."""
    notes: tuple[str, ...] = ()
    """Sentences that a reader must see, such as what the reference really is."""
    costs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Variant to ``load_seconds``, ``weight_bytes``, ``peak_bytes``, ``tokens_per_second``, where measured."""
    proofs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Variant to its `harness.records.Proof` as plain data."""
    provenance: Mapping[str, Any] = field(default_factory=dict)
    """Digests, versions, devices, seed, command; nested mappings are shown with their path."""
    flips: tuple[FlipPair, ...] = ()
    """Pairs to browse, capped by whoever gathers them."""
    flips_left_out: int = 0
    """Flips that the cap left out."""
    tail_events: tuple[TailEvent, ...] = ()
    """Catastrophic answers with their pairs."""
    divergence: tuple[Divergence, ...] = ()
    """By stratum and position."""
    power: tuple[PowerRow, ...] = ()
    """The plan's power table."""
    items_spent: int | None = None
    """Answers asked for, over all variants."""
    items_planned: int | None = None
    """Answers that the fixed plan would have asked for."""
    store_text: Literal["full", "redacted", "none"] = "full"
    """What the run keeps of its texts."""
    erased: int = 0
    """Items whose texts were erased from the run."""

    def cost(self, variant: str) -> Mapping[str, Any]:
        """Give what is known of a variant's cost, empty where nothing is."""
        return self.costs.get(variant, {})
