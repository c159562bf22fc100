"""Looking at the data more than once: what each look may spend of an error rate, and the boundaries that follow.

Passing and failing each spend their own alpha. The smallest `look_p` of a stratum's looks so far is one p-value that
holds however early the stratum stops: the smallest alpha whose boundary was crossed (a repeated p-value: Jennison and
Turnbull 1984, Controlled Clinical Trials 5:33-45). It only falls from look to look, so Holm over the strata's p-values
may be applied at every look and keeps its family error over all of them (Ye, Li, Liu and Yao 2013, Statistics in
Medicine 32:1112-1124). Passing needs no correction: a candidate passes only when all strata have.
"""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import scipy
from numpy.typing import NDArray
from scipy import special

from harness.errors import StatisticsError

Floats = NDArray[np.float64]
_DEEPEST = 8.5  # standard deviations below zero at which the integration begins; the mass beyond is 1e-17
_HIGHEST = 8.2  # a boundary beyond this z is never crossed: its chance, 1e-16, is below rounding
SMALLEST_STEP = 1e-4  # looks closer than this share of the items are one look
_SMALLEST_ALPHA = 1e-13  # no sequential p-value is smaller
_LARGEST_ALPHA = 0.5  # larger ones are of no use and are given as 1
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(16)  # Gauss-Legendre nodes and weights of a panel


@dataclass(frozen=True, slots=True)
class Spending:
    """How much of an error rate may be spent by a share of the items: early looks cost power and save items."""

    family: str = "obrien-fleming"  # or ``hwang-shih-decani``, ``power``
    parameter: float = 0.0

    @staticmethod
    def of(text: str) -> "Spending":
        """Read ``obrien-fleming``, ``hwang-shih-decani:-1`` or ``power:2``, as `harness.config.fields` checked it."""
        family, _, number = text.partition(":")
        return Spending(family, float(number or 0))

    def __str__(self) -> str:
        """Return it as a config writes it."""
        return self.family if self.family == "obrien-fleming" else f"{self.family}:{self.parameter:g}"

    def spent(self, fraction: float, alpha: float) -> float:
        """Of a one-sided alpha, what may be spent by this share of the items, in (0, 1].

        Lan and DeMets 1983, Biometrika 70:659-663: 2 - 2 Phi(z_{alpha/2} / sqrt(t)), near O'Brien and Fleming's plan.
        Hwang, Shih and DeCani 1990, Statistics in Medicine 9:1439-1445: alpha (1 - e^(-gamma t)) / (1 - e^(-gamma)).
        Power: alpha t^rho (Kim and DeMets 1987, Biometrika 74:149-154).
        """
        if self.family == "obrien-fleming":
            return 2.0 * float(special.ndtr(special.ndtri(alpha / 2.0) / math.sqrt(fraction)))
        return alpha * self._share(fraction)

    def least_alpha(self, p_value: float, fraction: float) -> float:
        """The alpha of which `p_value` is spent by this share: no smaller one lets a look reject at `p_value`."""
        if self.family == "obrien-fleming":
            return 2.0 * float(special.ndtr(math.sqrt(fraction) * special.ndtri(p_value / 2.0)))
        return p_value / self._share(fraction)

    def _share(self, fraction: float) -> float:
        if self.family == "power":
            return float(fraction**self.parameter)
        gamma = self.parameter
        return math.expm1(-gamma * fraction) / math.expm1(-gamma) if gamma else fraction


OBRIEN_FLEMING = Spending()  # very little early, nearly all at the end


