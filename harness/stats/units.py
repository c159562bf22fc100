"""Differences of scores that are graded or share sources: design effect, studentised bootstrap, sign-flips.

A unit is what may be called independent: an item, or a cluster of items. Everything here works on three numbers per
unit: the sum of its items' differences (candidate minus baseline, each in [-1, 1]), the sum of their absolute values,
and its item count. Delta is the ratio of sums, so every item counts once.
"""

import hashlib
import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import special

from harness.errors import StatisticsError
from harness.stats.ratio import ratio_error

Floats = NDArray[np.float64]
DRAWS = 3_999  # bootstrap resamples
FLIPS = 9_999  # sampled sign patterns
_EXHAUSTIVE = 12  # up to this many units all sign patterns are enumerated
_SAMPLED = 200  # up to this many units sign patterns are sampled; beyond, their sum is taken as normal
_EXACT_SUM = 3_000  # up to this sum of whole numbers the law of their random signs is computed exactly
_RESOLVED = 20  # a resampled tail is trusted down to this many draws; beyond, Student's t is scaled to meet it there
_CHUNK = 2_000_000  # array elements held at a time while resampling
_PRIOR_ITEMS, _PRIOR_SOURCES = 2.0, 1.0  # weight of units that move as one, in units that moved
_HIDDEN = 0.05  # the chance at which the sources that can hide damage are counted
Shared = tuple[float, int]  # by what sources in several strata raise a variance, and the number of all sources


@dataclass(frozen=True, slots=True)
class Units:
    """What the methods here see of the data, in an order that depends on nothing but the values."""

    sums: Floats  # shape [units]: summed differences
    masses: Floats  # shape [units]: summed absolute differences
    sizes: Floats  # shape [units]: items
    squares: float  # summed squared differences of all items
    clustered: bool  # whether some unit holds several items

    @property
    def items(self) -> float:
        """All items."""
        return float(self.sizes.sum())

    @property
    def sources(self) -> float:
        """As many equal units as hide as much damage: unequal ones count as fewer.

        Damage d that is all in the largest j units, which hold a part w of the items, breaks d / w of them, and all j
        are whole with chance (1 - d / w)^j: the rule of three of those j, see `broken_p`.
        """
        if not self.clustered:
            return self.items
        held = np.cumsum(self.sizes[::-1]) / self.items
        hidden = -held * np.expm1(math.log(_HIDDEN) / np.arange(1, held.size + 1))
        return math.log(_HIDDEN) / math.log1p(-float(hidden.max()))

    @property
    def delta(self) -> float:
        """The mean difference over items."""
        return float(self.sums.sum()) / self.items

    def generator(self) -> np.random.Generator:
        """Return a generator seeded by the values alone: the same data always resample the same way."""
        content = np.concatenate([self.sums, self.masses, self.sizes]).tobytes()
        return np.random.default_rng(int.from_bytes(hashlib.sha256(content).digest()[:16], "big"))


def make_units(diffs: Floats, clusters: NDArray[np.generic] | None) -> Units:
    """Sum differences by cluster (by item where `clusters` is None or never repeats).

    diffs: shape [items], in [-1, 1]. clusters: shape [items], any labels. Raises StatisticsError.
    """
    if clusters is not None and clusters.shape != diffs.shape:
        raise StatisticsError(f"{diffs.size} differences came with {clusters.size} cluster labels: give one each.")
    squares = float(np.square(np.sort(np.abs(diffs))).sum())
    codes = np.arange(diffs.size) if clusters is None else np.unique(clusters, return_inverse=True)[1]
    sizes = np.bincount(codes)
    if sizes.size == diffs.size:
        return _ordered(diffs, np.abs(diffs), np.ones_like(diffs), squares, clustered=False)
    # Each sign apart, in the order of size: no order of items and no swap of sides changes a bit of either sum.
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    signed = [np.maximum(sign * diffs, 0.0) for sign in (1.0, -1.0)]
    gains, losses = (np.add.reduceat(values[np.lexsort((values, codes))], starts) for values in signed)
    return _ordered(gains - losses, gains + losses, sizes.astype(float), squares, clustered=True)


def _ordered(sums: Floats, masses: Floats, sizes: Floats, squares: float, *, clustered: bool) -> Units:
    order = np.lexsort((sums, masses, sizes))
    return Units(sums[order] + 0.0, masses[order], sizes[order], squares, clustered)


