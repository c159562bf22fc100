"""The pooled margin: the weighted difference over a candidate's gating strata, judged like one more stratum.

A candidate passes if this difference is above minus that margin *and* every gating stratum is above minus its own, each
at alpha: an intersection-union test. Weights are the traffic of the planned items, fixed before any answer.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from harness.judge.outcomes import Columns, Floats
from harness.judge.rules import Rules
from harness.judge.summaries import Comparison, Look, StratumNumbers
from harness.stats.pooled import pooled_test
from harness.stats.sequential import SMALLEST_STEP, Spending, nominal_alpha
from harness.stats.units import Shared, shared_sources

POOLED = ("all", "pooled")  # what sentences call it, as slice and stratum
_SharedBy = Callable[[int], Shared | None]  # look to what is shared by then


def with_pooled(compared: Comparison, rules: Rules, columns: Columns) -> Comparison:
    """Return a comparison with its pooled numbers, if a pooled margin is asked for and each gating stratum has some."""
    margin, gating = rules.policy.pooled_margin, [at for at, one in enumerate(compared.strata) if one.gating]
    if margin is None or not gating or not all(compared.strata[at].looks for at in gating):
        return compared
    traffic = {at: rules.traffic.get(compared.strata[at].place, compared.strata[at].weight) for at in gating}
    kept = [at for at in gating if traffic[at] > 0.0] or gating
    strata, weights = [compared.strata[at] for at in kept], np.array([traffic[at] or 1.0 for at in kept])
    shares = weights / weights.sum()
    counted = ("planned", "asked", "unanswered", "unmatched", "one_sided", "flips")
    total = {name: sum(getattr(one, name) for one in strata) for name in counted}
    fixed: dict[str, Any] = {"slice": POOLED[0], "stratum": POOLED[1], "margin": margin, "levels": {}, "pooled": True}
    numbers = replace(
        strata[0],
        looks=_looks(strata, shares, margin, rules, lambda look: _shared(columns, look, kept, shares)),
        excessive=any(one.excessive for one in strata),
        chance=math.fsum(shares * [one.chance for one in strata]),
        weight=float(weights.sum()),
        **fixed,
        **total,
    )
    return replace(compared, pooled=numbers)


def _looks(
    strata: Sequence[StratumNumbers], shares: Floats, margin: float, rules: Rules, shared: _SharedBy
) -> tuple[Look, ...]:
    """Pool the strata as they stood at each look, from the first at which each has answers."""
    planned, spending = np.array([one.planned for one in strata], float), Spending.of(rules.policy.spending)
    found: dict[float, Look] = {}
    for number in sorted({look.number for one in strata for look in one.looks}):
        parts = [[look for look in one.looks if look.number <= number] for one in strata]
        if not all(parts):
            continue
        current = [looks[-1] for looks in parts]
        # The share of the information, by the items planned: nothing of the answers enters.
        asked = planned * [look.fractions[-1] for look in current]
        time = min(float((shares**2 / planned).sum() / (shares**2 / asked).sum()), 1.0)
        time = 1.0 if time > 1.0 - SMALLEST_STEP else time
        if found and time - max(found) < SMALLEST_STEP:
            continue
        fractions = (*found, time)
        level = nominal_alpha(fractions, rules.policy.alpha, spending)
        sides = [look.result for look in current], [look.worst or look.result for look in current]
        result, worst = (pooled_test(one, list(shares), margin, max(level, 1e-15), shared(number)) for one in sides)
        before = math.fsum(shares * [look.baseline_mean for look in current])
        after = math.fsum(shares * [look.candidate_mean for look in current])
        # Not tested for signal: each stratum is, on its own.
        found[time] = Look(number, fractions, level, 1.0, result, before, after, 0.0, spending, worst)
    return tuple(found.values())


def _shared(columns: Columns, look: int, gating: Sequence[int], shares: Floats) -> Shared | None:
    """Return what sources in several gating strata do to the variance by a look, and their number; None without any.

    Of two kinds of sources the one that does more.
    """
    kept = columns.answered & (columns.look <= look) & np.isin(columns.place, gating)
    diffs = (columns.after - columns.before)[kept]
    place = np.searchsorted(gating, columns.place[kept])
    sizes = np.bincount(place, minlength=shares.size)
    means = np.bincount(place, diffs, shares.size) / np.maximum(sizes, 1)
    influence = (diffs - means[place]) * (shares / np.maximum(sizes, 1))[place]
    kinds = [one[kept].astype(np.int64) for one in (columns.cluster, columns.other) if one is not None]
    return max(filter(None, (shared_sources(influence, place, one) for one in kinds)), default=None)
