"""Places for answers that grow: one preallocated cache whose rows begin and end independently.

Every row's tokens begin at place 0, so a token's place is its position and nothing is ever moved along a row.
Knows the cache classes of transformers. Does not know requests or tokens.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

from harness.hf_engine.model import LanguageModel

__all__ = ["Slots"]

ROUNDED_TO = 32
"""Tokens: the width that a step looks at grows by this many at a time."""


class _Layer(DynamicLayer):  # type: ignore[misc]  # transformers' classes come untyped
    """Keys and values of all slots in one layer."""

    def __init__(self, like: Any, slots: int, capacity: int, step: _Step) -> None:
        super().__init__()
        self.keys = _room(like.keys, slots, capacity)
        self.values = _room(like.values, slots, capacity)
        self.dtype, self.device = like.keys.dtype, like.keys.device
        self.is_initialized = True
        self._step = step

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Write one token of each active row, and give what the step looks at."""
        step = self._step
        self.keys[step.rows, :, step.places] = key_states[:, :, 0]
        self.values[step.rows, :, step.places] = value_states[:, :, 0]
        active = len(step.rows)
        return self.keys[:active, :, : step.width], self.values[:active, :, : step.width]

    def get_seq_length(self, *_: Any) -> int:
        """Give the width that the step looks at."""
        return self._step.width


def _room(like: Tensor, slots: int, capacity: int) -> Tensor:
    return torch.zeros((slots, like.shape[1], capacity, like.shape[3]), dtype=like.dtype, device=like.device)


class _Step:
    """Where the step in hand writes and how far it looks."""

    def __init__(self) -> None:
        self.rows = torch.empty(0, dtype=torch.long)
        self.places = torch.empty(0, dtype=torch.long)
        self.width = 0


class Slots:
    """Room for `slots` answers of up to `capacity` tokens, prompt included."""

    def __init__(self, model: LanguageModel, slots: int, capacity: int) -> None:
        self._model = model
        self._slots = slots
        self._capacity = capacity
        self._step = _Step()
        self._cache: Cache | None = None
        self._used = 0

    @property
    def free(self) -> int:
        """How many more answers there is room for."""
        return self._slots - self._used

    def insert(self, cache: Any, row: int, path: NDArray[np.int64]) -> None:
        """Copy a prompt that was read elsewhere, the places `path` of its row, into the next slot."""
        slot = self._used
        with torch.inference_mode():
            if self._cache is None:
                layers = [_Layer(layer, self._slots, self._capacity, self._step) for layer in cache.layers]
                self._cache = Cache(layers=layers)
            places = self._model.tensor(path)
            for mine, other in zip(self._cache.layers, cache.layers, strict=True):
                mine.keys[slot, :, : len(path)] = other.keys[row].index_select(1, places)
                mine.values[slot, :, : len(path)] = other.values[row].index_select(1, places)
        self._used += 1

    def drop(self, slot: int) -> None:
        """End a row: the last row takes its slot."""
        self._used -= 1
        if slot == self._used or self._cache is None:
            return
        with torch.inference_mode():
            for layer in self._cache.layers:
                layer.keys[slot] = layer.keys[self._used]
                layer.values[slot] = layer.values[self._used]

    def step(self, tokens: list[int], lengths: list[int]) -> Tensor:
        """Read one token of each row, on top of the row's first `lengths` tokens: final hidden states [rows, width]."""
        model, step = self._model, self._step
        step.width = min(self._capacity, -(-(max(lengths) + 1) // ROUNDED_TO) * ROUNDED_TO)
        step.places = model.tensor(lengths)
        step.rows = torch.arange(len(tokens), device=model.device)
        keys = torch.arange(step.width, device=model.device)[None]
        places = step.places[:, None]
        mask = model.attention((keys <= places)[:, None, None, :], places, keys)
        hidden = model.forward(model.tensor(tokens)[:, None], mask=mask, positions=places, cache=self._cache)
        return hidden[:, -1]
