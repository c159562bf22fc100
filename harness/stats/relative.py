"""A margin that is a share of the baseline's score: is the candidate shown to keep at least the rest of it?"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike

from harness.stats.stratum import PairedResult, paired_test

__all__ = ["relative_test"]


def relative_test(
    before: ArrayLike, after: ArrayLike, clusters: ArrayLike | None = None, *, share: float, alpha: float = 0.05
) -> PairedResult:
    """Judge one stratum: does the candidate keep more than 1 - `share` of the baseline's mean score?

    The tests are those of the mean of ``after - (1 - share) * before`` against 0, so that the baseline's uncertainty
    counts (Fieller 1954, Journal of the Royal Statistical Society B 16:175-185). Limits and the margin are given as
    differences, at the baseline's mean as it was seen. Raises StatisticsError.
    """
    base, other = np.asarray(before, float), np.asarray(after, float)
    allowed = share * float(base.mean())
    plain = paired_test(other - base, clusters, margin=allowed, alpha=alpha)
    kept = paired_test(other - (1.0 - share) * base, clusters, margin=0.0, alpha=alpha, binary=False)
    return replace(
        plain,
        low=kept.low - allowed,
        high=kept.high - allowed,
        p_pass=kept.p_pass,
        p_fail=kept.p_fail,
        method=f"{kept.method}, of the share kept",
    )
