"""What a run's parent process and its workers say to each other: plain records over one connection.

A worker is started with a `Job` and answers `Ready`. Then it gets an `Ask` per unit and sends `Answered` for
every response, `Working` now and then, perhaps `Diverged`, and `Finished`. It ends with `Closed`, or with `Refused`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from harness.config.schema import Rehearsal, Variant
from harness.engines.protocol import Usage
from harness.records import Item, Proof, Response, Settings, Timing
from harness.stats.divergence import Divergence

__all__ = [
    "Answered",
    "Ask",
    "Closed",
    "Diverged",
    "Finished",
    "Job",
    "Model",
    "Ready",
    "Refused",
    "Traces",
    "Working",
]


@dataclass(frozen=True, slots=True)
class Model:
    """What is loaded, and what its batches are."""

    variant: Variant
    """Which variant."""
    path: str
    """The directory of its model."""
    dtype: str
    """Compute dtype."""
    max_batch: int
    """Largest batch, in rows; requests in flight, if a server answers."""


@dataclass(frozen=True, slots=True)
class Traces:
    """What a worker does with the baseline's traces."""

    folder: str
    """Where they are stored."""
    tokens: int
    """First tokens of each answer that are traced."""
    writes: bool
    """Whether it writes them, as the baseline, or compares itself with them."""
    excluded: frozenset[str] = frozenset()
    """Items that leave no trace."""


@dataclass(frozen=True, slots=True)
class Job:
    """What a worker is to load, and how."""

    model: Model
    """Which variant, from where."""
    device: str
    """``cpu``, ``cuda`` or ``cuda:N``: resolved."""
    attention: str
    """Attention implementation, ``auto`` for the engine's choice."""
    batch_tokens: int
    """Largest batch, in padded tokens."""
    threads: int | None
    """CPU threads, None to decide when the model loads."""
    log: str
    """File for everything that libraries print."""
    rehearsal: Rehearsal | None = None
    """Where given, answers are made up and no model is loaded."""
    traces: Traces | None = None
    """Where given, divergence is measured."""
    prompts: str = ""
    """The folder of the baseline's tokenizer, for an engine that is not quantcliff's own."""
    choices: bool = False
    """Whether choices are asked."""
    requests: str = ""
    """The file for what each request to a server took."""
    key: str = field(default="", repr=False)
    """The key of a server, from the environment of the parent: it is never written to a file."""


@dataclass(frozen=True, slots=True)
class Ask:
    """Parent to worker: answer this unit."""

    unit: int
    """Its index."""
    items: tuple[Item, ...]
    """What is asked."""
    settings: Settings
    """How answers are sampled."""
    known: bool = False
    """Whether the answers are there already and only their traces are wanted."""


@dataclass(frozen=True, slots=True)
class Ready:
    """Worker to parent: the variant is loaded."""

    proof: Proof
    """What it is."""
    engine_version: str
    """Of the engine."""
    context_limit: int
    """In tokens."""
    load_seconds: float
    """From the start of loading to the first possible question."""
    device_name: str
    """The accelerator's or processor's name."""
    threads: int | None
    """CPU threads that it computes with; None on an accelerator and in a rehearsal."""
    versions: Mapping[str, str]
    """Of Python and of the packages that compute."""


@dataclass(frozen=True, slots=True)
class Answered:
    """Worker to parent: one response."""

    unit: int
    """Of which unit."""
    response: Response
    """The answer."""


@dataclass(frozen=True, slots=True)
class Working:
    """Worker to parent: a unit is not finished yet, and this much of it is done."""

    unit: int
    """Which unit."""
    tokens: int
    """Tokens read and written for it so far."""


@dataclass(frozen=True, slots=True)
class Diverged:
    """Worker to parent: how far a unit's answers are from the baseline's; comes before `Finished`."""

    unit: int
    """Of which unit."""
    items: tuple[Divergence, ...]
    """By item; those without a trace are left out."""
    why: str
    """Why nothing was measured; empty where something could be."""


@dataclass(frozen=True, slots=True)
class Finished:
    """Worker to parent: a unit has all its responses."""

    timing: Timing
    """What it cost."""


@dataclass(frozen=True, slots=True)
class Refused:
    """Worker to parent: the variant cannot be loaded, or cannot go on."""

    kind: str
    """The error's class name in `harness.errors`."""
    message: str
    """The sentence for the person."""


@dataclass(frozen=True, slots=True)
class Closed:
    """Worker to parent: all is done."""

    usage: Usage
    """What was spent."""
    hardware: Mapping[str, str | int] = field(default_factory=dict)
    """Of a GPU: the driver, the clocks under load, and the memory that loading and reserving took."""
