"""Paired right-or-wrong outcomes: Tango's score interval and tests, McNemar, Clopper-Pearson.

Pure functions of counts. ``lost`` is the number of items that only the baseline got right, ``gained`` the number
that only the candidate got right, ``n`` all items. Delta is candidate minus baseline, (gained - lost) / n; negative
is worse. It does not know where the counts come from, nor what a verdict is: see `harness.stats`.

Why there is a correction. Tango's score test rejects a true null at its limit up to 1.8 times too often at level 5 %
and 3.1 times too often at 5 %/40 (exact enumeration, n = 50 to 1,000, margins 2 to 10 points, discordance 2 to 38 %),
because few discordant items are skewed and lumpy. With a skewness term and half an item of continuity it stays below
its level in every one of those cells. Verdicts use the corrected form; `correction=False` gives the published one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from scipy import optimize, special

from harness.errors import StatisticsError

__all__ = [
    "Alternative",
    "PairedInterval",
    "ProportionInterval",
    "Tail",
    "TestResult",
    "check_alpha",
    "check_counts",
    "check_margin",
    "clopper_pearson",
    "mcnemar_exact",
    "mcnemar_midp",
    "score_limit",
    "score_p",
    "score_share",
    "tango_interval",
    "tango_test",
]

Tail = Literal["less", "greater"]
Alternative = Literal["less", "greater", "two-sided"]

_EDGE = 1.0 - 1e-9
"""Deltas of -1 and 1 have no variance; limits are sought strictly inside."""


@dataclass(frozen=True, slots=True)
class PairedInterval:
    """A two-sided interval of the paired difference of proportions, with what it was made from."""

    low: float
    """Lower limit of delta."""
    high: float
    """Upper limit of delta."""
    delta: float
    """(gained - lost) / n."""
    lost: float
    """Items that only the baseline got right."""
    gained: float
    """Items that only the candidate got right."""
    n: float
    """All items."""
    level: float
    """Two-sided confidence level; each limit alone holds at 1 - (1 - level) / 2."""


@dataclass(frozen=True, slots=True)
class TestResult:
    """A test's answer, with what it was made from."""

    statistic: float
    """Standard normal under the null (McNemar: the number of lost items)."""
    p_value: float
    """Chance, under the null, of data at least this far."""
    null_delta: float
    """The delta that the null hypothesis ends at."""
    alternative: Alternative
    """Which side of the null the test looks for."""
    lost: float
    """Items that only the baseline got right."""
    gained: float
    """Items that only the candidate got right."""
    n: float
    """All items (McNemar: the discordant ones)."""


@dataclass(frozen=True, slots=True)
class ProportionInterval:
    """An interval of one proportion, with what it was made from."""

    low: float
    """Lower limit."""
    high: float
    """Upper limit."""
    k: int
    """Events."""
    n: int
    """Items."""
    level: float
    """Confidence level."""
    side: Literal["lower", "upper", "two-sided"]
    """Which limit carries the level; the other one is trivial."""


def check_counts(lost: float, gained: float, n: float) -> None:
    """Refuse counts that cannot be. Raises StatisticsError."""
    if not all(math.isfinite(value) for value in (lost, gained, n)):
        raise StatisticsError(f"Counts must be finite: lost={lost}, gained={gained}, n={n}.")
    if n <= 0:
        raise StatisticsError(f"There are no items to judge (n={n}). Give at least one pair of scores.")
    if lost < 0 or gained < 0 or lost + gained > n * (1 + 1e-12):
        raise StatisticsError(f"lost={lost} and gained={gained} must be at least 0 and together at most n={n}.")


def check_alpha(alpha: float) -> None:
    """Refuse an error rate outside (0, 0.5). Raises StatisticsError."""
    if not 0.0 < alpha < 0.5:  # noqa: PLR2004 - at one half a one-sided limit is the estimate itself
        raise StatisticsError(f"alpha={alpha} is not an error rate in (0, 0.5). Did you mean 0.05?")


def check_margin(margin: float) -> None:
    """Refuse a margin outside [0, 1). Raises StatisticsError."""
    if not 0.0 <= margin < 1.0:
        raise StatisticsError(f"margin={margin} is not a proportion in [0, 1). Did you mean 0.02?")


