"""What each variant costs, and for which traffic it may be used: what passed, and each stratum's cheapest route."""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from harness.judge.verdicts import Judgement
from harness.report.blocks.findings import passes
from harness.report.evidence import Evidence
from harness.report.section import Block, Chart, Line, Row, Section, names, numbers, strata
from harness.report.words import NOTES, bytes_text, number_text, percent, positive

_SPEED = "tokens per second"
_MEASURES: tuple[tuple[str, Callable[[float], float], str, str, str], ...] = (
    ("weight_bytes", lambda value: value / 1024**2, "weights", "weights, MiB", "weight bytes"),
    ("tokens_per_second", lambda value: 1000 / value, _SPEED, "time, ms per token", "time per token"),
    ("peak_bytes", lambda value: value / 1024**2, "peak memory", "peak memory, MiB", ""),
)
"""Key of a cost, what is paid by it, what it is called, the axis of its chart, and the plan that it is the price of."""


def _costs(judgement: Judgement, evidence: Evidence) -> dict[str, dict[str, Any]]:
    """Return what is known of each variant's cost, the baseline first; what was measured in a run counts last."""
    known = {judgement.baseline: {}, **{one.name: {**one.proof, **one.cost} for one in judgement.candidates}}
    return {one: {**own, **evidence.proofs.get(one, {}), **evidence.costs.get(one, {})} for one, own in known.items()}


def relative_cost(judgement: Judgement, evidence: Evidence, variant: str) -> str:
    """Return a variant's speed and sizes against the baseline's, as measured: ``2.0 times slower, 60.8 % of ...``."""
    costs, said = _costs(judgement, evidence), list[str]()
    for key, _, label, *_ in _MEASURES:
        one, other = (positive(costs[name].get(key)) for name in (variant, judgement.baseline))
        if one and other and label == _SPEED:
            times = f"{max(one / other, other / one):.1f} times {'slower' if one < other else 'faster'}"
            said.insert(0, f"{times if abs(one - other) > 0.05 * other else 'as fast'} ({one:.1f} {label})")
        elif one and other:
            said.append(f"{percent(one / other)} of its {label}")
    return ", ".join(said)


def cost_section(judgement: Judgement, evidence: Evidence) -> Section:
    """Return a row per variant, the baseline first; empty if nothing was measured."""
    known, rows = _costs(judgement, evidence), list[Row]()
    base = positive(known[judgement.baseline].get("weight_bytes"))
    for name, cost in known.items() if any(known.values()) else ():
        weight = positive(cost.get("weight_bytes"))
        share = percent(weight / base if weight and base else None)
        bits, speed = number_text(cost.get("bits_per_weight"), ",.2f"), number_text(cost.get("tokens_per_second"))
        load, peak = number_text(cost.get("load_seconds")), bytes_text(cost.get("peak_bytes"))
        rows.append((name, load, bytes_text(weight), share, bits, speed, peak))
    charts = cost_charts(judgement, evidence)
    note = "Tokens per second: prompt and answer tokens over the time spent answering."
    if charts:
        note += " Filled marks are on the frontier: no other variant is both cheaper and better."
    columns = numbers("load s", "weights", "of baseline", "bits/weight", "tokens/s", "peak memory")
    return Section("Cost", names("variant") + columns, tuple(rows), note=note, charts=charts, y="points")


def cost_charts(judgement: Judgement, evidence: Evidence) -> tuple[Chart, ...]:
    """Return change against each measure of cost, variants hollow that another one beats; the baseline's is 0."""
    averages = {one.name: one.averages[0].delta for one in judgement.candidates if one.averages}
    changes, made = {judgement.baseline: 0.0, **averages}, []
    for key, price, _, axis, _ in _MEASURES:
        prices = _prices(_costs(judgement, evidence), key, price)
        known = {name: (cost, change) for name, cost in prices.items() if (change := changes.get(name)) is not None}
        lines = []
        for name, (cost, change) in known.items():
            as_good = {one for one in known.values() if one[0] <= cost and one[1] >= change}
            lines.append(Line(name, ((cost, 100 * change),), hollow=as_good != {(cost, change)}))
        if len(lines) > 1:
            made.append(Chart(f"Average change by {axis}", axis, tuple(lines), scatter=True))
    return tuple(made)


