"""What can be wrong with the slices of a config, found before anything is generated.

Pure checks of names against descriptions. Knows configs and the catalogue, not lm_eval.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from harness.config.fields import suggestion
from harness.config.schema import MOST_ITEMS, Experiment, SliceSpec
from harness.errors import Problem, UsageError
from harness.suite.catalogue import SliceInfo, TaskInfo
from harness.suite.items import OWN_OPTIONS
from harness.suite.toolkit.strata import level_text

__all__ = ["Problems", "check_spec", "check_template", "select"]


class Problems:
    """All problems so far."""

    def __init__(self) -> None:
        self.found: list[Problem] = []

    def say(self, path: str, message: str) -> None:
        """Add one problem."""
        self.found.append(Problem(path, message))

    def say_once(self, path: str, message: str) -> None:
        """Add one problem, unless it was said already: two tasks may read the same file."""
        if Problem(path, message) not in self.found:
            self.say(path, message)


def select(experiment: Experiment, only: Sequence[str]) -> list[tuple[int, SliceSpec]]:
    """Give the slices that `only` asks for, all where it is empty. Raises UsageError where a pattern fits none."""
    keys = [spec.key for spec in experiment.slices]
    for pattern in only:
        if not any(fnmatchcase(key, pattern.partition("/")[0]) for key in keys):
            raise UsageError(f"--only {pattern}: no such slice in this config.{suggestion(pattern, keys)}")
    return [
        (index, spec)
        for index, spec in enumerate(experiment.slices)
        if not only or any(fnmatchcase(spec.key, pattern.partition("/")[0]) for pattern in only)
    ]


def check_template(experiment: Experiment, tokenizer: Any, problems: Problems, *, used: bool) -> None:
    """Find a chat template that is asked for and missing, and a system message that nothing would carry."""
    sampling = experiment.sampling
    if sampling.chat_template is True and not getattr(tokenizer, "chat_template", None):
        text = "true, but the baseline's tokenizer has no chat template: write auto or false, or take an instruct model"
        problems.say("sampling.chat_template", text)
    if sampling.chat_template_kwargs and not used:
        text = "are given, but no chat template is used to read them: leave them out, or use a model that has one"
        problems.say("sampling.chat_template_kwargs", text)
    if sampling.system is not None and not used:
        text = "is given, but no chat template is used to carry it: leave it out, or use a model that has one"
        problems.say("sampling.system", text)


def check_spec(spec: SliceSpec, info: SliceInfo, place: str, context_limit: int | None, problems: Problems) -> None:
    """Find what is wrong with one slice of ours, by its description alone."""
    tasks = _named_tasks(spec, info, place, problems)
    if _too_many(spec, tasks, place, problems):
        return
    for axis, levels in spec.axes.items():
        _check_axis(axis, levels, info, tasks, f"{place}.axes.{axis}", problems)
    known = sorted({axis for task in tasks for axis in task.levels} | {"task"})
    for axis in spec.split_by or ():
        if axis not in known and not any(task.free_axes for task in tasks):
            problems.say(f"{place}.split_by", f"{axis!r} is no axis of {info.name}.{suggestion(axis, known)}")
    if context_limit is not None:
        _check_context(spec, tasks, place, context_limit, problems)
    if spec.data_dir is not None and not Path(spec.data_dir).is_dir():
        problems.say(f"{place}.data_dir", f"{spec.data_dir!r} is not a folder")
    options = sorted({*OWN_OPTIONS, *(name for task in tasks for name in task.options)})
    for name in spec.options:
        if name not in options:
            problems.say(f"{place}.options.{name}", f"is no option of {info.name}.{suggestion(name, options)}")


def _named_tasks(spec: SliceSpec, info: SliceInfo, place: str, problems: Problems) -> list[TaskInfo]:
    """Return the tasks that the slice names, or all of them."""
    for name in spec.tasks:
        if name not in info.tasks:
            problems.say(f"{place}.tasks", f"{name!r} is no task of {info.name}.{suggestion(name, info.tasks)}")
    return [info.task_info(name) for name in spec.tasks if name in info.tasks] or list(info.task_infos)


def _check_axis(
    axis: str, levels: Sequence[object], info: SliceInfo, tasks: Sequence[TaskInfo], place: str, problems: Problems
) -> None:
    having = [task for task in tasks if axis in task.levels]
    if not having:
        if not any(task.free_axes for task in tasks):
            known = sorted({name for task in tasks for name in task.levels})
            problems.say(place, f"{axis!r} is no axis of {info.name}.{suggestion(axis, known)}")
        return
    if not levels:
        problems.say(place, "is left without a level: give at least one, or leave the axis out")
    known = list(dict.fromkeys(level for task in having for level in task.levels[axis]))
    is_open = any(one.name == axis and one.open for one in info.axes)
    also = " (other whole numbers above 0 are possible)" if is_open else ""
    for level in map(level_text, levels):
        if level not in known and not (is_open and level.isdecimal() and int(level) > 0):
            problems.say(place, f"{level!r} is no level of {axis}.{suggestion(level, known)}{also}")


def _too_many(spec: SliceSpec, tasks: Sequence[TaskInfo], place: str, problems: Problems) -> bool:
    """Find levels that multiply to more than anyone can ask, before they are multiplied out."""
    for task in tasks:
        if _left_out(spec, task):
            continue
        counts = {axis: len(spec.axes.get(axis, own)) for axis, own in task.levels.items()}
        split_by = task.split_by if spec.split_by is None else spec.split_by
        strata = math.prod(counts.get(axis, 1) for axis in split_by)
        most = max(math.prod(counts.values()), 0 if task.at_most else strata * spec.items)
        if most > MOST_ITEMS:
            text = (
                f"{task.name} would have {strata:,} strata of {spec.items:,} items from {math.prod(counts.values()):,} "
                f"combinations of levels: at most {MOST_ITEMS:,} are made. Ask for fewer levels or items"
            )
            problems.say(f"{place}.axes" if spec.axes else f"{place}.items", text)
            return True
    return False


def _check_context(spec: SliceSpec, tasks: Sequence[TaskInfo], place: str, limit: int, problems: Problems) -> None:
    """Find lengths above the model's limit; the level counts prompt and answer, so the limit itself is allowed."""
    axis = "context_tokens"
    asked = [level_text(level) for level in spec.axes.get(axis, ())]
    own = [level for task in tasks if not _left_out(spec, task) for level in task.levels.get(axis, ())]
    too_long = sorted({int(level) for level in (asked or own) if level.isdecimal() and int(level) > limit})
    if not too_long:
        return
    text = f"{', '.join(map(str, too_long))} tokens are above the model's limit of {limit}"
    if not asked:
        fitting = ", ".join(level for level in dict.fromkeys(own) if not level.isdecimal() or int(level) <= limit)
        text += f"; name the levels to make: {axis}: [{fitting}]"
    problems.say(f"{place}.axes.{axis}", text)


def _left_out(spec: SliceSpec, task: TaskInfo) -> bool:
    """Whether the slice's choice of tasks and axes keeps a task out."""
    if spec.tasks:
        return task.name not in spec.tasks
    return task.optional or any(axis not in task.levels for axis in spec.axes)
