"""Signs that the text of an answer, or of the thought before it, shows by itself: nothing said, a loop, a lost result.

`harness.suite.toolkit.thinking.split` tells the thought from the answer; its length is a quantity, not a sign.
"""

from __future__ import annotations

import re
import zlib
from collections import Counter
from decimal import Decimal

from harness.suite.toolkit.numerals import numbers
from harness.suite.toolkit.scoring import mentions

LEAST_REPEATS = 5  # so often a unit must stand in a row, or a step of a thought must come
LEAST_LOOP = 30  # characters that a loop must have at least
LONGEST_UNIT = 300  # characters of the longest unit that is looked for
LEAST_STEP = 20  # characters of a step of a thought that is looked at
_END = (LEAST_REPEATS + 1) * LONGEST_UNIT  # characters at the end of an answer that are looked at
_COMPRESSED = 0.6  # a text that does not compress to this share holds no loop of the whole of it; saves looking

THOUGHTS = ("thought_left", "thought_loop", "thought_cut", "thought_only")
"""Every kind of sign that a thought can show."""

_RESULT = re.compile(r"(?:=|\bis\b|\bare\b|\banswer\b:?|\bget\b)[ \t]*([^\n=]{1,40})", re.IGNORECASE)


def empty(text: str) -> bool:
    """Say whether an answer has no content.

    Definition: no letter and no digit of any script. Source: own. Limits: an answer of punctuation alone is empty, also
    where punctuation was asked for; an answer cut at its first token by a stop text is empty too, and rightly so.
    """
    return not any(sign.isalnum() for sign in text)


def repetition(text: str) -> bool:
    """Say whether an answer ends in a loop.

    Definition: the end of the text, white space aside, is a unit of at most 300 characters with a letter or digit in
    it, at least five times in a row and at least 30 characters in all (a last, unfinished round may follow). Source:
    the degeneration that Holtzman et al. 2020 ("The Curious Case of Neural Text Degeneration", ICLR) describe, as the
    period of a string (Knuth, Morris and Pratt 1977, SIAM Journal on Computing 6:323-350).

    Limits: a loop that counts on ("step 1, step 2") or that ended before the answer does is not seen; a list that was
    asked for and holds the same entry five times ("0, 0, 0, 0, 0 ...") is taken for one.
    """
    end = text.rstrip()[-_END:]
    raw = end.encode("utf-8", "surrogatepass")
    short = len(raw) <= 400  # noqa: PLR2004 - zlib's header weighs too much there
    if not short and len(zlib.compress(raw[-1200:], 1)) > _COMPRESSED * len(raw[-1200:]):
        return False
    # The prefix function of the text backwards: border[i] is the longest proper border of backwards[: i + 1].
    backwards, border, at = end[::-1], [0] * len(end), 0
    for index in range(1, len(backwards)):
        while at and backwards[index] != backwards[at]:
            at = border[at - 1]
        at += backwards[index] == backwards[at]
        border[index] = at
        size, period = index + 1, index + 1 - at
        if size >= LEAST_LOOP and size >= LEAST_REPEATS * period and not empty(backwards[:period]):
            return True
    return False


def thought_signs(
    thought: str, answer: str, *, cut: bool, wrong: bool, target: str, number: Decimal | None
) -> dict[str, bool]:
    """Look at a thought and what came after it.

    cut: whether the text ended at the token limit. wrong: whether the answer scored below 1. number: the target's, if
    it is one. Definitions: ``thought_left``: an answer was given and is wrong, and the thought had stated the right
    one: a number after "=", "is", "are", "get" or "answer", any other target anywhere in it as whole words.
    ``thought_loop``: it ends in a loop (`repetition`), or has one sentence or line of at least 20 characters five
    times. ``thought_cut``: the limit came before an answer. ``thought_only``: it ended by itself and no answer
    followed. Source: own. Limits: a step's result that happens to be the target counts as reached; a thought that goes
    round in other words each time is no loop.
    """
    nothing = empty(answer)
    left = wrong and not nothing
    if left and number is None:
        left = bool(mentions(thought, target))
    elif left:
        left = any(number in numbers(part)[:1] for part in _RESULT.findall(thought))
    steps = Counter(" ".join(step.split()) for step in re.split(r"[\n.!?]+", thought))
    again = any(count >= LEAST_REPEATS and len(step) >= LEAST_STEP for step, count in steps.items())
    return {
        "thought_left": left,
        "thought_loop": again or repetition(thought),
        "thought_cut": cut and nothing,
        "thought_only": not cut and nothing,
    }
