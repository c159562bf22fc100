"""The committed run of configs/half.yaml: the demo's verdicts from less than half of the planned answers."""

from __future__ import annotations

from pathlib import Path

from harness.judge import judging
from harness.store.record import read_run
from harness.store.rundir import RunDir


def test_ten_looks_decide_the_demos_slices_with_less_than_half_of_the_answers(repository: Path):
    """Judged again, the verdicts are those of the demo, and docs/verdict.md gives the counts."""
    run = read_run(RunDir(repository / "results" / "half"))
    assert {one.name: one.verdict for one in judging.judge(run).candidates} == {"int8": "pass", "nf4": "fail"}
    asked = {name: sum(len(lines) for lines in files.values()) for name, files in run.answers.items()}
    planned = len(run.items)
    assert asked["int8"] + asked["nf4"] < planned  # half of two candidates' plans
    text = (repository / "docs" / "verdict.md").read_text(encoding="utf-8")
    for name, count in asked.items():
        assert f"{name} after {count} of {planned}" in text
