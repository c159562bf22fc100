"""What each variant costs, and for which traffic it may be used: what passed, and the cheapest route of each stratum.

In every stratum the cheapest variant that *passed* there, in its scores and in every gated rate of tail events, takes
the traffic; if none passed, or none that passed is cheaper, the baseline keeps it. Undecided is not passed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from harness.judge.summaries import TailRate
from harness.judge.verdicts import CandidateVerdict, Judgement, StratumVerdict
from harness.report.blocks.findings import holding_back, passes
from harness.report.evidence import Evidence
from harness.report.section import Block, Cell, Chart, Line, Row, Section, names, numbers, strata, texts
from harness.report.words import bytes_text, number_text, percent, positive, short_name

_SPEED = "tokens per second"
_MEASURES: tuple[tuple[str, Callable[[float], float], str, str, str], ...] = (
    ("weight_bytes", lambda value: value / 1024**2, "weights", "weights, MiB", "weight bytes"),
    ("tokens_per_second", lambda value: 1000 / value, _SPEED, "time, ms per token", "time per token"),
    ("peak_bytes", lambda value: value / 1024**2, "peak memory", "peak memory, MiB", ""),
)
"""Key of a cost, what is paid by it, what it is called, the axis of its chart, and the plan that it is the price of."""
_MOST_OPEN = 4  # strata named that are held back


def _costs(judgement: Judgement, evidence: Evidence) -> dict[str, dict[str, Any]]:
    """Return what judgement and evidence know of each variant's cost, the evidence last; the baseline is first."""
    found: dict[str, dict[str, Any]] = {judgement.baseline: {}}
    found |= {one.name: _kept(one.proof) | dict(one.cost) for one in judgement.candidates}
    for name, cost in found.items():
        cost.update(_kept(evidence.proofs.get(name, {})) | dict(evidence.costs.get(name, {})))
    return found


def _kept(proof: Mapping[str, Any]) -> dict[str, Any]:
    return {key: proof[key] for key in ("weight_bytes", "bits_per_weight") if key in proof}


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


def proof_section(evidence: Evidence) -> Section:
    """Return what each loaded variant was measured to be."""
    keys = ("method", "kernel", "quantized_modules", "linear_modules", "bits_per_weight", "compute_dtype")
    rows: list[Row] = []
    for name, proof in evidence.proofs.items():
        method, kernel, quantized, linear, bits, dtype = (str(proof.get(key, "-")) for key in keys)
        rows.append((name, method, kernel, f"{quantized} of {linear}", bits, dtype))
    columns = texts("method", "kernel") + numbers("quantized modules", "bits/weight") + texts("compute dtype")
    folded = "what each loaded model was measured to be"
    return Section("Loaded models", names("variant") + columns, tuple(rows), folded=folded, formats=("page",))


def shares(judgement: Judgement) -> Section:
    """Return the strata passed by slice and candidate, with those that are held back."""
    judged, said, quiet = [one for one in judgement.candidates if one.strata], list[Row](), list[Row]()
    for label in dict.fromkeys(stratum.slice for one in judged for stratum in one.strata):
        cells = [_share(one, [stratum for stratum in one.strata if stratum.slice == label]) for one in judged]
        silent = all(cell.verdict in (None, "no_signal") for cell in cells)
        (quiet if silent else said).append((label, *cells))
    note = (
        "Strata in which each candidate passed, in its scores and in every gated rate of tail events, of all "
        "strata of the slice. All traffic of a slice may move only if all its strata passed."
    )
    title, columns = "Strata passed by slice and candidate", names("slice", *(one.name for one in judged))
    counted = f"No damage could be seen in {len(quiet)} more slices, as there is no signal." if quiet else ""
    return Section(title, columns, tuple(said), note=note, quiet=tuple(quiet), quiet_note=counted)


def _share(candidate: CandidateVerdict, own: Sequence[StratumVerdict]) -> Cell:
    """Return how many strata of a slice passed: fail if any failed, no signal if no damage could be seen in any."""
    open_ = [(one, holding_back(candidate, one)) for one in own if not passes(candidate, one)]
    if not open_:
        return Cell(f"{len(own)} of {len(own)}", verdict="pass") if own else Cell("-")
    if len(open_) == len(own) and all(one.verdict == "no_signal" and not rates for one, rates in open_):
        return Cell("", verdict="no_signal")
    failed = any("fail" in {one.verdict, *(rate.verdict for rate in rates)} for one, rates in open_)
    note = ""
    if len(open_) < len(own) or any(one.verdict == "pass" and rates for one, rates in open_):
        more = f" and {len(open_) - _MOST_OPEN} more" if len(open_) > _MOST_OPEN else ""
        note = f"not: {'; '.join(_held_back(*one) for one in open_[:_MOST_OPEN])}{more}"
    return Cell(f"{len(own) - len(open_)} of {len(own)}", note, "fail" if failed else "inconclusive")


