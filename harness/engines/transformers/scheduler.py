"""What every question needs (model, tokenizer, budgets, usage), and which requests are answered together.

Requests are split by length, by what their prompts share, and by what memory holds. That depends on requests and budget
alone, so the same requests are always read in the same passes. Does not know how they are answered.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, TypeVar

from torch import Tensor

from harness.engines.transformers.decode import Request
from harness.engines.transformers.decode_paths import Assisted
from harness.engines.transformers.model import LanguageModel
from harness.engines.transformers.packing import (
    BRANCH_TOKENS_AT_MOST,
    Budget,
    PackedRequests,
    R,
    group_by_prefix,
    plan_rows,
)
from harness.engines.transformers.text import TextCodec

__all__ = ["EngineContext", "HiddenStateObserver", "Row", "Schedule", "UsageCounter", "schedules", "tokens_on_prefix"]

PREFILL_TOKENS = {"cpu": 4096, "cuda": 32768}
"""Tokens read at once, by kind of device: more do not make it faster, and take memory."""

SHARED_PREFIX_AT_LEAST = 256
"""Tokens: a shared beginning of at least this length is kept once for all answers that grow on it, provided that it is
longer than all that grows: every step looks at the whole row."""

Row = PackedRequests[Request]
T = TypeVar("T")


class HiddenStateObserver(Protocol):
    """What is shown the hidden states behind each answer."""

    references: Mapping[str, tuple[int, ...]]
    """By item id, the answers whose tokens are to be predicted."""
    own_tokens: int
    """How many of its own first tokens are to be predicted for an answer without a reference."""

    def observe(self, item_id: str, tokens: Sequence[int], hidden: Tensor) -> None:
        """Take the hidden states [tokens or more, width] that predict an item's tokens."""


@dataclass(slots=True)
class UsageCounter:
    """What has been spent."""

    prompt_tokens: int = 0
    output_tokens: int = 0
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class EngineContext:
    """What every question needs."""

    model: LanguageModel
    texts: TextCodec
    limit: int
    budget: Budget
    share_prefixes: bool
    """Whether what sequences begin with alike is read once: the context of choices, a haystack, worked examples."""
    continuous: bool
    """Whether the place of a finished answer goes to the next one at once, and drafts are checked in one pass."""
    usage: UsageCounter
    assisted: Assisted | None = None

    def pack(self, requests: Sequence[R]) -> list[PackedRequests[R]]:
        """Return requests in rows: those that begin alike share one if this model can take it."""
        most = BRANCH_TOKENS_AT_MOST if self.share_prefixes else 0
        sequences = [one.sequence for one in requests]
        groups = group_by_prefix(sequences, most=most, longest=self.model.longest_together)
        return [PackedRequests.of([requests[index] for index in group]) for group in groups]

    def prefill_budget(self, budget: Budget | None = None) -> Budget:
        """Return how much may be read in one pass."""
        budget = budget or self.budget
        most = PREFILL_TOKENS.get(self.model.device.type, budget.tokens)
        return replace(budget, tokens=min(budget.tokens, most))


@dataclass(frozen=True, slots=True)
class Schedule:
    """Requests that are answered together."""

    batches: list[list[Row]]
    """The rows of one batch are read in one pass."""
    rows: int
    """How many cache rows are in use at a time: one for each answer, or one for each shared prefix."""
    on_prefixes: bool
    """Whether answers grow on one copy of what the prompts of their row share."""


def schedules(context: EngineContext, requests: Sequence[Request], budget: Budget) -> Iterator[Schedule]:
    """Split requests into stretches of similar length, each with as many rows as the budget has room for.

    Answers of rows with a long shared prefix grow on it, rows of similar width together; others in slots.
    """
    reading = context.prefill_budget(budget)
    for mine in _stretches(requests, lambda one: one.tokens):
        rows = context.pack(mine) if budget.rows > 1 else [PackedRequests.of([one]) for one in mine]
        shared = [row for row in rows if _shares_long_prefix(row)]
        for some in _stretches(shared, lambda row: len(row.requests)):
            branches = len(some[0].requests)
            largest = max(tokens_on_prefix(row, branches) for row in some)
            held = max(1, min(budget.rows // branches, budget.tokens // largest, len(some)))
            yield Schedule(plan_rows(some, reading), held, on_prefixes=True)
        if apart := [row for row in rows if not _shares_long_prefix(row)]:
            sizes = [request.tokens for row in apart for request in row.requests]
            slots = max(1, min(budget.rows, budget.tokens // max(sizes), len(sizes)))
            yield Schedule(plan_rows(apart, reading), slots, on_prefixes=False)


def _stretches(things: Sequence[T], size: Callable[[T], int]) -> Iterator[list[T]]:
    """Split things into stretches, the largest first, in which none is smaller than half the largest."""
    order = sorted(things, key=lambda one: -size(one))
    while order:
        largest = size(order[0])
        count = next((at for at, one in enumerate(order) if 2 * size(one) < largest), len(order))
        yield order[:count]
        order = order[count:]


def _shares_long_prefix(row: Row) -> bool:
    """Whether a row's answers are better kept on one copy of what their prompts share."""
    shared = row.tree.shared_prefix
    grown = tokens_on_prefix(row, len(row.requests)) - shared
    return len(row.requests) > 1 and shared >= SHARED_PREFIX_AT_LEAST and shared >= grown


def tokens_on_prefix(row: Row, branches: int) -> int:
    """Return the tokens that a row needs if its answers grow on one copy of its prefix, ended branches included."""
    return len(row.tree.tokens) + branches * max(request.max_tokens for request in row.requests)