def mirrored(units: Units) -> tuple[Units, bool]:
    """Turn the data to the one of its two orientations that comes first; say whether that swapped the sides.

    With it, swapping baseline and candidate mirrors every resampled limit to the last bit.
    """
    swapped = _ordered(-units.sums, units.masses, units.sizes, units.squares, clustered=units.clustered)
    first = np.flatnonzero(units.sums != swapped.sums)
    return (swapped, True) if bool(first.size and units.sums[first[0]] > swapped.sums[first[0]]) else (units, False)


@dataclass(frozen=True, slots=True)
class EffectiveCounts:
    """As many independent right-or-wrong items as would carry the same information, for the score methods."""

    lost: float
    gained: float
    n: float
    unit: float  # items per effective item; below 1 if graded differences are small
    sources: float  # independent sources, unequal ones counted as fewer
    design_effect: float  # variance of delta with its clusters over the variance were its items independent
    df: float = math.inf  # of Student's t, where the variance is that of sources

    def widened(self, factor: float) -> "EffectiveCounts":
        """Return those of a variance `factor` times as large."""
        parts = {name: getattr(self, name) / factor for name in ("lost", "gained", "n")}
        return replace(self, **parts, unit=self.unit * factor)


def effective_counts(units: Units) -> EffectiveCounts:
    """Divide the counts by the variance of the differences over that of independent right-or-wrong items.

    The effective sample size of Kish 1965 (Survey Sampling, section 8.2), with the variance of a ratio of sums
    (Cochran 1977, Sampling Techniques, chapter 6). An estimate that rests on few units is drawn towards that of
    units that move as one, so that no data give no claim; a unit weighs by its part in the variance.
    """
    items, delta = units.items, units.delta
    mass, total = float(units.masses.sum()), float(units.sums.sum())
    as_binary = mass - items * delta * delta
    moving = as_binary > 1e-12 * items  # else nothing moved, or everything moved all the way
    own = max(units.squares - items * delta * delta, 0.0) / as_binary if moving else 1.0
    squared = np.square(units.sums - delta * units.sizes)
    spread = float(squared.sum())
    seen, weight, sizes, df = own, 0.0, np.square(units.sizes), math.inf
    largest = float(sizes.sum()) / items  # Kish 1965, section 11.7
    if units.clustered:
        # Satterthwaite 1946, Biometrics Bulletin 2:110-114, of sources that move as one.
        df = float(sizes.sum()) ** 2 / float(np.square(sizes).sum()) - 1.0
        count = units.sums.size
        seen = max(spread * count / (count - 1) / as_binary, own) if moving and count > 1 else largest
    if moving and spread > 1e-12:  # noqa: PLR2004 - rounding noise of equal differences is no spread
        weight = spread * spread / float(np.square(squared).sum())
    prior = _PRIOR_SOURCES if units.clustered else _PRIOR_ITEMS
    unit = (prior * largest + weight * seen) / (prior + weight)
    lost, gained = (mass - total) / (2.0 * unit), (mass + total) / (2.0 * unit)
    effect = max(seen / own, 1.0) if own > 0.0 else largest
    return EffectiveCounts(lost, gained, items / unit, unit, units.sources, effect, df)


def shared_sources(influence: Floats, place: NDArray[np.int64], source: NDArray[np.int64]) -> Shared | None:
    """Return what sources in several strata do to a weighted mean.

    influence: shape [items], each item's part in the mean less its stratum's. place, source: its stratum and source.
    Drawn as in `effective_counts` towards sources that move as one. None if no source is in two strata.
    """
    _, codes = np.unique(source, return_inverse=True)
    pairs, within = np.unique(codes.astype(np.int64) * (int(place.max(initial=0)) + 1) + place, return_inverse=True)
    count = int(codes.max(initial=-1)) + 1
    if pairs.size == count:
        return None
    across = np.square(np.bincount(codes, influence))
    apart = float(np.square(np.bincount(within, influence)).sum())
    spread, largest = float(across.sum()), pairs.size / count
    if apart <= 1e-30 or spread <= 1e-30:  # noqa: PLR2004 - nothing moved
        return largest, count
    weight = spread * spread / float(np.square(across).sum())
    return max((_PRIOR_SOURCES * largest + weight * spread / apart) / (_PRIOR_SOURCES + weight), 1.0), count


