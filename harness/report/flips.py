"""The answers on the page: made harmless, cut to size, shared out fairly among candidates.

One budget in bytes for tail events, examples and flips, so that the page opens quickly whatever script the answers are
in. Flips that do not fit go into a side file of the same form, which the page can open from disk. Every text is made
visible here, before it becomes JSON, and the page shows it as text alone.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Container, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, TypeVar

from markupsafe import escape

from harness.report import tail
from harness.report.diff import around_difference, first_difference
from harness.report.evidence import Evidence, FlipPair, TailEvent
from harness.report.sanitize import clip, one_line, visible

__all__ = ["PAGE_BYTES", "Texts", "browsable", "examples", "page_json", "page_texts", "share_out"]

_T = TypeVar("_T")

PAGE_BYTES = 4_000_000
"""Bytes of all these texts inside the page; the page as a whole stays under 6 MB."""

_MOST_TAIL_EVENTS = 60
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


def browsable(pair: FlipPair) -> dict[str, Any]:
    """Return one pair as plain data: texts cut and made visible, `at` the index of the first difference or None."""
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


def share_out(pairs: Iterable[FlipPair], limit: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return what the page holds, at most `limit` bytes as JSON, and what goes into the side file."""
    return cut([browsable(pair) for pair in in_turns(pairs, lambda pair: pair.candidate)], limit)


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

    tail_events: list[dict[str, Any]]
    """With their ``kind``; some of every candidate and kind if not all fit."""
    examples: list[dict[str, Any]]
    """A few flips that the page shows without scripts."""
    inside: list[dict[str, Any]]
    """Flips to browse."""
    left_over: list[dict[str, Any]]
    """Flips of the side file."""


def page_texts(evidence: Evidence, failing: Container[tuple[str, str, str]], limit: int = PAGE_BYTES) -> Texts:
    """Return what fits in `limit` bytes: tail events and examples get a quarter each at most, flips what is left.

    failing: candidate, slice and stratum, as `browsable` writes them.
    """
    events = in_turns(evidence.tail_events, lambda one: (one.candidate, one.kind))
    shown, left = _fitting(map(_tail_event, events), _MOST_TAIL_EVENTS, limit // 4)
    left += limit - limit // 4
    inside, beside = share_out(evidence.flips, left)
    chosen, kept = _fitting(examples(inside, failing), len(inside), limit // 4)
    inside, moved = cut(inside, left - (limit // 4 - kept))
    return Texts(shown, chosen, inside, moved + beside)


def _tail_event(event: TailEvent) -> dict[str, Any]:
    return {
        **browsable(event.pair),
        "candidate": event.candidate,
        "kind": f"{event.kind}, {tail.meaning(event.kind)}",
    }


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
