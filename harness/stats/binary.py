"""Paired right-or-wrong outcomes: Tango's score limits and tests, mid-p McNemar.

``lost`` are the items that only the baseline got right, ``gained`` those that only the candidate did, ``n`` all. Delta
is (gained - lost) / n; negative is worse. Tango's published test rejects a true null at its limit up to 1.8 times too
often at level 5 % and 3.1 times at 5 %/40 (exact enumeration, n = 50 to 1,000, margins 2 to 10 points, discordance 2 to
38 %), because few discordant items are skewed and lumpy. With a skewness term and half an item of continuity, the
correction, it stays below its level in every one of those cells.
"""

import math
from typing import Literal

import scipy
from scipy import special

from harness.errors import StatisticsError

Side = Literal["low", "high"]
Tail = Literal["less", "greater"]
EDGE = 1.0 - 1e-9  # deltas of -1 and 1 have no variance; limits are sought strictly inside


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
    """Return the share of lost items that is most likely when the true difference is `delta`.

    Root of the likelihood equation b/p + c/(p + delta) = 2(n - b - c)/(1 - 2p - delta), a quadratic in p
    (Tango 1998, Statistics in Medicine 17:891-908, section 3, with b, c = lost, gained).
    """
    rest = max(n - lost - gained, 0.0)
    linear = 2.0 * rest * delta - (lost + gained) * (1.0 - delta) + 2.0 * lost * delta
    constant = -lost * delta * (1.0 - delta)
    root = math.sqrt(max(linear * linear - 8.0 * n * constant, 0.0))
    return max((root - linear) / (4.0 * n), 0.0, -delta)


def _score(lost: float, gained: float, n: float, delta: float, *, correction: bool) -> float:
    """Score statistic of 'the true difference is `delta`': large where the data lie above it."""
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


def score_p(lost: float, gained: float, n: float, null: float, alternative: Tail, *, df: float = math.inf) -> float:
    """Corrected score p-value of 'delta is on the other side of `null`'. Counts may be effective (fractional).

    df: of Student's t where the variance comes from that many clusters less one; with none left nothing is rejected.
    """
    if df <= 0.0:
        return 1.0
    if alternative == "less":
        lost, gained, null = gained, lost, -null
    z = _score(lost, gained, n, null, correction=True)
    return float(special.ndtr(-z) if math.isinf(df) else special.stdtr(df, -z))


def score_limit(
    lost: float, gained: float, n: float, alpha: float, side: Side, *, df: float = math.inf, correction: bool = True
) -> float:
    """One-sided limit of delta at level 1 - alpha: the null deltas that `score_p` does not reject lie beyond it."""
    if side == "high":
        return -score_limit(gained, lost, n, alpha, "low", df=df, correction=correction)
    if df <= 0.0:
        return -1.0
    critical = -float(special.ndtri(alpha) if math.isinf(df) else special.stdtrit(df, alpha))
    estimate = min(max((gained - lost) / n, -EDGE), EDGE)

    def distance(delta: float) -> float:
        return min(_score(lost, gained, n, delta, correction=correction), 1e6) - critical

    if distance(-EDGE) <= 0.0:
        return -1.0
    if distance(estimate) >= 0.0:
        return estimate
    return float(scipy.optimize.brentq(distance, -EDGE, estimate, xtol=1e-13, rtol=1e-13))


def mcnemar_midp(lost: int, gained: int) -> tuple[float, float]:
    """Return the one-sided mid-p McNemar p-values of no change: against worse, and against better.

    Under no change, lost is binomial(lost + gained, 1/2); the point mass of the data seen counts half. With no
    discordant item both are 1/2. Source: Fagerland, Lydersen and Laake 2013, BMC Medical Research Methodology 13:91.
    Raises StatisticsError.
    """
    check_counts(lost, gained, max(lost + gained, 1))
    at_most, at_least = (float(special.bdtr(count, lost + gained, 0.5)) for count in (lost, gained))
    half = (at_most - (float(special.bdtr(lost - 1, lost + gained, 0.5)) if lost else 0.0)) / 2.0
    # A difference of two tails may end a rounding below 0.
    return max(at_least - half, 0.0), max(at_most - half, 0.0)