def _parted(units: Units) -> tuple[Floats, Floats, Floats]:
    """Part the worst units from the others: sources that broke, the mean of the others, how far a broken one is off."""
    order = np.argsort(units.sums / units.sizes, kind="stable")
    at = np.unique(np.geomspace(1, order.size, 300).astype(int))[:-1] - 1
    held, lost = (np.cumsum(one[order])[at] / units.items for one in (units.sizes, units.sums))
    rest = (units.delta - lost) / (1.0 - held)
    return held * units.sources, rest, np.maximum(rest - lost / held, 1e-12)


def broken_p(units: Units, null: float) -> float:
    """Return how likely no more units show that they broke, if as many do as bring delta to `null`.

    A unit that breaks is as bad as the worst ones seen, or loses all if none broke: the rule of three (Hanley and
    Lippman-Hand 1983, JAMA 249:1743-1745). Seen are binomially many; the largest chance over all partings counts.
    Without it up to 8 % pass at their margin, if most units gain and a few lose all.
    """
    (seen, rest, apart), sources = _parted(units), units.sources
    none = math.pow(1.0 - min(max((units.delta - null) / (1.0 + units.delta or 1.0), 0.0), 1.0), sources)
    shares = np.clip((rest - null) / apart, 0.0, 1.0)
    return float(special.betaincc(seen + 1.0, sources - seen, shares).max(initial=none))


def broken_limit(units: Units, alpha: float) -> float:
    """Return the lower one-sided limit of delta at level 1 - alpha, dual to `broken_p`."""
    (seen, rest, apart), sources = _parted(units), units.sources
    none = units.delta - (1.0 - math.pow(alpha, 1.0 / sources)) * (1.0 + units.delta)
    return float((rest - apart * special.betaincinv(seen + 1.0, sources - seen, 1.0 - alpha)).min(initial=none))


def above_chance_p(
    scores: Floats, clusters: NDArray[np.int32] | None, line: float, other: NDArray[np.int32] | None = None
) -> float | None:
    """Return the p-value of 'the mean score is at most `line`', guessing plus the margin.

    A baseline at that line could fall to guessing, all its skill gone, without losing more than is tolerated: no damage
    can be seen in it, and none may be ruled out. At a chance of 0 the line is the margin itself.

    scores: shape [items], in [0, 1]. clusters: shape [items], the source of each; None if every item is its own.
    other: the same by another kind of source; the worse counts. line: a proportion. Right-or-wrong scores of
    independent items: exact binomial (where items differ in their chances it is conservative: Hoeffding 1956,
    Annals of Mathematical Statistics 27:713-721). Otherwise Student's t on cluster sums and `broken_p`, without
    which up to 19 % are shown that are at the line. None if one source cannot say.
    """
    if line >= 1.0:
        return 1.0
    if other is not None:
        found = [above_chance_p(scores, one, line) for one in (clusters, other)]
        known = [one for one in found if one is not None]
        return max(known) if len(known) == len(found) else None
    if (clusters is None or np.unique(clusters).size == scores.size) and np.isin(scores, (0.0, 1.0)).all():
        return float(special.bdtrc(int(scores.sum()) - 1, scores.size, line))
    data = make_units(scores - 1.0, clusters)
    if (count := data.sums.size) < 2:  # noqa: PLR2004 - one source has no spread
        return None
    above, error = data.delta + 1.0 - line, ratio_error(data.sums, data.sizes, data.delta)
    t = float(special.stdtr(count - 1, -above / error)) if error > 1e-12 else float(above <= 0.0)  # noqa: PLR2004
    return max(t, broken_p(data, line - 1.0))


