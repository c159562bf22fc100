"""Free-text answers without waiting for each other: prompts are read in packed rows, answers grow in slots.

A slot is filled again as soon as its answer ends. The answers to questions on one long text grow on one copy of it, and
its row is filled again as soon as the last of them ends. An answer that comes with a draft (what another variant
answered) has the draft checked in the pass that reads its prompt, and grows token by token only from where it
parts from it. Does not know items beyond their ids, or how prompts are grouped.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from harness.engines.transformers.branches import Branches
from harness.engines.transformers.decode import Answer, Request, check_finite, most_likely, next_tokens
from harness.engines.transformers.model import LanguageModel
from harness.engines.transformers.packing import Packed
from harness.engines.transformers.read import Reading, read
from harness.engines.transformers.sampling import Noise, choose
from harness.engines.transformers.slots import Slots
from harness.records import Settings

__all__ = ["Continuous", "Line", "tokens_on_text"]

Line = tuple[tuple[Request, ...], Packed]
"""Requests whose prompts (with drafts) are read as one row, and that row."""

NOISE = {torch.float32: 1e-3, torch.float64: 1e-9}
"""Logits that are nearer to each other than this may change places between two ways of computing them."""
COARSE_NOISE = 0.5
"""The same for 16-bit types, whose spacing is 0.125 for logits from 16 to 32."""


def tokens_on_text(line: Line, branches: int) -> int:
    """Give the room that a line needs where its answers grow on one copy of its text, ended branches included."""
    requests, packed = line
    return len(packed.tokens) + branches * max(request.max_tokens for request in requests)


@dataclass(slots=True, eq=False)
class _Row:
    """An answer in the making."""

    answer: Answer
    """What has come so far."""
    reading: Reading | None
    """The pass that read its prompt, until it has a slot."""
    line: int
    """The row of that pass that holds it."""
    path: NDArray[np.int64]
    """Where its tokens are in that row."""
    best: list[int] = field(default_factory=list)
    """The token to come after the prompt and after each token of the draft."""
    clear: list[bool] = field(default_factory=list)
    """Whether it is ahead of all others by more than noise."""
    agreed: int = 0
    """How many tokens of the answer are those of the draft."""

    @property
    def length(self) -> int:
        """How many tokens count as read."""
        return len(self.answer.request.prompt) + len(self.answer.ids) - 1

    @property
    def pending(self) -> int:
        """The token to be read next."""
        return self.answer.ids[-1] if self.answer.ids else self.answer.request.prompt[-1]

    def take(self, token: int, ends: frozenset[int]) -> None:
        """Add a token, and after it those that the draft's check has settled."""
        answer, draft = self.answer, self.answer.request.draft
        answer.take(token, ends)
        done = len(answer.ids)
        if self.agreed == done - 1 and draft[done - 1 : done] == (token,):
            self.agreed = done

    def settle(self, ends: frozenset[int]) -> None:
        """Take the tokens that the draft's check has settled."""
        while self.answer.finish is None:
            done = len(self.answer.ids)
            if self.agreed < done or done >= len(self.best) or not self.clear[done]:
                return
            self.take(self.best[done], ends)


