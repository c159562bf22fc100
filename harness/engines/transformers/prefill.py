"""Prompts: rows of packed sequences through the model, and what later steps need of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from harness.engines.transformers.model import LanguageModel
from harness.engines.transformers.packing import PackedTree

__all__ = ["PrefillResult", "prefill"]


@dataclass(frozen=True, slots=True, eq=False)
class PrefillResult:
    """What a pass over some rows gives."""

    hidden: Tensor
    """[rows, longest, width] Final hidden states, or logits if the head cannot be applied apart."""
    cache: Any
    """Keys and values in the order of the rows' tokens; None if they were not kept."""


def prefill(model: LanguageModel, rows: Sequence[PackedTree], *, pad: int, keep: bool) -> PrefillResult:
    """Read rows together, the shorter ones filled up on the right; keep says whether the cache is wanted."""
    if len(rows) == 1 and rows[0].prefix_first:
        return _prefix_first(model, rows[0])
    longest = max(len(row.tokens) for row in rows)

    def filled(name: str, fill: int) -> Tensor:
        tensor = torch.full((len(rows), longest), fill, dtype=torch.long)
        for index, row in enumerate(rows):
            tensor[index, : len(row.tokens)] = torch.from_numpy(getattr(row, name))
        return model.tensor(tensor)

    ids, cache = filled("tokens", pad), model.new_cache() if keep else None
    if all(row.single for row in rows):
        return PrefillResult(model.forward(ids, cache=cache), cache)
    positions = filled("positions", 0)
    place = torch.arange(longest, device=model.device)
    mask = model.attention(_visible(filled("ends", 0), place), positions, positions)
    return PrefillResult(model.forward(ids, mask=mask, positions=positions, cache=cache), cache)


def _prefix_first(model: LanguageModel, row: PackedTree) -> PrefillResult:
    """Read what the row's sequences share first, causally, and then the branches on top of it."""
    cache, prefix = model.new_cache(), row.shared_prefix
    first = model.forward(model.tensor(row.tokens[None, :prefix]), cache=cache)
    positions = model.tensor(row.positions[None])
    place = torch.arange(prefix, len(row.tokens), device=model.device)
    mask = model.attention(_visible(model.tensor(row.ends[None]), place), positions[:, prefix:], positions)
    ids = model.tensor(row.tokens[None, prefix:])
    rest = model.forward(ids, mask=mask, positions=positions[:, prefix:], cache=cache)
    return PrefillResult(torch.cat([first, rest], dim=1), cache)


def _visible(ends: Tensor, queries: Tensor) -> Tensor:
    """Return which keys each query sees, [rows, 1, queries, keys]: see `packing`.

    What fills a row has end 0 and sees only itself.
    """
    keys = torch.arange(ends.shape[1], device=ends.device)
    behind = keys[None, None, :] <= queries[None, :, None]
    on_path = queries[None, :, None] < ends[:, None, :]
    itself = keys[None, None, :] == queries[None, :, None]
    return ((behind & on_path) | itself)[:, None]
