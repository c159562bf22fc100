"""A run is not continued by a quantcliff that scores otherwise: one side would have the old scores, one the new."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from harness.errors import StoreError
from harness.records import Item
from harness.store.rundir import SCORERS, RunDir, Shard
from harness.store.units import Unit
from harness.suite import tasks

KNOWN = (14, "d891fde59b6a285a")
"""The number of the scorers and what their files held. If only the files changed, and any answer may get another score,
raise `SCORERS` in harness/store/rundir.py; else write the new digest here."""
CODE = ("scorer.py", "letter.txt", "code.py", "toolkit", "sandbox")


def scoring_files(repository: Path) -> list[Path]:
    """The files that decide what an answer scores: the package's own, and the tasks'."""
    places = [repository / "harness" / "suite" / name for name in CODE] + [repository / "tasks"]
    files = [path for place in places for path in ([place] if place.is_file() else place.rglob("*"))]
    return sorted(
        path for path in files if path.is_file() and path.suffix in {".py", ".txt", ".toml", ".tsv", ".js", ".yaml"}
    )


def test_a_change_of_the_scorers_is_a_new_number(repository: Path) -> None:
    """A mend of a scorer changes scores of the same answers."""
    found = hashlib.sha256(b"".join(path.read_bytes() for path in scoring_files(repository)))
    assert (SCORERS, found.hexdigest()[:16]) == KNOWN


def test_a_run_of_other_scorers_is_not_continued(tmp_path: Path) -> None:
    """It can be judged, and its message says so; a run that does not say its scorers is continued."""
    fixed = {"task": "t", "levels": {}, "stratum": "all", "cluster": "a"}
    item = Item(id="s/a", slice="s", kind="generate", prompt="Well?", max_tokens=4, **fixed)
    units, run = [Unit(0, "s", 1, (item,))], RunDir(tmp_path / "run")

    def begin() -> None:
        told = dict.fromkeys(("config_digest", "items_digest", "device"), "cpu")
        run.begin({"config": {}, "slices": ["s"], "items": 1, **told}, [item], Shard(), units)

    begin()
    begin()
    there = json.loads((run.path / "run.json").read_text())
    (run.path / "run.json").write_text(json.dumps(there | {"scorers": SCORERS + 1}))
    with pytest.raises(
        StoreError, match="was made by another version of quantcliff, lm_eval or a task: it can be judged"
    ):
        begin()
    (run.path / "run.json").write_text(json.dumps({key: one for key, one in there.items() if key != "scorers"}))
    begin()


def test_a_run_is_not_continued_with_another_scorer_of_a_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder of a task may be the user's, and lm_eval has versions: one side would be scored by each."""
    task = tmp_path / "own.yaml"
    for name in ("own.yaml", "score.py"):
        (tmp_path / name).write_text("1")
    found = SimpleNamespace(task_index={"own": SimpleNamespace(yaml_path=str(task))})
    monkeypatch.setattr(tasks, "index", lambda **_: found)
    before = tasks.scored_by(["own", "arc_easy"])
    (tmp_path / "notes.md").write_text("2")
    assert tasks.scored_by(["arc_easy", "own"]) == before
    (tmp_path / "score.py").write_text("2")
    assert tasks.scored_by(["own"]) != before
    (tmp_path / "score.py").write_text("1")
    monkeypatch.setattr(tasks, "version", lambda _: "0.1")
    assert tasks.scored_by(["own"]) != before
    begin = RunDir(tmp_path / "run").begin
    told = {"config": {}, "slices": [], "items": 0, **dict.fromkeys(("config_digest", "items_digest", "device"), "cpu")}
    begin(told, [], Shard(), [])
    begin(told | {"scored_by": before}, [], Shard(), [])  # an older run, which does not say it
    written = json.loads((tmp_path / "run" / "run.json").read_text())
    (tmp_path / "run" / "run.json").write_text(json.dumps(written | {"scored_by": "other"}))
    with pytest.raises(StoreError, match="lm_eval or a task: it can be judged but not continued"):
        begin(told | {"scored_by": before}, [], Shard(), [])
