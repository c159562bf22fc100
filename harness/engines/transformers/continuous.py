"""Continuous batching: prompts are read in packed rows, and answers grow a token a step in a cache of fixed size.

One loop, for answers in slots of their own (`in_slots`) and on shared prefixes (`on_prefixes`)::

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
    check_finite,
    check_tokens,
    most_likely,
    next_tokens,
    noise_keys,
)
from harness.engines.transformers.model import LanguageModel
from harness.engines.transformers.packing import PackedRequests, PackedTree
from harness.engines.transformers.prefill import PrefillResult, prefill
from harness.engines.transformers.sampling import choose
from harness.records import Settings

__all__ = ["Continuous", "tokens_on_prefix"]

Row = PackedRequests[Request]

NOISE = {torch.float32: 1e-3, torch.float64: 1e-9}
"""Logits that are nearer to each other than this may change places between two ways of computing them."""
COARSE_NOISE = 0.5
"""The same for 16-bit types, whose spacing is 0.125 for logits from 16 to 32."""


def tokens_on_prefix(row: Row, branches: int) -> int:
    """Return the tokens that a row needs if its answers grow on one copy of its prefix, ended branches included."""
    return len(row.tree.tokens) + branches * max(request.max_tokens for request in row.requests)


@dataclass(slots=True, eq=False)
class _ActiveSequence:
    """An answer in the making."""

    answer: Answer
    """What has come so far."""
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


@dataclass(slots=True)
class Continuous:
    """The loop for one way of choosing tokens."""

    model: LanguageModel
    """What answers."""
    settings: Settings
    """How tokens are chosen."""
    ends: frozenset[int]
    """Tokens that end an answer."""
    pad: int
    """What fills rows."""
    on_tokens_read: Callable[[int], None]
    """Called with the number of tokens that a pass has read."""
    observe: Callable[[Request, Tensor], None] | None = None
    """Called with the hidden states [draft + 1, width] that predict a request's draft and what follows it."""

    def in_slots(self, batches: Sequence[Sequence[Row]], slots: int) -> Iterator[Answer]:
        """Answer requests, each in its own slot, the rows of one batch being read together; yield each as it ends.

        Raises NonFinite with the item's id.
        """
        requests = [request for batch in batches for row in batch for request in row.requests]
        cache = SlotCache(self.model, slots, max(request.tokens for request in requests), self._finish)
        ready: deque[_ActiveSequence] = deque()
        growing: list[_ActiveSequence] = []
        waiting = deque(batches)
        while waiting or ready or growing:
            while cache.free and (ready or waiting):
                if not ready:
                    ready += self._prefill(waiting.popleft())  # 1, 2
                sequence = ready.popleft()
                if sequence.answer.finish is not None:
                    yield sequence.answer
                    continue
                if sequence.prefilled is not None:
                    cache.insert(sequence.prefilled.cache, sequence.row, sequence.path)  # 3
                sequence.prefilled = None
                growing.append(sequence)
            if growing:
                yield from self._decode_step(cache, growing)  # 4, 5

    def on_prefixes(self, batches: Sequence[Sequence[Row]], prefixes: int) -> Iterator[Answer]:
        """Answer requests on the shared prefix of their row, so many prefixes at a time; yield each as it ends.

        Raises NonFinite with the item's id.
        """
        rows = [row for batch in batches for row in batch]
        branches = max(len(row.requests) for row in rows)
        longest = max(tokens_on_prefix(row, branches) for row in rows)
        cache = PrefixTreeCache(self.model, prefixes, branches, longest, self._finish)
        ready: deque[tuple[PackedTree, list[_ActiveSequence]]] = deque()
        growing: list[list[_ActiveSequence]] = []
        waiting = deque(batches)
        while waiting or ready or growing:
            while cache.free and (ready or waiting):
                if not ready:
                    ready += self._prefill_by_row(waiting.popleft())  # 1, 2
                tree, group = ready.popleft()
                yield from (one.answer for one in group if one.answer.finish is not None)
                if group[0].prefilled is not None and any(one.answer.finish is None for one in group):
                    cache.insert(group[0].prefilled.cache, group[0].row, tree)  # 3
                    growing.append(group)
                for one in group:
                    one.prefilled = None
            if growing:
                yield from self._decode_step_on_prefixes(cache, growing)  # 4, 5

    def _prefill_by_row(self, batch: Sequence[Row]) -> list[tuple[PackedTree, list[_ActiveSequence]]]:
        """Read a batch; return each of its rows with its sequences."""
        found = self._prefill(batch)
        return [(row.tree, [one for one in found if one.row == index]) for index, row in enumerate(batch)]

    def _decode_step_on_prefixes(
        self, cache: PrefixTreeCache, growing: list[list[_ActiveSequence]]
    ) -> Iterator[Answer]:
        """Let every answer grow by a token; groups whose answers have all ended leave `growing` and the cache."""
        tokens = [[one.pending if one.answer.finish is None else None for one in group] for group in growing]
        alive = [one for group in growing for one in group if one.answer.finish is None]
        lengths = [[one.length for one in group] for group in growing]
        yield from self._append(alive, cache.step(tokens, lengths, self._keys(alive), self.pad))
        for row in reversed(range(len(growing))):
            if all(one.answer.finish is not None for one in growing[row]):
                cache.drop(row)
                growing[row] = growing[-1]
                growing.pop()

    def _decode_step(self, cache: SlotCache, growing: list[_ActiveSequence]) -> Iterator[Answer]:
        """Let every answer grow by a token; those that end leave `growing` and the cache."""
        tokens = cache.step([one.pending for one in growing], [one.length for one in growing], self._keys(growing))
        yield from self._append(growing, tokens.tolist())
        for slot in reversed(range(len(growing))):
            if growing[slot].answer.finish is not None:
                cache.drop(slot)
                growing[slot] = growing[-1]
                growing.pop()

    def _finish(self, hidden: Tensor, keys: Tensor) -> Tensor:
        return next_tokens(self.model.head, hidden, self.settings, keys)

    def _keys(self, sequences: Sequence[_ActiveSequence]) -> NDArray[np.int64]:
        return noise_keys(self.settings, [one.answer for one in sequences])

    def _append(self, sequences: Sequence[_ActiveSequence], tokens: list[int]) -> list[Answer]:
        """Give each sequence its next token; return those that end."""
        check_tokens(tokens, [one.answer for one in sequences])
        for one, token in zip(sequences, tokens, strict=True):
            one.append(token, self.ends)
            one.accept_draft(self.ends)
        return [one.answer for one in sequences if one.answer.finish is not None]

    def _prefill(self, batch: Sequence[Row]) -> list[_ActiveSequence]:
        """Read prompts with their drafts, and accept as much of these as the model predicts."""
        rows, hidden = self._pass(batch, keep=True)
        owners = [row for row in rows for _ in range(len(row.answer.request.draft) + 1)]
        everything = torch.cat(hidden)
        noise = NOISE.get(everything.dtype, COARSE_NOISE)
        for part, logits in self.model.head.tiles(everything):
            self._predict(owners[part], logits, noise)
        for row in rows:
            row.accept_draft(self.ends)
        return rows

    def prefill_only(self, batch: Sequence[Row]) -> None:
        """Read prompts with their drafts only to show the hidden states."""
        self._pass(batch, keep=False)

    def _pass(self, batch: Sequence[Row], *, keep: bool) -> tuple[list[_ActiveSequence], list[Tensor]]:
        """Read prompts with their drafts: a sequence for each request, and its states [draft + 1, width]."""
        result = prefill(self.model, [row.tree for row in batch], pad=self.pad, keep=keep)
        self.on_tokens_read(sum(len(row.tree.tokens) for row in batch))
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

    def _predict(self, owners: Sequence[_ActiveSequence], logits: Tensor, noise: float) -> None:
        """Store the token to come at one position of each owner, in order. Raises NonFinite."""
        names = [row.answer.request for row in owners]
        check_finite(logits, [request.item_id for request in names])
        if self.settings.temperature == 0:
            likely, lead = most_likely(logits)
            best, ahead = likely.tolist(), (lead > noise).tolist()
        else:
            keys = self.model.tensor(noise_keys(self.settings, [row.answer for row in owners]))
            best = choose(logits, self.settings, keys).tolist()
            ahead = [True] * len(names)
        for row, token, confident in zip(owners, best, ahead, strict=True):
            row.best.append(token)
            row.confident.append(confident or not row.answer.request.draft)
