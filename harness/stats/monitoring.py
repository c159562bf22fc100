"""Asking the same questions again and again: how many answers may differ by noise, and when it is no longer noise.

A call's noise may be drawn afresh, or once and for all (another machine computes other numbers, the same ones every
day), or both. `noise_limit` therefore bounds the count of one draw, and `evidence` tests that the share of items that
differ is at most that: once the limit holds for what is frozen, items differ independently with a mean rate below it,
and the product below is a test supermartingale. Rates may differ from item to item, as the product of the factors has
the largest expectation if they are all equal (inequality of the means).
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import special

from harness.errors import StatisticsError

_GRID = 32  # rates that are bet on


def noise_limit(flips: int, control: int, asked: int, alpha: float) -> int:
    """Return the most items that differ by noise among `asked`, exceeded with a chance of at most alpha.

    flips: of `control` items asked twice, those with two answers. The limit is exact if the items of both are
    exchangeable: with more than k of `asked` differing, drawing no more than `flips` of all that differ into the
    control is hypergeometric (Thatcher 1964, Journal of the Royal Statistical Society B 26:176-192). `asked` if no
    smaller count is so unlikely. Raises StatisticsError.
    """
    if not (0 <= flips <= control and asked > 0 and 0.0 < alpha < 1.0):
        raise StatisticsError(f"flips={flips} of control={control}, asked={asked}, alpha={alpha} cannot be.")
    from scipy.stats import hypergeom

    differ = flips + 1 + np.arange(asked)
    chances = hypergeom.pmf(np.arange(flips + 1)[:, None], control + asked, differ, control)  # cdf takes far longer
    beyond = np.flatnonzero(np.sum(chances, axis=0) <= alpha)
    return int(beyond[0]) if beyond.size else asked


def noise_rate(flips: int, control: int, asked: int, alpha: float) -> float:
    """Return the rate of noise to test against: the limit of `noise_limit`, or of Clopper and Pearson if larger."""
    mean = 1.0 if flips >= control else float(special.betaincinv(flips + 1, control - flips, 1.0 - alpha))
    return max(noise_limit(flips, control, asked, alpha) / asked, mean)


def evidence(differ: Sequence[int] | NDArray[np.int64], asked: int, rate: float) -> NDArray[np.float64]:
    """Return the e-value after each call against 'at most this rate of the items differ', calls along the last axis.

    Each item is a bet at odds that are fair at `rate` (Waudby-Smith and Ramdas 2024, Journal of the Royal Statistical
    Society B 86:1-27), with its stake that of a larger rate, averaged over a grid of them (Gruenwald, de Heide and
    Koolen 2024, ibid. 86:1091-1128), and over the call from which it holds, of weight 1/(k (k + 1)), so that quiet
    years do not hide a change. Under the null the chance that the e-value ever reaches 1/alpha is at most alpha
    (Ville 1939, Etude critique de la notion de collectif).
    """
    counts = np.asarray(differ, dtype=np.float64)
    if asked < 1 or rate <= 0.0 or (counts.size and (counts.min() < 0 or counts.max() > asked)):
        raise StatisticsError(f"differ={differ} of asked={asked} at rate={rate} cannot be.")
    if rate >= 1.0:
        return np.ones_like(counts)
    bets = rate + (1.0 - rate) * (np.arange(_GRID) + 0.5) / _GRID
    won, lost, found = np.log(bets / rate), np.log((1.0 - bets) / (1.0 - rate)), np.ones_like(counts)
    wealth = np.full((*counts.shape[:-1], _GRID), -np.inf)  # logarithms of what was staked at calls so far
    for call in range(counts.shape[-1]):
        stake, count = -math.log((call + 1) * (call + 2)), counts[..., call, None]
        wealth = np.logaddexp(wealth, stake) + count * won + (asked - count) * lost
        found[..., call] = np.exp(np.minimum(wealth, 700.0)).mean(axis=-1) + 1.0 / (call + 2)
    return found


def alarm_count(before: Sequence[int], asked: int, rate: float, threshold: float) -> int:
    """Return how many items must differ in the next call for the e-value to reach a threshold; asked + 1 if none do."""
    tried = np.asarray([[*before, count] for count in range(asked + 1)])
    reached = np.flatnonzero(evidence(tried, asked, rate)[:, -1] >= threshold)
    return int(reached[0]) if reached.size else asked + 1