@dataclass(frozen=True, slots=True)
class Studentised:
    """The law of (delta* - delta) / se*: Efron and Tibshirani 1993, chapter 12.5 (bootstrap-t)."""

    delta: float
    se: float  # standard error of delta, above 0
    draws: Floats  # shape [draws]: largest first; infinite where a resample had no spread
    df: float  # units less one, for the tail beyond what the draws resolve

    def mirrored(self) -> "Studentised":
        """Swap the sides."""
        return Studentised(-self.delta, self.se, -self.draws[::-1], self.df)

    def widened(self, factor: float, _: float) -> "Studentised":
        """Return the law with `factor` times the standard error."""
        return replace(self, se=self.se * factor)

    def p_value(self, null: float) -> float:
        """Return the p-value of 'delta is at most `null`'."""
        observed, total = (self.delta - null) / self.se, self.draws.size + 1
        beyond = int(np.count_nonzero(self.draws >= observed))
        if beyond >= _RESOLVED or not (stretch := self._stretch(total)):
            return (1 + beyond) / total
        return max(float(special.stdtr(self.df, -observed / stretch)), beyond / total)

    def limit(self, alpha: float) -> float:
        """Return the lower one-sided limit of delta at level 1 - alpha, dual to `p_value`."""
        total = self.draws.size + 1
        reached = math.ceil(alpha * total - 1e-9)
        if alpha * total > _RESOLVED + 1 or not (stretch := self._stretch(total)):
            critical = float(self.draws[reached - 2]) if reached > 1 else math.inf
        else:
            scaled = -stretch * float(special.stdtrit(self.df, alpha))
            critical = max(scaled, float(self.draws[_RESOLVED - 1]), float(self.draws[max(reached, 1) - 1]))
        return max(self.delta - min(critical * self.se, 2.0), -1.0)

    def _stretch(self, total: int) -> float:
        """Return what Student's t is scaled by to meet the draws; 0 if they leave nothing to meet."""
        edge = float(self.draws[_RESOLVED - 1])
        return edge / -float(special.stdtrit(self.df, _RESOLVED / total)) if 0.0 < edge < math.inf else 0.0


