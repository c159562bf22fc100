"""Along an ordered axis (context tokens, hops): where the candidate leaves the baseline, and how far each side gets.

The cliff is the first level whose true drop is larger than the margin. Its interval [at_low, at_high] holds without any
assumption of monotone damage:

- at_high is the first level that fails after Holm over the axis' levels: the cliff is there or before (error <= alpha);
- at_low is the first level, from the short end, that does not pass; every level before it passed in turn, so the cliff
  is not among them (fixed-sequence testing needs no correction: Maurer, Hothorn and Lehmacher 1995; error <= alpha).

The point estimate lies between: from there on to at_high every level's estimated drop is larger than its margin.

The effective level is the longest one up to which a variant keeps a stated score at every level: the effective length
of RULER (Hsieh et al. 2024, arXiv:2404.06654, section 4), whose score was 0.856, that of Llama-2-7B at 4k.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import takewhile
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from harness import stats
from harness.config.schema import Policy
from harness.judge.outcomes import Floats, Labels
from harness.judge.summaries import Cliff
from harness.stats.ratio import above_chance_p

EFFECTIVE_SHARE = 0.85
"""Share of the baseline's score at the shortest level that a level must keep, where no score is stated."""
MOST_LEVELS = 64  # an axis with more levels is a measurement, not a design
MOST_GROUPS = 12  # with more combinations of the other axes than this, only the pooled axis is shown


class Rows(NamedTuple):
    """The items of one slice that both sides answered."""

    before: Floats  # the baseline's scores
    after: Floats  # the candidate's
    cluster: NDArray[np.int32] | None  # sources; None if every item is its own
    margin: Floats  # of each item's stratum
    chance: Floats  # the score that guessing would give


def cliffs(
    slice_name: str, rows: Rows, levels: Mapping[str, Labels], splitting: Sequence[str], policy: Policy
) -> tuple[Cliff, ...]:
    """Find the cliff along every ordered axis: pooled, then at each combination of the other axes that split the slice.

    levels: axis to a column of shape [items]. splitting: axes that define strata. The effective level asks for
    `policy.effective_score`, or EFFECTIVE_SHARE of the baseline's score at the shortest level.
    """
    found = []
    for axis, (values, at) in _ordered_axes(levels).items():
        held = [name for name in splitting if name != axis and name in levels]
        for group, members in _groups(held, levels, at >= 0):
            positions = np.flatnonzero(members)
            order = positions[np.argsort(at[positions].astype(np.int16), kind="stable")]
            taken = zip(values, np.split(order, np.searchsorted(at[order], range(1, len(values)))), strict=True)
            kept = {value: _level(rows, items, policy) for value, items in taken if items.size}
            if len(kept) > 1:  # one level has no order
                found.append(_cliff(slice_name, axis, group, kept, policy))
    return tuple(found)


def _ordered_axes(levels: Mapping[str, Labels]) -> dict[str, tuple[list[float], NDArray[np.int64]]]:
    """Find the axes whose levels, as far as items have them, are all numbers, two or more of them.

    Give each its levels in order, and the position of every item's, -1 if an item has no such axis.
    """
    found = {}
    for name, labels in levels.items():
        used = [labels.names[code] for code in np.unique(labels.codes)]
        numbers = {text: _number(text) for text in used if text}
        if 2 <= len(numbers) <= MOST_LEVELS and all(map(math.isfinite, numbers.values())):  # noqa: PLR2004
            values = sorted(set(numbers.values()))
            table = np.array(
                [values.index(numbers[text]) if text in numbers else -1 for text in labels.names], np.int64
            )
            found[name] = values, table[labels.codes]
    return found


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


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


class _Level(NamedTuple):
    """Both sides at one level."""

    before: float
    after: float
    p_fail: float
    passes: bool
    beyond: bool  # whether the estimated drop is larger than the margin


def _level(rows: Rows, taken: NDArray[np.int64], policy: Policy) -> _Level:
    """Judge one level by the widest margin among its items."""
    before, after, margin = rows.before[taken], rows.after[taken], float(rows.margin[taken].max())
    cluster = None if rows.cluster is None else rows.cluster[taken]
    result = stats.paired_test(after - before, cluster, margin=margin, alpha=policy.alpha)
    above = above_chance_p(before, cluster, float(rows.chance[taken].mean()) + margin)
    passes = result.p_pass <= policy.alpha and result.low > -margin
    passes = passes and above is not None and above <= policy.chance_alpha
    return _Level(float(before.mean()), float(after.mean()), result.p_fail, passes, result.delta < -margin)


def _cliff(slice_name: str, axis: str, group: str, levels: Mapping[float, _Level], policy: Policy) -> Cliff:
    values, found = list(levels), list(levels.values())
    before, after = tuple(one.before for one in found), tuple(one.after for one in found)
    fails = np.asarray(stats.holm([one.p_fail for one in found])) <= policy.alpha
    high = int(np.argmax(fails)) if fails.any() else None
    estimate = high
    while estimate and found[estimate - 1].beyond:  # back while the estimated drop stays larger than the margin
        estimate -= 1
    stated = EFFECTIVE_SHARE * found[0].before if policy.effective_score is None else policy.effective_score

    def effective(means: Sequence[float]) -> float | None:
        """Return the longest level up to which every mean keeps the score; None if the first does not."""
        kept = takewhile(lambda one: one[1] >= stated, zip(values, means, strict=True))
        return max((value for value, _ in kept), default=None)

    return Cliff(
        slice=slice_name,
        axis=axis,
        group=group,
        levels=tuple(values),
        baseline=before,
        candidate=after,
        at=None if estimate is None else values[estimate],
        at_low=next((value for value, one in levels.items() if not one.passes), None),
        at_high=None if high is None else values[high],
        effective_baseline=effective(before),
        effective_candidate=effective(after),
        score=stated,
    )
