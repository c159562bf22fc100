"""The process that holds one variant: loads it, answers work units, ends with it.

Started by `harness.run.runner` with ``spawn``, so nothing of one variant (memory, cache, state) reaches the next. It
speaks over one connection and decides nothing: which units, in which order and whether to stop early are the runner's.
What libraries print goes to the variant's log file. It ends when its parent does.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING

from harness.config import Rehearsal, Variant
from harness.devices import keep_freed_memory
from harness.divergence import Divergence
from harness.engine import Engine, Usage
from harness.errors import NonFinite, QuantcliffError
from harness.records import Item, Proof, Response, Settings, Timing

if TYPE_CHECKING:
    from harness.hf_engine import HFEngine, Shortcuts
    from harness.hf_engine.traces import Beside, Compares, Records

# The packages that compute; a hyphen in the name is a dot in the module.
_PACKAGES = (
    "torch",
    "transformers",
    "bitsandbytes",
    "gptqmodel",
    "torchao",
    "hqq",
    "compressed_tensors",
    "optimum-quanto",
)

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
    "converse",
    "serve",
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
    """Largest batch, in rows."""


@dataclass(frozen=True, slots=True)
class Traces:
    """What a worker does with the baseline's traces."""

    folder: str
    """Where they lie."""
    tokens: int
    """First tokens of each answer that are traced."""
    writes: bool
    """Whether it writes them, as the baseline, or compares itself with them."""
    left_out: frozenset[str] = frozenset()
    """Items that leave no trace."""
    beside: Model | None = None
    """Where given, there are no traces, and this baseline is loaded as well."""


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
    """CPU threads, None for the library's choice."""
    log: str
    """File for everything that libraries print."""
    rehearsal: Rehearsal | None = None
    """Where given, answers are made up and no model is loaded."""
    traces: Traces | None = None
    """Where given, divergence is measured."""


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
    baseline: tuple[Response, ...] = ()
    """What the baseline answered, where it is loaded beside."""


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


def serve(connection: Connection, job: Job) -> None:
    """Answer in a process that does nothing else: its entry point."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _log_to(Path(job.log))
    _end_with_parent()
    converse(connection, job)


def converse(connection: Connection, job: Job) -> None:
    """Load the variant and answer until the parent sends None or goes away."""
    try:
        started = time.perf_counter()
        engine, tracer, device_name = _load(job)
        packages = () if job.rehearsal else _PACKAGES
        connection.send(_ready(engine, time.perf_counter() - started, device_name, _versions(packages)))
        while (ask := connection.recv()) is not None:
            _answer(connection, engine, tracer, ask)
        connection.send(Closed(engine.usage()))
    except QuantcliffError as error:
        connection.send(Refused(type(error).__name__, str(error)))
    except (EOFError, ConnectionError):
        return  # the parent went away


def _log_to(path: Path) -> None:
    """Send standard output and error, also those of C libraries, to the log."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for stream in (1, 2):
        os.dup2(handle, stream)
    os.close(handle)


