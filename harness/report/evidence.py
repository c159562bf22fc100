"""What a report shows besides the judgement: costs, proofs, flips, where it all came from. Any of it may be missing."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from harness.stats.divergence import Summary


@dataclass(frozen=True, slots=True)
class FlipPair:
    """An item with both answers: scored differently, or with a tail event. All texts are hostile until sanitized."""

    candidate: str
    slice: str
    stratum: str
    item_id: str  # as `quantcliff show` takes it
    prompt: str  # the whole prompt; empty if texts are not stored
    target: str  # the right answer
    baseline_text: str  # of choices: the one it preferred
    candidate_text: str
    baseline_score: float  # in [0, 1]
    candidate_score: float
    language: str = ""  # BCP 47, for the page's `lang` attribute; empty if unknown
    stored: bool = True  # the run holds the texts; if not, only the scores can be shown
    kinds: tuple[str, ...] = ()  # of the tail events that the candidate's answer shows


@dataclass(frozen=True, slots=True)
class DivergenceRow:
    """How far a candidate's next-token distribution is from the baseline's, over one bucket."""

    candidate: str
    slice: str
    stratum: str  # "all" over the slice
    position: str  # the bucket of token positions, as in 0-255; empty over all positions
    summary: Summary
    control_kl: float | None = None  # mean KL of the A/A pass in the same bucket: what another batch size alone makes


@dataclass(frozen=True, slots=True)
class Share:
    """How many of a variant's answers show something."""

    variant: str
    what: str  # `differs` or `flips`, against the baseline's answers to the same items; or a kind of tail event
    place: str  # the slice; of a sign of tool calls, how many tools were offered; of one of thoughts, empty
    count: int
    n: int  # answers that were looked at for it
    low: float  # one-sided 95 % limits of count / n
    high: float


@dataclass(frozen=True, slots=True)
class Evidence:
    """Everything besides the verdict that a reader may ask for."""

    name: str = ""  # of the run
    path: str = ""  # the run's directory
    description: str = ""  # the config's sentence about itself
    notes: tuple[str, ...] = ()  # sentences that a reader must see, such as what the reference really is
    costs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # load_seconds, peak_bytes, ... by variant
    proofs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # `harness.records.Proof` by variant
    provenance: Mapping[str, Any] = field(default_factory=dict)  # digests, versions, devices, seed, command; may nest
    flips: tuple[FlipPair, ...] = ()  # to browse, at most so many
    flips_left_out: int = 0
    tail_events: tuple[FlipPair, ...] = ()  # catastrophic answers of a candidate that the baseline did not give
    shares: tuple[Share, ...] = ()  # texts that differ, and signs of tool calls and thoughts, each variant by itself
    divergence: tuple[DivergenceRow, ...] = ()
    items_spent: int | None = None  # answers asked for, over all variants
    items_planned: int | None = None  # answers that the fixed plan would have asked for
    latency: tuple[tuple[str, ...], ...] = ()  # variant, stratum or empty, figure, answers, median, 95th percentile
    store_text: Literal["full", "redacted", "none"] = "full"  # what the run stores of its texts
    erased: int = 0  # items whose texts were erased from the run
