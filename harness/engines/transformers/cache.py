"""Preallocated caches in which answers grow: rows begin and end independently.

`KVCachePool` holds keys and values for the cache classes of transformers. In a `SlotCache` every answer has a row: its
tokens begin at position 0, so nothing is ever moved along a row. In a `PrefixTreeCache` a row holds a text that many
questions are asked about, once, with the tree of their prompts behind it, and then, step after step, one token of every
answer; a table says which of them each answer may attend to. Does not know requests.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

from harness.engines.transformers.model import LanguageModel
from harness.engines.transformers.packing import PackedTree

__all__ = ["KVCachePool", "PrefixTreeCache", "SlotCache"]

ROUNDED_TO = 32
"""Tokens: the width that a step attends to grows by this many at a time."""


class _Step:
    """Where the current step writes, and the width that it attends to."""

    def __init__(self) -> None:
        self.rows = torch.empty(0, dtype=torch.long)
        self.columns = torch.empty((0, 1), dtype=torch.long)
        self.width = 0


class _Layer(DynamicLayer):  # type: ignore[misc]  # transformers' classes come untyped
    """Keys and values of all rows in one layer."""

    def __init__(self, like: Any, rows: int, capacity: int, step: _Step) -> None:
        super().__init__()
        self.keys = _zeros(like.keys, rows, capacity)
        self.values = _zeros(like.values, rows, capacity)
        self.dtype, self.device = like.keys.dtype, like.keys.device
        self.is_initialized = True
        self._step = step

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Write the tokens of each active row, and return what the step attends to."""
        step, active = self._step, len(self._step.rows)
        self.keys[step.rows[:, None], :, step.columns] = key_states.transpose(1, 2)
        self.values[step.rows[:, None], :, step.columns] = value_states.transpose(1, 2)
        return self.keys[:active, :, : step.width], self.values[:active, :, : step.width]

    def get_seq_length(self, *_: Any) -> int:
        """Return the width that the step attends to."""
        return self._step.width


def _zeros(like: Tensor, rows: int, capacity: int) -> Tensor:
    return torch.zeros((rows, like.shape[1], capacity, like.shape[3]), dtype=like.dtype, device=like.device)


