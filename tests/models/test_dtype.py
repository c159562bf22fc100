"""`execution.dtype: auto`: settled once, for all variants, and kept with the run."""

from __future__ import annotations

import multiprocessing
from pathlib import Path
from typing import Any

import pytest

from harness.config.loading import parse
from harness.errors import ConfigError
from harness.run import plan as run_plan
from harness.run import runner, worker_process
from harness.run.progress import Reporter
from harness.store.rundir import RunDir, Shard


def config(model: Path, **changes: Any) -> dict[str, Any]:
    """A small config of one slice."""
    return {
        "name": "trial",
        "baseline": {"name": "bf16", "model": str(model), **changes.pop("baseline", {})},
        "candidates": [{"name": "nf4", "quantization": "bnb-nf4"}],
        "slices": [{"name": "typical", "tasks": ["quantcliff_facts"], "items": 4, "margin": 0.5, "gating": False}],
        "execution": {"device": "cpu", "control": False, **changes},
    }


@pytest.fixture
def device_takes(monkeypatch):
    """Let the device's native dtype be what a test says."""

    def set_native(dtype: str) -> None:
        monkeypatch.setattr("harness.run.plan.native_dtype", lambda _device: (dtype, "a test says so"))

    return set_native


def planned(data: dict[str, Any], recorded: str | None = None) -> tuple[set[str], tuple[str, ...]]:
    """The compute dtypes of all variants, and the plan's notes."""
    plan = run_plan.make_plan(parse(data), "t.yaml", check=False, recorded_dtype=recorded)
    return {plan.experiment.compute_dtype(one) for one in plan.experiment.variants}, plan.notes


def test_auto_is_the_devices_dtype_for_every_variant(tiny_llama, device_takes):
    """One dtype, with its reason; the recorded one if the run was begun; an explicit one without being asked."""
    device_takes("float32")
    dtypes, notes = planned(config(tiny_llama))
    assert dtypes == {"float32"}
    assert any("float32" in note and "a test says so" in note for note in notes)
    assert planned(config(tiny_llama), recorded="bfloat16")[0] == {"bfloat16"}
    assert planned(config(tiny_llama, dtype="float16"), recorded="bfloat16")[0] == {"float16"}
    assert planned(config(tiny_llama, baseline={"dtype": "float16"}))[0] == {"float16"}


def test_a_quantized_candidate_at_another_dtype_is_still_refused(tiny_llama):
    """`auto` does not hide that a candidate names another dtype than the baseline's."""
    data = config(tiny_llama)
    data["candidates"][0]["dtype"] = "float16"
    with pytest.raises(ConfigError, match=r"candidates\[0\]\.dtype"):
        parse(data)


def test_a_slow_bfloat16_is_warned_of(tiny_llama, monkeypatch):
    """With the factor, and only if it is slow."""
    monkeypatch.setattr("harness.run.plan.bfloat16_speedup", lambda: 0.125)
    assert any("8.0 times as slow" in note for note in planned(config(tiny_llama, dtype="bfloat16"))[1])
    assert "slow" not in str(planned(config(tiny_llama, dtype="float32"))[1])
    monkeypatch.setattr("harness.run.plan.bfloat16_speedup", lambda: 2.0)
    assert "slow" not in str(planned(config(tiny_llama, dtype="bfloat16"))[1])


def test_a_run_that_is_continued_elsewhere_keeps_its_dtype(tiny_llama, device_takes, tmp_path, monkeypatch):
    """Begun where float32 is native, it goes on in float32 where bfloat16 is, and computes in it.

    The first workers are forked from a process that has the libraries loaded, the second start with nothing, as they
    do on a GPU: the bytes are the same.
    """
    device_takes("float32")
    directory = RunDir(tmp_path / "trial")

    def go_on() -> None:
        made = run_plan.make_plan(
            parse(config(tiny_llama)), "t.yaml", check=False, recorded_dtype=run_plan.recorded_dtype(directory)
        )
        runner.run(made, directory, Shard(), Reporter())

    go_on()
    proof = directory.recorded("nf4", "variant.json")["proof"]
    assert (directory.plan()["config"]["execution"]["dtype"], proof["compute_dtype"]) == ("float32", "float32")
    answers = directory.results_path("nf4", "typical", Shard())
    whole = answers.read_bytes()
    answers.write_bytes(b"")
    (directory.path / "shards" / "1of1.json").unlink()
    device_takes("bfloat16")
    monkeypatch.setattr(worker_process, "_fork_server", lambda: multiprocessing.get_context("spawn"))
    go_on()
    assert answers.read_bytes() == whole
