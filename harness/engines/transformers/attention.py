"""Attention for short queries with a mask, without a copy of keys and values for every query head.

transformers repeats keys and values once per query head of a group if there is a mask and more than one query token.
Here the heads of a group become further rows of the query instead::

    query  [rows, heads, tokens, size]  ->  [rows, key heads, group * tokens, size]
    mask   [rows, 1, tokens, keys]      ->  [rows, 1, group * tokens, keys]

so the keys and values are read once per group. The same products are summed; matrix products of another height may
differ in the last bit (on CPUs they do for some numbers of tokens, such as 2, 11 and 33, and not for 4, 8 and 64).

On a GPU, the kernels that take a mask have a block of threads for each row and key head, so few rows leave it idle. If
each row has one token that sees the first keys of its row and no others, FlashAttention's kernel for sequences of
several lengths reads just these; otherwise the keys are cut into parts (docs/engine.md has what both measured).
"""

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

SHORT_QUERY = 64  # tokens: with more per row, repeating the mask would cost as much as repeating keys and values
KEYS_PER_SPLIT: int | None = None
"""Keys in one part, if their number is a multiple of this; None: `PARTS` on a GPU that few rows leave idle."""
PARTS = (1024, 512, 256)  # keys in one part: the first of these that divides their number
BLOCKS = 256  # of threads, 64 queries each: about two for each multiprocessor of a large GPU keep it busy
FLASH_BY_LENGTH = True
"""Whether rows whose tokens see the first keys of their row are read by FlashAttention, where it can."""
CUDNN_FROM = 65536
"""Tokens of a prompt without a mask from which cuDNN's kernel is used: its plan cost too much at 32k, not at 128k."""
MASKED = -3e4  # added to the scores of masked keys: finite in all dtypes, and their share is 0 in float32
NAME = "quantcliff_grouped_sdpa"


