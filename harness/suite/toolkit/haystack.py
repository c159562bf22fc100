"""Long texts of plain English sentences, made to a length in tokens, with given lines scattered through them.

No digits in the filler, so what is hidden in it occurs once. Lengths are counted with the task's tokenizer, chat
template included, and leave room for the answer.
"""

import itertools
import math
import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from harness.suite.toolkit.datafiles import read_text
from harness.suite.toolkit.seeded import SeededRandom
from harness.suite.toolkit.strata import cue

ANSWER_ROOM = 32  # tokens kept free for the answer: a level of `context_tokens` holds prompt and answer
_PARAGRAPH = 8  # sentences
_SAMPLE = 16  # sentences that say how long sentences are
_TRIES = 8
_FINE = 10_000
_LINE = 300  # characters: the longest piece of a book that is kept whole
_SENTENCE_END = re.compile("(?<=[.!?\u0964\u3002\uff01\uff1f])\\s*(?=\\s|[\u3000-\u9fff])|\\n\\s*\\n")

_PARTS = [part.split("\n") for part in read_text(Path(__file__).with_name("sentences.txt")).strip().split("\n\n")]


def _sentences(draw: SeededRandom) -> Iterator[str]:
    """Make some five million different plain sentences, without end."""
    while True:
        when, who, did, what, where, more = map(draw.choice, _PARTS)
        yield f"{when}, {who} {did} {what} {where}, {more}."


class TokenCounter:
    """Counts the tokens of a question as the model will read it, by lm_eval's metadata.

    metadata: ``tokenizer`` (an object or a name) or ``pretrained`` (a name), ``chat_template`` (whether the template is
    counted in, ``auto`` unless given), ``system`` (the system message) and ``chat`` (what writes messages in place of
    the tokenizer). Raises ValueError where no tokenizer is named.
    """

    def __init__(self, metadata: Mapping[str, Any]) -> None:
        tokenizer = metadata.get("tokenizer") or metadata.get("pretrained")
        if not tokenizer:
            raise ValueError(
                "context_tokens are counted with a tokenizer, and none was given: "
                '--metadata \'{"tokenizer": "<directory or hub id>"}\' names one'
            )
        if isinstance(tokenizer, str):
            from transformers import AutoTokenizer

            tokenizer = AutoTokenizer.from_pretrained(tokenizer)
        asked, system = metadata.get("chat_template", "auto"), metadata.get("system")
        write = partial(tokenizer.apply_chat_template, tokenize=False, add_generation_prompt=True)
        self._tokenizer, self._cue, self._write = tokenizer, cue(metadata), metadata.get("chat") or write
        self._template = bool(tokenizer.chat_template) if asked == "auto" else bool(asked)
        self._system = [{"role": "system", "content": system}] if system else []

    def whole(self, text: str) -> int:
        """Count a user's message, chat template and system message, or the cue, included."""
        turns = [*self._system, {"role": "user", "content": text}]
        return len(self._tokenizer.encode(self._write(turns) if self._template else text + self._cue, verbose=False))

    def plain(self, text: str) -> int:
        """Count a piece of text alone."""
        return len(self._tokenizer.encode(text, add_special_tokens=False, verbose=False))


def build_haystack(
    lines: Sequence[str],
    tokens: int,
    measure: TokenCounter,
    draw: SeededRandom,
    *,
    frame: str,
    clear: bool = False,
    source: Iterator[str] | None = None,
) -> str:
    """Scatter `lines`, in their order, through a text that fills `tokens` with `frame` and the answer's room.

    The text's sentences come from `source`, or are made here. The lines come at even distances, each moved a little at
    random; `clear` keeps each well inside its own part of the text. The whole is at most `tokens` long, and short of it
    by less than a sentence or two. Raises ValueError where the lines alone are longer.
    """
    goal = tokens - ANSWER_ROOM
    if measure.whole("\n".join([frame, *lines])) > goal:
        raise ValueError(f"context_tokens={tokens} is too short for its {len(lines)} lines; take more tokens or fewer")
    stream = _sentences(draw) if source is None else source
    low, width = (0.1, 0.8) if clear else (0.0, 1.0)  # of its part of the text
    places = [(line + low + width * draw.below(_FINE) / _FINE) / len(lines) for line in range(len(lines))]
    sentences = [next(stream) for _ in range(_SAMPLE)]
    rate = measure.plain(" ".join(sentences)) / _SAMPLE
    count = int(goal / rate)
    for _ in range(_TRIES):
        sentences += [next(stream) for _ in range(count - len(sentences))]
        del sentences[max(0, count) :]
        text = _woven(lines, places, sentences)
        left = goal - measure.whole(frame + text)
        if 0 <= left < 2 * rate or (left >= 0 and not count):
            return text
        count = max(0, len(sentences) + math.floor(left / rate))
    while left < 0 and sentences:
        sentences.pop()
        text = _woven(lines, places, sentences)
        left = goal - measure.whole(frame + text)
    return text


@lru_cache(maxsize=4)
def _divided(text: str) -> list[str]:
    """The sentences of a book, divided once for all the items that are made of it."""
    parts = [" ".join(part.split()) for part in _SENTENCE_END.split(text)]
    sentences = [piece for part in parts if part for piece in textwrap.wrap(part, _LINE, break_long_words=True)]
    if not sentences:
        raise ValueError("the book is empty")
    return sentences


def book(text: str, draw: SeededRandom) -> Iterator[str]:
    """Give a book's sentences, from a random one on and round again without end. Raises ValueError on an empty book."""
    sentences = _divided(text)
    return itertools.islice(itertools.cycle(sentences), draw.below(len(sentences)), None)


def _woven(lines: Sequence[str], places: Sequence[float], sentences: Sequence[str]) -> str:
    """Put the lines at their places and break the text into paragraphs."""
    flow: list[str] = []
    done = 0
    for place, line in zip(places, lines, strict=True):
        upto = int(place * len(sentences))
        flow += [*sentences[done:upto], line]
        done = upto
    flow += sentences[done:]
    return "\n".join(" ".join(flow[start : start + _PARAGRAPH]) for start in range(0, len(flow), _PARAGRAPH))
