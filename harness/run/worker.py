"""The process that holds one variant: loads it, answers work units, ends with it; and what it and its parent say.

It is started with a `Job` and answers `Ready`. Then it gets an `Ask` per unit, answers one after the other, and sends
every `Response`, `Working` now and then, perhaps `Diverged`, and a `Timing` when the unit has all its responses. It
ends with `Closed`, with `Refused`, or with its parent.
"""

from __future__ import annotations

import contextlib
import functools
import os
import platform
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from harness.config.methods import METHODS, RUNTIME
from harness.config.schema import Decoding, Rehearsal, Variant
from harness.engines.protocol import Engine, Usage
from harness.engines.registry import ENGINES, EngineRequest
from harness.errors import ModelError, QuantcliffError, one_line
from harness.models.backends import installed_version
from harness.models.devices import keep_freed_memory, settle_threads
from harness.records import Item, Proof, Settings, Timing

if TYPE_CHECKING:
    from harness.engines.transformers.divergence import DivergenceMeter
    from harness.engines.transformers.engine import HFEngine
    from harness.stats.divergence import Divergence  # with scipy, without which a worker starts sooner
    from harness.store.divergence import RunTraces

PULSE_SECONDS = 2.0  # how often a worker reports how far it is


@dataclass(frozen=True, slots=True, kw_only=True)
class Job(EngineRequest):
    """What a worker is to load, and how; `concurrency` is the largest batch, in rows, unless a server answers."""

    attention: str  # attention implementation, auto for the engine's choice
    batch_tokens: int  # largest batch, in padded tokens
    threads: int | None  # CPU threads, None to decide when the model loads
    rehearsal: Rehearsal | None = None  # where given, answers are made up and no model is loaded
    traces: RunTraces | None = None  # where given, divergence is measured


class Ask(NamedTuple):
    """Parent to worker: answer this unit."""

    unit: int
    items: tuple[Item, ...]
    settings: Settings
    known: bool = False  # whether the answers are there already and only their traces are wanted


class Ready(NamedTuple):
    """Worker to parent: the variant is loaded."""

    proof: Proof
    engine_version: str
    load_seconds: float  # from the start of loading to the first possible question
    device_name: str  # the accelerator's or processor's name
    threads: int | None  # CPU threads that it computes with; None on an accelerator and in a rehearsal
    versions: Mapping[str, str]  # of Python and of the packages that compute


class Working(NamedTuple):
    """Worker to parent: how far it is, also within a unit."""

    tokens: int  # read and written so far, for all units


class Diverged(NamedTuple):
    """Worker to parent: how far a unit's answers are from the baseline's; comes before its `Timing`."""

    items: tuple[Divergence, ...]  # those without a trace are left out
    why: str  # why nothing was measured; empty where something could be


class Refused(NamedTuple):
    """Worker to parent: the variant cannot be loaded, or cannot go on."""

    kind: str  # the error's class name in `harness.errors`
    message: str  # the sentence for the person


class Closed(NamedTuple):
    """Worker to parent: all is done."""

    usage: Usage  # what was spent
    hardware: Mapping[str, str | int]  # of a GPU: driver, clocks under load, memory that loading and reserving took


