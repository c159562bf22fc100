"""The plain averages: what they hide, and when they betray a baseline gone wrong. They decide about no stratum."""

import math
from collections.abc import Sequence

import numpy as np
from scipy import special

from harness import stats
from harness.judge.decisions import points
from harness.judge.outcomes import Columns, Floats
from harness.judge.rules import Rules
from harness.judge.summaries import Average, Comparison, Scope, StratumNumbers
from harness.store.units import grouped

TRIAGE_RATE = 0.05  # share of false entries in the triage list (Benjamini and Hochberg 1995)
GONE_WRONG_LEVEL = 0.001  # of each candidate's gain; candidates share the baseline's luck, hence so small
GONE_WRONG_SPREAD = 0.5  # 'about the same amount': best and worst differ by at most this share of the smaller gain
GONE_WRONG_GAIN = 0.1  # what quantization never gains; a candidate trained to be better is no build of this baseline
_CHECK = "check its template, dtype and weights"


def by_slice(strata: Sequence[StratumNumbers]) -> dict[str, list[int]]:
    """Slice to the positions of its strata."""
    return grouped((one.slice, at) for at, one in enumerate(strata))


def averages(strata: Sequence[StratumNumbers], columns: Columns) -> tuple[Average, ...]:
    """Return the means of all items, weighted by traffic where weights differ, then of each slice."""
    wanted: list[tuple[str, Sequence[int], bool]] = [("all", range(len(strata)), False)]
    if columns.weight.size and columns.weight.min() != columns.weight.max():
        wanted.append(("all, by traffic", range(len(strata)), True))
    # "all" is the only slice of a plain table
    wanted += [(name, members, False) for name, members in by_slice(strata).items() if name != "all"]
    found = []
    for name, members, by_traffic in wanted:
        rows = columns.of(members[0], members[-1])
        weight = rows.answered * (rows.weight if by_traffic else 1.0) * rows.stands
        total, judged = float(weight.sum()), [strata[at] for at in members if strata[at].looks]
        if total <= 0.0 or not judged:
            found.append(Average(name, 0, None, None, None, None, ""))
            continue
        sums = (float((np.where(weight > 0.0, side, 0.0) * weight).sum()) for side in (rows.before, rows.after))
        before, after = (one / total for one in sums)
        worst = min(judged, key=lambda one: one.looks[-1].result.delta)
        drop, where = worst.looks[-1].result.delta, f"{worst.slice}/{worst.stratum}"
        found.append(Average(name, int(np.count_nonzero(weight)), before, after, after - before, drop, where))
    return tuple(found)


def scopes(strata: Sequence[StratumNumbers], columns: Columns) -> tuple[Scope, ...]:
    """Return the mean difference of everything, of each slice, of each gating stratum, with errors by clusters."""
    everything = ("", "", [*range(len(strata))])
    slices = [(name, "", members) for name, members in by_slice(strata).items()]
    gating, found = [(*one.place, [at]) for at, one in enumerate(strata) if one.gating], []
    for name, stratum, members in (everything, *slices, *gating):
        rows = columns.of(members[0], members[-1])
        rows = rows.where(rows.answered)
        if rows.item.size:
            change, before = _mean(rows, rows.after - rows.before), _mean(rows, rows.before)
            found.append(Scope(name, stratum, *change, *before, _sources(rows)))
    return tuple(found)


def _sources(rows: Columns) -> int:
    return rows.item.size if rows.cluster is None else int(np.unique(rows.cluster).size)


def _mean(rows: Columns, values: Floats) -> tuple[float, float]:
    """Mean and its standard error, items of one source summed first (Miller 2024, arXiv:2411.00640, equation 4)."""
    total, codes = float(rows.stands.sum()), rows.cluster
    mean = float((values * rows.stands).sum()) / total
    residual = (values - mean) * rows.stands
    sums, count = residual if codes is None else np.bincount(codes, residual), _sources(rows)
    return mean, math.sqrt(count / max(count - 1, 1) * float(np.square(sums).sum())) / total


