"""Planning and stopping short: how many items a verdict needs, and what the items at hand can show.

Normal approximations of the corrected score tests in `harness.stats.binary`, or those tests themselves. Margins, drops
and discordance are proportions; discordance is the share of items whose outcome differs, whichever way.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

from scipy import special

from harness.errors import StatisticsError
from harness.stats.binary import check_alpha, check_counts, check_margin, score_p, score_share

MOST_ITEMS = 10_000_000  # beyond this a number of items is no plan


def _check_plan(discordance: float, power: float, alpha: float) -> None:
    check_alpha(alpha)
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
    """Chance that a stratum of `n` independent items passes when the candidate's true difference is `true_delta`.

    Raises StatisticsError.
    """
    _check_plan(discordance, 0.5, alpha)
    check_margin(margin)
    if abs(true_delta) > discordance:
        raise StatisticsError(f"true_delta={true_delta} needs a discordance of at least as much, not {discordance}.")
    if n <= 0 or score_p(0.0, 0.0, n, -margin, "greater") >= alpha:
        return 0.0
    return _power(n, -margin, true_delta, discordance, alpha)


def items_for_pass(
    margin: float, discordance: float, power: float = 0.8, alpha: float = 0.05, true_delta: float = 0.0
) -> int | None:
    """The fewest items with which a candidate of the given true difference passes with the given chance.

    2 points at 10 % discordance, 80 % power and 5 % take about 1,550 items. None if no number would do, because the
    true difference is not above -margin. Raises StatisticsError.
    """
    _check_plan(discordance, power, alpha)
    if true_delta <= -margin:
        return None
    return first_number(lambda n: pass_power(n, margin, discordance, alpha, true_delta) >= power)


def smallest_detectable_drop(
    n: float, discordance: float, alpha: float = 0.05, power: float = 0.8, margin: float = 0.0
) -> float | None:
    """The smallest true drop (above 0) that `n` items fail against `margin` with the given chance.

    A drop beyond the discordance raises the discordance to itself. None if even losing every item would not do.
    Raises StatisticsError.
    """
    _check_plan(discordance, power, alpha)
    check_margin(margin)

    def found(drop: float) -> bool:
        return _power(n, margin, drop, max(discordance, drop), alpha) >= power

    if n <= 0 or score_p(n, 0.0, n, -margin, "less") >= alpha or not found(1.0):
        return None
    low, high = margin, 1.0
    while high - low > 1e-7:  # noqa: PLR2004 - finer than any margin
        middle = (low + high) / 2.0
        low, high = (low, middle) if found(middle) else (middle, high)
    return high


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
