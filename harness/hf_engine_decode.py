"""Free-text answers: prompts are read together, then every answer grows by one token a step until it ends.

Knows token sequences, caches and the model's forward pass. Does not know items beyond their ids, or how
batches are planned.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from harness.errors import NonFinite
from harness.hf_engine_model import LanguageModel
from harness.hf_engine_sampling import Noise, choose
from harness.hf_engine_text import StopWatch
from harness.records import Settings

__all__ = ["Answer", "Request", "decode_batch"]


@dataclass(frozen=True, slots=True)
class Request:
    """A prompt to be answered."""

    item_id: str
    """Which item."""
    sample: int
    """Which of several answers to it."""
    prompt: tuple[int, ...]
    """Tokens, at least one."""
    max_tokens: int
    """Longest answer."""
    watch: StopWatch
    """What ends it."""


@dataclass(slots=True)
class Answer:
    """An answer as it grows."""

    request: Request
    """What was asked."""
    ids: list[int] = field(default_factory=list)
    """Tokens so far, the end token left out."""
    finish: Literal["stop", "eos", "length"] | None = None
    """Why it ended; None while it grows."""

    def take(self, token: int, ends: frozenset[int]) -> None:
        """Add one token, and notice the end."""
        if token in ends:
            self.finish = "eos"
            return
        self.ids.append(token)
        if self.request.watch.stopped(self.ids):
            self.finish = "stop"
        elif len(self.ids) >= self.request.max_tokens:
            self.finish = "length"


def decode_batch(
    model: LanguageModel, requests: Sequence[Request], settings: Settings, *, ends: frozenset[int], pad: int
) -> list[Answer]:
    """Answer a batch of prompts.

    Rows are filled up on the left, so that each row's tokens are neighbours and sliding windows see what they
    should. Where the cache is opaque the prompts have to be of one length. Raises NonFinite with the item's
    id.
    """
    longest = max(len(one.prompt) for one in requests)
    fill = [longest - len(one.prompt) for one in requests]
    ids = model.tensor([[pad] * blank + list(one.prompt) for blank, one in zip(fill, requests, strict=True)])
    blank = torch.tensor(fill, device=model.device)[:, None]
    mask = (torch.arange(longest, device=model.device)[None] >= blank).long()
    positions = (mask.cumsum(dim=-1) - 1).clamp(min=0)
    cache = model.new_cache()
    padded = any(fill)
    hidden = model.forward(ids, mask=mask if padded else None, positions=positions, cache=cache)
    answers = [Answer(request) for request in requests]
    growing = list(range(len(answers)))
    position = positions[:, -1:]
    while True:
        token = _step(model, hidden[:, -1], [answers[row] for row in growing], settings)
        for row, value in zip(growing, token.tolist(), strict=True):
            if answers[row].finish is None:
                answers[row].take(value, ends)
        keep = [place for place, row in enumerate(growing) if answers[row].finish is None]
        if not keep:
            return answers
        if len(keep) < len(growing) and model.kind != "opaque":
            growing = [growing[place] for place in keep]
            index = torch.tensor(keep, device=model.device)
            cache.batch_select_indices(index)
            token, mask, position = token[index], mask[index], position[index]
        mask = torch.cat([mask, mask.new_ones(len(growing), 1)], dim=1)
        position = position + 1
        hidden = model.forward(token[:, None], mask=mask if padded else None, positions=position, cache=cache)


def _step(model: LanguageModel, hidden: Tensor, rows: Sequence[Answer], settings: Settings) -> Tensor:
    """Give the next token of each row. Raises NonFinite for the first row with a NaN or infinite logit."""
    tokens: list[Tensor] = []
    broken: list[Tensor] = []
    noises = [Noise(settings.seed, one.request.item_id, one.request.sample) for one in rows]
    steps = [len(one.ids) for one in rows]
    for part, logits in model.tiles(hidden):
        broken.append(~torch.isfinite(logits.logsumexp(dim=-1)))
        tokens.append(choose(logits, settings, noises[part], steps[part]))
    bad = torch.cat(broken).tolist()
    for row, answer in zip(bad, rows, strict=True):
        if row and answer.finish is None:
            name = answer.request.item_id
            raise NonFinite(f"{name}: the model's logits are NaN or infinite", name)
    return torch.cat(tokens)
