"""The two commands about damage: where a finished run's candidate lost its items, and the cheapest set, proved.

``damage-<candidate>.jsonl`` in a run is the journal of the search, ``.json`` what it came to, ``.html`` the page. The
proof, in ``repair-<candidate>``, is an ordinary run on items that the search never saw: candidates of equal bytes join
the damaged one, which leave alone what the search chose, what divergence alone would have chosen, and random modules.
"""

import contextlib
import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import yaml

from harness import report
from harness.config.methods import METHODS
from harness.config.schema import Experiment, SliceSpec, Variant
from harness.damage.search import Found, Journal, Say, Sizes, null_share, random_set, search
from harness.errors import ExitCode, NotComparable, UsageError
from harness.judge import judging
from harness.judge.verdicts import Judgement
from harness.models.devices import resolve_device, settle_threads
from harness.models.quiet import quiet
from harness.records import Generation, Item, Settings, digest
from harness.report import run_evidence
from harness.report.damage import write_page
from harness.run import plan as run_plan
from harness.run import runner
from harness.run.plan import files_of
from harness.run.progress import Reporter
from harness.stats.binary import mcnemar_midp
from harness.stats.events import event_rate
from harness.store.files import atomic_write, read_json, write_json
from harness.store.record import RunRecord
from harness.store.rundir import RunDir, Shard
from harness.store.units import plan_units
from harness.store.whole import load_run
from harness.suite.toolkit.strata import level_text

if TYPE_CHECKING:
    from harness.damage.hybrid import Hybrid
SEED = 1_000_003  # added to the run's seed to draw the held-out items
ALPHA = 0.05  # of each limit of a share of items won back
_WEIGHTS = {"model", "revision", "trust_remote_code"}  # what a candidate inherits from the baseline together
_ONLY_LOST = "# Gated on the strata that had failed, alone: run the whole config with it before a rollout.\n"
_EXIT_CODES = {"pass": ExitCode.PASS, "fail": ExitCode.FAIL, "not_judged": ExitCode.NOT_COMPARABLE}
LONGEST = 32  # tokens; if half of the baseline's answers are longer, items are answered in full, not read along
Places = frozenset[tuple[str, str]]
Sets = Mapping[str, Sequence[str]]  # of modules, by how they were chosen


def damage_path(run: RunRecord, candidate: str, suffix: str = ".json") -> Path:
    """Return where the damage of a candidate is written."""
    return run.directory.path / f"damage-{candidate}{suffix}"


def lost_variant(run: RunRecord, judgement: Judgement, name: str) -> tuple[Variant, Places]:
    """Return a candidate and the gating strata in which it failed. Raises UsageError, NotComparable."""
    variant = next((one for one in run.experiment.candidates if one.name == name), None)
    judged = next((one for one in judgement.candidates if one.name == name and one.strata), None)
    if variant is None or judged is None:
        names = ", ".join(one.name for one in judgement.candidates if one.strata)
        raise UsageError(f"{run.directory.path}: has no judged candidate {name!r}: give one of {names}")
    if not (variant.engine.here and run.experiment.baseline.engine.here) or run.experiment.execution.rehearsal:
        raise NotComparable(f"{name}: its modules are not at hand: another program answered, or nothing did")
    if variant.kv_cache or variant.decoding:
        raise NotComparable(f"{name}: its cache or its decoding differs too, and restoring modules does not undo that")
    places = frozenset((one.slice, one.stratum) for one in judged.strata if one.verdict == "fail" and one.gating)
    if places and judged.verdict != "fail":
        raise NotComparable(f"{name}: its verdict is not a fail, so its losses cannot be trusted: {judged.reasons[0]}")
    if not places:
        raise NotComparable(f"{name}: fails in no gating stratum of this run, so there is no damage to look for")
    return variant, places


class Chosen(NamedTuple):
    """The items that are asked."""

    lost: tuple[Item, ...]  # those that the baseline got right and the candidate did not, in failing strata
    kept: tuple[Item, ...]  # as many that both got right, those with the same answer and from failing strata first
    right: Mapping[str, float]  # item id to the baseline's score in the run


