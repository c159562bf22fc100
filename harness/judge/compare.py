"""Two sides of a run become numbers: joined item by item, then stratum by stratum, look by look.

`compare` gives deltas, limits, p-values and averages; what they come to is said by `harness.judge.gate`. Nothing here
depends on the order of items, of files or of candidates, nor on what anything is called. It knows neither files nor
models.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness import stats
from harness.config.schema import Policy
from harness.errors import NotComparable
from harness.judge import averages, cliffs
from harness.judge.comparison import Comparison, Comparisons, Look, StratumNumbers
from harness.judge.decisions import decide
from harness.judge.outcomes import Labels, Outcomes, natural_key
from harness.judge.pairing import ALLOW_UNMATCHED, Index, Pairs, index_of, pair
from harness.judge.rules import Rules
from harness.judge.verdicts import Cliff
from harness.stats.chance_level import above_chance_p
from harness.stats.sequential import nominal_alpha

__all__ = ["ALLOW_UNMATCHED", "compare", "undecided_strata"]

Floats = NDArray[np.float64]
Place = tuple[str, str]

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
    blind: frozenset[Place] = frozenset(),
) -> Comparisons:
    """Compare every candidate, and the A/A control where there is one, with the baseline.

    control_baseline: the baseline on the items that the control was asked, if these are not all. blind: strata that
    were asked of the baseline alone, because it shows no signal there; candidates have NaN in them.
    allow_unmatched: share of items, in [0, 1), that a join may lose. A candidate that cannot be compared says why in
    `Comparison.refused`, and the others go on. Raises NotComparable where two candidates have one name.
    """
    names = [one.name for one in candidates]
    if len({baseline.name, *names}) <= len(names):
        raise NotComparable(f"variants need names of their own: {', '.join([baseline.name, *names])}")
    frame = _frame(baseline, rules)
    needs_index = any(one.items != baseline.items for one in [*candidates, *([control] if control else [])])
    index = index_of(baseline) if needs_index else None
    compared = tuple(_compare_one(frame, one, rules, index, allow_unmatched, blind=blind) for one in candidates)
    same = control_baseline or baseline
    own = frame if control_baseline is None else _frame(same, rules)
    against = (
        _compare_one(own, control, rules, index if same is baseline else None, allow_unmatched) if control else None
    )
    unused = [
        f"the rule for {glob!r} fits no stratum: it holds nobody to anything" for glob in rules.unused(frame.places)
    ]
    notes = [note for one in (baseline, *candidates) for note in one.notes]
    back = None if control is None else _compare_one(_frame(control, rules), same, rules, None, allow_unmatched)
    return Comparisons(baseline.name, compared, against, back, (*dict.fromkeys(notes), *unused))


def undecided_strata(
    baseline: Outcomes,
    candidate: Outcomes,
    rules: Rules,
    look: int,
    *,
    allow_unmatched: float = ALLOW_UNMATCHED,
) -> set[Place]:
    """Give the strata of a candidate that need more items after a look: what `harness.judge.gate` would not yet decide.

    Items of later looks are left out; planned strata that have no items yet need theirs. Once every gating stratum is
    decided, advisory ones need no more either. A candidate that cannot be compared needs nothing more; `compare`
    says why.
    """
    frame = _frame(baseline, rules)
    compared = _compare_one(frame, candidate, rules, None, allow_unmatched, until=look)
    decisions = decide(compared.strata, rules.policy.alpha, rules.families)
    open_strata = [
        one for one, found in zip(compared.strata, decisions, strict=True) if found.verdict not in ("pass", "fail")
    ]
    needs = {(one.slice, one.stratum) for one in open_strata}
    if not compared.refused:
        needs |= {place for place in rules.plan if place not in frame.places}
    return needs if any(rules.gating(*place) for place in needs) else set()


@dataclass(frozen=True, slots=True, eq=False)
class _Frame:
    """The baseline cut into strata, once for all candidates."""

    baseline: Outcomes
    places: tuple[Place, ...]
    """(slice, stratum), in the order of a report."""
    place: NDArray[np.int32]
    """Shape [items]: position in `places`."""
    cluster: NDArray[np.int32] | None
    """Shape [items]: source; None where every item is its own."""
    levels: tuple[Mapping[str, str], ...]
    """Per place: axis to level, where all its items have the same."""
    chance: Floats
    """Shape [places]: mean score of guessing."""
    weight: Floats
    """Shape [places]: summed traffic."""
    looks: int
    """The last look that any item belongs to."""


def _frame(baseline: Outcomes, rules: Rules) -> _Frame:
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
    return _Frame(
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
    frame: _Frame,
    candidate: Outcomes,
    rules: Rules,
    index: Index | None,
    allow_unmatched: float,
    *,
    until: int | None = None,
    blind: frozenset[Place] = frozenset(),
) -> Comparison:
    try:
        pairs = pair(frame.baseline, candidate, allow_unmatched, index)
    except NotComparable as error:
        return Comparison(candidate.name, refused=str(error))
    columns = _columns(frame, candidate, pairs, until)
    lost = _lost(frame, candidate, pairs)
    strata = tuple(
        _not_asked(frame, columns.of(at), at, rules)
        if place in blind
        else _stratum(frame, columns.of(at), at, rules, int(lost[at]), allow_unmatched)
        for at, place in enumerate(frame.places)
    )
    worse, better = averages.triage(strata)
    shown = averages.averages(strata, columns.place, columns.before, columns.after, columns.weight)
    return Comparison(
        name=candidate.name,
        strata=strata,
        averages=shown,
        cliffs=_cliffs(frame, strata, columns, rules),
        scopes=averages.scopes(strata, columns.place, columns.before, columns.after, columns.cluster),
        worse=worse,
        better=better,
        hidden=averages.hidden(shown, worse, better, sum(bool(one.looks) for one in strata), rules.policy.margin),
        warnings=pairs.notes,
    )


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

    def of(self, at: int) -> _Columns:
        """One stratum's rows."""
        # Needles of the same type: otherwise numpy converts the whole column at every call.
        start, stop = np.searchsorted(self.place, np.array([at, at + 1], self.place.dtype))
        rows = slice(int(start), int(stop))
        cluster = None if self.cluster is None else self.cluster[rows]
        return _Columns(
            self.item[rows],
            self.place[rows],
            self.before[rows],
            self.after[rows],
            self.look[rows],
            self.weight[rows],
            cluster,
        )


