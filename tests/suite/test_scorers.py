"""A run is not continued by a quantcliff that scores otherwise: one side would have the old scores, one the new."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from harness.errors import StoreError
from harness.records import Item
from harness.store.rundir import SCORERS, RunDir, Shard
from harness.store.units import Unit

KNOWN = (4, "56062c262114141f")
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
    with pytest.raises(StoreError, match="was made by another version of quantcliff: it can be judged"):
        begin()
    (run.path / "run.json").write_text(json.dumps({key: one for key, one in there.items() if key != "scorers"}))
    begin()