def studentised(units: Units, rng: np.random.Generator, draws: int = DRAWS) -> Studentised | None:
    """Resample units with replacement and studentise each resample. None if the units do not vary at all."""
    delta, count = units.delta, units.sums.size
    se = ratio_error(units.sums, units.sizes, delta) if count > 1 else 0.0
    if se <= 1e-12:  # noqa: PLR2004 - rounding noise of equal differences is no spread
        return None
    law, step = np.empty(draws), max(_CHUNK // count, 1)
    for start in range(0, draws, step):
        rows = rng.integers(0, count, size=(min(step, draws - start), count))
        law[start : start + rows.shape[0]] = _studentise(units, rows)
    return Studentised(delta, se, np.sort(law)[::-1], float(count - 1))


def _studentise(units: Units, rows: NDArray[np.int64]) -> Floats:
    """(delta* - delta) / se* of each row of unit numbers, with the se of `ratio_error`."""
    sums, count = units.sums[rows], rows.shape[1]
    sizes = units.sizes[rows] if units.clustered else np.ones((1, 1))
    items = sizes.sum(axis=1) if units.clustered else float(count)
    ratio = sums.sum(axis=1) / items
    squared = np.square(sums - ratio[:, None] * sizes).sum(axis=1)
    off = ratio - units.delta
    se = np.sqrt(count / (count - 1) * squared) / items
    still = se <= 1e-12  # noqa: PLR2004 - as above
    far = np.where(np.abs(off) <= 1e-15, 0.0, np.copysign(np.inf, off))  # noqa: PLR2004
    return np.where(still, far, off / np.where(still, 1.0, se))


def transformed(units: Units, df: float) -> Studentised | None:
    """Return the law of t by its skewness instead, for many units or right-or-wrong ones. None as `studentised`."""
    delta, count = units.delta, units.sums.size
    se = ratio_error(units.sums, units.sizes, delta) if count > 1 else 0.0
    if se <= 1e-12:  # noqa: PLR2004 - as above
        return None
    off, df = units.sums - delta * units.sizes, min(max(df, 0.5), count - 1.0)
    skew = float((off**3).sum()) / float(np.square(off).sum()) ** 1.5
    # Hall 1992, Journal of the Royal Statistical Society B 54:221-228, section 2, solved for t: symmetric is
    # t + skew t^2 / 3 + skew^2 t^3 / 27 + skew / 6 = ((1 + skew t / 3)^3 - 1) / skew + skew / 6.
    rest = -special.stdtrit(df, np.arange(1, DRAWS + 1) / (DRAWS + 1.0)) - skew / 6.0
    root = np.cbrt(1.0 + skew * rest)
    return Studentised(delta, se, 3.0 * rest / (root * root + root + 1.0), df)


@dataclass(frozen=True, slots=True)
class SignFlips:
    """Typical values: the deltas of subsets of units. Hartigan 1969, JASA 64:1303-1317.

    Flipping the signs of a subset about a null delta D lets the total grow exactly where the subset's own delta is at
    most D, so the whole-cluster sign-flip test of every D, and its limits, are read off one sorted list.
    """

    ratios: Floats  # shape [subsets]: sorted deltas of the subsets that were flipped, apart from the empty one

    def mirrored(self) -> "SignFlips":
        """Swap the sides."""
        return SignFlips(-self.ratios[::-1])

    def widened(self, factor: float, delta: float) -> "SignFlips":
        """Return the law with `factor` times the distances from delta."""
        return SignFlips(delta + (self.ratios - delta) * factor)

    def p_value(self, null: float) -> float:
        """Return the p-value of 'delta is at most `null`'."""
        return (1 + int(np.searchsorted(self.ratios, null, side="right"))) / (self.ratios.size + 1)

    def limit(self, alpha: float) -> float:
        """Return the lower one-sided limit of delta at level 1 - alpha, dual to `p_value`."""
        reached = math.ceil(alpha * (self.ratios.size + 1) - 1e-9)
        return float(self.ratios[reached - 2]) if reached > 1 else -1.0


def sign_flips(units: Units, rng: np.random.Generator, flips: int = FLIPS) -> SignFlips:
    """List the deltas of all subsets of units where they are few, of random subsets otherwise."""
    subsets = _subsets(units.sums.size, rng, flips).astype(float)
    subsets = subsets[subsets.any(axis=1)]
    return SignFlips(np.sort((subsets @ units.sums) / (subsets @ units.sizes)))


def _subsets(count: int, rng: np.random.Generator, flips: int) -> NDArray[np.int64]:
    """Return all subsets of units, one a row of 0 and 1, where they are few; random ones otherwise."""
    if count > _EXHAUSTIVE:
        return rng.integers(0, 2, size=(flips, count))
    return np.asarray((np.arange(2**count)[:, None] >> np.arange(count)) & 1)


def sign_flip_p(units: Units, rng: np.random.Generator) -> tuple[float, float]:
    """Sign-flip permutation p-values of no change: against worse, and against better.

    Whole units are flipped. Exact where all sums are whole numbers (right or wrong answers; with units of one item it
    is the exact McNemar test) or units are few; `FLIPS` random patterns up to 200 moving units; beyond that the normal
    limit of the (symmetric) permutation law. Source: Fisher 1935, The Design of Experiments, section 21.
    """
    moved = units.sums[units.sums != 0.0]
    if moved.size == 0:
        return 1.0, 1.0
    observed, sizes = float(moved.sum()), np.abs(moved)
    if (sizes == np.rint(sizes)).all() and sizes.sum() <= _EXACT_SUM:
        law = _flip_law(sizes.astype(np.int64))
        total = round(observed) + (law.size - 1) // 2
        return min(float(law[: total + 1].sum()), 1.0), min(float(law[total:].sum()), 1.0)
    if moved.size > _SAMPLED:
        z = observed / math.sqrt(float(np.square(moved).sum()))
        return float(special.ndtr(z)), float(special.ndtr(-z))
    totals = (2.0 * _subsets(moved.size, rng, FLIPS) - 1.0) @ sizes
    unseen = 0 if moved.size <= _EXHAUSTIVE else 1
    worse, better = np.count_nonzero(totals <= observed + 1e-9), np.count_nonzero(totals >= observed - 1e-9)
    return (unseen + worse) / (unseen + totals.size), (unseen + better) / (unseen + totals.size)


def _flip_law(sizes: NDArray[np.int64]) -> Floats:
    """Chances of every sum of +-sizes, from minus to plus their total: one binomial law per size, convolved."""
    law: Floats = np.ones(1)
    for size, count in zip(*np.unique(sizes, return_counts=True), strict=True):
        steps = np.zeros(2 * int(size) * int(count) + 1)
        steps[:: 2 * int(size)] = np.diff(special.bdtr(np.arange(int(count) + 1), int(count), 0.5), prepend=0.0)
        law = np.convolve(law, steps).astype(np.float64)
    return law
