"""Two sides of a run become numbers: joined item by item, then stratum by stratum, look by look.

`compare` gives deltas, limits, p-values and averages; what they come to is said by `harness.judge.gate`. Nothing here
depends on the order of items, of files or of candidates, nor on what anything is called. It knows neither files nor
models.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness import stats
from harness.config.fields import RelativeMargin, allowed
from harness.config.schema import Policy
from harness.errors import NotComparable
from harness.judge import averages, cliffs
from harness.judge.comparison import Comparison, Comparisons, Look, StratumNumbers
from harness.judge.decisions import decide
from harness.judge.outcomes import Labels, Outcomes, natural_key
from harness.judge.pairing import ALLOW_UNMATCHED, Pairs, pair
from harness.judge.pooled import with_pooled
from harness.judge.rules import Rules
from harness.judge.summaries import Cliff
from harness.stats.ratio import above_chance_p
from harness.stats.sequential import Spending, nominal_alpha
from harness.stats.stratum import relative_test

__all__ = ["ALLOW_UNMATCHED", "compare", "undecided_strata"]

Floats = NDArray[np.float64]
StratumKey = tuple[str, str]

_LEAST_STEP = 1e-4
"""Looks closer than this share of the items are one look."""
_LEAST_LEVEL = 1e-15
"""Limits are drawn at this level where a look may decide nothing yet."""


def compare(
    baseline: Outcomes,
    candidates: Sequence[Outcomes],
    rules: Rules,
    control: Outcomes | None = None,
    *,
    allow_unmatched: float = ALLOW_UNMATCHED,
    control_baseline: Outcomes | None = None,
    blind: frozenset[StratumKey] = frozenset(),
) -> Comparisons:
    """Compare every candidate, and the A/A control where there is one, with the baseline.

    control_baseline: the baseline on the items that the control was asked, if these are not all. blind: strata that
    were asked of the baseline alone, because it shows no signal there; candidates have NaN in them.
    allow_unmatched: share of items, in [0, 1), that a join may lose. A candidate that cannot be compared says why in
    `Comparison.refused`, and the others go on. Raises NotComparable where two candidates have one name.
    """
    names = [one.name for one in candidates]
    if len({baseline.name, *names}) <= len(names):
        raise NotComparable(f"each variant needs a different name: {', '.join([baseline.name, *names])}")
    base = baseline_index(baseline, rules)
    compared = tuple(_compare_one(base, one, rules, allow_unmatched, blind=blind, pooled=True) for one in candidates)
    same = control_baseline or baseline
    own = base if control_baseline is None else baseline_index(same, rules)
    against = _compare_one(own, control, rules, allow_unmatched) if control else None
    unused = [
        f"the pattern {glob!r} matches no stratum and has no effect: compare it with the output of `quantcliff plan`"
        for glob in rules.unmatched_globs(base.places)
    ]
    notes = [note for one in (baseline, *candidates) for note in one.notes]
    back = None if control is None else _compare_one(baseline_index(control, rules), same, rules, allow_unmatched)
    return Comparisons(baseline.name, compared, against, back, (*dict.fromkeys(notes), *unused))


def undecided_strata(
    baseline: Outcomes,
    candidate: Outcomes,
    rules: Rules,
    look: int,
    *,
    allow_unmatched: float = ALLOW_UNMATCHED,
) -> set[StratumKey]:
    """Return the strata of a candidate that need more items after a look, by the rules of `harness.judge.gate`.

    Items of later looks are left out; planned strata that have no items yet need theirs. Once every gating stratum is
    decided, advisory ones need no more either. A candidate that cannot be compared needs nothing more; `compare`
    says why.
    """
    base = baseline_index(baseline, rules)
    compared = _compare_one(base, candidate, rules, allow_unmatched, until=look, pooled=True)
    strata = compared.judged
    verdicts = [found.verdict for found in decide(strata, rules.policy.alpha, rules.families)]
    unsettled = [one for one, word in zip(strata, verdicts, strict=True) if word not in ("pass", "fail")]
    needs = {(one.slice, one.stratum) for one in unsettled if not one.pooled}
    failed = any(one.gating and word == "fail" for one, word in zip(strata, verdicts, strict=True))
    if failed and rules.stop_on_fail:
        return set()
    if any(one.pooled for one in unsettled) and not failed:
        needs |= {(one.slice, one.stratum) for one in compared.strata if one.gating}
    if not compared.refused:
        needs |= {place for place in rules.plan if place not in base.places}
    return needs if any(rules.gating(*place) for place in needs) else set()


@dataclass(frozen=True, slots=True, eq=False)
class BaselineIndex:
    """The baseline grouped by stratum, once for all candidates."""

    baseline: Outcomes
    places: tuple[StratumKey, ...]
    """(slice, stratum), in the order of a report."""
    place: NDArray[np.int32]
    """Shape [items]: position in `places`."""
    cluster: NDArray[np.int32] | None
    """Shape [items]: source; None if every item is its own."""
    levels: tuple[Mapping[str, str], ...]
    """Per place: axis to level, where all its items have the same."""
    chance: Floats
    """Shape [places]: mean score of guessing."""
    weight: Floats
    """Shape [places]: summed traffic."""
    looks: int
    """The last look that any item belongs to."""


def baseline_index(baseline: Outcomes, rules: Rules) -> BaselineIndex:
    width = len(baseline.stratum.names)
    keys, raw = np.unique(baseline.slice.codes.astype(np.int64) * width + baseline.stratum.codes, return_inverse=True)
    named = [(baseline.slice.names[key // width], baseline.stratum.names[key % width]) for key in keys]
    rank = {name: position for position, name in enumerate(rules.slices)}

    def shown(at: int) -> tuple[object, ...]:
        slice_name, stratum = named[at]
        return rank.get(slice_name, len(rank)), natural_key(slice_name), natural_key(stratum)

    order = sorted(range(len(named)), key=shown)
    position = np.empty(len(order), np.int32)
    position[order] = np.arange(len(order), dtype=np.int32)
    place = position[raw]
    counts = np.bincount(place, minlength=len(order))
    own = len(baseline.cluster.names) == len(baseline)
    return BaselineIndex(
        baseline=baseline,
        places=tuple(named[at] for at in order),
        place=place,
        cluster=None if own else baseline.cluster.codes,
        levels=_constant_levels(baseline, place, len(order)),
        chance=np.bincount(place, baseline.chance, len(order)) / counts,
        weight=np.bincount(place, baseline.weight, len(order)).astype(np.float64),
        looks=int(baseline.look.max()),
    )


def _constant_levels(baseline: Outcomes, place: NDArray[np.int32], count: int) -> tuple[Mapping[str, str], ...]:
    """Give, per place, the axes on which all its items agree."""
    found: list[dict[str, str]] = [{} for _ in range(count)]
    for axis, labels in baseline.levels.items():
        low = np.full(count, np.iinfo(np.int32).max, np.int32)
        high = np.full(count, -1, np.int32)
        np.minimum.at(low, place, labels.codes)
        np.maximum.at(high, place, labels.codes)
        for at in np.flatnonzero(low == high):
            if labels.names[high[at]]:
                found[at][axis] = labels.names[high[at]]
    return tuple(found)


def _compare_one(
    base: BaselineIndex,
    candidate: Outcomes,
    rules: Rules,
    allow_unmatched: float,
    *,
    until: int | None = None,
    blind: frozenset[StratumKey] = frozenset(),
    pooled: bool = False,
) -> Comparison:
    try:
        pairs = pair(base.baseline, candidate, allow_unmatched)
    except NotComparable as error:
        return Comparison(candidate.name, refused=str(error))
    columns = _columns(base, candidate, pairs, until)
    unmatched = _unmatched(base, candidate, pairs)
    strata = tuple(
        _stratum(base, columns.of(at), at, rules, int(unmatched[at]), allow_unmatched, blind=key in blind)
        for at, key in enumerate(base.places)
    )
    worse, better = averages.triage(strata)
    shown = averages.averages(strata, columns.place, columns.before, columns.after, columns.weight)
    found = Comparison(
        name=candidate.name,
        strata=strata,
        averages=shown,
        cliffs=_cliffs(base, strata, columns, rules),
        scopes=averages.scopes(strata, columns.place, columns.before, columns.after, columns.cluster),
        worse=worse,
        better=better,
        hidden=averages.hidden(shown, worse, better, sum(bool(one.looks) for one in strata), rules.policy.margin),
        warnings=pairs.notes,
    )
    return with_pooled(found, rules, columns.spread) if pooled else found


@dataclass(frozen=True, slots=True, eq=False)
class _Columns:
    """The joined items, sorted by stratum."""

    item: NDArray[np.int64]
    """Position in the baseline."""
    place: NDArray[np.int32]
    before: Floats
    after: Floats
    look: NDArray[np.int32]
    weight: Floats
    cluster: NDArray[np.int32] | None

    def spread(self, until: int) -> tuple[Floats, NDArray[np.int64], NDArray[np.int64]] | None:
        """Return the differences, strata and sources of the answered items up to a look; None without sources."""
        if self.cluster is None:
            return None
        diffs = self.after - self.before
        taken = ~np.isnan(diffs) & (self.look <= until)
        return diffs[taken], self.place[taken].astype(np.int64), self.cluster[taken].astype(np.int64)

    def of(self, at: int) -> _Columns:
        """One stratum's rows."""
        # Needles of the same type: otherwise numpy converts the whole column at every call.
        start, stop = np.searchsorted(self.place, np.array([at, at + 1], self.place.dtype))
        columns: list[Any] = [getattr(self, one.name) for one in fields(self)]
        cut: list[Any] = [None if column is None else column[int(start) : int(stop)] for column in columns]
        return _Columns(*cut)


