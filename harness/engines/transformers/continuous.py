"""Continuous batching: prompts are read in packed rows, and answers grow a token a step in a cache of fixed size.

One loop, for answers in slots of their own and on shared prefixes::

    1. prefill    while rows are free, read the next batch of prompts, with their drafts
    2. verify     accept the tokens of each draft that the model predicts itself, beyond noise
    3. insert     copy the prompt's keys and values into a free row of the cache
    4. decode     read the last token of every answer, and choose the next one
    5. evict      yield the answers that ended, and free their rows

A row on a shared prefix is freed when the last of its answers ends. A draft is what another variant answered. Does not
know items beyond their ids, or how prompts are grouped.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from harness.engines.transformers.cache import PrefixTreeCache, SlotCache
from harness.engines.transformers.decode import (
    Answer,
    Request,
    check_tokens,
    choose,
    most_likely,
    next_tokens,
    noise_keys,
)
from harness.engines.transformers.model import PrefillResult, prefill
from harness.engines.transformers.packing import PackedTree
from harness.engines.transformers.scheduler import EngineContext, Row, Schedule, tokens_on_prefix
from harness.records import Settings

__all__ = ["Continuous"]

NOISE = {torch.float32: 1e-3, torch.float64: 1e-9}
"""Logits that are nearer to each other than this may change places between two ways of computing them."""
COARSE_NOISE = 0.5
"""The same for 16-bit types, whose spacing is 0.125 for logits from 16 to 32."""


@dataclass(slots=True, eq=False)
class _ActiveSequence:
    """An answer in the making."""

    answer: Answer
    prefilled: PrefillResult | None
    """The pass that read its prompt, until it has a slot."""
    row: int
    """The row of that pass that holds it."""
    path: NDArray[np.int64]
    """Where its tokens are in that row."""
    best: list[int] = field(default_factory=list)
    """The token to come after the prompt and after each token of the draft."""
    confident: list[bool] = field(default_factory=list)
    """Whether it is ahead of all others by more than noise."""
    accepted: int = 0
    """How many tokens of the answer are those of the draft."""

    @property
    def length(self) -> int:
        """How many tokens count as read."""
        return len(self.answer.request.prompt) + len(self.answer.ids) - 1

    @property
    def pending(self) -> int:
        """The token to be read next."""
        return self.answer.ids[-1] if self.answer.ids else self.answer.request.prompt[-1]

    def append(self, token: int, ends: frozenset[int]) -> None:
        """Add a token, and see whether it is the draft's."""
        answer, draft = self.answer, self.answer.request.draft
        answer.append(token, ends)
        done = len(answer.ids)
        if self.accepted == done - 1 and draft[done - 1 : done] == (token,):
            self.accepted = done

    def accept_draft(self, ends: frozenset[int]) -> None:
        """Add the predicted tokens for as long as the answer is the draft and each of them is certain."""
        while self.answer.finish is None:
            done = len(self.answer.ids)
            if self.accepted < done or done >= len(self.best) or not self.confident[done]:
                return
            self.append(self.best[done], ends)