class KVCachePool:
    """Rows of up to `capacity` tokens, of which the first `used` are taken."""

    def __init__(self, model: LanguageModel, rows: int, capacity: int) -> None:
        self.model = model
        self.rows = rows
        self.capacity = capacity
        self.used = 0
        self._step = _Step()
        self._cache: Cache | None = None

    @property
    def free(self) -> int:
        """How many rows are not used."""
        return self.rows - self.used

    def copy_prompt(self, cache: Any, row: int, path: NDArray[np.int64]) -> int:
        """Copy what a prefill read, the columns `path` of one of its rows, into the next row, and return its index."""
        mine = self.used
        with torch.inference_mode():
            if self._cache is None:
                layers = [_Layer(layer, self.rows, self.capacity, self._step) for layer in cache.layers]
                self._cache = Cache(layers=layers)
            columns = self.model.tensor(path)
            for own, other in zip(self._cache.layers, cache.layers, strict=True):
                own.keys[mine, :, : len(path)] = other.keys[row].index_select(1, columns)
                own.values[mine, :, : len(path)] = other.values[row].index_select(1, columns)
        self.used += 1
        return mine

    def drop(self, row: int) -> None:
        """End a row: the last row takes its place."""
        self.used -= 1
        if row == self.used or self._cache is None:
            return
        with torch.inference_mode():
            for layer in self._cache.layers:
                layer.keys[row] = layer.keys[self.used]
                layer.values[row] = layer.values[self.used]

    def forward(self, ids: Tensor, visible: Tensor, positions: Tensor, keys: Tensor, columns: Tensor) -> Tensor:
        """Read tokens of the rows in use: final hidden states [rows, tokens, width].

        ids, positions and columns [rows, tokens]; visible [rows, tokens, keys] and the positions of the keys
        [rows, keys] say what the step attends to.
        """
        step = self._step
        step.rows = torch.arange(len(ids), device=self.model.device)
        step.columns, step.width = columns, visible.shape[-1]
        mask = self.model.attention(visible[:, None], positions, keys)
        return self.model.forward(ids, mask=mask, positions=positions, cache=self._cache)

    def padded_width(self, width: int) -> int:
        """Return the width that a step attends to for this many tokens."""
        return min(self.capacity, -(-width // ROUNDED_TO) * ROUNDED_TO)


class SlotCache(KVCachePool):
    """A cache for answers of up to `capacity` tokens, prompt included, each in its own row."""

    def insert(self, cache: Any, row: int, path: NDArray[np.int64]) -> None:
        """Copy a prompt that a prefill read, the columns `path` of one of its rows, into the next slot."""
        self.copy_prompt(cache, row, path)

    def step(self, tokens: list[int], lengths: list[int]) -> Tensor:
        """Read one token of each row, on top of the row's first `lengths` tokens: final hidden states [rows, width]."""
        columns = self.model.tensor(lengths)[:, None]
        keys = torch.arange(self.padded_width(max(lengths) + 1), device=self.model.device)[None]
        ids = self.model.tensor(tokens)[:, None]
        return self.forward(ids, (keys <= columns)[:, None], columns, keys, columns)[:, -1]


@dataclass(slots=True, eq=False)
class _Tree:
    """What a row holds."""

    filled: int
    """Tokens so far, those of ended branches included."""
    paths: tuple[Tensor, ...]
    """For each branch, the columns of its prompt (and draft) in the row."""
    known: list[int]
    """For each branch, how many of its first tokens it sees."""


class PrefixTreeCache(KVCachePool):
    """A cache for texts of up to `capacity` tokens, all answers included, each with up to `branches` answers."""

    def __init__(self, model: LanguageModel, rows: int, branches: int, capacity: int) -> None:
        super().__init__(model, rows, capacity)
        self._branches = branches
        self._visible = torch.zeros((rows, branches, capacity), dtype=torch.bool, device=model.device)
        self._positions = torch.zeros((rows, capacity), dtype=torch.long, device=model.device)
        self._trees: list[_Tree] = []

    def insert(self, cache: Any, row: int, packed: PackedTree) -> None:
        """Copy a tree that a prefill read as one row into the next row."""
        size = len(packed.tokens)
        mine = self.copy_prompt(cache, row, np.arange(size))
        self._visible[mine] = False
        self._positions[mine, :size] = self.model.tensor(packed.positions)
        paths = tuple(self.model.tensor(path) for path in packed.paths)
        self._trees.append(_Tree(size, paths, [0] * len(paths)))

    def drop(self, row: int) -> None:
        """End a row: the last row takes its place."""
        super().drop(row)
        for table in (self._visible, self._positions):
            table[row] = table[self.used]
        self._trees[row] = self._trees[-1]
        self._trees.pop()

    def step(self, tokens: Sequence[Sequence[int | None]], lengths: Sequence[Sequence[int]], pad: int) -> Tensor:
        """Read one token of each branch, on top of its first `lengths` tokens: hidden states [rows, branches, width].

        tokens [rows, branches of the row], None if a branch has ended: its output means nothing.
        """
        ids = torch.full((self.used, self._branches), pad, dtype=torch.long)
        positions = torch.zeros((self.used, self._branches), dtype=torch.long)
        for row, (mine, reach) in enumerate(zip(tokens, lengths, strict=True)):
            for branch, (token, length) in enumerate(zip(mine, reach, strict=True)):
                if token is not None:
                    ids[row, branch], positions[row, branch] = token, length
                    self._extend_mask(row, branch, length)
        filled = self.model.tensor([tree.filled for tree in self._trees])
        columns = filled[:, None] + torch.arange(self._branches, device=self.model.device)
        rows = torch.arange(self.used, device=self.model.device)[:, None]
        branches = torch.arange(self._branches, device=self.model.device)[None]
        here = self.model.tensor(positions)
        self._visible[rows, branches, columns] = True
        self._positions[rows, columns] = here
        for tree in self._trees:
            tree.filled += self._branches
        width = self.padded_width(max(tree.filled for tree in self._trees))
        visible, keys = self._visible[: self.used, :, :width], self._positions[: self.used, :width]
        return self.forward(self.model.tensor(ids), visible, here, keys, columns)

    def _extend_mask(self, row: int, branch: int, length: int) -> None:
        """Let a branch attend to those of its first `length` tokens that came with the prompt (or draft)."""
        tree = self._trees[row]
        if length > tree.known[branch]:
            self._visible[row, branch, tree.paths[branch][tree.known[branch] : length]] = True
        tree.known[branch] = length + 1
