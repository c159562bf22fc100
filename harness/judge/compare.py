"""Two sides become numbers, item by item, stratum by stratum, look by look, whatever their order and their names."""

import math
from collections import Counter
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness import stats
from harness.config.fields import RelativeMargin, allowed
from harness.config.schema import Policy
from harness.errors import NotComparable
from harness.judge import averages, cliffs
from harness.judge.decisions import decide
from harness.judge.layers import LEFT_OUT, WHOLE, Layering, counted, layered_looks, missing, stands
from harness.judge.outcomes import ALLOW_UNMATCHED, Columns, Labels, Outcomes, Pairs, listed, natural_key, pair
from harness.judge.pooled import with_pooled
from harness.judge.rules import Place, Rules
from harness.judge.summaries import Cliff, Comparison, Comparisons, Look, StratumNumbers
from harness.stats.sequential import SMALLEST_STEP, Spending, nominal_alpha
from harness.stats.stratum import relative_test
from harness.stats.units import above_chance_p

_LEAST_LEVEL = 1e-15  # limits are drawn at this level where a look may decide nothing yet


def compare(  # noqa: PLR0913 - each caller needs a few of them
    baseline: Outcomes,
    candidates: Sequence[Outcomes],
    rules: Rules,
    control: Outcomes | None = None,
    *,
    allow_unmatched: float = ALLOW_UNMATCHED,
    control_baseline: Outcomes | None = None,
    blind: frozenset[Place] = frozenset(),
    layering: Layering | None = None,
    review: Callable[["Index", Outcomes, Comparison], Comparison] | None = None,
) -> Comparisons:
    """Compare every candidate, and the A/A control where there is one, with the baseline.

    control_baseline: the baseline on the items that the control was asked, if these are not all. blind: strata that
    were asked of the baseline alone, because it shows no signal there; candidates have NaN in them, as in what
    `layering` leaves out. allow_unmatched: share of items, in [0, 1), that a join may lose. A candidate that cannot be
    compared says why in `Comparison.refused`, and the others go on. Each variant has a name of its own.
    review: gives what takes the place of each candidate's comparison.
    """
    base = Index(baseline, rules, allow_unmatched, layering)
    compared = tuple(_compare_one(base, one, blind, pooled=True) for one in candidates)
    if review is not None:
        compared = tuple(review(base, *both) for both in zip(candidates, compared, strict=True))
    against = back = None
    if control is not None:
        same = control_baseline or baseline
        against = _compare_one(Index(same, rules, allow_unmatched, layering), control)
        back = _compare_one(Index(control, rules, allow_unmatched, layering), same)
    notes = dict.fromkeys(note for one in (baseline, *candidates) for note in one.notes)
    return Comparisons(baseline.name, compared, against, back, (*notes, *rules.unmatched_globs(base.places)))


def undecided_strata(baseline: Outcomes, candidate: Outcomes, rules: Rules, look: int) -> set[Place]:
    """Return the strata of a candidate that need more items after a look, by the rules of `harness.judge.gate`.

    Items of later looks are left out; planned strata that have no items yet need theirs. Once every gating stratum is
    decided, advisory ones need no more either. A candidate that cannot be compared needs nothing more; `compare`
    says why.
    """
    base = Index(baseline, rules)
    compared = _compare_one(base, candidate, pooled=True, until=look)
    decisions = decide(compared.judged, rules.policy.alpha, rules.families)
    decided = [(one, found.verdict) for one, found in zip(compared.judged, decisions, strict=True)]
    failed = any(one.gating and word == "fail" for one, word in decided)
    if failed and rules.stop_on_fail:
        return set()
    unsettled = [one for one, word in decided if word not in ("pass", "fail")]
    needs = {one.place for one in unsettled if not one.pooled}
    if any(one.pooled for one in unsettled) and not failed:
        needs |= {one.place for one in compared.strata if one.gating}
    if not compared.refused:
        needs |= rules.plan.keys() - set(base.places)
    return needs if any(rules.gating(*place) for place in needs) else set()


