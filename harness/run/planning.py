"""What the items of a run will be able to decide, before anything runs.

Pure functions of the config and the items. It does not know the tests behind the verdict (see `harness.stats`), nor
what a machine can do per second.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from harness import stats
from harness.config.schema import Experiment
from harness.errors import ConfigError, Problem
from harness.judge.rules import Rules
from harness.records import Item
from harness.stats.sequential import look_sizes, nominal_alpha

__all__ = ["Power", "check_power", "power_table"]


@dataclass(frozen=True, slots=True)
class Power:
    """What a stratum's items can decide, before anything runs."""

    slice: str
    """The slice's label."""
    stratum: str
    """The stratum."""
    items: int
    """Items planned."""
    clusters: int
    """Sources that they come from."""
    margin: float
    """Largest tolerated drop."""
    gating: bool
    """Whether it decides."""
    can_pass: bool
    """Whether it passes at the last look when no item is lost: if not, it never can."""
    detectable_drop: float | None
    """Smallest drop that fails with 80 % power at the expected discordance, beside all the other gating strata.

    For independent items: those that share sources find only larger ones.
    """
    items_for_pass: int | None
    """Items that an unchanged candidate needs to pass with 80 % power at the expected discordance."""
    prompt_tokens: int
    """Tokens to read, per variant, shared prefixes not yet taken off."""
    output_tokens: int
    """Tokens to write at most, per variant."""


def power_table(experiment: Experiment, items: Sequence[Item]) -> list[Power]:
    """Give the power of every stratum, in the order of the items."""
    rules = Rules.from_experiment(experiment)
    strata: dict[tuple[str, str], list[Item]] = defaultdict(list)
    for item in items:
        strata[item.slice, item.stratum].append(item)
    gating = max(sum(rules.gating(*place) for place in strata), 1)
    return [_power(experiment, rules, place, members, gating) for place, members in strata.items()]


def _power(experiment: Experiment, rules: Rules, place: tuple[str, str], members: Sequence[Item], gating: int) -> Power:
    """Give one stratum's power at its last look; a fail at Holm's strictest level, among so many gating strata."""
    discordance = experiment.policy.discordance
    margin, n = rules.margin(*place), len(members)
    samples = experiment.sampling.samples
    alpha = _last_level(experiment, n)
    strictest = _last_level(experiment, n, parts=rules.families * gating) if rules.gating(*place) else alpha
    sources = np.unique([item.cluster for item in members], return_inverse=True)[1]
    return Power(
        slice=place[0],
        stratum=place[1],
        items=n,
        clusters=int(sources.max()) + 1,
        margin=margin,
        gating=rules.gating(*place),
        can_pass=stats.can_ever_pass(n, margin, alpha, clusters=sources),
        detectable_drop=stats.smallest_detectable_drop(n, discordance, alpha=strictest, power=0.8, margin=margin),
        items_for_pass=stats.items_for_pass(margin, discordance, power=0.8, alpha=alpha),
        prompt_tokens=sum(item.prompt_tokens for item in members),
        output_tokens=samples * sum(item.max_tokens for item in members),
    )


def _last_level(experiment: Experiment, n: int, parts: int = 1) -> float:
    """What the last look at n items has left of alpha, or of one of its parts: looking before has spent some."""
    sizes = look_sizes(n, experiment.execution.looks)
    return nominal_alpha([size / n for size in sizes], experiment.policy.alpha / parts)


def check_power(experiment: Experiment, table: Sequence[Power], source: str) -> None:
    """Refuse gating strata that are too small to ever pass. Raises ConfigError with every one of them."""
    if not experiment.policy.refuse_hopeless:
        return
    index = {spec.key: number for number, spec in enumerate(experiment.slices)}
    hopeless: Mapping[str, list[Power]] = defaultdict(list)
    for row in table:
        if row.gating and not row.can_pass:
            hopeless[row.slice].append(row)
    problems = [_hopeless(experiment, index[name], rows) for name, rows in hopeless.items()]
    if problems:
        raise ConfigError(source, problems)


def _hopeless(experiment: Experiment, index: int, rows: Sequence[Power]) -> Problem:
    worst = min(rows, key=lambda row: row.clusters)
    others = f" and {len(rows) - 1} more strata" if len(rows) > 1 else ""
    size = -(-worst.items // worst.clusters)
    needed = stats.smallest_that_can_pass(worst.margin, _last_level(experiment, worst.items), per_source=size)
    have, more = f"{worst.items} items", f"{needed} are needed"
    if worst.clusters < worst.items:
        have += f" from {worst.clusters} sources"
        more = f"about {needed * size} items from {needed} sources are needed"
    return Problem(
        f"slices[{index}].items",
        f"{have} in {worst.stratum}{others} can never pass a margin of {worst.margin:g}, even if the candidate loses "
        f"none: {more}. Raise items or the margin, or set gating: false",
    )
