"""The difference over several strata, or the layers of one, as one number: a stratified paired score test.

Delta is the sum of the strata's differences times weights that were fixed before the answers. Its variance is taken
where the null holds, as in `harness.stats.binary`, so that strata in which nothing flipped still have one. Arrays have
the strata as their last axis; the axes before it are as many tests at once.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy
from numpy.typing import ArrayLike
from scipy import special

from harness.errors import StatisticsError
from harness.stats.binary import EDGE, Tail, check_alpha, check_margin, mcnemar_midp
from harness.stats.stratum import PairedResult
from harness.stats.units import EffectiveCounts, Floats, Shared


def _variance(lost: Floats, gained: Floats, n: Floats, delta: Floats) -> tuple[Floats, Floats]:
    """Variance and third central moment of an item's difference, at the likeliest rates of which `delta` is true.

    Tango 1998, Statistics in Medicine 17:891-908, section 3: see `harness.stats.binary.score_share`.
    """
    rest = np.maximum(n - lost - gained, 0.0)
    linear = 2.0 * rest * delta - (lost + gained) * (1.0 - delta) + 2.0 * lost * delta
    root = np.sqrt(np.maximum(linear * linear + 8.0 * n * lost * delta * (1.0 - delta), 0.0))
    second = 2.0 * np.maximum(np.maximum((root - linear) / (4.0 * n), 0.0), -delta) + delta
    return second - delta * delta, delta - 3.0 * delta * second + 2.0 * delta**3


def _moments(
    lost: Floats, gained: Floats, n: Floats, weights: Floats, null: float, deltas: Floats, pool: float
) -> tuple[Floats, Floats, Floats]:
    """Variance and skewness of the weighted difference, with the strata's own at `deltas`, and an item's weight."""
    variance, third = _variance(lost, gained, n, deltas)
    parts = weights**2 * variance / n
    total = np.maximum(parts.sum(-1), 1e-15) + (weights * (deltas - null) ** 2).sum(-1) / pool
    item = (weights / n * parts).sum(-1) / total if math.isinf(pool) else (weights**2 / n).sum(-1)
    return total, (weights**3 * third / n**2).sum(-1) / (6.0 * total**1.5), item


def stratified_z(
    lost: Floats, gained: Floats, n: Floats, weights: Floats, null: float, deltas: Floats, pool: float = math.inf
) -> Floats:
    """Return the corrected score statistic of 'delta is `null`', with the strata's own differences at `deltas`."""
    total, skew, item = _moments(lost, gained, n, weights, null, deltas, pool)
    shifted = (((weights * (gained - lost) / n).sum(-1) - null - 0.5 * item) / np.sqrt(total)) + skew
    return np.asarray(2.0 * shifted / (1.0 + np.sqrt(np.maximum(1.0 + 4.0 * skew * shifted, 0.0))))


def _nulls(
    lost: Floats, gained: Floats, n: Floats, weights: Floats, null: float, pool: float | None, most: ArrayLike = 1.0
) -> list[Floats]:
    """Return the strata's differences under each null to look at: even, as seen but moved, in one or a few alone.

    Of layers each alone; of strata those that weigh the most for their items, none beyond its own margin `most`.
    """
    even = np.full(n.shape, null)
    part = weights * _variance(lost, gained, n, even)[0] / n
    seen = (gained - lost) / n
    reach = (null - (weights * seen).sum(-1)) / np.maximum((weights * part).sum(-1), 1e-15)
    found = [even, np.clip(seen + part * reach[..., None], -EDGE, EDGE)]
    if pool is None:
        order = np.argsort(-weights / n, axis=-1, kind="stable")
        room = np.take_along_axis(weights * np.maximum(most, abs(null)) + 0.0 * n, order, -1)
        taken = np.clip(abs(null) - (room.cumsum(-1) - room), 0.0, room)
        return [*found, np.copysign(np.take_along_axis(taken, np.argsort(order, axis=-1), -1) / weights, null)]
    for own, share in zip(np.eye(weights.size), weights, strict=True):
        held = np.clip(null / share, -EDGE, EDGE)  # what does not fit into a layer is in the others
        found.append(np.broadcast_to(np.where(own, held, (null - share * held) / (1.0 - share)), n.shape))
    return found


