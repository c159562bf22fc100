"""The engine's benchmark runs from its one command and leaves its table; what it says of itself adds up."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import conftest
import pytest
from lazily import lazy
from paths import SCRIPTS

sys.path.insert(0, str(SCRIPTS))

import bench_engine_report

bench_engine_sides = lazy("bench_engine_sides")


def bench(out: Path, model: Path, *flags: str) -> dict[str, Any]:
    """Run the benchmark's shell command on a CPU, and give what it wrote."""
    done = subprocess.run(
        [
            "bash",
            str(SCRIPTS / "bench_gpu.sh"),
            "--device",
            "cpu",
            "--quick",
            "--turns",
            "1",
            "--threads",
            "1",
            "--model",
            str(model),
            "--data",
            "none",
            *flags,
        ],
        env={**os.environ, "PYTHON": sys.executable, "OUT": str(out), "PYTHONPATH": str(conftest.ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads((out / "cpu.json").read_text(encoding="utf-8"))
    assert done.stdout.splitlines()[-len(found["cases"]) :] == bench_engine_report.table(found).splitlines()[2:]
    assert (out / "cpu.md").read_text(encoding="utf-8") == bench_engine_report.markdown(found)
    return found


@pytest.mark.slow
def test_the_command_leaves_a_table_of_all_cases(tmp_path):
    """Every case is measured on a tiny model: the same answers on both sides, divergence for every item."""
    model = tmp_path / "model"
    conftest.make_tiny_llama(model, context=8192)
    found = bench(tmp_path / "out", model, "--dtype", "float32", "--batch-size", "4")
    assert [case["name"] for case in found["cases"]] == list(bench_engine_report.LABELS)
    for case in found["cases"]:
        assert case["same_answers"] == case["items"] > 0
        assert case["ratio"] > 0
        assert case["largest_logprob_gap"] is None or case["largest_logprob_gap"] < 1e-3
        assert 0 < case["prefill_share_of_peak"] < 1
    assert found["turns"] == 1
    assert "bench_engine.py" in found["command"]


def test_the_search_finds_the_fastest_batch_size(monkeypatch):
    """Upwards while that helps, else downwards; what does not fit memory is not chosen."""

    def search(speeds: dict[int, float], start: int) -> tuple[int, list[int]]:
        monkeypatch.setattr(
            importlib.import_module("bench_engine_sides"),
            "measured",
            lambda run, _: bench_engine_sides.Cost(run(), 0.0, 0),  # type: ignore[arg-type]
        )

        def run(size: int) -> Any:
            if size not in speeds:
                raise MemoryError
            return speeds[size]

        best, tried = bench_engine_sides.best_batch(run, start, 64, "cpu")
        return best, list(tried)

    valley = {1: 9.0, 2: 7.0, 4: 5.0, 8: 3.0, 16: 4.0, 32: 6.0, 64: 8.0}
    assert search(valley, 1) == (8, [1, 2, 4, 8, 16])
    assert search(valley, 32) == (8, [4, 8, 16, 32, 64])
    assert search({1: 1.0, 2: 2.0}, 1) == (1, [1, 2])
    assert search({1: 2.0, 2: 1.0}, 1) == (2, [1, 2, 4])
