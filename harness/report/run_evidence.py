"""Gathers from a run what reports show besides the verdict: flips, tail events, divergence, costs, provenance.

Needs the files and no model. It judges nothing.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import UsageError
from harness.judge.signals import control_items
from harness.judge.verdicts import Judgement
from harness.records import Item, Scored
from harness.report import answer_pairs, divergence_evidence
from harness.report.blocks.behaviour import churn
from harness.report.blocks.latency import latency_rows
from harness.report.evidence import Evidence, ScoringRow
from harness.run.planning import power_table
from harness.store.divergence import divergences
from harness.store.files import read_json
from harness.store.record import CONTROL, RunRecord, variant_names
from harness.store.rundir import RunDir

__all__ = ["Sides", "both_answers", "circumstances", "evidence", "scoring_rows"]

FLIPS_SHOWN = 2000
"""Pairs that a report carries at most, over all candidates."""


def evidence(run: RunRecord, judgement: Judgement) -> Evidence:
    """Gather what reports show besides the verdict."""
    directory, names = run.directory, variant_names(run.experiment)
    sides = _both_sides(run, [one.name for one in judgement.candidates])
    flips = [flip for name, pair in sides.items() for flip in answer_pairs.flips(run.items, *pair, name)]
    answered = sum(len({one.item_id for one in run.of(name)}) for name in names)
    diverged = {name: divergences(directory, name, run.plan["shards"]) for name in names}
    return Evidence(
        name=run.experiment.name,
        path=str(directory.path),
        description=run.experiment.description,
        notes=(
            *run.experiment.notes,
            *_notes(run, names),
            *(f"{name}: no divergence was measured: {why}" for name, (_, said) in diverged.items() for why in said),
        ),
        costs={name: _cost(run, name) for name in names},
        proofs={name: one["proof"] for name, one in run.identities.items()},
        provenance={**judgement.provenance, **circumstances(run)},
        flips=tuple(flips[:FLIPS_SHOWN]),
        flips_left_out=max(0, len(flips) - FLIPS_SHOWN),
        tail_events=tuple(
            event for name, pair in sides.items() for event in answer_pairs.events(run.items, *pair, name)
        ),
        churn=tuple(row for name, pair in sides.items() for row in churn(run.items, *pair, name)),
        divergence=divergence_evidence.rows(
            run.items, {name: found for name, (found, _) in diverged.items() if found}, control=CONTROL
        ),
        scoring=scoring_rows(run, names),
        latency=latency_rows(run, names),
        store_text=run.experiment.store_text,
        erased=len(run.erased),
        power=tuple(power_table(run.experiment, run.items)),
        items_spent=answered,
        items_planned=sum(_planned(run, name) for name in names),
    )


def scoring_rows(run: RunRecord, names: Sequence[str]) -> tuple[ScoringRow, ...]:
    """Return what scoring met, of each variant with a thinking part or a limit of scoring in any answer."""
    rows = []
    for name in names:
        metrics = [one.metrics for one in run.of(name)]
        thinking = [one["thinking_characters"] for one in metrics if "thinking_characters" in one]
        limited = sum("scoring_limit" in one for one in metrics)
        if thinking or limited:
            mean = math.fsum(thinking) / len(thinking) if thinking else None
            rows.append(ScoringRow(name, len(metrics), len(thinking), mean, limited))
    return tuple(rows)


def _planned(run: RunRecord, name: str) -> int:
    """Return the items that a variant is asked if nothing is decided early."""
    share = run.experiment.execution.control
    return len(run.items) if name != CONTROL or isinstance(share, bool) else len(control_items(run.items, share))


def _both_sides(run: RunRecord, names: Sequence[str]) -> dict[str, tuple[list[Scored], list[Scored]]]:
    """Return each candidate's name to the baseline's answers and its own."""
    baseline = run.of(run.experiment.baseline.name)
    return {name: (baseline, run.of(name)) for name in names}


def _isolation(finished: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return how generated code was sandboxed, by language; of several shards, each way once."""
    ways: dict[str, list[str]] = defaultdict(list)
    for shard in finished:
        for language, one in shard.get("generated_code", {}).items():
            text = f"{', '.join(one['layers'])}; network: {one['network']}; files: {one['files']}"
            ways[language] += [text] if text not in ways[language] else []
    return {"sandbox of generated code": {name: " | ".join(own) for name, own in ways.items()}} if ways else {}


