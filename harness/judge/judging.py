"""Judges a run that was read: compares and gates.

Needs the files and no model, so a verdict can be recomputed years later on a laptop. Which tests are made is
`harness.judge.compare`'s matter, which words they end in `harness.judge.gate`'s.
"""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from harness.config.schema import Experiment
from harness.errors import Incomplete, UsageError
from harness.judge import choice_probability, compare, gate, unusable
from harness.judge.asked import Place, blind_strata, blind_to_cache, control_items
from harness.judge.comparison import Comparison, Comparisons
from harness.judge.latency import undefined, with_late
from harness.judge.outcomes import Outcomes, build, fingerprint
from harness.judge.quantities import judged_quantities
from harness.judge.rules import Rules, read_policy
from harness.judge.sides import check_sides
from harness.judge.signals import Signal, signals
from harness.judge.summaries import Quantity
from harness.judge.tail_counts import Cell, cells
from harness.judge.verdicts import Judgement
from harness.models.compatibility import cross_engine_note
from harness.records import TAIL_KINDS
from harness.store.files import atomic_write
from harness.store.record import CONTROL, RunRecord
from harness.store.rundir import RunDir

__all__ = [
    "baseline_signals",
    "item_scores",
    "judge",
    "not_asked",
    "undecided",
    "write",
]


def item_scores(run: RunRecord, variant: str, *, until: int | None = None) -> dict[str, float]:
    """Return item id to mean score over its samples, NaN where unanswered; only items that have an answer."""
    found: dict[str, list[float]] = defaultdict(list)
    for one in run.of(variant):
        if until is None or run.look_of.get(one.item_id, 0) <= until:
            found[one.item_id].append(math.nan if one.score is None else one.score)
    return {item_id: math.fsum(scores) / len(scores) for item_id, scores in found.items()}


def _outcomes(
    run: RunRecord,
    variant: str,
    *,
    until: int | None = None,
    only: frozenset[str] | None = None,
    blind: frozenset[Place] = frozenset(),
) -> Outcomes | None:
    """Return a variant's outcomes, in the order of the items; None if it has answered nothing.

    only: the ids of the items to take; all by default. blind: strata that it was not asked, NaN in its scores.
    """
    not_asked = {item.id: math.nan for item in run.items if (item.slice, item.stratum) in blind}
    scores = {**not_asked, **item_scores(run, variant, until=until)}
    items = [item for item in run.items if item.id in scores and (only is None or item.id in only)]
    if not items:
        return None
    axes = list(dict.fromkeys(axis for item in items for axis in item.levels))
    return build(
        variant,
        [item.id for item in items],
        [scores[item.id] for item in items],
        slices=[item.slice for item in items],
        strata=[item.stratum for item in items],
        clusters=[item.cluster for item in items],
        fingerprints=[fingerprint(run.digests[item.id]) for item in items],
        chance=[item.chance for item in items],
        weight=[item.weight for item in items],
        looks=[run.look_of[item.id] for item in items],
        levels={axis: [item.levels.get(axis, "") for item in items] for axis in axes},
    )


def undecided(run: RunRecord, look: int) -> dict[str, set[tuple[str, str]]]:
    """Give, for every candidate, the strata that need more items after a look.

    A candidate that could not be loaded needs none.
    """
    experiment = run.experiment
    rules = Rules.from_experiment(experiment).with_plan(run.items)
    baseline = _outcomes(run, experiment.baseline.name, until=look)
    needs: dict[str, set[tuple[str, str]]] = {}
    for candidate in experiment.candidates:
        side = _outcomes(run, candidate.name, until=look)
        needs[candidate.name] = set()
        if baseline is not None and side is not None and candidate.name not in run.failures:
            # Tail events and quantities are judged once, on all items planned: scores must not choose which are seen.
            needs[candidate.name] = compare.undecided_strata(baseline, side, rules, look) | _held(run, rules)
    return needs


def _held(run: RunRecord, rules: Rules) -> set[tuple[str, str]]:
    """Return the strata whose tail events or quantities are gated."""
    places = {(item.slice, item.stratum) for item in run.items if item.kind == "generate"}
    return {place for place in places if rules.tolerances(*place) or (rules.policy.quantities and rules.gating(*place))}


def not_asked(run: RunRecord) -> frozenset[Place]:
    """Return the strata that only the baseline is asked, once it has answered: empty without `execution.skip_blind`."""
    if not run.experiment.execution.skip_blind:
        return frozenset()
    return blind_strata(
        run.items, item_scores(run, run.experiment.baseline.name), Rules.from_experiment(run.experiment)
    )


