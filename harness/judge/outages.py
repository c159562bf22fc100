"""Outages: what the baseline's server failed to answer, kept as wrong answers, which would hide a loss."""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

from harness.records import Generation, Scored
from harness.suite.tail.text import refusal

_LEAST, _IN_TASK, _SHORTEST = 5, 20, 12  # of an error in words: answers that are nothing else, and characters if any
_WORD, _HARDLY = 3, 20  # characters of a shorter one; how many times more often than the other side one must give it
_COSTS, _SHARE = 3.0, 0.125  # the least that an error costs which is never right: items, and a share of its own
_ONE_TEXT, _SEVERAL_TEXTS = 0.35, 1.0  # the same of one that is right at times, times that; numbers may be answers
_GRADE = 0.5  # below which the lowest score of an error may be a judge's lowest grade
_NUMBER = r"(?<!\S)(?=\S*\d)\S+"  # the number or time of a request, or tokens and seconds that it took
_WIDE = re.compile(r"[\u3040-\ud7ff\uff00-\uffef]")  # a Chinese, Japanese or Korean sign, about half a word
_CODE = r"[a-fA-F-]{0,36}\d[0-9a-fA-F-]*"  # the same in a text of one word
_ERROR = "which looks like an error of its server: counted as unanswered"
_RUN = re.compile(r"([^\d\s]|<(?:unk|pad)>)(?:\s?\1){15,}\Z")  # one sign or mark over and over
_CERTAINLY = "an error"
_DOUBT = "never right, and hardly given by another side: if that is an error of its server, it hides losses, so look"
_SPEAKS = re.compile(r"\bI\b(?!/)")  # in English: programs do not speak of themselves
FAILURE = re.compile(r"\([^():\n]+: .*\)", re.DOTALL)  # how importers write that an answer failed: `(status: timeout)`
_NOTHING, CERTAIN = (  # words for it, or signs alone; and what no model writes
    re.compile(Path(__file__).with_name(name).read_text("utf-8")) for name in ("nothing.txt", "certain.txt")
)


class Told(NamedTuple):
    """One answer in words."""

    item: str
    text: str
    score: float  # in [0, 1]; of the item, if the source has no other
    alone: bool = True  # whether the score is of this answer, not of several


class Outages(NamedTuple):
    """Items that a side's server answered with an error, to its text, and those of which that is not certain."""

    errors: dict[str, str]
    doubtful: dict[str, str]

    def warnings(self, name: str) -> list[str]:
        """Say what that side answered, and how often."""
        told = [(*one, _ERROR) for one in Counter(self.errors.values()).items()]
        told += [(*one, _DOUBT) for one in Counter(self.doubtful.values()).items()]
        return [f"{name} answered {count} items with {text[:200]!r}, {what}" for text, count, what in told]


