"""The next token: the most likely one, or one drawn with random numbers that belong to the item alone.

Draws use the Gumbel-max trick: the token with the largest logit / temperature + noise is a draw from the
softmax (E. J. Gumbel, "Statistical Theory of Extreme Values", 1954; C. J. Maddison et al., arXiv:1411.0030,
section 2). The noise of a token is a function of (seed, item, sample, position, token), so two variants that are
asked the same item see the same noise, and their answers part only as far as their logits do.

The noise is made on the device by Philox4x32-10, a generator without state (J. K. Salmon et al., "Parallel random
numbers: as easy as 1, 2, 3", SC 2011), in integer operations that every device computes alike. Does not know models or
texts.
"""

from __future__ import annotations

import functools
import hashlib
import struct
from collections.abc import Sequence

import torch
from torch import Tensor

from harness.records import Settings

__all__ = ["NOISE_KEY", "choose", "gumbel", "noise_key", "philox"]

NOISE_KEY = 5
"""Integers that say which random numbers a token is drawn with: those of `noise_key`, and the position."""

WORD = 0xFFFFFFFF
ROUNDS = 10
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
WEYL = (0x9E3779B9, 0xBB67AE85)


@functools.lru_cache(maxsize=4096)
def noise_key(seed: int, item_id: str, sample: int) -> tuple[int, int, int, int]:
    """Return what identifies the random numbers of one answer, as four words of 32 bits."""
    words: tuple[int, int, int, int]
    words = struct.unpack("<4I", hashlib.sha256(f"{seed}\x1f{item_id}\x1f{sample}".encode()).digest()[:16])
    return words


def philox(counter: Sequence[Tensor], key: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the four words of Philox4x32-10 for counters of four words and keys of two, all integers of 64 bits.

    A product of two words that overflows 63 bits wraps, so its bits are right. The second and fourth word are
    kept unmasked between rounds: what is above their 32 bits is masked off with the word that it is mixed into.
    """
    first, second, third, fourth = counter
    for number in range(ROUNDS):
        left, right = first * MULTIPLIERS[0], third * MULTIPLIERS[1]
        keys = [(word + number * step) & WORD for word, step in zip(key, WEYL, strict=True)]
        first = (right >> 32).bitwise_xor_(second).bitwise_xor_(keys[0]).bitwise_and_(WORD)
        third = (left >> 32).bitwise_xor_(fourth).bitwise_xor_(keys[1]).bitwise_and_(WORD)
        second, fourth = right, left
    return first, second & WORD, third, fourth & WORD


def gumbel(keys: Tensor, vocabulary: int) -> Tensor:
    """Return standard Gumbel noise for every token of the vocabulary, float32 [rows, vocabulary].

    keys [rows, NOISE_KEY]. Logarithms are taken in float64, whose last bit may differ between devices, and rounded to
    float32, which hides that.
    """
    blocks = torch.arange(-(-vocabulary // 4), device=keys.device).expand(len(keys), -1)
    low, high, third, fourth, position = keys[:, :, None].unbind(1)
    wide = [word.expand_as(blocks) for word in (position, third, fourth)]
    words = torch.stack(philox([blocks, *wide], [low, high]), dim=-1).flatten(1)[:, :vocabulary]
    uniform = words.double().add_(0.5).mul_(2.0**-32)
    return uniform.log_().neg_().log_().neg_().float()


def choose(logits: Tensor, settings: Settings, keys: Tensor) -> Tensor:
    """Return the next token of each row, [rows] of integers on the logits' device.

    logits [rows, vocabulary] in float32; keys [rows, NOISE_KEY] say which random numbers each row gets, and go
    unused at temperature 0.
    """
    if settings.temperature == 0:
        return logits.argmax(dim=-1)
    scaled = logits / settings.temperature
    if settings.top_p < 1:
        scaled = _nucleus(scaled, settings.top_p)
    return (scaled + gumbel(keys, logits.shape[-1])).argmax(dim=-1)


def _nucleus(scaled: Tensor, top_p: float) -> Tensor:
    """Keep the most likely tokens up to a total of top_p (Holtzman et al., arXiv:1904.09751, section 3.1)."""
    ordered, order = scaled.sort(dim=-1, descending=True)
    probability = ordered.softmax(dim=-1)
    before = probability.cumsum(dim=-1) - probability
    ordered = ordered.masked_fill(before >= top_p, float("-inf"))
    return torch.full_like(scaled, float("-inf")).scatter(-1, order, ordered)