def _control_items(run: RunRecord) -> frozenset[str] | None:
    """Return the ids of the items that the control is asked; None if that is all of them."""
    share = run.experiment.execution.control
    return None if isinstance(share, bool) else control_items(run.items, share)


def _asked(run: RunRecord, name: str, blind: frozenset[Place]) -> frozenset[str]:
    """Return the ids of the items that a variant is asked, early stopping aside."""
    if name == run.experiment.baseline.name:
        return frozenset(item.id for item in run.items)
    share = _control_items(run) if name == CONTROL else None
    return frozenset(
        item.id for item in run.items if (item.slice, item.stratum) not in blind and (share is None or item.id in share)
    )


def _check_complete(run: RunRecord, blind: frozenset[Place]) -> None:
    """Refuse a run that lacks an answer to what was asked. Raises Incomplete, naming it."""
    samples = run.experiment.sampling.samples
    left_out = [one.get("skipped", {}) for one in run.shards.values()]
    skipped = {(name, unit) for one in left_out for name in one for unit in one[name]}
    for name in run.answers:
        asked = _asked(run, name, blind) if name not in run.failures else frozenset()
        answered = Counter(one.item_id for one in run.of(name))
        lacking = [
            item.id
            for item in run.items
            if item.id in asked
            and (name, run.unit_of[item.id]) not in skipped
            and answered[item.id] < (1 if item.kind == "choice" else samples)
        ]
        if lacking:
            raise Incomplete(
                f"{run.directory.path}: {name} lacks answers to {len(lacking)} items ({min(lacking)} ...): "
                "run `quantcliff run` again to finish it"
            )


def judge(run: RunRecord, overrides: Mapping[str, Any] | None = None, *, allow_identical: bool = False) -> Judgement:
    """Compare and gate a finished run, under its own policy or under one with some of it changed.

    allow_identical: whether a candidate may be the baseline itself. Raises Incomplete, NotComparable.
    """
    check_sides(run, allow_identical=allow_identical)
    blind = not_asked(run)
    _check_complete(run, blind)
    rules = _rules(run.experiment, overrides or {}).with_plan(run.items)
    names = [one.name for one in run.experiment.candidates]
    failed = {name: " ".join(run.failures[name]) for name in names if name in run.failures}
    baseline = _outcomes(run, run.experiment.baseline.name)
    sides = {name: _outcomes(run, name, blind=blind) for name in names if name not in failed}
    if baseline is None or None in sides.values():
        raise Incomplete(f"{run.directory.path}: there are no answers: run `quantcliff run` again")
    control = _outcomes(run, CONTROL) if run.experiment.execution.control else None
    part = None
    if blind or _control_items(run) is not None:
        part = _outcomes(run, run.experiment.baseline.name, only=_asked(run, CONTROL, blind))
    material = compare.compare(
        baseline,
        [side for side in sides.values() if side],
        rules,
        control=control,
        control_baseline=part if control is not None else None,
        blind=blind,
    )
    material = unusable.noted(material, unusable.unusable_strata(run.items, run.of(run.experiment.baseline.name)))
    material = _cache_noted(run, material)
    judgement = gate.judge(
        material,
        rules,
        not_judged=failed,
        order=names,
        events=_events(run, [*sides, *([CONTROL] if control is not None else [])], blind, rules.policy.latency),
        quantities=_quantities(run, sides, blind, rules),
        proofs={name: run.identities[name]["proof"] for name in names if name in run.identities},
        warnings=_warnings(run),
        provenance=_provenance(run),
    )
    return choice_probability.shown(judgement, _choice_probabilities(run, sides, rules.policy.alpha))


def _cache_noted(run: RunRecord, material: Comparisons) -> Comparisons:
    """Mark the strata that a candidate which changes the KV cache alone cannot be judged by."""
    variants = {one.name: one for one in run.experiment.candidates}
    blind = blind_to_cache(run.items)

    def own(side: Comparison) -> Comparison:
        if not blind or not variants[side.name].differs_only_in(run.experiment.baseline, "kv_cache"):
            return side
        strata = (replace(one, cache_blind=(one.slice, one.stratum) in blind) for one in side.strata)
        return replace(side, strata=tuple(strata))

    return replace(material, candidates=tuple(map(own, material.candidates)))


def _choice_probabilities(run: RunRecord, names: Iterable[str], alpha: float) -> dict[str, choice_probability.Places]:
    """Compare how likely the right choices are, candidate by candidate."""
    before = _right(run, run.experiment.baseline.name)
    return {name: choice_probability.compared(run.items, before, _right(run, name), alpha) for name in names}


def _right(run: RunRecord, variant: str) -> dict[str, float]:
    """Return item id to the probability of its right choice."""
    known = ((one.item_id, one.choice_probability) for one in run.of(variant))
    return {item_id: value for item_id, value in known if value is not None}


