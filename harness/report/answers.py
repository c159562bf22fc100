"""Answers to see in pairs: gathered from a run, where they part, and made harmless and cut to size for the page."""

import json
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import accumulate, zip_longest
from typing import Any

from harness.judge.choice_probability import preferred_choice
from harness.judge.tail_counts import cells, showing
from harness.records import TAIL_KINDS, ChoiceLogprobs, Generation, Item, Scored
from harness.report.evidence import Evidence, FlipPair
from harness.report.sanitize import clip, one_line, visible
from harness.store.units import grouped

_EVENTS = 20  # pairs shown of one candidate's events of one kind
_PROMPT_END, _ANSWER, _NAME, _TAG = 1200, 4000, 300, 35  # characters
_JOINER = "\u200d"
_Side = Sequence[Scored]
_Pair = dict[str, Any]  # a pair as `browsable` writes it


def flips(items: Sequence[Item], baseline: _Side, candidate: _Side, name: str) -> list[FlipPair]:
    """Give the items that the two sides scored differently, the lost ones first."""
    base, side = (
        {one.item_id: one for one in answers if one.score is not None and one.response.sample == 0}
        for answers in (baseline, candidate)
    )
    both = ((item, base[item.id], side[item.id]) for item in items if item.id in base and item.id in side)
    flipped = [_pair(name, *pair) for pair in both if pair[1].score != pair[2].score]
    return sorted(flipped, key=lambda pair: pair.candidate_score - pair.baseline_score)


def events(items: Sequence[Item], baseline: _Side, candidate: _Side, name: str) -> Iterator[FlipPair]:
    """Give the tail events of a candidate, at most 20 of a kind, the kinds in turn."""
    before, after = {one.item_id: one for one in reversed(baseline)}, grouped((one.item_id, one) for one in candidate)
    known, found = {item.id: item for item in items}, {kind: list[str]() for kind in TAIL_KINDS}
    for cell in cells(items, baseline, candidate):
        found[cell.kind] += [item for item, happened in zip(cell.items, cell.events, strict=True) if happened]
    for at in range(_EVENTS):
        for kind, ids in found.items():
            if at < len(ids) and (other := showing(after[ids[at]], kind)) is not None:
                yield replace(_pair(name, known[ids[at]], before[ids[at]], other), kinds=(kind,))


def _pair(name: str, item: Item, one: Scored, other: Scored) -> FlipPair:
    texts, scores = (_text(item, one), _text(item, other)), (one.score or 0.0, other.score or 0.0)
    about = (name, item.slice, item.stratum, item.id, item.prompt, item.target)
    return FlipPair(*about, *texts, *scores, item.language, bool(item.prompt) or not item.asked)


def _text(item: Item, answer: Scored) -> str:
    response = answer.response
    if isinstance(response, Generation):
        return response.text
    if not isinstance(response, ChoiceLogprobs):
        return ""
    best = preferred_choice(item, response, answer.metric)
    return item.choices[best] or f"choice {best + 1}"


def first_difference(one: str, other: str) -> int | None:
    """Return where texts differ first, None if they are equal; no accent, vowel sign or joined emoji is cut off."""
    if one == other:
        return None
    index, most = 0, min(len(one), len(other))
    while index < most:  # by halving: slices compare at the speed of memory
        middle = (index + most + 1) // 2
        index, most = (middle, most) if one[index:middle] == other[index:middle] else (index, middle - 1)
    while index > 0 and (_continues(one, index) or _continues(other, index)):
        index -= 1
    return index


def _continues(text: str, index: int) -> bool:
    """Return whether the character at `index` belongs to the one before it."""
    if index >= len(text):
        return False
    return unicodedata.category(text[index]) in {"Mn", "Mc", "Me"} or _JOINER in text[index - 1 : index + 1]


def around_difference(one: str, other: str, limit: int) -> tuple[str, str]:
    """Cut both texts to the same `limit` characters, their first difference among these, and say what was left out."""
    at = first_difference(one, other)
    if at is None or at <= limit * 3 // 4:  # the beginning stays
        return clip(one, limit), clip(other, limit)
    start = at - limit // 4
    while start > at - limit // 2 and _continues(one, start):
        start -= 1
    before = f"({start:,} characters before) …"
    return before + clip(one[start:], limit), before + clip(other[start:], limit)


def split_at_difference(one: str, other: str) -> tuple[tuple[str, str, str], ...]:
    """Cut both texts into what they share, the first differing word, and the rest; the last two empty if equal."""
    found = first_difference(one, other)
    at = len(one) if found is None else found
    ends = (at + next(re.finditer(r"\s|\S*", text[at:])).end() for text in (one, other))
    return tuple((text[:at], text[at:end], text[end:]) for text, end in zip((one, other), ends, strict=True))


def browsable(pair: FlipPair) -> _Pair:
    """Return one pair as plain data: texts cut and made visible, `at` the index of the first difference or None."""
    # A carriage return before a new line is not shown, so it is no difference either.
    one, other = (text.replace("\r\n", "\n") for text in (pair.baseline_text, pair.candidate_text))
    baseline, candidate = map(visible, around_difference(one, other, _ANSWER))
    prompt, tag = pair.prompt, pair.language
    if (left_out := len(prompt) - 2 * _PROMPT_END) > 0:
        prompt = f"{prompt[:_PROMPT_END]}\n[… {left_out:,} characters left out …]\n{prompt[-_PROMPT_END:]}"
    names = {"candidate": pair.candidate, "slice": pair.slice, "stratum": pair.stratum, "id": pair.item_id}
    made: _Pair = {key: one_line(clip(name, _NAME)) for key, name in names.items()}
    made |= {"prompt": visible(prompt), "target": visible(clip(pair.target, _ANSWER))}
    made |= {"baseline": baseline, "answer": candidate, "at": first_difference(baseline, candidate)}
    made |= {"stored": pair.stored, "before": pair.baseline_score, "after": pair.candidate_score}
    known = tag.isascii() and tag.replace("-", "").isalnum() and len(tag) <= _TAG
    return made | {"language": tag if known else "", "kinds": [*pair.kinds]}


def pairs(evidence: Evidence) -> list[_Pair]:
    """Return flips and tail events, each pair once, in turns over candidates and kinds: a cut leaves some of each."""
    found: dict[tuple[str, str], FlipPair] = {}
    for one in (*evidence.flips, *evidence.tail_events):
        known = found.setdefault((one.candidate, one.item_id), one)
        found[one.candidate, one.item_id] = replace(known, kinds=tuple(dict.fromkeys((*known.kinds, *one.kinds))))
    alike = grouped(((pair.candidate, *pair.kinds[:1]), browsable(pair)) for pair in found.values())
    return [one for turn in zip_longest(*alike.values()) for one in turn if one is not None]


def page_json(value: object) -> str:
    """Return JSON that may be inside a ``<script>`` element: no sign of HTML is left in it."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def fitting(made: list[_Pair], limit: int) -> list[_Pair]:
    """Cut a list of pairs before its JSON takes more than `limit` bytes."""
    return made[: sum(size <= limit for size in accumulate(len(page_json(one).encode()) + 1 for one in made))]