def grouped_sdpa(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **more: Any
) -> tuple[Tensor, Any]:
    """Return the attention of a layer as `sdpa` of transformers does, which computes everything but the case above."""
    rows, heads, tokens, size = query.shape
    group = max(1, heads // key.shape[1])  # `num_key_value_groups` may be anything in a config with latent keys
    masked = attention_mask is not None and attention_mask.ndim == 4 and attention_mask.shape[1] == 1  # noqa: PLR2004
    unknown = any(more.get(name) is not None for name in ("position_bias", "cache", "softcap", "s_aux"))
    scaling, unknown = more.get("scaling"), unknown or bool(more.get("dropout"))
    folded = query.reshape(rows, heads // group, group * tokens, size)
    short = masked and tokens <= SHORT_QUERY and not unknown
    if short and tokens == 1 and _lengths and _flash_takes(folded, key, value):
        return flash_by_length(folded, key, value, _lengths[-1], scaling).reshape(rows, 1, heads, size), None
    splits = _parts(folded, key)
    if attention_mask is None or not short or group == splits == 1:
        whole: tuple[Tensor, Any] = sdpa_attention_forward(module, query, key, value, attention_mask, **more)
        return whole
    mask = attention_mask if tokens == 1 else attention_mask.repeat(1, 1, group, 1)
    if splits == 1:
        out = torch.nn.functional.scaled_dot_product_attention(folded, key, value, attn_mask=mask, scale=scaling)
    else:
        out = split_over_keys(folded, key, value, mask.expand(-1, -1, group * tokens, -1), scaling, splits)
    return out.reshape(rows, heads, tokens, out.shape[-1]).transpose(1, 2).contiguous(), None


def _parts(query: Tensor, key: Tensor) -> int:
    """Return how many parts the keys are cut into."""
    keys, part, blocks = key.shape[2], KEYS_PER_SPLIT, query.shape[0] * query.shape[1] * -(-query.shape[2] // 64)
    if part is None and key.is_cuda and blocks < BLOCKS and query.shape[3] % 8 == 0 and _has_kernels(key.device):
        part = next((one for one in PARTS if keys % one == 0), None)
    return keys // part if part and keys % part == 0 else 1


def _flash_takes(query: Tensor, key: Tensor, value: Tensor) -> bool:
    """Whether the kernel can read rows that are the beginning of a cache [more rows, heads, capacity, size]."""
    size, rest = query.shape[-1], key.stride()[1:]
    dense = key.stride(0) == key.shape[1] * key.stride(1) and rest[1:] == (size, 1) and key.stride() == value.stride()
    fits = query.is_cuda and query.element_size() == 2 and size % 8 == 0 and size <= 256  # noqa: PLR2004  # 16 bits
    return FLASH_BY_LENGTH and fits and dense and value.shape[-1] == size and _has_kernels(query.device)


@functools.cache
def _has_kernels(device: torch.device) -> bool:
    """Whether a GPU runs FlashAttention, of torch built for CUDA: from compute capability 8.0 on."""
    if torch.version.cuda is None or not torch.backends.cuda.is_flash_attention_available():
        return False
    return torch.cuda.get_device_capability(device) >= (8, 0)


def flash_by_length(query: Tensor, key: Tensor, value: Tensor, lengths: Tensor, scaling: float | None) -> Tensor:
    """Return the attention of queries [rows, key heads, group, size] to the first `lengths` [rows] keys of their row.

    Each key head of a row is a sequence of one query token, whose heads are those of the group, and of `lengths` keys
    that begin where the head's part of the cache does.
    """
    rows, heads, group, size = query.shape
    count, capacity = rows * heads, key.stride(1) // size
    begins = torch.arange(count + 1, dtype=torch.int32, device=key.device)
    flat = (one.as_strided((count * capacity, 1, size), (size, size, 1)) for one in (key, value))
    used = lengths.to(key.device, torch.int32).repeat_interleave(heads)
    attend = torch.ops.aten._flash_attention_forward  # noqa: SLF001  # public from torch 2.13 on, as `varlen_attn`
    whole = {"max_q": 1, "max_k": key.shape[2], "dropout_p": 0.0, "is_causal": False, "return_debug_mask": False}
    rest = {**whole, "scale": scaling, "seqused_k": used}
    out: Tensor = attend(query.reshape(count, group, size), *flat, begins, begins * capacity, **rest)[0]
    return out


def split_over_keys(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scale: float | None, splits: int
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
        out, sums = attend(asked, *parts, attn_mask=added, scale=scale)[:2]
    else:
        attend = torch.ops.aten._scaled_dot_product_efficient_attention  # noqa: SLF001
        out, sums = attend(asked, *parts, added, compute_log_sumexp=True, scale=scale)[:2]
    merged: Tensor = (out.float() * sums[..., :tokens].softmax(dim=1)[..., None]).sum(dim=1)
    return merged.to(query.dtype).reshape(rows, heads, tokens, -1)


AttentionInterface.register(NAME, grouped_sdpa)
AttentionMaskInterface.register(NAME, sdpa_mask)
_lengths: list[Tensor] = []  # of the pass that is computed just now, if there are any


@contextlib.contextmanager
def first_keys(lengths: Tensor) -> Iterator[None]:
    """Say of a pass that each of its rows attends, in every layer, to this many keys from its beginning on, [rows]."""
    _lengths.append(lengths)
    try:
        yield
    finally:
        _lengths.pop()


@contextlib.contextmanager
def cudnn_attention() -> Iterator[None]:
    """Let cuDNN's attention be chosen, which torch then prefers on Hopper; afterwards all is as it was."""
    cuda: Any = torch.backends.cuda  # torch's own types leave this out
    before = cuda.cudnn_sdp_enabled()
    torch.backends.cuda.enable_cudnn_sdp(enabled=True)
    try:
        yield
    finally:
        torch.backends.cuda.enable_cudnn_sdp(enabled=before)


@contextlib.contextmanager
def grouped_sdpa_in_use(config: Any, mask: Any, ids: Tensor) -> Iterator[None]:
    """Let a model use `grouped_sdpa` in place of sdpa in a pass with a mask that names each token's keys."""
    one = next(iter(mask.values())) if isinstance(mask, dict) else mask
    if getattr(config, "_attn_implementation", None) != "sdpa" or one is None or one.ndim != 4:  # noqa: PLR2004
        long = one is None and ids.is_cuda and ids.shape[1] >= CUDNN_FROM
        with cudnn_attention() if long else contextlib.nullcontext():
            yield
        return
    config._attn_implementation = NAME  # noqa: SLF001  # what attention layers read at every pass
    try:
        yield
    finally:
        config._attn_implementation = "sdpa"  # noqa: SLF001