def _events(
    run: RunRecord, names: Sequence[str], blind: frozenset[Place], latency: Mapping[str, float]
) -> dict[str, list[Cell]]:
    """Count the tail events of each variant against the baseline, in the items that it was asked.

    latency: kinds of late answers to what is late; not of the control, which is asked at another concurrency.
    """
    base = run.experiment.baseline.name
    found = {}
    for name in names:
        asked = _asked(run, name, blind)
        items = [item for item in run.items if item.id in asked]
        before, after = run.of(base), run.of(name)
        if latency and name != CONTROL:
            times = [run.directory.request_times(one) for one in (base, name)]
            before, after = with_late([before, after], times, latency)
        found[name] = cells(items, before, after, [*TAIL_KINDS, *(latency if name != CONTROL else ())])
    return found


def _quantities(
    run: RunRecord, names: Iterable[str], blind: frozenset[Place], rules: Rules
) -> dict[str, tuple[Quantity, ...]]:
    """Compare how much each candidate thinks and writes with the baseline, in the items that it was asked."""
    baseline = run.of(run.experiment.baseline.name)
    found = {}
    for name in names:
        asked = _asked(run, name, blind)
        items = [item for item in run.items if item.id in asked]
        found[name] = judged_quantities(items, baseline, run.of(name), rules)
    return found


def _warnings(run: RunRecord) -> tuple[str, ...]:
    """Return what a reader must know before believing anything."""
    found = []
    if run.experiment.execution.rehearsal is not None:
        found.append("This is a rehearsal: the answers were made up and no model was measured.")
    if run.experiment.execution.cross_engine:
        found.append(cross_engine_note(run.experiment))
    for candidate in run.experiment.candidates:
        blind = blind_to_cache(run.items) if candidate.kv_cache != run.experiment.baseline.kv_cache else frozenset()
        if blind:
            places = ", ".join(f"{slice_name}/{stratum}" for slice_name, stratum in sorted(blind))
            found.append(f"{candidate.name} has another KV cache, to which these strata are blind: {places}.")
        seen = run.calibrated.get(candidate.name)
        if seen:
            found.append(
                f"{candidate.name} was calibrated on texts that share a passage with {len(seen['items'])} items "
                f"({seen['items'][0]} ...): its scores there flatter it."
            )
    return tuple(found)


def _rules(experiment: Experiment, overrides: Mapping[str, Any]) -> Rules:
    """Return the run's rules; what the caller overrides applies to every stratum."""
    rules = Rules.from_experiment(experiment)
    if not overrides:
        return rules
    kept = experiment.policy.model_dump(mode="json")
    if "margin" in overrides:
        kept["margins"] = {"*": overrides["margin"]}
    if "tail_events" in overrides:
        rules = rules.without_own_tolerances()
    rules = rules.under(read_policy({**kept, **overrides}))
    if kinds := undefined(rules):
        raise UsageError(f"tail_events has a tolerance for {kinds[0]}, and latency does not say what is late")
    return rules


def _provenance(run: RunRecord) -> dict[str, Any]:
    """Return where the figures come from; no times, so that equal results give equal bytes."""
    plan, identities = run.plan, run.identities
    return {
        "run": run.experiment.name,
        "config_digest": plan["config_digest"],
        "items_digest": plan["items_digest"],
        "seed": run.experiment.seed,
        "device": plan["device"],
        "versions": identities.get(run.experiment.baseline.name, {}).get("versions", {}),
        "weights": {name: one["weights"] for name, one in identities.items()},
    }


def baseline_signals(run: RunRecord) -> list[Signal]:
    """Return of every stratum whether the baseline's answers could show damage; no candidate is needed."""
    name = run.experiment.baseline.name
    rules = Rules.from_experiment(run.experiment)
    found = unusable.unusable_strata(run.items, run.of(name))
    return signals(run.items, item_scores(run, name), _right(run, name), rules, found)


def write(directory: RunDir, judgement: Judgement) -> list[Path]:
    """Write comparisons.json (everything) and verdict.json (the gate's word alone). Gives their paths."""
    whole, short = directory.path / "comparisons.json", directory.path / "verdict.json"
    text = json.dumps(judgement.to_json(), indent=1, ensure_ascii=False, allow_nan=False)
    atomic_write(whole, text + "\n")
    word = {
        "verdict": judgement.verdict,
        "exit_code": int(judgement.exit_code),
        "candidates": [
            {"name": one.name, "verdict": one.verdict, "reasons": list(one.reasons)} for one in judgement.candidates
        ],
    }
    atomic_write(short, json.dumps(word, indent=1, ensure_ascii=False) + "\n")
    return [whole, short]