def outages(sides: Iterable[Iterable[Told]], tasks: Mapping[str, str]) -> Outages:
    """Find the items that the first side's server answered with an error, as the text of its answer.

    tasks: item to its task. Definition, own: a whole answer, empty, a word for nothing or words with any numbers, that
    comes `_LEAST` times or more, or `_IN_TASK` in one task, where another side does not give it, clearly more often
    than the other way round, and that costs: that side scores clearly more there. Clearly is by four standard errors,
    of two counts about six roots of the smaller. What is never right need not cost if it is empty, a word for nothing
    or a mark of a failure, and may come on both sides if no model writes it. Nor need these cost if they are one of
    several answers. Other words that are never right and do not cost are doubtful. Shorter ones, which may be labels,
    must come `_IN_TASK` times in a task, never be right, hardly come on the other side in any spelling, and cost.
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
                if CERTAIN.match(one.text):  # each may repeat its prompt
                    found[-1]["", _CERTAINLY].append(one)
            elif len(short := _short(one.text)) >= _WORD and one.item in tasks:
                found[-1][tasks[one.item], short].append(one)
    sure, doubtful = dict[str, str](), dict[str, str]()
    for (task, text), same in found[0].items() if found else ():
        texts = {one.text for one in same}
        least, others = _IN_TASK if task else _LEAST, zip(found[1:], scores[1:], strict=True)
        kinds = {_is_outage(same, told.get((task, text), ()), own, least) for told, own in others}
        if kinds - {False}:
            spoken = _SPEAKS.search(text) and not (CERTAIN.match(same[0].text) or FAILURE.fullmatch(same[0].text))
            to = sure if True in kinds and not (refusal(text) or spoken) else doubtful
            said = text if len(texts) > 1 and text != _CERTAINLY else min(texts)
            to |= {one.item: to.get(one.item, said) for one in same}
    return Outages(sure, {item: text for item, text in doubtful.items() if item not in sure})


def _words(text: str) -> str | None:
    """Return a text without its numbers if it may be an error, None if it is a label, or the model's own."""
    words = re.sub(_NUMBER if " " in text else _CODE, "...", text)
    nothing = _NOTHING.fullmatch(words if re.search("[a-zA-Z]", words) else text)  # a number is an answer
    long = len(_WIDE.sub("...", words)) >= _SHORTEST
    return words if nothing or long or CERTAIN.match(text) or FAILURE.fullmatch(text) else None


def _short(text: str) -> str:
    """Return a short text without signs and capitals."""
    return re.sub(r"[\W_]+", " ", text).strip().lower()


def _is_outage(same: list[Told], theirs: Iterable[Told], scores: Mapping[str, list[float]], least: int) -> bool | None:
    """Whether a text, `same` on one side and `theirs` on another, is an error; None: perhaps. scores: that side's."""
    own, known, first = {one.item for one in same}, {one.item for one in theirs}, same[0].text
    lowest, several = min(one.score for one in same), not all(one.alone for one in same)
    right = [one.score - (lowest if lowest < _GRADE else 0.0) if one.alone else math.floor(one.score) for one in same]
    certain = CERTAIN.match(first) is not None
    if certain and not math.fsum(right):
        return len(same) >= least
    here = [(one, score) for one, score in zip(same, right, strict=True) if one.item not in known]
    gains = [fmean(scores.get(one.item) or [one.score]) - one.score for one, _ in here]
    there, gained, kept = len(known - own), math.fsum(gains), math.fsum(score for _, score in here)
    hardly = _HARDLY * len(known) < len(here)
    if _words(first) is None and (several or kept or not hardly or gained <= 4.0 * math.hypot(*gains)):
        return False
    if len(here) < there + 6.0 * math.sqrt(there) + least:
        return False
    if (several or not kept) and (certain or _NOTHING.fullmatch(first) or FAILURE.fullmatch(first)):
        return True
    times = _SEVERAL_TEXTS if len({one.text for one in same}) > 1 else _ONE_TEXT
    costs = gained > max(4.0 * math.hypot(*gains), times * kept)
    return costs or (not kept and gained >= _COSTS + _SHARE * len(here)) or (False if kept else None)


def in_words(scored: Iterable[Scored]) -> Iterator[Told]:
    """Give the texts that are kept, of an answer that is empty but for its thought nothing.

    Of those that were cut: none at all, or the sign that they end with over and over, such as the ``!!!!`` or ``GGGG``
    of a server whose logits are no numbers.
    """
    for one in scored:
        said, nothing = one.response, (one.signs or {}).get("empty")
        if isinstance(said, Generation) and (said.text or said.token_ids or not one.length):
            text = said.text.strip()
            if said.finish != "length":
                yield Told(one.item_id, "" if nothing else text, one.score or 0.0)
            elif (run := _RUN.search(re.sub(r"</?think>", "", text).strip())) or not text:
                yield Told(one.item_id, run[1] * 3 if run else "(nothing before the limit)", one.score or 0.0)
