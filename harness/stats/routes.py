"""What a verdict takes by each route to it: every stratum at once, with looks, with a pooled margin, or with both.

All routes pass an unchanged candidate with the same chance over all its strata together, and err at the same rates.
They differ in items, and in what a pass promises of one stratum. Normal approximations, as in `harness.stats.plan`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from harness.stats.plan import first_number, pass_power
from harness.stats.sequential import OBRIEN_FLEMING, LooksPlan, Spending, looks_plan

GUARD = 2.5  # a stratum's own margin next to a pooled one, in pooled margins, where a config has none


@dataclass(frozen=True, slots=True)
class Design:
    """What is asked of a candidate."""

    margins: tuple[float, ...]  # largest tolerated drop of each gating stratum
    pooled: float | None = None  # largest tolerated drop over all of them, equally weighted
    looks: int = 1
    spending: Spending = OBRIEN_FLEMING
    discordance: float = 0.1
    alpha: float = 0.05


@dataclass(frozen=True, slots=True)
class Route:
    """What a design takes."""

    design: Design
    largest: int  # items over all strata, at most
    expected: int  # items over all strata, expected if the candidate is unchanged
    power: float  # chance that an unchanged candidate passes


def _plan(design: Design, n: float, margin: float) -> LooksPlan:  # a stratum of n items, or all of them
    fixed = pass_power(n, margin, design.discordance, design.alpha)
    return looks_plan(fixed, design.alpha, design.looks, design.spending)


def _joint(design: Design, sizes: Sequence[int]) -> tuple[float, float]:
    """Chance that an unchanged candidate passes with so many items in its strata, and how many are expected."""
    known = {key: _plan(design, *key) for key in set(zip(sizes, design.margins, strict=True))}
    own = [known[key] for key in zip(sizes, design.margins, strict=True)]
    if design.pooled is None:
        expected = math.fsum(n * one.expected for n, one in zip(sizes, own, strict=True))
        return math.prod(one.power for one in own), expected
    together = _plan(design, sum(sizes), design.pooled)
    # A stratum gets items until it is decided and the pooled difference is too, taken as independent.
    expected = 0.0
    for n, one in zip(sizes, own, strict=True):
        both = (0.0, *(a * b for a, b in zip(one.crossed, together.crossed, strict=True)))[:-1]
        expected += n * math.fsum(1.0 - chance for chance in both) / len(both)
    return together.power * math.prod(one.power for one in own), expected


def route(design: Design, power: float = 0.8) -> Route | None:
    """Return what a design takes to pass an unchanged candidate with a chance of `power`; None if nothing would do.

    Without a pooled margin each stratum gets the items that its margin needs; with one, all get as many.
    """
    each = power ** (1.0 / len(design.margins))
    if design.pooled is None:
        needed = {
            margin: first_number(lambda n, margin=margin: _plan(design, n, margin).power >= each)  # type: ignore[misc]
            for margin in set(design.margins)
        }
        sizes = [needed[margin] or 0 for margin in design.margins]
    else:
        found = first_number(lambda n: _joint(design, [n] * len(design.margins))[0] >= power)
        sizes = [found or 0] * len(design.margins)
    if not all(sizes):
        return None
    chance, expected = _joint(design, sizes)
    return Route(design, sum(sizes), round(expected), chance)


def routes(design: Design, power: float = 0.8) -> list[Route]:
    """Return the routes to the design's strictest promise: fixed, with looks, pooled, and pooled with looks.

    A design with a pooled margin is measured against each stratum at that margin; one without gets a pooled margin as
    large as its own, and `GUARD` times as much for a stratum.
    """
    looks = {"looks": max(design.looks, 10), "spending": design.spending if design.looks > 1 else RECOMMENDED}
    pooled = design.pooled or math.fsum(design.margins) / len(design.margins)
    strict = design.margins if design.pooled is None else (pooled,) * len(design.margins)
    guards = design.margins if design.pooled else tuple(min(GUARD * one, 0.5) for one in design.margins)
    plain = {"discordance": design.discordance, "alpha": design.alpha}
    designs = [
        Design(margins, common, **more, **plain)  # type: ignore[arg-type]
        for margins, common in ((strict, None), (guards, pooled))
        for more in ({}, looks)
    ]
    return [one for one in (route(each, power) for each in designs) if one is not None]


RECOMMENDED = Spending("hwang-shih-decani", -1.0)
"""Ten looks with it save a third of the items for 4 points of power at the same number, or 19 % with as much."""
