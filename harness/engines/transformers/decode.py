"""Free-text answers that grow token by token: what is asked, what has come so far, and when it ends.

Also the plain way to produce them: a batch of prompts read together and decoded until the last answer ends.
Does not know items beyond their ids, or how batches are planned.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from harness.engines.transformers.head import Head
from harness.engines.transformers.model import LanguageModel
from harness.engines.transformers.sampling import NOISE_KEY, choose, noise_key
from harness.engines.transformers.text import StopDetector
from harness.errors import NonFinite
from harness.records import Settings

__all__ = [
    "Answer",
    "Batch",
    "Request",
    "check_finite",
    "check_tokens",
    "decode_batch",
    "most_likely",
    "next_tokens",
    "noise_keys",
]

NOT_FINITE = -1
"""In place of a token: its row's logits are NaN or infinite."""


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
    stops: StopDetector
    """What ends it."""
    draft: tuple[int, ...] = ()
    """An answer that may be right: tokens that are checked all at once instead of one by one."""

    @property
    def sequence(self) -> tuple[int, ...]:
        """What is read at first: the prompt and the draft."""
        return self.prompt + self.draft

    @property
    def tokens(self) -> int:
        """Prompt and longest answer."""
        return len(self.prompt) + self.max_tokens


@dataclass(slots=True)
class Answer:
    """An answer as it grows."""

    request: Request
    """What was asked."""
    ids: list[int] = field(default_factory=list)
    """Tokens so far, the end token left out."""
    finish: Literal["stop", "eos", "length"] | None = None
    """Why it ended; None while it grows."""

    def append(self, token: int, ends: frozenset[int]) -> None:
        """Add one token, and notice the end."""
        if token in ends:
            self.finish = "eos"
            return
        self.ids.append(token)
        if self.request.stops.stopped(self.ids):
            self.finish = "stop"
        elif len(self.ids) >= self.request.max_tokens:
            self.finish = "length"


def decode_batch(
    model: LanguageModel, requests: Sequence[Request], settings: Settings, *, ends: frozenset[int], pad: int
) -> list[Answer]:
    """Answer a batch of prompts. Raises NonFinite with the item's id."""
    batch = Batch(model, [one.prompt for one in requests], pad, max(one.tokens for one in requests))
    hidden = batch.read()
    answers = [Answer(request) for request in requests]
    while True:
        tokens = next_tokens(model.head, hidden, settings, model.tensor(noise_keys(settings, answers)))
        for answer, token in zip(answers, check_tokens(tokens.tolist(), answers), strict=True):
            if answer.finish is None:
                answer.append(token, ends)
        if all(answer.finish for answer in answers):
            return answers
        hidden = batch.step(tokens)


class Batch:
    """Prompts that are read together and grow by a token each at every step, to at most `length` tokens.

    Rows are filled up on the left, so that each row's tokens are neighbours and sliding windows see what they
    should. Where the model's path is not padded the prompts have to be of one length.
    """

    def __init__(self, model: LanguageModel, prompts: Sequence[Sequence[int]], pad: int, length: int) -> None:
        longest = max(map(len, prompts))
        fill = [longest - len(prompt) for prompt in prompts]
        self._model, self._cache, self._padded = model, model.new_cache(length), any(fill)
        self._ids = model.tensor([[pad] * blank + list(prompt) for blank, prompt in zip(fill, prompts, strict=True)])
        self._mask = (torch.arange(longest, device=model.device)[None] >= model.tensor(fill)[:, None]).long()
        self._positions = (self._mask.cumsum(dim=-1) - 1).clamp(min=0)

    def read(self) -> Tensor:
        """Read the prompts: final hidden states of their last tokens, [rows, width]."""
        return self._forward(self._ids)

    def step(self, tokens: Tensor) -> Tensor:
        """Read one more token of each row, [rows]: final hidden states [rows, width]."""
        self._mask = torch.cat([self._mask, self._mask.new_ones(len(tokens), 1)], dim=1)
        self._positions = self._positions[:, -1:] + 1
        return self._forward(tokens[:, None])

    def _forward(self, ids: Tensor) -> Tensor:
        mask = self._mask if self._padded else None
        return self._model.forward(ids, mask=mask, positions=self._positions, cache=self._cache)[:, -1]


def noise_keys(settings: Settings, answers: Sequence[Answer]) -> NDArray[np.int64]:
    """Return which random numbers each next token is drawn with, [answers, 5]; [answers, 0] at temperature 0."""
    if settings.temperature == 0:
        return np.empty((len(answers), 0), dtype=np.int64)
    rows = [(*noise_key(settings.seed, one.request.item_id, one.request.sample), len(one.ids)) for one in answers]
    return np.array(rows, dtype=np.int64).reshape(-1, NOISE_KEY)


def next_tokens(head: Head, hidden: Tensor, settings: Settings, keys: Tensor) -> Tensor:
    """Return the next token of each row by its last hidden state, [rows, width], or NOT_FINITE.

    Everything stays on the device: `check_tokens` looks at what was copied to the host.
    """
    tokens = []
    for part, logits in head.tiles(hidden):
        tokens.append(torch.where(_finite(logits), choose(logits, settings, keys[part]), NOT_FINITE))
    return torch.cat(tokens)


def check_tokens(tokens: list[int], answers: Sequence[Answer]) -> list[int]:
    """Return the tokens of these answers. Raises NonFinite if one is NOT_FINITE."""
    if NOT_FINITE in tokens:
        raise _non_finite(answers[tokens.index(NOT_FINITE)].request.item_id)
    return tokens


def most_likely(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Return the most likely token of each row, and how far it is ahead of all others; the logits are used up.

    Of equal ones the first, as `argmax` does in a step: 16-bit logits are often equal, and `topk` takes any.
    """
    with torch.inference_mode():
        top, best = logits.max(dim=-1)
        return best, top - logits.scatter_(-1, best[:, None], float("-inf")).amax(dim=-1)


def check_finite(logits: Tensor, item_ids: Sequence[str]) -> None:
    """Raise NonFinite for the first row [rows, vocabulary] whose softmax is not a number."""
    sound = _finite(logits).tolist()
    if not all(sound):
        raise _non_finite(item_ids[sound.index(False)])


def _finite(logits: Tensor) -> Tensor:
    """Return which rows have a softmax, [rows].

    A NaN anywhere is the largest of its row; some models hide tokens behind minus infinity, which is sound.
    """
    return torch.isfinite(logits.amax(dim=-1))


def _non_finite(item_id: str) -> NonFinite:
    return NonFinite(f"{item_id}: the model's logits are NaN or infinite", item_id)
