"""Long texts of plain English sentences, made to a length in tokens, with given lines scattered through them.

No download and no digits in the filler, so what is hidden in it occurs once. Lengths are counted with the tokenizer
that the task was given, chat template included, and leave room for the answer.
"""

from __future__ import annotations

import itertools
import math
import re
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

from harness.suite.toolkit.seeded import SeededRandom
from harness.suite.toolkit.strata import cue

ANSWER_ROOM = 32  # tokens kept free for the answer: a level of `context_tokens` holds prompt and answer
_PARAGRAPH = 8  # sentences
_SAMPLE = 16  # sentences that say how long sentences are
_TRIES = 8
_FINE = 10_000
_LINE = 300  # characters: the longest piece of a book that is kept whole
_SENTENCE_END = re.compile("(?<=[.!?\u0964\u3002\uff01\uff1f])\\s*(?=\\s|[\u3000-\u9fff])|\\n\\s*\\n")

_WHEN = (
    "In the early morning", "After the long winter", "On a quiet evening", "Late in the autumn",
    "Before the rain began", "During the harvest", "At the end of the week", "In the middle of the summer",
    "When the bells had stopped", "Not long ago", "Once the market had closed", "Towards nightfall",
)  # fmt: skip
_WHO = (
    "the old baker", "a young teacher", "the ferry captain", "her patient neighbour", "the village doctor",
    "a travelling musician", "the quiet librarian", "his older cousin", "the carpenter's daughter", "a retired sailor",
    "the station master", "an honest farmer", "the watchmaker", "a curious student", "the night porter", "the gardener",
)  # fmt: skip
_DID = (
    "carried", "repaired", "painted", "borrowed", "measured", "polished", "described", "found", "sold", "remembered",
    "wrapped", "admired", "returned", "counted out", "put away", "asked about",
)  # fmt: skip
_WHAT = (
    "a wooden box", "the heavy ladder", "two woollen coats", "a map of the coast", "the broken clock",
    "a basket of apples", "the blue lantern", "an empty suitcase", "a pair of boots", "the brass kettle",
    "a folded letter", "the garden chairs", "a jar of honey", "the narrow boat", "several old books",
    "a roll of cloth",
)  # fmt: skip
_WHERE = (
    "near the bridge", "behind the mill", "across the square", "at the edge of the woods", "by the harbour wall",
    "under the chestnut trees", "in the back of the shop", "along the river path", "outside the town hall",
    "beside the stove", "on the road to the hills", "in front of the school",
)  # fmt: skip
_AND = (
    "and nobody said a word about it", "and then went home", "because the weather was fine", "while the others waited",
    "as everyone had expected", "although it was getting late", "and the day passed slowly",
    "to the surprise of no one", "just as they had agreed", "and a dog barked in the distance",
)  # fmt: skip


def _sentences(draw: SeededRandom) -> Iterator[str]:
    """Make some five million different plain sentences, without end."""
    while True:
        when, who, did, what, where, more = (draw.choice(words) for words in (_WHEN, _WHO, _DID, _WHAT, _WHERE, _AND))
        yield f"{when}, {who} {did} {what} {where}, {more}."


@dataclass(frozen=True)
class TokenCounter:
    """Counts the tokens of a question as the model will read it."""

    whole: Callable[[str], int]  # of a user's message, chat template and system message, or the cue, included
    plain: Callable[[str], int]  # of a piece of text alone


def token_counter(metadata: Mapping[str, Any]) -> TokenCounter:
    """Make a token counter from lm_eval's metadata: ``tokenizer`` (an object or a name) or ``pretrained`` (a name).

    ``chat_template`` (``auto`` unless given) says whether the tokenizer's template is counted in, ``system`` is the
    system message and ``chat`` a function that writes messages (the tokenizer's own unless given). Raises ValueError
    where no tokenizer is named.
    """
    tokenizer = metadata.get("tokenizer") or metadata.get("pretrained")
    if not tokenizer:
        raise ValueError(
            "context_tokens are counted with a tokenizer, and none was given: "
            '--metadata \'{"tokenizer": "<directory or hub id>"}\' names one'
        )
    if isinstance(tokenizer, str):
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(tokenizer)
    asked = metadata.get("chat_template", "auto")
    template = bool(tokenizer.chat_template) if asked == "auto" else bool(asked)
    system, ending = metadata.get("system"), cue(metadata)
    chat = metadata.get("chat") or partial(tokenizer.apply_chat_template, tokenize=False, add_generation_prompt=True)

    def whole(text: str) -> int:
        if not template:
            return len(tokenizer.encode(text + ending, verbose=False))
        messages = [{"role": "system", "content": system}] if system else []
        return len(tokenizer.encode(chat([*messages, {"role": "user", "content": text}]), verbose=False))

    def plain(text: str) -> int:
        return len(tokenizer.encode(text, add_special_tokens=False, verbose=False))

    return TokenCounter(whole, plain)


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