def _columns(frame: _Frame, candidate: Outcomes, pairs: Pairs, until: int | None) -> _Columns:
    baseline, here, there = frame.baseline, pairs.baseline, pairs.candidate
    small = len(frame.places) < np.iinfo(np.int16).max  # then a stable sort is a radix sort
    order = np.argsort(frame.place[here].astype(np.int16 if small else np.int32), kind="stable")
    if until is not None:
        order = order[np.maximum(baseline.look[here], candidate.look[there])[order] <= until]
    here, there = here[order], there[order]
    return _Columns(
        item=here,
        place=frame.place[here],
        before=baseline.score[here],
        after=candidate.score[there],
        look=np.maximum(baseline.look[here], candidate.look[there]),
        weight=baseline.weight[here],
        cluster=None if frame.cluster is None else frame.cluster[here],
    )


def _lost(frame: _Frame, candidate: Outcomes, pairs: Pairs) -> NDArray[np.int64]:
    """Count, per place, the items that have no partner."""
    count = len(frame.places)
    lost = np.bincount(frame.place[pairs.lost_positions], minlength=count)
    position = {place: at for at, place in enumerate(frame.places)}
    for one in pairs.candidate_only:
        at = position.get((candidate.slice[int(one)], candidate.stratum[int(one)]))
        if at is not None:
            lost[at] += 1
    return lost


