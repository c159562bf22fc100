"""lm_eval `Task` objects, made here alone: those under tasks/, those of lm_eval, and from stored documents to score."""

import contextlib
import logging
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from harness.config.resources import shipped
from harness.errors import UsageError, one_line
from harness.records import digest

FEWSHOT_SEED = 1234  # what lm_eval's command line gives to few-shot sampling (lm_eval/defaults.py)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Within it, lm_eval and datasets speak only of errors."""
    before = {logger: logger.level for logger in map(logging.getLogger, ("lm_eval", "datasets"))}
    for logger in before:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in before.items():
            logger.setLevel(level)


def build(names: Sequence[str], metadata: Mapping[str, Any], *, ours: bool) -> dict[str, Any]:
    """Build tasks of ours, or tasks, groups and tags of lm_eval, each told `metadata`; ValueError if one refuses it."""
    from lm_eval.tasks import TaskManager

    place = {"include_path": str(shipped("tasks")), "include_defaults": False} if ours else {}
    with _quiet():
        built: dict[str, Any] = TaskManager(**place, metadata=dict(metadata)).load(list(names))["tasks"]
    for task in built.values():  # what `simple_evaluate` settles before it asks
        if task.get_config("num_fewshot") is None:
            task.set_config(key="num_fewshot", value=0)
        task.set_fewshot_seed(seed=FEWSHOT_SEED)
    return built


def describe_task_error(error: BaseException) -> str | None:
    """Return what a task's own Python raised, with its file and line; None if the error came from elsewhere."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if Path(frame.filename).resolve().is_relative_to(shipped("tasks")):
            return f"its code raised {one_line(error)} ({frame.filename}, line {frame.lineno})"
    return None


@cache
def index(*, ours: bool) -> Any:
    """The tasks under tasks/, with those of lm_eval unless only `ours` are asked for: a scan of some seconds."""
    from lm_eval.tasks import TaskManager

    with _quiet():
        return TaskManager(include_path=str(shipped("tasks")), include_defaults=not ours)


def _file_of(name: str) -> Path | None:
    entries = (index(ours=ours).task_index.get(name) for ours in (True, False))
    entry = next((one for one in entries if one is not None), None)
    return None if entry is None or entry.yaml_path is None else Path(entry.yaml_path)


def scored_by(names: Iterable[str]) -> str:
    """Identify what scores the answers to tasks: the version of lm_eval, and the files in the folders of ours."""
    ours = [one for name in names if (one := index(ours=True).task_index.get(name)) is not None]
    files = {file for one in ours for kind in ("*.py", "*.yaml") for file in Path(one.yaml_path).parent.rglob(kind)}
    return digest([version("lm_eval"), *(one.read_text(encoding="utf-8") for one in sorted(files))])


def runs_code_unconfined(name: str) -> bool:
    """Say whether a task of lm_eval's runs generated code in its own process; read from its file, without its code."""
    from lm_eval.tasks._yaml_loader import load_yaml

    file = _file_of(name)
    return file is not None and bool(load_yaml(file, resolve_func=False).get("unsafe_code"))


def from_docs(name: str, docs: Sequence[Mapping[str, Any]]) -> Any:
    """Build a task around stored documents, for its filters and scorer alone. UsageError if lm_eval lacks the task."""
    from datasets import Dataset
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.tasks._yaml_loader import load_yaml

    file = _file_of(name)
    if file is None:
        raise UsageError(f"lm_eval has no task file for {name!r}, so its answers cannot be scored here")
    with _quiet():
        config = load_yaml(file)
        for key in ("tag", "group", "task_list", "class"):
            config.pop(key, None)
        splits = ("validation_split", "training_split", "fewshot_split")
        config |= dict.fromkeys((*splits, "dataset_path", "process_docs", "fewshot_config"))
        config |= {"test_split": "test", "num_fewshot": 0}
        config["custom_dataset"] = lambda **_: {"test": Dataset.from_list([dict(doc) for doc in docs])}
        if metrics := config.get("metric_list"):  # needs log-probabilities without the question, which items lack
            config["metric_list"] = [one for one in metrics if one["metric"] != "acc_mutual_info"]
        return ConfigurableTask(config=config)
