"""The process that holds one variant: loads it, answers work units, ends with it.

One process for each variant (`worker_process`), so nothing of one (memory, cache, state) reaches the next. It
speaks over one connection and decides nothing: which units, in which order and whether to stop early are the runner's.
What libraries print goes to the variant's log file. It ends when its parent does.
"""

from __future__ import annotations

import contextlib
import os
import platform
import signal
import sys
import threading
import time
import traceback
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Self

from harness.config.methods import METHODS, RUNTIME
from harness.config.schema import Decoding, Rehearsal, Variant
from harness.engines.protocol import Engine
from harness.errors import ModelError, NonFinite, QuantcliffError, one_line
from harness.models.backends import installed_version
from harness.models.devices import keep_freed_memory, settle_threads
from harness.records import Proof, Timing
from harness.run.messages import Answered, Ask, Closed, Diverged, Finished, Job, Model, Ready, Refused, Working

if TYPE_CHECKING:
    from harness.engines.transformers.divergence import DivergenceMeter
    from harness.engines.transformers.engine import HFEngine

__all__ = ["converse", "serve"]

PULSE_SECONDS = 2.0
"""How often a worker reports how far it is within a unit."""


def serve(connection: Connection, job: Job) -> None:
    """Answer in a process that does nothing else: its entry point."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _log_to(Path(job.log))
    _end_with_parent()
    converse(connection, job)


def converse(connection: Connection, job: Job) -> None:
    """Load the variant and answer until the parent sends None or goes away."""
    try:
        with contextlib.ExitStack() as stack:
            started = time.perf_counter()
            hardware: dict[str, str | int] = {}
            engine, meter, device_name, threads = _load(job, stack, hardware)
            connection.send(
                Ready(
                    engine.proof(),
                    engine.version,
                    engine.context_limit,
                    time.perf_counter() - started,
                    device_name,
                    threads,
                    _versions(None if job.rehearsal else engine.proof().method, job.device),
                )
            )
            with _Pulse(connection, engine) as pulse:
                while (ask := connection.recv()) is not None:
                    _answer(pulse, engine, meter, ask)
            usage = engine.usage()
        connection.send(Closed(usage, hardware | _hardware(job)))
    except QuantcliffError as error:
        connection.send(Refused(type(error).__name__, str(error)))
    except (EOFError, ConnectionError):
        return  # the parent went away
    except Exception as error:  # noqa: BLE001 - a checkpoint's own code may raise anything; it costs this variant only
        traceback.print_exc()
        where = f"the traceback is in {job.log}"
        connection.send(Refused("ModelError", f"{job.model.variant.name}: {one_line(error)} ({where})"))


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


class _Pulse:
    """The worker's end of the connection while it answers: next to the answers it reports how far a unit is.

    So progress moves within a unit too, which may take minutes. A thread reads the engine's counters.
    """

    def __init__(self, connection: Connection, engine: Engine) -> None:
        self._connection, self._engine = connection, engine
        self._lock, self._stop = threading.Lock(), threading.Event()
        self._unit: int | None = None
        self._before = 0
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        """Start the thread."""
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        """Stop the thread: from here on the connection has one user."""
        self._stop.set()
        self._thread.join()

    def begin(self, unit: int) -> None:
        """Start to report on a unit."""
        with self._lock:
            self._unit, self._before = unit, self._tokens()

    def send(self, message: object) -> None:
        """Send a message; `Finished` ends the reports on its unit."""
        with self._lock:
            if isinstance(message, Finished):
                self._unit = None
            self._connection.send(message)

    def _tokens(self) -> int:
        usage = self._engine.usage()
        return usage.prompt_tokens + usage.output_tokens

    def _run(self) -> None:
        with contextlib.suppress(BrokenPipeError, OSError):
            while not self._stop.wait(PULSE_SECONDS):
                with self._lock:
                    if self._unit is not None:
                        self._connection.send(Working(self._unit, self._tokens() - self._before))


def _load(
    job: Job, stack: contextlib.ExitStack, hardware: dict[str, str | int]
) -> tuple[Engine, DivergenceMeter | None, str, int | None]:
    """Load the model and put the engine round it. Raises the errors of `harness.models`.

    stack: ends what the engine started. hardware: gets the peak memory of loading on a GPU.
    """
    if job.rehearsal is not None:
        return _rehearsal(job.model.variant.name, job.rehearsal), None, "no device: a rehearsal", None
    if job.model.variant.engine.served:
        served = stack.enter_context(_served(job))
        return served, None, getattr(served, "device", job.model.variant.engine.name), None
    if job.device != "cpu":
        from harness.models.cuda import prepare_cuda

        prepare_cuda(job.device)
        engine = _engine(job.model, job, hardware)
        return engine, _meter(engine, job), _device_name(job.device), None
    import torch

    note = settle_threads(job.model.dtype, job.threads)
    engine = _engine(job.model, job, hardware)
    engine.context.usage.notes.extend([note] if note else [])
    meter = _meter(engine, job)
    keep_freed_memory()
    return engine, meter, _device_name(job.device), torch.get_num_threads()


def _served(job: Job) -> contextlib.AbstractContextManager[Engine]:
    """Give the engine that another program or library is."""
    from harness.engines.registry import ENGINES, EngineRequest

    model = job.model
    return ENGINES[model.variant.engine.name](
        EngineRequest(
            variant=model.variant,
            path=model.path,
            prompts=job.prompts,
            dtype=model.dtype,
            device=job.device,
            concurrency=model.max_batch,
            choices=job.choices,
            log=Path(job.log),
            requests=Path(job.requests) if job.requests else None,
            key=job.key,
        )
    )


def _engine(model: Model, job: Job, hardware: dict[str, str | int]) -> HFEngine:
    """Load a model and put the engine round it."""
    from harness.engines.transformers.decode_paths import Assisted
    from harness.engines.transformers.engine import HFEngine
    from harness.models import loading as quantize
    from harness.models.cuda import forget_load_peak

    variant, decoding = model.variant, model.variant.decoding or Decoding(max_batch=model.max_batch)
    attention, rows = decoding.attention or job.attention, decoding.max_batch or model.max_batch
    loaded = quantize.load(variant, Path(model.path), device=job.device, dtype=model.dtype, attention=attention)
    if peak := forget_load_peak(job.device):
        hardware["load_peak_bytes"] = peak
    proof, assisted = loaded.proof, None
    if variant.decoding is not None:
        used = loaded.model.config.get_text_config()._attn_implementation  # noqa: SLF001 - has no other name
        facts = {**decoding.model_dump(exclude_none=True), "attention": used, "max_batch": rows}
        proof = replace(proof, decoding=facts)
    if decoding.assisted:
        draft = _draft(decoding, proof, job) if decoding.draft else None
        assisted = Assisted(draft, decoding.prompt_lookup)
    return HFEngine(
        loaded.model,
        loaded.tokenizer,
        proof,
        device=job.device,
        batch_tokens=job.batch_tokens,
        max_batch=rows,
        decoding=assisted or variant.kv_cache,
    )


def _draft(decoding: Decoding, proof: Proof, job: Job) -> object:
    """Load the model that proposes tokens. Raises ModelError if its tokens are others."""
    from harness.models import loading as quantize
    from harness.models.resolve import resolve

    name = str(decoding.draft)
    draft = quantize.load(
        Variant(name="draft", model=name), resolve(name), device=job.device, dtype=job.model.dtype, attention="auto"
    )
    if draft.proof.tokenizer_digest != proof.tokenizer_digest:
        raise ModelError(f"decoding.draft: {name} has another tokenizer than {job.model.variant.name}: give one alike")
    return draft.model


def _meter(engine: HFEngine, job: Job) -> DivergenceMeter | None:
    """Return what writes the baseline's traces, or what compares with them."""
    from harness.engines.transformers.divergence import TraceComparer, TraceWriter

    traces = job.traces
    if traces is None:
        return None
    if traces.writes:
        return TraceWriter(engine, Path(traces.folder), traces.tokens, traces.excluded)
    return TraceComparer(engine, Path(traces.folder))


