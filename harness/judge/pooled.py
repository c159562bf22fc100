"""The pooled margin: the weighted difference over a candidate's gating strata, judged like one more stratum.

With `policy.pooled_margin` a candidate passes if this difference is above minus that margin *and* every gating stratum
is above minus its own, each at alpha: an intersection-union test (Berger 1982, Technometrics 24:295-300). Weights are
the traffic of the planned items, fixed before any answer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from harness.judge.rules import Rules
from harness.judge.summaries import Comparison, Look, StratumNumbers
from harness.stats.pooled import pooled_test
from harness.stats.sequential import Spending, nominal_alpha
from harness.stats.units import shared_sources

__all__ = ["LEAST_STEP", "POOLED", "Spread", "with_pooled"]

POOLED = ("all", "pooled")
"""What sentences call it, as slice and stratum."""

Spread = Callable[[int], tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]] | None]
"""Look to the differences, strata and sources of the items by then; None if every item is its own source."""

LEAST_STEP = 1e-4
"""Looks closer than this share of the items are one look."""


def with_pooled(compared: Comparison, rules: Rules, spread: Spread) -> Comparison:
    """Return a comparison with its pooled numbers, if a pooled margin is asked for and each gating stratum has some."""
    margin = rules.policy.pooled_margin
    gating = [at for at, one in enumerate(compared.strata) if one.gating]
    if margin is None or not gating or not all(compared.strata[at].looks for at in gating):
        return compared
    traffic = {at: rules.traffic.get(compared.strata[at].place, compared.strata[at].weight) for at in gating}
    kept = [at for at in gating if traffic[at] > 0.0] or gating
    strata = [compared.strata[at] for at in kept]
    weights = np.array([traffic[at] or 1.0 for at in kept])
    shares = weights / weights.sum()
    total = {
        name: sum(getattr(one, name) for one in strata)
        for name in ("planned", "asked", "unanswered", "unmatched", "one_sided", "flips")
    }
    # As large a share of it may be missing as of its strata together, each at its weight.
    asked = max(total["asked"] + total["unmatched"], 1)
    missing = math.fsum(shares * [one.one_sided / max(one.asked + one.unmatched, 1) for one in strata])
    total["one_sided"] = max(total["one_sided"], math.ceil(missing * asked - 1e-9))
    numbers = replace(
        strata[0],
        slice=POOLED[0],
        stratum=POOLED[1],
        margin=margin,
        looks=_looks(strata, shares, margin, rules, lambda number: _shared(spread(number), kept, shares)),
        excessive=any(one.excessive for one in strata),
        chance=math.fsum(shares * [one.chance for one in strata]),
        weight=float(weights.sum()),
        levels={},
        pooled=True,
        **total,
    )
    return replace(compared, pooled=numbers)


def _looks(
    strata: Sequence[StratumNumbers],
    shares: NDArray[np.float64],
    margin: float,
    rules: Rules,
    shared: Callable[[int], tuple[float, int] | None],
) -> tuple[Look, ...]:
    """Pool the strata as they stood at each look, from the first at which each has answers."""
    planned = np.array([one.planned for one in strata], float)
    spending = Spending.of(rules.policy.spending)
    found: dict[float, Look] = {}
    for number in sorted({look.number for one in strata for look in one.looks}):
        parts = [[look for look in one.looks if look.number <= number] for one in strata]
        if not all(parts):
            continue
        current = [looks[-1] for looks in parts]
        # The share of the information, by the items planned: nothing of the answers enters.
        asked = planned * [look.fractions[-1] for look in current]
        time = min(float((shares**2 / planned).sum() / (shares**2 / asked).sum()), 1.0)
        time = 1.0 if time > 1.0 - LEAST_STEP else time
        if found and time - max(found) < LEAST_STEP:
            continue
        fractions = (*found, time)
        level = nominal_alpha(fractions, rules.policy.alpha, spending)
        inflation, sources = shared(number) or (1.0, None)
        results = [look.result for look in current]
        found[time] = Look(
            number=number,
            fractions=fractions,
            level=level,
            above_chance_level=1.0,
            result=pooled_test(results, list(shares), margin, max(level, 1e-15), inflation=inflation, sources=sources),
            baseline_mean=math.fsum(shares * [look.baseline_mean for look in current]),
            candidate_mean=math.fsum(shares * [look.candidate_mean for look in current]),
            above_chance_p=0.0,  # each stratum is tested for signal on its own
            spending=spending,
        )
    return tuple(found.values())


def _shared(
    rows: tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]] | None,
    gating: Sequence[int],
    shares: NDArray[np.float64],
) -> tuple[float, int] | None:
    """Return what sources that several gating strata share do to the variance, and how many sources there are."""
    if rows is None:
        return None
    diffs, place, source = rows
    kept = np.isin(place, gating)
    diffs, place, source = diffs[kept], np.searchsorted(gating, place[kept]), source[kept]
    sizes = np.bincount(place, minlength=shares.size)
    means = np.bincount(place, diffs, shares.size) / np.maximum(sizes, 1)
    return shared_sources((diffs - means[place]) * (shares / np.maximum(sizes, 1))[place], place, source)
