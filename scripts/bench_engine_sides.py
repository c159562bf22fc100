"""The two sides of the engine's benchmark, and how they are measured: our engine, and lm_eval's own `hf` model."""

from __future__ import annotations

import contextlib
import copy
import ctypes
import gc
import io
import logging
import os
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import psutil
import torch

from harness.engines.transformers.cache import KVCachePool
from harness.engines.transformers.divergence import Comparer, Recorder
from harness.engines.transformers.engine import HFEngine
from harness.records import ChoiceLogprobs, Generation, Item, Proof, Settings

GREEDY = Settings()
GPU_BUDGET = {"batch_tokens": 131072, "max_batch": 256}  # as configs/llama-8b.yaml has it
NO_PROOF = Proof("none", "Linear", 0, 0, 0.0, 0, 0, "", 0, "")


@dataclass
class Cost:
    """What a run cost."""

    seconds: float
    """Wall time."""
    cpu_seconds: float
    """Processor time of all threads."""
    peak_bytes: int
    """Most memory beyond what was held before: device memory on a GPU, resident set on a CPU."""
    answers: dict[str, Any] = field(default_factory=dict)
    """By item: the choices' log-probabilities, or the text; the baseline's where several models were asked."""


def models_of(model: Any, count: int) -> list[Any]:
    """Return a baseline and so many minus one stand-ins for its quantized builds: weights rounded to 8, 6 and 4 bits.

    Rounded in place and kept in the compute dtype, so that the benchmark measures engines and not kernels.
    """
    made = [model]
    for bits in (8, 6, 4)[: count - 1]:
        rounded = copy.deepcopy(model)
        head = rounded.get_output_embeddings()
        for module in rounded.modules():
            if isinstance(module, torch.nn.Linear) and module is not head:
                module.weight.data = rounded_to(module.weight.data, bits)
        made.append(rounded)
    return made


def rounded_to(weight: torch.Tensor, bits: int, group: int = 64) -> torch.Tensor:
    """Round weights to the nearest of 2**bits levels per group of 64, symmetric."""
    shape = weight.shape if weight.shape[1] % group == 0 else None
    parts = weight.float().reshape(-1, group) if shape else weight.float()
    scale = parts.abs().amax(dim=1, keepdim=True).clamp(min=1e-8) / (2 ** (bits - 1) - 1)
    return ((parts / scale).round() * scale).reshape(weight.shape).to(weight.dtype)


def ours(models: Sequence[Any], tokenizer: Any, items: Sequence[Item], device: str) -> dict[str, Any]:
    """Answer with our engine; with several models, the first is the baseline and the rest are compared with it."""
    budget = GPU_BUDGET if device.startswith("cuda") else {}
    engine = HFEngine(models[0], tokenizer, NO_PROOF, device=device, **budget)
    recorder = Recorder() if len(models) > 1 else None
    answers = {one.item_id: one for one in engine.answer(items, GREEDY, observer=recorder)}
    for model in models[1:]:
        candidate = HFEngine(model, tokenizer, NO_PROOF, device=device, **budget)
        comparer = Comparer(recorder.traces if recorder else {}, engine.head, candidate.head)
        list(candidate.answer(items, GREEDY, observer=comparer))
        if len(comparer.found) < len(items):
            raise RuntimeError(f"divergence of {len(comparer.found)} of {len(items)} items")
    return {name: plain(one) for name, one in answers.items()}


def plain(answer: Any) -> Any:
    """Return what is compared of an answer."""
    if isinstance(answer, ChoiceLogprobs):
        return list(answer.logprobs)
    if isinstance(answer, Generation):
        return answer.text
    raise RuntimeError(f"unanswered: {answer}")


def theirs(models: Sequence[Any], tokenizer: Any, items: Sequence[Item], sizes: Mapping[str, int]) -> dict[str, Any]:
    """Answer with lm_eval's `hf` model, each model asked as by a run of its own; the answers are the first one's.

    Each slice is asked at its own batch size, which one run of lm_eval could not do: to its advantage.
    """
    from lm_eval.models.huggingface import HFLM

    found: list[dict[str, Any]] = []
    for model in models:
        answers: dict[str, Any] = {}
        for name, size in sizes.items():
            own = [one for one in items if one.slice == name]
            if own:
                lm = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=size, softmax_dtype="float32")
                answers |= asked_of(lm, own)
        found.append(answers)
    return found[0]