@dataclass(slots=True)
class Continuous:
    """Answers requests as slots become free."""

    model: LanguageModel
    """What answers."""
    settings: Settings
    """How tokens are chosen."""
    ends: frozenset[int]
    """Tokens that end an answer."""
    pad: int
    """What fills rows."""
    spent: Callable[[int], None]
    """Told how many tokens a pass has read."""
    seen: Callable[[Request, Tensor], None] | None = None
    """Shown the hidden states [draft + 1, width] that predict a request's draft and what follows it."""

    def __call__(self, batches: Sequence[Sequence[Line]], slots: int) -> Iterator[Answer]:
        """Answer requests, the lines of one batch being read together; yields each answer as it ends.

        Raises NonFinite with the item's id.
        """
        requests = [request for batch in batches for line, _ in batch for request in line]
        room = Slots(self.model, slots, max(request.tokens for request in requests))
        ready: deque[_Row] = deque()
        rows: list[_Row] = []
        waiting = deque(batches)
        while waiting or ready or rows:
            while room.free and (ready or waiting):
                if not ready:
                    ready += self._read(waiting.popleft())
                row = ready.popleft()
                if row.answer.finish is not None:
                    yield row.answer
                    continue
                if row.reading is not None:
                    room.insert(row.reading.cache, row.line, row.path)
                row.reading = None
                rows.append(row)
            if rows:
                yield from self._grow(room, rows)

    def on_texts(self, batches: Sequence[Sequence[Line]], texts: int) -> Iterator[Answer]:
        """Answer requests that share the text of their line, so many texts at a time; yields each answer as it ends.

        Raises NonFinite with the item's id.
        """
        lines = [line for batch in batches for line in batch]
        branches = max(len(requests) for requests, _ in lines)
        room = Branches(self.model, texts, branches, max(tokens_on_text(line, branches) for line in lines))
        ready: deque[tuple[Packed, list[_Row]]] = deque()
        growing: list[list[_Row]] = []
        waiting = deque(batches)
        while waiting or ready or growing:
            while room.free and (ready or waiting):
                if not ready:
                    ready += self._by_line(waiting.popleft())
                packed, rows = ready.popleft()
                yield from (row.answer for row in rows if row.answer.finish is not None)
                if rows[0].reading is not None and any(row.answer.finish is None for row in rows):
                    room.insert(rows[0].reading.cache, rows[0].line, packed)
                    growing.append(rows)
                for row in rows:
                    row.reading = None
            if growing:
                yield from self._grow_branches(room, growing)

    def _by_line(self, batch: Sequence[Line]) -> list[tuple[Packed, list[_Row]]]:
        """Read a batch; gives each of its lines with its answers."""
        found = self._read(batch)
        return [(packed, [row for row in found if row.line == line]) for line, (_, packed) in enumerate(batch)]

    def _grow_branches(self, room: Branches, growing: list[list[_Row]]) -> Iterator[Answer]:
        """Let every answer grow by a token; texts whose answers have all ended leave `growing` and the room."""
        tokens = [[row.pending if row.answer.finish is None else None for row in rows] for rows in growing]
        hidden = room.step(tokens, [[row.length for row in rows] for rows in growing], self.pad)
        places = [(text, at) for text, rows in enumerate(tokens) for at, one in enumerate(rows) if one is not None]
        alive = [growing[text][at] for text, at in places]
        states = hidden[[text for text, _ in places], [at for _, at in places]]
        chosen = next_tokens(self.model, states, [row.answer for row in alive], self.settings).tolist()
        for row, token in zip(alive, chosen, strict=True):
            row.take(token, self.ends)
            row.settle(self.ends)
            if row.answer.finish is not None:
                yield row.answer
        for text in reversed(range(len(growing))):
            if all(row.answer.finish is not None for row in growing[text]):
                room.drop(text)
                growing[text] = growing[-1]
                growing.pop()

    def _grow(self, room: Slots, rows: list[_Row]) -> Iterator[Answer]:
        """Let every answer grow by a token; those that end leave `rows` and the room."""
        hidden = room.step([row.pending for row in rows], [row.length for row in rows])
        tokens = next_tokens(self.model, hidden, [row.answer for row in rows], self.settings).tolist()
        for row, token in zip(rows, tokens, strict=True):
            row.take(token, self.ends)
            row.settle(self.ends)
        for slot in reversed(range(len(rows))):
            if rows[slot].answer.finish is not None:
                yield rows[slot].answer
                room.drop(slot)
                rows[slot] = rows[-1]
                rows.pop()

    def _read(self, batch: Sequence[Line]) -> list[_Row]:
        """Read prompts with their drafts, and settle as much of their answers as that shows."""
        rows, hidden = self._pass(batch, keep=True)
        owners = [row for row in rows for _ in range(len(row.answer.request.draft) + 1)]
        everything = torch.cat(hidden)
        noise = NOISE.get(everything.dtype, COARSE_NOISE)
        for part, logits in self.model.head.tiles(everything):
            self._note(owners[part], logits, noise)
        for row in rows:
            row.settle(self.ends)
        return rows

    def look(self, batch: Sequence[Line]) -> None:
        """Read prompts with their drafts only to show the hidden states."""
        self._pass(batch, keep=False)

    def _pass(self, batch: Sequence[Line], *, keep: bool) -> tuple[list[_Row], list[Tensor]]:
        """Read prompts with their drafts: a row for each request, and its states [draft + 1, width]."""
        packed = [row for _, row in batch]
        reading = read(self.model, packed, pad=self.pad, keep=keep)
        self.spent(sum(len(row.tokens) for row in packed))
        rows = [
            _Row(Answer(request), reading, line, path)
            for line, (requests, row) in enumerate(batch)
            for request, path in zip(requests, row.paths, strict=True)
        ]
        places = [self.model.tensor(row.path[len(row.answer.request.prompt) - 1 :]) for row in rows]
        hidden = [reading.hidden[row.line, at] for row, at in zip(rows, places, strict=True)]
        if self.seen is not None:
            for row, states in zip(rows, hidden, strict=True):
                self.seen(row.answer.request, states)
        return rows, hidden

    def _note(self, owners: Sequence[_Row], logits: Tensor, noise: float) -> None:
        """Note the token to come at one position of each owner, in order. Raises NonFinite."""
        names = [row.answer.request for row in owners]
        check_finite(logits, [request.item_id for request in names])
        if self.settings.temperature == 0:
            likely, lead = most_likely(logits)
            best, ahead = likely.tolist(), (lead > noise).tolist()
        else:
            noises = [Noise(self.settings.seed, request.item_id, request.sample) for request in names]
            best = choose(logits, self.settings, noises, [0] * len(names)).tolist()
            ahead = [True] * len(names)
        for row, token, clear in zip(owners, best, ahead, strict=True):
            row.best.append(token)
            row.clear.append(clear or not row.answer.request.draft)
