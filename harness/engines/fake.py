"""An engine without a model: right as often as it is told, for tests, for docs and for trying a config out.

Deterministic: whether it answers an item right is a function of the seed, the item's id and the sample, so a
baseline and a candidate made with the same seed are right on the same items, except for the damage that the
candidate was given. Needs no torch and knows no tokenizer: tokens are words.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from harness.engines.protocol import Usage
from harness.errors import NonFinite, UsageError
from harness.records import ChoiceLogprobs, Generation, Item, Proof, Response, Settings, Unanswered, digest

__all__ = ["Damage", "FakeEngine", "fake_proof"]

WRONG = "I do not know."


@dataclass(frozen=True, slots=True)
class Damage:
    """What a fake candidate loses and gains against a fake baseline with the same seed."""

    lost: float = 0.0
    """Share of the items that the baseline gets right and this engine wrong, of all items, in [0, 1]."""
    gained: float = 0.0
    """Share of the items that the baseline gets wrong and this engine right, of all items, in [0, 1]."""


def fake_proof(method: str = "none", bits: float = 16.0) -> Proof:
    """Give the proof of 1,000 weights in 10 linear layers, all quantized unless the method is ``none``."""
    return Proof(
        method=method,
        kernel="FakeLinear",
        quantized_modules=0 if method == "none" else 10,
        linear_modules=10,
        bits_per_weight=bits,
        weight_bytes=round(1000 * bits / 8),
        disk_bytes=0,
        compute_dtype="bfloat16",
        vocabulary=512,
        tokenizer_digest="fake",
    )


class FakeEngine:
    """Answers each item right with a known probability, and with known damage by slice or stratum.

    accuracy: one probability for all items, or by item id (a missing id is an error), or a function of the
    item. damage: by ``slice/stratum``, by slice, or ``*`` for all; the first that fits counts. broken: ids of
    items whose logits are to be NaN. seconds: time that an item takes. wrong: the text of a wrong free-text
    answer, one for all or a function of the item.
    """

    def __init__(
        self,
        accuracy: float | Mapping[str, float] | Callable[[Item], float] = 0.75,
        *,
        damage: Mapping[str, Damage] | None = None,
        seed: int = 0,
        proof: Proof | None = None,
        context_limit: int = 131072,
        broken: Sequence[str] = (),
        seconds: float = 0.0,
        wrong: str | Callable[[Item], str] = WRONG,
    ) -> None:
        self._accuracy = accuracy
        self._damage = dict(damage or {})
        self._seed = seed
        self._proof = proof or fake_proof("fake" if self._damage else "none")
        self._limit = context_limit
        self._broken = frozenset(broken)
        self._seconds = seconds
        self._wrong = wrong
        self._prompt_tokens = 0
        self._output_tokens = 0

    @property
    def version(self) -> str:
        """Part of every cache key: all that decides an answer, as far as it is data."""
        named = self._accuracy if isinstance(self._accuracy, float | int) else "given"
        damage = {key: [value.lost, value.gained] for key, value in self._damage.items()}
        return f"fake/1-{digest([named, damage, self._seed])}"

    @property
    def context_limit(self) -> int:
        """Longest prompt plus answer, in words."""
        return self._limit

    def proof(self) -> Proof:
        """Say what is pretended to be loaded."""
        return self._proof

    def usage(self) -> Usage:
        """Say how many words went in and out."""
        return Usage(self._prompt_tokens, self._output_tokens, peak_bytes=0)

    def answer(self, items: Sequence[Item], settings: Settings) -> Iterator[Response]:
        """Yield the responses in the order of the items. Raises NonFinite for a broken item."""
        for item in items:
            if self._seconds:
                time.sleep(self._seconds)
            if item.id in self._broken:
                raise NonFinite(f"{item.id}: the model's logits are NaN or infinite", item.id)
            samples = settings.samples if item.kind == "generate" else 1
            for sample in range(samples):
                yield self._respond(item, sample)

    def right(self, item: Item, sample: int = 0) -> bool:
        """Say whether an item is answered right: the known truth that a test compares with."""
        probability, damage = self._probability(item), self._damage_of(item)
        was_right = self._uniform(item, sample, "accuracy") < probability
        # A share of all items, drawn among the items that can still be lost (or gained).
        share, among = (damage.lost, probability) if was_right else (damage.gained, 1 - probability)
        flips = share > 0 and self._uniform(item, sample, "damage") * among < share
        return was_right != flips

    def _respond(self, item: Item, sample: int) -> Response:
        words = item.prompt_tokens or len(item.prompt.split())
        if words + item.max_tokens > self._limit:
            return Unanswered(item.id, "over_context", words, sample)
        self._prompt_tokens += words
        right = self.right(item, sample)
        if item.kind == "choice":
            return _choices(item, right=right, words=words)
        text = item.target if right else self._wrong_text(item)
        ids = tuple(_word_id(word) for word in text.split())
        self._output_tokens += len(ids)
        return Generation(item.id, text, ids, "eos", words, sample)

    def _wrong_text(self, item: Item) -> str:
        return self._wrong if isinstance(self._wrong, str) else self._wrong(item)

    def _probability(self, item: Item) -> float:
        if isinstance(self._accuracy, Mapping):
            if item.id not in self._accuracy:
                raise UsageError(f"{item.id}: the fake engine was given no accuracy for this item")
            return float(self._accuracy[item.id])
        return float(self._accuracy(item)) if callable(self._accuracy) else float(self._accuracy)

    def _damage_of(self, item: Item) -> Damage:
        named = self._damage.get(f"{item.slice}/{item.stratum}")
        return named or self._damage.get(item.slice) or self._damage.get("*") or Damage()

    def _uniform(self, item: Item, sample: int, purpose: str) -> float:
        """Give a number in [0, 1) that belongs to (seed, item, sample, purpose) alone."""
        name = f"{self._seed}\x1f{item.id}\x1f{sample}\x1f{purpose}".encode()
        return int.from_bytes(hashlib.sha256(name).digest()[:8], "big") / 2**64


def _word_id(word: str) -> int:
    return int.from_bytes(hashlib.sha256(word.encode()).digest()[:2], "big")


def _choices(item: Item, *, right: bool, words: int) -> ChoiceLogprobs:
    """Return log-probabilities that favour the right choice, or the one after it."""
    if item.gold is None:
        raise UsageError(f"{item.id}: none of its choices is the right one, so it cannot be rehearsed")
    best = item.gold if right else (item.gold + 1) % len(item.choices)
    return ChoiceLogprobs(
        item_id=item.id,
        logprobs=tuple(-1.0 if index == best else -2.0 - index / 8 for index in range(len(item.choices))),
        token_counts=tuple(max(1, len(choice.split())) for choice in item.choices),
        greedy=tuple(index == best for index in range(len(item.choices))),
        prompt_tokens=words,
    )