def _columns(base: BaselineIndex, candidate: Outcomes, pairs: Pairs, until: int | None) -> _Columns:
    baseline, here, there = base.baseline, pairs.baseline, pairs.candidate
    small = len(base.places) < np.iinfo(np.int16).max  # then a stable sort is a radix sort
    order = np.argsort(base.place[here].astype(np.int16 if small else np.int32), kind="stable")
    if until is not None:
        order = order[np.maximum(baseline.look[here], candidate.look[there])[order] <= until]
    here, there = here[order], there[order]
    return _Columns(
        item=here,
        place=base.place[here],
        before=baseline.score[here],
        after=candidate.score[there],
        look=np.maximum(baseline.look[here], candidate.look[there]),
        weight=baseline.weight[here],
        cluster=None if base.cluster is None else base.cluster[here],
    )


def _unmatched(base: BaselineIndex, candidate: Outcomes, pairs: Pairs) -> NDArray[np.int64]:
    """Count, per place, the items that have no partner."""
    count = len(base.places)
    lost = np.bincount(base.place[pairs.unmatched_positions], minlength=count)
    position = {place: at for at, place in enumerate(base.places)}
    for one in pairs.candidate_only:
        at = position.get((candidate.slice[int(one)], candidate.stratum[int(one)]))
        if at is not None:
            lost[at] += 1
    return lost


