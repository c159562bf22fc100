"""Signs of the thought before an answer: `harness.suite.toolkit.thinking.split` told the two apart.

Pure functions on text. Its length is a quantity, not a sign: see `harness.judge.tolerances`.
"""

from __future__ import annotations

import re
from collections import Counter
from decimal import Decimal

from harness.suite.tail.text import empty, repetition
from harness.suite.toolkit.numerals import numbers
from harness.suite.toolkit.scoring import mentions

__all__ = ["THOUGHTS", "thought_signs"]

THOUGHTS = ("thought_left", "thought_loop", "thought_cut", "thought_only")
"""Every kind of sign that a thought can show."""

_RESULT = re.compile(r"(?:=|\bis\b|\bare\b|\banswer\b:?|\bget\b)[ \t]*([^\n=]{1,40})", re.IGNORECASE)
_STEPS = re.compile(r"[\n.!?]+")
LEAST_REPEATS = 5
"""So often a step must come."""
LEAST_STEP = 20
"""Characters of a step that is looked at."""


def thought_signs(
    thought: str, answer: str, *, cut: bool, wrong: bool, target: str, number: Decimal | None
) -> dict[str, bool]:
    """Look at a thought and what came after it.

    cut: whether the text ended at the token limit. wrong: whether the answer scored below 1. number: the target's, if
    it is one. Definitions: ``thought_left``: an answer was given and is wrong, and the thought had stated the right
    one: a number after "=", "is", "are", "get" or "answer", any other target anywhere in it as whole words.
    ``thought_loop``: it ends in a loop (`harness.suite.tail.text.repetition`), or has one sentence or line of at least
    20 characters five times. ``thought_cut``: the limit came before an answer. ``thought_only``: it ended by itself
    and no answer followed. Source: own. Limits: a step's result that happens to be the target counts as reached; a
    thought that goes round in other words each time is no loop.
    """
    nothing = empty(answer)
    return {
        "thought_left": wrong and not nothing and _reached(thought, target, number),
        "thought_loop": repetition(thought) or _again_and_again(thought),
        "thought_cut": cut and nothing,
        "thought_only": not cut and nothing,
    }


def _reached(thought: str, target: str, number: Decimal | None) -> bool:
    if number is None:
        return bool(mentions(thought, target))
    return any(number in numbers(part)[:1] for part in _RESULT.findall(thought))


def _again_and_again(thought: str) -> bool:
    steps = Counter(" ".join(step.split()) for step in _STEPS.split(thought))
    return any(count >= LEAST_REPEATS and len(step) >= LEAST_STEP for step, count in steps.items())
