"""The routing plan: which traffic could leave the baseline, to which variant, and what that would cost.

In every stratum the cheapest variant that *passed* there, in its scores and in every gated rate of tail events, takes
the traffic; where none passed, or none that passed is cheaper, the baseline keeps it. Undecided is not passed. Cost is
relative to the baseline, by weight bytes and by time per token, as far as both were measured: the two often disagree,
and which one is paid is the reader's to know. Each routed stratum passed at the policy's alpha on its own; the plan as
a whole carries that chance once per stratum.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from harness.judge.verdicts import Judgement, StratumVerdict
from harness.report import costs, tail
from harness.report.evidence import Evidence

__all__ = ["Plan", "Route", "plans"]

_MEASURES = (
    ("weight bytes", "weight_bytes", False),
    ("time per token", "tokens_per_second", True),
)
"""What is paid for, the cost's key, and whether more of it is cheaper."""


@dataclass(frozen=True, slots=True)
class Route:
    """Where one stratum's traffic goes."""

    slice: str
    """The slice's label."""
    stratum: str
    """The cell of its axes."""
    share: float
    """Its share of all traffic, in [0, 1]."""
    variant: str
    """The cheapest passing variant, or the baseline."""
    cost: float
    """Of that variant, the baseline being 1."""
    passed: tuple[str, ...]
    """All candidates that passed here, tail events included."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Routes for all strata under one measure of cost."""

    measure: str
    """What is paid for."""
    routes: tuple[Route, ...]
    """One per stratum, in the judgement's order."""
    leaving: float
    """Share of traffic that could leave the baseline."""
    blended: float
    """Cost of the whole traffic so routed, the baseline alone being 1."""
    weighted: bool
    """Whether the strata came with different weights; if not, each counts the same."""


def plans(judgement: Judgement, evidence: Evidence) -> list[Plan]:
    """Give one plan per measure that is known of the baseline and of at least one candidate."""
    made = []
    for measure, key, more_is_cheaper in _MEASURES:
        prices = _prices(judgement, evidence, key, more_is_cheaper=more_is_cheaper)
        if len(prices) > 1:
            made.append(_plan(judgement, measure, prices))
    return [plan for plan in made if plan.routes]


def _prices(judgement: Judgement, evidence: Evidence, key: str, *, more_is_cheaper: bool) -> dict[str, float]:
    """Give each variant's cost with the baseline as 1; variants without a figure are left out."""
    names = (judgement.baseline, *(candidate.name for candidate in judgement.candidates))
    known = {name: costs.positive(costs.cost_of(judgement, evidence, name).get(key)) for name in names}
    base = known[judgement.baseline]
    if base is None:
        return {}
    ratios = {name: value / base for name, value in known.items() if value is not None}
    return {name: 1 / ratio if more_is_cheaper else ratio for name, ratio in ratios.items()}


def _plan(judgement: Judgement, measure: str, prices: Mapping[str, float]) -> Plan:
    strata: dict[tuple[str, str], dict[str, tuple[StratumVerdict, bool]]] = {}
    for candidate in judgement.candidates:
        for one in candidate.strata if candidate.verdict != "not_judged" else ():
            found = strata.setdefault((one.slice, one.stratum), {})
            found[candidate.name] = one, tail.passes(candidate, one)
    weights = {place: next(iter(found.values()))[0].weight for place, found in strata.items()}
    total = math.fsum(weights.values())
    if not total > 0:
        return Plan(measure, (), 0.0, 1.0, weighted=False)
    routes = []
    for (label, name), found in strata.items():
        passed = tuple(variant for variant, (_, fits) in found.items() if fits)
        # The baseline first: a candidate that costs the same has no claim.
        choice = min((judgement.baseline, *(one for one in passed if one in prices)), key=lambda one: prices[one])
        share = weights[label, name] / total
        routes.append(Route(label, name, share, choice, prices[choice], passed))
    leaving = math.fsum(route.share for route in routes if route.variant != judgement.baseline)
    blended = math.fsum(route.share * route.cost for route in routes)
    return Plan(measure, tuple(routes), leaving, blended, weighted=len(set(weights.values())) > 1)
