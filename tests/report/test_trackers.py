"""What is sent to an experiment tracker: all of it if one is named, nothing if none is."""

from __future__ import annotations

import importlib
import os
import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest
from commands import call, write
from making import Cell, judged

from harness.config.loading import load
from harness.errors import ExitCode
from harness.report import trackers


@pytest.fixture
def demo(repository: Path, tmp_path: Path) -> Path:
    """A copy of the committed demo."""
    return Path(shutil.copytree(repository / "results" / "demo-cpu", tmp_path / "demo"))


def test_a_run_is_logged_to_mlflows_file_store(demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Metrics, settings, tables and the page of a judged run are read back from a folder; MLflow reports no use."""
    if find_spec("mlflow") is None:
        pytest.skip("mlflow is not installed (pip install mlflow-skinny)")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "")  # so that what was there comes back
    monkeypatch.delenv("MLFLOW_DISABLE_TELEMETRY")
    assert call("report", demo, "--quiet", "--track", f"mlflow={tmp_path / 'mlruns'}") == ExitCode.FAIL
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"
    mlflow = importlib.import_module("mlflow")
    client = mlflow.MlflowClient(tracking_uri=(tmp_path / "mlruns").as_uri())
    (run,) = client.search_runs([client.get_experiment_by_name("demo").experiment_id])
    name = "nf4/long_context/task.lookup keys.12 answer.present/delta"
    assert run.data.metrics[name] == pytest.approx(-32 / 60)
    assert run.data.params["versions.torch"] == "2.13.0+cpu"
    assert run.info.status == "FINISHED"
    files = {one.path for one in client.list_artifacts(run.info.run_id)}
    assert {"report.html", "comparisons.csv", "comparisons.json", "tail_events.csv"} <= files


def test_no_figure_takes_the_place_of_another() -> None:
    """Levels that differ in signs alone, which trackers do not allow in names, have metrics of their own."""
    found = [*trackers._metrics(judged({"s/x=<10": Cell(100, lost=50), "s/x=>10": Cell(100)}))]
    deltas = {name: value for name, value in found if name.split(" ")[0].endswith("/delta")}
    assert sorted(deltas.values()) == [-0.5, 0.0]
    assert len(dict(found)) == len(found)


def test_a_tracker_that_fails_changes_no_verdict(demo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The exit code is the gate's, and the message names tracker and place."""
    from harness.cli.shared import OutputOptions, judge_run
    from harness.store.rundir import RunDir

    code = judge_run(RunDir(demo), OutputOptions(quiet=True), track={"mlflow": "nowhere://me:secret@x"})
    assert code == ExitCode.FAIL
    said = capsys.readouterr().err
    assert "mlflow: the run was not sent to nowhere://***@x" in said
    assert "secret" not in said


def test_track_is_no_part_of_what_a_run_is(tmp_path: Path) -> None:
    """A config with `track` has the digest of the one without it; trackers and config know the same names."""
    plain = load(write(tmp_path, "smollm2"))
    tracked = load(write(tmp_path, "smollm2", track={"mlflow": "./mlruns"}))
    assert tracked.track == {"mlflow": "./mlruns"}
    assert plain.digest() == tracked.digest()
    for name in trackers.TRACKERS:
        load(write(tmp_path, "smollm2", track={name: "here"}))


def test_a_tracker_that_is_not_installed_is_refused_before_any_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run does not begin, and the message says what to install."""
    monkeypatch.setattr(trackers, "find_spec", lambda name: None)
    config = write(tmp_path, "smollm2", track={"wandb": "project"})
    assert call("run", config, "--output", tmp_path) == ExitCode.USAGE
    assert "pip install wandb" in capsys.readouterr().err
    assert not (tmp_path / "trial").exists()
    assert call("report", tmp_path, "--track", "mlflow") == ExitCode.USAGE
