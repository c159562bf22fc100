"""Sends a judged run to an experiment tracker: figures, settings, tables and the page. Only to those that are named.

A tracker is a function in `TRACKERS`; its package is imported when a run is sent, and is no dependency.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from harness.errors import UsageError
from harness.judge.verdicts import Judgement
from harness.report.blocks.measured import flat
from harness.report.evidence import Evidence

__all__ = ["TRACKERS", "check", "send"]

_FIGURES = ("baseline_mean", "candidate_mean", "delta", "low", "high", "lost", "gained", "margin")
_FILES = ("report.html", "report.md", "comparisons.json", "comparisons.csv", "tail_events.csv")
_LONGEST = 500
_BATCH = 100
"""So many figures and settings MLflow takes at once."""

_Tracker = Callable[[str, str, Mapping[str, float], Mapping[str, str], Sequence[str]], None]
"""Logs metrics, settings and files of a run, under its name, to a place."""


def _mlflow(
    place: str, name: str, metrics: Mapping[str, float], settings: Mapping[str, str], files: Sequence[str]
) -> None:
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


def _like_wandb(module: str) -> _Tracker:
    def log(
        place: str, name: str, metrics: Mapping[str, float], settings: Mapping[str, str], files: Sequence[str]
    ) -> None:
        tracker = import_module(module)
        run = tracker.init(project=place, name=name, config=dict(settings))
        run.log(dict(metrics))
        artifact = tracker.Artifact(f"{name}-report", type="report")
        for path in files:
            artifact.add_file(path)
        run.log_artifact(artifact)
        run.finish()

    return log


TRACKERS = {"mlflow": _mlflow, "trackio": _like_wandb("trackio"), "wandb": _like_wandb("wandb")}
"""Tracker, which is its package's name, to what logs a run."""


def check(track: Mapping[Any, str]) -> None:
    """Refuse a tracker whose package is not installed. Raises UsageError."""
    for name in track:
        if find_spec(name) is None:
            raise UsageError(f"track: the package {name} is not installed: pip install {name}, or leave it out")


def send(folder: Path, judgement: Judgement, evidence: Evidence, track: Mapping[Any, str]) -> Iterator[str]:
    """Send a run whose reports are in `folder` to each tracker, and say of each what came of it.

    A tracker that cannot be reached changes no verdict.
    """
    facts = flat({**judgement.provenance, **evidence.provenance, "verdict": judgement.verdict})
    settings = {_named(key): value[:_LONGEST] for key, value in facts.items()}
    files = [str(folder / name) for name in _FILES if (folder / name).is_file()]
    for name, place in track.items():
        try:
            with contextlib.redirect_stdout(sys.stderr):  # so that what they print is no part of --json
                TRACKERS[name](place, evidence.name, dict(_metrics(judgement)), settings, files)
        except Exception as error:  # noqa: BLE001 - whatever another package raises, the run is judged
            yield _without_password(f"{name}: the run was not sent to {place}: {type(error).__name__}: {error}")
        else:
            yield _without_password(f"{name}: sent to {place}")


def _without_password(text: str) -> str:
    return re.sub(r"//[^/@\s]+@", "//***@", text)


def _metrics(judgement: Judgement) -> Iterator[tuple[str, float]]:
    """Return the figures by name: exit code, and of each candidate and stratum."""
    yield "exit_code", float(judgement.exit_code)
    for candidate in judgement.candidates:
        for stratum in candidate.strata:
            known = {name: getattr(stratum, name) for name in _FIGURES}
            place = f"{candidate.name}/{stratum.slice}/{stratum.stratum}"
            yield from ((_named(f"{place}/{name}"), float(value)) for name, value in known.items() if value is not None)


def _named(text: str) -> str:
    """Spell a name as trackers allow it: ``task=lookup,keys=3`` as ``task.lookup keys.3``."""
    return re.sub(r"[^\w./ -]", "_", text.replace("=", ".").replace(",", " "))