def serve(connection: Connection, job: Job) -> None:
    """Answer in a process that does nothing else: its entry point. What C libraries print goes to the log, too."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    job.log.parent.mkdir(parents=True, exist_ok=True)
    with job.log.open("ab") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    parent = os.getppid()

    def end_with_parent() -> None:  # an orphan would hold the device that the restarted run needs
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()
    converse(connection, job)


def converse(connection: Connection, job: Job) -> None:
    """Load the variant and answer until the parent sends None or goes away."""
    hardware: dict[str, str | int] = {}
    try:
        with contextlib.ExitStack() as stack:
            started = time.perf_counter()
            engine, meter, device, threads = _load(job, stack, hardware)
            proof, seconds = engine.proof(), time.perf_counter() - started
            versions = _versions(None if job.rehearsal else proof.method, job.device)
            connection.send(Ready(proof, engine.version, seconds, device, threads, versions))
            with _pulse(connection, engine) as send:
                while (ask := connection.recv()) is not None:
                    _answer(send, engine, meter, ask)
            usage = engine.usage()
        if job.rehearsal is None and job.device.startswith("cuda") and not job.variant.engine.served:
            from harness.models.cuda import cuda_state, device_memory

            hardware |= {"reserved_peak_bytes": device_memory()[1], **cuda_state(job.device)}  # its clocks under load
        connection.send(Closed(usage, hardware))
    except QuantcliffError as error:
        connection.send(Refused(type(error).__name__, str(error)))
    except (EOFError, ConnectionError):
        return  # the parent went away
    except Exception as error:  # noqa: BLE001 - a checkpoint's own code may raise anything; it costs this variant only
        traceback.print_exc()
        connection.send(Refused("ModelError", f"{job.variant.name}: {one_line(error)} (the traceback is in {job.log})"))


@contextlib.contextmanager
def _pulse(connection: Connection, engine: Engine) -> Iterator[Callable[[object], None]]:
    """Give what sends a message; until the end a thread reports what was read and written, also within a unit."""
    lock, stop, before = threading.Lock(), threading.Event(), engine.usage()

    def send(message: object) -> None:
        with lock:
            connection.send(message)

    def report() -> None:
        with contextlib.suppress(OSError):
            while not stop.wait(PULSE_SECONDS):
                now = engine.usage()
                read, written = now.prompt_tokens - before.prompt_tokens, now.output_tokens - before.output_tokens
                send(Working(read + written))

    thread = threading.Thread(target=report, daemon=True)
    thread.start()
    try:
        yield send
    finally:
        stop.set()  # from here on the connection has one user
        thread.join()


def _load(
    job: Job, stack: contextlib.ExitStack, hardware: dict[str, str | int]
) -> tuple[Engine, DivergenceMeter | None, str, int | None]:
    """Load the model, its peak memory into `hardware`; `stack` ends what was started. Raises what `models` raises."""
    if (made_up := job.rehearsal) is not None:
        from harness.engines.fake import FakeEngine

        places = ((*place.partition("/"), share) for place, share in made_up.lost.items())
        lost = {own or "*": share for name, _, own, share in places if name == job.variant.name}
        fake = FakeEngine(made_up.accuracy, lost=lost, seconds=made_up.seconds_per_item, wrong=made_up.wrong)
        return fake, None, "no device: a rehearsal", None
    if job.variant.engine.served:
        served = stack.enter_context(ENGINES[job.variant.engine.name](job))
        return served, None, getattr(served, "device", job.variant.engine.name), None
    import torch

    if job.device != "cpu":
        from harness.models.cuda import prepare_cuda

        prepare_cuda(job.device)
        engine = _engine(job, hardware)
        names = (str(torch.cuda.get_device_name(torch.device(one))) for one in job.device.split(","))
        return engine, _meter(engine, job), " + ".join(names), None
    note, engine = settle_threads(job.dtype, job.threads), _engine(job, hardware)
    engine.context.usage.notes.extend([note] if note else [])
    meter = _meter(engine, job)
    keep_freed_memory()
    return engine, meter, f"CPU, {torch.get_num_threads()} threads", torch.get_num_threads()


def _engine(job: Job, hardware: dict[str, str | int]) -> HFEngine:
    from harness.engines.transformers.decode_paths import Assisted
    from harness.engines.transformers.engine import HFEngine
    from harness.models import loading
    from harness.models.cuda import forget_load_peak

    variant, decoding = job.variant, job.variant.decoding or Decoding(max_batch=job.concurrency)
    attention, rows = decoding.attention or job.attention, decoding.max_batch or job.concurrency
    loaded = loading.load(variant, Path(job.path), device=job.device, dtype=job.dtype, attention=attention)
    if peak := forget_load_peak(job.device):
        hardware["load_peak_bytes"] = peak
    proof, assisted = loaded.proof, None
    if variant.decoding is not None:
        used = loaded.model.config.get_text_config()._attn_implementation  # noqa: SLF001 - has no other name
        proof = replace(proof, decoding=decoding.model_dump(exclude_none=True) | {"attention": used, "max_batch": rows})
    if decoding.assisted:
        assisted = Assisted(_draft(decoding.draft, proof, job) if decoding.draft else None, decoding.prompt_lookup)
    how: dict[str, Any] = {"device": job.device, "batch_tokens": job.batch_tokens, "max_batch": rows}
    return HFEngine(loaded.model, loaded.tokenizer, proof, decoding=assisted or variant.kv_cache, **how)


def _draft(name: str, proof: Proof, job: Job) -> object:
    """Load the model that proposes tokens. Raises ModelError if its tokens are others."""
    from harness.models import loading
    from harness.models.resolve import resolve

    variant = Variant(name="draft", model=name)
    draft = loading.load(variant, resolve(name), device=job.device, dtype=job.dtype, attention="auto")
    if draft.proof.tokenizer_digest != proof.tokenizer_digest:
        raise ModelError(f"decoding.draft: {name} has another tokenizer than {job.variant.name}: give one alike")
    return draft.model


def _meter(engine: HFEngine, job: Job) -> DivergenceMeter | None:
    """Return what writes the baseline's traces, or what compares with them."""
    from harness.engines.transformers.divergence import TraceComparer, TraceWriter

    if (traces := job.traces) is None:
        return None
    if traces.compared(job.variant.name):
        return TraceComparer(engine, traces.folder)
    return TraceWriter(engine, traces.folder, traces.tokens, traces.excluded)


def _answer(send: Callable[[object], None], engine: Engine, meter: DivergenceMeter | None, ask: Ask) -> None:
    before, started = engine.usage(), time.perf_counter()
    answer = engine.answer if meter is None else functools.partial(meter.answer, ask.unit)
    for response in answer(ask.items, ask.settings):
        if not ask.known:
            send(response)
    if meter is not None and (found := meter.measured()) is not None:
        send(Diverged(*found))
    after, seconds = engine.usage(), time.perf_counter() - started
    read, written = after.prompt_tokens - before.prompt_tokens, after.output_tokens - before.output_tokens
    send(Timing(ask.unit, seconds, read, written, len(ask.items)))


def _versions(method: str | None, device: str) -> dict[str, str]:
    """Return the versions of Python and of what computes; a package that the fork server loaded besides is none."""
    packages = () if method is None else (*RUNTIME, *(METHODS[method].packages if method in METHODS else ()))
    found = {package.name: installed_version(package.name) for package in packages if package.module in sys.modules}
    if packages and device.startswith("cuda"):
        from harness.models.cuda import cuda_versions

        found |= cuda_versions()
    return {"python": platform.python_version(), **{name: version for name, version in found.items() if version}}
