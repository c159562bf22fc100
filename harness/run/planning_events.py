"""What the items of a plan can decide about tail events: where a tolerance is declared, are there items enough for it?

No event among n independent items shows a rate below t when (1 - t)^n < alpha: 299 items for 1 % at 5 %. Pure functions
of the config and the items. Which kinds code and JSON show is known only when their task has scored an answer.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from harness.config.schema import Experiment
from harness.errors import ConfigError, Problem
from harness.judge.rules import Rules
from harness.records import Item
from harness.stats.events import event_rate, items_without_event
from harness.suite.tail import possible
from harness.suite.tail.text import THOUGHTS

__all__ = ["EventPower", "check_events", "event_power"]


@dataclass(frozen=True, slots=True)
class EventPower:
    """What a stratum's items can decide about the tail events that one tolerance gates."""

    slice: str
    """The slice's label."""
    stratum: str
    """The stratum."""
    tolerance: float
    """Largest tolerated rate."""
    kinds: tuple[str, ...]
    """The kinds that it gates here."""
    items: int
    """Items planned, of the kind that has fewest."""
    needed: int
    """Items that show a rate below the tolerance when none of them has an event."""
    can_pass: bool
    """Whether there are that many."""


def event_power(experiment: Experiment, items: Sequence[Item]) -> list[EventPower]:
    """Give a row per stratum and tolerance, in the order of the items; none where nothing gates."""
    rules = Rules.from_experiment(experiment)
    members: dict[tuple[str, str, float], dict[str, list[Item]]] = defaultdict(lambda: defaultdict(list))
    for item in items:
        for kind in sorted(possible(item).union(experiment.policy.latency if item.kind == "generate" else ())):
            tolerance = rules.tolerance(item.slice, item.stratum, kind)
            if tolerance is not None:
                members[item.slice, item.stratum, tolerance][kind].append(item)
    return [_power(*place, by_kind, experiment.policy.alpha) for place, by_kind in members.items()]


def _power(slice_name: str, stratum: str, tolerance: float, by_kind: dict[str, list[Item]], alpha: float) -> EventPower:
    fewest = min(by_kind.values(), key=len)
    clean = event_rate([False] * len(fewest), [item.cluster for item in fewest], alpha=alpha)
    return EventPower(
        slice=slice_name,
        stratum=stratum,
        tolerance=tolerance,
        kinds=tuple(by_kind),
        items=len(fewest),
        needed=math.ceil(items_without_event(tolerance, alpha) * clean.unit),
        can_pass=clean.high < tolerance,
    )


def check_events(experiment: Experiment, items: Sequence[Item], source: str) -> None:
    """Refuse tolerances that no stratum can pass, or that hold nobody. Raises ConfigError with every one of them."""
    if not experiment.policy.refuse_hopeless:
        return
    table = event_power(experiment, items)
    problems = _held_by_nobody(experiment, table)
    for index, spec in enumerate(experiment.slices):
        hopeless = [row for row in table if row.slice == spec.key and not row.can_pass]
        if hopeless:
            problems.append(_hopeless(index, hopeless))
    if problems:
        raise ConfigError(source, problems)


def _hopeless(index: int, rows: Sequence[EventPower]) -> Problem:
    worst = max(rows, key=lambda row: row.needed - row.items)
    others = f" and {len(rows) - 1} more strata" if len(rows) > 1 else ""
    return Problem(
        f"slices[{index}].tail_events",
        f"{worst.items} items in {worst.stratum}{others} can never show a rate of tail events below "
        f"{worst.tolerance:g}, even if there is none: {worst.needed} are needed. Raise items or the tolerance, or "
        "leave the slice without one (tail_events: {}): events are then shown and decide nothing",
    )


def _held_by_nobody(experiment: Experiment, table: Sequence[EventPower]) -> list[Problem]:
    """Name the kinds that a slice holds to a tolerance and none of its items can show."""
    found = []
    for at, spec in enumerate(experiment.slices):
        for kind in spec.tail_events or {}:
            if kind in THOUGHTS:
                continue  # whether a model thinks is seen only when it answers
            if not any(row.slice == spec.key and (kind == "*" or kind in row.kinds) for row in table):
                text = "none of its items answers in a text that could show it: leave the tolerance out"
                found.append(Problem(f"slices[{at}].tail_events.{kind}", text))
    return found