def _stratum(
    base: BaselineIndex, rows: _Columns, at: int, rules: Rules, unmatched: int, allow_unmatched: float, *, blind: bool
) -> StratumNumbers:
    """Return the numbers of one stratum. blind: only the baseline was asked, because it shows no signal there."""
    slice_name, stratum = base.places[at]
    margin, chance, asked = rules.margin(slice_name, stratum), float(base.chance[at]), int(rows.place.size)
    missing_before, missing_after = np.isnan(rows.before), np.isnan(rows.after)
    answered = ~(missing_before | missing_after)
    one_sided = 0 if blind else unmatched + int(np.count_nonzero(missing_before != missing_after))
    plan = _Plan(max(rules.looks, base.looks), None if blind else rules.planned(slice_name, stratum, asked))
    scores = rows.before[answered] if answered.any() else rows.before[~missing_before]
    return StratumNumbers(
        slice=slice_name,
        stratum=stratum,
        margin=allowed(margin, float(scores.mean()) if scores.size else 0.0),
        gating=rules.gating(slice_name, stratum),
        looks=_looks(rows, answered, margin, chance, plan, rules.policy) if answered.any() and not blind else (),
        planned=asked if plan.planned is None else plan.planned,
        asked=asked,
        unanswered=0 if blind else asked - int(np.count_nonzero(answered)),
        unmatched=0 if blind else unmatched,
        one_sided=one_sided,
        excessive=one_sided > np.ceil(allow_unmatched * (asked + unmatched)),
        flips=int(np.count_nonzero(rows.before[answered] != rows.after[answered])),
        chance=chance,
        weight=float(base.weight[at]),
        levels=base.levels[at],
        not_asked=float(np.nanmean(rows.before)) if blind else None,
    )


