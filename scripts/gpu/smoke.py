"""Part (a): the engine on the device against the engine on the CPU, forced out-of-memory, every method."""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Iterator
from typing import Any

import torch

from gpu.log import Log
from gpu.made import NO_PROOF, item, made_model, made_tokenizer, questions, text_of
from harness.config.methods import METHODS
from harness.engines.transformers.divergence import Comparer, Recorder
from harness.engines.transformers.engine import HFEngine
from harness.engines.transformers.model import LanguageModel
from harness.models.doctor import Proved, examine
from harness.records import ChoiceLogprobs, Settings

WAYS = {"greedy": Settings(), "sampled": Settings(temperature=0.8, top_p=0.9, seed=3)}
DTYPES = ("float32", "bfloat16", "float16")


def engine_of(device: str, dtype: str, *, louder: float = 1.0) -> HFEngine:
    """Return an engine round the tiny model, its weights multiplied by a factor."""
    model = made_model("tiny", "cpu", torch.float32, spread=0.3)
    for weight in model.parameters():
        weight.mul_(louder)
    model = model.to(device, getattr(torch, dtype))
    return HFEngine(model, made_tokenizer(), NO_PROOF, device=device, batch_tokens=8192, max_batch=8)


@functools.cache
def asked(device: str, dtype: str, way: str) -> tuple[dict[str, Any], dict[str, float], HFEngine]:
    """Return a baseline's answers, the largest divergence from itself and from another model, and its engine."""
    engine, recorder = engine_of(device, dtype), Recorder()
    answers = {one.item_id: one for one in engine.answer(questions(), WAYS[way], observer=recorder)}
    largest = {}
    for name, factor in (("itself", 1.0), ("another", 1.02)):
        candidate = engine_of(device, dtype, louder=factor)
        comparer = Comparer(recorder.traces, engine.head, candidate.head)
        list(candidate.answer(questions(), WAYS[way], observer=comparer))
        largest[name] = max(value for one in comparer.found.values() for value in one.kl)
    return answers, largest, engine


def agreement(device: str, dtype: str, way: str) -> dict[str, Any]:
    """Compare a device and dtype with the CPU in float32. In float32 all must be equal; divergence from itself 0."""
    wanted, mine = asked("cpu", "float32", way)[0], asked(device, dtype, way)
    choices = [name for name, one in wanted.items() if isinstance(one, ChoiceLogprobs)]
    texts = [name for name in wanted if name not in choices]
    gaps = [abs(a - b) for name in choices for a, b in zip(wanted[name].logprobs, mine[0][name].logprobs, strict=True)]
    same = sum(wanted[name].token_ids == mine[0][name].token_ids for name in texts)
    found = {
        "same": f"{same}/{len(texts)}",
        "choice_gap": f"{max(gaps):.1e}",
        "kl_itself": mine[1]["itself"],
        "kl_another": f"{mine[1]['another']:.3g}",
        "notes": len(mine[2].usage().notes),
    }
    wrong = dtype == "float32" and (same < len(texts) or max(gaps) > 1e-3)  # noqa: PLR2004 - the engine's own noise
    return found | ({"failed": "not the CPU's answers"} if wrong or mine[1]["itself"] else {})


@contextlib.contextmanager
def little_memory(device: str) -> Iterator[None]:
    """Leave so little memory that large batches do not fit; on a CPU passes of more than 4 rows are refused."""
    if device.startswith("cuda"):
        free, total = torch.cuda.mem_get_info()
        torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_allocated() + min(free, 1.5 * 2**30)) / total)
        try:
            yield
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0)
        return
    forward = LanguageModel.forward

    def refusing(self: LanguageModel, ids: torch.Tensor, **rest: Any) -> torch.Tensor:
        if len(ids) > 4:  # noqa: PLR2004 - as the docstring says
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(self, ids, **rest)

    LanguageModel.forward = refusing  # type: ignore[method-assign]
    try:
        yield
    finally:
        LanguageModel.forward = forward  # type: ignore[method-assign]


def out_of_memory(device: str, size: str, rows: int) -> dict[str, Any]:
    """Answer more rows at once than memory holds: all answers have to come, and the notes have to say so."""
    model = made_model(size, device, torch.bfloat16)
    many = [item(f"o{number}", text_of(900, number), max_tokens=8) for number in range(rows)]
    with little_memory(device):
        engine = HFEngine(model, made_tokenizer(), NO_PROOF, device=device, batch_tokens=1 << 20, max_batch=512)
        answered = len(list(engine.answer(many, Settings())))
    notes = engine.usage().notes
    found = {"answered": f"{answered}/{rows}", "halved": sum("out of memory" in note for note in notes)}
    right = answered == rows and found["halved"]
    return found if right else {**found, "failed": "memory was not short, or not noticed"}


def methods(log: Log, device: str) -> None:
    """Quantize, load and run a tiny model by every method that the device has."""
    for method in METHODS:
        if log.done(f"method {method}"):
            continue
        print(f"trying {method}", flush=True)  # some compile their kernels first, which takes minutes
        began = time.monotonic()
        report = examine(device, prove=(method,))
        status = next(one for one in report.methods if one.method == method)
        one = report.proved[0] if report.proved else Proved(method, works=False, seconds=0.0, reason=status.reason)
        error, why = (
            None if one.error is None else round(one.error, 4),
            (one.reason or "alias")[: 0 if one.works else 90],
        )
        found = {"works": one.works, "kernel": one.kernel, "error": error, "why": why}
        log.add(f"method {method}", found, time.monotonic() - began)


def smoke(log: Log, device: str, *, tiny: bool) -> None:
    """Run the part."""
    for dtype in DTYPES:
        for way in WAYS:
            log.measure(f"{dtype} {way}", functools.partial(agreement, device, dtype, way))
    size, rows = ("tiny", 12) if tiny else ("135m", 256)
    log.measure("out of memory", functools.partial(out_of_memory, device, size, rows))
    methods(log, device)
