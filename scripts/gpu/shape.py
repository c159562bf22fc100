"""Part (b): an 8B model of random weights: prompts, steps, shared texts and divergence, in every way.

Every case goes through the engine as a unit of items does; a step is timed from its first integer to the tokens on the
host. The floor of a step is the time in which this device reads the weights and the cache once, or multiplies once.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from unittest import mock

import torch

from gpu.log import Log
from gpu.made import NO_PROOF, body_of, item, made_model, made_tokenizer, text_of
from harness.engines.transformers import attention, continuous, head
from harness.engines.transformers.continuous import Continuous
from harness.engines.transformers.divergence import Trace, divergence
from harness.engines.transformers.engine import HFEngine
from harness.records import Settings

Pairs = Sequence[tuple[int, int]]


WAYS: dict[str, Callable[[], contextlib.AbstractContextManager[Any]]] = {
    "default": contextlib.nullcontext,
    "cudnn": attention.cudnn_attention,
    "repeated-keys": lambda: mock.patch.object(attention, "SHORT_QUERY", 0),
    "eager": lambda: mock.patch.object(Shape, "graphs", new=False),
    "every-shape": lambda: mock.patch.multiple(Shape, graphs=False, few_shapes=False),
    "small-tiles": lambda: mock.patch.object(head, "CUDA_TILES", 1),
    "masked": lambda: mock.patch.object(attention, "FLASH_BY_LENGTH", new=False),
    "prefixes-apart": lambda: mock.patch.dict(continuous.PREFIX_ALONE, cuda=1024),
    "keys-whole": lambda: mock.patch.multiple(attention, FLASH_BY_LENGTH=False, BLOCKS=0),
}
"""By name, each way to be measured: as the engine does it by default, without one of its remedies, or with another."""


@contextlib.contextmanager
def steps_noted(took: list[tuple[float, float]]) -> Iterator[None]:
    """Note when each step begins and ends while the engine answers: it ends with the tokens on the host."""

    def timed(step: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
        def run(*given: Any) -> Iterator[Any]:
            began = time.perf_counter()
            ended = list(step(*given))
            took.append((began, time.perf_counter()))
            yield from ended

        return run

    with mock.patch.object(Continuous, "_decode_step", timed(Continuous._decode_step)):  # noqa: SLF001  # what is timed
        yield


def synchronize(device: str) -> None:
    """Wait for the device."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def milliseconds(run: Callable[[], Any], device: str, repeat: int = 5) -> float:
    """Return the median time of a call after one that warms up."""
    took = []
    for _ in range(repeat + 1):
        synchronize(device)
        began = time.perf_counter()
        run()
        synchronize(device)
        took.append(1e3 * (time.perf_counter() - began))
    return statistics.median(took[1:])


