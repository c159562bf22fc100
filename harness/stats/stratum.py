"""The statistics of a verdict: two one-sided tests of one stratum against its margin, and what stands beside them.

Limits and p-values say the same thing: low > -margin exactly where p_pass < alpha, high < -margin exactly where
p_fail < alpha. The methods' parts live in `binary` and `units`.
"""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from harness.errors import StatisticsError
from harness.stats import units
from harness.stats.binary import check_alpha, check_counts, check_margin, mcnemar_midp, score_limit, score_p
from harness.stats.plan import first_number, items_to_decide
from harness.stats.ratio import crossed_variance
from harness.stats.units import EffectiveCounts

FEW_CLUSTERS = 30  # below this many clusters whole-cluster sign-flips join the judgement
MANY_UNITS = 2_000  # above this many units the bootstrap has nothing to add to a transformed t


@dataclass(frozen=True, slots=True)
class PairedResult:
    """One stratum's answer, with what it was made from. Deltas are proportions, negative is worse."""

    n: int
    clusters: int  # independent sources; n where every item is its own
    delta: float  # candidate minus baseline, mean over items
    low: float  # one-sided limits of delta at level 1 - alpha
    high: float
    lost: int  # items on which the candidate scored less
    gained: int  # items on which the candidate scored more
    p_pass: float  # of 'the drop is at least the margin'
    p_fail: float  # of 'the drop is at most the margin'
    mid_p: float  # one-sided, of no change against worse: mid-p McNemar; sign-flips where graded or clustered
    mid_p_better: float  # the same against better
    design_effect: float | None  # variance of delta with its clusters over that without; None if none is shared
    method: str  # name of the interval and tests
    margin: float  # largest tolerated drop
    alpha: float  # error rate of each side
    counts: EffectiveCounts  # as many independent right-or-wrong items as carry the same information

    @property
    def items_to_decide(self) -> int | None:
        """How many more items would decide it if the rates stay; 0 if it is decided, None if none would do."""
        if self.p_pass < self.alpha or self.p_fail < self.alpha:
            return 0
        counts = self.counts
        found = items_to_decide(counts.lost, counts.gained, counts.n, self.margin, self.alpha, unit=counts.unit)
        if found is None or counts.sources >= self.n:
            return found if found is None else max(found, 1)
        # Sources enough to have shown one that breaks, see `units.broken_p`.
        distance = abs(self.delta + self.margin)
        worst = 1.0 + math.copysign(1.0, self.delta + self.margin) * self.delta
        needed = math.log(self.alpha) / math.log1p(-distance / worst) if distance < worst else 1.0
        return max(found, math.ceil((needed / counts.sources - 1.0) * self.n), 1)


@functools.lru_cache(maxsize=4096, typed=True)  # many small strata have the same counts
def paired_counts_test(lost: int, gained: int, n: int, margin: float, alpha: float) -> PairedResult:
    """Judge a stratum of independent right-or-wrong items by its counts alone. Raises StatisticsError."""
    check_counts(lost, gained, n)
    check_margin(margin)
    check_alpha(alpha)
    test = _Test(EffectiveCounts(float(lost), float(gained), float(n), 1.0, float(n), 1.0), (gained - lost) / n)
    mid, method = mcnemar_midp(lost, gained), "Tango score, corrected"
    return test.result(margin, alpha, mid, method, n=n, clusters=n, lost=lost, gained=gained)


