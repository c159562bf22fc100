"""Where a finished run's candidate lost its items: chooses the items, loads both models, searches, and writes it down.

``damage-<candidate>.jsonl`` in the run directory is the journal of the search, ``damage-<candidate>.json`` what it came
to, ``damage-<candidate>.html`` the page.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.config.schema import Variant
from harness.damage.groups import Group, layer_of, random_set
from harness.damage.hybrid import Hybrid
from harness.damage.search import Counts, Found, Journal, null_share, search
from harness.engines.transformers.engine import ENGINE_VERSION
from harness.errors import NotComparable, UsageError
from harness.judge.verdicts import Judgement
from harness.models import loading
from harness.models.devices import resolve_device, settle_threads
from harness.records import Generation, Item, Settings, digest
from harness.report.damage import write_page
from harness.run.plan import files_of
from harness.store.files import write_json
from harness.store.record import RunRecord

__all__ = ["Chosen", "chosen_items", "damage_path", "localize", "lost_variant", "mean_scores"]

LONGEST = 32
"""Tokens: if half of the baseline's answers are longer, items are answered in full instead of read along with them."""

Places = frozenset[tuple[str, str]]


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


@dataclass(frozen=True, slots=True)
class Chosen:
    """The items that are asked."""

    lost: tuple[Item, ...]
    """Those that the baseline got right and the candidate did not, in failing strata."""
    kept: tuple[Item, ...]
    """As many that both got right, first those with the same answer, from failing strata if there are enough."""
    right: Mapping[str, float]
    """Item id to the baseline's score in the run."""


def chosen_items(run: RunRecord, name: str, places: Places) -> Chosen:
    """Choose the items of a search. Raises NotComparable if the run did not keep their texts."""
    before, after = (mean_scores(run, one) for one in (run.experiment.baseline.name, name))
    gating = {spec.key for spec in run.experiment.slices if spec.gating}
    known = [one for one in run.items if before.get(one.id, 0) > max(one.chance, 0) and one.id in after]
    lost = [one for one in known if after[one.id] < before[one.id] and (one.slice, one.stratum) in places]
    kept = [one for one in known if after[one.id] >= before[one.id] and one.slice in gating]
    texts = [_tokens(run, one) for one in (run.experiment.baseline.name, name)]
    differ = {one.id: len({answers.get(one.id) for answers in texts}) > 1 for one in kept}
    seed = run.experiment.seed
    kept.sort(key=lambda one: (differ[one.id], (one.slice, one.stratum) not in places, digest([seed, one.id])))
    chosen = (*lost, *kept[: len(lost)])
    if any(one.asked or one.id in run.erased for one in chosen):
        raise NotComparable(f"{run.directory.path}: did not keep the texts of its items, so they cannot be asked again")
    return Chosen(tuple(lost), tuple(kept[: len(lost)]), {one.id: before[one.id] for one in chosen})


def mean_scores(run: RunRecord, name: str) -> dict[str, float]:
    """Return item id to mean score; an item that went unanswered is absent."""
    found: dict[str, list[float]] = {}
    for one in run.of(name):
        if one.score is not None:
            found.setdefault(one.item_id, []).append(one.score)
    return {name: sum(scores) / len(scores) for name, scores in found.items()}


def localize(
    run: RunRecord, judgement: Judgement, name: str, *, share: float, minutes: float, say: Callable[[str], None]
) -> dict[str, Any]:
    """Search, and write what it came to next to the journal. share: of the candidate's bytes, that may be restored.

    say: called with a sentence for the person who waits. A search that was stopped goes on where it was.
    """
    variant, places = lost_variant(run, judgement, name)
    chosen = chosen_items(run, name, places)
    say(f"loading {run.experiment.baseline.name} and {name}; {len(chosen.lost)} lost items, {len(chosen.kept)} kept")
    hybrid, whole, slow = _load(run, variant, chosen)
    if not hybrid.sizes:
        raise NotComparable(f"{name}: no module differs from the baseline's, so none can be restored")
    most = round(share * whole)
    weights = {one: run.identities[one]["weights"] for one in (run.experiment.baseline.name, name)}
    items = [run.digests[one.id] for one in (*chosen.lost, *chosen.kept)]
    key = digest([items, weights, variant.quantization.model_dump(mode="json"), ENGINE_VERSION, slow, hybrid.sizes])

    def ask(modules: frozenset[str], base: frozenset[str]) -> Any:
        return hybrid.ask(modules, base=base)

    right = {name: score for name, score in chosen.right.items() if hybrid.baseline_scores.get(name, 0.0) >= score}
    kept, seconds = {one.id for one in chosen.kept}, 60 * minutes
    with contextlib.closing(Journal(damage_path(run, name, ".jsonl"), key)) as journal:
        found = search(journal, ask, right, hybrid.sizes, kept=kept, most=most, seconds=seconds, say=say)
    summary = _summary(run, name, places, chosen, hybrid.sizes, found, whole, most) | {"share": share}
    write_json(damage_path(run, name), summary)
    write_page(damage_path(run, name, ".html"), summary)
    return summary


