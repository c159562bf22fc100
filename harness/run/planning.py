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
from harness.config.fields import allowed
from harness.config.schema import Experiment
from harness.errors import ConfigError, Problem
from harness.judge.rules import Rules
from harness.records import Item
from harness.stats.plan import Design
from harness.stats.sequential import Spending, look_sizes, looks_plan, nominal_alpha

__all__ = ["Power", "check_power", "design_of", "power_table"]


_ASSUMED_SCORE = 0.8
"""The baseline's, to plan with a relative margin."""


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
    pass_power: float = 0.0
    """Chance that an unchanged candidate passes here with these items and looks, at the expected discordance."""
    expected_items: int = 0
    """Items until it does, on average over such candidates; all of them with one look."""


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
    margin, n = allowed(rules.margin(*place), _ASSUMED_SCORE), len(members)
    samples = experiment.sampling.samples
    alpha = _last_level(experiment, n)
    strictest = _last_level(experiment, n, parts=rules.families * gating) if rules.gating(*place) else alpha
    sources = np.unique([item.cluster for item in members], return_inverse=True)[1]
    policy, looks = experiment.policy, len(look_sizes(n, experiment.execution.looks))
    fixed = stats.pass_power(n, margin, discordance, policy.alpha)
    passing = looks_plan(fixed, policy.alpha, looks, Spending.of(policy.spending))
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
        pass_power=passing.power if looks > 1 else fixed,
        expected_items=round(n * passing.expected),
    )


def design_of(experiment: Experiment, table: Sequence[Power]) -> Design | None:
    """Return what the gating strata of a plan demand; None if there are none."""
    policy = experiment.policy
    margins = tuple(row.margin for row in table if row.gating)
    spending = Spending.of(policy.spending)
    demands = (margins, policy.pooled_margin, experiment.execution.looks, spending, policy.discordance, policy.alpha)
    return Design(*demands) if margins else None


def _last_level(experiment: Experiment, n: int, parts: int = 1) -> float:
    """What the last look at n items has left of alpha, or of one of its parts: looking before has spent some."""
    sizes = look_sizes(n, experiment.execution.looks)
    policy = experiment.policy
    return nominal_alpha([size / n for size in sizes], policy.alpha / parts, Spending.of(policy.spending))


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
    pooled, items = experiment.policy.pooled_margin, sum(row.items for row in table if row.gating)
    if pooled is not None and items and not stats.can_ever_pass(items, pooled, _last_level(experiment, items)):
        text = f"{items} items in all gating strata can never pass a pooled margin of {pooled:g}"
        problems.append(Problem("policy.pooled_margin", f"{text}, even if none is lost. Raise items or the margin"))
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