def score_share(lost: float, gained: float, n: float, delta: float) -> float:
    """Give the share of lost items that is most likely when the true difference is `delta`.

    Root of the likelihood equation b/p + c/(p + delta) = 2(n - b - c)/(1 - 2p - delta), a quadratic in p
    (Tango 1998, Statistics in Medicine 17:891-908, section 3, with b, c = lost, gained).
    """
    rest = max(n - lost - gained, 0.0)
    linear = 2.0 * rest * delta - (lost + gained) * (1.0 - delta) + 2.0 * lost * delta
    constant = -lost * delta * (1.0 - delta)
    root = math.sqrt(max(linear * linear - 8.0 * n * constant, 0.0))
    return max((root - linear) / (4.0 * n), 0.0, -delta)


def _score(lost: float, gained: float, n: float, delta: float, *, correction: bool) -> float:
    """Give the score statistic of 'the true difference is `delta`': large where the data lie above it."""
    share = score_share(lost, gained, n, delta)
    second = 2.0 * share + delta
    variance = second - delta * delta
    excess = gained - lost - n * delta - (0.5 if correction else 0.0)
    if variance <= 1e-15:  # noqa: PLR2004 - no discordance is possible under this null
        return math.copysign(math.inf, excess) if abs(excess) > 1e-9 else 0.0  # noqa: PLR2004 - rounding
    # Tango 1998, equation (6), with half an item of continuity: Chang, Liu, Hou, Yan and Shan 2024, Journal of Applied
    # Statistics 51:139-152 (their largest correction, as its level is the one that never goes beyond the nominal).
    statistic = excess / math.sqrt(n * variance)
    if not correction:
        return statistic
    # Third central moment of one item's difference in {-1, 0, 1} with E d = delta, E d^2 = `second`, E d^3 = delta.
    third = delta - 3.0 * delta * second + 2.0 * delta**3
    skew = third / (6.0 * math.sqrt(n) * variance**1.5)
    # Statistic = z + skew (z^2 - 1), solved for z: Gart and Nam 1988, Biometrics 44:323-338; for score intervals of
    # differences see Laud 2017, Pharmaceutical Statistics 16:334-348.
    shifted = statistic + skew
    return float(2.0 * shifted / (1.0 + math.sqrt(max(1.0 + 4.0 * skew * shifted, 0.0))))


def _upper_tail(z: float, df: float) -> float:
    """P(Z >= z) for a standard normal, or for Student's t where `df` is finite."""
    return float(special.ndtr(-z)) if math.isinf(df) else float(special.stdtr(df, -z))


def _upper_quantile(alpha: float, df: float) -> float:
    """The z with P(Z >= z) = alpha."""
    return float(-special.ndtri(alpha)) if math.isinf(df) else float(-special.stdtrit(df, alpha))


def score_p(
    lost: float, gained: float, n: float, null_delta: float, alternative: Tail, *, df: float = math.inf
) -> float:
    """Corrected score p-value of 'delta is on the other side of `null_delta`'. Counts may be effective (fractional).

    df: of Student's t where the variance comes from that many clusters less one; with none left nothing is rejected.
    """
    if df <= 0.0:
        return 1.0
    if alternative == "less":
        lost, gained, null_delta = gained, lost, -null_delta
    return _upper_tail(_score(lost, gained, n, null_delta, correction=True), df)


def score_limit(
    lost: float,
    gained: float,
    n: float,
    alpha: float,
    side: Literal["low", "high"],
    *,
    df: float = math.inf,
    correction: bool = True,
) -> float:
    """One-sided limit of delta at level 1 - alpha: the null deltas that `score_p` does not reject lie beyond it."""
    if side == "high":
        return -score_limit(gained, lost, n, alpha, "low", df=df, correction=correction)
    if df <= 0.0:
        return -1.0
    critical = _upper_quantile(alpha, df)
    estimate = min(max((gained - lost) / n, -_EDGE), _EDGE)

    def distance(delta: float) -> float:
        return min(_score(lost, gained, n, delta, correction=correction), 1e6) - critical

    if distance(-_EDGE) <= 0.0:
        return -1.0
    if distance(estimate) >= 0.0:
        return estimate
    return float(optimize.brentq(distance, -_EDGE, estimate, xtol=1e-13, rtol=1e-13))


def tango_interval(
    lost: float, gained: float, n: float, level: float = 0.95, *, correction: bool = False
) -> PairedInterval:
    """Tango's score interval of the paired difference of proportions, candidate minus baseline.

    lost, gained, n: counts of items. level: two-sided confidence in (0, 1). correction: with skewness and continuity
    terms, as verdicts use it. Raises StatisticsError. Source: Tango 1998, Statistics in Medicine 17:891-908.
    """
    check_counts(lost, gained, n)
    if not 0.0 < level < 1.0:
        raise StatisticsError(f"level={level} is not a confidence level in (0, 1). Did you mean 0.95?")
    alpha = (1.0 - level) / 2.0
    low = score_limit(lost, gained, n, alpha, "low", correction=correction)
    high = score_limit(lost, gained, n, alpha, "high", correction=correction)
    return PairedInterval(low, high, (gained - lost) / n, lost, gained, n, level)


