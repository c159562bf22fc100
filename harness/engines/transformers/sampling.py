"""The next token: the most likely one, or one drawn with random numbers that belong to the item alone.

Draws use the Gumbel-max trick: the token with the largest logit / temperature + noise is a draw from the
softmax (E. J. Gumbel, "Statistical Theory of Extreme Values", 1954; C. J. Maddison et al., arXiv:1411.0030,
section 2). The noise of a token is a function of (seed, item, sample, step, token), so two variants that are
asked the same item see the same noise, and their answers part only as far as their logits do. Does not know
models or texts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from harness.records import Settings

__all__ = ["Noise", "choose"]


@dataclass(frozen=True, slots=True)
class Noise:
    """The random numbers of one answer."""

    seed: int
    """Root seed of the run."""
    item_id: str
    """Which item."""
    sample: int
    """Which of several answers to it."""

    def gumbel(self, step: int, vocabulary: int) -> Tensor:
        """Return standard Gumbel noise for every token of the vocabulary at one step, float32 [vocabulary]."""
        name = f"{self.seed}\x1f{self.item_id}\x1f{self.sample}\x1f{step}".encode()
        key = int.from_bytes(hashlib.sha256(name).digest()[:16], "little")
        uniform = np.random.Generator(np.random.Philox(key=key)).random(vocabulary, dtype=np.float32)
        tiny = np.float32(np.finfo(np.float32).tiny)
        return torch.from_numpy(-np.log(-np.log(np.maximum(uniform, tiny))))


def choose(logits: Tensor, settings: Settings, noises: Sequence[Noise], steps: Sequence[int]) -> Tensor:
    """Return the next token of each row, [rows] of integers on the logits' device.

    logits [rows, vocabulary] in float32; noises and steps say which random numbers each row gets, and go
    unused at temperature 0.
    """
    if settings.temperature == 0:
        return logits.argmax(dim=-1)
    scaled = logits / settings.temperature
    if settings.top_p < 1:
        scaled = _nucleus(scaled, settings.top_p)
    noise = torch.stack([one.gumbel(step, logits.shape[-1]) for one, step in zip(noises, steps, strict=True)])
    return (scaled + noise.to(logits.device)).argmax(dim=-1)


def _nucleus(scaled: Tensor, top_p: float) -> Tensor:
    """Keep the most likely tokens up to a total of top_p (Holtzman et al., arXiv:1904.09751, section 3.1)."""
    ordered, order = scaled.sort(dim=-1, descending=True)
    probability = ordered.softmax(dim=-1)
    before = probability.cumsum(dim=-1) - probability
    ordered = ordered.masked_fill(before >= top_p, float("-inf"))
    return torch.full_like(scaled, float("-inf")).scatter(-1, order, ordered)
