"""Attention for short queries with a mask, without a copy of keys and values for every query head.

transformers repeats keys and values once per query head of a group if there is a mask and more than one query token.
Here the heads of a group become further rows of the query instead::

    query  [rows, heads, tokens, size]  ->  [rows, key heads, group * tokens, size]
    mask   [rows, 1, tokens, keys]      ->  [rows, 1, group * tokens, keys]

so the keys and values are read once per group. The same products are summed; matrix products of another height may
differ in the last bit (on CPUs they do for some numbers of tokens, such as 2, 11 and 33, and not for 4, 8 and 64).
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

SHORT_QUERY = 64  # tokens: with more per row, repeating the mask would cost as much as repeating keys and values
KEYS_PER_SPLIT: int | None = None
"""Keys in one part, if their number is a multiple of this, so that few rows keep a GPU busy; None: they are one."""
MASKED = -3e4  # added to the scores of masked keys: finite in all dtypes, and their share is 0 in float32
NAME = "quantcliff_grouped_sdpa"


def grouped_sdpa(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **more: Any
) -> tuple[Tensor, Any]:
    """Return the attention of a layer as `sdpa` of transformers does, which computes everything but the case above."""
    group = getattr(module, "num_key_value_groups", 1)
    rows, heads, tokens, size = query.shape
    masked = attention_mask is not None and attention_mask.ndim == 4 and attention_mask.shape[1] == 1  # noqa: PLR2004
    unknown = any(more.get(name) is not None for name in ("position_bias", "cache", "softcap", "s_aux"))
    scaling, unknown = more.get("scaling"), unknown or bool(more.get("dropout"))
    splits = key.shape[2] // KEYS_PER_SPLIT if KEYS_PER_SPLIT and key.shape[2] % KEYS_PER_SPLIT == 0 else 1
    if attention_mask is None or not masked or group == splits == 1 or tokens > SHORT_QUERY or unknown:
        whole: tuple[Tensor, Any] = sdpa_attention_forward(module, query, key, value, attention_mask, **more)
        return whole
    folded = query.reshape(rows, heads // group, group * tokens, size)
    mask = attention_mask if tokens == 1 else attention_mask.repeat(1, 1, group, 1)
    if splits == 1:
        out = torch.nn.functional.scaled_dot_product_attention(folded, key, value, attn_mask=mask, scale=scaling)
    else:
        out = split_over_keys(folded, key, value, mask.expand(-1, -1, group * tokens, -1), scaling, splits)
    return out.reshape(rows, heads, tokens, out.shape[-1]).transpose(1, 2).contiguous(), None


def split_over_keys(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scaling: float | None, splits: int
) -> Tensor:
    """Attend to each part of the keys apart as if they were heads, and merge by the sums of their exponentials."""
    rows, heads, tokens, size = query.shape
    parts = [one.reshape(rows * heads, splits, -1, one.shape[-1]) for one in (key, value)]
    added = mask if mask.is_floating_point() else query.new_zeros(()).where(mask, MASKED)
    added = added.clamp(min=MASKED).reshape(rows, 1, tokens, splits, -1).transpose(2, 3)
    added = added.expand(-1, heads, -1, -1, -1).flatten(0, 1)
    asked = query.reshape(rows * heads, 1, tokens, size).expand(-1, splits, -1, -1)
    if query.device.type == "cpu":
        attend = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu  # noqa: SLF001  # returns the sums
        out, sums = attend(asked, *parts, attn_mask=added, scale=scaling)[:2]
    else:
        attend = torch.ops.aten._scaled_dot_product_efficient_attention  # noqa: SLF001
        out, sums = attend(asked, *parts, added, compute_log_sumexp=True, scale=scaling)[:2]
    share = sums[..., :tokens].softmax(dim=1)
    merged: Tensor = (out.float() * share[..., None]).sum(dim=1)
    return merged.to(query.dtype).reshape(rows, heads, tokens, -1)


AttentionInterface.register(NAME, grouped_sdpa)
AttentionMaskInterface.register(NAME, sdpa_mask)


@contextlib.contextmanager
def grouped_sdpa_in_use(config: Any, mask: Any) -> Iterator[None]:
    """Let a model use `grouped_sdpa` in place of sdpa in a pass with a mask that names each token's keys."""
    one = next(iter(mask.values())) if isinstance(mask, dict) else mask
    if getattr(config, "_attn_implementation", None) != "sdpa" or one is None or one.ndim != 4:  # noqa: PLR2004
        yield
        return
    config._attn_implementation = NAME  # noqa: SLF001  # what attention layers read at every pass
    try:
        yield
    finally:
        config._attn_implementation = "sdpa"  # noqa: SLF001
