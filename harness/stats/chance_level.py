"""Whether a baseline scores above chance: if it does not, no damage can be seen, and none may be ruled out.

The line is guessing plus the margin. A baseline at that line could fall to guessing, all its skill gone, without losing
more than is tolerated; so a pass would mean nothing. At a chance of 0 the line is the margin itself.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import special

from harness.stats.ratio import ratio_error


def above_chance_p(scores: NDArray[np.float64], clusters: NDArray[np.int32] | None, line: float) -> float | None:
    """Return the p-value of 'the mean score is at most `line`'.

    scores: shape [items], in [0, 1]. clusters: shape [items], the source of each; None if every item is its own.
    line: a proportion. Right-or-wrong scores of independent items: exact binomial (where items differ in their chances
    it is conservative: Hoeffding 1956, Annals of Mathematical Statistics 27:713-721). Otherwise Student's t on cluster
    sums. None if one source cannot say.
    """
    if line >= 1.0:
        return 1.0
    codes = np.arange(scores.size) if clusters is None else np.unique(clusters, return_inverse=True)[1]
    sizes = np.bincount(codes)
    count = sizes.size
    if count == scores.size and ((scores == 0.0) | (scores == 1.0)).all():
        right = int(scores.sum())
        return float(special.bdtrc(right - 1, scores.size, line)) if right else 1.0
    if count < 2:  # noqa: PLR2004 - one source has no spread
        return None
    above = scores - line
    mean = float(above.mean())
    error = ratio_error(np.bincount(codes, above), sizes, mean)
    if error <= 1e-12:  # noqa: PLR2004 - rounding noise of equal scores is no spread
        return 0.0 if mean > 0.0 else 1.0
    return float(special.stdtr(count - 1, -mean / error))
