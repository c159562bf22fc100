"""For which traffic a candidate may be used: what passed, slice by slice, and the cheapest route of each stratum.

In every stratum the cheapest variant that *passed* there, in its scores and in every gated rate of tail events, takes
the traffic; if none passed, or none that passed is cheaper, the baseline keeps it. Undecided is not passed. Cost is
relative to the baseline, by weight bytes and by time per token, as far as both were measured. Each routed stratum
passed at the policy's alpha on its own; the plan as a whole carries that chance once per stratum.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from harness.judge.summaries import TailRate, Verdict
from harness.judge.verdicts import CandidateVerdict, Judgement, StratumVerdict
from harness.report.blocks.cost import cost_of, variants
from harness.report.blocks.tail import holding_back, passes
from harness.report.evidence import Evidence
from harness.report.section import Block, Cell, Row, Section, names, numbers, strata
from harness.report.words import percent, positive, short_name

__all__ = ["BLOCKS", "Plan", "Route", "Share", "plans", "routes", "shares", "shares_section"]

_MOST_OPEN = 4  # strata named that are held back
_PAID = (("weight bytes", "weight_bytes", False), ("time per token", "tokens_per_second", True))
"""What is paid for, the cost's key, and whether more of it is cheaper."""


class Share(NamedTuple):
    """What one candidate may take of one slice."""

    verdict: Verdict  # pass if all strata passed, fail if any failed, no signal if there is none in any
    passed: int  # strata that passed, in their scores and in every gated rate of tail events
    strata: int  # all strata of the slice, advisory ones too
    open: tuple[str, ...]  # strata that did not pass, by their levels, with the tail events that alone hold them back
    by_events: bool  # tail events alone held one of them back


def shares(judgement: Judgement) -> list[tuple[str, list[Share | None]]]:
    """Give, by slice, what each judged candidate passed there; None if it has no stratum of the slice."""
    judged = [one for one in judgement.candidates if one.strata]
    labels = list(dict.fromkeys(stratum.slice for one in judged for stratum in one.strata))
    return [(label, [_share(one, label) for one in judged]) for label in labels]


def _share(candidate: CandidateVerdict, label: str) -> Share | None:
    own = [one for one in candidate.strata if one.slice == label]
    if not own:
        return None
    open_ = [(one, holding_back(candidate, one)) for one in own if not passes(candidate, one)]
    verdict: Verdict = "inconclusive"
    if not open_:
        verdict = "pass"
    elif len(open_) == len(own) and all(one.verdict == "no_signal" and not rates for one, rates in open_):
        verdict = "no_signal"
    elif any("fail" in {one.verdict, *(rate.verdict for rate in rates)} for one, rates in open_):
        verdict = "fail"
    by_events = any(one.verdict == "pass" and rates for one, rates in open_)
    return Share(verdict, len(own) - len(open_), len(own), tuple(_held_back(*one) for one in open_), by_events)


def _held_back(stratum: StratumVerdict, rates: Sequence[TailRate]) -> str:
    """Name an open stratum, with the tail events that hold it back if its scores do not."""
    name, kinds = short_name(stratum.stratum), ", ".join(dict.fromkeys(one.kind for one in rates))
    if not kinds or stratum.verdict != "pass":
        return name
    return kinds if stratum.stratum == "all" else f"{name} ({kinds})"


def shares_section(judgement: Judgement) -> Section:
    """Return the strata passed by slice and candidate, with those that are held back."""
    said: list[Row] = []
    quiet: list[Row] = []
    for label, found in shares(judgement):
        silent = all(one is None or one.verdict == "no_signal" for one in found)
        (quiet if silent else said).append((label, *("-" if one is None else _cell(one) for one in found)))
    return Section(
        "Strata passed by slice and candidate",
        names("slice", *(one.name for one in judgement.candidates if one.strata)),
        tuple(said),
        note="Strata in which each candidate passed, in its scores and in every gated rate of tail events, of all "
        "strata of the slice. All traffic of a slice may move only if all its strata passed.",
        quiet=tuple(quiet),
        quiet_note=f"No damage could be seen in {len(quiet)} more slices, as there is no signal." if quiet else "",
    )


def _cell(share: Share) -> Cell:
    text = "" if share.verdict == "no_signal" else f"{share.passed} of {share.strata}"
    if not (0 < share.passed < share.strata or share.by_events):
        return Cell(text, verdict=share.verdict)
    more = f" and {len(share.open) - _MOST_OPEN} more" if len(share.open) > _MOST_OPEN else ""
    return Cell(text, f"not: {'; '.join(share.open[:_MOST_OPEN])}{more}", share.verdict)


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
    rows = tuple(
        (one.slice, one.stratum, percent(one.share), *_choices(made, at), ", ".join(one.passed) or "none")
        for at, one in enumerate(made[0].routes)
    )
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
    return Section("Routing plan", columns + names("passed"), rows, said, note, folded="the route of each stratum")


def _choices(made: Sequence[Plan], at: int) -> Iterator[str]:
    for plan in made:
        yield plan.routes[at].variant
        yield percent(plan.routes[at].cost)


def _blended(plan: Plan, baseline: str) -> str:
    text = f"{percent(plan.leaving)} of the traffic could leave {baseline}, priced by {plan.measure}"
    if not plan.leaving:
        return f"{text}: no variant that passed anywhere is cheaper by this measure."
    return f"{text}: the blended cost is {percent(plan.blended)} of {baseline}'s."


def _routing(judgement: Judgement, evidence: Evidence) -> Iterator[Section]:
    yield shares_section(judgement)
    if made := plans(judgement, evidence):
        yield routes(made, judgement.baseline)
    else:
        why = "No routing plan: the cost of the baseline and of a candidate was not measured, or nothing was judged."
        yield Section.listed("Routing plan", [why])


BLOCKS = (Block("routing", "For which traffic?", _routing, {"page": 10}, "Routing"),)
