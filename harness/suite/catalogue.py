"""What slices ship: their descriptions under tasks/, read without lm_eval, torch or any task's code.

A slice is a folder with a ``slice.yml`` (title, reason, tasks, axes, a real item of each task) beside its lm_eval
task files. It is named ``.yml`` because lm_eval's scan reads every ``*.yaml`` as a task. What a task itself knows (its
label, the levels of its axes, how it splits) stands in the ``metadata`` of its own file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, cast

import yaml

from harness.config.resources import tasks_dir
from harness.errors import UsageError
from harness.suite.toolkit.strata import level_text

__all__ = ["AxisInfo", "SliceInfo", "TaskInfo", "catalogue"]

DESCRIPTION = "slice.yml"


@dataclass(frozen=True, slots=True)
class AxisInfo:
    """A property that splits a slice."""

    name: str
    """Its name, which is also the field of the document."""
    ordered: bool
    """Whether its levels stand in an order in which damage may grow."""
    levels: tuple[str, ...]
    """The levels made unless others are asked for."""
    open: bool = False
    """Whether other whole numbers may be asked for too."""


@dataclass(frozen=True, slots=True)
class TaskInfo:
    """One lm_eval task of a slice, as its own file describes it."""

    name: str
    """lm_eval's name of it."""
    label: str
    """Its level on the axis ``task``."""
    levels: Mapping[str, tuple[str, ...]]
    """Its axes, each with the levels made unless others are asked for."""
    split_by: tuple[str, ...]
    """The axes that split it into strata unless others are asked for."""
    options: tuple[str, ...]
    """What `options` of a config may say to it."""
    optional: bool
    """Whether it must be asked for by name, because it needs a download or `data_dir`."""
    free_axes: str = ""
    """The field of the documents whose own fields are axes too, where the data say which there are."""
    at_most: bool = False
    """Whether `items` is the most per stratum, not the number that must be there."""
    runs_code: bool = False
    """Whether its scorer runs what the model wrote (lm_eval's ``unsafe_code``)."""


@dataclass(frozen=True, slots=True)
class SliceInfo:
    """A slice as its description tells it."""

    name: str
    """The folder under tasks/, and its name in a config."""
    title: str
    """What it is, in a few words."""
    why: str
    """Why it is in the suite, in a sentence."""
    axes: tuple[AxisInfo, ...]
    """All axes of its tasks."""
    split_by: tuple[str, ...]
    """The axes that split at least one of its tasks into strata by default."""
    tasks: tuple[str, ...]
    """Its lm_eval tasks, those that run unless others are asked for first."""
    optional: tuple[str, ...]
    """Those of its tasks that run only when asked for by name: they need a download or `data_dir`."""
    example: str
    """A real item of each task."""
    source: str
    """Where the items come from."""
    licence: str
    """Under which terms."""
    task_infos: tuple[TaskInfo, ...]
    """What each task says of itself."""

    def task_info(self, task: str) -> TaskInfo:
        """Give what a task says of itself."""
        return next(note for note in self.task_infos if note.name == task)

    @property
    def splits_by_task(self) -> bool:
        """Whether the task is part of its strata's names: where there is more than one."""
        return len(self.tasks) > 1


class _Loader(yaml.SafeLoader):
    """SafeLoader that reads lm_eval's ``!function`` tags as their text."""


def _function(loader: yaml.SafeLoader, node: yaml.Node) -> str:
    """Give the text behind a ``!function`` tag."""
    return str(loader.construct_scalar(cast("yaml.ScalarNode", node)))


_Loader.add_constructor("!function", _function)


def catalogue(folder: Path | None = None) -> list[SliceInfo]:
    """Describe every slice that ships, or that lies under `folder`, by name."""
    return list(_catalogue(tasks_dir() if folder is None else folder))


@cache
def _catalogue(folder: Path) -> tuple[SliceInfo, ...]:
    return tuple(map(_slice_of, sorted(folder.glob(f"*/{DESCRIPTION}"))))


def _slice_of(path: Path) -> SliceInfo:
    """Describe the slice of a description. Raises UsageError with the file and what it or a task beside it lacks."""
    try:
        return _slice(path)
    except KeyError as error:
        raise UsageError(f"{path}: {error} is missing in it or in a task file beside it (docs/extending.md)") from error


def _read(path: Path) -> dict[str, Any]:
    data: dict[str, Any] = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)  # noqa: S506 - a SafeLoader
    return data


def _slice(path: Path) -> SliceInfo:
    told = _read(path)
    files = {task["task"]: task for task in map(_read, sorted(path.parent.glob("*.yaml"))) if "task" in task}
    default, optional = told["tasks"], told.get("optional", [])
    notes = tuple(_task(files[name], optional=name in optional) for name in [*default, *optional])
    return SliceInfo(
        name=path.parent.name,
        title=told["title"],
        why=told["why"],
        axes=_axes(told.get("axes", {}), notes),
        split_by=tuple(dict.fromkeys(axis for note in notes if not note.optional for axis in note.split_by)),
        tasks=tuple(note.name for note in notes),
        optional=tuple(optional),
        example="\n".join(_example(name, example) for name, example in told["examples"].items()),
        source=told["source"],
        licence=told["licence"],
        task_infos=notes,
    )


def _task(data: Mapping[str, Any], *, optional: bool) -> TaskInfo:
    own = data["metadata"]
    levels = {axis: tuple(level_text(one) for one in levels) for axis, levels in own.get("levels", {}).items()}
    return TaskInfo(
        name=data["task"],
        label=own["label"],
        levels=levels,
        split_by=tuple(own.get("split_by", ())),
        options=tuple(own.get("options", ())),
        optional=optional,
        free_axes=own.get("free_axes", ""),
        at_most=bool(own.get("at_most")),
        runs_code=bool(data.get("unsafe_code")),
    )


def _axes(told: Mapping[str, Mapping[str, Any]], notes: tuple[TaskInfo, ...]) -> tuple[AxisInfo, ...]:
    levels: dict[str, dict[str, None]] = {}
    for note in notes:
        for axis, own in note.levels.items():
            levels.setdefault(axis, {}).update(dict.fromkeys(own))
    return tuple(
        AxisInfo(
            name=axis,
            ordered=bool(told.get(axis, {}).get("ordered")),
            levels=tuple(own),
            open=bool(told.get(axis, {}).get("open")),
        )
        for axis, own in levels.items()
    )


def _example(task: str, example: Mapping[str, Any]) -> str:
    choices = example.get("choices")
    told = [f"{task}", f"  Q: {example['prompt'].strip()}"]
    if choices:
        told.append(f"  choices: {' | '.join(choices)}")
    told.append(f"  A: {example['answer']}")
    return "\n".join(told)
