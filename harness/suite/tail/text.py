"""Signs that the text of an answer, or of the thought before it, shows by itself: nothing said, a loop, a refusal."""

import re
import zlib
from collections import Counter
from decimal import Decimal
from pathlib import Path

from harness.suite.toolkit.datafiles import read_tsv
from harness.suite.toolkit.numerals import numbers
from harness.suite.toolkit.scoring import named

LEAST_REPEATS = 5  # so often a unit must stand in a row, or a step of a thought must come
LEAST_LOOP = 30  # characters that a loop must have at least
LONGEST_UNIT = 300  # characters of the longest unit that is looked for
REFUSED_WITHIN = 300  # characters at the beginning of an answer in which a refusal is looked for
LEAST_STEP = 20  # characters of a step of a thought that is looked at
_END = (LEAST_REPEATS + 1) * LONGEST_UNIT  # characters at the end of an answer that are looked at
_COMPRESSED = 0.6  # a text that does not compress to this share holds no loop of the whole of it; saves looking
THOUGHTS = ("thought_left", "thought_loop", "thought_cut", "thought_only")  # every kind of sign of a thought
_RESULT = re.compile(r"(?:=|\bis\b|\bare\b|\banswer\b:?|\bget\b)[ \t]*([^\n=]{1,40})", re.IGNORECASE)

# Language to an expression for one of its usual sentences of refusal, a line each.
_REFUSALS = read_tsv(Path(__file__).with_name("refusals.tsv"), ["language", "expression"])
LANGUAGES = tuple(dict.fromkeys(row["language"] for row in _REFUSALS))
_REFUSAL = re.compile("|".join(row["expression"] for row in _REFUSALS), re.IGNORECASE)


def empty(text: str) -> bool:
    """Say whether an answer has no content: no letter and no digit of any script."""
    return not any(sign.isalnum() for sign in text)


def repetition(text: str) -> bool:
    """Say whether an answer ends in a loop.

    Definition: the end of the text, white space aside, is a unit of at most 300 characters, not only of signs that
    lines are drawn with, five times in a row and at least 30 characters in all (a part may follow). Source:
    the degeneration that Holtzman et al. 2020 ("The Curious Case of Neural Text Degeneration", ICLR) describe, as the
    period of a string (Knuth, Morris and Pratt 1977, SIAM Journal on Computing 6:323-350).
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
        if size >= max(LEAST_LOOP, LEAST_REPEATS * period) and backwards[:period].strip(" \n-=_*.|+~#:\u2014\u2550"):
            return True
    return False


def refusal(text: str) -> bool:
    """Say whether an answer declines to do what was asked.

    Definition: one of the usual sentences of refusal (refusals.tsv) within the first 300 characters. Source: the
    prefixes that Zou et al. 2023 (arXiv:2307.15043) and Röttger et al. 2024 ("XSTest", NAACL) look for, reworded and
    narrowed to refusals to help, so that "I cannot find it in the text", an answer, is none.
    """
    return _REFUSAL.search(text[:REFUSED_WITHIN].replace("\u2019", "'")) is not None


def thought_signs(
    thought: str, answer: str, *, cut: bool, wrong: bool, target: str, number: Decimal | None
) -> dict[str, bool]:
    """Look at a thought and what came after it, for the signs that docs/axes.md defines. Source: own.

    cut: whether the text ended at the token limit. wrong: whether the answer scored below 1. number: the target's, if
    it is one; it counts as stated after "=", "is", "are", "get" or "answer", any other target anywhere as whole words.
    """
    nothing = empty(answer)
    left = wrong and not nothing
    if left and number is None:
        left = bool(named(thought, [target]))
    elif left:
        left = any(number in numbers(part)[:1] for part in _RESULT.findall(thought))
    steps = Counter(" ".join(step.split()) for step in re.split(r"[\n.!?]+", thought))
    again = any(count >= LEAST_REPEATS and len(step) >= LEAST_STEP for step, count in steps.items())
    ended = {"thought_cut": cut and nothing, "thought_only": not cut and nothing}
    return {"thought_left": left, "thought_loop": again or repetition(thought), **ended}
