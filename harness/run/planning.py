"""What the items of a run will be able to decide, before anything runs: on scores, and on tail events."""

import functools
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from harness import stats
from harness.config.fields import Layers, allowed
from harness.config.schema import Cut, Experiment, Policy
from harness.errors import ConfigError, Problem
from harness.judge.layers import part
from harness.judge.rules import Rules, by_stratum
from harness.records import Item
from harness.stats.events import event_rate, items_without_event
from harness.stats.plan import Design, Route, first_number
from harness.stats.pooled import layered_power
from harness.stats.sequential import Spending, look_sizes, looks_plan, nominal_alpha
from harness.suite.tail.detectors import possible
from harness.suite.tail.text import THOUGHTS

_ASSUMED_SCORE = 0.8  # the baseline's, to plan with a relative margin
_FLIPS_UNSURE = 0.8  # share of a candidate's flips where the baseline is unsure, to plan with layers


@dataclass(frozen=True, slots=True)
class Power:
    """What a stratum's items can decide, before anything runs."""

    slice: str  # the slice's label
    stratum: str
    items: int  # planned
    clusters: int  # sources that they come from
    margin: float  # largest tolerated drop
    gating: bool  # whether it decides
    can_pass: bool  # whether it passes at the last look when no item is lost: if not, it never can
    # Smallest drop that fails with 80 % power at the expected discordance, beside all the other gating strata; for
    # independent items: those that share sources find only larger ones
    detectable_drop: float | None
    items_for_pass: int | None  # that an unchanged candidate needs to pass with 80 % power at the expected discordance
    prompt_tokens: int  # to read, per variant, shared prefixes not yet taken off
    output_tokens: int  # to write at most, per variant
    pass_power: float = 0.0  # chance that an unchanged candidate passes with these items and looks
    expected_items: int = 0  # of a candidate until it does, on average; with one look, all that it is asked


def power_table(experiment: Experiment, items: Sequence[Item]) -> list[Power]:
    """Give the power of every stratum, in the order of the items."""
    rules, strata = Rules.from_experiment(experiment), by_stratum(items)
    gating = max(sum(rules.gating(*place) for place in strata), 1)
    return [_power(experiment, rules, place, members, gating) for place, members in strata.items()]


def _power(experiment: Experiment, rules: Rules, place: tuple[str, str], members: Sequence[Item], gating: int) -> Power:
    """Give one stratum's power at its last look; a fail at Holm's strictest level, among so many gating strata."""
    policy, n = experiment.policy, len(members)
    discordance, margin = policy.discordance, allowed(rules.margin(*place), _ASSUMED_SCORE)
    alpha = _last_level(experiment, n)
    strictest = _last_level(experiment, n, parts=rules.families * gating) if rules.gating(*place) else alpha
    sources = np.unique([item.cluster for item in members], return_inverse=True)[1]
    looks, layers = len(look_sizes(n, experiment.execution.looks)), experiment.execution.layers
    asked, fixed, can_pass = n, stats.pass_power(n, margin, discordance, policy.alpha), None
    if layers and can_be_layered(members):
        asked, fixed = sum(part(n, layers)[:2]), _layered_power(n, margin, policy, layers)
        can_pass = fixed > 0.0
    passing = looks_plan(fixed, policy.alpha, looks, Spending.of(policy.spending))
    return Power(
        *(*place, n, int(sources.max()) + 1, margin, rules.gating(*place)),
        can_pass=stats.can_ever_pass(n, margin, alpha, clusters=sources) if can_pass is None else can_pass,
        detectable_drop=stats.smallest_detectable_drop(asked, discordance, alpha=strictest, power=0.8, margin=margin),
        items_for_pass=stats.items_for_pass(margin, discordance, power=0.8, alpha=alpha),
        prompt_tokens=sum(item.prompt_tokens for item in members),
        output_tokens=experiment.sampling.samples * sum(item.max_tokens for item in members),
        pass_power=passing.power if looks > 1 else fixed,
        expected_items=round(asked * passing.expected),
    )


def can_be_layered(items: Sequence[Item]) -> bool:
    """Whether a stratum's answers will have a confidence (`execution.layers`): whether all are choices."""
    return all(item.kind == "choice" and len(item.choices) > 1 for item in items)


