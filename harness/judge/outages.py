"""Outages: what the baseline's server failed to answer, kept as wrong answers, which would hide a loss."""

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

from harness.records import Generation, Scored
from harness.suite.tail.text import refusal

_LEAST, _IN_TASK, _SHORTEST = 5, 20, 12  # of an error in words: answers that are nothing else, and characters if any
_COSTS, _SHARE, _TIMES = 3.0, 0.125, (0.35, 1.0)  # the least that it costs: items and a share, or times what is right
_GRADE = 0.5  # below which the lowest score of an error may be a judge's lowest grade
_NUMBER = r"(?<!\S)(?=\S*\d)\S+"  # the number or time of a request, or tokens and seconds that it took
_CODE = r"[a-fA-F-]{0,36}\d[0-9a-fA-F-]*"  # the same in a text of one word
ERROR = "which looks like an error of its server: counted as unanswered"
_SPEAKS = re.compile(r"\bI\b(?!/)")  # in English: programs do not speak of themselves
_NOTHING, CERTAIN = (  # words for it, or signs alone; and what no model writes
    re.compile(Path(__file__).with_name(name).read_text("utf-8")) for name in ("nothing.txt", "certain.txt")
)


class Told(NamedTuple):
    """One answer in words."""

    item: str
    text: str
    score: float  # in [0, 1]; of the item, if the source has no other
    alone: bool = True  # whether the score is of this answer, not of several


def outages(sides: Iterable[Iterable[Told]], tasks: Mapping[str, str]) -> dict[str, str]:
    """Give each item that the first side's server answered with an error, as the text of its answer, to that text.

    tasks: item to its task. Definition, own: a whole answer, empty, a word for nothing or words with any numbers, that
    comes `_LEAST` times or more, or `_IN_TASK` in one task, where another side does not give it, clearly more often
    than the other way round, and that costs: that side scores clearly more there. Clearly is by four standard errors.
    What is never right need not cost if it is empty or a word for nothing, and may come on both sides if no model
    writes it.
    """
    found: list[dict[tuple[str, str], list[Told]]] = []
    scores: list[dict[str, list[float]]] = []
    for answers in sides:
        found.append(defaultdict(list))
        scores.append(defaultdict(list))
        for one in answers:
            scores[-1][one.item].append(one.score)
            if (words := _words(one.text)) is not None:
                for task in {"", tasks.get(one.item, "")}:
                    found[-1][task, words].append(one)
    errors = dict[str, str]()
    for (task, text), same in found[0].items():
        texts = {one.text for one in same}
        least, others = _IN_TASK if task else _LEAST, zip(found[1:], scores[1:], strict=True)
        if not refusal(text) and any(_is_outage(same, told.get((task, text), ()), own, least) for told, own in others):
            errors |= dict.fromkeys((one.item for one in same), text if len(texts) > 1 else min(texts))
    return errors


def _words(text: str) -> str | None:
    """Return a text without its numbers if it may be an error, None if it is a label, or the model's own."""
    words = re.sub(_NUMBER if " " in text else _CODE, "...", text)
    nothing = _NOTHING.fullmatch(words if re.search("[a-zA-Z]", words) else text)  # a number is an answer
    spoken = len(words) < _SHORTEST or _SPEAKS.search(text) is not None
    return None if spoken and not nothing and not CERTAIN.match(text) else words


def _is_outage(same: list[Told], theirs: Iterable[Told], scores: Mapping[str, list[float]], least: int) -> bool:
    """Whether a text, `same` on the first side and `theirs` on another, is an error. scores: that side's, by item."""
    own, known, lowest = {one.item for one in same}, {one.item for one in theirs}, min(one.score for one in same)
    alone = [one.score - lowest * (lowest < _GRADE) if one.alone else math.floor(one.score) for one in same]
    right = math.fsum(score for one, score in zip(same, alone, strict=True) if one.item not in known)
    certain, several = CERTAIN.match(same[0].text), not all(one.alone for one in same)
    if certain and (several or not math.fsum(alone)):
        return len(same) >= least
    gains = [fmean(scores.get(one.item) or [one.score]) - one.score for one in same if one.item not in known]
    there, gained, clear = len(known - own), math.fsum(gains), 4.0 * math.hypot(*gains)
    more = right * _TIMES[len({one.text for one in same}) > 1]  # the numbers in a text may be what is right
    costs = gained > max(clear, more) or (not right and gained >= _COSTS + _SHARE * len(gains))
    costs = costs or ((several or not right) and _NOTHING.fullmatch(same[0].text) is not None)
    return costs and len(gains) >= there + 6.0 * math.sqrt(there) + least


def in_words(scored: Iterable[Scored]) -> Iterator[Told]:
    """Give the texts that are kept, were not cut and refuse nothing."""
    for one in scored:
        said, refused = one.response, (one.signs or {}).get("refusal")
        if refused or not isinstance(said, Generation) or said.finish == "length":
            continue
        if said.text or said.token_ids or not one.length:
            yield Told(one.item_id, said.text.strip(), one.score or 0.0)
