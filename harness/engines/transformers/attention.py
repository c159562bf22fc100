"""Attention for short queries with a mask, without a copy of keys and values for every query head.

transformers repeats keys and values once per query head of a group if there is a mask and more than one query token,
and before 5.20 also for one. Here the heads of a group become further rows of the query instead::

    query  [rows, heads, tokens, size]  ->  [rows, key heads, group * tokens, size]
    mask   [rows, 1, tokens, keys]      ->  [rows, 1, group * tokens, keys]

so the keys and values are read once per group. The same products are summed; matrix products of another height may
differ in the last bit (on CPUs they do for some numbers of tokens, such as 2, 11 and 33, and not for 4, 8 and 64).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

__all__ = ["SHORT_QUERY", "grouped_sdpa", "grouped_sdpa_in_use"]

SHORT_QUERY = 64
"""Tokens: with more of them per row, repeating the mask would cost as much as repeating keys and values."""

NAME = "quantcliff_grouped_sdpa"


def grouped_sdpa(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **more: Any,
) -> tuple[Tensor, Any]:
    """Return the attention of a layer as `sdpa` of transformers does, which computes everything but the case above."""
    group = getattr(module, "num_key_value_groups", 1)
    rows, heads, tokens, size = query.shape
    masked = attention_mask is not None and attention_mask.ndim == 4 and attention_mask.shape[1] == 1  # noqa: PLR2004
    unknown = any(more.get(name) is not None for name in ("position_bias", "cache", "softcap", "s_aux"))
    if attention_mask is None or not masked or group == 1 or tokens > SHORT_QUERY or dropout or unknown:
        whole: tuple[Tensor, Any] = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **more
        )
        return whole
    folded = query.reshape(rows, heads // group, group * tokens, size)
    mask = attention_mask if tokens == 1 else attention_mask.repeat(1, 1, group, 1)
    out = torch.nn.functional.scaled_dot_product_attention(folded, key, value, attn_mask=mask, scale=scaling)
    return out.reshape(rows, heads, tokens, out.shape[-1]).transpose(1, 2).contiguous(), None


AttentionInterface.register(NAME, grouped_sdpa)
AttentionMaskInterface.register(NAME, sdpa_mask)


@contextlib.contextmanager
def grouped_sdpa_in_use(config: Any, mask: Any) -> Iterator[None]:
    """Let a model with this text config use `grouped_sdpa` in a pass with a mask that names each token's keys.

    Any other pass, and any other implementation than sdpa, stays as it is; so does the model after the pass.
    """
    one = next(iter(mask.values())) if isinstance(mask, dict) else mask
    if getattr(config, "_attn_implementation", None) != "sdpa" or one is None or one.ndim != 4:  # noqa: PLR2004
        yield
        return
    config._attn_implementation = NAME  # noqa: SLF001  # what attention layers read at every pass
    try:
        yield
    finally:
        config._attn_implementation = "sdpa"  # noqa: SLF001