class Index:
    """The baseline grouped by stratum, once for all candidates."""

    def __init__(
        self, baseline: Outcomes, rules: Rules, allow_unmatched: float = ALLOW_UNMATCHED, layers: Layering | None = None
    ) -> None:
        self.baseline, self.rules, self.allow_unmatched = baseline, rules, allow_unmatched
        width = len(baseline.stratum.names)
        whole = baseline.slice.codes.astype(np.int64) * width + baseline.stratum.codes
        keys, raw = np.unique(whole, return_inverse=True)
        named = [(baseline.slice.names[key // width], baseline.stratum.names[key % width]) for key in keys]
        rank = {name: position for position, name in enumerate(rules.slices)}
        shown = [(rank.get(one, len(rank)), natural_key(one), natural_key(stratum)) for one, stratum in named]
        order = sorted(range(len(named)), key=shown.__getitem__)
        position = np.empty(len(order), np.int32)
        position[order] = np.arange(len(order), dtype=np.int32)
        own, sources, count = len(baseline.cluster.names) == len(baseline), baseline.cluster.codes, len(order)
        self.other: NDArray[np.int32] | None = None  # shape [items]: the same by the other of two groupings
        self.places: tuple[Place, ...] = tuple(named[at] for at in order)  # in the order of a report
        self.place = position[raw]  # shape [items]: position in `places`
        if baseline.fingerprint.all():  # items that were asked the same are one source, whatever their ids
            alike, size = np.unique(baseline.fingerprint, return_inverse=True)[1], np.int64(len(baseline))
            if alike.max() < size - 1:  # also where many customers of a stratum ask the same few questions
                # The kind of which an item's source has more items comes first, for what is judged by one alone.
                kinds = [alike.astype(np.int32)] if own else [alike.astype(np.int32), sources]
                kinds.sort(key=lambda codes: -float(np.square(np.bincount(codes)).sum()))
                self.other, sources, own = kinds[1] if kinds[1:] else None, kinds[0], False
        self.cluster = None if own else sources  # shape [items]: source; None if every item is its own
        self.levels = _constant_levels(baseline, self.place, count)  # per place: axis to level, where all items agree
        # Per place: mean score of guessing, and summed traffic.
        self.chance = np.bincount(self.place, baseline.chance, count) / np.bincount(self.place, minlength=count)
        self.weight = np.bincount(self.place, baseline.weight, count).astype(np.float64)
        self.looks = int(baseline.look.max())  # the last look that any item belongs to
        self.layer = np.array([layers.get(one, WHOLE) for one in baseline.items], np.int8) if layers else None


def _constant_levels(baseline: Outcomes, place: NDArray[np.int32], count: int) -> tuple[Mapping[str, str], ...]:
    """Give, per place, the axes on which all its items agree."""
    found: list[dict[str, str]] = [{} for _ in range(count)]
    first = np.unique(place, return_index=True)[1]
    for axis, labels in baseline.levels.items():
        for at in np.flatnonzero(np.bincount(place, labels.codes != labels.codes[first][place], count) == 0):
            if level := labels[int(first[at])]:
                found[at][axis] = level
    return tuple(found)


def _compare_one(
    base: Index, side: Outcomes, blind: Container[Place] = (), *, pooled: bool = False, until: int | None = None
) -> Comparison:
    try:
        pairs = pair(base.baseline, side, base.allow_unmatched)
        unmatched = _unmatched(base, side, pairs)
    except NotComparable as error:
        return Comparison(side.name, refused=str(error))
    columns = _columns(base, side, pairs, until)
    rows = [columns.of(at, at) for at in range(len(base.places))]
    every = enumerate(base.places)
    strata = tuple(_stratum(base, rows[at], at, int(unmatched[at]), blind=one in blind) for at, one in every)
    weights = [stands(own, one.layers) for own, one in zip(rows, strata, strict=True)]
    columns = replace(columns, stands=np.concatenate(weights))
    worse, better = averages.triage(strata)
    shown, judged = averages.averages(strata, columns), sum(bool(one.looks) for one in strata)
    left, asked = sum(one.unanswered for one in strata), sum(one.asked for one in strata)
    said = f"{side.name}: {left} of {asked} items lack an answer on one side or both"
    found = Comparison(
        name=side.name,
        strata=strata,
        averages=shown,
        cliffs=_cliffs(base, strata, columns),
        scopes=averages.scopes(strata, columns),
        worse=worse,
        better=better,
        hidden=averages.hidden(shown, worse, better, judged, base.rules.policy.margin),
        warnings=(*pairs.notes, said) if left else pairs.notes,
    )
    return with_pooled(found, base.rules, columns) if pooled else found


def _columns(base: Index, candidate: Outcomes, pairs: Pairs, until: int | None) -> Columns:
    baseline, here, there = base.baseline, pairs.baseline, pairs.candidate
    small = len(base.places) < np.iinfo(np.int16).max  # then a stable sort is a radix sort
    order = np.argsort(base.place[here].astype(np.int16 if small else np.int32), kind="stable")
    look = np.maximum(baseline.look[here], candidate.look[there])
    if until is not None:
        order = order[look[order] <= until]
    here, there = here[order], there[order]
    own: dict[str, Any] = {"before": baseline.score[here], "after": candidate.score[there], "look": look[order]}
    own |= {"weight": baseline.weight[here], "chance": baseline.chance[here], "stands": np.ones(order.size)}
    parts = {"cluster": base.cluster, "other": base.other, "layer": base.layer}
    own |= {name: None if part is None else part[here] for name, part in parts.items()}
    return Columns(item=here, place=base.place[here], **own)


def _unmatched(base: Index, candidate: Outcomes, pairs: Pairs) -> NDArray[np.int64]:
    """Count, per place, the items that have no partner. Raises NotComparable if the baseline lacks a place."""
    lost = np.bincount(base.place[np.concatenate([pairs.baseline_only, pairs.differing])], minlength=len(base.places))
    there = Counter((candidate.slice[one], candidate.stratum[one]) for one in map(int, pairs.candidate_only))
    if new := listed("/".join(place) for place in there.keys() - set(base.places)):
        text = f"{candidate.name}: {base.baseline.name} has nothing in strata that the candidate has ({new})"
        raise NotComparable(f"{text}, so they cannot be judged: give its results there, or leave them out")
    return np.asarray(lost + [there[place] for place in base.places])


def _stratum(base: Index, rows: Columns, at: int, unmatched: int, *, blind: bool) -> StratumNumbers:
    """Return the numbers of one stratum. blind: only the baseline was asked, because it shows no signal there."""
    place, rules, layers, pool = base.places[at], base.rules, counted(rows), rows
    rows = rows if rows.layer is None else rows.where(rows.layer != LEFT_OUT)
    margin, chance, asked = rules.margin(*place), float(base.chance[at]), int(rows.place.size)
    missing_before, missing_after = np.isnan(rows.before), np.isnan(rows.after)
    both = rows.where(~(missing_before | missing_after))
    one_sided = 0 if blind else unmatched + int(np.count_nonzero(missing_before != missing_after))
    if layers:  # a sure item that is missing stands for several
        one_sided = max(one_sided, math.ceil(missing(layers) * asked - 1e-9))
    plan = None if blind or layers or place not in rules.plan else max(rules.plan[place], asked)
    scores = both.before if both.item.size else rows.before[~missing_before]
    looks: list[Look] = []
    if layers:
        looks = list(layered_looks(pool, layers, margin, chance, rules.policy))
    elif both.item.size and not blind:
        shares = _shares(rows.look, max(rules.looks, base.looks), plan)
        looks = _looks(both, margin, chance, shares, rules.policy)
        if one_sided:
            worst = _looks(_lost(rows, unmatched), margin, chance, shares, rules.policy)[-len(looks) :]
            looks = [replace(one, worst=own.result) for one, own in zip(looks, worst, strict=True)]
    return StratumNumbers(
        *(*place, allowed(margin, float(scores.mean()) if scores.size else 0.0), rules.gating(*place), tuple(looks)),
        planned=asked if plan is None else plan,
        asked=asked,
        unanswered=0 if blind else asked - both.item.size,
        unmatched=0 if blind else unmatched,
        one_sided=one_sided,
        excessive=one_sided > np.ceil(base.allow_unmatched * (asked + unmatched)),
        flips=int(np.count_nonzero(both.before != both.after)),
        chance=chance,
        weight=float(base.weight[at]),
        levels=base.levels[at],
        not_asked=float(np.nanmean(rows.before)) if blind else None,
        layers=layers,
    )


def _lost(rows: Columns, unmatched: int) -> Columns:
    """Return what either side answered, what one side alone did as a loss, and so many further losses."""
    there = np.flatnonzero(~(np.isnan(rows.before) & np.isnan(rows.after)))
    found = rows.where(np.append(there, np.zeros(unmatched, there.dtype)))
    kept = found.answered & (np.arange(found.item.size) < there.size)
    kinds = {"cluster": rows.cluster, "other": rows.other}
    own: dict[str, Any] = {
        key: None if one is None else np.append(one[there], -1 - np.arange(unmatched)) for key, one in kinds.items()
    }
    sides = {"before": np.where(kept, found.before, 1.0), "after": np.where(kept, found.after, 0.0)}
    return replace(found, **sides, **own)


def _shares(look: NDArray[np.int32], planned_looks: int, planned: int | None) -> dict[int, float]:
    """Return the looks at which new items came, with the share of the plan asked by then; equal looks without one."""
    if planned_looks == 1:
        return {1: 1.0}
    found: dict[int, float] = {}
    for number in sorted(set(look.tolist())):
        share = number / planned_looks if planned is None else int(np.count_nonzero(look <= number)) / planned
        share = 1.0 if number >= planned_looks else min(share, 1.0)
        if found and share - found[max(found)] < SMALLEST_STEP:
            del found[max(found)]  # so close that it is one look with the next
        found[number] = share
    return found


def _looks(rows: Columns, margin: float, chance: float, shares: Mapping[int, float], policy: Policy) -> list[Look]:
    """Judge a stratum, by the rows that both sides answered, as it stood at each look that gave it some."""
    found, spending = [], Spending.of(policy.spending)
    for at, number in enumerate(shares, start=1):
        now = rows.where(rows.look <= number)
        if not now.item.size:
            continue
        fractions, before, after = tuple(shares.values())[:at], now.before, now.after
        level = nominal_alpha(fractions, policy.alpha, spending)
        alpha, mean = max(level, _LEAST_LEVEL), float(before.mean())
        if isinstance(margin, RelativeMargin):
            result = relative_test(before, after, now.cluster, now.other, share=float(margin), alpha=alpha)
        else:
            result = stats.paired_test(after - before, now.cluster, now.other, margin=margin, alpha=alpha)
        above = above_chance_p(before, now.cluster, chance + allowed(margin, mean), now.other)
        above_level = nominal_alpha(fractions, policy.chance_alpha, spending)
        found.append(Look(number, fractions, level, above_level, result, mean, float(after.mean()), above, spending))
    return found


def _cliffs(base: Index, strata: Sequence[StratumNumbers], columns: Columns) -> tuple[Cliff, ...]:
    """Look along every ordered axis of every slice."""
    margins, found = np.array([one.margin for one in strata]), list[Cliff]()
    for name, members in averages.by_slice(strata).items():
        rows = columns.of(members[0], members[-1])
        rows = rows.where(rows.answered)
        # Levels of which different parts were asked are no curve.
        if rows.item.size and not any(strata[at].layers for at in members):
            axes = base.baseline.levels.items()
            levels = {axis: Labels(labels.codes[rows.item], labels.names) for axis, labels in axes}
            splitting = [axis for axis in levels if all(axis in strata[at].levels for at in members)]
            found += cliffs.cliffs(name, rows, margins, levels, splitting, base.rules.policy)
    return tuple(found)
