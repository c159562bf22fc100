"""Sends a judged run to the experiment trackers that are named; their packages are no dependencies."""

import contextlib
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from harness.errors import UsageError
from harness.judge.verdicts import Judgement
from harness.records import digest
from harness.report.blocks.measured import flat
from harness.report.evidence import Evidence

_FIGURES = ("baseline_mean", "candidate_mean", "delta", "low", "high", "lost", "gained", "margin")
_FILES = ("report.html", "report.md", "comparisons.json", "comparisons.csv", "tail_events.csv")
_LONGEST, _BATCH = 500, 100  # characters of a setting; so many figures and settings MLflow takes at once
_Figures = Mapping[str, float]
_Texts = Mapping[str, str]


def _mlflow(place: str, name: str, metrics: _Figures, settings: _Texts, files: Sequence[str]) -> None:
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # nothing is sent but what was asked for
    if not re.match(r"\w+://|databricks", place):
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # MLflow 3 refuses folders otherwise
        place = Path(place).resolve().as_uri()
    entities, client = import_module("mlflow.entities"), import_module("mlflow").MlflowClient(tracking_uri=place)
    known = client.get_experiment_by_name(name)
    experiment = client.create_experiment(name) if known is None else known.experiment_id
    run = client.create_run(experiment, run_name=name).info.run_id
    figures = [entities.Metric(key, value, 0, 0) for key, value in metrics.items()]
    params = [entities.Param(*one) for one in settings.items()]
    for at in range(0, max(len(figures), len(params)), _BATCH):
        client.log_batch(run, metrics=figures[at : at + _BATCH], params=params[at : at + _BATCH])
    for path in files:
        client.log_artifact(run, path)
    client.set_terminated(run)


def _like_wandb(module: str, place: str, name: str, metrics: _Figures, settings: _Texts, files: Sequence[str]) -> None:
    tracker = import_module(module)
    run = tracker.init(project=place, name=name, config=dict(settings))
    run.log(dict(metrics))
    artifact = tracker.Artifact(f"{name}-report", type="report")
    for path in files:
        artifact.add_file(path)
    run.log_artifact(artifact)
    run.finish()


TRACKERS: Mapping[str, Callable[[str, str, _Figures, _Texts, Sequence[str]], None]] = {
    "mlflow": _mlflow,
    **{name: partial(_like_wandb, name) for name in ("trackio", "wandb")},
}
"""Tracker, which is its package's name, to what logs a run to a place."""


def check(track: Mapping[Any, str]) -> None:
    """Refuse a tracker whose package is not installed. Raises UsageError."""
    for name in (one for one in track if find_spec(one) is None):
        raise UsageError(f"track: the package {name} is not installed: pip install {name}, or leave it out")


def send(folder: Path, judgement: Judgement, evidence: Evidence, track: Mapping[Any, str]) -> Iterator[str]:
    """Send a run whose reports are in `folder` to each tracker, and say what came of it; none changes the verdict."""
    facts = flat({**judgement.provenance, **evidence.provenance, "verdict": judgement.verdict})
    settings = {_named(key): value[:_LONGEST] for key, value in facts.items()}
    files, metrics = [str(folder / name) for name in _FILES if (folder / name).is_file()], dict(_metrics(judgement))
    for name, place in track.items():
        said = f"{name}: sent to {place}"
        try:
            with contextlib.redirect_stdout(sys.stderr):  # so that what they print is no part of --json
                TRACKERS[name](place, evidence.name, metrics, settings, files)
        except Exception as error:  # noqa: BLE001 - whatever another package raises, the run is judged
            said = f"{name}: the run was not sent to {place}: {type(error).__name__}: {error}"
        yield re.sub(r"//[^/@\s]+@", "//***@", said)  # without a password


def _metrics(judgement: Judgement) -> Iterator[tuple[str, float]]:
    yield "exit_code", float(judgement.exit_code)
    for candidate in judgement.candidates:
        for one in candidate.strata:
            for name in _FIGURES:
                if (value := getattr(one, name)) is not None:
                    yield _named(f"{candidate.name}/{one.slice}/{one.stratum}/{name}"), float(value)


def _named(text: str) -> str:
    """Spell a name as trackers allow it: ``task=lookup,keys=3`` as ``task.lookup keys.3``."""
    spelled = re.sub(r"[^\w./ -]", "_", text.replace("=", ".").replace(",", " "))
    return spelled if spelled.count("_") == text.count("_") else f"{spelled} {digest(text)[:6]}"  # `<10` is not `>10`
