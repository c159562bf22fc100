"""What slices ship: their descriptions under tasks/, read without lm_eval, torch or any task's code.

A slice is a folder with a ``slice.yml``, named so because lm_eval's scan reads every ``*.yaml`` as a task. What a task
knows of itself (its label, the levels of its axes, how it splits) stands in the ``metadata`` of its own file.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, cast

import yaml

from harness.config.resources import shipped
from harness.errors import UsageError
from harness.suite.toolkit.strata import level_text

DESCRIPTION = "slice.yml"


@dataclass(frozen=True, slots=True)
class AxisInfo:
    """A property that splits a slice."""

    name: str  # also the field of the document
    ordered: bool  # whether its levels stand in an order in which damage may grow
    levels: tuple[str, ...]  # those made unless others are asked for
    open: bool = False  # whether other whole numbers may be asked for too


@dataclass(frozen=True, slots=True)
class TaskInfo:
    """One lm_eval task of a slice, as its own file describes it."""

    name: str  # lm_eval's name of it
    label: str  # its level on the axis `task`
    levels: Mapping[str, tuple[str, ...]]  # its axes, each with the levels made unless others are asked for
    split_by: tuple[str, ...]  # the axes that split it into strata unless others are asked for
    options: tuple[str, ...]  # what `options` of a config may say to it
    optional: bool  # whether it must be asked for by name, because it needs a download or `data_dir`
    free_axes: str = ""  # the field of the documents whose own fields are axes too, where the data say which there are
    at_most: bool = False  # whether `items` is the most per stratum, not the number that must be there
    runs_code: bool = False  # whether its scorer runs what the model wrote (lm_eval's unsafe_code)


@dataclass(frozen=True, slots=True)
class SliceInfo:
    """A slice as its description tells it."""

    name: str  # the folder under tasks/, and its name in a config
    title: str  # what it is, in a few words
    why: str  # why it is in the suite, in a sentence
    axes: tuple[AxisInfo, ...]  # all axes of its tasks
    split_by: tuple[str, ...]  # the axes that split at least one of its tasks into strata by default
    tasks: tuple[str, ...]  # its lm_eval tasks, those that run unless others are asked for first
    optional: tuple[str, ...]  # those of its tasks that run only when asked for by name
    example: str  # a real item of each task
    source: str  # where the items come from
    licence: str  # under which terms
    task_infos: tuple[TaskInfo, ...]  # what each task says of itself

    def asked(self, tasks: Sequence[str]) -> list[TaskInfo]:
        """Give the tasks of these names, in their order; without names all that run unless others are asked for."""
        named = [note for name in tasks for note in self.task_infos if note.name == name]
        return named if tasks else [note for note in self.task_infos if not note.optional]


class _Loader(yaml.SafeLoader):
    """SafeLoader that reads lm_eval's ``!function`` tags as their text."""


_Loader.add_constructor("!function", lambda loader, node: loader.construct_scalar(cast("yaml.ScalarNode", node)))


@cache
def catalogue() -> tuple[SliceInfo, ...]:
    """Describe every slice that ships. Raises UsageError with the file and what it or a task beside it lacks."""
    found = []
    for path in sorted(shipped("tasks").glob(f"*/{DESCRIPTION}")):
        try:
            found.append(_slice(path))
        except KeyError as error:
            lacking = f"{path}: {error} is missing in it or in a task file beside it (docs/extending.md)"
            raise UsageError(lacking) from error
    return tuple(found)


def slice_named(name: str) -> SliceInfo | None:
    """Give the slice of that name, None if none ships."""
    return next((info for info in catalogue() if info.name == name), None)


def _read(path: Path) -> dict[str, Any]:
    data: dict[str, Any] = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)  # noqa: S506 - a SafeLoader
    return data


def _slice(path: Path) -> SliceInfo:
    told = _read(path)
    files = {task["task"]: task for task in map(_read, sorted(path.parent.glob("*.yaml"))) if "task" in task}
    optional = tuple(told.get("optional", ()))
    notes, axes = tuple(_task(files[name], optional=name in optional) for name in (*told["tasks"], *optional)), []
    for axis in dict.fromkeys(axis for note in notes for axis in note.levels):
        about = told.get("axes", {}).get(axis, {})
        levels = dict.fromkeys(level for note in notes for level in note.levels.get(axis, ()))
        axes.append(AxisInfo(axis, bool(about.get("ordered")), tuple(levels), bool(about.get("open"))))
    split_by = tuple(dict.fromkeys(axis for note in notes if not note.optional for axis in note.split_by))
    names = tuple(note.name for note in notes)
    example = "\n".join(_example(name, example) for name, example in told["examples"].items())
    head, tail = (path.parent.name, told["title"], told["why"]), (told["source"], told["licence"])
    return SliceInfo(*head, tuple(axes), split_by, names, optional, example, *tail, notes)


def _task(data: Mapping[str, Any], *, optional: bool) -> TaskInfo:
    own = data["metadata"]
    levels = {axis: tuple(map(level_text, levels)) for axis, levels in own.get("levels", {}).items()}
    split_by, options = tuple(own.get("split_by", ())), tuple(own.get("options", ()))
    free_axes, at_most, runs_code = own.get("free_axes", ""), bool(own.get("at_most")), bool(data.get("unsafe_code"))
    return TaskInfo(data["task"], own["label"], levels, split_by, options, optional, free_axes, at_most, runs_code)


def _example(task: str, example: Mapping[str, Any]) -> str:
    choices = f"\n  choices: {' | '.join(example['choices'])}" if example.get("choices") else ""
    return f"{task}\n  Q: {example['prompt'].strip()}{choices}\n  A: {example['answer']}"