def chosen_items(run: RunRecord, name: str, places: Places) -> Chosen:
    """Choose the items of a search. Raises NotComparable if the run did not keep their texts."""
    before, after = (mean_scores(run, one) for one in (run.experiment.baseline.name, name))
    gating = {spec.key for spec in run.experiment.slices if spec.gating}
    known = [one for one in run.items if before.get(one.id, 0) > max(one.chance, 0) and one.id in after]
    lost = [one for one in known if after[one.id] < before[one.id] and (one.slice, one.stratum) in places]
    kept = [one for one in known if after[one.id] >= before[one.id] and one.slice in gating]
    texts = [_tokens(run, one) for one in (run.experiment.baseline.name, name)]
    differ = {one.id: len({answers.get(one.id) for answers in texts}) > 1 for one in kept}
    seed, whole = run.experiment.seed, run.experiment.store_text == "full"
    kept.sort(key=lambda one: (differ[one.id], (one.slice, one.stratum) not in places, digest([seed, one.id])))
    chosen = (*lost, *kept[: len(lost)])
    if any(one.asked or one.id in run.erased or not (whole or one.choices) for one in chosen):
        raise NotComparable(f"{run.directory.path}: did not keep the texts of its items, so they cannot be asked again")
    return Chosen(tuple(lost), tuple(kept[: len(lost)]), {one.id: before[one.id] for one in chosen})


def mean_scores(run: RunRecord, name: str) -> dict[str, float]:
    """Return item id to mean score; an item that went unanswered is absent."""
    return {item_id: score for item_id, score in judging.item_scores(run, name).items() if not math.isnan(score)}


def localize(
    run: RunRecord, judgement: Judgement, name: str, share: float, minutes: float, say: Say, *, proof: bool
) -> dict[str, Any]:
    """Search, or go on with a stopped search. share: of the bytes, that may be restored. proof: if `repair` follows."""
    variant, places = lost_variant(run, judgement, name)
    chosen, strata = chosen_items(run, name, places), sorted(map("/".join, places))
    if proof and "skip_modules" in METHODS[variant.quantization.method].options:
        held_out(run, {"candidate": name, "strata": strata}, [variant])  # refuses at once what it would refuse then
    with quiet():  # torch is imported after all that may be refused
        from harness.engines.transformers.engine import ENGINE_VERSION

    say(f"loading {run.experiment.baseline.name} and {name}; {len(chosen.lost)} lost items, {len(chosen.kept)} kept")
    hybrid, whole, slow = _load(run, variant, chosen)
    if not hybrid.sizes:
        raise NotComparable(f"{name}: no module differs from the baseline's, so none can be restored")
    most = round(share * whole)
    weights = {one: run.identities[one]["weights"] for one in (run.experiment.baseline.name, name)}
    items = [run.digests[one.id] for one in (*chosen.lost, *chosen.kept)]
    key = digest([items, weights, variant.quantization.model_dump(mode="json"), ENGINE_VERSION, slow, hybrid.sizes])
    right = {name: score for name, score in chosen.right.items() if hybrid.baseline_scores.get(name, 0.0) >= score}
    kept, seconds = {one.id for one in chosen.kept}, 60 * minutes
    with contextlib.closing(Journal(damage_path(run, name, ".jsonl"), key)) as journal:
        found = search(journal, hybrid.ask, right, hybrid.sizes, kept=kept, most=most, seconds=seconds, say=say)
    return _written(run, _summary(run, name, strata, chosen, hybrid.sizes, found, whole, most) | searched(run, share))


def searched(run: RunRecord, share: float) -> dict[str, Any]:
    """Return what a finished search says it was about: without it, it is of another build, answers or share."""
    return {"share": share, "of": digest(read_json(run.directory.path / "manifest.json"))}


def _written(run: RunRecord, summary: dict[str, Any]) -> dict[str, Any]:
    write_json(damage_path(run, summary["candidate"]), summary)
    write_page(damage_path(run, summary["candidate"], ".html"), summary)
    return summary


