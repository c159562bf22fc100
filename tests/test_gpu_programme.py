"""The programme for a first GPU: it runs with tiny sizes anywhere, and a killed call loses only its last row."""

from __future__ import annotations

import sys

import pytest
from lazily import lazy
from paths import SCRIPTS

sys.path.insert(0, str(SCRIPTS))

import gpu_programme

gpu_log = lazy("gpu.log")
torch = lazy("torch")


def test_a_row_is_measured_once(tmp_path):
    """A row that is there is kept, one that failed or was cut off is measured again; settings are not mixed."""

    def log(setting, minutes=1.0):
        return gpu_log.Log(tmp_path, "part", "cpu", {"device": setting}, minutes)

    def failing():
        raise RuntimeError("no kernel\nmore")

    first = log("one")
    first.measure("a", lambda: {"ms": 1})
    first.measure("b", failing)
    assert first.failed()
    assert first.rows["b"]["found"] == {"failed": "RuntimeError: no kernel"}
    first.measure("c", lambda: {"ms": 3})
    text = first.path.read_text()
    first.path.write_text(text[:-20])  # killed while it wrote
    again = log("one")
    assert list(again.rows) == ["a", "b"]
    for name, value in (("a", 10), ("b", 20), ("c", 30)):
        again.measure(name, lambda value=value: {"ms": value})
    assert {name: row["found"]["ms"] for name, row in again.rows.items()} == {"a": 1, "b": 20, "c": 30}
    assert not again.failed()
    assert again.table().splitlines()[-1].split() == ["c", "30"]
    other = log("two", minutes=0)
    other.measure("a", lambda: {"ms": 5})
    assert not other.rows
    assert other.table().endswith("no time was left for 1: give the same command again")


@pytest.mark.slow
def test_the_shape_part_runs_with_tiny_sizes(tmp_path, capsys, one_thread):
    """All cases are measured, the table comes last, and the second call measures nothing."""
    command = ["shape", "--device", "cpu", "--tiny", "--out", str(tmp_path), "--ways", "default,eager"]
    assert gpu_programme.main(command) == 0
    said = capsys.readouterr().out
    names = [line.split("  ")[0] for line in said[said.index("\n\n") :].splitlines()]
    for name in ("ceilings", "decode 4x96 eager", "shared 3 on 400 default", "divergence eager", "decode 4x96 sampled"):
        assert name in names
    rows = (tmp_path / "shape.jsonl").read_text()
    assert gpu_programme.main(command) == 0
    assert (tmp_path / "shape.jsonl").read_text() == rows


@pytest.mark.parametrize("text", ["64x2048,4x32768", "1x1"])
def test_sizes_are_read(text):
    """Rows and tokens."""
    assert ",".join(f"{one}x{other}" for one, other in gpu_programme.pairs(text)) == text
