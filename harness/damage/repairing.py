"""The cheapest set that a search found, proved on items that the search never saw, in a separate run.

Three candidates join the damaged one: what the search chose, what the divergence alone would have chosen, and random
modules, all of the same bytes. The run is an ordinary one, in ``repair-<candidate>`` in the run directory: it survives
a kill, and `quantcliff compare` judges it again.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from harness import report
from harness.config.methods import METHODS
from harness.config.schema import Experiment, SliceSpec, Variant
from harness.damage.localizing import damage_path, lost_variant, mean_scores
from harness.errors import ExitCode, NotComparable, UsageError
from harness.judge import judging
from harness.judge.verdicts import Judgement
from harness.records import Item
from harness.report import run_evidence
from harness.report.damage import write_page
from harness.run import plan as run_plan
from harness.run import runner
from harness.run.progress import Reporter
from harness.stats.binary import mcnemar_midp
from harness.stats.events import event_rate
from harness.store.files import atomic_write, write_json
from harness.store.record import RunRecord
from harness.store.rundir import RunDir, Shard
from harness.store.units import plan_units
from harness.store.whole import load_run
from harness.suite.toolkit.strata import level_text

__all__ = ["held_out", "repair", "skipping", "unseen"]

SEED = 1_000_003  # added to the run's seed to draw the held-out items
_EXIT_CODES = {"pass": ExitCode.PASS, "fail": ExitCode.FAIL, "not_judged": ExitCode.NOT_COMPARABLE}
ALPHA = 0.05  # of each limit of a share of items won back


def repair(
    run: RunRecord, judgement: Judgement, summary: dict[str, Any], progress: Reporter, *, command: str = ""
) -> tuple[dict[str, Any], int]:
    """Gate the chosen set on held-out items; return the summary with what came of it, and the exit code.

    Raises UsageError if the method quantizes before it loads, NotComparable if the search chose nothing.
    """
    name = summary["candidate"]
    variant, _ = lost_variant(run, judgement, name)
    sets: Mapping[str, Sequence[str]] = summary["sets"]
    if not sets["repaired"]:
        raise NotComparable(f"{name}: the search found no set that wins items back: there is nothing to prove")
    if "skip_modules" not in METHODS[variant.quantization.method].options:
        raise UsageError(
            f"{name}: {variant.quantization.method} takes no skip_modules, so no variant can be made of it here; "
            f"quantize it again without the modules of `chosen` in {damage_path(run, name)}"
        )
    same = "by-divergence" if sets["by-divergence"] == sets["repaired"] else ""
    variants = [variant, *(skipping(variant, how, modules) for how, modules in sets.items() if how != same)]
    plan, shared = held_out(run, summary, variants)
    directory = RunDir(run.directory.path / f"repair-{name}")
    runner.run(plan, directory, Shard(), progress, command=command)
    proof = load_run(directory)
    judged = judging.judge(proof)
    judging.write(directory, judged)
    report.write(directory.path, judged, run_evidence.evidence(proof, judged))
    summary |= {"held_out": _held_out(proof, judged, name, shared)}
    write_json(damage_path(run, name), summary)
    write_page(damage_path(run, name, ".html"), summary)
    entry = skipping(variant, "repaired", sets["repaired"]).model_dump(
        mode="json", exclude_defaults=True, exclude={"model"}
    )
    entry["quantization"] = {key: value for key, value in entry["quantization"].items() if value is not None}
    atomic_write(run.directory.path / f"repair-{name}.yaml", yaml.safe_dump({"candidates": [entry]}, sort_keys=False))
    verdict = next(one.verdict for one in judged.candidates if one.name == f"{name}-repaired")
    return summary, _EXIT_CODES.get(verdict, ExitCode.INCONCLUSIVE)


def skipping(variant: Variant, how: str, modules: Sequence[str]) -> Variant:
    """Return the variant that leaves these modules alone, besides those that it left alone before."""
    skipped = (*(variant.quantization.skip_modules or ()), *modules)
    changed = variant.quantization.model_copy(update={"skip_modules": skipped})
    return variant.model_copy(update={"name": f"{variant.name}-{how}", "quantization": changed})


def held_out(run: RunRecord, summary: Mapping[str, Any], variants: Sequence[Variant]) -> tuple[run_plan.Plan, int]:
    """Plan a run over fresh items of the failing strata; return it, and how many drawn items the run had seen.

    Items are drawn with another seed. Where the same question was asked before, as in a data set of limited size, it
    is left out. Raises NotComparable if none is left.
    """
    failing: dict[str, list[Item]] = defaultdict(list)
    for item in run.items:
        if f"{item.slice}/{item.stratum}" in summary["strata"]:
            failing[item.slice].append(item)
    slices = (spec for spec in run.experiment.slices if spec.key in failing)
    experiment = run.experiment.model_copy(
        update={
            "name": f"repair-{summary['candidate']}",
            "description": f"{summary['candidate']} of {run.experiment.name} with modules left alone: held-out items",
            "candidates": tuple(variants),
            "slices": tuple(_narrowed(spec, failing[spec.key]) for spec in slices),
            "execution": run.experiment.execution.model_copy(update={"control": False}),
            "seed": run.experiment.seed + SEED,
        }
    )
    experiment = Experiment.model_validate(experiment.model_dump(mode="json"))
    made = run_plan.make_plan(experiment, str(run.directory.path / "run.json"), check=False)
    drawn = [item for item in made.items if f"{item.slice}/{item.stratum}" in summary["strata"]]
    items = unseen(drawn, run.items)
    units = tuple(plan_units(items, experiment.execution.unit_items, experiment.execution.looks))
    return dataclasses.replace(made, items=items, units=units), len(drawn) - len(items)


def unseen(drawn: Sequence[Item], asked: Sequence[Item]) -> tuple[Item, ...]:
    """Return the items whose question was not asked. Raises NotComparable if there is none."""
    seen = {(item.prompt, item.choices) for item in asked}
    items = tuple(item for item in drawn if (item.prompt, item.choices) not in seen)
    if not items:
        raise NotComparable("all items of the failing strata were in the run: there are none that the search never saw")
    return items


def _narrowed(spec: SliceSpec, own: Sequence[Item]) -> SliceSpec:
    """Return the slice with only those levels of its axes that its failing items have."""
    failing = {axis: {item.levels.get(axis) for item in own} for axis in spec.axes}
    axes = {
        axis: tuple(level for level in levels if level_text(level) in failing[axis])
        for axis, levels in spec.axes.items()
    }
    return spec.model_copy(update={"axes": {axis: levels for axis, levels in axes.items() if levels}})


def _held_out(proof: RunRecord, judged: Judgement, name: str, shared: int) -> dict[str, Any]:
    """Count what each variant won back of the held-out items that the damaged candidate lost."""
    scores = {one.name: mean_scores(proof, one.name) for one in proof.experiment.variants}
    before, damaged = scores[proof.experiment.baseline.name], scores[name]
    items = [one for one in before if all(one in own for own in scores.values())]
    lost = [one for one in items if damaged[one] < before[one]]
    kept = [one for one in items if damaged[one] >= before[one] > 0]
    weights = {one.name: proof.identities[one.name]["proof"]["weight_bytes"] for one in proof.experiment.variants}
    chosen = scores[f"{name}-repaired"]
    rows = []
    for candidate in judged.candidates:
        own = scores[candidate.name]
        back = [own[one] >= before[one] for one in lost]
        rate = event_rate(back, alpha=ALPHA) if back else None
        worse, better = (sum(a[one] < b[one] for one in items) for a, b in ((chosen, own), (own, chosen)))
        rows.append(
            {
                "name": candidate.name,
                "bytes": weights[candidate.name],
                "more": weights[candidate.name] / weights[name] - 1,
                "score": sum(own[one] for one in items) / len(items),
                "won": sum(back),
                "low": None if rate is None else rate.low,
                "high": None if rate is None else rate.high,
                "newly_lost": sum(own[one] < before[one] for one in kept),
                "verdict": candidate.verdict,
                # of 'the chosen one is no better than this one': one-sided mid-p McNemar
                "p_repaired_better": mcnemar_midp(worse, better)[1],
            }
        )
    baseline = sum(before[one] for one in items) / len(items)
    return {"items": len(items), "seen_before": shared, "lost": len(lost), "baseline_score": baseline, "variants": rows}
