"""Places for answers that grow: preallocated caches whose rows begin and end independently.

Here: what every such room does with the cache classes of transformers, and the plain room, in which every answer has a
row of its own. Its tokens begin at place 0, so a token's place is its position and nothing is ever moved along a row.
Does not know requests or tokens.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

from harness.engines.transformers.model import LanguageModel

__all__ = ["Room", "Slots"]

ROUNDED_TO = 32
"""Tokens: the width that a step looks at grows by this many at a time."""


class _Step:
    """Where the step in hand writes and how far it looks."""

    def __init__(self) -> None:
        self.rows = torch.empty(0, dtype=torch.long)
        self.places = torch.empty((0, 1), dtype=torch.long)
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
        """Write the tokens of each active row, and give what the step looks at."""
        step, active = self._step, len(self._step.rows)
        self.keys[step.rows[:, None], :, step.places] = key_states.transpose(1, 2)
        self.values[step.rows[:, None], :, step.places] = value_states.transpose(1, 2)
        return self.keys[:active, :, : step.width], self.values[:active, :, : step.width]

    def get_seq_length(self, *_: Any) -> int:
        """Give the width that the step looks at."""
        return self._step.width


def _zeros(like: Tensor, rows: int, capacity: int) -> Tensor:
    return torch.zeros((rows, like.shape[1], capacity, like.shape[3]), dtype=like.dtype, device=like.device)


class Room:
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
        """How many more rows there is room for."""
        return self.rows - self.used

    def take(self, cache: Any, row: int, path: NDArray[np.int64]) -> int:
        """Copy tokens that were read elsewhere, the places `path` of its row, into the next row; gives which."""
        mine = self.used
        with torch.inference_mode():
            if self._cache is None:
                layers = [_Layer(layer, self.rows, self.capacity, self._step) for layer in cache.layers]
                self._cache = Cache(layers=layers)
            places = self.model.tensor(path)
            for own, other in zip(self._cache.layers, cache.layers, strict=True):
                own.keys[mine, :, : len(path)] = other.keys[row].index_select(1, places)
                own.values[mine, :, : len(path)] = other.values[row].index_select(1, places)
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

    def forward(self, ids: Tensor, visible: Tensor, positions: Tensor, keys: Tensor, places: Tensor) -> Tensor:
        """Read tokens of the rows in use: final hidden states [rows, tokens, width].

        ids, positions and places [rows, tokens]; visible [rows, tokens, looked at] and the positions of the keys
        [rows, looked at] say how far the step looks.
        """
        step = self._step
        step.rows = torch.arange(len(ids), device=self.model.device)
        step.places, step.width = places, visible.shape[-1]
        mask = self.model.attention(visible[:, None], positions, keys)
        return self.model.forward(ids, mask=mask, positions=positions, cache=self._cache)

    def rounded(self, width: int) -> int:
        """Give the width to look at for this many tokens."""
        return min(self.capacity, -(-width // ROUNDED_TO) * ROUNDED_TO)


class Slots(Room):
    """Room for answers of up to `capacity` tokens, prompt included, each in a row of its own."""

    def insert(self, cache: Any, row: int, path: NDArray[np.int64]) -> None:
        """Put a prompt that was read elsewhere, the places `path` of its row, into the next slot."""
        self.take(cache, row, path)

    def step(self, tokens: list[int], lengths: list[int]) -> Tensor:
        """Read one token of each row, on top of the row's first `lengths` tokens: final hidden states [rows, width]."""
        places = self.model.tensor(lengths)[:, None]
        keys = torch.arange(self.rounded(max(lengths) + 1), device=self.model.device)[None]
        ids = self.model.tensor(tokens)[:, None]
        return self.forward(ids, (keys <= places)[:, None], places, keys, places)[:, -1]