def _rehearsal(name: str, made_up: Rehearsal) -> Engine:
    """Return the engine that makes answers up."""
    from harness.engines.fake import FakeEngine

    lost = {
        place.partition("/")[2] or "*": share
        for place, share in made_up.lost.items()
        if place.partition("/")[0] == name
    }
    return FakeEngine(made_up.accuracy, lost=lost, seconds=made_up.seconds_per_item, wrong=made_up.wrong)


def _device_name(device: str) -> str:
    import torch

    if device.startswith("cuda"):
        return " + ".join(str(torch.cuda.get_device_name(torch.device(one))) for one in device.split(","))
    return f"CPU, {torch.get_num_threads()} threads"


def _hardware(job: Job) -> dict[str, str | int]:
    """Return what is recorded of a GPU at the end of the work: the clocks are those under load."""
    if job.rehearsal is not None or not job.device.startswith("cuda") or job.model.variant.engine.served:
        return {}
    from harness.models.cuda import cuda_state, device_memory

    return {"reserved_peak_bytes": device_memory()[1], **cuda_state(job.device)}


def _answer(pulse: _Pulse, engine: Engine, meter: DivergenceMeter | None, ask: Ask) -> None:
    """Answer one unit and say what it cost."""
    before, started = engine.usage(), time.perf_counter()
    send = pulse.send
    pulse.begin(ask.unit)
    if meter is None:
        responses = engine.answer(ask.items, ask.settings)
    else:
        responses = meter.answer(ask.unit, ask.items, ask.settings)
    try:
        for response in responses:
            if not ask.known:
                send(Answered(ask.unit, response))
    except NonFinite as error:
        message = f"{error} (item {error.item_id})" if error.item_id not in str(error) else str(error)
        raise NonFinite(message, error.item_id) from error
    found = meter.measured() if meter is not None else None
    if found is not None:
        send(Diverged(ask.unit, *found))
    after = engine.usage()
    send(
        Finished(
            Timing(
                unit=ask.unit,
                seconds=time.perf_counter() - started,
                prompt_tokens=after.prompt_tokens - before.prompt_tokens,
                output_tokens=after.output_tokens - before.output_tokens,
                items=len(ask.items),
            )
        )
    )


def _versions(method: str | None, device: str) -> dict[str, str]:
    """Return the versions of Python and of what computes: what every model, the method and a GPU need.

    A package that is loaded and not needed is not the variant's: the fork server loads several. method: None if no
    model is loaded.
    """
    own = METHODS[method].packages if method in METHODS else ()
    packages = () if method is None else (*RUNTIME, *own)
    found = {package.name: installed_version(package.name) for package in packages if package.module in sys.modules}
    if packages and device.startswith("cuda"):
        from harness.models.cuda import cuda_versions

        found |= cuda_versions()
    return {"python": platform.python_version(), **{name: version for name, version in found.items() if version}}
