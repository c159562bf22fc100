"""Continuous batching: what is answered together, by requests and budget alone, and the loop (docs/engine.md)."""

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from harness.engines.protocol import Usage
from harness.engines.transformers import decode, packing
from harness.engines.transformers.cache import PrefixTreeCache, SlotCache
from harness.engines.transformers.decode import Answer, Request
from harness.engines.transformers.decode_paths import Assisted
from harness.engines.transformers.model import LanguageModel, prefill
from harness.engines.transformers.packing import Budget, PackedRequests, PackedTree, R
from harness.engines.transformers.text import TextCodec
from harness.records import Settings

PREFILL_TOKENS = {"cpu": 4096, "cuda": 32768}  # read at once: more do not make it faster, and take memory
PREFIX_ALONE = {"cuda": 4096}  # tokens: on a GPU, reading two more passes costs more than a mask for shorter beginnings
SHARED_PREFIX_AT_LEAST = 256
"""Tokens: a shared beginning of at least this length is kept once for all answers that grow on it, provided that it is
longer than all that grows: every step looks at the whole row."""
NOISE = {torch.float32: 1e-3, torch.float64: 1e-9}  # nearer logits may change places between two ways to the same
COARSE_NOISE = 0.5  # the same for 16-bit types, whose spacing is 0.125 for logits from 16 to 32
Row = PackedRequests[Request]
T = TypeVar("T")


class HiddenStateObserver(Protocol):
    """What is shown the hidden states behind each answer."""

    references: Mapping[str, tuple[int, ...]]  # by item id, the answers whose tokens are to be predicted
    own_tokens: int  # how many of its own first tokens are to be predicted for an answer without a reference

    def observe(self, item_id: str, tokens: Sequence[int], hidden: Tensor) -> None:
        """Take the hidden states [tokens or more, width] that predict an item's tokens."""


Observer = HiddenStateObserver | None
Drafts = Mapping[str, Sequence[int]]


@dataclass(frozen=True, slots=True)
class EngineContext:
    """What every question needs."""

    model: LanguageModel
    texts: TextCodec
    limit: int
    budget: Budget
    share_prefixes: bool  # whether what sequences begin with alike is read once, such as the context of choices
    continuous: bool  # whether the place of a finished answer goes to the next one at once, and drafts are checked
    usage: Usage
    assisted: Assisted | None = None

    def pack(self, requests: Sequence[R]) -> list[PackedRequests[R]]:
        """Return requests in rows: those that begin alike share one if this model can take it."""
        most = packing.BRANCH_TOKENS_AT_MOST if self.share_prefixes else 0
        sequences = [one.sequence for one in requests]
        groups = packing.group_by_prefix(sequences, most=most, longest=self.model.longest_together)
        return [PackedRequests.of([requests[index] for index in group]) for group in groups]

    def prefill_budget(self, budget: Budget | None = None) -> Budget:
        """Return how much may be read in one pass."""
        budget, device = budget or self.budget, self.model.device.type
        tokens = min(budget.tokens, PREFILL_TOKENS.get(device, budget.tokens))
        return replace(budget, tokens=tokens, prefix_alone=PREFIX_ALONE.get(device, packing.PREFIX_ALONE))


class Schedule(NamedTuple):
    """Requests that are answered together."""

    batches: list[list[Row]]  # the rows of one batch are read in one pass
    rows: int  # how many cache rows are in use at a time: one for each answer, or one for each shared prefix
    on_prefixes: bool  # whether answers grow on one copy of what the prompts of their row share


