"""Answers that came too late, counted as tail events: later than `policy.latency`, where the baseline's was not."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from harness.errors import NotComparable
from harness.judge.rules import Rules
from harness.records import Scored

__all__ = ["undefined", "with_late"]

_FIGURES = {"slow_first_token": "first", "slow_tokens": "per_token"}


def undefined(rules: Rules) -> list[str]:
    """Return the kinds of late answers that have a tolerance while `policy.latency` does not say what is late."""
    tolerances = [rules.policy.tail_events, *(one.tail_events or {} for one in rules.slices.values())]
    return sorted(set().union(*tolerances) & set(_FIGURES) - set(rules.policy.latency))


def with_late(
    sides: Sequence[Iterable[Scored]], times: Sequence[Sequence[Mapping[str, Any]]], latency: Mapping[str, float]
) -> list[list[Scored]]:
    """Add to both sides' answers whether they were late, if both were timed by a warm server to which they were new.

    times: of each side's requests. An answer without text is not late, and one that came in a single piece or token has
    no time for each further token. Raises NotComparable if a side has no times.
    """
    if not all(times):
        raise NotComparable("policy.latency needs the times of all variants: run them with engine.stream: true")
    timed = [
        {(line["item"], line["sample"]): line for line in own if (line["state"], line["cache"]) == ("warm", "uncached")}
        for own in times
    ]
    both = set(timed[0]) & set(timed[1])

    def late(key: tuple[str, int], line: Mapping[str, Any]) -> dict[str, bool]:
        known = [kind for kind in latency if kind != "slow_tokens" or all(own[key]["per_token"] for own in timed)]
        return {kind: (line[_FIGURES[kind]] or 0.0) > latency[kind] for kind in known}

    def marked(one: Scored, own: Mapping[tuple[str, int], Mapping[str, Any]]) -> Scored:
        key = one.item_id, one.response.sample
        return (
            replace(one, signs={**one.signs, **late(key, own[key])}) if one.signs is not None and key in both else one
        )

    return [[marked(one, own) for one in side] for side, own in zip(sides, timed, strict=True)]
