"""Many strata at once: Holm, Benjamini-Hochberg, and Tarone's discarding of strata that cannot reject.

There is nothing here for passing: a candidate passes when every gating stratum does, an intersection-union test, which
needs no correction (Berger 1982, Technometrics 24:295-300).
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from harness.errors import StatisticsError
from harness.stats.binary import check_alpha, check_margin, score_p


def _checked(p_values: ArrayLike) -> NDArray[np.float64]:
    p = np.asarray(p_values, dtype=float)
    if p.ndim != 1:
        raise StatisticsError(f"p-values must be one row, not of shape {p.shape}.")
    if (outside := ~((p >= 0.0) & (p <= 1.0))).any():
        raise StatisticsError(f"p-values must lie in [0, 1]; these do not: {p[outside][:5]}.")
    return p


def holm(p_values: ArrayLike) -> NDArray[np.float64]:
    """Holm's adjusted p-values, in the order given: reject where one is below alpha and the family error is alpha.

    p_values: shape [tests], in [0, 1]; may be empty. Holds under any dependence. Raises StatisticsError.
    Source: Holm 1979, Scandinavian Journal of Statistics 6:65-70. (Not Holm-Sidak.)
    """
    p = _checked(p_values)
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(p[order] * (p.size - np.arange(p.size)))
    return np.asarray(np.minimum(stepped, 1.0)[np.argsort(order)])


def benjamini_hochberg(p_values: ArrayLike) -> NDArray[np.float64]:
    """Benjamini and Hochberg's adjusted p-values, for triage: as `holm` takes and gives them.

    Source: Benjamini and Hochberg 1995, Journal of the Royal Statistical Society B 57:289-300.
    """
    p = _checked(p_values)
    order = np.argsort(p, kind="stable")[::-1]
    stepped = np.minimum.accumulate(p[order] * p.size / (p.size - np.arange(p.size)))
    return np.asarray(np.minimum(stepped, 1.0)[np.argsort(order)])


def tarone_can_reject(smallest_p: ArrayLike, alpha: float) -> NDArray[np.bool_]:
    """Return which tests belong in the family: those that could reject at alpha over the family's own size.

    smallest_p: shape [tests], the smallest p-value that each test could have given whatever the answers (it may depend
    on item counts, never on the answers that the test weighs). Holm over the family that is left keeps its error rate.
    Raises StatisticsError. Source: Tarone 1990, Biometrics 46:515-522.
    """
    check_alpha(alpha)
    smallest = _checked(smallest_p)
    for size in range(1, smallest.size + 1):
        able = smallest <= alpha / size
        if np.count_nonzero(able) <= size:
            return able
    return np.zeros(smallest.size, dtype=bool)


def smallest_fail_p(n: float, margin: float) -> float:
    """The fail test's p-value were all `n` (effective) items lost: the smallest it can be. Raises StatisticsError."""
    check_margin(margin)
    return 1.0 if n <= 0 else score_p(n, 0.0, n, -margin, "less")
