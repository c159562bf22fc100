"""Along an ordered axis (context tokens, hops): where the candidate leaves the baseline, and how far each side gets.

The cliff is the first level whose true drop is larger than the margin. Its interval [at_low, at_high] assumes no
monotone damage: at_high is the first level that fails after Holm over the axis' levels; at_low is the first, from the
short end, that does not pass, and every level before it passed in turn (fixed-sequence testing needs no correction:
Maurer, Hothorn and Lehmacher 1995). Each errs with a chance of at most alpha. In between lies the estimate: from there
on to at_high every level's estimated drop is larger than its margin.

The effective level is the longest one up to which a variant keeps a stated score at every level (RULER, Hsieh et al.
2024, arXiv:2404.06654, section 4: 0.856, the score of Llama-2-7B at 4k).
"""

import math
from collections.abc import Mapping, Sequence
from itertools import takewhile
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from harness import stats
from harness.config.schema import Policy
from harness.judge.outcomes import Columns, Floats, Labels
from harness.judge.summaries import Cliff
from harness.stats.units import above_chance_p

EFFECTIVE_SHARE = 0.85  # of the baseline's score at the shortest level: what a level must keep if no score is stated
MOST_LEVELS = 64  # an axis with more levels is a measurement, not a design
MOST_GROUPS = 12  # with more combinations of the other axes than this, only the pooled axis is shown


def cliffs(
    name: str, rows: Columns, margins: Floats, levels: Mapping[str, Labels], splitting: Sequence[str], policy: Policy
) -> tuple[Cliff, ...]:
    """Find the cliff along every ordered axis: pooled, then at each combination of the other axes that split the slice.

    rows: of one slice, answered by both sides. margins: of each place. levels: axis to a column of the rows. splitting:
    axes that define strata.
    """
    found = []
    for axis, (values, at) in _ordered_axes(levels).items():
        held = [one for one in splitting if one != axis and one in levels]
        for group, members in _groups(held, levels, at >= 0):
            positions = np.flatnonzero(members)
            order = positions[np.argsort(at[positions].astype(np.int16), kind="stable")]
            taken = zip(values, np.split(order, np.searchsorted(at[order], range(1, len(values)))), strict=True)
            kept = {value: _level(rows.where(items), margins, policy) for value, items in taken if items.size}
            if len(kept) > 1:  # one level has no order
                found.append(_cliff(name, axis, group, kept, policy))
    return tuple(found)


def _ordered_axes(levels: Mapping[str, Labels]) -> dict[str, tuple[list[float], NDArray[np.int64]]]:
    """Return the levels of every axis of numbers, and the position of every item's, -1 for an item without one."""
    found = {}
    for name, labels in levels.items():
        used = [labels.names[code] for code in np.unique(labels.codes)]
        try:
            numbers = {text: float(text) for text in used if text}
        except ValueError:  # names have no order
            continue
        if 2 <= len(numbers) <= MOST_LEVELS and all(map(math.isfinite, numbers.values())):  # noqa: PLR2004
            values = sorted(set(numbers.values()))
            table = [values.index(numbers[text]) if text in numbers else -1 for text in labels.names]
            found[name] = values, np.array(table, np.int64)[labels.codes]
    return found


def _groups(
    held: Sequence[str], levels: Mapping[str, Labels], usable: NDArray[np.bool_]
) -> list[tuple[str, NDArray[np.bool_]]]:
    """Return the pooled items, then those of each combination of the held axes' levels."""
    key: NDArray[np.int64] = np.zeros(usable.size, np.int64)
    for name in held:
        key = key * len(levels[name].names) + levels[name].codes
    keys, first = np.unique(key[usable], return_index=True)
    if not 2 <= keys.size <= MOST_GROUPS:  # noqa: PLR2004 - one combination is the pooled one
        return [("", usable)]
    shown = [",".join(f"{name}={levels[name][int(at)]}" for name in held) for at in np.flatnonzero(usable)[first]]
    named = [(group, usable & (key == one)) for group, one in zip(shown, keys, strict=True)]
    return [("", usable), *sorted(named, key=lambda pair: pair[0])]


class _Level(NamedTuple):
    """Both sides at one level."""

    before: float
    after: float
    p_fail: float
    passes: bool
    beyond: bool  # whether the estimated drop is larger than the margin


def _level(rows: Columns, margins: Floats, policy: Policy) -> _Level:
    """Judge the items of one level by the widest margin among them."""
    before, after, margin = rows.before, rows.after, float(margins[rows.place].max())
    result = stats.paired_test(after - before, rows.cluster, rows.other, margin=margin, alpha=policy.alpha)
    above = above_chance_p(before, rows.cluster, float(rows.chance.mean()) + margin, rows.other)
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

    at, at_high = (None if found_at is None else values[found_at] for found_at in (estimate, high))
    at_low = next((value for value, one in levels.items() if not one.passes), None)
    shown = slice_name, axis, group, tuple(values), before, after
    return Cliff(*shown, at, at_low, at_high, effective(before), effective(after), stated)