def _stratum(frame: _Frame, rows: _Columns, at: int, rules: Rules, lost: int, allow_unmatched: float) -> StratumNumbers:
    slice_name, stratum = frame.places[at]
    margin = rules.margin(slice_name, stratum)
    missing_before, missing_after = np.isnan(rows.before), np.isnan(rows.after)
    answered = ~(missing_before | missing_after)
    one_sided = lost + int(np.count_nonzero(missing_before != missing_after))
    asked = int(rows.place.size)
    plan = _Plan(max(rules.looks, frame.looks), rules.planned(slice_name, stratum, asked))
    return StratumNumbers(
        slice=slice_name,
        stratum=stratum,
        margin=margin,
        gating=rules.gating(slice_name, stratum),
        looks=_looks(rows, answered, margin, float(frame.chance[at]), plan, rules.policy) if answered.any() else (),
        planned=asked if plan.planned is None else plan.planned,
        asked=asked,
        unanswered=asked - int(np.count_nonzero(answered)),
        unmatched=lost,
        one_sided=one_sided,
        excessive=one_sided > np.ceil(allow_unmatched * (asked + lost)),
        flips=int(np.count_nonzero(rows.before[answered] != rows.after[answered])),
        chance=float(frame.chance[at]),
        weight=float(frame.weight[at]),
        levels=frame.levels[at],
    )


def _not_asked(frame: _Frame, rows: _Columns, at: int, rules: Rules) -> StratumNumbers:
    """Say of a stratum that only the baseline was asked, and what it scored there."""
    slice_name, stratum = frame.places[at]
    asked = int(rows.place.size)
    return StratumNumbers(
        slice=slice_name,
        stratum=stratum,
        margin=rules.margin(slice_name, stratum),
        gating=rules.gating(slice_name, stratum),
        looks=(),
        planned=asked,
        asked=asked,
        unanswered=0,
        unmatched=0,
        one_sided=0,
        excessive=False,
        flips=0,
        chance=float(frame.chance[at]),
        weight=float(frame.weight[at]),
        levels=frame.levels[at],
        not_asked=float(np.nanmean(rows.before)),
    )


def _cliffs(frame: _Frame, strata: Sequence[StratumNumbers], columns: _Columns, rules: Rules) -> tuple[Cliff, ...]:
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
        levels = {axis: Labels(labels.codes[items], labels.names) for axis, labels in frame.baseline.levels.items()}
        splitting = [axis for axis in levels if all(axis in strata[at].levels for at in members)]
        rows = cliffs.Rows(
            before=columns.before[taken],
            after=columns.after[taken],
            cluster=None if columns.cluster is None else columns.cluster[taken],
            margin=margins[columns.place[taken]],
            chance=frame.baseline.chance[items],
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
        level, above_chance_level = (nominal_alpha(fractions, one) for one in (policy.alpha, policy.chance_alpha))
        before, after = rows.before[taken], rows.after[taken]
        cluster = None if rows.cluster is None else rows.cluster[taken]
        found.append(
            Look(
                number=number,
                fractions=fractions,
                level=level,
                above_chance_level=above_chance_level,
                result=stats.paired_test(after - before, cluster, margin=margin, alpha=max(level, _LEAST_LEVEL)),
                baseline_mean=float(before.mean()),
                candidate_mean=float(after.mean()),
                above_chance_p=above_chance_p(before, cluster, chance + margin),
            )
        )
    return tuple(found)


@dataclass(frozen=True, slots=True)
class _Plan:
    """When a stratum's items come."""

    looks: int
    """Looks planned; 1 where all items are looked at once."""
    planned: int | None
    """Items of the fixed plan; None where it is not known, and looks are taken to be of equal size."""

    def shares(self, look: NDArray[np.int32]) -> dict[int, float]:
        """Give the looks at which new items came, each with the share of the plan asked by then; 1 at the last."""
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
