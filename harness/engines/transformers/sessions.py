"""Which requests for free text are answered together: by length, by what prompts share, and by what memory holds.

Depends on requests and budget alone, so that the same requests are always read in the same passes. Does not know
how they are answered.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from harness.engines.transformers.batches import Budget, plan_rows
from harness.engines.transformers.continuous import Line, tokens_on_text
from harness.engines.transformers.decode import Request
from harness.engines.transformers.desk import Desk
from harness.engines.transformers.packing import pack

__all__ = ["Session", "sessions"]

TEXT_AT_LEAST = 256
"""Tokens: a shared beginning of at least this length is kept once for all answers that grow on it, provided that it is
longer than all that grows: every step looks at the whole row."""


@dataclass(frozen=True, slots=True)
class Session:
    """Lines that are answered together."""

    batches: list[list[Line]]
    """Those of one batch are read in one pass."""
    rows: int
    """How many slots, or texts, are in use at a time."""
    on_texts: bool
    """Whether the answers of a line grow on one copy of what their prompts share."""


def sessions(desk: Desk, requests: Sequence[Request], budget: Budget) -> Iterator[Session]:
    """Split requests into stretches of similar length, each with as many rows as the budget has room for."""
    order = sorted(requests, key=lambda one: -one.tokens)
    while order:
        longest = order[0].tokens
        count = next((at for at, one in enumerate(order) if 2 * one.tokens < longest), len(order))
        mine, order = order[:count], order[count:]
        sequences = [one.prompt + one.draft for one in mine]
        groups = desk.groups(sequences) if budget.rows > 1 else [[index] for index in range(len(mine))]
        lines: list[Line] = [
            (tuple(mine[index] for index in group), pack([sequences[index] for index in group])) for group in groups
        ]
        yield from _by_room(desk, lines, budget)


def _by_room(desk: Desk, lines: Sequence[Line], budget: Budget) -> Iterator[Session]:
    """Let the answers of lines with a long common text grow on it, in rows of like many; all others in slots."""
    texts = sorted((line for line in lines if _is_text(line)), key=lambda line: -len(line[0]))
    while texts:
        branches = len(texts[0][0])
        count = next((at for at, line in enumerate(texts) if 2 * len(line[0]) < branches), len(texts))
        mine, texts = texts[:count], texts[count:]
        largest = max(tokens_on_text(line, branches) for line in mine)
        rows = max(1, min(budget.rows // branches, budget.tokens // largest, count))
        yield _session(desk, mine, budget, rows, on_texts=True)
    apart = [line for line in lines if not _is_text(line)]
    if apart:
        requests = [request for line, _ in apart for request in line]
        longest = max(request.tokens for request in requests)
        slots = max(1, min(budget.rows, budget.tokens // longest, len(requests)))
        yield _session(desk, apart, budget, slots, on_texts=False)


def _session(desk: Desk, lines: Sequence[Line], budget: Budget, rows: int, *, on_texts: bool) -> Session:
    batches = plan_rows([packed for _, packed in lines], desk.reading(budget))
    return Session([[lines[index] for index in batch] for batch in batches], rows, on_texts)


def _is_text(line: Line) -> bool:
    """Whether a line's answers are better kept on one copy of what their prompts share."""
    requests, packed = line
    grown = tokens_on_text(line, len(requests)) - packed.trunk
    return len(requests) > 1 and packed.trunk >= TEXT_AT_LEAST and packed.trunk >= grown
