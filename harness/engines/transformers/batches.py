"""Which requests go through the model together, and what happens when memory does not suffice.

Knows lengths and budgets. Does not know texts or models, except for the errors that mean "out of memory".
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Generic, TypeVar

import torch

from harness.engines.transformers.packing import PackedTree
from harness.engines.transformers.prefill import reads_prefix_first
from harness.errors import RunError

__all__ = ["Budget", "OomRetry", "device_failed", "out_of_memory", "plan", "plan_rows", "release_memory", "too_large"]

T = TypeVar("T")
R = TypeVar("R")


OUT_OF_MEMORY = (
    "out of memory",
    "allocate memory",
    "cublas_status_alloc_failed",
    "cublas_status_not_initialized",
    "cudnn_status_alloc_failed",
    "device_allocation_failed",
    "cudaerrormemoryallocation",
)
"""Parts of the messages of allocators, and of libraries that cannot get their workspace on a full device."""


@dataclass(frozen=True, slots=True)
class Budget:
    """How large a batch may be."""

    tokens: int
    """Rows times the longest row's tokens, padding and room for the answer included."""
    rows: int
    """Rows."""
    equal: bool = False
    """Only rows of one length together: no padding at all."""
    together: int = sys.maxsize
    """Rows longer than this, in tokens, are alone."""

    def halved(self) -> Budget:
        """Return half the budget, of at least one row."""
        return replace(self, tokens=max(1, self.tokens // 2), rows=max(1, self.rows // 2))


def plan(lengths: Sequence[int], budget: Budget) -> list[list[int]]:
    """Split rows into batches by their lengths, longest first, so that a batch holds rows of similar length.

    Gives indices into `lengths`; depends on these numbers alone. A row that is over the budget by itself
    still gets a batch, alone.
    """
    order = sorted(range(len(lengths)), key=lambda index: (-lengths[index], index))
    batches: list[list[int]] = []
    widest = 0
    for index in order:
        rows = len(batches[-1]) + 1 if batches else 0
        fits = batches and rows <= budget.rows and rows * widest <= budget.tokens
        if fits and widest <= budget.together and not (budget.equal and lengths[index] != widest):
            batches[-1].append(index)
        else:
            batches.append([index])
            widest = lengths[index]
    return batches


def plan_rows(rows: Sequence[PackedTree], budget: Budget) -> list[list[int]]:
    """Split packed rows into batches: trees with a long shared prefix alone, other trees together, and so sequences."""
    alone = [index for index, row in enumerate(rows) if reads_prefix_first(row)]
    trees = [index for index, row in enumerate(rows) if not row.single and not reads_prefix_first(row)]
    plain = [index for index, row in enumerate(rows) if row.single]
    batches = [[index] for index in sorted(alone, key=lambda index: -len(rows[index].tokens))]
    for kind in (trees, plain):
        lengths = [len(rows[index].tokens) for index in kind]
        batches += [[kind[index] for index in batch] for batch in plan(lengths, budget)]
    return batches


def out_of_memory(error: BaseException) -> bool:
    """Return whether an error means that memory did not suffice, on CUDA or from the CPU allocator."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(phrase in str(error).lower() for phrase in OUT_OF_MEMORY)


def device_failed(error: BaseException) -> bool:
    """Return whether an error is CUDA's or one of its libraries', and not a model's that cannot take its arguments."""
    return isinstance(error, RuntimeError) and any(
        name in str(error).lower() for name in ("cuda error", "cublas", "cudnn")
    )


def too_large(name: str) -> RunError:
    """Return the error for an item that does not fit memory even alone."""
    return RunError(
        f"{name}: out of memory with this item alone in the batch; use a device with more memory, "
        "or leave such long items out"
    )


def release_memory() -> None:
    """Return freed memory back to the device, after an exception that kept tensors alive is gone."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


@dataclass(slots=True)
class OomRetry(Generic[T, R]):
    """Runs batches, and halves one that does not fit memory until it does."""

    run: Callable[[list[T]], list[R]]
    """What answers one batch."""
    split: Callable[[T], list[T]]
    """Divides one request of a batch into smaller ones; return fewer than two if it cannot be divided."""
    name: Callable[[T], str]
    """How a person calls a request: for the message when it does not fit alone."""
    notes: list[str] = field(default_factory=list)
    """A sentence for every batch that was halved."""
    largest: int | None = None
    """Rows that fit after the last failure: later batches are not larger. None before any failure."""

    def __call__(self, batch: list[T]) -> Iterator[R]:
        """Answer a batch, in one go or in parts. Raises RunError if one request alone is too large."""
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
                waiting += self._smaller(part)
            else:
                yield from answers
                continue
            release_memory()

    def _smaller(self, part: list[T]) -> list[list[T]]:
        """Return the parts to try instead, the first one last."""
        if len(part) > 1:
            self.largest = len(part) // 2
            self.notes.append(f"out of memory with {len(part)} rows in a batch: went on with {self.largest}")
            return [part]
        pieces = self.split(part[0])
        if len(pieces) < 2:  # noqa: PLR2004  # one piece is no division
            raise too_large(self.name(part[0]))
        self.notes.append("out of memory with one row: what it shared was read more than once")
        return [[piece] for piece in reversed(pieces)]
