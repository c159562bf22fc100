"""The flips that a page lets its reader browse: made harmless, cut to size, shared out fairly among candidates.

The page holds `PAGE_BYTES` of them at most. What does not fit goes into a side file of the same form, which the page
can open from disk. Every text is made visible here, before it becomes JSON, and the page shows it as text alone.
"""

from __future__ import annotations

import json
from collections.abc import Container, Iterable, Sequence
from itertools import zip_longest
from typing import Any

from harness.evidence import FlipPair
from harness.report_diff import first_difference
from harness.sanitize import clip, one_line, visible

__all__ = ["PAGE_BYTES", "browsable", "examples", "page_json", "share_out"]

PAGE_BYTES = 4_000_000
"""Bytes of flips inside the page; the page as a whole stays under 6 MB."""

_PROMPT_END = 1200
_ANSWER = 4000
_NAME = 300


def _both_ends(text: str) -> str:
    if len(text) <= 2 * _PROMPT_END:
        return text
    left_out = len(text) - 2 * _PROMPT_END
    return f"{text[:_PROMPT_END]}\n[… {left_out:,} characters left out …]\n{text[-_PROMPT_END:]}"


def browsable(pair: FlipPair) -> dict[str, Any]:
    """Give one pair as plain data: texts made visible and cut, `at` the index of the first difference or None."""
    baseline, candidate = visible(clip(pair.baseline_text, _ANSWER)), visible(clip(pair.candidate_text, _ANSWER))
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
        "language": pair.language if pair.language.replace("-", "").isalnum() and pair.language.isascii() else "",
    }


def _fair(pairs: Iterable[FlipPair]) -> list[FlipPair]:
    """Order the pairs in turns over candidates, so that a cut leaves some of each."""
    by_candidate: dict[str, list[FlipPair]] = {}
    for pair in pairs:
        by_candidate.setdefault(pair.candidate, []).append(pair)
    return [pair for turn in zip_longest(*by_candidate.values()) for pair in turn if pair is not None]


def share_out(pairs: Sequence[FlipPair], limit: int = PAGE_BYTES) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Give what the page holds, at most `limit` bytes as JSON, and what goes into the side file."""
    inside: list[dict[str, Any]] = []
    beside: list[dict[str, Any]] = []
    left = limit
    for pair in _fair(pairs):
        made = browsable(pair)
        left -= len(page_json(made).encode()) + 1
        (inside if left >= 0 else beside).append(made)
    return inside, beside


def page_json(value: object) -> str:
    """Give JSON that may stand inside a ``<script>`` element: no sign of HTML is left in it."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def examples(
    inside: Sequence[dict[str, Any]], failing: Container[tuple[str, str, str]], most: int = 5
) -> list[dict[str, Any]]:
    """Give a few lost items, those in failing strata first, from as many strata and candidates as there are.

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