def _prices(costs: Mapping[str, Mapping[str, Any]], key: str, price: Callable[[float], float]) -> dict[str, float]:
    """Return what each variant is paid with, as far as measured; nothing if the first one's, the baseline's, is not."""
    known = {name: price(value) for name, cost in costs.items() if (value := positive(cost.get(key))) is not None}
    return known if next(iter(costs)) in known else {}


class Plan(NamedTuple):
    """Where each stratum's traffic goes under one measure of cost."""

    measure: str
    variants: tuple[str, ...]  # one per stratum: the cheapest that passed, or the baseline
    costs: tuple[float, ...]  # of these, the baseline being 1
    leaving: float  # share of traffic that could leave the baseline
    blended: float  # cost of the whole traffic so routed, the baseline alone being 1


def traffic(judgement: Judgement) -> dict[tuple[str, str], tuple[float, list[str]]]:
    """Return of each stratum its share of all traffic and the candidates that passed there, tail events included."""
    found: dict[tuple[str, str], tuple[float, list[str]]] = {}
    for candidate in (one for one in judgement.candidates if one.verdict != "not_judged"):
        for one in candidate.strata:
            _, passed = found.setdefault((one.slice, one.stratum), (one.weight, []))
            passed += [candidate.name] * passes(candidate, one)
    total = math.fsum(weight for weight, _ in found.values())
    return {place: (weight / total, passed) for place, (weight, passed) in found.items()} if total > 0 else {}


def plans(judgement: Judgement, evidence: Evidence) -> list[Plan]:
    """Return one routing plan per measure that is known of the baseline and of at least one candidate."""
    base, places, made = judgement.baseline, traffic(judgement).values(), []
    for key, price, *_, measure in _MEASURES:
        prices = _prices(_costs(judgement, evidence), key, price)
        if not measure or len(prices) < 2 or not places:  # noqa: PLR2004 - the baseline and a candidate
            continue
        # The baseline first: a candidate that costs the same has no claim.
        able = [(base, *(one for one in passed if one in prices)) for _, passed in places]
        variants = tuple(min(own, key=prices.__getitem__) for own in able)
        costs = tuple(prices[one] / prices[base] for one in variants)
        leaving = math.fsum(share for (share, _), one in zip(places, variants, strict=True) if one != base)
        blended = math.fsum(share * cost for (share, _), cost in zip(places, costs, strict=True))
        made.append(Plan(measure, variants, costs, leaving, blended))
    return made


def routing(judgement: Judgement, evidence: Evidence) -> Section:
    """Return who passed in each stratum, and where its traffic could go by each measure of cost."""
    made, found, base = plans(judgement, evidence), traffic(judgement), judgement.baseline
    columns = names("slice") + strata("stratum") + numbers("share")
    for plan in made:
        columns += names(f"by {plan.measure}") + numbers("cost")
    rows = list[Row]()
    for at, (place, (share, passed)) in enumerate(found.items()):
        choices = (text for plan in made for text in (plan.variants[at], percent(plan.costs[at])))
        rows.append((*place, percent(share), *choices, ", ".join(passed) or "none"))
    note = NOTES["routing"].format(baseline=base) if made else ""
    said = []
    for plan in made:
        about = {"baseline": base, "measure": plan.measure, "share": percent(plan.leaving)}
        text = NOTES["traffic_moves" if plan.leaving else "traffic_stays"]
        said.append(text.format(**about, cost=percent(plan.blended)))
    said, folded = said or [NOTES["no_routing"]], "who passed in each stratum, and its route"
    return Section("Routing plan", columns + names("passed"), tuple(rows), tuple(said), note, folded)


_AGAINST, _ABSENT = "Quality against cost", "No cost was measured."
BLOCKS = (
    Block("routing", "For which traffic?", routing, {"page": 10}, "Routing"),
    Block("cost", _AGAINST, cost_section, {"terminal": 70, "markdown": 70, "page": 100}, "Cost", _ABSENT),
)
