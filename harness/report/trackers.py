"""Sends a judged run to an experiment tracker: figures, settings, tables and the page. Only to those that are named.

A tracker is a function in `TRACKERS`; its package is imported when a run is sent, and is no dependency.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
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


@dataclass(frozen=True, slots=True)
class _Sent:
    name: str
    metrics: Mapping[str, float]
    settings: Mapping[str, str]
    files: Sequence[Path]


def _mlflow(place: str, sent: _Sent) -> None:
    if not re.match(r"\w+://|databricks", place):
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # MLflow 3 refuses folders otherwise
        place = Path(place).resolve().as_uri()
    entities, client = import_module("mlflow.entities"), import_module("mlflow").MlflowClient(tracking_uri=place)
    known = client.get_experiment_by_name(sent.name)
    experiment = client.create_experiment(sent.name) if known is None else known.experiment_id
    run = client.create_run(experiment, run_name=sent.name).info.run_id
    metrics = [entities.Metric(name, value, 0, 0) for name, value in sent.metrics.items()]
    settings = [entities.Param(*one) for one in sent.settings.items()]
    for at in range(0, max(len(metrics), len(settings)), _BATCH):
        client.log_batch(run, metrics=metrics[at : at + _BATCH], params=settings[at : at + _BATCH])
    for path in sent.files:
        client.log_artifact(run, str(path))
    client.set_terminated(run)


def _like_wandb(module: str) -> Callable[[str, _Sent], None]:
    def log(place: str, sent: _Sent) -> None:
        tracker = import_module(module)
        run = tracker.init(project=place, name=sent.name, config=dict(sent.settings))
        run.log(dict(sent.metrics))
        files = tracker.Artifact(f"{sent.name}-report", type="report")
        for path in sent.files:
            files.add_file(str(path))
        run.log_artifact(files)
        run.finish()

    return log


TRACKERS: dict[str, Callable[[str, _Sent], None]] = {
    "mlflow": _mlflow,
    "trackio": _like_wandb("trackio"),
    "wandb": _like_wandb("wandb"),
}
"""Tracker to what logs a run to a place: a folder or URI of MLflow, else a project."""


def check(track: Mapping[Any, str]) -> None:
    """Refuse a tracker whose package is not installed. Raises UsageError."""
    for name in track:
        if find_spec(name) is None:
            raise UsageError(f"track: the package {name} is not installed: pip install {name}, or leave it out")


def send(folder: Path, judgement: Judgement, evidence: Evidence, track: Mapping[Any, str]) -> Iterator[str]:
    """Send a run whose reports are in `folder` to each tracker, and say of each what came of it.

    A tracker that cannot be reached changes no verdict.
    """
    settings = flat({**judgement.provenance, **evidence.provenance, "verdict": judgement.verdict})
    sent = _Sent(
        evidence.name,
        dict(_metrics(judgement)),
        {_named(key): value[:_LONGEST] for key, value in settings.items()},
        [folder / name for name in _FILES if (folder / name).is_file()],
    )
    for name, place in track.items():
        try:
            with contextlib.redirect_stdout(sys.stderr):  # so that what they print is no part of --json
                TRACKERS[name](place, sent)
        except Exception as error:  # noqa: BLE001 - whatever another package raises, the run is judged
            yield f"{name}: the run was not sent to {place}: {type(error).__name__}: {error}"
        else:
            yield f"{name}: sent to {place}"


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
