"""Text to tokens and back, the way lm_eval's `hf` model does it, so that the same items get the same scores.

Knows a tokenizer. Does not know the model, batches or devices.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from harness.errors import ModelError
from harness.stops import cut_at_stops, stop_begins

__all__ = ["StopDetector", "TextCodec"]


class TextCodec:
    """A tokenizer with lm_eval's rules for prompts, pairs of context and continuation, and answers."""

    def __init__(self, tokenizer: Any, extra_end_ids: Sequence[int] = ()) -> None:
        self._tokenizer = tokenizer
        bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
        self._prefix_id: int | None = bos if bos is not None else eos
        self._bos_text: str | None = getattr(tokenizer, "bos_token", None)
        self._prefix_text: str | None = None if self._prefix_id is None else tokenizer.decode(self._prefix_id)
        ends = [*extra_end_ids] if eos is None else [eos, *extra_end_ids]
        self.end_ids: frozenset[int] = frozenset(ends)

    @property
    def pad_id(self) -> int:
        """A token to fill rows with; what it is never shows in an answer."""
        for candidate in (self._tokenizer.pad_token_id, self._prefix_id):
            if candidate is not None:
                return int(candidate)
        return 0

    def _encode(self, text: str, known_start: str | None, *, special: bool | None = None) -> list[int]:
        """Encode one text, without special tokens if it starts with the start token's text already."""
        starts = bool(known_start) and text.startswith(str(known_start))
        if special is None and not starts:
            return list(self._tokenizer.encode(text, verbose=False))
        return list(self._tokenizer.encode(text, add_special_tokens=bool(special), verbose=False))

    def prompt(self, text: str) -> list[int]:
        """Encode a prompt to be answered in free text (`HFLM.tok_batch_encode`, one text at a time).

        An empty prompt becomes the start token, because a model needs something to continue.
        """
        ids = self._encode(text, self._bos_text)
        if not ids and self._prefix_id is not None:
            return [self._prefix_id]
        return ids

    def _plain(self, text: str, *, special: bool | None = None) -> list[int]:
        return self._encode(text, self._prefix_text, special=special)

    def pairs(self, context: str, choices: Sequence[str], item_id: str) -> list[tuple[list[int], list[int]]]:
        """Encode a context with each of its continuations, as `TemplateLM.loglikelihood` and `_encode_pair`.

        Spaces that end the context move to the continuation; the continuation's tokens are those of the whole
        text beyond the number of tokens of the context alone. Raises ModelError if a choice has no token
        of its own.
        """
        if not context:
            pairs = [self._without_context(choice) for choice in choices]
        else:
            spaces = len(context) - len(context.rstrip())
            moved = context[len(context) - spaces :]
            context = context[: len(context) - spaces]
            begin = self._plain(context)
            pairs = [(begin, self._plain(context + moved + choice)[len(begin) :]) for choice in choices]
        for choice, (begin, rest) in zip(choices, pairs, strict=True):
            if not begin or not rest:
                raise ModelError(
                    f"{item_id}: the choice {choice!r} adds no token to its prompt: it has no probability; "
                    "give each choice its own text"
                )
        return pairs

    def _without_context(self, choice: str) -> tuple[list[int], list[int]]:
        ids = self._plain(choice, special=False)
        if self._prefix_id is None:
            return [], ids
        return (ids[:1], ids[1:]) if ids[:1] == [self._prefix_id] else ([self._prefix_id], ids)

    def decode(self, ids: Sequence[int], *, special: bool = False) -> str:
        """Return the text of tokens, special tokens left out unless asked for."""
        text: str = self._tokenizer.decode(list(ids), skip_special_tokens=not special)
        return text

    def answer(self, ids: Sequence[int], stops: Sequence[str]) -> str:
        """Return an answer's text, cut before the first stop text."""
        return cut_at_stops(self.decode(ids), stops)


class StopDetector:
    """Says when an answer that grows token by token contains one of its stop texts."""

    def __init__(self, texts: TextCodec, stops: Sequence[str]) -> None:
        self._texts = texts
        self._stops = tuple(stop for stop in stops if stop)
        # A token is at least one byte long, so this many tokens cover the longest stop text, and some to
        # spare.
        self._window = max((len(stop.encode()) for stop in self._stops), default=0) + 4

    def stopped(self, ids: Sequence[int]) -> bool:
        """Return whether the answer contains a stop text, special tokens spelled out, as in lm_eval."""
        if not self._stops:
            return False
        tail = self._texts.decode(ids[-self._window :], special=True)
        if not any(stop in tail for stop in self._stops):
            return False
        spelled, plain = (self._texts.decode(ids, special=special) for special in (True, False))
        return any(stop_begins(spelled if stop.strip() else plain, stop) >= 0 for stop in self._stops)
