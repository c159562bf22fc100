"""Along an ordered axis (context tokens, hops): where the candidate leaves the baseline, and how far each side gets.

The cliff is the first level whose true drop is larger than the margin. Its interval [at_low, at_high] holds without any
assumption of monotone damage:

- at_high is the first level that fails after Holm over the axis' levels: the cliff is there or before (error <= alpha);
- at_low is the first level, from the short end, that does not pass; every level before it passed in turn, so the cliff
  is not among them (fixed-sequence testing needs no correction: Maurer, Hothorn and Lehmacher 1995; error <= alpha).

The point estimate lies between: from there on to at_high every level's estimated drop is larger than its margin.

The effective level is the longest one up to which a variant keeps a stated score at every level: the effective length
of RULER (Hsieh et al. 2024, arXiv:2404.06654, section 4), whose score was 0.856, that of Llama-2-7B at 4k. This module
knows nothing of strata, looks or verdicts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from harness import stats
from harness.judge.outcomes import Labels
from harness.judge.summaries import Cliff
from harness.stats.ratio import above_chance_p

__all__ = ["Axis", "Rows", "cliffs", "ordered_axes"]

Floats = NDArray[np.float64]

EFFECTIVE_SHARE = 0.85
"""Share of the baseline's score at the shortest level that a level must keep, where no score is stated."""
MOST_LEVELS = 64
"""An axis with more levels is a measurement, not a design."""
MOST_GROUPS = 12
"""With more combinations of the other axes than this, only the pooled axis is shown."""


@dataclass(frozen=True, slots=True, eq=False)
class Axis:
    """An axis whose levels are numbers."""

    name: str
    """The axis."""
    values: tuple[float, ...]
    """Its levels in order."""
    at: NDArray[np.int64]
    """Shape [items]: position in `values`; -1 if an item has no such axis."""


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """The items of one slice that both sides answered."""

    before: Floats
    """The baseline's scores."""
    after: Floats
    """The candidate's scores."""
    cluster: NDArray[np.int32] | None
    """Sources; None if every item is its own."""
    margin: Floats
    """The margin of each item's stratum."""
    chance: Floats
    """The score that guessing would give."""


def ordered_axes(levels: Mapping[str, Labels]) -> list[Axis]:
    """Find the axes whose levels, as far as items have them, are all numbers, two or more of them."""
    found = []
    for name, labels in levels.items():
        used = [labels.names[code] for code in np.unique(labels.codes)]
        numbers = {text: _number(text) for text in used if text}
        if not 2 <= len(numbers) <= MOST_LEVELS or None in numbers.values():  # noqa: PLR2004 - one level has no order
            continue
        values = sorted({value for value in numbers.values() if value is not None})
        table = np.full(len(labels.names), -1, np.int64)
        for code, text in enumerate(labels.names):
            value = numbers.get(text)
            if value is not None:
                table[code] = values.index(value)
        found.append(Axis(name, tuple(values), table[labels.codes]))
    return found


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def cliffs(
    slice_name: str,
    rows: Rows,
    levels: Mapping[str, Labels],
    splitting: Sequence[str],
    *,
    alpha: float,
    chance_alpha: float,
    score: float | None = None,
) -> tuple[Cliff, ...]:
    """Find the cliff along every ordered axis: pooled, then at each combination of the other axes that split the slice.

    levels: axis to a column of shape [items]. splitting: axes that define strata. score: what the effective level asks
    for, in (0, 1]; None for EFFECTIVE_SHARE of the baseline's score at the shortest level.
    """
    found = []
    for axis in ordered_axes(levels):
        held = [name for name in splitting if name != axis.name and name in levels]
        for group, members in _groups(held, levels, axis.at >= 0):
            found.append(_cliff(slice_name, axis, group, members, rows, (alpha, chance_alpha), score))
    return tuple(one for one in found if one is not None)