def _layered_power(n: int, margin: float, policy: Policy, layers: Layers) -> float:
    """Chance that an unchanged candidate passes if _FLIPS_UNSURE of its flips are where the baseline is unsure."""
    unsure, drawn, left_out = part(n, layers)
    pools, flips = (unsure, drawn + left_out), np.array([_FLIPS_UNSURE, 1.0 - _FLIPS_UNSURE]) * policy.discordance
    rates = np.minimum(flips * n / np.maximum(pools, 1), 1.0)
    return layered_power(pools, (unsure, drawn), rates, margin, policy.alpha)


def layered_route(experiment: Experiment, items: Sequence[Item], design: Design, power: float = 0.8) -> Route | None:
    """Return the route by layers, the config's or those of docs/verdict.md; None unless all that gates is choices."""
    rules = Rules.from_experiment(experiment)
    gating = [members for place, members in by_stratum(items).items() if rules.gating(*place)]
    if design.pooled is not None or not all(map(can_be_layered, gating)):
        return None
    layers = experiment.execution.layers or Layers(unsure=0.3, sure_share=0.36)
    wanted = power ** (1.0 / len(design.margins))

    @functools.cache
    def pool(margin: float) -> int:
        return first_number(lambda n: _layered_power(n, margin, experiment.policy, layers) >= wanted) or 0

    pools = [pool(margin) for margin in design.margins]
    asked = sum(sum(part(n, layers)[:2]) for n in pools)
    return Route(design, asked, asked, power, sum(pools)) if all(pools) else None


def check_layers(experiment: Experiment, items: Sequence[Item], source: str) -> None:
    """Refuse layers where they would do nothing, or where items share sources. Raises ConfigError."""
    own = {place: members for place, members in by_stratum(items).items() if can_be_layered(members)}
    shared = [place for place, members in own.items() if len({item.cluster for item in members}) < len(members)]
    text = "" if own else "no stratum consists of choices, so every item would be asked of everybody: leave it out"
    if shared:
        where = _named(shared, "/".join(shared[0]))
        text = f"cannot be combined with items that share a source, as in {where}: run such slices on their own"
    if text and experiment.execution.layers:
        raise ConfigError(source, [Problem("execution.layers", text)])


def _last_level(experiment: Experiment, n: int, parts: int = 1) -> float:
    """What the last look at n items has left of alpha, or of one of its parts: looking before has spent some."""
    sizes, policy = look_sizes(n, experiment.execution.looks), experiment.policy
    return nominal_alpha([size / n for size in sizes], policy.alpha / parts, Spending.of(policy.spending))


def design_of(experiment: Experiment, table: Sequence[Power]) -> Design | None:
    """Return what the gating strata of a plan demand; None if there are none."""
    policy, margins = experiment.policy, tuple(row.margin for row in table if row.gating)
    more = (experiment.execution.looks, Spending.of(policy.spending), policy.discordance, policy.alpha)
    return Design(margins, policy.pooled_margin, *more) if margins else None


def check_power(experiment: Experiment, table: Sequence[Power], source: str) -> None:
    """Refuse gating strata too small to ever pass, and patterns that match none. Raises ConfigError with every one."""
    unused = Rules.from_experiment(experiment).unmatched_globs((row.slice, row.stratum) for row in table)
    problems = [Problem("policy", text) for text in unused if not isinstance(experiment, Cut)]
    if not experiment.policy.refuse_hopeless:
        table = []
    for index, spec in enumerate(experiment.slices):
        if rows := [row for row in table if row.slice == spec.key and row.gating and not row.can_pass]:
            problems.append(_hopeless(experiment, index, rows))
    pooled, items = experiment.policy.pooled_margin, sum(row.items for row in table if row.gating)
    if pooled is not None and items and not stats.can_ever_pass(items, pooled, _last_level(experiment, items)):
        text = f"{items} items in all gating strata can never pass a pooled margin of {pooled:g}"
        problems.append(Problem("policy.pooled_margin", f"{text}, even if none is lost. Raise items or the margin"))
    if problems:
        raise ConfigError(source, problems)


