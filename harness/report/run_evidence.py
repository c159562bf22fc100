"""Gathers from a run what reports show besides the verdict: flips, tail events, divergence, costs, provenance."""

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from harness.errors import UsageError
from harness.judge.judging import layers_of
from harness.judge.layers import sentences
from harness.judge.signals import control_items
from harness.judge.verdicts import Judgement
from harness.records import Item, Scored
from harness.report import answers
from harness.report.blocks.behaviour import divergence_rows, latency_rows, shares
from harness.report.evidence import Evidence
from harness.store.divergence import divergences
from harness.store.files import read_json
from harness.store.record import CONTROL, RunRecord, variant_names

FLIPS_SHOWN = 2000  # pairs that a report carries at most, over all candidates


def evidence(run: RunRecord, judgement: Judgement) -> Evidence:
    """Gather what reports show besides the verdict."""
    names, baseline = variant_names(run.experiment), run.of(run.experiment.baseline.name)
    files = {own: [read_json(one) for one in sorted((run.directory.path / own).glob("cost-*.json"))] for own in names}
    sides = [(run.items, baseline, run.of(one.name), one.name) for one in judgement.candidates]
    flips = [flip for side in sides for flip in answers.flips(*side)]
    diverged = {name: divergences(run.directory, name, run.plan["shards"]) for name in names}
    unmeasured = (f"{name}: no divergence was measured: {why}" for name, (_, said) in diverged.items() for why in said)
    traced = {name: found for name, (found, _) in diverged.items() if found}
    asked = sentences(run.items, layers_of(run), run.experiment.execution.layers)
    share, everything = run.experiment.execution.control, len(run.items)
    control = everything if isinstance(share, bool) else len(control_items(run.items, share))
    return Evidence(
        *(run.experiment.name, str(run.directory.path), run.experiment.description),
        notes=(*run.experiment.notes, *_notes(run, files), *unmeasured, *asked),
        costs={name: _cost(run, name, own) for name, own in files.items()},
        proofs={name: one["proof"] for name, one in run.identities.items()},
        provenance={**judgement.provenance, **circumstances(run)},
        flips=tuple(flips[:FLIPS_SHOWN]),
        flips_left_out=max(0, len(flips) - FLIPS_SHOWN),
        tail_events=tuple(event for side in sides for event in answers.events(*side)),
        shares=tuple(shares(run.items, {name: run.of(name) for name in names if name != CONTROL})),
        divergence=divergence_rows(run.items, traced, control=CONTROL),
        latency=tuple(latency_rows(run, names)),
        store_text=run.experiment.store_text,
        erased=len(run.erased),
        items_spent=sum(len({one.item_id for one in run.of(name)}) for name in names),
        items_planned=sum(control if name == CONTROL else everything for name in names),
    )


def circumstances(run: RunRecord) -> dict[str, Any]:
    """Return how the figures came about: command, devices, settings. Not in the judgement, as these may differ."""
    experiment, identities = run.experiment, run.identities
    finished = [run.shards[name] for name in sorted(run.shards)]
    isolation, versions = defaultdict[str, dict[str, None]](dict), defaultdict[str, dict[str, None]](dict)
    for language, one in (pair for shard in finished for pair in shard.get("generated_code", {}).items()):
        isolation[language][f"{', '.join(one['layers'])}; network: {one['network']}; files: {one['files']}"] = None
    for package, version in (pair for one in identities.values() for pair in one["versions"].items()):
        versions[package][version] = None
    return {
        "command": list(dict.fromkeys(one["command"] for one in finished if one.get("command"))),
        "shards": run.plan["shards"],
        "sandbox of generated code": {language: " | ".join(ways) for language, ways in isolation.items()},
        **{f"{key}s": {name: one[key] for name, one in identities.items()} for key in ("device", "engine")},
        "versions": {package: ", ".join(found) for package, found in versions.items()},
        "dtype": {one.name: experiment.compute_dtype(one) for one in experiment.variants if one.engine.here},
        "quantization": {one.name: one.quantization.method for one in experiment.candidates},
        "models": {one.name: " ".join(filter(None, (one.model, one.revision))) for one in experiment.variants},
        "sampling": experiment.sampling.model_dump(mode="json", exclude_none=True),
        "looks": experiment.execution.looks,
        "store_text": experiment.store_text,
    }


def _notes(run: RunRecord, files: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[str]:
    notes: dict[str, list[str]] = {}
    for name, own in files.items():
        said = list(run.identities[name]["proof"]["notes"]) if name in run.identities else []
        said += [note for one in own for note in one.get("notes", ())]
        if limited := sum("scoring_limit" in one.metrics for one in run.of(name)):
            why = "were too long or too slow to score: they score 0, or by the metrics that were in time"
            said.append(f"{limited:,} of {len(run.of(name)):,} answers {why}")
        notes |= {note: [*notes.get(note, ()), name] for note in said}
    return [f"{', '.join(names)}: {note}" for note, names in notes.items()]


def _cost(run: RunRecord, name: str, files: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    timings = run.directory.timings(name)
    seconds = math.fsum(one.seconds for one in timings)
    tokens = sum(one.prompt_tokens + one.output_tokens for one in timings)
    cost: dict[str, Any] = {"seconds": round(seconds, 3), "tokens": tokens}
    cost |= {"tokens_per_second": round(tokens / seconds, 1)} if seconds > 0 else {}
    if files:
        cost |= {key: max(one[key] for one in files) for key in ("load_seconds", "peak_bytes")}
        cost["device"] = files[0]["device"]
    if record := run.identities.get(name):
        cost |= {key: record["proof"][key] for key in ("weight_bytes", "disk_bytes")}
    return cost


def both_answers(run: RunRecord, item_id: str, which: str | None = None) -> Iterator[tuple[str, Item, Scored, Scored]]:
    """Yield candidate, item and both answers, for one candidate or all. Raises UsageError if there is no such item."""
    found = [item for item in run.items if item.id == item_id] or [item for item in run.items if item_id in item.id]
    if not found:
        raise UsageError(f"{item_id!r} is not an item of this run; {run.directory.path / 'items'} has their ids")
    if len(found) > 1:
        some = ", ".join(item.id for item in found[:4])
        raise UsageError(f"{item_id!r} matches {len(found)} items ({some} ...): give the whole id")
    item, names = found[0], [one.name for one in run.experiment.candidates]
    if which is not None and which not in names:
        raise UsageError(f"{which!r} is not a candidate of this run: {', '.join(names)}")
    for name in names if which is None else [which]:
        variants = (run.experiment.baseline.name, name)
        both = [[one for one in run.of(own) if (one.item_id, one.response.sample) == (item.id, 0)] for own in variants]
        if all(both):
            yield name, item, both[0][0], both[1][0]