def stratified_p(  # noqa: PLR0913 - counts, null, and what restricts the variance
    lost: ArrayLike,
    gained: ArrayLike,
    n: ArrayLike,
    weights: ArrayLike,
    null: float,
    alternative: Tail,
    *,
    df: float | Floats = math.inf,
    pool: float | None = None,
    most: ArrayLike = 1.0,
) -> Floats:
    """Corrected score p-value of 'the weighted difference is on the other side of `null`'.

    lost, gained, n: shape [..., strata], counts, which may be effective. weights: shape [strata], fixed beforehand, sum
    1. The variance is restricted in three ways, and the largest p-value counts: with `null` in each stratum (Nam 2006,
    Statistics in Medicine 25:1521-1531; Klingenberg 2014, Statistics in Medicine 33:2968-2983), and with the strata
    where they were seen, moved onto the null by their part in the variance, without which damage in one heavy stratum
    passes in up to 14 %; and with all of it where few items weigh much, at most `most` in each, without which damage
    there passes in up to 10 %. With one stratum it is `harness.stats.binary.score_p`. pool: see `layered_p`.
    """
    before, after, items, shares = (np.asarray(one, float) for one in (lost, gained, n, weights))
    if alternative == "less":
        before, after, null = after, before, -null
    counts, size = (before, after, items, shares, null), pool or math.inf
    z = np.minimum.reduce([stratified_z(*counts, deltas, size) for deltas in _nulls(*counts, pool, most)])
    return np.asarray(special.stdtr(df, -z) if np.any(np.isfinite(df)) else special.ndtr(-z))


def layered_p(
    lost: ArrayLike, gained: ArrayLike, n: ArrayLike, pools: ArrayLike, null: float, alternative: Tail = "greater"
) -> Floats:
    """As `stratified_p`, of layers that were cut from one pool of items and asked in part, each at a rate of its own.

    pools: shape [layers], items of each, asked or not. With N in all, shares w_h and n_h answered, the variance is
    ``sum w_h^2 v_h / n_h + sum w_h (delta_h - delta)^2 / N``: double sampling for stratification (Neyman 1938, Journal
    of the American Statistical Association 33:101-116; Cochran 1977, Sampling Techniques, section 12.2). The v_h are of
    the least favourable null: all may be in one layer. With them as they were seen, damage there passes in up to 8 %.
    """
    sizes = np.asarray(pools, float)
    return stratified_p(lost, gained, n, sizes / sizes.sum(), null, alternative, pool=float(sizes.sum()))


def layered_power(pools: Sequence[int], n: Sequence[int], flips: ArrayLike, margin: float, alpha: float) -> float:
    """Chance that an unchanged candidate passes by `layered_p`; 0 if it could not even without a flip.

    pools, n: items of each layer, and of these asked. flips: the share of each layer that flips.
    """
    share, items, rates = np.array(pools) / max(sum(pools), 1), np.array(n, float), np.array(flips)
    if not all(n) or layered_p(0.0 * items, 0.0 * items, items, pools, -margin) >= alpha:
        return 0.0

    def excess(delta: float) -> float:  # of the p-value, if the difference is seen at as many flips as expected
        gained = np.maximum((rates + delta) / 2.0, max(delta, 0.0)) * items
        return float(layered_p(gained - delta * items, gained, items, pools, -margin)) - alpha

    critical = scipy.optimize.brentq(excess, -margin, EDGE)
    return float(special.ndtr(-critical / math.sqrt(float((share**2 * rates / items).sum()))))


