"""For which traffic a candidate may be used: what passed, slice by slice, and the cheapest route of each stratum.

In every stratum the cheapest variant that *passed* there, in its scores and in every gated rate of tail events, takes
the traffic; if none passed, or none that passed is cheaper, the baseline keeps it. Undecided is not passed. Cost is
relative to the baseline, by weight bytes and by time per token, as far as both were measured. Each routed stratum
passed at the policy's alpha on its own; the plan as a whole carries that chance once per stratum.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from harness.judge.summaries import TailRate
from harness.judge.verdicts import CandidateVerdict, Judgement, StratumVerdict
from harness.report.blocks.cost import cost_of, variants
from harness.report.blocks.tail import holding_back, passes
from harness.report.evidence import Evidence
from harness.report.section import Block, Cell, Row, Section, names, numbers, strata
from harness.report.words import percent, positive, short_name

__all__ = ["BLOCKS", "Plan", "Route", "plans", "routes", "shares"]

_MOST_OPEN = 4  # strata named that are held back
_PAID = (("weight bytes", "weight_bytes", False), ("time per token", "tokens_per_second", True))
"""What is paid for, the cost's key, and whether more of it is cheaper."""


def shares(judgement: Judgement) -> Section:
    """Return the strata passed by slice and candidate, with those that are held back."""
    judged = [one for one in judgement.candidates if one.strata]
    said: list[Row] = []
    quiet: list[Row] = []
    for label in dict.fromkeys(stratum.slice for one in judged for stratum in one.strata):
        cells = [_share(one, [stratum for stratum in one.strata if stratum.slice == label]) for one in judged]
        silent = all(cell.verdict in (None, "no_signal") for cell in cells)
        (quiet if silent else said).append((label, *cells))
    return Section(
        "Strata passed by slice and candidate",
        names("slice", *(one.name for one in judged)),
        tuple(said),
        note="Strata in which each candidate passed, in its scores and in every gated rate of tail events, of all "
        "strata of the slice. All traffic of a slice may move only if all its strata passed.",
        quiet=tuple(quiet),
        quiet_note=f"No damage could be seen in {len(quiet)} more slices, as there is no signal." if quiet else "",
    )


def _share(candidate: CandidateVerdict, own: Sequence[StratumVerdict]) -> Cell:
    """Return how many strata of a slice passed: fail if any failed, no signal if no damage could be seen in any."""
    if not own:
        return Cell("-")
    open_ = [(one, holding_back(candidate, one)) for one in own if not passes(candidate, one)]
    passed = f"{len(own) - len(open_)} of {len(own)}"
    if not open_:
        return Cell(passed, verdict="pass")
    if len(open_) == len(own) and all(one.verdict == "no_signal" and not rates for one, rates in open_):
        return Cell("", verdict="no_signal")
    failed = any("fail" in {one.verdict, *(rate.verdict for rate in rates)} for one, rates in open_)
    note = ""
    if len(open_) < len(own) or any(one.verdict == "pass" and rates for one, rates in open_):
        note = f"not: {'; '.join(_held_back(*one) for one in open_[:_MOST_OPEN])}"
        note += f" and {len(open_) - _MOST_OPEN} more" if len(open_) > _MOST_OPEN else ""
    return Cell(passed, note, "fail" if failed else "inconclusive")


def _held_back(stratum: StratumVerdict, rates: Sequence[TailRate]) -> str:
    """Name an open stratum, with the tail events that hold it back if its scores do not."""
    name, kinds = short_name(stratum.stratum), ", ".join(dict.fromkeys(one.kind for one in rates))
    if not kinds or stratum.verdict != "pass":
        return name
    return kinds if stratum.stratum == "all" else f"{name} ({kinds})"


class Route(NamedTuple):
    """Where one stratum's traffic goes."""

    slice: str
    stratum: str
    share: float  # of all traffic, in [0, 1]
    variant: str  # the cheapest passing variant, or the baseline
    cost: float  # of that variant, the baseline being 1
    passed: tuple[str, ...]  # all candidates that passed here, tail events included


