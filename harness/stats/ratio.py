"""Means and ratios of totals, with errors that heed shared sources: an item, or all items of one text or problem."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special


def ratio_error(sums: NDArray[Any], sizes: NDArray[Any], ratio: float) -> float:
    """Standard error of a ratio of totals over at least two sources (Cochran 1977, Sampling Techniques, chapter 6).

    sums, sizes: shape [sources]. ratio: of their totals.
    """
    count = sums.size
    return math.sqrt(count / (count - 1) * float(np.square(sums - ratio * sizes).sum())) / float(sizes.sum())


@dataclass(frozen=True, slots=True)
class Ratio:
    """A ratio of totals, with Student's t of one degree of freedom fewer than there are sources."""

    value: float
    error: float  # standard error of its logarithm
    sources: int
    moves: NDArray[np.float64]  # shape [items]: what each moves the logarithm by, times their number; their mean is 0

    def limit(self, alpha: float) -> float:
        """Return the lower one-sided limit at level 1 - alpha; the upper one for 1 - alpha in place of alpha."""
        return self.value * math.exp(float(special.stdtrit(self.sources - 1, alpha)) * self.error)

    def p_high(self, tolerance: float) -> float:
        """Return the p-value of 'the ratio is at most the tolerance': small if it is shown to be higher."""
        above = math.log(self.value / tolerance)
        if self.error == 0:
            return 0.0 if above > 0 else 1.0
        return float(special.stdtr(self.sources - 1, -above / self.error))


def ratio(above: Sequence[ArrayLike], below: Sequence[ArrayLike], clusters: Sequence[str]) -> Ratio | None:
    """Return the product of the totals of `above` over the product of those of `below`, column by column.

    Each array has a value per item, at least 0. None if a total is 0 or there is a single source. The logarithm is
    linearized (the delta method; Cochran 1977, Sampling Techniques, section 6.4, with units that are whole sources).
    """
    signed = [(np.asarray(one, float), 1.0) for one in above] + [(np.asarray(one, float), -1.0) for one in below]
    sources = np.unique(list(clusters), return_inverse=True)[1]
    count = int(sources.max(initial=-1)) + 1
    if count < 2 or any(values.sum() <= 0 for values, _ in signed):  # noqa: PLR2004 - one source has no variance
        return None
    logarithm = math.fsum(sign * math.log(values.sum()) for values, sign in signed)
    moves = np.asarray(sum(sign * values / values.sum() for values, sign in signed))
    error = math.sqrt(count / (count - 1) * float(np.square(np.bincount(sources, moves)).sum()))
    return Ratio(math.exp(logarithm), error, count, moves * moves.size)


def crossed_variance(values: NDArray[np.float64], *kinds: NDArray[np.generic]) -> float:
    """Return by what factor two kinds of sources raise a variance over that of the one that raises it more.

    Two-way clustering: Cameron, Gelbach and Miller 2011, Journal of Business & Economic Statistics 29:238-249,
    equation 2.11. 1 if one kind lies within the other, or if nothing moved.
    """
    first, second = (np.unique(one, return_inverse=True)[1].astype(np.int64) for one in kinds)
    both, moves = np.unique(first * values.size + second, return_inverse=True)[1], values - values.mean()
    one, two, same = (float(np.square(np.bincount(codes, moves)).sum()) for codes in (first, second, both))
    return max((one + two - same) / max(one, two), 1.0) if max(one, two) > 1e-12 else 1.0  # noqa: PLR2004 - rounding
