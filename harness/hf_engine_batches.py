"""Which requests go through the model together, and what happens when memory does not suffice.

Knows lengths and budgets. Does not know tokens, texts or models, except for the errors that mean "out of
memory".
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import torch

from harness.errors import RunError

__all__ = ["Backoff", "Budget", "out_of_memory", "plan"]

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Budget:
    """How large a batch may be."""

    tokens: int
    """Rows times the longest row's tokens, padding and room for the answer included."""
    rows: int
    """Rows."""
    equal: bool = False
    """Only rows of one length together: no padding at all."""


def plan(lengths: Sequence[int], budget: Budget, rows: Sequence[int] | None = None) -> list[list[int]]:
    """Split requests into batches, longest first, so that the batches hold rows of similar length.

    `lengths` is the tokens of each request, `rows` how many rows it fills (1 unless said). The plan depends
    on these numbers alone. A request that is over the budget by itself still gets a batch, alone.
    """
    weight = rows or [1] * len(lengths)
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    batches: list[list[int]] = []
    widest = used = 0
    for index in order:
        used += weight[index]
        fits = bool(batches) and used <= budget.rows and used * widest <= budget.tokens
        if fits and not (budget.equal and lengths[index] != widest):
            batches[-1].append(index)
            continue
        batches.append([index])
        widest, used = lengths[index], weight[index]
    return batches


def out_of_memory(error: BaseException) -> bool:
    """Say whether an error means that memory did not suffice, on CUDA or from the CPU allocator."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and ("allocate memory" in text or "out of memory" in text.lower())


@dataclass(slots=True)
class Backoff(Generic[T, R]):
    """Runs batches, and halves one that does not fit memory until it does."""

    run: Callable[[list[T]], list[R]]
    """What answers one batch."""
    name: Callable[[T], str]
    """How a person calls a request: for the message when even one alone does not fit."""
    notes: list[str] = field(default_factory=list)
    """A sentence for every batch that was halved."""
    largest: int | None = None
    """Rows that fit after the last failure: later batches are not larger. None before any failure."""

    def __call__(self, batch: list[T]) -> Iterator[R]:
        """Answer a batch, in one go or in halves. Raises RunError where one request alone is too large."""
        waiting = [batch]
        while waiting:
            part = waiting.pop()
            if self.largest is not None and len(part) > self.largest:
                waiting += [part[self.largest :], part[: self.largest]]
                continue
            try:
                answers = self.run(part)
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error):
                    raise
                self._shrink(part)
                waiting.append(part)
            else:
                yield from answers
                continue
            self._free()  # outside of the handler: the traceback kept the batch's tensors alive

    def _shrink(self, part: list[T]) -> None:
        if len(part) == 1:
            raise RunError(
                f"{self.name(part[0])}: out of memory with this item alone in the batch; use a device with "
                "more memory, or leave such long items out"
            )
        self.largest = len(part) // 2
        self.notes.append(f"out of memory with {len(part)} rows: went on with {self.largest}")

    @staticmethod
    def _free() -> None:
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
