"""The comparison with other gates: what each says of known counts, and the committed table."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import pytest
from paths import SCRIPTS

sys.path.insert(0, str(SCRIPTS))

import compare_gates
import nel_gate


@pytest.mark.parametrize(
    ("gate", "counts", "word"),
    [
        ("quantcliff", (0, 0, 20), "undecided"),
        ("quantcliff", (50, 50, 1000), "pass"),
        ("tolerance .08", (72, 0, 1000), "pass"),
        ("tolerance .08", (73, 0, 1000), "fail"),
        ("recovery .95", (45, 0, 1000), "pass"),
        ("recovery .95", (46, 0, 1000), "fail"),
        ("McNemar", (5, 0, 50), "pass"),
        ("McNemar", (6, 0, 50), "fail"),
        ("McNemar", (0, 40, 500), "pass"),
    ],
)
def test_each_gate_says_what_it_would_say(gate: str, counts: tuple[int, int, int], word: str):
    """Counts on both sides of each gate's line."""
    assert compare_gates.GATES[gate](*counts) == word


def test_the_committed_table_is_made_by_the_script(repository: Path):
    """Each cell of the gates that run here comes out again; the page shows the table; quantcliff's errors hold."""
    folder = repository / "results" / "gates"
    with (folder / "gates.csv").open(newline="", encoding="utf-8") as file:
        records = list(csv.DictReader(file))
    assert {one["gate"] for one in records} == {*compare_gates.GATES, "nel gate"}
    rows = [{**one, "n": int(one["n"]), "flips": float(one["flips"]), "loss": float(one["loss"])} for one in records]
    assert "\n".join(compare_gates.table(rows)) in (folder / "README.md").read_text(encoding="utf-8")
    for n, flips, loss in ((200, 0.1, 0.05), (50, 0.02, 0.1)):
        drawn = compare_gates.draws(n, flips, loss, 2000)
        for name in ("recovery .95", "quantcliff"):
            (row,) = [r for r in rows if (r["gate"], r["n"], r["flips"], r["loss"]) == (name, n, flips, loss)]
            words = [compare_gates.GATES[name](int(lost), int(gained), n) for lost, gained in drawn]
            assert words.count("pass") / 2000 == float(row["pass"])
    assert all(float(one["wrong"]) <= 0.065 for one in records if one["gate"] == "quantcliff")


def test_without_a_newer_python_the_column_is_left_out(tmp_path: Path, capsys, monkeypatch):
    """No interpreter that fits: it says so, makes no environment, and invents nothing."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    assert nel_gate.environment(tmp_path / "env") is None
    assert "nel gate is left out" in capsys.readouterr().out
    assert not (tmp_path / "env").exists()
