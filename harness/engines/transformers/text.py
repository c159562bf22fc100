"""Text to tokens and back, the way lm_eval's `hf` model does it, so that the same items get the same scores."""

from collections.abc import Sequence
from typing import Any

from harness.errors import ModelError
from harness.stops import stop_begins


class TextCodec:
    """A tokenizer with lm_eval's rules. `end_ids` end an answer; `pad_id` fills rows and never shows in an answer."""

    def __init__(self, tokenizer: Any, extra_end_ids: Sequence[int] = ()) -> None:
        self._tokenizer, bos, eos = tokenizer, tokenizer.bos_token_id, tokenizer.eos_token_id
        self._prefix_id: int | None = bos if bos is not None else eos
        self._bos_text: str | None = getattr(tokenizer, "bos_token", None)
        self._prefix_text: str | None = None if self._prefix_id is None else tokenizer.decode(self._prefix_id)
        self.end_ids = frozenset(int(one) for one in (eos, *extra_end_ids) if one is not None)
        self.pad_id = int(next((one for one in (tokenizer.pad_token_id, self._prefix_id) if one is not None), 0))

    def _encode(self, text: str, start: str | None) -> list[int]:
        """Encode one text, without special tokens if it starts with the start token's text already."""
        begun = {"add_special_tokens": False} if start and text.startswith(start) else {}
        return list(self._tokenizer.encode(text, verbose=False, **begun))

    def encode(self, text: str) -> list[int]:
        """Encode a text without special tokens around it."""
        return list(self._tokenizer.encode(text, add_special_tokens=False, verbose=False))

    def prompt(self, text: str) -> list[int]:
        """Encode a prompt for free text as `HFLM.tok_batch_encode` does; an empty one becomes the start token."""
        ids = self._encode(text, self._bos_text)
        return [self._prefix_id] if not ids and self._prefix_id is not None else ids

    def pairs(self, context: str, choices: Sequence[str], item_id: str) -> list[tuple[list[int], list[int]]]:
        """Encode a context with each of its continuations, as `TemplateLM.loglikelihood` and `_encode_pair`.

        Spaces that end the context move to the continuation, whose tokens are those of the whole text beyond the number
        of tokens of the context alone. Raises ModelError if a choice has no token of its own.
        """
        begin = self._encode(context.rstrip(), self._prefix_text) if context else []
        if not context and self._prefix_id is not None:
            begin = [self._prefix_id]
        pairs = []
        for choice in choices:
            if context:
                rest = self._encode(context + choice, self._prefix_text)[len(begin) :]
            else:
                ids = self.encode(choice)
                rest = ids[1:] if ids[:1] == begin else ids
            pairs.append((begin, rest))
            if not begin or not rest:
                said = f"{item_id}: the choice {choice!r} adds no token to its prompt: it has no probability"
                raise ModelError(f"{said}; give each choice its own text")
        return pairs

    def decode(self, ids: Sequence[int], *, special: bool = False) -> str:
        """Return the text of tokens, special tokens left out unless asked for."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=not special))


class StopDetector:
    """Says when an answer that grows token by token contains one of its stop texts."""

    def __init__(self, texts: TextCodec, stops: Sequence[str]) -> None:
        self._texts, self._stops = texts, tuple(stop for stop in stops if stop)
        # A token is at least one byte long, so this many tokens cover the longest stop text, and some to spare.
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
