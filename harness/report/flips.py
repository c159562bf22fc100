"""The answers on the page: made harmless, cut to size, shared out fairly among candidates and kinds of tail events.

One budget in bytes for examples and pairs to browse, so that the page opens quickly whatever script the answers are in.
Pairs that do not fit go into a side file of the same form, which the page can open from disk. Every text is made
visible here, before it becomes JSON, and the page shows it as text alone.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Container, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import Any, TypeVar

from markupsafe import escape

from harness.report.diff import around_difference, first_difference
from harness.report.evidence import Evidence, FlipPair
from harness.report.sanitize import clip, one_line, visible

__all__ = ["PAGE_BYTES", "Texts", "browsable", "examples", "page_json", "page_texts", "pairs"]

_T = TypeVar("_T")

PAGE_BYTES = 4_000_000
"""Bytes of all these texts inside the page; the page as a whole stays under 6 MB."""

_MARKUP = 1500
"""Bytes of elements and words around one pair, more than any has."""
_REPEATED = 4
"""How often a short text of a pair is written at most: the candidate's name, the language."""

_PROMPT_END = 1200
_ANSWER = 4000
_NAME = 300
_LONGEST_TAG = 35


def _both_ends(text: str) -> str:
    if len(text) <= 2 * _PROMPT_END:
        return text
    left_out = len(text) - 2 * _PROMPT_END
    return f"{text[:_PROMPT_END]}\n[… {left_out:,} characters left out …]\n{text[-_PROMPT_END:]}"


def browsable(pair: FlipPair, kinds: Iterable[str] = ()) -> dict[str, Any]:
    """Return one pair as plain data: texts cut and made visible, `at` the index of the first difference or None.

    kinds: of the tail events that the candidate's answer shows.
    """
    # A carriage return before a new line is not shown, so it is no difference either.
    one, other = (text.replace("\r\n", "\n") for text in (pair.baseline_text, pair.candidate_text))
    baseline, candidate = map(visible, around_difference(one, other, _ANSWER))
    return {
        "candidate": one_line(clip(pair.candidate, _NAME)),
        "slice": one_line(clip(pair.slice, _NAME)),
        "stratum": one_line(clip(pair.stratum, _NAME)),
        "id": one_line(clip(pair.item_id, _NAME)),
        "prompt": visible(_both_ends(pair.prompt)),
        "target": visible(clip(pair.target, _ANSWER)),
        "baseline": baseline,
        "answer": candidate,
        "at": first_difference(baseline, candidate),
        "stored": pair.stored,
        "before": pair.baseline_score,
        "after": pair.candidate_score,
        "language": _language(pair.language),
        "kinds": [*kinds],
    }


def _language(tag: str) -> str:
    """Return a BCP 47 tag as it is, anything else as none."""
    return tag if tag.isascii() and tag.replace("-", "").isalnum() and len(tag) <= _LONGEST_TAG else ""


def in_turns(things: Iterable[_T], key: Callable[[_T], Hashable]) -> Iterator[_T]:
    """Order things in turns over what they have in common, so that a cut leaves some of each."""
    shared: dict[Hashable, list[_T]] = {}
    for one in things:
        shared.setdefault(key(one), []).append(one)
    return (one for turn in zip_longest(*shared.values()) for one in turn if one is not None)


def pairs(evidence: Evidence) -> Iterator[dict[str, Any]]:
    """Yield every pair once, flips and tail events, in turns over candidates and kinds, as `browsable` writes them."""
    kinds: dict[tuple[str, str], dict[str, None]] = {}
    found = {(one.candidate, one.item_id): one for one in evidence.flips}
    for event in evidence.tail_events:
        key = event.candidate, event.pair.item_id
        kinds.setdefault(key, {})[event.kind] = None
        found.setdefault(key, replace(event.pair, candidate=event.candidate))
    made = ((pair, [*kinds.get(key, ())]) for key, pair in found.items())
    return (browsable(*one) for one in in_turns(made, lambda one: (one[0].candidate, *one[1][:1])))


def cut(made: Sequence[dict[str, Any]], limit: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Cut a list of browsable pairs before its JSON takes more than `limit` bytes."""
    left = limit
    for index, one in enumerate(made):
        left -= len(page_json(one).encode()) + 1
        if left < 0:
            return [*made[:index]], [*made[index:]]
    return [*made], []


def page_json(value: object) -> str:
    """Return JSON that may be inside a ``<script>`` element: no sign of HTML is left in it."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def examples(
    inside: Sequence[dict[str, Any]], failing: Container[tuple[str, str, str]], most: int = 5
) -> list[dict[str, Any]]:
    """Return a few lost items, those in failing strata first, from as many strata and candidates as there are.

    failing: candidate, slice and stratum, as `browsable` writes them.
    """
    lost = [one for one in inside if one["after"] < one["before"]] or list(inside)
    lost.sort(key=lambda one: (one["candidate"], one["slice"], one["stratum"]) not in failing)
    chosen: list[dict[str, Any]] = []
    seen: set[tuple[str, str, str]] = set()
    for one in lost:
        place = (one["candidate"], one["slice"], one["stratum"])
        if place not in seen:
            seen.add(place)
            chosen.append(one)
    chosen += [one for one in lost if one not in chosen]
    return chosen[:most]


@dataclass(frozen=True, slots=True)
class Texts:
    """What the page shows of answers, all of it as `browsable` writes it."""

    examples: list[dict[str, Any]]
    """A few flips that the page shows without scripts and on paper."""
    inside: list[dict[str, Any]]
    """Pairs to browse."""
    left_over: list[dict[str, Any]]
    """Pairs of the side file."""


def page_texts(evidence: Evidence, failing: Container[tuple[str, str, str]], limit: int = PAGE_BYTES) -> Texts:
    """Return what fits in `limit` bytes: examples get a quarter at most, pairs to browse what is left.

    failing: candidate, slice and stratum, as `browsable` writes them.
    """
    inside, left_over = cut([*pairs(evidence)], limit)
    chosen, kept = _fitting(examples(inside, failing), len(inside), limit // 4)
    inside, moved = cut(inside, limit - (limit // 4 - kept))
    return Texts(chosen, inside, moved + left_over)


def _fitting(made: Iterable[dict[str, Any]], most: int, limit: int) -> tuple[list[dict[str, Any]], int]:
    """Return the pairs that fit, at most so many, and the bytes that are left."""
    found: list[dict[str, Any]] = []
    left = limit
    for one in made:
        if len(found) == most:
            break
        size = _size(one)
        if size <= left:
            found.append(one)
            left -= size
    return found, left


def _size(one: dict[str, Any]) -> int:
    """Return the most bytes that a pair takes as HTML."""
    texts = [value for value in one.values() if isinstance(value, str)]
    again = (_REPEATED - 1) * (len(escape(one["candidate"]).encode()) + len(one["language"]))
    return _MARKUP + again + sum(len(escape(text).encode()) for text in texts)
