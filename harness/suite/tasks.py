"""lm_eval tasks, built: those under tasks/, any that lm_eval ships, and again from stored documents for scoring.

The only part of quantcliff that makes lm_eval `Task` objects. Knows lm_eval's task side; knows nothing of strata,
engines or results.
"""

from __future__ import annotations

import contextlib
import logging
import traceback
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from harness.config.resources import tasks_dir
from harness.errors import UsageError, one_line

__all__ = [
    "FEWSHOT_SEED",
    "describe_task_error",
    "from_docs",
    "lm_eval_names",
    "own_tasks",
    "quiet_lm_eval",
    "runs_code_unconfined",
    "shipped_tasks",
]

FEWSHOT_SEED = 1234
"""The seed that lm_eval's command line gives to few-shot sampling (lm_eval/defaults.py)."""

_STRUCTURE = ("tag", "group", "task_list", "class")


@contextlib.contextmanager
def quiet_lm_eval() -> Iterator[None]:
    """Within it, lm_eval and datasets speak only of errors."""
    loggers = [logging.getLogger(name) for name in ("lm_eval", "datasets")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


def own_tasks(names: Sequence[str], metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Build tasks of ours by name, each told `metadata`. What a generator refuses it raises as ValueError."""
    from lm_eval.tasks import TaskManager

    with quiet_lm_eval():
        manager = TaskManager(include_path=str(tasks_dir()), include_defaults=False, metadata=dict(metadata))
        built: dict[str, Any] = manager.load(list(names))["tasks"]
    return {name: _ready(task) for name, task in built.items()}


def describe_task_error(error: BaseException) -> str | None:
    """Return what a task's own Python raised, with its file and line; None if the error came from elsewhere."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if _is_task_file(frame.filename)]
    if not frames:
        return None
    return f"its code raised {one_line(error)} ({frames[-1].filename}, line {frames[-1].lineno})"


def _is_task_file(name: str) -> bool:
    return Path(name).resolve().is_relative_to(tasks_dir())


def lm_eval_names() -> list[str]:
    """Give the names of all tasks, groups and tags that lm_eval ships (its first scan takes some seconds)."""
    names: list[str] = _index().all_tasks
    return names


@cache
def _index() -> Any:
    from lm_eval.tasks import TaskManager

    with quiet_lm_eval():
        return TaskManager(include_path=str(tasks_dir()))


def runs_code_unconfined(name: str) -> bool:
    """Say whether a task of lm_eval's runs generated code in its own process; read from its file, without its code."""
    from lm_eval.tasks._yaml_loader import load_yaml

    entry = _index().task_index.get(name)
    if entry is None or entry.yaml_path is None:
        return False
    return bool(load_yaml(entry.yaml_path, resolve_func=False).get("unsafe_code"))


def shipped_tasks(name: str, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Build a task, or all tasks of a group or tag, that lm_eval ships."""
    from lm_eval.tasks import TaskManager

    with quiet_lm_eval():
        manager = TaskManager(metadata=dict(metadata))
        built: dict[str, Any] = manager.load([name])["tasks"]
    return {task_name: _ready(task) for task_name, task in built.items()}


def _ready(task: Any) -> Any:
    """Settle what `simple_evaluate` settles before it asks: the number of examples and their seed."""
    if task.get_config("num_fewshot") is None:
        task.set_config(key="num_fewshot", value=0)
    task.set_fewshot_seed(seed=FEWSHOT_SEED)
    return task


def from_docs(name: str, docs: Sequence[Mapping[str, Any]]) -> Any:
    """Build a task around stored documents, for its filters and scorer alone: no generator runs, nothing is loaded.

    Raises UsageError where lm_eval does not know the task.
    """
    from datasets import Dataset
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.tasks._yaml_loader import load_yaml

    path = _file_of(name)
    with quiet_lm_eval():
        config = {key: value for key, value in load_yaml(path).items() if key not in _STRUCTURE}
        config |= {
            "custom_dataset": lambda **_: {"test": Dataset.from_list([dict(doc) for doc in docs])},
            "dataset_path": None,
            "process_docs": None,
            "test_split": "test",
            "validation_split": None,
            "training_split": None,
            "fewshot_split": None,
            "fewshot_config": None,
            "num_fewshot": 0,
        }
        if metrics := config.get("metric_list"):  # needs log-probabilities without the question, which items lack
            config["metric_list"] = [one for one in metrics if one["metric"] != "acc_mutual_info"]
        return ConfigurableTask(config=config)


def _file_of(name: str) -> Path:
    entry = _own_index().get(name) or _index().task_index.get(name)
    if entry is None or entry.yaml_path is None:
        raise UsageError(f"lm_eval has no task file for {name!r}, so its answers cannot be scored here")
    return Path(entry.yaml_path)


@cache
def _own_index() -> Any:
    from lm_eval.tasks import TaskManager

    with quiet_lm_eval():
        return TaskManager(include_path=str(tasks_dir()), include_defaults=False).task_index