def _groups(
    held: Sequence[str], levels: Mapping[str, Labels], usable: NDArray[np.bool_]
) -> list[tuple[str, NDArray[np.bool_]]]:
    """Return the pooled items, then those of each combination of the held axes' levels."""
    if not held or not usable.any():
        return [("", usable)]
    key: NDArray[np.int64] = np.zeros(usable.size, np.int64)
    for name in held:
        key = key * len(levels[name].names) + levels[name].codes
    keys, first = np.unique(key[usable], return_index=True)
    if not 2 <= keys.size <= MOST_GROUPS:  # noqa: PLR2004 - one combination is the pooled one
        return [("", usable)]
    positions = np.flatnonzero(usable)[first]
    named = [
        (",".join(f"{name}={levels[name][int(at)]}" for name in held), usable & (key == one))
        for one, at in zip(keys, positions, strict=True)
    ]
    return [("", usable), *sorted(named, key=lambda pair: pair[0])]


def _cliff(
    slice_name: str,
    axis: Axis,
    group: str,
    members: NDArray[np.bool_],
    rows: Rows,
    alphas: tuple[float, float],
    score: float | None,
) -> Cliff | None:
    kept = [(value, taken) for value, taken in zip(axis.values, _by_level(axis, members), strict=True) if taken.size]
    if len(kept) < 2:  # noqa: PLR2004 - one level has no order
        return None
    found = [_level(rows, taken, *alphas) for _, taken in kept]
    values = [value for value, _ in kept]
    fails = np.asarray(stats.holm([one.p_fail for one in found])) <= alphas[0]
    high = int(np.argmax(fails)) if fails.any() else None
    low = next((at for at, one in enumerate(found) if not one.passes), None)
    stated = EFFECTIVE_SHARE * found[0].before if score is None else score
    return Cliff(
        slice=slice_name,
        axis=axis.name,
        group=group,
        levels=tuple(values),
        baseline=tuple(one.before for one in found),
        candidate=tuple(one.after for one in found),
        at=None if high is None else values[_estimate(found, high)],
        at_low=None if low is None else values[low],
        at_high=None if high is None else values[high],
        effective_baseline=_effective(values, [one.before for one in found], stated),
        effective_candidate=_effective(values, [one.after for one in found], stated),
        score=stated,
    )


def _by_level(axis: Axis, members: NDArray[np.bool_]) -> list[NDArray[np.int64]]:
    """Return the positions of the members at each level, in order."""
    positions = np.flatnonzero(members)
    levels = axis.at[positions].astype(np.int16)
    order = np.argsort(levels, kind="stable")
    bounds = np.searchsorted(levels[order], np.arange(len(axis.values) + 1))
    return [positions[order[start:stop]] for start, stop in pairwise(bounds)]


@dataclass(frozen=True, slots=True)
class _Level:
    """Both sides at one level."""

    before: float
    after: float
    p_fail: float
    passes: bool
    beyond: bool
    """Whether the estimated drop is larger than the margin."""


def _level(rows: Rows, taken: NDArray[np.int64], alpha: float, chance_alpha: float) -> _Level:
    """Judge one level by the widest margin among its items."""
    before, after = rows.before[taken], rows.after[taken]
    cluster = None if rows.cluster is None else rows.cluster[taken]
    margin = float(rows.margin[taken].max())
    result = stats.paired_test(after - before, cluster, margin=margin, alpha=alpha)
    above = above_chance_p(before, cluster, float(rows.chance[taken].mean()) + margin)
    return _Level(
        before=float(before.mean()),
        after=float(after.mean()),
        p_fail=result.p_fail,
        passes=result.p_pass <= alpha and result.low > -margin and above is not None and above <= chance_alpha,
        beyond=result.delta < -margin,
    )


def _estimate(found: Sequence[_Level], high: int) -> int:
    """Go back from the level that fails while the estimated drop stays larger than the margin."""
    at = high
    while at > 0 and found[at - 1].beyond:
        at -= 1
    return at


def _effective(values: Sequence[float], means: Sequence[float], score: float) -> float | None:
    """Return the longest level up to which every mean keeps the score; None if the first does not."""
    reached = None
    for value, mean in zip(values, means, strict=True):
        if not mean >= score:
            break
        reached = value
    return reached