class Continuous:
    """The loop for one way of choosing tokens.

    observe: called with the hidden states [draft + 1, width] that predict a request's draft and what follows it.
    """

    def __init__(
        self, context: EngineContext, settings: Settings, observe: Callable[[Request, Tensor], None] | None = None
    ) -> None:
        self.context, self.settings, self.observe = context, settings, observe
        self.model, self.ends, self.pad = context.model, context.texts.end_ids, context.texts.pad_id

    def answer(self, schedule: Schedule) -> Iterator[Answer]:
        """Answer the requests of a schedule; yield each answer as it ends. Raises NonFinite with the item's id."""
        cache = self._cache(schedule)
        waiting = deque(schedule.batches)
        ready: deque[tuple[PackedTree, list[_ActiveSequence]]] = deque()  # what shares a cache row
        growing: list[list[_ActiveSequence]] = []
        while waiting or ready or growing:
            while cache.free and (ready or waiting):
                if not ready:
                    ready += self._prefill(waiting.popleft(), together=schedule.on_prefixes)  # 1, 2
                tree, group = ready.popleft()
                yield from (one.answer for one in group if one.answer.finish is not None)
                first = group[0]
                if first.prefilled is not None and any(one.answer.finish is None for one in group):
                    if isinstance(cache, SlotCache):
                        cache.copy_prompt(first.prefilled.cache, first.row, first.path)  # 3
                    else:
                        cache.insert(first.prefilled.cache, first.row, tree)  # 3
                    growing.append(group)
                for one in group:
                    one.prefilled = None
            if growing:
                yield from self._decode_step(cache, growing)  # 4, 5

    def _cache(self, schedule: Schedule) -> SlotCache | PrefixTreeCache:
        rows = [row for batch in schedule.batches for row in batch]

        def finish(hidden: Tensor, keys: Tensor) -> Tensor:
            return next_tokens(self.model.head, hidden, self.settings, keys)

        if not schedule.on_prefixes:
            longest = max(request.tokens for row in rows for request in row.requests)
            return SlotCache(self.model, schedule.rows, longest, finish)
        branches = max(len(row.requests) for row in rows)
        longest = max(tokens_on_prefix(row, branches) for row in rows)
        return PrefixTreeCache(self.model, schedule.rows, branches, longest, finish)

    def _decode_step(
        self, cache: SlotCache | PrefixTreeCache, growing: list[list[_ActiveSequence]]
    ) -> Iterator[Answer]:
        """Let every answer grow by a token; groups whose answers have all ended leave `growing` and the cache."""
        alive = [one for group in growing for one in group if one.answer.finish is None]
        keys = noise_keys(self.settings, [one.answer for one in alive])
        if isinstance(cache, SlotCache):
            tokens = cache.step([one.pending for one in alive], [one.length for one in alive], keys).tolist()
        else:
            pending = [[one.pending if one.answer.finish is None else None for one in group] for group in growing]
            lengths = [[one.length for one in group] for group in growing]
            tokens = cache.step(pending, lengths, keys, self.pad)
        check_tokens(tokens, [one.answer for one in alive])
        for one, token in zip(alive, tokens, strict=True):
            one.append(token, self.ends)
            one.accept_draft(self.ends)
        ended = [one.answer for one in alive if one.answer.finish is not None]
        yield from ended
        for row in reversed(range(len(growing))) if ended else ():
            if all(one.answer.finish is not None for one in growing[row]):
                cache.drop(row)
                growing[row] = growing[-1]
                growing.pop()

    def _prefill(self, batch: Sequence[Row], *, together: bool) -> list[tuple[PackedTree, list[_ActiveSequence]]]:
        """Read prompts, and accept of drafts what is predicted: each sequence by itself, or those of a row together."""
        rows, hidden = self.read(batch, keep=True)
        owners = [row for row in rows for _ in range(len(row.answer.request.draft) + 1)]
        everything = torch.cat(hidden)
        noise = NOISE.get(everything.dtype, COARSE_NOISE)
        for part, logits in self.model.head.tiles(everything):
            answers = [row.answer for row in owners[part]]
            if self.settings.temperature == 0:
                likely, lead = most_likely(logits)
                best, ahead = likely.tolist(), (lead > noise).tolist()
            else:
                best = choose(logits, self.settings, self.model.tensor(noise_keys(self.settings, answers))).tolist()
                ahead = [True] * len(best)
            check_tokens(best, answers)
            for row, token, confident in zip(owners[part], best, ahead, strict=True):
                row.best.append(token)
                row.confident.append(confident or not row.answer.request.draft)
        for row in rows:
            row.accept_draft(self.ends)
        if not together:
            return [(batch[row.row].tree, [row]) for row in rows]
        return [(one.tree, [row for row in rows if row.row == index]) for index, one in enumerate(batch)]

    def read(self, batch: Sequence[Row], *, keep: bool) -> tuple[list[_ActiveSequence], list[Tensor]]:
        """Read prompts with their drafts: a sequence and its states [draft + 1, width] for each request."""
        result = prefill(self.model, [row.tree for row in batch], pad=self.pad, keep=keep)
        self.context.usage.prompt_tokens += sum(len(row.tree.tokens) for row in batch)
        rows = [
            _ActiveSequence(Answer(request), result, index, path)
            for index, row in enumerate(batch)
            for request, path in zip(row.requests, row.tree.paths, strict=True)
        ]
        positions = [self.model.tensor(one.path[len(one.answer.request.prompt) - 1 :]) for one in rows]
        hidden = [result.hidden[one.row, at] for one, at in zip(rows, positions, strict=True)]
        if self.observe is not None:
            for row, states in zip(rows, hidden, strict=True):
                self.observe(row.answer.request, states)
        return rows, hidden
