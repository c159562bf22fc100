"""Signs that an answer's text shows by itself: nothing said, or a loop.

Pure functions on text. They know no item, no model and no other answer.
"""

from __future__ import annotations

import zlib

__all__ = ["empty", "repetition"]

LEAST_REPEATS = 5
"""So often a unit must stand in a row."""
LEAST_LOOP = 30
"""Characters that the loop must have at least."""
LONGEST_UNIT = 300
"""Characters of the longest unit that is looked for."""
_END = (LEAST_REPEATS + 1) * LONGEST_UNIT
"""Characters at the end of an answer that are looked at."""
_COMPRESSED = 0.6
"""A text that does not compress to this share holds no loop of the whole of it; saves looking."""


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
    if len(end) < LEAST_LOOP:
        return False
    raw = end.encode("utf-8", "surrogatepass")
    short = len(raw) <= 400  # noqa: PLR2004 - zlib's header weighs too much there
    if not short and len(zlib.compress(raw[-1200:], 1)) > _COMPRESSED * len(raw[-1200:]):
        return False
    return _looped(end[::-1])


def _looped(backwards: str) -> bool:
    """Whether a beginning of the text has a period that fits into it `LEAST_REPEATS` times."""
    # The prefix function: border[i] is the length of the longest proper border of backwards[: i + 1].
    border = [0] * len(backwards)
    at = 0
    for index in range(1, len(backwards)):
        while at and backwards[index] != backwards[at]:
            at = border[at - 1]
        at += backwards[index] == backwards[at]
        border[index] = at
        size, period = index + 1, index + 1 - at
        if size >= LEAST_LOOP and size >= LEAST_REPEATS * period and not empty(backwards[:period]):
            return True
    return False
