"""Shares the page's room out among the texts it shows: tail events, examples, flips.

One budget for all three, in bytes as they are written, so that the page opens quickly whatever script the answers are
in. Tail events and examples have a quarter each at most, flips have what is left; what has no room is counted.
"""

from __future__ import annotations

from collections.abc import Container, Iterable
from dataclasses import dataclass
from typing import Any

from markupsafe import escape

from harness.report import flips, tail
from harness.report.evidence import Evidence, TailEvent

__all__ = ["PAGE_BYTES", "Texts", "share_room"]

PAGE_BYTES = 4_000_000
"""Bytes of all these texts inside the page; the page as a whole stays under 6 MB."""

_MOST_TAIL_EVENTS = 60
_MARKUP = 1500
"""Bytes of elements and words around one pair, more than any has."""
_REPEATED = 4
"""How often a short text of a pair is written at most: the candidate's name, the language."""


@dataclass(frozen=True, slots=True)
class Texts:
    """What the page shows of answers, all of it as `harness.report.flips.browsable` writes it."""

    tail_events: list[dict[str, Any]]
    """With their ``kind``; some of every candidate and kind where not all have room."""
    examples: list[dict[str, Any]]
    """A few flips that stand on the page without scripts."""
    inside: list[dict[str, Any]]
    """Flips to browse."""
    beside: list[dict[str, Any]]
    """Flips of the side file."""


def share_room(evidence: Evidence, failing: Container[tuple[str, str, str]], limit: int = PAGE_BYTES) -> Texts:
    """Give what has room in `limit` bytes. failing: see `harness.report.flips.examples`."""
    events = flips.in_turns(evidence.tail_events, lambda one: (one.candidate, one.kind))
    shown, left = _fitting(map(_tail_event, events), _MOST_TAIL_EVENTS, limit // 4)
    left += limit - limit // 4
    inside, beside = flips.share_out(evidence.flips, left)
    examples, kept = _fitting(flips.examples(inside, failing), len(inside), limit // 4)
    inside, moved = flips.cut(inside, left - (limit // 4 - kept))
    return Texts(shown, examples, inside, moved + beside)


def _tail_event(event: TailEvent) -> dict[str, Any]:
    return {
        **flips.browsable(event.pair),
        "candidate": event.candidate,
        "kind": f"{event.kind}, {tail.meaning(event.kind)}",
    }


def _fitting(made: Iterable[dict[str, Any]], most: int, limit: int) -> tuple[list[dict[str, Any]], int]:
    """Give the pairs that fit, at most so many, and the bytes that are left."""
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
    """Give the most bytes that a pair takes as HTML."""
    texts = [value for value in one.values() if isinstance(value, str)]
    again = (_REPEATED - 1) * (len(escape(one["candidate"]).encode()) + len(one["language"]))
    return _MARKUP + again + sum(len(escape(text).encode()) for text in texts)