class Plan(NamedTuple):
    """Routes for all strata under one measure of cost."""

    measure: str
    routes: tuple[Route, ...]  # one per stratum, in the judgement's order
    leaving: float  # share of traffic that could leave the baseline
    blended: float  # cost of the whole traffic so routed, the baseline alone being 1
    weighted: bool  # the strata came with different weights; if not, each counts the same


def plans(judgement: Judgement, evidence: Evidence) -> list[Plan]:
    """Return one routing plan per measure that is known of the baseline and of at least one candidate."""
    made = []
    for measure, key, more_is_cheaper in _PAID:
        known = {name: positive(cost_of(judgement, evidence, name).get(key)) for name in variants(judgement)}
        if (base := known[judgement.baseline]) is not None:
            ratios = {name: value / base for name, value in known.items() if value is not None}
            prices = {name: 1 / ratio if more_is_cheaper else ratio for name, ratio in ratios.items()}
            made += [] if len(prices) == 1 else _plan(judgement, measure, prices)
    return made


def _plan(judgement: Judgement, measure: str, prices: Mapping[str, float]) -> list[Plan]:
    """Return the plan by these costs, the baseline's being 1; none without traffic."""
    base = judgement.baseline
    weights: dict[tuple[str, str], float] = {}
    passed: dict[tuple[str, str], list[str]] = {}
    for candidate in (one for one in judgement.candidates if one.verdict != "not_judged"):
        for one in candidate.strata:
            weights.setdefault((one.slice, one.stratum), one.weight)
            found = passed.setdefault((one.slice, one.stratum), [])
            found += [candidate.name] if passes(candidate, one) else []
    total = math.fsum(weights.values())
    if not total > 0:
        return []
    made = []
    for key, found in passed.items():
        # The baseline first: a candidate that costs the same has no claim.
        choice = min((base, *(one for one in found if one in prices)), key=prices.__getitem__)
        made.append(Route(*key, weights[key] / total, choice, prices[choice], tuple(found)))
    leaving = math.fsum(route.share for route in made if route.variant != base)
    blended = math.fsum(route.share * route.cost for route in made)
    return [Plan(measure, tuple(made), leaving, blended, weighted=len(set(weights.values())) > 1)]


def routes(made: Sequence[Plan], baseline: str) -> Section:
    """Return where each stratum's traffic could go, by each measure of cost; there is one at least."""
    columns = names("slice") + strata("stratum") + numbers("share")
    for plan in made:
        columns += names(f"by {plan.measure}") + numbers("cost")
    rows: list[Row] = []
    for own in zip(*(plan.routes for plan in made), strict=True):
        one, choices = own[0], (text for each in own for text in (each.variant, percent(each.cost)))
        rows.append((one.slice, one.stratum, percent(one.share), *choices, ", ".join(one.passed) or "none"))
    weights = "No traffic weights were given: every stratum counts the same."
    if made[0].weighted:
        weights = "Shares are by the strata's weights, the sums over their items: an item counts once unless the data "
        weights += "give it a weight."
    note = (
        "In every stratum the cheapest variant that passed there, tail events included, takes the traffic; if none "
        f"did, {baseline} keeps it. {weights} Each routed stratum passed on its own at the policy's level, so the plan "
        "carries that chance once per stratum."
    )
    said = tuple(_blended(plan, baseline) for plan in made)
    columns += names("passed")
    return Section("Routing plan", columns, tuple(rows), said, note, folded="the route of each stratum")


def _blended(plan: Plan, baseline: str) -> str:
    text = f"{percent(plan.leaving)} of the traffic could leave {baseline}, priced by {plan.measure}"
    if not plan.leaving:
        return f"{text}: no variant that passed anywhere is cheaper by this measure."
    return f"{text}: the blended cost is {percent(plan.blended)} of {baseline}'s."


def _routing(judgement: Judgement, evidence: Evidence) -> list[Section]:
    made = plans(judgement, evidence)
    why = "No routing plan: the cost of the baseline and of a candidate was not measured, or nothing was judged."
    routing = routes(made, judgement.baseline) if made else Section.listed("Routing plan", [why])
    return [shares(judgement), routing]


BLOCKS = (Block("routing", "For which traffic?", _routing, {"page": 10}, "Routing"),)