def triage(strata: Sequence[StratumNumbers]) -> tuple[int, int]:
    """Count the strata that are significantly worse, and better: Benjamini-Hochberg on two-sided mid-p values."""
    results = [one.looks[-1].result for one in strata if one.looks]
    two_sided = [min(max(2.0 * min(one.mid_p, one.mid_p_better), 0.0), 1.0) for one in results]
    listed = np.asarray(stats.benjamini_hochberg(two_sided)) <= TRIAGE_RATE
    worse = np.array([one.mid_p < one.mid_p_better for one in results], bool)
    return int(np.count_nonzero(listed & worse)), int(np.count_nonzero(listed & ~worse))


def hidden(shown: Sequence[Average], worse: int, better: int, judged: int, margin: float) -> str:
    """Return in one line what the mean hides. margin: what a mean must drop to show damage."""
    everything = shown[0]
    if everything.delta is None or everything.worst_delta is None:
        return "nothing to average"
    mean = f"mean {points(everything.delta)} points"
    if not worse:
        return f"{mean}; none of {judged} strata significantly worse, {better} better (corrected for their number)"
    verb = "hides" if everything.delta > -margin else "with"
    counts = f"{worse} {'stratum' if worse == 1 else 'strata'} significantly worse and {better} better of {judged}"
    return f"{mean} {verb} {counts}; the worst is {everything.worst_stratum} at {points(everything.worst_delta)} points"


def gone_wrong(compared: Sequence[Comparison], rules: Rules) -> list[str]:
    """Call out a baseline that looks broken: candidates are much better, or others report more.

    Much is more than GONE_WRONG_GAIN, over everything, in a slice or in a gating stratum; or, if not in a stratum, by
    about the same amount as all others of two or more, as quantization errors differ between methods.
    """
    usable = {side.name: {(one.slice, one.stratum): one for one in side.scopes} for side in compared if side.scopes}
    places, found = dict.fromkeys(place for own in usable.values() for place in own), list[str]()
    several = len({name for name, _ in places}) > 2  # noqa: PLR2004 - everything, and slices; all is in the only slice
    for place in places:
        name, stratum = place
        same = {who: own[place] for who, own in usable.items() if place in own}
        much = {who: one for who, one in same.items() if _gain_p(one, GONE_WRONG_GAIN) < GONE_WRONG_LEVEL}
        gains = [one.delta for one in same.values()]
        alike = len(gains) == len(usable) > 1 and max(gains) - min(gains) <= GONE_WRONG_SPREAD * min(gains)
        if alike and not stratum and all(_gain_p(one, 0.0) < GONE_WRONG_LEVEL for one in same.values()):
            much = same
        if much and not (found and (stratum or not several)):  # it was not said before
            who = "every candidate" if len(much) == len(usable) > 1 else f"the candidate {', '.join(much)}"
            where = f"in {'/'.join(filter(None, place))}" if name else "over all items"
            gained = [one.delta for one in much.values()]
            ends = dict.fromkeys(f"{points(one)} points" for one in (min(gained), max(gained)))
            better = f"{who} is better than the baseline {where}, by {' to '.join(ends)}"
            text = f"{better}: a baseline gone wrong rather than a gain"
            found.append(f"{text}; {_CHECK}, and that the sides are not swapped")
    z = float(-special.ndtri(rules.policy.alpha))
    for scope in [one for one in next(iter(usable.values()), {}).values() if not one.stratum]:
        known = rules.slices[scope.slice].public_range if scope.slice in rules.slices else None
        if known and scope.baseline_mean + z * scope.baseline_error < known[0]:
            text = f"the baseline scores {scope.baseline_mean:.3f} in {scope.slice}, below the public range"
            found.append(f"{text} {known[0]:g} to {known[1]:g}: {_CHECK}")
    return found


def _gain_p(scope: Scope, by: float) -> float:
    """Return the p-value of a gain above `by`: normal, but no smaller than if all of few sources gained by chance."""
    return max(float(special.ndtr((by - scope.delta) / max(scope.error, 1e-300))), 0.5**scope.sources)