def look_sizes(n: int, looks: int) -> tuple[int, ...]:
    """Cumulative items at each of `looks` equal looks at `n` items, or of fewer looks; both at least 1."""
    looks = min(looks, n)
    return tuple(-(-n * look // looks) for look in range(1, looks + 1))


@functools.lru_cache(maxsize=4096)
def boundaries(fractions: tuple[float, ...], alpha: float, spending: Spending = OBRIEN_FLEMING) -> tuple[float, ...]:
    """The value to reach at each look, so that a standard normal process reaches any of them with chance alpha.

    Alpha is spent over the looks as `spending` says; a value is infinite if nothing can be spent yet. fractions: share
    of the planned items at each look, rising, in (0, 1], at least 1e-4 apart. alpha: one-sided, in (0, 1). Raises
    StatisticsError. Source: recursive integration of Armitage, McPherson and Rowe 1969, Journal of the Royal
    Statistical Society A 132:235-244; Jennison and Turnbull 2000, Group Sequential Methods, chapter 19.
    """
    steps = np.diff((0.0, *fractions))
    if not fractions or not np.isfinite(steps).all() or steps.min() < SMALLEST_STEP or fractions[-1] > 1.0:
        text = f"they must rise by {SMALLEST_STEP:g} or more, up to 1."
        raise StatisticsError(f"Looks at shares {fractions} of the items cannot be: {text}")
    if not 0.0 < alpha < 1.0:
        raise StatisticsError(f"alpha={alpha} is not an error rate in (0, 1). Did you mean 0.05?")
    limits, paths, already = list[float](), _Paths(np.zeros(1), np.ones(1), 0.0), 0.0
    for share in fractions:
        limit = paths.boundary(share, spending.spent(share, alpha) - already)
        already = spending.spent(share, alpha)
        limits.append(limit / math.sqrt(share))
        if share < fractions[-1]:
            paths = paths.continued(share, limit)
    return tuple(limits)


@dataclass(frozen=True, slots=True)
class _Paths:
    """Paths of a Brownian motion that have crossed nothing so far: quadrature nodes and the mass at each."""

    at: Floats
    mass: Floats
    time: float
    drift: float = 0.0  # mean of the motion at time 1

    def crossing(self, limit: float, time: float) -> float:
        """Chance to be at or above `limit` at `time`."""
        step = time - self.time
        return float(self.mass @ special.ndtr((self.at + self.drift * step - limit) / math.sqrt(step)))

    def boundary(self, time: float, chance: float) -> float:
        """The value that is reached at `time` with the given chance."""
        top = _HIGHEST * math.sqrt(time)
        if self.crossing(top, time) >= chance:
            return math.inf
        bottom = -_DEEPEST * math.sqrt(time)
        if self.crossing(bottom, time) <= chance:
            return bottom
        return float(scipy.optimize.brentq(lambda limit: self.crossing(limit, time) - chance, bottom, top, xtol=1e-12))

    def continued(self, time: float, limit: float) -> "_Paths":
        """The paths that are still below `limit` at `time`."""
        spread, reach, mean = math.sqrt(time - self.time), _DEEPEST * math.sqrt(time), self.drift * time
        low, high = min(mean, 0.0) - reach, min(limit, max(mean, 0.0) + reach)
        panels = max(math.ceil((high - low) / (3.0 * spread)), 4)  # none wider than three standard deviations of a step
        half = (high - low) / (2.0 * panels)
        centres = low + half * (2.0 * np.arange(panels) + 1.0)
        at, weights = (centres[:, None] + half * _NODES).ravel(), np.tile(half * _WEIGHTS, panels)
        moved = self.at + self.drift * (time - self.time)
        density = np.exp(-0.5 * np.square((at[:, None] - moved) / spread)) @ self.mass
        return _Paths(at, weights * density / (spread * math.sqrt(2.0 * math.pi)), time, self.drift)


def nominal_alpha(fractions_so_far: Sequence[float], alpha: float, spending: Spending = OBRIEN_FLEMING) -> float:
    """The p-value to stay below at the latest of the looks so far, as in `boundaries`; 0 if it may decide nothing."""
    return float(special.ndtr(-boundaries(tuple(fractions_so_far), alpha, spending)[-1]))


@functools.lru_cache(maxsize=65536)
def look_p(p_value: float, fractions_so_far: tuple[float, ...], spending: Spending = OBRIEN_FLEMING) -> float:
    """The smallest alpha over all looks at which the latest look alone rejects; 1 if one half would not do.

    p_value: one-sided, of the items so far. fractions_so_far: as in `boundaries`; where a stratum has ended, its last
    look stands at 1. With one look at all items it is the p-value itself. Raises StatisticsError.
    """
    if not 0.0 <= p_value <= 1.0:
        raise StatisticsError(f"{p_value} is not a p-value in [0, 1].")
    boundaries(fractions_so_far, _LARGEST_ALPHA)  # for its checks
    if fractions_so_far == (1.0,):
        return p_value
    # No more than `spent` is spent by a look, so no alpha below spent's inverse will do: the search begins there.
    least = spending.least_alpha(p_value, fractions_so_far[-1])
    if least >= _LARGEST_ALPHA:
        return 1.0
    least = max(least, _SMALLEST_ALPHA)
    if len(fractions_so_far) == 1:
        return least

    def short(alpha: float) -> float:
        return math.log(max(p_value, 1e-300)) - math.log(max(nominal_alpha(fractions_so_far, alpha, spending), 1e-300))

    if short(least) <= 0.0:
        return least
    low, high = least, min(2.0 * least, _LARGEST_ALPHA)
    while short(high) > 0.0:
        if high >= _LARGEST_ALPHA:
            return 1.0
        low, high = high, min(2.0 * high, _LARGEST_ALPHA)
    return float(scipy.optimize.brentq(short, low, high, xtol=1e-14, rtol=1e-9))


class LooksPlan(NamedTuple):
    """What looking early does to a plan, for one one-sided test."""

    power: float  # chance to cross at some look; a single look at the same items has a little more
    expected: float  # expected share of the items, with a stop at the first crossing
    crossed: tuple[float, ...]  # chance to have crossed by each look


def looks_plan(power: float, alpha: float, looks: int, spending: Spending = OBRIEN_FLEMING) -> LooksPlan:
    """Return what equally spaced looks make of a test that has `power` at all items without them.

    Jennison and Turnbull 2000, Group Sequential Methods, chapter 19, with the drift z_alpha + z_power. Raises
    StatisticsError.
    """
    if power <= 0.0:
        return LooksPlan(0.0, 1.0, (0.0,) * looks)
    drift = float(special.ndtri(min(power, 1.0 - 1e-12)) - special.ndtri(alpha))
    shares = tuple(look / looks for look in range(1, looks + 1))
    paths, first = _Paths(np.zeros(1), np.ones(1), 0.0, drift), list[float]()
    for share, z in zip(shares, boundaries(shares, alpha, spending), strict=True):
        limit = z * math.sqrt(share)
        first.append(paths.crossing(limit, share))
        paths = paths.continued(share, limit)
    crossed = tuple(math.fsum(first[:at]) for at in range(1, looks + 1))
    return LooksPlan(crossed[-1], math.fsum(map(float.__mul__, first, shares)) + (1.0 - crossed[-1]), crossed)
