"""The demo's gate, replayed from its recorded answers as the runner would have asked them with ten looks."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from harness.config.loading import load
from harness.judge import judging
from harness.store.record import RunRecord, read_run
from harness.store.rundir import RunDir
from harness.store.units import plan_units


def replayed(run: RunRecord, config: Path) -> tuple[RunRecord, dict[str, int]]:
    """A run that asks what `config` asks, with recorded answers; and how many answers each variant gave."""
    experiment = load(config)
    slices = {spec.key for spec in experiment.slices}
    items = tuple(item for item in run.items if item.slice in slices)
    looks = experiment.execution.looks
    units = plan_units(items, experiment.execution.unit_items, looks)
    look_of = {item.id: unit.look for unit in units for item in unit.items}
    names = [one.name for one in experiment.variants]
    asked = {name: {one for one, look in look_of.items() if look == 1} for name in names}

    def so_far() -> RunRecord:
        skipped = {
            name: [unit.index for unit in units if any(item.id not in asked[name] for item in unit.items)]
            for name in names
        }
        answers = {
            name: {path: tuple(one for one in lines if one.item_id in asked[name]) for path, lines in files.items()}
            for name, files in run.answers.items()
            if name in names
        }
        unit_of = {item.id: unit.index for unit in units for item in unit.items}
        shards = {"1of1": {"skipped": skipped}}
        changes = {"items": items, "look_of": look_of, "unit_of": unit_of, "answers": answers, "shards": shards}
        return dataclasses.replace(run, experiment=experiment, **changes)

    for look in range(1, looks):
        needs = judging.undecided(so_far(), look)
        everyone = set().union(*needs.values())
        for name in names:
            wanted = needs.get(name, everyone)
            asked[name] |= {
                item.id for item in items if look_of[item.id] == look + 1 and (item.slice, item.stratum) in wanted
            }
    return so_far(), {name: len(found) for name, found in asked.items()}


def test_the_demos_gate_decides_with_less_than_half_of_its_answers(repository: Path):
    """configs/half.yaml: the demo's verdicts and margins, from 168 of the 360 answers of the candidates."""
    folder = repository / "results" / "demo-cpu"
    run, asked = replayed(read_run(RunDir(folder)), repository / "configs" / "half.yaml")
    found = judging.judge(run)
    told = json.loads((folder / "verdict.json").read_text(encoding="utf-8"))
    assert {one.name: one.verdict for one in found.candidates} == {
        one["name"]: one["verdict"] for one in told["candidates"]
    }
    fixed = sum(item.slice in {"long_context", "typical"} for item in run.items) * len(found.candidates)
    spent = asked["int8"] + asked["nf4"]
    assert (spent, fixed) == (168, 360)
    text = (repository / "docs" / "verdict.md").read_text(encoding="utf-8")
    assert f"from {spent} of the {fixed} answers" in text
