"""Free-text answers that grow token by token: what is asked, what has come so far, and which token is next.

A token is drawn by the Gumbel-max trick (E. J. Gumbel, "Statistical Theory of Extreme Values", 1954; C. J. Maddison et
al., arXiv:1411.0030, section 2): the largest logit / temperature + noise. The noise is a function of (seed, item,
sample, position, token), the same for all variants, made on the device by Philox4x32-10, a generator without state (J.
K. Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011).
"""

import functools
import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from harness.engines.transformers.head import Head
from harness.engines.transformers.model import LanguageModel
from harness.engines.transformers.text import StopDetector, TextCodec
from harness.errors import NonFinite
from harness.records import Settings

NOT_FINITE = -1  # in place of a token: its row's logits are NaN or infinite
WORD, ROUNDS = 0xFFFFFFFF, 10
MULTIPLIERS, WEYL = (0xD2511F53, 0xCD9E8D57), (0x9E3779B9, 0xBB67AE85)


@dataclass(frozen=True, slots=True)
class Request:
    """A prompt to be answered."""

    item_id: str
    sample: int
    prompt: tuple[int, ...]
    max_tokens: int
    stops: StopDetector
    draft: tuple[int, ...] = ()  # an answer that may be right: its tokens are checked all at once

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
    ids: list[int] = field(default_factory=list)  # tokens so far, the end token left out
    finish: Literal["stop", "eos", "length"] | None = None  # why it ended; None while it grows

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


def decode_batch(model: LanguageModel, requests: list[Request], settings: Settings, texts: TextCodec) -> list[Answer]:
    """Answer a batch of prompts. Raises NonFinite with the item's id."""
    batch = Batch(model, [one.prompt for one in requests], texts.pad_id, max(one.tokens for one in requests))
    hidden, answers = batch.read(), [Answer(request) for request in requests]
    while True:
        tokens = next_tokens(model.head, hidden, settings, model.tensor(noise_keys(settings, answers)))
        for answer, token in zip(answers, check_tokens(tokens.tolist(), answers), strict=True):
            if answer.finish is None:
                answer.append(token, texts.end_ids)
        if all(answer.finish for answer in answers):
            return answers
        hidden = batch.step(tokens)


class Batch:
    """Prompts that are read together, filled up on the left, and grow by a token a step, to at most `length` tokens."""

    def __init__(self, model: LanguageModel, prompts: Sequence[Sequence[int]], pad: int, length: int) -> None:
        longest = max(map(len, prompts))
        fill = [longest - len(prompt) for prompt in prompts]
        self._model, self._padded, self._cache = model, any(fill), model.new_cache(length, decoding=True)
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


def next_tokens(head: Head, hidden: Tensor, settings: Settings, keys: Tensor) -> Tensor:
    """Return the next token of each row by its last hidden state, [rows, width], or NOT_FINITE, all on the device."""
    return torch.cat([choose(logits, settings, keys[part]) for part, logits in head.tiles(hidden)])


def check_tokens(tokens: list[int], answers: Sequence[Answer]) -> list[int]:
    """Return the next tokens of these answers. Raises NonFinite if one is NOT_FINITE."""
    if NOT_FINITE in tokens:
        item_id = answers[tokens.index(NOT_FINITE)].request.item_id
        raise NonFinite(f"{item_id}: the model's logits are NaN or infinite", item_id)
    return tokens


def most_likely(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Return the most likely token of each row, of equal ones the first, and its lead; the logits are used up."""
    with torch.inference_mode():
        top, best = logits.max(dim=-1)
        lead = top - logits.scatter_(-1, best[:, None], float("-inf")).amax(dim=-1)
        return torch.where(torch.isfinite(top), best, NOT_FINITE), lead


def choose(logits: Tensor, settings: Settings, keys: Tensor) -> Tensor:
    """Return the next token of each row, [rows] on the logits' device; NOT_FINITE if it has no softmax.

    logits [rows, vocabulary] in float32; keys [rows, 5] of `noise_keys`. With top_p, only the most likely tokens up to
    that total are drawn (Holtzman et al., arXiv:1904.09751, section 3.1).
    """
    scaled = logits
    if settings.temperature > 0:
        scaled = logits / settings.temperature
        if settings.top_p < 1:
            ordered, order = scaled.sort(dim=-1, descending=True)
            probability = ordered.softmax(dim=-1)
            ordered = ordered.masked_fill(probability.cumsum(dim=-1) - probability >= settings.top_p, float("-inf"))
            scaled = torch.full_like(scaled, float("-inf")).scatter(-1, order, ordered)
        scaled = scaled + gumbel(keys, logits.shape[-1])
    # A NaN anywhere is the largest of its row; some models hide tokens behind minus infinity, which is sound.
    return torch.where(torch.isfinite(logits.amax(dim=-1)), scaled.argmax(dim=-1), NOT_FINITE)


@functools.lru_cache(maxsize=4096)
def noise_key(seed: int, item_id: str, sample: int) -> tuple[int, ...]:
    """Return what identifies the random numbers of one answer, as four words of 32 bits."""
    return struct.unpack("<4I", hashlib.sha256(f"{seed}\x1f{item_id}\x1f{sample}".encode()).digest()[:16])


def noise_keys(settings: Settings, answers: Sequence[Answer]) -> NDArray[np.int64]:
    """Return the keys of each next token's noise, `noise_key` and position, [answers, 5]; [answers, 0] if greedy."""
    if settings.temperature == 0:
        return np.empty((len(answers), 0), dtype=np.int64)
    rows = [(*noise_key(settings.seed, one.request.item_id, one.request.sample), len(one.ids)) for one in answers]
    return np.array(rows, dtype=np.int64).reshape(-1, 5)


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
    """Return Gumbel noise, float32 [rows, vocabulary], by keys [rows, 5]: rounded, it is the same on all devices."""
    blocks = torch.arange(-(-vocabulary // 4), device=keys.device).expand(len(keys), -1)
    low, high, third, fourth, position = keys[:, :, None].unbind(1)
    wide = [word.expand_as(blocks) for word in (position, third, fourth)]
    words = torch.stack(philox([blocks, *wide], [low, high]), dim=-1).flatten(1)[:, :vocabulary]
    return words.double().add_(0.5).mul_(2.0**-32).log_().neg_().log_().neg_().float()
