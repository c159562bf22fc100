"""What can be wrong with the slices of a config, found before anything is generated.

Pure checks of names against descriptions. Knows configs and the catalogue, not lm_eval.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from harness.config.schema import MOST_ITEMS, Experiment, SliceSpec, suggestion
from harness.errors import Problem, UsageError
from harness.suite.catalogue import SliceInfo, TaskInfo
from harness.suite.toolkit.strata import level_text

__all__ = ["Problems", "check_spec", "select", "template_problems"]


class Problems:
    """All problems so far."""

    def __init__(self) -> None:
        self.found: list[Problem] = []

    def add(self, more: Sequence[Problem]) -> None:
        """Add problems."""
        self.found += more

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


def template_problems(experiment: Experiment, tokenizer: Any, *, used: bool) -> list[Problem]:
    """Find a chat template that is asked for and missing, and a system message that nothing would carry."""
    problems = []
    if experiment.sampling.chat_template is True and not getattr(tokenizer, "chat_template", None):
        text = "true, but the baseline's tokenizer has no chat template: write auto or false, or take an instruct model"
        problems.append(Problem("sampling.chat_template", text))
    if experiment.sampling.chat_template_kwargs and not used:
        text = "are given, but no chat template is used to read them: leave them out, or use a model that has one"
        problems.append(Problem("sampling.chat_template_kwargs", text))
    if experiment.sampling.system is not None and not used:
        text = "is given, but no chat template is used to carry it: leave it out, or use a model that has one"
        problems.append(Problem("sampling.system", text))
    return problems


def check_spec(spec: SliceSpec, info: SliceInfo, place: str, context_limit: int | None) -> list[Problem]:
    """Find what is wrong with one slice of ours, by its description alone."""
    problems = _task_problems(spec, info, place)
    notes = [info.task_info(name) for name in spec.tasks if name in info.tasks] or list(info.task_infos)
    if too_many := _count_problems(spec, notes, place):
        return [*problems, *too_many]
    for axis, levels in spec.axes.items():
        problems += _axis_problems(axis, levels, info, notes, f"{place}.axes")
    known = sorted({axis for note in notes for axis in note.levels} | {"task"})
    for axis in spec.split_by or ():
        if axis not in known and not any(note.free_axes for note in notes):
            problems.append(
                Problem(f"{place}.split_by", f"{axis!r} is no axis of {info.name}.{suggestion(axis, known)}")
            )
    if context_limit is not None:
        problems += _context_problems(spec, notes, place, context_limit)
    if spec.data_dir is not None and not Path(spec.data_dir).is_dir():
        problems.append(Problem(f"{place}.data_dir", f"{spec.data_dir!r} is not a folder"))
    options = sorted({"metric", *(name for note in notes for name in note.options)})
    for name in spec.options:
        if name not in options:
            problems.append(
                Problem(f"{place}.options.{name}", f"is no option of {info.name}.{suggestion(name, options)}")
            )
    return problems


def _task_problems(spec: SliceSpec, info: SliceInfo, place: str) -> list[Problem]:
    return [
        Problem(f"{place}.tasks", f"{name!r} is no task of {info.name}.{suggestion(name, info.tasks)}")
        for name in spec.tasks
        if name not in info.tasks
    ]


def _axis_problems(
    axis: str, levels: Sequence[object], info: SliceInfo, notes: Sequence[TaskInfo], place: str
) -> list[Problem]:
    having = [note for note in notes if axis in note.levels]
    if not having:
        if any(note.free_axes for note in notes):
            return []
        known = sorted({name for note in notes for name in note.levels})
        return [Problem(f"{place}.{axis}", f"{axis!r} is no axis of {info.name}.{suggestion(axis, known)}")]
    if not levels:
        return [Problem(f"{place}.{axis}", "is left without a level: give at least one, or leave the axis out")]
    known = list(dict.fromkeys(level for note in having for level in note.levels[axis]))
    is_open = any(one.name == axis and one.open for one in info.axes)
    problems = []
    for level in map(level_text, levels):
        if level in known or (is_open and level.isdecimal() and int(level) > 0):
            continue
        also = " (other whole numbers above 0 are possible)" if is_open else ""
        problems.append(Problem(f"{place}.{axis}", f"{level!r} is no level of {axis}.{suggestion(level, known)}{also}"))
    return problems


def _count_problems(spec: SliceSpec, notes: Sequence[TaskInfo], place: str) -> list[Problem]:
    """Find levels that multiply to more than anyone can ask, before they are multiplied out."""
    for note in notes:
        if _left_out(spec, note):
            continue
        counts = {axis: len(spec.axes.get(axis, own)) for axis, own in note.levels.items()}
        split_by = note.split_by if spec.split_by is None else spec.split_by
        strata = math.prod(counts.get(axis, 1) for axis in split_by)
        most = max(math.prod(counts.values()), 0 if note.at_most else strata * spec.items)
        if most > MOST_ITEMS:
            text = (
                f"{note.name} would have {strata:,} strata of {spec.items:,} items from {math.prod(counts.values()):,} "
                f"combinations of levels: at most {MOST_ITEMS:,} are made. Ask for fewer levels or items"
            )
            return [Problem(f"{place}.axes" if spec.axes else f"{place}.items", text)]
    return []


def _context_problems(spec: SliceSpec, notes: Sequence[TaskInfo], place: str, limit: int) -> list[Problem]:
    """Find lengths above the model's limit; the level counts prompt and answer, so the limit itself is allowed."""
    axis = "context_tokens"
    asked = [level_text(level) for level in spec.axes.get(axis, ())]
    own = [level for note in notes if not _left_out(spec, note) for level in note.levels.get(axis, ())]
    too_long = sorted({int(level) for level in (asked or own) if level.isdecimal() and int(level) > limit})
    if not too_long:
        return []
    text = f"{', '.join(map(str, too_long))} tokens are above the model's limit of {limit}"
    if not asked:
        fitting = ", ".join(level for level in dict.fromkeys(own) if not level.isdecimal() or int(level) <= limit)
        text += f"; name the levels to make: {axis}: [{fitting}]"
    return [Problem(f"{place}.axes.{axis}", text)]


def _left_out(spec: SliceSpec, note: TaskInfo) -> bool:
    """Whether the slice's choice of tasks and axes keeps a task out."""
    if spec.tasks:
        return note.name not in spec.tasks
    return note.optional or any(axis not in note.levels for axis in spec.axes)