def _versions(known: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """Return the version of each package that any variant used; all of them if variants differ."""
    packages = dict.fromkeys(name for one in known for name in one)
    return {name: ", ".join(dict.fromkeys(one[name] for one in known if name in one)) for name in packages}


def circumstances(run: RunRecord) -> dict[str, Any]:
    """Return how the figures came about: command, devices, settings. Not in the judgement, as these may differ."""
    experiment, identities = run.experiment, run.identities
    finished = [run.shards[name] for name in sorted(run.shards)]
    return {
        "command": list(dict.fromkeys(one["command"] for one in finished if one.get("command"))),
        "shards": run.plan["shards"],
        **_isolation(finished),
        "devices": {name: one["device"] for name, one in identities.items()},
        "engines": {name: one["engine"] for name, one in identities.items()},
        "versions": _versions([one["versions"] for one in identities.values()]),
        "dtype": {one.name: experiment.compute_dtype(one) for one in experiment.variants if one.engine.here},
        "quantization": {one.name: one.quantization.method for one in experiment.candidates},
        "models": {one.name: " ".join(filter(None, (one.model, one.revision))) for one in experiment.variants},
        "sampling": experiment.sampling.model_dump(mode="json", exclude_none=True),
        "looks": experiment.execution.looks,
        "store_text": experiment.store_text,
    }


def _notes(run: RunRecord, names: Sequence[str]) -> list[str]:
    """Return the notes of loading and answering, by variant."""
    notes: dict[str, None] = {}
    for name in names:
        said = list(run.identities[name]["proof"]["notes"]) if name in run.identities else []
        said += [note for path in _cost_files(run.directory, name) for note in read_json(path).get("notes", ())]
        notes |= dict.fromkeys(f"{name}: {note}" for note in said)
    return list(notes)


def _cost_files(directory: RunDir, name: str) -> list[Path]:
    return sorted((directory.path / name).glob("cost-*.json"))


def _cost(run: RunRecord, name: str) -> dict[str, Any]:
    """Add up what a variant cost over its units and shards."""
    timings = run.directory.timings(name)
    files = [read_json(path) for path in _cost_files(run.directory, name)]
    record = run.identities.get(name)
    seconds = math.fsum(one.seconds for one in timings)
    tokens = sum(one.prompt_tokens + one.output_tokens for one in timings)
    cost: dict[str, Any] = {"seconds": round(seconds, 3), "tokens": tokens}
    if seconds > 0:
        cost["tokens_per_second"] = round(tokens / seconds, 1)
    if files:
        cost["load_seconds"] = max(one["load_seconds"] for one in files)
        cost["peak_bytes"] = max(one["peak_bytes"] for one in files)
        cost["device"] = files[0]["device"]
    if record:
        cost["weight_bytes"] = record["proof"]["weight_bytes"]
        cost["disk_bytes"] = record["proof"]["disk_bytes"]
    return cost


@dataclass(frozen=True, slots=True)
class Sides:
    """Both answers to one item."""

    candidate: str
    """The candidate's name."""
    baseline_answer: Scored
    """The baseline's answer and its score."""
    candidate_answer: Scored
    """The candidate's."""


def both_answers(run: RunRecord, item_id: str, candidate: str | None = None) -> Iterator[tuple[Item, Sides]]:
    """Return both answers to an item, for one candidate or all. Raises UsageError if there is no such item."""
    item = _find_item(run, item_id)
    names = [one.name for one in run.experiment.candidates]
    if candidate is not None and candidate not in names:
        raise UsageError(f"{candidate!r} is not a candidate of this run: {', '.join(names)}")
    base = _first(run, run.experiment.baseline.name, item)
    for name in names if candidate is None else [candidate]:
        side = _first(run, name, item)
        if base is not None and side is not None:
            yield item, Sides(name, base, side)


def _find_item(run: RunRecord, item_id: str) -> Item:
    exact = [item for item in run.items if item.id == item_id]
    found = exact or [item for item in run.items if item_id in item.id]
    if not found:
        raise UsageError(f"{item_id!r} is not an item of this run; {run.directory.path / 'items'} has their ids")
    if len(found) > 1:
        some = ", ".join(item.id for item in found[:4])
        raise UsageError(f"{item_id!r} matches {len(found)} items ({some} ...): give the whole id")
    return found[0]


def _first(run: RunRecord, variant: str, item: Item) -> Scored | None:
    return next((one for one in run.of(variant) if one.item_id == item.id and one.response.sample == 0), None)
