"""What each variant costs, and which traffic could move to a cheaper one.

In every stratum the cheapest variant that *passed* there, in its scores and in every gated rate of tail events, takes
the traffic; if none passed, or none that passed is cheaper, the baseline keeps it. Undecided is not passed. Cost is
relative to the baseline, by weight bytes and by time per token, as far as both were measured. Each routed stratum
passed at the policy's alpha on its own; the plan as a whole carries that chance once per stratum.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from harness.judge.verdicts import Judgement, StratumVerdict
from harness.report import tail, words
from harness.report.evidence import Evidence

__all__ = [
    "CostPoint", "Plan", "Route", "bytes_text", "cost_of", "cost_points", "number_text", "plans", "positive",
    "relative_cost", "variants",
]  # fmt: skip

_COMPARED = (("weight_bytes", "weights"), ("tokens_per_second", "tokens per second"), ("peak_bytes", "peak memory"))
_PAID = (("weight bytes", "weight_bytes", False), ("time per token", "tokens_per_second", True))
"""What is paid for, the cost's key, and whether more of it is cheaper."""
_STEP = 1024


def positive(value: object) -> float | None:
    """Return a figure as it is if it is a finite number above zero, else None: what a ratio can be made of."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return float(value) if value > 0 else None


def bytes_text(value: object) -> str:
    """Return a number of bytes for reading, as in ``4.5 GiB``; ``-`` if there is none."""
    size = positive(value)
    if size is None:
        return "-"
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < _STEP:
            return f"{size:.0f} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= _STEP
    return f"{size:.1f} TiB"


def number_text(value: object, digits: int = 1) -> str:
    """Return a figure with so many digits; ``-`` if there is none."""
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not math.isfinite(value):
        return "-"
    return f"{value:,.{digits}f}"


def variants(judgement: Judgement) -> tuple[str, ...]:
    """Return the names of the baseline and of the candidates."""
    return judgement.baseline, *(candidate.name for candidate in judgement.candidates)


def cost_of(judgement: Judgement, evidence: Evidence, variant: str) -> dict[str, Any]:
    """Merge what judgement and evidence know of a variant's cost, the evidence last."""
    merged: dict[str, Any] = {}
    for candidate in judgement.candidates:
        if candidate.name == variant:
            merged |= {k: candidate.proof[k] for k in ("weight_bytes", "bits_per_weight") if k in candidate.proof}
            merged |= candidate.cost
    proof = evidence.proofs.get(variant, {})
    merged |= {key: proof[key] for key in ("weight_bytes", "bits_per_weight") if key in proof}
    return merged | dict(evidence.costs.get(variant, {}))


def relative_cost(judgement: Judgement, evidence: Evidence, variant: str) -> str:
    """Return a variant's cost as shares of the baseline's, as far as both were measured: ``60.8 % of its weights``."""
    own, base = (cost_of(judgement, evidence, name) for name in (variant, judgement.baseline))
    shares = [(label, positive(own.get(key)), positive(base.get(key))) for key, label in _COMPARED]
    return ", ".join(f"{words.percent(one / other)} of its {label}" for label, one, other in shares if one and other)


@dataclass(frozen=True, slots=True)
class Route:
    """Where one stratum's traffic goes."""

    slice: str
    """The slice's label."""
    stratum: str
    """The levels of its axes."""
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
    """Return one routing plan per measure that is known of the baseline and of at least one candidate."""
    made = []
    for measure, key, more_is_cheaper in _PAID:
        prices = _prices(judgement, evidence, key, more_is_cheaper=more_is_cheaper)
        if len(prices) > 1:
            made.append(_plan(judgement, measure, prices))
    return [plan for plan in made if plan.routes]


def _prices(judgement: Judgement, evidence: Evidence, key: str, *, more_is_cheaper: bool) -> dict[str, float]:
    """Return each variant's cost with the baseline as 1; variants without a figure are left out."""
    known = {name: positive(cost_of(judgement, evidence, name).get(key)) for name in variants(judgement)}
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
    weights = {key: next(iter(found.values()))[0].weight for key, found in strata.items()}
    total = math.fsum(weights.values())
    if not total > 0:
        return Plan(measure, (), 0.0, 1.0, weighted=False)
    routes = []
    for key, found in strata.items():
        passed = tuple(variant for variant, (_, fits) in found.items() if fits)
        # The baseline first: a candidate that costs the same has no claim.
        choice = min((judgement.baseline, *(one for one in passed if one in prices)), key=lambda one: prices[one])
        routes.append(Route(*key, weights[key] / total, choice, prices[choice], passed))
    leaving = math.fsum(route.share for route in routes if route.variant != judgement.baseline)
    blended = math.fsum(route.share * route.cost for route in routes)
    return Plan(measure, tuple(routes), leaving, blended, weighted=len(set(weights.values())) > 1)


@dataclass(frozen=True, slots=True)
class CostPoint:
    """Every variant's cost of one kind against its average change."""

    measure: str
    """The axis, with its unit."""
    points: tuple[tuple[str, float, float, bool], ...]
    """Name, cost, change as a proportion, and whether nothing is both cheaper and better."""


def cost_points(judgement: Judgement, evidence: Evidence) -> list[CostPoint]:
    """Return quality against each measure of cost that the baseline, at a change of 0, and a candidate have."""
    changes = {judgement.baseline: 0.0}
    for candidate in judgement.candidates:
        if candidate.averages and candidate.averages[0].delta is not None:
            changes[candidate.name] = candidate.averages[0].delta
    made = []
    for measure, key, convert in _AXES:
        values = {name: positive(cost_of(judgement, evidence, name).get(key)) for name in changes}
        known = {name: convert(value) for name, value in values.items() if value is not None}
        if judgement.baseline in known and len(known) > 1:
            made.append(CostPoint(measure, tuple(_frontier(known, changes))))
    return made


_AXES: tuple[tuple[str, str, Callable[[float], float]], ...] = (
    ("weights, MiB", "weight_bytes", lambda value: value / _STEP**2),
    ("time, ms per token", "tokens_per_second", lambda value: 1000 / value),
    ("peak memory, MiB", "peak_bytes", lambda value: value / _STEP**2),
)


def _frontier(costs: Mapping[str, float], changes: Mapping[str, float]) -> Iterator[tuple[str, float, float, bool]]:
    for name, cost in costs.items():
        beaten = any(
            (costs[other] < cost and changes[other] >= changes[name])
            or (costs[other] <= cost and changes[other] > changes[name])
            for other in costs
        )
        yield name, cost, changes[name], not beaten