def paired_test(
    diffs: ArrayLike,
    clusters: ArrayLike | None = None,
    other: ArrayLike | None = None,
    *,
    margin: float,
    alpha: float = 0.05,
    graded: bool = False,
) -> PairedResult:
    """Judge one stratum: candidate minus baseline of every item that both answered.

    diffs: shape [items], differences of scores, in [-1, 1]. clusters: shape [items], the source of each item (integer
    codes are fastest); None if every item is its own. other: the same by another kind of source, as who asked and what:
    it is judged by each, and the worse counts. margin: largest tolerated drop. alpha: error rate of each side.
    graded: take scores as graded even if all are right or wrong. Resampling is seeded by the values alone, so that
    neither the order of items nor the names of clusters nor the time of day matter.
    Raises StatisticsError on NaN, values outside [-1, 1], no items, unequal lengths, or a bad margin or alpha.
    """
    check_margin(margin)
    check_alpha(alpha)
    values = _checked(diffs)
    whole = not graded and bool(np.isin(values, (-1.0, 0.0, 1.0)).all())
    lost, gained = int(np.count_nonzero(values < 0)), int(np.count_nonzero(values > 0))
    kinds = [np.asarray(one) for one in (clusters, other) if one is not None]
    data = [one for one in (units.make_units(values, codes) for codes in kinds) if one.clustered]
    if whole and not data:
        return paired_counts_test(lost, gained, values.size, margin, alpha)
    crossed, data = crossed_variance(values, *kinds) if len(data) > 1 else 1.0, data or [units.make_units(values, None)]
    found = [_judge_units(one, lost, gained, margin, alpha, full=whole, crossed=crossed) for one in data]
    worst: dict[str, Any] = {}
    for name in ("p_pass", "p_fail", "mid_p", "mid_p_better", "high", "low"):
        worst[name] = (min if name == "low" else max)(getattr(one, name) for one in found)
    return replace(max(found, key=lambda one: one.high - one.low), **worst)


def relative_test(
    before: ArrayLike, after: ArrayLike, *clusters: ArrayLike | None, share: float, alpha: float = 0.05
) -> PairedResult:
    """Judge one stratum: does the candidate keep more than 1 - `share` of the baseline's mean score?

    The tests are those of the mean of ``after - (1 - share) * before`` against 0, so that the baseline's uncertainty
    counts (Fieller 1954, Journal of the Royal Statistical Society B 16:175-185). Limits and the margin are given as
    differences, at the baseline's mean as it was seen. clusters: as of `paired_test`. Raises StatisticsError.
    """
    base, other = np.asarray(before, float), np.asarray(after, float)
    allowed = share * float(base.mean())
    plain = paired_test(other - base, *clusters, margin=allowed, alpha=alpha)
    kept = paired_test(other - (1.0 - share) * base, *clusters, margin=0.0, alpha=alpha, graded=True)
    low, high, method = kept.low - allowed, kept.high - allowed, f"{kept.method}, of the share kept"
    return replace(plain, low=low, high=high, p_pass=kept.p_pass, p_fail=kept.p_fail, method=method)


def can_ever_pass(n: int, margin: float, alpha: float = 0.05, *, clusters: int | ArrayLike | None = None) -> bool:
    """Whether a stratum in which no answer changes would pass: if not, it cannot gate.

    About 3.1 / margin independent items at 5 %: 155 for two points. clusters: the source of each item, shape [n], or
    how many sources of equal size there are; None for as many as items. A few sources cannot pass however many items
    they give. Raises StatisticsError.
    """
    check_margin(margin)
    check_alpha(alpha)
    if n <= 0:
        return False
    labels = np.arange(n) if clusters is None else np.asarray(clusters)
    if labels.ndim == 0:
        labels = np.arange(n) % max(int(labels), 1)
    sources = np.unique(labels).size
    if sources >= n:
        return score_p(0.0, 0.0, n, -margin, "greater") < alpha
    return sources > 1 and paired_test(np.zeros(n), labels, margin=margin, alpha=alpha).p_pass < alpha


def smallest_that_can_pass(margin: float, alpha: float = 0.05, *, per_source: int = 1) -> int:
    """The fewest sources, of `per_source` items each, with which `can_ever_pass`. Raises StatisticsError if none do."""
    found = first_number(lambda sources: can_ever_pass(sources * per_source, margin, alpha, clusters=sources))
    if found is None:
        raise StatisticsError(f"No number of items that a run could ask passes a margin of {margin}. Raise the margin.")
    return found