def pooled_test(
    results: Sequence[PairedResult],
    weights: Sequence[float],
    margin: float,
    alpha: float,
    shared: Shared | None = None,
    *,
    layers: bool = False,
) -> PairedResult:
    """Judge the weighted mean difference of strata against a margin.

    results: the strata's own tests. weights: fixed before the answers were seen; any positive scale. shared: if several
    strata share sources. layers: whether they are layers, and the weights the items of each, asked or not, see
    `layered_p`. Raises StatisticsError.
    """
    check_margin(margin)
    check_alpha(alpha)
    shares = np.asarray(weights, float) / math.fsum(weights) if results else np.zeros(0)
    if not results or not (shares > 0.0).all():
        raise StatisticsError(f"Pooling needs strata with weights above 0, not {list(weights)}.")
    inflation, sources = shared or (1.0, sum(one.clusters for one in results))
    test = _Pooled(results, shares, margin, inflation)
    test.pool = math.fsum(weights) if layers else None
    test.df = min(test.df, max(sources - 1, 0.5)) if shared else test.df
    seen = {name: sum(getattr(one, name) for one in results) for name in ("n", "lost", "gained")}
    before, after, items = (float(each.sum()) for each in (test.lost, test.gained, test.n))
    counts = EffectiveCounts(before, after, items, seen["n"] / items, float(seen["n"]), inflation)
    counts = test.even(seen["n"], -margin) if layers else counts
    method = f"{'layered' if layers else 'stratified'} Tango score, corrected"
    worse, better = mcnemar_midp(seen["lost"], seen["gained"])
    limits = {"low": test.limit(alpha, "greater"), "high": test.limit(alpha, "less"), "margin": margin, "alpha": alpha}
    p_values = {"p_pass": test.p_value(-margin, "greater"), "p_fail": test.p_value(-margin, "less")}
    p_values |= {"mid_p": worse, "mid_p_better": better}
    told: dict[str, Any] = {**seen, **limits, **p_values, "clusters": sources, "delta": test.delta}
    return PairedResult(**told, design_effect=None, method=method, counts=counts)


class _Pooled:
    """The strata's effective counts, and the tests of their weighted difference."""

    def __init__(self, results: Sequence[PairedResult], shares: Floats, margin: float, inflation: float) -> None:
        self.pool: float | None = None  # items, if the strata are layers
        counts = [one.counts for one in results]
        columns = zip(*((one.lost, one.gained, one.n) for one in counts), strict=True)
        self.lost, self.gained, self.n = (np.array(one) / inflation for one in columns)
        self.shares = shares
        self.delta = math.fsum(shares * [one.delta for one in results])
        self.exact = all(one.counts.unit == 1.0 for one in results) and inflation == 1.0
        self.sources = np.array([one.sources for one in counts])
        self.most = [one.margin for one in results]
        own = np.array([max(one.df, 0.5) for one in counts])
        spread = shares**2 * _variance(self.lost, self.gained, self.n, np.full(self.n.shape, -margin))[0] / self.n
        with np.errstate(divide="ignore"):  # Satterthwaite 1946, Biometrics Bulletin 2:110-114
            self.df = float(spread.sum() ** 2 / (spread**2 / own).sum())

    def p_value(self, null: float, alternative: Tail) -> float:
        counts = self.lost, self.gained, self.n, self.shares
        p = stratified_p(*counts, null, alternative, df=self.df, pool=self.pool, most=self.most)
        return float(p) if self.exact else max(float(p), self._unseen_p(null, alternative))

    def even(self, n: int, null: float) -> EffectiveCounts:
        """Of layers: as many items asked evenly as have the same variance under the null, at the rates of the pool."""
        counts, pool = (self.lost, self.gained, self.n, self.shares), self.pool or math.inf
        variances = [float(_moments(*counts, null, one, pool)[0]) for one in _nulls(*counts, null, pool)]
        lost, gained = (float((self.shares * one / self.n).sum()) for one in (self.lost, self.gained))
        items = float(_variance(np.array(lost), np.array(gained), np.array(1.0), np.array(null))[0]) / max(variances)
        return EffectiveCounts(lost * items, gained * items, items, n / items, float(n), 1.0)

    def _unseen_p(self, null: float, alternative: Tail) -> float:
        """How likely broken sources go unseen that would move delta to `null`: see `stratum`, in one or in all."""
        sign = 1.0 if alternative == "greater" else -1.0
        drop = sign * (self.delta - null)
        if drop <= 0.0:
            return 1.0
        room = 1.0 + sign * self.delta
        one: Any = np.maximum(1.0 - drop / (self.shares * room), 0.0) ** self.sources
        return float(max(one.max(), max(1.0 - drop / room, 0.0) ** float(self.sources.sum())))

    def limit(self, alpha: float, alternative: Tail) -> float:
        """One-sided limit of delta at level 1 - alpha, dual to `p_value`."""
        end: float = -EDGE if alternative == "greater" else EDGE
        start = min(max(self.delta, -EDGE), EDGE)
        if self.p_value(end, alternative) >= alpha:
            return math.copysign(1.0, end)
        if self.p_value(start, alternative) < alpha:
            return start
        low, high = sorted((end, start))
        return float(scipy.optimize.brentq(lambda null: self.p_value(null, alternative) - alpha, low, high, xtol=1e-12))
