"""An engine without a model or torch, for rehearsals: variants are right on the same items, but for the damage."""

import hashlib
import time
from collections.abc import Iterator, Mapping, Sequence

from harness.engines.protocol import EngineBase
from harness.errors import UsageError
from harness.records import ChoiceLogprobs, Generation, Item, Proof, Response, Settings, Unanswered, digest

PROOF = Proof("none", "FakeLinear", 0, 10, 16.0, 2000, 0, "bfloat16", 512, "fake")  # 1,000 weights in 10 linear layers


class FakeEngine(EngineBase):
    """Answers items right with a probability (accuracy), and wrong answers with a text (wrong) after some seconds.

    lost: the share of all items that are right without damage and wrong with it, by ``slice/stratum``, by slice, or
    ``*`` for all; the first that fits counts.
    """

    context_limit = 131072

    def __init__(
        self, accuracy: float, *, lost: Mapping[str, float] | None = None, seconds: float = 0.0, wrong: str = "No."
    ) -> None:
        super().__init__(PROOF)
        self._accuracy, self._lost, self._seconds, self._wrong = accuracy, dict(lost or {}), seconds, wrong
        # All that decides an answer.
        self.version = f"fake/1-{digest([accuracy, {key: [share, 0.0] for key, share in self._lost.items()}, 0])}"

    def answer(self, items: Sequence[Item], settings: Settings) -> Iterator[Response]:
        """Yield the responses in the order of the items."""
        for item in items:
            if self._seconds:
                time.sleep(self._seconds)
            words = item.prompt_tokens or len(item.prompt.split())
            for sample in range(settings.samples if item.kind == "generate" else 1):
                if words + item.max_tokens > self.context_limit:
                    yield Unanswered(item.id, "over_context", words, sample)
                    continue
                self._spent.prompt_tokens += words
                right = self.right(item, sample)
                if item.kind == "choice":
                    yield _choices(item, right=right, words=words)
                    continue
                text = item.target if right else self._wrong
                ids = tuple(int.from_bytes(hashlib.sha256(word.encode()).digest()[:2], "big") for word in text.split())
                self._spent.output_tokens += len(ids)
                yield Generation(item.id, text, ids, "eos", words, sample)

    def right(self, item: Item, sample: int = 0) -> bool:
        """Return whether an item is answered right: the known truth that a test compares with."""
        places = (f"{item.slice}/{item.stratum}", item.slice, "*")
        lost = next((self._lost[place] for place in places if place in self._lost), 0.0)
        # A share of all items, drawn among the items that can still be lost.
        kept = lost <= 0 or _uniform(item, sample, "damage") * self._accuracy >= lost
        return kept and _uniform(item, sample, "accuracy") < self._accuracy


def _uniform(item: Item, sample: int, purpose: str) -> float:
    """Return a number in [0, 1) that belongs to (item, sample, purpose) alone."""
    name = f"0\x1f{item.id}\x1f{sample}\x1f{purpose}".encode()
    return int.from_bytes(hashlib.sha256(name).digest()[:8], "big") / 2**64


def _choices(item: Item, *, right: bool, words: int) -> ChoiceLogprobs:
    """Return log-probabilities that favour the right choice, or the one after it."""
    if item.gold is None:
        raise UsageError(f"{item.id}: none of its choices is the right one, so it cannot be rehearsed")
    best = item.gold if right else (item.gold + 1) % len(item.choices)
    logprobs = tuple(-1.0 if index == best else -2.0 - index / 8 for index in range(len(item.choices)))
    counts = tuple(max(1, len(choice.split())) for choice in item.choices)
    return ChoiceLogprobs(item.id, logprobs, counts, tuple(one == -1.0 for one in logprobs), words)