def _load(run: RunRecord, variant: Variant, chosen: Chosen) -> tuple[Hybrid, int, bool]:
    """Load both models; return them, the bytes of the candidate's weights, and whether answers are given in full."""
    experiment = run.experiment
    device = resolve_device(experiment.execution.device)
    baseline_folder = files_of(experiment.baseline, None)
    dtype = str(run.identities[experiment.baseline.name]["proof"]["compute_dtype"])
    if device == "cpu":
        settle_threads(dtype, experiment.execution.threads)
    folders = {experiment.baseline.name: baseline_folder, variant.name: files_of(variant, baseline_folder)}
    baseline, candidate = (
        loading.load(one, folders[one.name], device=device, dtype=dtype, attention=experiment.execution.attention)
        for one in (experiment.baseline, variant)
    )
    items = (*chosen.lost, *chosen.kept)
    sampling = experiment.sampling
    known = _tokens(run, experiment.baseline.name, candidate.proof.end_tokens)
    answers = {one.id: known[one.id] for one in items if one.id in known}
    longest = sorted(map(len, answers.values()))[len(answers) // 2] if answers else 0
    slow = sampling.temperature > 0 or sampling.samples > 1 or longest > LONGEST
    settings = Settings(sampling.temperature, sampling.top_p, sampling.samples, experiment.seed)
    marks = sampling.marks
    hybrid = Hybrid(candidate, baseline, items, answers, settings, thinking=marks, word_by_word=slow)
    return hybrid, baseline.proof.weight_bytes - sum(hybrid.sizes.values()), slow


def _tokens(run: RunRecord, name: str, end_tokens: Sequence[int] = ()) -> dict[str, tuple[int, ...]]:
    """Return the tokens of a variant's answers in text, by item id, with the end token if they ended with it."""
    found: dict[str, tuple[int, ...]] = {}
    for one in run.of(name):
        answer = one.response
        if isinstance(answer, Generation) and answer.sample == 0:
            found[one.item_id] = (*answer.token_ids, *(end_tokens[:1] if answer.finish == "eos" else ()))
    return found


def _summary(
    run: RunRecord, name: str, places: Places, chosen: Chosen, sizes: Mapping[str, int], found: Found, whole: int,
    most: int,
) -> dict[str, Any]:  # fmt: skip
    """Return the search as JSON: what the page and `repair` read."""
    step = found.chosen(most)
    size = step.bytes if step else 0
    return {
        "run": run.experiment.name,
        "baseline": run.experiment.baseline.name,
        "candidate": name,
        "strata": sorted(f"{slice_name}/{stratum}" for slice_name, stratum in places),
        "asked": {"lost": len(chosen.lost), "kept": len(chosen.kept), "lost_again": len(found.lost),
                  "kept_again": len(found.kept)},
        "bytes": {"candidate": whole, "restorable": sum(sizes.values()), "limit": most},
        "divergence": found.kl,
        "everything": found.everything.record(),
        "groups": [_group(*one) for one in sorted(found.groups, key=_rank)],
        "unasked": found.unasked,
        "frontier": [
            {"added": one.name, "bytes": one.bytes, **one.counts.record(), "modules": list(one.modules),
             "alone": one.alone.net, "on_top": one.gain.net}
            for one in found.steps
        ],
        "chosen": None if step is None else found.steps.index(step),
        "null": {"net": [one.net for one in found.null], "p": null_share(step.counts, found.null) if step else None},
        "sets": {
            "repaired": list(step.modules) if step else [],
            "by-divergence": list(found.by_divergence(sizes, size)),
            "random": list(random_set(sizes, size, -1)),
        },
        "seconds": round(found.seconds, 1),
    }  # fmt: skip


def _rank(one: tuple[Group, Counts, float]) -> float:
    group, counts, _ = one
    return -counts.limit("low") / group.bytes


def _group(group: Group, counts: Counts, kl: float) -> dict[str, Any]:
    return {
        "name": group.name,
        "level": group.level,
        "layer": layer_of(group.modules[0]) if group.level in {"layer", "block", "module"} else None,
        "bytes": group.bytes,
        **counts.record(),
        "divergence": kl,
    }