def _end_with_parent() -> None:
    """Leave when the parent is gone: an orphan would hold the device that the restarted run needs."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _load(job: Job) -> tuple[Engine, Records | Compares | Beside | None, str]:
    """Load the model and put the engine round it. Raises the errors of `harness.quantize`."""
    if job.rehearsal is not None:
        return _rehearsal(job.model.variant.name, job.rehearsal), None, "no device: a rehearsal"
    import torch

    if job.threads:
        torch.set_num_threads(job.threads)
    engine = _engine(job.model, job)
    tracer = _tracer(engine, job)
    if job.device == "cpu":
        keep_freed_memory()
    return engine, tracer, _device_name(job.device)


def _engine(model: Model, job: Job) -> HFEngine:
    """Load a model and put the engine round it."""
    from harness.hf_engine import HFEngine
    from harness.quantize import loading as quantize

    place = Path(model.path)
    loaded = quantize.load(model.variant, place, device=job.device, dtype=model.dtype, attention=job.attention)
    return HFEngine(
        loaded.model,
        loaded.tokenizer,
        loaded.proof,
        device=job.device,
        batch_tokens=job.batch_tokens,
        max_batch=model.max_batch,
        shortcuts=_shortcuts(loaded.proof.method),
    )


def _tracer(engine: HFEngine, job: Job) -> Records | Compares | Beside | None:
    """Give what writes the baseline's traces, or what compares with them or with the baseline itself."""
    from harness.hf_engine.traces import Beside, Compares, Records

    traces = job.traces
    if traces is None:
        return None
    if traces.beside is not None:
        return Beside(engine, _engine(traces.beside, job), traces.tokens, traces.left_out)
    if traces.writes:
        return Records(engine, Path(traces.folder), traces.tokens, traces.left_out)
    return Compares(engine, Path(traces.folder), traces.tokens)


def _shortcuts(method: str) -> Shortcuts:
    """Give fixed batches to a method whose answers depend on their batch mates (LLM.int8), all shortcuts to others."""
    from harness.hf_engine import Shortcuts
    from harness.quantize import loading as quantize

    steady = quantize.batch_invariant(method)
    return Shortcuts(continuous=steady, guided=steady)


def _rehearsal(name: str, made_up: Rehearsal) -> Engine:
    """Give the engine that makes answers up."""
    from harness.fake_engine import Damage, FakeEngine, fake_proof

    damage = {
        place.partition("/")[2] or "*": Damage(lost=share)
        for place, share in made_up.lost.items()
        if place.partition("/")[0] == name
    }
    return FakeEngine(
        made_up.accuracy,
        damage=damage,
        proof=fake_proof(),
        seconds=made_up.seconds_per_item,
        wrong=made_up.wrong,
    )


def _device_name(device: str) -> str:
    import torch

    if device.startswith("cuda"):
        return str(torch.cuda.get_device_name(torch.device(device)))
    return f"CPU, {torch.get_num_threads()} threads"


def _ready(engine: Engine, seconds: float, device_name: str, versions: Mapping[str, str]) -> Ready:
    return Ready(engine.proof(), engine.version, engine.context_limit, seconds, device_name, versions)


def _answer(connection: Connection, engine: Engine, tracer: Records | Compares | Beside | None, ask: Ask) -> None:
    """Answer one unit and say what it cost."""
    before, started, aside = engine.usage(), time.perf_counter(), _aside(tracer)
    send: Callable[[object], None] = connection.send
    if tracer is None:
        responses = engine.answer(ask.items, ask.settings)
    else:
        responses = tracer.answer(ask.unit, ask.items, ask.settings, ask.baseline)
    try:
        for response in responses:
            if not ask.known:
                send(Answered(ask.unit, response))
    except NonFinite as error:
        message = f"{error} (item {error.item_id})" if error.item_id not in str(error) else str(error)
        raise NonFinite(message, error.item_id) from error
    found = tracer.found() if tracer is not None else None
    if found is not None:
        send(Diverged(ask.unit, *found))
    after = engine.usage()
    send(
        Finished(
            Timing(
                unit=ask.unit,
                seconds=time.perf_counter() - started - (_aside(tracer) - aside),
                prompt_tokens=after.prompt_tokens - before.prompt_tokens,
                output_tokens=after.output_tokens - before.output_tokens,
                items=len(ask.items),
            )
        )
    )


def _aside(tracer: Records | Compares | Beside | None) -> float:
    """Give the seconds so far that were another model's."""
    return 0.0 if tracer is None else tracer.aside


def _versions(packages: Sequence[str]) -> dict[str, str]:
    """Give the versions of Python and of those of the packages that are loaded."""
    loaded = {"python": platform.python_version()}
    return loaded | {
        name: importlib.metadata.version(name) for name in packages if name.replace("-", ".") in sys.modules
    }
