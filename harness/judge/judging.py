"""Judges a run directory: reads what was answered, compares and gates.

Needs the files and no model, so a verdict can be recomputed years later on a laptop. Which tests are made is
`harness.judge.compare`'s matter, which words they end in `harness.judge.gate`'s.
"""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.config import Experiment, Policy
from harness.errors import Incomplete, UsageError
from harness.judge import choice_probability, compare, gate, unusable
from harness.judge.finished import CONTROL, FinishedRun, experiment_of, read_run, variant_names
from harness.judge.outcomes import Outcomes, build, fingerprint
from harness.judge.rules import Rules
from harness.judge.run_evidence import proofs_of
from harness.judge.signals import Signal, signals
from harness.judge.verdicts import Judgement, judgement_from_json
from harness.records import digest
from harness.run.store import RunDir, Shard, atomic_write, read_json
from harness.tail_events.pairs import Cell, cells

__all__ = [
    "baseline_signals",
    "judge",
    "judged",
    "missing_shards",
    "undecided",
    "write",
    "write_manifest",
]


def _scores(run: FinishedRun, variant: str, *, until: int | None = None) -> dict[str, float]:
    """Give item id to mean score over its samples, NaN where unanswered; only items that have an answer."""
    found: dict[str, list[float]] = defaultdict(list)
    for one in run.directory.all_results(variant):
        if until is None or run.looks.get(one.item_id, 0) <= until:
            found[one.item_id].append(math.nan if one.score is None else one.score)
    return {item_id: math.fsum(scores) / len(scores) for item_id, scores in found.items()}


def _outcomes(run: FinishedRun, variant: str, *, until: int | None = None) -> Outcomes | None:
    """Give a variant's outcomes, in the order of the items; None where it has answered nothing."""
    scores = _scores(run, variant, until=until)
    items = [item for item in run.items if item.id in scores]
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
        fingerprints=[fingerprint(item.digest()) for item in items],
        chance=[item.chance for item in items],
        weight=[item.weight for item in items],
        looks=[run.looks[item.id] for item in items],
        levels={axis: [item.levels.get(axis, "") for item in items] for axis in axes},
    )


def undecided(directory: RunDir, experiment: Experiment, look: int) -> dict[str, set[tuple[str, str]]]:
    """Give, for every candidate, the strata that need more items after a look.

    A candidate that has answered nothing (it could not be loaded) needs none.
    """
    run = read_run(directory)
    rules = Rules.from_experiment(experiment).with_plan(run.items)
    baseline = _outcomes(run, experiment.baseline.name, until=look)
    needs: dict[str, set[tuple[str, str]]] = {}
    for candidate in experiment.candidates:
        side = _outcomes(run, candidate.name, until=look)
        needs[candidate.name] = set()
        if baseline is not None and side is not None:
            # Tail events are judged once, on all items that were planned: scores must not choose which are seen.
            needs[candidate.name] = compare.undecided_strata(baseline, side, rules, look) | _held(run, rules)
    return needs


def _held(run: FinishedRun, rules: Rules) -> set[tuple[str, str]]:
    """Give the strata whose tail events are gated."""
    places = {(item.slice, item.stratum) for item in run.items if item.kind == "generate"}
    return {place for place in places if rules.tolerances(*place)}


def missing_shards(directory: RunDir) -> list[str]:
    """Name the shards that are not complete, as ``2/4``."""
    count = int(directory.plan()["shards"])
    shards = [Shard(index + 1, count) for index in range(count)]
    return [f"{shard.index}/{count}" for shard in shards if not (directory.path / "shards" / f"{shard}.json").is_file()]