def _hopeless(experiment: Experiment, index: int, rows: Sequence[Power]) -> Problem:
    worst = min(rows, key=lambda row: row.clusters)
    size = -(-worst.items // worst.clusters)
    needed = stats.smallest_that_can_pass(worst.margin, _last_level(experiment, worst.items), per_source=size)
    if (layers := experiment.execution.layers) and worst.expected_items < worst.items:
        needed = first_number(lambda n: _layered_power(n, worst.margin, experiment.policy, layers) > 0.0) or needed
    have, more = f"{worst.items} items", f"{needed} are needed"
    if worst.clusters < worst.items:
        have += f" from {worst.clusters} sources"
        more = f"about {needed * size} items from {needed} sources of one size are needed"
    never = f"{have} in {_named(rows, worst.stratum)} can never pass a margin of {worst.margin:g}"
    text = f"{never}, even if the candidate loses none: {more}. Raise items or the margin, or set gating: false"
    return Problem(f"slices[{index}].items", text)


def _named(rows: Sequence[object], stratum: str) -> str:
    return stratum + (f" and {len(rows) - 1} more strata" if len(rows) > 1 else "")


@dataclass(frozen=True, slots=True)
class EventPower:
    """What a stratum's items can decide about the tail events that one tolerance gates.

    No event among n independent items shows a rate below t when (1 - t)^n < alpha: 299 items for 1 % at 5 %.
    """

    slice: str  # the slice's label
    stratum: str
    tolerance: float  # largest tolerated rate
    kinds: tuple[str, ...]  # that it gates here
    items: int  # planned, of the kind that has fewest
    needed: int  # items that show a rate below the tolerance when none of them has an event
    can_pass: bool  # whether there are that many


def event_power(experiment: Experiment, items: Sequence[Item]) -> list[EventPower]:
    """Give a row per stratum and tolerance, in the order of the items; none where nothing gates."""
    rules, alpha = Rules.from_experiment(experiment), experiment.policy.alpha
    members: dict[tuple[str, str, float], dict[str, list[Item]]] = defaultdict(lambda: defaultdict(list))
    for item in items:
        for kind in sorted(possible(item).union(experiment.policy.latency if item.kind == "generate" else ())):
            tolerance = rules.tolerance(item.slice, item.stratum, kind)
            if tolerance is not None:
                members[item.slice, item.stratum, tolerance][kind].append(item)
    rows = []
    for (slice_name, stratum, tolerance), by_kind in members.items():
        fewest = min(by_kind.values(), key=len)
        clean = event_rate([False] * len(fewest), [item.cluster for item in fewest], alpha=alpha, gates=True)
        needed = math.ceil(items_without_event(tolerance, alpha) * clean.unit)
        kinds, can_pass = tuple(by_kind), clean.high < tolerance
        rows.append(EventPower(slice_name, stratum, tolerance, kinds, len(fewest), needed, can_pass))
    return rows


def check_events(experiment: Experiment, items: Sequence[Item], source: str) -> None:
    """Refuse tolerances that no stratum can pass, or that hold nobody. Raises ConfigError with every one of them."""
    if not experiment.policy.refuse_hopeless:
        return
    table, shared = event_power(experiment, items), {one.key for one in experiment.slices if one.tail_events is None}
    named = () if isinstance(experiment, Cut) else (kind for kind in experiment.policy.tail_events if kind != "*")
    held = [(f"slices[{at}]", one.tail_events or (), {one.key}) for at, one in enumerate(experiment.slices)]
    problems = []
    for place, kinds, slices in (("policy", named, shared), *held):
        own = [row for row in table if row.slice in slices]
        seen = {kind for row in own for kind in ("*", *row.kinds)}.union(THOUGHTS)  # only answers show thoughts
        text = "none of its items answers in a text that could show it: leave the tolerance out"
        problems += [Problem(f"{place}.tail_events.{kind}", text) for kind in kinds if kind not in seen]
        if place != "policy" and (hopeless := [row for row in own if not row.can_pass]):
            worst = max(hopeless, key=lambda row: row.needed - row.items)
            have = f"{worst.items} items in {_named(hopeless, worst.stratum)} can never show a rate of tail events"
            text = f"{have} below {worst.tolerance:g}, even if there is none: {worst.needed} are needed"
            remedy = "Raise items or the tolerance, or leave the slice without one (tail_events: {})"
            told = f"{text}. {remedy}: events are then shown and decide nothing"
            problems.append(Problem(f"{place}.tail_events", told))
    if problems:
        raise ConfigError(source, problems)