def _checked(diffs: ArrayLike) -> NDArray[np.float64]:
    values = np.asarray(diffs, dtype=float)
    if values.ndim != 1 or values.size == 0:
        raise StatisticsError(f"There are no items to judge (shape {values.shape}): give one difference per item.")
    if not (np.abs(values) <= 1.0).all():  # NaN is at most nothing
        bad = int(np.argmin(np.abs(values) <= 1.0))
        text = "scores must lie in [0, 1]" if np.isfinite(values[bad]) else "a missing score is never a score"
        raise StatisticsError(f"Difference {bad} is {values[bad]}: {text}.")
    return values


@dataclass(frozen=True, slots=True)
class _Test:
    """The methods that must all agree that delta is above a null: the largest p-value and the farthest limit count."""

    counts: EffectiveCounts
    delta: float
    data: units.Units | None = None  # of which a part may break; None for right-or-wrong items of their own
    law: units.Studentised | units.SignFlips | None = None

    def mirrored(self) -> "_Test":
        """Swap the sides."""
        counts = replace(self.counts, lost=self.counts.gained, gained=self.counts.lost)
        data = self.data and replace(self.data, sums=-self.data.sums)
        return replace(self, counts=counts, delta=-self.delta, data=data, law=self.law and self.law.mirrored())

    def p_value(self, null: float) -> float:
        one = self.counts
        score = score_p(one.lost, one.gained, one.n, null, "greater", df=one.df)
        resampled = 0.0 if self.law is None else self.law.p_value(null)
        return max(score, resampled, units.broken_p(self.data, null)) if self.data else score

    def limit(self, alpha: float) -> float:
        one = self.counts
        score = score_limit(one.lost, one.gained, one.n, alpha, "low", df=one.df)
        resampled = score if self.law is None else self.law.limit(alpha)
        return min(score, resampled, units.broken_limit(self.data, alpha)) if self.data else score

    def result(
        self, margin: float, alpha: float, mid: Sequence[float], method: str, effect: float | None = None, **seen: int
    ) -> PairedResult:
        """Return what the test and its mirror image come to. mid: against worse and better. seen: counts of items."""
        other, (worse, better) = self.mirrored(), mid
        limits = {"low": self.limit(alpha), "high": -other.limit(alpha), "margin": margin, "alpha": alpha}
        p_values = {"p_pass": self.p_value(-margin), "p_fail": other.p_value(margin)}
        told: dict[str, Any] = {**seen, **limits, **p_values, "mid_p": worse, "mid_p_better": better}
        return PairedResult(**told, delta=self.delta, design_effect=effect, method=method, counts=self.counts)


def _judge_units(
    data: units.Units, lost: int, gained: int, margin: float, alpha: float, *, full: bool, crossed: float = 1.0
) -> PairedResult:
    """Judge graded or clustered differences, in whichever orientation comes first, so that sides mirror exactly.

    crossed: see `crossed_variance`.
    """
    data, swap = units.mirrored(data)
    rng, count, counts = data.generator(), data.sums.size, units.effective_counts(data)
    law: units.Studentised | units.SignFlips | None = None
    method = "effective Tango score, corrected"
    if data.clustered and count < FEW_CLUSTERS:
        law = units.sign_flips(data, rng)
        method += " and whole-cluster sign-flips"
    elif not full and count <= MANY_UNITS and (law := units.studentised(data, rng)) is not None:
        method += f" and studentised {'cluster ' if data.clustered else ''}bootstrap"
    elif (law := units.transformed(data, counts.df)) is not None:
        method += f" and {'cluster ' if data.clustered else ''}t without skewness"
    if crossed > 1.0:
        counts, law = counts.widened(crossed), law and law.widened(math.sqrt(crossed), data.delta)
    test, (worse, better) = _Test(counts, data.delta, data, law), units.sign_flip_p(data, rng)
    effect = counts.design_effect if data.clustered else None
    if swap:
        test, worse, better = test.mirrored(), better, worse
    found = {"n": round(data.items), "clusters": count, "lost": lost, "gained": gained}
    return test.result(margin, alpha, (worse, better), method, effect, **found)