def _cliffs(
    base: BaselineIndex, strata: Sequence[StratumNumbers], columns: _Columns, rules: Rules
) -> tuple[Cliff, ...]:
    """Look along every ordered axis of every slice."""
    answered = ~(np.isnan(columns.before) | np.isnan(columns.after))
    margins = np.array([one.margin for one in strata])
    found: list[Cliff] = []
    for name, members in averages.by_slice(strata).items():
        start, stop = np.searchsorted(columns.place, np.array([members[0], members[-1] + 1], columns.place.dtype))
        taken = np.arange(start, stop)[answered[start:stop]]
        if not taken.size:
            continue
        items = columns.item[taken]
        levels = {axis: Labels(labels.codes[items], labels.names) for axis, labels in base.baseline.levels.items()}
        splitting = [axis for axis in levels if all(axis in strata[at].levels for at in members)]
        rows = cliffs.Rows(
            before=columns.before[taken],
            after=columns.after[taken],
            cluster=None if columns.cluster is None else columns.cluster[taken],
            margin=margins[columns.place[taken]],
            chance=base.baseline.chance[items],
        )
        found += cliffs.cliffs(
            name,
            rows,
            levels,
            splitting,
            alpha=rules.policy.alpha,
            chance_alpha=rules.policy.chance_alpha,
            score=rules.policy.effective_score,
        )
    return tuple(found)


def _looks(
    rows: _Columns, answered: NDArray[np.bool_], margin: float, chance: float, plan: _Plan, policy: Policy
) -> tuple[Look, ...]:
    """Judge the stratum as it stood at each look that gave it answers."""
    found = []
    shares = plan.shares(rows.look)
    for at, number in enumerate(shares):
        taken = answered & (rows.look <= number)
        if not taken.any():
            continue
        fractions = tuple(shares.values())[: at + 1]
        spending = Spending.of(policy.spending)
        levels = (policy.alpha, policy.chance_alpha)
        level, above_chance_level = (nominal_alpha(fractions, one, spending) for one in levels)
        before, after = rows.before[taken], rows.after[taken]
        cluster = None if rows.cluster is None else rows.cluster[taken]
        alpha, drop = max(level, _LEAST_LEVEL), allowed(margin, float(before.mean()))
        if isinstance(margin, RelativeMargin):
            result = relative_test(before, after, cluster, share=float(margin), alpha=alpha)
        else:
            result = stats.paired_test(after - before, cluster, margin=margin, alpha=alpha)
        found.append(
            Look(
                number=number,
                fractions=fractions,
                level=level,
                above_chance_level=above_chance_level,
                result=result,
                baseline_mean=float(before.mean()),
                candidate_mean=float(after.mean()),
                above_chance_p=above_chance_p(before, cluster, chance + drop),
                spending=spending,
            )
        )
    return tuple(found)


@dataclass(frozen=True, slots=True)
class _Plan:
    """When a stratum's items come."""

    looks: int
    """Looks planned; 1 if all items are looked at once."""
    planned: int | None
    """Items of the fixed plan; None if it is not known, and looks are taken to be of equal size."""

    def shares(self, look: NDArray[np.int32]) -> dict[int, float]:
        """Return the looks at which new items came, each with the share of the plan asked by then; 1 at the last."""
        if self.looks == 1:
            return {self.looks: 1.0}
        found: dict[int, float] = {}
        for number in sorted(set(look.tolist())):
            asked = int(np.count_nonzero(look <= number))
            share = number / self.looks if self.planned is None else asked / self.planned
            share = 1.0 if number >= self.looks else min(share, 1.0)
            previous = max(found, default=None)
            if previous is not None and share - found[previous] < _LEAST_STEP:
                del found[previous]  # so close that it is one look with the next
            found[number] = share
        return found
