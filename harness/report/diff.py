"""Where two answers part: the first character that differs, and a window around it.

Pure functions on texts. A difference is moved back to the start of its user-perceived character, so that no accent,
vowel sign or joined emoji is cut from what it belongs to.
"""

from __future__ import annotations

import unicodedata

from harness.report.sanitize import clip

__all__ = ["around_difference", "first_difference", "split_at_difference"]

_JOINER = "\u200d"


def first_difference(one: str, other: str) -> int | None:
    """Return the index of the first character that differs, None if the texts are equal."""
    if one == other:
        return None
    index = _shared(one, other)
    while index > 0 and (_continues(one, index) or _continues(other, index)):
        index -= 1
    return index


def _shared(one: str, other: str) -> int:
    """Return the length of the longest common beginning, by halving: slices compare at the speed of memory."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def _continues(text: str, index: int) -> bool:
    """Return whether the character at `index` belongs to the one before it."""
    if index >= len(text):
        return False
    char = text[index]
    return unicodedata.category(char) in {"Mn", "Mc", "Me"} or char == _JOINER or text[index - 1] == _JOINER


def around_difference(one: str, other: str, limit: int) -> tuple[str, str]:
    """Cut both texts to the same `limit` characters, their first difference among these, and say what was left out.

    The beginning stays if the difference lies in its first three quarters, or if there is none.
    """
    at = first_difference(one, other)
    if at is None or at <= limit * 3 // 4:
        return clip(one, limit), clip(other, limit)
    start = at - limit // 4
    while start > at - limit // 2 and _continues(one, start):
        start -= 1
    before = f"({start:,} characters before) …"
    return before + clip(one[start:], limit), before + clip(other[start:], limit)


def split_at_difference(one: str, other: str) -> tuple[tuple[str, str, str], tuple[str, str, str]]:
    """Cut both texts into what they share, the first differing word, and the rest; the last two empty if equal."""
    index = first_difference(one, other)
    if index is None:
        return (one, "", ""), (other, "", "")
    return _cut(one, index), _cut(other, index)


def _cut(text: str, index: int) -> tuple[str, str, str]:
    end = index
    while end < len(text) and not text[end].isspace():
        end += 1
    end = max(end, min(index + 1, len(text)))
    return text[:index], text[index:end], text[end:]
