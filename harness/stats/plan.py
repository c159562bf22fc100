"""Planning and stopping short: how many items a verdict needs, and what the items at hand can show.

Normal approximations of the corrected score tests in `harness.stats.binary`, or those tests themselves. Margins, drops
and discordance are proportions; discordance is the share of items whose outcome differs, whichever way.
"""

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from scipy import special

from harness.errors import StatisticsError
from harness.stats.binary import check_alpha, check_counts, check_margin, score_p, score_share
from harness.stats.sequential import OBRIEN_FLEMING, LooksPlan, Spending, looks_plan

MOST_ITEMS = 10_000_000  # beyond this a number of items is no plan
_STEP = 1e-7  # finer than any margin
GUARD = 2.5  # a stratum's own margin next to a pooled one, in pooled margins, where a config has none
RECOMMENDED = Spending("hwang-shih-decani", -1.0)
"""Ten looks with it save a third of the items for 4 points of power at the same number, or 19 % with as much."""


def _check_plan(discordance: float, power: float, alpha: float, margin: float = 0.0) -> None:
    check_alpha(alpha)
    check_margin(margin)
    if not 0.0 < discordance <= 1.0:
        raise StatisticsError(f"discordance={discordance} is not a share of items in (0, 1]. Did you mean 0.1?")
    if not 0.0 < power < 1.0:
        raise StatisticsError(f"power={power} is not a chance in (0, 1). Did you mean 0.8?")


def _power(n: float, null: float, delta: float, discordance: float, alpha: float) -> float:
    """Chance that `n` items whose true difference is `delta` reject 'the difference is at most `null`'.

    Both variances enter, the null's in the critical value and the true one in the spread, with the skewness and
    continuity terms of the test: Lachin 1992, Statistics in Medicine 11:1239-1251, for paired proportions.
    """
    lost, gained = (discordance - delta) / 2.0, (discordance + delta) / 2.0
    second = 2.0 * score_share(lost, gained, 1.0, null) + null
    variance = second - null * null
    third = null - 3.0 * null * second + 2.0 * null**3
    z = -float(special.ndtri(alpha))
    skew = third * (z * z - 1.0) / (6.0 * variance) if variance > 0.0 else 0.0
    spread = math.sqrt(max(discordance - delta * delta, 1e-12))
    reach = n * (delta - null) - 0.5 - skew - z * math.sqrt(n * variance)
    return float(special.ndtr(reach / (math.sqrt(n) * spread)))


def pass_power(n: float, margin: float, discordance: float, alpha: float = 0.05, true_delta: float = 0.0) -> float:
    """Chance that `n` independent items pass when the true difference is `true_delta`. Raises StatisticsError."""
    _check_plan(discordance, 0.5, alpha, margin)
    if abs(true_delta) > discordance:
        raise StatisticsError(f"true_delta={true_delta} needs a discordance of at least as much, not {discordance}.")
    if n <= 0 or score_p(0.0, 0.0, n, -margin, "greater") >= alpha:
        return 0.0
    return _power(n, -margin, true_delta, discordance, alpha)


def items_for_pass(margin: float, discordance: float, power: float = 0.8, alpha: float = 0.05) -> int | None:
    """The fewest items with which an unchanged candidate passes with the given chance; None if no number would do.

    2 points at 10 % discordance, 80 % power and 5 % take about 1,550 items. Raises StatisticsError.
    """
    _check_plan(discordance, power, alpha)
    return first_number(lambda n: pass_power(n, margin, discordance, alpha) >= power)


def smallest_detectable_drop(
    n: float, discordance: float, alpha: float = 0.05, power: float = 0.8, margin: float = 0.0
) -> float | None:
    """The smallest true drop (above 0) that `n` items fail against `margin` with the given chance.

    A drop beyond the discordance raises the discordance to itself. None if even losing every item would not do.
    Raises StatisticsError.
    """
    _check_plan(discordance, power, alpha, margin)

    def found(drop: float) -> bool:
        return _power(n, margin, drop, max(discordance, drop), alpha) >= power

    if n <= 0 or score_p(n, 0.0, n, -margin, "less") >= alpha or not found(1.0):
        return None
    steps = first_number(lambda at: found(min(margin + at * _STEP, 1.0)))
    return None if steps is None else min(margin + steps * _STEP, 1.0)


