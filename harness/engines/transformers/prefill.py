"""Prompts: rows of packed sequences through the model, and what later steps need of them.

Knows the layout of packed rows and the model's forward pass. Does not know what the sequences mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from harness.engines.transformers.model import LanguageModel
from harness.engines.transformers.packing import PackedTree

__all__ = ["PrefillResult", "prefill", "reads_prefix_first"]

PREFIX_ALONE = 1024
"""Tokens: a beginning of at least this length, shared by a whole row, is read before the branches, without a mask.
Shorter ones go in the same pass as their branches."""


@dataclass(frozen=True, slots=True, eq=False)
class PrefillResult:
    """What a pass over some rows gives."""

    hidden: Tensor
    """[rows, longest, width] Final hidden states, or logits if the head cannot be applied apart."""
    cache: Any
    """Keys and values in the order of the rows' tokens; None if they were not kept."""


def prefill(model: LanguageModel, rows: Sequence[PackedTree], *, pad: int, keep: bool) -> PrefillResult:
    """Read rows together, the shorter ones filled up on the right; keep says whether the cache is wanted."""
    if len(rows) == 1 and reads_prefix_first(rows[0]):
        return _prefix_first(model, rows[0])
    longest = max(len(row.tokens) for row in rows)
    ids = model.tensor(torch.stack([_filled(row.tokens, longest, pad) for row in rows]))
    cache = model.new_cache() if keep else None
    if all(row.single for row in rows):
        return PrefillResult(model.forward(ids, cache=cache), cache)
    positions = model.tensor(torch.stack([_filled(row.positions, longest, 0) for row in rows]))
    ends = model.tensor(torch.stack([_filled(row.ends, longest, 0) for row in rows]))
    place = torch.arange(longest, device=model.device)
    mask = model.attention(_visible(ends, place), positions, positions)
    return PrefillResult(model.forward(ids, mask=mask, positions=positions, cache=cache), cache)


def reads_prefix_first(row: PackedTree) -> bool:
    """Whether a row is read alone, and what its sequences share before the rest."""
    return not row.single and row.shared_prefix >= PREFIX_ALONE


def _prefix_first(model: LanguageModel, row: PackedTree) -> PrefillResult:
    """Read what the row's sequences share first, causally, and then the branches on top of it."""
    cache, prefix = model.new_cache(), row.shared_prefix
    first = model.forward(model.tensor(row.tokens[None, :prefix]), cache=cache)
    positions = model.tensor(row.positions[None])
    place = torch.arange(prefix, len(row.tokens), device=model.device)
    visible = _visible(model.tensor(row.ends[None]), place)
    mask = model.attention(visible, positions[:, prefix:], positions)
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


def _filled(values: Any, length: int, fill: int) -> Tensor:
    tensor = torch.full((length,), fill, dtype=torch.long)
    tensor[: len(values)] = torch.from_numpy(values)
    return tensor