def write_manifest(directory: RunDir) -> None:
    """Say that the run is complete: what was answered, by what, with the digest of every results file's answers."""
    plan = directory.plan()
    variants: dict[str, Any] = {}
    for name in variant_names(experiment_of(directory)):
        results = directory.all_results(name)
        variants[name] = {
            "identity": directory.recorded(name, "variant.json"),
            "answers": len(results),
            "answers_digest": digest(sorted([one.item_id, one.score] for one in results)),
            "failures": directory.failures(name),
        }
    record = {"config_digest": plan["config_digest"], "items_digest": plan["items_digest"], "variants": variants}
    text = json.dumps(record, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    atomic_write(directory.path / "manifest.json", text)


def _check_complete(run: FinishedRun) -> None:
    """Refuse a run with a missing shard or a missing answer. Raises Incomplete, naming it."""
    missing = missing_shards(run.directory)
    path = run.directory.path
    if missing:
        count = run.directory.plan()["shards"]
        remedy = "give `quantcliff run` again to finish it" if count == 1 else "run them with --shard"
        raise Incomplete(f"{path}: {len(missing)} of {count} shard(s) incomplete ({', '.join(missing)}): {remedy}")
    skipped = _skipped(run)
    samples = run.experiment.sampling.samples
    wanted = {item.id: 1 if item.kind == "choice" else samples for item in run.items}
    for name in variant_names(run.experiment):
        if run.directory.failures(name):
            continue
        answered = Counter(one.item_id for one in run.directory.all_results(name))
        lacking = [
            item_id
            for unit, ids in run.units.items()
            if unit not in skipped[name]
            for item_id in ids
            if answered[item_id] < wanted[item_id]
        ]
        if lacking:
            first = min(lacking)
            raise Incomplete(
                f"{path}: {name} lacks answers to {len(lacking)} items ({first} ...): "
                "give `quantcliff run` again to finish it"
            )


def _skipped(run: FinishedRun) -> Mapping[str, set[int]]:
    """Give variant to the units of which something was left out because it was decided."""
    skipped: dict[str, set[int]] = defaultdict(set)
    for path in sorted((run.directory.path / "shards").glob("*.json")):
        for name, units in read_json(path).get("skipped", {}).items():
            skipped[name] |= set(units)
    return skipped


def judge(directory: RunDir, overrides: Mapping[str, Any] | None = None) -> Judgement:
    """Compare and gate a finished run, under its own policy or under one with some of it changed.

    Raises Incomplete, NotComparable, StoreError.
    """
    run = read_run(directory)
    _check_complete(run)
    rules = _rules(run.experiment, overrides or {}).with_plan(run.items)
    names = [one.name for one in run.experiment.candidates]
    failed = {name: " ".join(run.directory.failures(name)) for name in names if run.directory.failures(name)}
    baseline = _outcomes(run, run.experiment.baseline.name)
    sides = {name: _outcomes(run, name) for name in names if name not in failed}
    if baseline is None or None in sides.values():
        raise Incomplete(f"{directory.path}: there are no answers: give `quantcliff run` again")
    control = _outcomes(run, CONTROL) if run.experiment.execution.control else None
    material = compare.compare(baseline, [side for side in sides.values() if side], rules, control=control)
    answers = run.directory.all_results(run.experiment.baseline.name)
    material = unusable.noted(material, unusable.unusable_strata(run.items, answers))
    judgement = gate.judge(
        material,
        rules,
        not_judged=failed,
        order=names,
        events=_events(run, [*sides, *([CONTROL] if control is not None else [])]),
        extras=gate.Extras(
            proofs=proofs_of(run.directory, names),
            warnings=_warnings(run),
            provenance=_provenance(run),
        ),
    )
    return choice_probability.shown(judgement, _choice_probabilities(run, sides, rules.policy.alpha))


def _choice_probabilities(run: FinishedRun, names: Iterable[str], alpha: float) -> dict[str, choice_probability.Places]:
    """Compare how likely the right choices are, candidate by candidate."""
    before = _right(run, run.experiment.baseline.name)
    return {name: choice_probability.compared(run.items, before, _right(run, name), alpha) for name in names}


def _right(run: FinishedRun, variant: str) -> dict[str, float]:
    """Give item id to the probability of its right choice."""
    known = ((one.item_id, one.choice_probability) for one in run.directory.all_results(variant))
    return {item_id: value for item_id, value in known if value is not None}


def _events(run: FinishedRun, names: Sequence[str]) -> dict[str, list[Cell]]:
    """Count the tail events of each variant against the baseline."""
    baseline = run.directory.all_results(run.experiment.baseline.name)
    return {name: cells(run.items, baseline, run.directory.all_results(name)) for name in names}


def _warnings(run: FinishedRun) -> tuple[str, ...]:
    """Say what a reader must know before believing anything."""
    found = []
    if run.experiment.execution.rehearsal is not None:
        found.append("This is a rehearsal: the answers were made up and no model was measured.")
    for candidate in run.experiment.candidates:
        seen = run.directory.recorded(candidate.name, "calibration.json")
        if seen:
            found.append(
                f"{candidate.name} was calibrated on texts that share a passage with {len(seen['items'])} items "
                f"({seen['items'][0]} ...): its scores there flatter it."
            )
    return tuple(found)


def _rules(experiment: Experiment, overrides: Mapping[str, Any]) -> Rules:
    """Give the run's rules; what the caller overrides holds for every stratum."""
    rules = Rules.from_experiment(experiment)
    if not overrides:
        return rules
    kept = experiment.policy.model_dump(mode="json")
    if "margin" in overrides:
        kept["margins"] = {"*": overrides["margin"]}
    if "tail_events" in overrides:
        rules = rules.without_own_tolerances()
    try:
        return rules.under(Policy.model_validate({**kept, **overrides}))
    except ValueError as error:
        raise UsageError(f"the policy does not hold together: {error}") from error


def _provenance(run: FinishedRun) -> dict[str, Any]:
    """Say where the figures come from; no times, so that equal results give equal bytes."""
    plan = run.directory.plan()
    identities = {name: run.directory.recorded(name, "variant.json") for name in variant_names(run.experiment)}
    return {
        "run": run.experiment.name,
        "config_digest": plan["config_digest"],
        "items_digest": plan["items_digest"],
        "seed": run.experiment.seed,
        "device": plan["device"],
        "versions": (identities[run.experiment.baseline.name] or {}).get("versions", {}),
        "weights": {name: one["weights"] for name, one in identities.items() if one},
    }


def baseline_signals(directory: RunDir) -> list[Signal]:
    """Say of every stratum whether the baseline's answers could show damage; no candidate is needed."""
    run = read_run(directory)
    name = run.experiment.baseline.name
    rules = Rules.from_experiment(run.experiment)
    found = unusable.unusable_strata(run.items, run.directory.all_results(name))
    return signals(run.items, _scores(run, name), _right(run, name), rules, found)


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


def judged(directory: RunDir) -> Judgement:
    """Read a judgement that `write` wrote. Raises StoreError, Incomplete."""
    path = directory.path / "comparisons.json"
    directory.plan()
    if not path.is_file():
        raise Incomplete(f"{path}: the run was not judged yet: `quantcliff compare {directory.path}` does that")
    try:
        return judgement_from_json(read_json(path))
    except (KeyError, TypeError) as error:
        raise Incomplete(f"{path}: is not a judgement ({error}): `quantcliff compare` writes it again") from error