def schedules(context: EngineContext, requests: Sequence[Request], budget: Budget) -> Iterator[Schedule]:
    """Split requests into stretches of similar length, each with as many rows as the budget has room for."""
    reading = context.prefill_budget(budget)
    for mine in _stretches(requests, lambda one: one.tokens):
        rows = context.pack(mine) if budget.rows > 1 else [PackedRequests.of([one]) for one in mine]
        for some in _stretches([row for row in rows if _shares_long_prefix(row)], lambda row: len(row.requests)):
            branches = len(some[0].requests)
            largest = max(_tokens_on_prefix(row, branches) for row in some)
            held = max(1, min(budget.rows // branches, budget.tokens // largest, len(some)))
            yield Schedule(packing.plan_rows(some, reading), held, on_prefixes=True)
        if apart := [row for row in rows if not _shares_long_prefix(row)]:
            sizes = [request.tokens for row in apart for request in row.requests]
            slots = _slots(len(sizes), budget.rows, budget.tokens // max(sizes))
            yield Schedule(packing.plan_rows(apart, reading), slots, on_prefixes=False)


def _slots(requests: int, rows: int, room: int) -> int:
    """Return how many answers grow at a time: `room`, or up to a quarter more if that saves a whole round."""
    slots = max(1, min(requests, rows, room))
    fewer = -(-requests // max(1, -(-requests // slots) - 1))
    return fewer if fewer <= min(rows, slots + slots // 4) else slots


def _stretches(things: Sequence[T], size: Callable[[T], int]) -> Iterator[list[T]]:
    """Split things into stretches, the largest first, in which none is smaller than half the largest."""
    order = sorted(things, key=lambda one: -size(one))
    while order:
        count = next((at for at, one in enumerate(order) if 2 * size(one) < size(order[0])), len(order))
        yield order[:count]
        order = order[count:]


def _shares_long_prefix(row: Row) -> bool:
    """Whether a row's answers are better kept on one copy of what their prompts share."""
    shared = row.tree.shared_prefix
    grown = _tokens_on_prefix(row, len(row.requests)) - shared
    return len(row.requests) > 1 and shared >= SHARED_PREFIX_AT_LEAST and shared >= grown


def _tokens_on_prefix(row: Row, branches: int) -> int:
    """Return the tokens that a row needs if its answers grow on one copy of its prefix, ended branches included."""
    return len(row.tree.tokens) + branches * max(request.max_tokens for request in row.requests)


@dataclass(slots=True, kw_only=True)
class _ActiveAnswer(Answer):
    """An answer in the making, whose draft is checked."""

    prefilled: Any  # the cache of the pass that read its prompt, until it has a slot
    row: int  # the row of that cache that holds it
    path: NDArray[np.int64]  # where its tokens are in that row
    best: list[int] = field(default_factory=list)  # the token after the prompt and after each token of the draft
    confident: list[bool] = field(default_factory=list)  # whether it is ahead of all others by more than noise
    accepted: int = 0  # how many tokens of the answer are those of the draft

    @property
    def length(self) -> int:
        """How many tokens count as read."""
        return len(self.request.prompt) + len(self.ids) - 1

    @property
    def pending(self) -> int:
        """The token to be read next."""
        return self.ids[-1] if self.ids else self.request.prompt[-1]

    def append(self, token: int, ends: frozenset[int]) -> None:
        """Add a token, and then those of the draft for as long as each of them is predicted with certainty."""
        draft = self.request.draft
        while True:
            Answer.append(self, token, ends)
            done = len(self.ids)
            if self.accepted == done - 1 and draft[done - 1 : done] == (token,):
                self.accepted = done
            if self.finish is not None or self.accepted < done or done >= len(self.best) or not self.confident[done]:
                return
            token = self.best[done]


class Continuous:
    """The loop for one way of choosing tokens; observe is shown the states [draft + 1, width] behind each draft."""

    def __init__(
        self, context: EngineContext, settings: Settings, observe: Callable[[Request, Tensor], None] | None = None
    ) -> None:
        self.context, self.settings, self.observe = context, settings, observe
        self.model, self.ends, self.pad = context.model, context.texts.end_ids, context.texts.pad_id

    def answer(self, schedule: Schedule) -> Iterator[Answer]:
        """Answer the requests of a schedule; yield each answer as it ends. Raises NonFinite with the item's id."""
        cache, waiting = self._cache(schedule), deque(schedule.batches)
        ready: deque[tuple[PackedTree, list[_ActiveAnswer]]] = deque()  # what shares a cache row
        growing: list[list[_ActiveAnswer]] = []
        while waiting or ready or growing:
            while cache.used < cache.rows and (ready or waiting):
                if not ready:
                    ready += self._prefill(waiting.popleft(), together=schedule.on_prefixes)
                tree, group = ready.popleft()
                yield from (one for one in group if one.finish is not None)
                first = group[0]
                if first.prefilled is not None and any(one.finish is None for one in group):
                    if isinstance(cache, SlotCache):
                        cache.copy_prompt(first.prefilled, first.row, first.path)
                    else:
                        cache.insert(first.prefilled, first.row, tree)
                    growing.append(group)
                for one in group:
                    one.prefilled = None
            if growing:
                yield from self._decode_step(cache, growing)

    def _cache(self, schedule: Schedule) -> SlotCache | PrefixTreeCache:
        rows = [row for batch in schedule.batches for row in batch]

        def finish(hidden: Tensor, keys: Tensor) -> Tensor:
            return decode.next_tokens(self.model.head, hidden, self.settings, keys)

        if not schedule.on_prefixes:
            longest = max(request.tokens for row in rows for request in row.requests)
            return SlotCache(self.model, schedule.rows, longest, finish)
        branches = max(len(row.requests) for row in rows)
        longest = max(_tokens_on_prefix(row, branches) for row in rows)
        return PrefixTreeCache(self.model, schedule.rows, branches, longest, finish)

    def _decode_step(self, cache: SlotCache | PrefixTreeCache, growing: list[list[_ActiveAnswer]]) -> Iterator[Answer]:
        """Let every answer grow by a token; groups whose answers have all ended leave `growing` and the cache."""
        alive = [one for group in growing for one in group if one.finish is None]
        keys = decode.noise_keys(self.settings, alive)
        if isinstance(cache, SlotCache):
            tokens = cache.step([one.pending for one in alive], [one.length for one in alive], keys).tolist()
        else:
            pending = [[one.pending if one.finish is None else None for one in group] for group in growing]
            tokens = cache.step(pending, [[one.length for one in group] for group in growing], keys, self.pad)
        decode.check_tokens(tokens, alive)
        for one, token in zip(alive, tokens, strict=True):
            one.append(token, self.ends)
        ended = [one for one in alive if one.finish is not None]
        yield from ended
        for row in reversed(range(len(growing))) if ended else ():
            if all(one.finish is not None for one in growing[row]):
                cache.drop(row)
                growing[row] = growing[-1]
                growing.pop()

    def _prefill(self, batch: Sequence[Row], *, together: bool) -> list[tuple[PackedTree, list[_ActiveAnswer]]]:
        """Read prompts, and accept of drafts what is predicted: each sequence by itself, or those of a row together."""
        rows, hidden = self.read(batch, keep=True)
        owners, everything = [row for row in rows for _ in range(len(row.request.draft) + 1)], torch.cat(hidden)
        noise = NOISE.get(everything.dtype, COARSE_NOISE)
        for part, logits in self.model.head.tiles(everything):
            answers = owners[part]
            if self.settings.temperature == 0:
                likely, lead = decode.most_likely(logits)
                best, ahead = likely.tolist(), (lead > noise).tolist()
            else:
                keys = self.model.tensor(decode.noise_keys(self.settings, answers))
                best = decode.choose(logits, self.settings, keys).tolist()
                ahead = [True] * len(best)
            decode.check_tokens(best, answers)
            for row, token, confident in zip(answers, best, ahead, strict=True):
                row.best.append(token)
                row.confident.append(confident or not row.request.draft)
        for row in (row for row in rows if row.confident[0]):
            row.append(row.best[0], self.ends)
        if not together:
            return [(batch[row.row].tree, [row]) for row in rows]
        return [(one.tree, [row for row in rows if row.row == index]) for index, one in enumerate(batch)]

    def read(self, batch: Sequence[Row], *, keep: bool) -> tuple[list[_ActiveAnswer], list[Tensor]]:
        """Read prompts with their drafts: a sequence and its states [draft + 1, width] for each request."""
        states, cache = prefill(self.model, [row.tree for row in batch], pad=self.pad, keep=keep)
        self.context.usage.prompt_tokens += sum(len(row.tree.tokens) for row in batch)
        rows = [
            _ActiveAnswer(request, prefilled=cache, row=index, path=path)
            for index, row in enumerate(batch)
            for request, path in zip(row.requests, row.tree.paths, strict=True)
        ]
        positions = [self.model.tensor(one.path[len(one.request.prompt) - 1 :]) for one in rows]
        hidden = [states[one.row, at] for one, at in zip(rows, positions, strict=True)]
        if self.observe is not None:
            for row, mine in zip(rows, hidden, strict=True):
                self.observe(row.request, mine)
        return rows, hidden