class Shape:
    """A model and what its device can do."""

    graphs = True
    """Whether steps may be replayed as graphs."""
    few_shapes = True
    """Whether they may compute more than is in use, so that few shapes occur."""

    def __init__(self, size: str, device: str) -> None:
        self.device, cuda = device, device.startswith("cuda")
        side = 8192 if cuda else 256
        a = torch.randn(side, side, device=device).to(torch.bfloat16)
        self.flops = 2 * side**3 / milliseconds(functools.partial(torch.matmul, a, a), device) * 1e3
        big = torch.empty(side * side * 16, device=device, dtype=torch.bfloat16)
        self.bandwidth = 4 * big.numel() / milliseconds(big.clone, device) * 1e3
        del a, big
        self.model = made_model(size, device, torch.bfloat16)
        self.body = body_of(self.model)
        self.tokenizer = made_tokenizer()

    def engine(self, rows: int, tokens: int) -> HFEngine:
        """Return an engine that holds so many rows of so many tokens."""
        return HFEngine(
            self.model, self.tokenizer, NO_PROOF, device=self.device, batch_tokens=rows * tokens, max_batch=rows
        )

    def floor(self, rows: int, cached: int) -> float:
        """Return the milliseconds in which memory can be read once: weights, and so many tokens of cache."""
        config = self.model.config
        each = 2 * 2 * config.num_key_value_heads * config.head_dim * config.num_hidden_layers
        head = config.hidden_size * config.vocab_size
        arithmetic = 2 * rows * (self.body + head) / self.flops
        return 1e3 * max((2 * (self.body + head) + each * cached) / self.bandwidth, arithmetic)

    def answered(self, prompts: Sequence[str], steps: int, cached: int, settings: Settings) -> dict[str, Any]:
        """Answer prompts of equal length together."""
        rows, tokens = len(prompts), len(prompts[0])
        engine, noted = self.engine(rows, tokens + steps + 64), []
        asked = engine.context.model
        asked.graphs, asked.few_shapes = asked.graphs and self.graphs, asked.few_shapes and self.few_shapes
        items = [item(f"i{number}", prompt, max_tokens=steps) for number, prompt in enumerate(prompts)]
        synchronize(self.device)
        began = time.perf_counter()
        with steps_noted(noted):
            list(engine.answer(items, settings))
        took = [1e3 * (ended - begun) for begun, ended in noted]
        middle, read = statistics.median(took), engine.usage().prompt_tokens
        reading, floor = noted[0][0] - began, self.floor(rows, cached)
        return {
            "step_ms": round(middle, 2),
            "slowest_ms": round(max(took), 1),
            "tokens_per_s": round(1e3 * rows / middle),
            "floor_ms": round(floor, 2),
            "of_floor": f"{floor / middle:.0%}",
            "read_tokens": read,
            "read_per_s": round(read / reading),
            "read_of_peak": f"{2 * self.body * read / reading / self.flops:.0%}",
            "notes": len(engine.usage().notes),
        }

    def decode(self, rows: int, tokens: int, steps: int, settings: Settings) -> dict[str, Any]:
        """Answer texts that share nothing."""
        return self.answered([text_of(tokens, number) for number in range(rows)], steps, rows * tokens, settings)

    def shared(self, rows: int, tokens: int, steps: int) -> dict[str, Any]:
        """Answer questions on one text: the cache holds it once."""
        text = text_of(tokens - 16, "one text")
        prompts = [f"{text} question {number:6d}"[-tokens:] for number in range(rows)]
        return self.answered(prompts, steps, tokens, Settings())

    def choices(self, rows: int, tokens: int) -> dict[str, Any]:
        """Weigh four choices after each of so many contexts; the second of two times, the first warms up."""
        engine = self.engine(rows, tokens + 64)
        texts = [
            (text_of(tokens - 32, number), [text_of(24, f"{number}.{at}") for at in range(4)]) for number in range(rows)
        ]
        items = [item(f"w{number}", text, choices=tuple(four)) for number, (text, four) in enumerate(texts)]
        took, read = [], 0
        for _ in range(2):
            read = engine.usage().prompt_tokens
            synchronize(self.device)
            began = time.perf_counter()
            list(engine.answer(items, Settings()))
            took.append(time.perf_counter() - began)
            read = engine.usage().prompt_tokens - read
        return {
            "seconds": round(took[1], 2),
            "first_seconds": round(took[0], 2),
            "read_tokens": read,
            "read_per_s": round(read / took[1]),
            "read_of_peak": f"{2 * self.body * read / took[1] / self.flops:.0%}",
        }

    def diverged(self, tokens: int) -> dict[str, Any]:
        """Measure divergence with the model's own head."""
        engine = self.engine(1, 64)
        hidden = torch.randn(tokens, self.model.config.hidden_size, device=self.device, dtype=torch.bfloat16)
        trace = Trace("x", tuple(range(tokens)), (hidden + 0.01).cpu())
        run = functools.partial(divergence, trace, hidden, baseline=engine.head, candidate=engine.head)
        weigh = functools.partial(lambda: list(engine.head.tiles(hidden, precise=True)))
        took, weighed = milliseconds(run, self.device, 3), milliseconds(weigh, self.device, 3)
        return {"us_per_token": round(1e3 * took / tokens, 1), "head_us_per_token": round(1e3 * weighed / tokens, 1)}


def shape(log: Log, device: str, size: str, decode: Pairs, shared: Pairs, ways: Sequence[str], steps: int) -> None:
    """Run the part: every case in the first way, then in the next."""
    made = Shape(size, device)
    ceilings = {"tflops": round(made.flops / 1e12, 2), "gb_per_s": round(made.bandwidth / 1e9), "weights": made.body}
    log.measure("ceilings", lambda: ceilings)
    for name in ways:
        with WAYS[name]():
            for rows, tokens in decode:
                run = functools.partial(made.decode, rows, tokens, steps, Settings())
                log.measure(f"decode {rows}x{tokens} {name}", run)
                gc.collect()
            for rows, tokens in shared:
                log.measure(f"shared {rows} on {tokens} {name}", functools.partial(made.shared, rows, tokens, steps))
                gc.collect()
            rows, tokens = decode[0]
            log.measure(f"choices {rows}x{tokens} {name}", functools.partial(made.choices, rows, tokens))
            log.measure(f"divergence {name}", functools.partial(made.diverged, 1024 if device != "cpu" else 32))
    rows, tokens = decode[0]
    sampled = Settings(temperature=0.8, seed=1)
    log.measure(f"decode {rows}x{tokens} sampled", functools.partial(made.decode, rows, tokens, steps, sampled))