def asked_of(lm: Any, items: Sequence[Item]) -> dict[str, Any]:
    """Ask an lm_eval model."""
    from lm_eval.api.instance import Instance

    weighed = [one for one in items if one.kind == "choice"]
    texts = [one for one in items if one.kind == "generate"]
    pairs = [Instance("loglikelihood", {}, (one.prompt, choice), 0) for one in weighed for choice in one.choices]
    numbers = iter(lm.loglikelihood(pairs, disable_tqdm=True) if pairs else [])
    answers: dict[str, Any] = {one.id: [next(numbers)[0] for _ in one.choices] for one in weighed}
    requests = [
        Instance("generate_until", {}, (one.prompt, {"until": list(one.stop), "max_gen_toks": one.max_tokens}), 0)
        for one in texts
    ]
    said = lm.generate_until(requests, disable_tqdm=True) if requests else []
    return answers | {one.id: text for one, text in zip(texts, said, strict=True)}


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep lm_eval's progress and warnings off the terminal."""
    logging.disable(logging.WARNING)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        try:
            yield
        finally:
            logging.disable(logging.NOTSET)


def measured(run: Callable[[], dict[str, Any]], device: str) -> Cost:
    """Run once and say what it cost."""
    process, high, stop = psutil.Process(os.getpid()), [0], threading.Event()
    give_back()
    before = process.memory_info().rss

    def look() -> None:
        while not stop.wait(0.02):
            high[0] = max(high[0], process.memory_info().rss)

    watcher = threading.Thread(target=look, daemon=True)
    cuda = device.startswith("cuda")
    if cuda:
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
    else:
        watcher.start()
    began, busy = time.perf_counter(), time.process_time()
    with quiet():
        answers = run()
    if cuda:
        torch.cuda.synchronize()
    seconds, cpu = time.perf_counter() - began, time.process_time() - busy
    stop.set()
    peak = torch.cuda.max_memory_allocated() if cuda else high[0]
    return Cost(seconds, cpu, max(0, peak - before), answers)


def give_back() -> None:
    """Return freed memory back to the system, so that the next side's is counted as its own."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # glibc alone has it
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def best_batch(
    run: Callable[[int], dict[str, Any]], start: int, most: int, device: str
) -> tuple[int, dict[int, float]]:
    """Find the batch size at which lm_eval is fastest here, and what each tried one took.

    From `start` in powers of two upwards while that helps, else downwards.
    """
    took: dict[int, float] = {}

    def seconds(size: int) -> float:
        if size not in took:
            try:
                took[size] = measured(lambda: run(size), device).seconds
            except (torch.OutOfMemoryError, MemoryError):
                took[size] = float("inf")
        return took[size]

    size = start
    while size * 2 <= most and seconds(size * 2) < seconds(size):
        size *= 2
    while size == start and size > 1 and seconds(size // 2) < seconds(size):
        size = start = size // 2
    seconds(size)
    return min(took, key=lambda size: took[size]), {size: took[size] for size in sorted(took)}


def differences(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """Return how far two sides' answers are apart: share of items with the same answer, largest log-probability gap."""
    same, gap = 0, None
    for name, mine in one.items():
        if isinstance(mine, str):
            same += mine == other[name]
            continue
        gap = max([gap or 0.0, *(abs(a - b) for a, b in zip(mine, other[name], strict=True))])
        same += mine.index(max(mine)) == other[name].index(max(other[name]))
    return {"items": len(one), "same_answers": same, "largest_logprob_gap": gap}


def rates(model: Any, tokenizer: Any, items: Sequence[Item], device: str) -> dict[str, float]:
    """Return tokens per second of our engine's passes: those that read prompts, and the steps that write answers.

    An answer's first token comes out of the pass that reads its prompt.
    """
    engine = HFEngine(model, tokenizer, NO_PROOF, device=device)
    language_model = engine.context.model
    forward, step = language_model.forward, KVCachePool.forward
    seconds = {"prefill": 0.0, "decode": 0.0}
    read, kind = 0, "prefill"

    def timed(ids: torch.Tensor, **rest: Any) -> torch.Tensor:
        nonlocal read
        began = time.perf_counter()
        hidden = forward(ids, **rest)
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        seconds[kind] += time.perf_counter() - began
        read += ids.numel() if kind == "prefill" else 0
        return hidden

    def stepped(*given: Any) -> torch.Tensor:
        nonlocal kind
        kind = "decode"
        try:
            return step(*given)
        finally:
            kind = "prefill"

    language_model.forward = timed  # type: ignore[method-assign]
    with mock.patch.object(KVCachePool, "forward", stepped):
        list(engine.answer(items, GREEDY))
    written = engine.usage().output_tokens - sum(one.kind == "generate" for one in items)
    counts = {"prefill": read, "decode": written}
    return {f"{name}_tokens_per_second": counts[name] / spent for name, spent in seconds.items() if spent}


def peak_of_device(device: str, dtype: torch.dtype) -> float:
    """Return the floating-point operations per second of a large matrix product, the best of several."""
    size = 8192 if device.startswith("cuda") else 2048
    a = torch.randn(size, size, device=device).to(dtype)
    took = []
    for _ in range(6):
        began = time.perf_counter()
        a @ a
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        took.append(time.perf_counter() - began)
    return 2 * size**3 / min(took)


def spread(values: Sequence[float]) -> tuple[float, float, float]:
    """Return median, smallest and largest."""
    return statistics.median(values), min(values), max(values)