def tango_test(
    lost: float,
    gained: float,
    n: float,
    null_delta: float,
    alternative: Tail = "greater",
    *,
    correction: bool = False,
) -> TestResult:
    """Tango's one-sided score test that delta is above ('greater') or below ('less') `null_delta`.

    Dual to `tango_interval`: p_value < a exactly where the limit of the interval at level 1 - 2a lies beyond the null.
    Raises StatisticsError. Source: Tango 1998, equation (6).
    """
    check_counts(lost, gained, n)
    if not -1.0 < null_delta < 1.0:
        raise StatisticsError(f"null_delta={null_delta} is not a difference of proportions in (-1, 1).")
    if alternative == "greater":
        statistic = _score(lost, gained, n, null_delta, correction=correction)
        p_value = _upper_tail(statistic, math.inf)
    elif alternative == "less":
        statistic = -_score(gained, lost, n, -null_delta, correction=correction)
        p_value = _upper_tail(-statistic, math.inf)
    else:
        raise StatisticsError(f"alternative={alternative!r} is neither 'greater' nor 'less'.")
    return TestResult(statistic, p_value, null_delta, alternative, lost, gained, n)


def _mcnemar(lost: int, gained: int, alternative: Alternative, own_weight: float) -> TestResult:
    check_counts(lost, gained, max(lost + gained, 1))
    discordant = lost + gained
    at_most = float(special.bdtr(lost, discordant, 0.5))
    below = float(special.bdtr(lost - 1, discordant, 0.5)) if lost else 0.0
    unseen = (1.0 - own_weight) * (at_most - below)
    # A difference of two tails may end a rounding below 0.
    worse, better = (max(tail - unseen, 0.0) for tail in (float(special.bdtr(gained, discordant, 0.5)), at_most))
    if alternative not in ("less", "greater", "two-sided"):
        raise StatisticsError(f"alternative={alternative!r} is not 'less', 'greater' or 'two-sided'.")
    p_value = {"less": worse, "greater": better, "two-sided": min(2.0 * min(worse, better), 1.0)}[alternative]
    return TestResult(float(lost), p_value, 0.0, alternative, lost, gained, discordant)


def mcnemar_exact(lost: int, gained: int, alternative: Alternative = "less") -> TestResult:
    """Exact McNemar test of no change; 'less' asks whether the candidate is worse.

    Under no change, lost is binomial(lost + gained, 1/2). With no discordant item the p-value is 1.
    Source: McNemar 1947, Psychometrika 12:153-157. Raises StatisticsError.
    """
    return _mcnemar(lost, gained, alternative, 1.0)


def mcnemar_midp(lost: int, gained: int, alternative: Alternative = "less") -> TestResult:
    """Mid-p McNemar test of no change: the point mass of the data seen counts half. 'less': the candidate is worse.

    Source: Fagerland, Lydersen and Laake 2013, BMC Medical Research Methodology 13:91. With no discordant item the
    one-sided p-value is 1/2. Raises StatisticsError.
    """
    return _mcnemar(lost, gained, alternative, 0.5)


def clopper_pearson(
    k: int, n: int, level: float = 0.95, side: Literal["lower", "upper", "two-sided"] = "upper"
) -> ProportionInterval:
    """Exact interval of a proportion from `k` events in `n` items.

    0 of n still allows 1 - (1 - level)^(1/n), about 3/n at 95 %. Source: Clopper and Pearson 1934, Biometrika
    26:404-413, through beta quantiles. Raises StatisticsError.
    """
    if n <= 0 or not 0 <= k <= n:
        raise StatisticsError(f"k={k} events of n={n} items cannot be: k must lie in [0, n] and n be at least 1.")
    if not 0.0 < level < 1.0:
        raise StatisticsError(f"level={level} is not a confidence level in (0, 1). Did you mean 0.95?")
    if side not in ("lower", "upper", "two-sided"):
        raise StatisticsError(f"side={side!r} is not 'lower', 'upper' or 'two-sided'.")
    tail = (1.0 - level) / 2.0 if side == "two-sided" else 1.0 - level
    low = float(special.betaincinv(k, n - k + 1, tail)) if k > 0 and side != "upper" else 0.0
    high = float(special.betaincinv(k + 1, n - k, 1.0 - tail)) if k < n and side != "lower" else 1.0
    return ProportionInterval(low, high, k, n, level, side)
