"""The plain averages, to be read against the strata: what they hide, and when they betray a baseline gone wrong.

None of it decides about a stratum. It knows no files and no exit codes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import special

from harness import stats
from harness.judge.comparison import Comparison, Scope, StratumNumbers, points
from harness.judge.verdicts import Average

__all__ = ["averages", "by_slice", "gone_wrong", "hidden", "normal_quantile", "scopes", "triage"]

Floats = NDArray[np.float64]
Codes = NDArray[np.int32]

TRIAGE_RATE = 0.05
"""Share of false entries in the triage list (Benjamini and Hochberg 1995)."""
GONE_WRONG_LEVEL = 0.001
"""Level at which each candidate must be above the baseline. Candidates share the baseline's luck, hence so small."""
GONE_WRONG_SPREAD = 0.5
"""'About the same amount': best and worst candidate differ by at most this share of the smaller gain."""


def by_slice(strata: Sequence[StratumNumbers]) -> dict[str, list[int]]:
    """Slice to the positions of its strata."""
    found: dict[str, list[int]] = {}
    for at, one in enumerate(strata):
        found.setdefault(one.slice, []).append(at)
    return found


def averages(
    strata: Sequence[StratumNumbers], place: Codes, before: Floats, after: Floats, weight: Floats
) -> tuple[Average, ...]:
    """Return the means of all items, weighted by traffic where weights differ, then of each slice.

    place: shape [items], sorted positions in `strata`. before, after: scores, NaN if unanswered. weight: per item.
    """
    answered = ~(np.isnan(before) | np.isnan(after))
    everything = list(range(len(strata)))
    found = [_average("all", strata, everything, place, before, after, answered.astype(float))]
    if weight.size and weight.min() != weight.max():
        found.append(_average("all, by traffic", strata, everything, place, before, after, answered * weight))
    for name, members in by_slice(strata).items():
        if name != "all":  # a plain table's only slice
            found.append(_average(name, strata, members, place, before, after, answered.astype(float)))
    return tuple(found)


def _average(
    name: str,
    strata: Sequence[StratumNumbers],
    members: Sequence[int],
    place: Codes,
    before: Floats,
    after: Floats,
    weight: Floats,
) -> Average:
    start, stop = np.searchsorted(place, [members[0], members[-1] + 1])
    own = weight[start:stop]
    total = float(own.sum())
    judged = [strata[at] for at in members if strata[at].looks]
    if total <= 0.0 or not judged:
        return Average(name, 0, None, None, None, None, "")
    worst = min(judged, key=lambda one: one.looks[-1].result.delta)
    means = [float((np.where(own > 0.0, side[start:stop], 0.0) * own).sum()) / total for side in (before, after)]
    return Average(
        slice=name,
        n=int(np.count_nonzero(own)),
        baseline_mean=means[0],
        candidate_mean=means[1],
        delta=means[1] - means[0],
        worst_delta=worst.looks[-1].result.delta,
        worst_stratum=f"{worst.slice}/{worst.stratum}",
    )


def scopes(
    strata: Sequence[StratumNumbers], place: Codes, before: Floats, after: Floats, cluster: Codes | None
) -> tuple[Scope, ...]:
    """Return the mean difference of everything, then of each slice, with cluster-robust standard errors."""
    ranges = [("", 0, len(strata)), *((name, at[0], at[-1] + 1) for name, at in by_slice(strata).items())]
    found = []
    for name, first, last in ranges:
        start, stop = np.searchsorted(place, [first, last])
        own, other = before[start:stop], after[start:stop]
        answered = ~(np.isnan(own) | np.isnan(other))
        if not answered.any():
            continue
        codes = None if cluster is None else cluster[start:stop][answered]
        delta, error = _mean(other[answered] - own[answered], codes)
        mean, mean_error = _mean(own[answered], codes)
        found.append(Scope(name, delta, error, mean, mean_error))
    return tuple(found)


def _mean(values: Floats, codes: Codes | None) -> tuple[float, float]:
    """Mean and its standard error, items of one source summed first (Miller 2024, arXiv:2411.00640, equation 4)."""
    mean = float(values.mean())
    residual = values - mean
    sums = residual if codes is None else np.bincount(codes, residual)
    count = values.size if codes is None else int(np.unique(codes).size)
    inflate = count / max(count - 1, 1)
    return mean, math.sqrt(inflate * float(np.square(sums).sum())) / values.size


def triage(strata: Sequence[StratumNumbers]) -> tuple[int, int]:
    """Count the strata that are significantly worse, and better: Benjamini-Hochberg on two-sided mid-p values."""
    results = [one.looks[-1].result for one in strata if one.looks]
    if not results:
        return 0, 0
    two_sided = [min(max(2.0 * min(one.mid_p, one.mid_p_better), 0.0), 1.0) for one in results]
    listed = np.asarray(stats.benjamini_hochberg(two_sided)) <= TRIAGE_RATE
    worse = [one.mid_p < one.mid_p_better for one in results]
    return int(np.count_nonzero(listed & worse)), int(np.count_nonzero(listed & ~np.array(worse)))


def hidden(shown: Sequence[Average], worse: int, better: int, judged: int, margin: float) -> str:
    """Return in one line what the mean hides. margin: what a mean must drop to show damage."""
    everything = shown[0]
    if everything.delta is None or everything.worst_delta is None:
        return "nothing to average"
    if not worse:
        counts = f"none of {judged} strata significantly worse, {better} better (corrected for their number)"
        return f"mean {points(everything.delta)}; {counts}"
    verb = "hides" if everything.delta > -margin else "with"
    counts = f"{worse} {_strata(worse)} significantly worse and {better} better of {judged}"
    worst = f"the worst is {everything.worst_stratum} at {points(everything.worst_delta)}"
    return f"mean {points(everything.delta)} {verb} {counts}; {worst}"


def _strata(count: int) -> str:
    return "stratum" if count == 1 else "strata"


def gone_wrong(compared: Sequence[Comparison]) -> list[str]:
    """Call out a baseline that looks broken: every candidate is better by about the same amount.

    Looked at over everything and in each slice. 'Every' needs at least two candidates; 'better': one-sided p below
    GONE_WRONG_LEVEL each; 'about the same': gains within GONE_WRONG_SPREAD of the smallest. Quantization errors differ
    between methods, so a gain that all share is a loss of the baseline.
    """
    usable = [one for one in compared if not one.refused and one.scopes]
    if len(usable) < 2:  # noqa: PLR2004 - one candidate's gain is its own
        return []
    found = []
    for scope in usable[0].scopes:
        same = [other for one in usable for other in one.scopes if other.slice == scope.slice]
        gains = [one.delta for one in same]
        if len(same) < len(usable) or min(gains) <= 0.0 or max(_better_p(one) for one in same) >= GONE_WRONG_LEVEL:
            continue
        if max(gains) - min(gains) <= GONE_WRONG_SPREAD * min(gains):
            where = f"in {scope.slice}" if scope.slice else "over all items"
            found.append(
                f"every candidate is better than the baseline {where}, by {points(min(gains))} to "
                f"{points(max(gains))}: a baseline gone wrong rather than a gain; check its template, dtype and weights"
            )
    return found


def _better_p(scope: Scope) -> float:
    if scope.error <= 0.0:
        return 0.0 if scope.delta > 0.0 else 1.0
    return float(special.ndtr(-scope.delta / scope.error))


def normal_quantile(alpha: float) -> float:
    """Return the z that a standard normal exceeds with chance `alpha`."""
    return float(-special.ndtri(alpha))