def _load(run: RunRecord, variant: Variant, chosen: Chosen) -> "tuple[Hybrid, int, bool]":
    """Load both models; return them, the bytes of the candidate's weights, and whether answers are given in full."""
    from harness.damage.hybrid import Hybrid
    from harness.models import loading

    experiment, sampling = run.experiment, run.experiment.sampling
    device = resolve_device(experiment.execution.device)
    dtype = str(run.identities[experiment.baseline.name]["proof"]["compute_dtype"])
    if device == "cpu":
        settle_threads(dtype, experiment.execution.threads)
    folder = files_of(experiment.baseline, None)
    baseline, candidate = (
        loading.load(one, place, device=device, dtype=dtype, attention=experiment.execution.attention)
        for one, place in ((experiment.baseline, folder), (variant, files_of(variant, folder)))
    )
    items = (*chosen.lost, *chosen.kept)
    known = _tokens(run, experiment.baseline.name, candidate.proof.end_tokens)
    answers = {one.id: known[one.id] for one in items if one.id in known}
    longest = sorted(map(len, answers.values()))[len(answers) // 2] if answers else 0
    slow = sampling.temperature > 0 or sampling.samples > 1 or longest > LONGEST
    settings = Settings(sampling.temperature, sampling.top_p, sampling.samples, experiment.seed)
    hybrid = Hybrid(candidate, baseline, items, answers, settings, thinking=sampling.marks, word_by_word=slow)
    return hybrid, baseline.proof.weight_bytes - sum(hybrid.sizes.values()), slow


def _tokens(run: RunRecord, name: str, end_tokens: Sequence[int] = ()) -> dict[str, tuple[int, ...]]:
    """Return the tokens of a variant's answers in text, by item id, with the end token if they ended with it."""
    texts = (one for one in (one.response for one in run.of(name)) if isinstance(one, Generation) and one.sample == 0)
    return {one.item_id: (*one.token_ids, *(end_tokens[:1] if one.finish == "eos" else ())) for one in texts}


def _summary(
    run: RunRecord, name: str, strata: list[str], chosen: Chosen, sizes: Sizes, found: Found, whole: int, most: int
) -> dict[str, Any]:
    step = found.chosen(most)
    size = step.bytes if step else 0
    null = {"net": [one.net for one in found.null], "p": null_share(step.counts, found.null) if step else None}
    rivals = {"by-divergence": list(found.by_divergence(sizes, size)), "random": list(random_set(sizes, size, -1))}
    asked = {"lost": len(chosen.lost), "kept": len(chosen.kept)}
    figures = {"divergence": found.kl, "everything": found.everything.record(), "groups": found.ranked()}
    figures |= {"unasked": found.unasked, "frontier": [one.record() for one in found.steps], "null": null}
    figures |= {"run": run.experiment.name, "baseline": run.experiment.baseline.name, "candidate": name}
    figures |= {"strata": strata, "asked": asked | {"lost_again": len(found.lost), "kept_again": len(found.kept)}}
    figures |= {"bytes": {"candidate": whole, "restorable": sum(sizes.values()), "limit": most}}
    figures |= {"chosen": None if step is None else found.steps.index(step)}
    sets = {"repaired": list(step.modules) if step else [], **rivals}
    return figures | {"sets": sets, "seconds": round(found.seconds, 1)}


def check_bits(variant: Variant, bits: int | None) -> None:
    """Raise UsageError if the variant's method cannot keep single modules at so many bits."""
    method = METHODS[variant.quantization.method]
    if bits is not None and bits not in method.module_bits:
        text = f"{variant.name}: {method.name} cannot keep single modules at {bits} bits"
        known, able = sorted(method.module_bits), [one.name for one in METHODS.values() if one.module_bits]
        remedy = f"give one of {known}" if known else "leave the bits out"
        raise UsageError(f"{text}: {remedy} (methods with bits per module: {', '.join(able)})")


def repair(
    run: RunRecord, judgement: Judgement, summary: dict[str, Any], progress: Reporter, *, command: str, bits: int | None
) -> tuple[dict[str, Any], int]:
    """Gate the chosen set on held-out items; return the summary with what came of it, and the exit code.

    bits: gate the set at so many bits per weight, too; if that passes, it is the variant that is written.
    Raises UsageError if the method quantizes before it loads, NotComparable if the search chose nothing.
    """
    name = summary["candidate"]
    variant, _ = lost_variant(run, judgement, name)
    sets: Sets = summary["sets"]
    if not sets["repaired"]:
        raise NotComparable(f"{name}: the search found no set that wins items back: there is nothing to prove")
    if "skip_modules" not in METHODS[variant.quantization.method].options:
        text = f"{name}: {variant.quantization.method} takes no skip_modules, so no variant can be made of it here"
        raise UsageError(f"{text}; quantize it again without the modules of `chosen` in {damage_path(run, name)}")
    # The variants in which the chosen set is kept, the simplest first, and those of other sets of its size.
    cures = [skipping(variant, "repaired", sets["repaired"])]
    cures += [] if bits is None else [keeping(variant, f"repaired-{bits}bit", sets["repaired"], bits)]
    same = {"repaired", "by-divergence" if sets["by-divergence"] == sets["repaired"] else ""}
    others = [skipping(variant, how, modules) for how, modules in sets.items() if how not in same]
    plan, shared = held_out(run, summary, [variant, *cures, *others])
    label = f"repair-{name}" if bits is None else f"repair-{name}-{bits}bit"
    directory = RunDir(run.directory.path / label)
    if directory.exists() and directory.plan()["config_digest"] != (own := plan.experiment.digest()):
        directory = RunDir(run.directory.path / f"{label}-{own}")  # that one is the proof of other modules
    runner.run(plan, directory, Shard(), progress, command=command)
    proof = load_run(directory)
    judged = judging.judge(proof)
    judging.write(directory, judged)
    report.write(directory.path, judged, run_evidence.evidence(proof, judged))
    summary = _written(run, summary | {"held_out": _held_out(proof, judged, name, shared) | {"module_bits": bits}})
    verdicts = {one.name: one.verdict for one in judged.candidates}
    cure = next((one for one in reversed(cures) if verdicts[one.name] == "pass"), cures[0])
    text = f"{_ONLY_LOST}{yaml.safe_dump({'candidates': [_entry(cure, run.experiment.baseline)]}, sort_keys=False)}"
    atomic_write(run.directory.path / f"{label}.yaml", text)
    undecided = ExitCode.FAIL if run.experiment.policy.inconclusive == "fail" else ExitCode.INCONCLUSIVE
    return summary, _EXIT_CODES.get(verdicts[cure.name], undecided)


def _entry(cure: Variant, baseline: Variant) -> dict[str, Any]:
    """Return a variant as a candidate of a config, which inherits the baseline's weights if they are its own."""
    own, shared = (one.model_dump(include=_WEIGHTS, exclude_none=True) for one in (cure, baseline))
    entry = cure.model_dump(mode="json", exclude_defaults=True, exclude_none=True, exclude=_WEIGHTS)
    return {"name": cure.name, **({} if own == shared else own), **entry}


def skipping(variant: Variant, how: str, modules: Sequence[str]) -> Variant:
    """Return the variant that leaves these modules alone, besides those that it left alone before."""
    return _changed(variant, how, skip_modules=(*(variant.quantization.skip_modules or ()), *modules))


def keeping(variant: Variant, how: str, modules: Sequence[str], bits: int) -> Variant:
    """Return the variant that has these modules at so many bits per weight."""
    others = {name: one for name, one in (variant.quantization.module_bits or {}).items() if name not in modules}
    return _changed(variant, how, module_bits=others | dict.fromkeys(modules, bits))  # the last match wins


def _changed(variant: Variant, how: str, **more: Any) -> Variant:
    changes = {"name": f"{variant.name}-{how}", "quantization": variant.quantization.model_copy(update=more)}
    return variant.model_copy(update={**changes, "allow_partial": True})


def held_out(run: RunRecord, summary: Mapping[str, Any], variants: Sequence[Variant]) -> tuple[run_plan.Plan, int]:
    """Plan a run over the failing strata, of another seed; return it, and how many items were left out as seen."""
    name, strata = summary["candidate"], summary["strata"]
    failing = [one for one in run.items if f"{one.slice}/{one.stratum}" in strata]
    asked = [(spec, [one for one in failing if one.slice == spec.key]) for spec in run.experiment.slices]
    changes: dict[str, Any] = {"slices": tuple(_narrowed(spec, own) for spec, own in asked if own)}
    changes |= {"execution": run.experiment.execution.model_copy(update={"control": False, "layers": None})}
    changes |= {"description": f"{name} of {run.experiment.name} with modules left alone: held-out items"}
    changes |= {"name": f"repair-{name}", "candidates": tuple(variants), "seed": run.experiment.seed + SEED}
    experiment = Experiment.model_validate(run.experiment.model_copy(update=changes).model_dump(mode="json"))
    made = run_plan.make_plan(experiment, str(run.directory.path / "run.json"), check=False)
    drawn = [one for one in made.items if f"{one.slice}/{one.stratum}" in strata]
    items = unseen(drawn, run.items)
    units = tuple(plan_units(items, experiment.execution.unit_items, experiment.execution.looks))
    return dataclasses.replace(made, items=items, units=units), len(drawn) - len(items)


def unseen(drawn: Sequence[Item], asked: Sequence[Item]) -> tuple[Item, ...]:
    """Return the items that were not asked, also where texts are gone. Raises NotComparable if there is none."""
    seen, gone = {(one.prompt, one.choices) for one in asked}, {one.id: one for one in asked if one.asked}
    items = tuple(one for one in drawn if (one.prompt, one.choices) not in seen and not _same(gone.get(one.id), one))
    if not items:
        raise NotComparable("all items of the failing strata were in the run: there are none that the search never saw")
    return items


def _same(known: Item | None, drawn: Item) -> bool:
    """Whether an item is what was asked where texts were not kept; its chance and source are those of its sample."""
    texts = {name: getattr(drawn, name) for name in ("prompt", "choices", "target", "doc")}
    return known is not None and dataclasses.replace(known, **texts, asked="").digest() == known.asked


def _narrowed(spec: SliceSpec, own: Sequence[Item]) -> SliceSpec:
    """Return the slice with only those levels of its axes that its failing items have."""
    failing = {axis: {item.levels.get(axis) for item in own} for axis in spec.axes}
    axes = {axis: tuple(one for one in spec.axes[axis] if level_text(one) in bad) for axis, bad in failing.items()}
    return spec.model_copy(update={"axes": {axis: levels for axis, levels in axes.items() if levels}})


def _held_out(proof: RunRecord, judged: Judgement, name: str, shared: int) -> dict[str, Any]:
    """Count what each variant won back of the held-out items that the damaged candidate lost. Raises NotComparable."""
    needed, sides = (proof.experiment.baseline.name, name, f"{name}-repaired"), judged.candidates
    left_out = [{"name": one.name, "verdict": one.verdict, "reason": one.reasons[0]} for one in sides if not one.strata]
    for one in (one for one in left_out if one["name"] in needed):
        raise NotComparable(f"{proof.directory.path}: {one['name']} was not judged: {one['reason']}")
    scores = {one: mean_scores(proof, one) for one in (needed[0], *(one.name for one in sides if one.strata))}
    before, damaged, chosen = map(scores.__getitem__, needed)
    items = [one for one in before if all(one in own for own in scores.values())]
    lost = [one for one in items if damaged[one] < before[one]]
    kept = [one for one in items if damaged[one] >= before[one] > 0]
    weights, rows = {one: proof.identities[one]["proof"]["weight_bytes"] for one in scores}, []
    for candidate in (one for one in sides if one.strata):
        own = scores[candidate.name]
        back = [own[one] >= before[one] for one in lost]
        rate = event_rate(back, alpha=ALPHA) if back else None
        worse, better = (sum(a[one] < b[one] for one in items) for a, b in ((chosen, own), (own, chosen)))
        row: dict[str, Any] = {"name": candidate.name, "verdict": candidate.verdict, "bytes": weights[candidate.name]}
        row |= {"more": row["bytes"] / weights[name] - 1, "score": sum(own[one] for one in items) / len(items)}
        row |= {"won": sum(back), "newly_lost": sum(own[one] < before[one] for one in kept)}
        row |= {"low": None if rate is None else rate.low, "high": None if rate is None else rate.high}
        rows.append(row | {"p_repaired_better": mcnemar_midp(worse, better)[1]})  # one-sided, of 'it is no better'
    figures = {"lost": len(lost), "baseline_score": sum(before[one] for one in items) / len(items)}
    return {"items": len(items), "seen_before": shared, **figures, "variants": rows + left_out}
