"""What every question needs (model, tokenizer, budgets, usage), and which requests are answered together.

Requests are split by length, by what their prompts share, and by what memory holds. That depends on requests and budget
alone, so the same requests are always read in the same passes. Does not know how they are answered.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from harness.engines.transformers.batches import Budget, plan_rows
from harness.engines.transformers.continuous import tokens_on_prefix
from harness.engines.transformers.decode import Request
from harness.engines.transformers.model import LanguageModel
from harness.engines.transformers.packing import BRANCH_TOKENS_AT_MOST, PackedRequests, R, pack_requests
from harness.engines.transformers.text import TextCodec

__all__ = ["EngineContext", "Schedule", "UsageCounter", "schedules"]

PREFILL_TOKENS = {"cpu": 4096, "cuda": 32768}
"""Tokens read at once, by kind of device: more do not make it faster, and take memory."""


@dataclass(slots=True)
class UsageCounter:
    """What has been spent."""

    prompt_tokens: int = 0
    """Tokens read; what is shared counts once."""
    output_tokens: int = 0
    """Tokens written."""
    notes: list[str] = field(default_factory=list)
    """Sentences for the log."""

    def read(self, tokens: int) -> None:
        """Count tokens that were read."""
        self.prompt_tokens += tokens


@dataclass(frozen=True, slots=True)
class EngineContext:
    """What every question needs."""

    model: LanguageModel
    """The model."""
    texts: TextCodec
    """Its tokenizer."""
    limit: int
    """Longest prompt plus answer, in tokens."""
    budget: Budget
    """How large a batch may be."""
    share_prefixes: bool
    """Whether what sequences begin with alike is read once: the context of choices, a haystack, worked examples."""
    continuous: bool
    """Whether the place of a finished answer goes to the next one at once, and drafts are checked in one pass."""
    usage: UsageCounter
    """What has been spent."""

    def pack(self, requests: Sequence[R]) -> list[PackedRequests[R]]:
        """Return requests in rows: those that begin alike share one if this model can take it."""
        most = BRANCH_TOKENS_AT_MOST if self.share_prefixes else 0
        return pack_requests(requests, most=most, longest=self.model.longest_together)

    def prefill_budget(self, budget: Budget | None = None) -> Budget:
        """Return how much may be read in one pass."""
        budget = budget or self.budget
        most = PREFILL_TOKENS.get(self.model.device.type, budget.tokens)
        return replace(budget, tokens=min(budget.tokens, most))


SHARED_PREFIX_AT_LEAST = 256
"""Tokens: a shared beginning of at least this length is kept once for all answers that grow on it, provided that it is
longer than all that grows: every step looks at the whole row."""


Rows = list[PackedRequests[Request]]


@dataclass(frozen=True, slots=True)
class Schedule:
    """Requests that are answered together."""

    batches: list[Rows]
    """The rows of one batch are read in one pass."""
    rows: int
    """How many cache rows are in use at a time: one for each answer, or one for each shared prefix."""
    on_prefixes: bool
    """Whether answers grow on one copy of what the prompts of their row share."""


def schedules(context: EngineContext, requests: Sequence[Request], budget: Budget) -> Iterator[Schedule]:
    """Split requests into stretches of similar length, each with as many rows as the budget has room for."""
    order = sorted(requests, key=lambda one: -one.tokens)
    while order:
        longest = order[0].tokens
        count = next((at for at, one in enumerate(order) if 2 * one.tokens < longest), len(order))
        mine, order = order[:count], order[count:]
        rows = context.pack(mine) if budget.rows > 1 else [PackedRequests.of([one]) for one in mine]
        yield from _by_memory(context, rows, budget)


def _by_memory(context: EngineContext, rows: Rows, budget: Budget) -> Iterator[Schedule]:
    """Let the answers of rows with a long shared prefix grow on it, rows of similar width together; others in slots."""
    shared = sorted((row for row in rows if _shares_long_prefix(row)), key=lambda row: -len(row.requests))
    while shared:
        branches = len(shared[0].requests)
        count = next((at for at, row in enumerate(shared) if 2 * len(row.requests) < branches), len(shared))
        mine, shared = shared[:count], shared[count:]
        largest = max(tokens_on_prefix(row, branches) for row in mine)
        held = max(1, min(budget.rows // branches, budget.tokens // largest, count))
        yield Schedule(_batches(context, mine, budget), held, on_prefixes=True)
    if apart := [row for row in rows if not _shares_long_prefix(row)]:
        requests = [request for row in apart for request in row.requests]
        longest = max(request.tokens for request in requests)
        slots = max(1, min(budget.rows, budget.tokens // longest, len(requests)))
        yield Schedule(_batches(context, apart, budget), slots, on_prefixes=False)


def _batches(context: EngineContext, rows: Rows, budget: Budget) -> list[Rows]:
    batches = plan_rows([row.tree for row in rows], context.prefill_budget(budget))
    return [[rows[index] for index in batch] for batch in batches]


def _shares_long_prefix(row: PackedRequests[Request]) -> bool:
    """Whether a row's answers are better kept on one copy of what their prompts share."""
    shared = row.tree.shared_prefix
    grown = tokens_on_prefix(row, len(row.requests)) - shared
    return len(row.requests) > 1 and shared >= SHARED_PREFIX_AT_LEAST and shared >= grown
