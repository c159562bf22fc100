"""Rates of rare events: exact limits of a share, tests against a tolerance, and how many items they need.

Clopper and Pearson's limits where every item is its own; where items share sources, the same at effective counts
(Korn and Graubard 1998, Survey Methodology 24:193-201), with the design effect of `harness.stats.units`.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from harness.errors import StatisticsError
from harness.stats.binary import check_alpha
from harness.stats.plan import first_number
from harness.stats.units import effective_counts, make_units


@dataclass(frozen=True, slots=True)
class EventRate:
    """How often something happened, with what it was made from."""

    events: int  # items on which it happened
    n: int
    low: float  # lower one-sided limit of the rate at level 1 - alpha
    high: float  # upper one-sided limit of the rate at level 1 - alpha
    alpha: float  # error rate of each side
    unit: float  # items that carry as much information as one independent item; 1 if every item is its own

    @property
    def rate(self) -> float:
        """Share of the items."""
        return self.events / self.n

    def p_high(self, tolerance: float) -> float:
        """p-value of 'the rate is at most the tolerance': small where it is shown to be higher."""
        return _p_high(self.events / self.unit, self.n / self.unit, tolerance)


def _p_high(k: float, n: float, rate: float) -> float:
    """P(X >= k) of a binomial(n, rate), for k and n that need not be whole: small where the rate is higher."""
    return float(special.betainc(k, n - k + 1.0, rate)) if k > 0 else 1.0


def event_rate(
    events: ArrayLike, clusters: ArrayLike | None = None, *, alpha: float = 0.05, gates: bool = False
) -> EventRate:
    """Return the rate of an event with its one-sided limits.

    events: shape [items], whether it happened. clusters: shape [items], the source of each; None if every item is
    its own. alpha: error rate of each limit. gates: count each source as one item, since few, or few large ones, may
    show no event: else up to 23 % of rates at a tolerance pass. Source: Clopper and Pearson 1934, Biometrika
    26:404-413, through beta quantiles. Raises StatisticsError.
    """
    check_alpha(alpha)
    happened = np.asarray(events, dtype=bool)
    if happened.ndim != 1 or not happened.size:
        raise StatisticsError("A rate needs one entry per item, and at least one item.")
    own = make_units(happened.astype(float), None if clusters is None else np.asarray(clusters))
    unit = max(effective_counts(own).unit, own.items / own.sources if gates else 0.0)
    count, items = int(happened.sum()), happened.size
    k, n = count / unit, items / unit
    low = float(special.betaincinv(k, n - k + 1.0, alpha)) if count else 0.0
    high = float(special.betaincinv(k + 1.0, n - k, 1.0 - alpha)) if count < items else 1.0
    return EventRate(count, items, low, high, alpha, unit)


def items_without_event(tolerance: float, alpha: float = 0.05) -> int:
    """Return how many independent items without an event show a rate below `tolerance`: (1 - tolerance)^n < alpha."""
    return math.floor(math.log(alpha) / math.log1p(-tolerance)) + 1


def items_to_decide_rate(found: EventRate, tolerance: float, alpha: float, strictest: float) -> int | None:
    """Return how many more items would decide between rate and tolerance if the rate stays; None if none would do.

    alpha: level of showing that it is lower; strictest: of showing that it is higher.
    """

    def decides(items: int) -> bool:
        k, n = found.rate * items / found.unit, items / found.unit
        below = found.rate < tolerance and special.betaincc(k + 1.0, n - k, tolerance) < alpha  # P(X <= k)
        return bool(below or (found.rate > tolerance and _p_high(k, n, tolerance) < strictest))

    return first_number(lambda more: decides(found.n + more), most=10**9)
