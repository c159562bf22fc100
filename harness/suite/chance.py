"""What guessing scores, by the targets and choices of items."""

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

_POSITIONS = {"gold", "golds", "gold_index", "gold_indices", "target", "targets", "answer", "answers", "correct"}
_MARKS = _POSITIONS | {"label", "labels", "is_correct"}  # of lists of right positions, and of a 1 or 0 per choice
_LETTER = re.compile(r"[\[(\"']*([A-Z])(?:[\])\"'.:]+(?:\s.*)?)?", re.DOTALL)  # A, (A), A. and the text, ['A']


def guessing(targets: Sequence[str]) -> float:
    """Return what always giving one answer scores at best: the share of the commonest target, or of one letter.

    Of targets only if there are few, a tenth of the items at most, or a tenth (ten or more) have the commonest; but not
    one alone, which some tasks put there as a placeholder. Of letters if all are, from A to the last that occurs.
    """
    counts = Counter(one.strip() for one in targets)
    most, tenth = max(counts.values(), default=0), len(targets) / 10
    told = len(counts) > 1 and not counts.keys() & {"", "None"} and (len(counts) <= tenth or most >= max(10, tenth))
    guess = most / len(targets) if told else 0.0
    letters = [found[1] for one in counts if (found := _LETTER.fullmatch(one))]
    if letters and len(letters) == len(counts):
        guess = max(guess, 1.0 / max(ord(max(letters)) - ord("A") + 1, 2))
    return guess


def right_share(document: Mapping[str, Any], choices: int) -> float:
    """Return the share of an item's choices that are right: one, unless it lists more by 0/1 marks or positions."""
    most = 1
    for key, value in document.items() if choices > 1 else ():
        listed = value
        if isinstance(value, str) and re.fullmatch(r"\[[\d, ]+\]", value, re.ASCII):
            with suppress(ValueError):  # lm_eval wrote lists of numbers as text, too
                listed = json.loads(value)
        if isinstance(value, Mapping):
            most = max(most, round(right_share(value, choices) * choices))
        elif isinstance(listed, list) and all(isinstance(one, (int, float)) for one in listed):
            marks = key in _MARKS and len(listed) == choices and set(listed) <= {0, 1}
            positions = set(listed) & set(range(choices)) if key in _POSITIONS else ()
            most = max(most, int(sum(listed)) if marks else len(positions))
    return most / choices if choices > 1 else 0.0