def _held_back(stratum: StratumVerdict, rates: Sequence[TailRate]) -> str:
    """Name an open stratum, with the tail events that hold it back if its scores do not."""
    name, kinds = short_name(stratum.stratum), ", ".join(dict.fromkeys(one.kind for one in rates))
    if not kinds or stratum.verdict != "pass":
        return name
    return kinds if stratum.stratum == "all" else f"{name} ({kinds})"


class _Route(NamedTuple):
    """Where one stratum's traffic goes."""

    slice: str
    stratum: str
    share: float  # of all traffic, in [0, 1]
    variant: str  # the cheapest passing variant, or the baseline
    cost: float  # of that variant, the baseline being 1
    passed: tuple[str, ...]  # all candidates that passed here, tail events included


class _Plan(NamedTuple):
    """Routes for all strata under one measure of cost."""

    measure: str
    routes: tuple[_Route, ...]  # one per stratum, in the judgement's order
    leaving: float  # share of traffic that could leave the baseline
    blended: float  # cost of the whole traffic so routed, the baseline alone being 1
    weighted: bool  # the strata came with different weights; if not, each counts the same


def plans(judgement: Judgement, evidence: Evidence) -> list[_Plan]:
    """Return one routing plan per measure that is known of the baseline and of at least one candidate."""
    base, made = judgement.baseline, []
    weights: dict[tuple[str, str], float] = {}
    passed: dict[tuple[str, str], list[str]] = {}
    for candidate in (one for one in judgement.candidates if one.verdict != "not_judged"):
        for one in candidate.strata:
            weights.setdefault((one.slice, one.stratum), one.weight)
            passed.setdefault((one.slice, one.stratum), []).extend([candidate.name] * passes(candidate, one))
    total = math.fsum(weights.values())
    for key, price, *_, measure in _MEASURES:
        prices = _prices(_costs(judgement, evidence), key, price)
        if not measure or len(prices) < 2 or not total > 0:  # noqa: PLR2004 - the baseline and a candidate
            continue
        routes_ = []
        for place, found in passed.items():
            # The baseline first: a candidate that costs the same has no claim.
            choice = min((base, *(one for one in found if one in prices)), key=prices.__getitem__)
            routes_.append(_Route(*place, weights[place] / total, choice, prices[choice] / prices[base], tuple(found)))
        leaving = math.fsum(route.share for route in routes_ if route.variant != base)
        blended = math.fsum(route.share * route.cost for route in routes_)
        made.append(_Plan(measure, tuple(routes_), leaving, blended, weighted=len(set(weights.values())) > 1))
    return made


def routes(made: Sequence[_Plan], baseline: str) -> Section:
    """Return where each stratum's traffic could go, by each measure of cost; there is one at least."""
    columns, rows = names("slice") + strata("stratum") + numbers("share"), list[Row]()
    for plan in made:
        columns += names(f"by {plan.measure}") + numbers("cost")
    for own in zip(*(plan.routes for plan in made), strict=True):
        one, choices = own[0], (text for each in own for text in (each.variant, percent(each.cost)))
        rows.append((one.slice, one.stratum, percent(one.share), *choices, ", ".join(one.passed) or "none"))
    weights = "No traffic weights were given: every stratum counts the same."
    if made[0].weighted:
        weights = "Shares are by the strata's weights, the sums over their items: an item counts once unless the data "
        weights += "give it a weight."
    note = (
        "In every stratum the cheapest variant that passed there, tail events included, takes the traffic; if none "
        f"did, {baseline} keeps it. {weights} Each stratum was tested alone, so the chance of a wrong pass (alpha) "
        "holds for each stratum that moves, not once for the plan."
    )
    said = tuple(
        f"By {plan.measure}, {percent(plan.leaving)} of the traffic can move from {baseline} to a cheaper variant that "
        f"passed where it goes; all traffic then costs {percent(plan.blended)} of what it costs on {baseline}."
        if plan.leaving
        else f"By {plan.measure}, all traffic stays on {baseline}: no variant that passed anywhere is cheaper."
        for plan in made
    )
    folded = "the route of each stratum"
    return Section("Routing plan", columns + names("passed"), tuple(rows), said, note, folded)


def _routing(judgement: Judgement, evidence: Evidence) -> list[Section]:
    made = plans(judgement, evidence)
    why = "No routing plan: the cost of the baseline and of a candidate was not measured, or nothing was judged."
    routing = routes(made, judgement.baseline) if made else Section.listed("Routing plan", [why])
    return [shares(judgement), routing]


def _cost(judgement: Judgement, evidence: Evidence) -> list[Section]:
    return [cost_section(judgement, evidence), proof_section(evidence)]


_AGAINST, _ABSENT = "Quality against cost", "No cost was measured."
BLOCKS = (
    Block("routing", "For which traffic?", _routing, {"page": 10}, "Routing"),
    Block("cost", _AGAINST, _cost, {"terminal": 70, "markdown": 70, "page": 100}, "Cost", _ABSENT),
)