@functools.lru_cache(maxsize=65536)  # strata of a judge's many rollouts meet the same counts again and again
def items_to_decide(
    lost: float, gained: float, n: float, margin: float, alpha: float = 0.05, *, unit: float = 1.0
) -> int | None:
    """How many more items would decide an inconclusive stratum if its rates stayed as they are.

    lost, gained, n: counts so far, or effective counts of which each stands for `unit` items. 0 if the stratum is
    decided. None if the difference sits at the margin, so that no number would do. Raises StatisticsError.
    """
    check_counts(lost, gained, n)
    check_margin(margin)
    check_alpha(alpha)
    distance = (gained - lost) / n + margin
    if abs(distance) <= 1e-12:  # noqa: PLR2004 - rounding of the division, not a difference
        return None

    def decided(items: float) -> bool:
        more = items / unit / n
        return score_p(lost * more, gained * more, n * more, -margin, "greater" if distance > 0.0 else "less") < alpha

    now = n * unit
    if decided(now):
        return 0
    total = first_number(decided, start=math.ceil(now))
    return None if total is None else math.ceil(total - now - 1e-9)


def first_number(holds: Callable[[int], bool], start: int = 1, most: int = MOST_ITEMS) -> int | None:
    """Return the smallest number from `start` on at which `holds` turns true, to stay true; None beyond `most`."""
    low, high = start - 1, max(start, 1)
    while not holds(high):
        low, high = high, high * 2
        if low > most:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high


# The routes to a verdict: every stratum at once, with looks, with a pooled margin, or with both. All pass an unchanged
# candidate with the same chance, and err at the same rates. They differ in items, and in what a pass promises.


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
    pool: int | None = None  # items that the baseline answers, if others are asked fewer (`execution.layers`)


@functools.lru_cache(maxsize=65536)
def _plan(design: Design, n: float, margin: float) -> LooksPlan:  # a stratum of n items, or all of them
    fixed = pass_power(n, margin, design.discordance, design.alpha)
    return looks_plan(fixed, design.alpha, design.looks, design.spending)


def _joint(design: Design, sizes: Sequence[int]) -> tuple[float, float]:
    """Chance that an unchanged candidate passes with so many items in its strata, and how many are expected."""
    own = [_plan(design, n, margin) for n, margin in zip(sizes, design.margins, strict=True)]
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
    """Return what a design takes to pass an unchanged candidate with a chance of `power`; None if nothing would do."""
    count = len(design.margins)

    def items(margin: float) -> int:  # 0 if no number would do
        return first_number(lambda n: _plan(design, n, margin).power >= power ** (1.0 / count)) or 0

    if design.pooled is None:
        sizes = [items(margin) for margin in design.margins]
    else:
        sizes = [first_number(lambda n: _joint(design, [n] * count)[0] >= power) or 0] * count
    if not all(sizes):
        return None
    chance, expected = _joint(design, sizes)
    return Route(design, sum(sizes), round(expected), chance)


def routes(design: Design) -> list[Route]:
    """Return the routes to the design's strictest promise: fixed, with looks, pooled, and pooled with looks.

    A design with a pooled margin is measured against each stratum at that margin; one without gets a pooled margin as
    large as its own, and `GUARD` times as much for a stratum.
    """
    looks = max(design.looks, 10), design.spending if design.looks > 1 else RECOMMENDED
    pooled = design.pooled or math.fsum(design.margins) / len(design.margins)
    strict = design.margins if design.pooled is None else (pooled,) * len(design.margins)
    guards = design.margins if design.pooled else tuple(min(GUARD * one, 0.5) for one in design.margins)
    found = (
        route(Design(margins, common, count, spending, design.discordance, design.alpha))
        for margins, common in ((strict, None), (guards, pooled))
        for count, spending in ((1, OBRIEN_FLEMING), looks)
    )
    return [one for one in found if one is not None]
