"""For which traffic a candidate may be used: what passed, slice by slice, and the cheapest route of each stratum."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from harness.judge.verdicts import Judgement
from harness.report import words
from harness.report.costs import Plan, plans
from harness.report.evidence import Evidence
from harness.report.section import Block, Cell, Column, Row, Section, names, numbers, strata
from harness.report.traffic import Share, shares

__all__ = ["BLOCKS", "routes", "shares_section"]

_MOST_OPEN = 4
"""Strata named that are held back."""


def shares_section(judgement: Judgement) -> Section:
    """Return the strata passed by slice and candidate, with those that are held back."""
    judged = [one.name for one in judgement.candidates if one.strata]
    said: list[Row] = []
    quiet: list[Row] = []
    for label, found in shares(judgement):
        silent = all(one is None or one.verdict == "no_signal" for one in found)
        cells = ("-" if one is None else _cell(one) for one in found)
        (quiet if silent else said).append((label, *cells))
    note = (
        "Strata in which each candidate passed, in its scores and in every gated rate of tail events, of all strata of "
        "the slice. All traffic of a slice may move only if all its strata passed."
    )
    silent_note = f"No damage could be seen in {len(quiet)} more slices, as there is no signal." if quiet else ""
    title = "Strata passed by slice and candidate"
    return Section(title, names("slice", *judged), tuple(said), note=note, quiet=tuple(quiet), quiet_note=silent_note)


def _cell(share: Share) -> Cell:
    text = "" if share.verdict == "no_signal" else f"{share.passed} of {share.strata}"
    if not (0 < share.passed < share.strata or share.by_events):
        return Cell(text, verdict=share.verdict)
    more = f" and {len(share.open) - _MOST_OPEN} more" if len(share.open) > _MOST_OPEN else ""
    return Cell(text, f"not: {'; '.join(share.open[:_MOST_OPEN])}{more}", share.verdict)


def routes(made: Sequence[Plan], baseline: str) -> Section:
    """Return where each stratum's traffic could go, by each measure of cost."""
    columns: tuple[Column, ...] = names("slice") + strata("stratum") + numbers("share")
    for plan in made:
        columns += names(f"by {plan.measure}") + numbers("cost")
    rows = tuple(
        (
            route.slice,
            route.stratum,
            words.percent(route.share),
            *(text for plan in made for text in (plan.routes[at].variant, words.percent(plan.routes[at].cost))),
            ", ".join(route.passed) or "none",
        )
        for at, route in enumerate(made[0].routes if made else ())
    )
    weighted = bool(made) and made[0].weighted
    weights = (
        "Shares are by the strata's weights, the sums over their items: an item counts once unless the data give it a "
        "weight."
        if weighted
        else "No traffic weights were given: every stratum counts the same."
    )
    note = (
        "In every stratum the cheapest variant that passed there, tail events included, takes the traffic; if none "
        f"did, {baseline} keeps it. {weights} Each routed stratum passed on its own at the policy's level, so the plan "
        "carries that chance once per stratum."
    )
    said = tuple(_blended(plan, baseline) for plan in made)
    return Section("Routing plan", columns + names("passed"), rows, said, note, folded="the route of each stratum")


def _blended(plan: Plan, baseline: str) -> str:
    text = f"{words.percent(plan.leaving)} of the traffic could leave {baseline}, priced by {plan.measure}"
    if not plan.leaving:
        return f"{text}: no variant that passed anywhere is cheaper by this measure."
    return f"{text}: the blended cost is {words.percent(plan.blended)} of {baseline}'s."


def _routing(judgement: Judgement, evidence: Evidence) -> Iterator[Section]:
    yield shares_section(judgement)
    if made := plans(judgement, evidence):
        yield routes(made, judgement.baseline)
    else:
        why = "No routing plan: the cost of the baseline and of a candidate was not measured, or nothing was judged."
        yield Section.listed("Routing plan", [why])


BLOCKS = (Block("routing", "For which traffic?", _routing, {"page": 10}, "Routing"),)
