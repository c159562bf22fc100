"""One slice of a config to its items; whatever is wrong with it becomes a Problem with its path."""

import math
from collections import Counter, defaultdict
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from harness.config.fields import suggestion
from harness.config.schema import MOST_ITEMS, SliceSpec
from harness.errors import Problem, UsageError
from harness.records import Item
from harness.suite import tasks as slices_tasks
from harness.suite.catalogue import SliceInfo, TaskInfo, catalogue, slice_named
from harness.suite.chance import guessing
from harness.suite.items import OWN_OPTIONS, Placed, Prompting, counted, doc_level, make_item, repeats_joined
from harness.suite.toolkit.seeded import hash_order
from harness.suite.toolkit.strata import NoItems, level_text, stratum_of
from harness.suite.toolkit.traffic import BadRows

TASK = "task"  # the axis that every slice has: which of its tasks made the item


class SliceBuilder:
    """Makes the items of one slice, and says what is wrong with it."""

    def __init__(self, spec: SliceSpec, place: str, problems: list[Problem], how: Prompting, seed: int) -> None:
        self.spec, self.place, self.problems, self.how, self.seed = spec, place, problems, how, seed
        self.options = {name: value for name, value in spec.options.items() if name not in OWN_OPTIONS}
        self.axes = {axis: [level_text(level) for level in levels] for axis, levels in spec.axes.items()}
        self.split_by = tuple(axis for axis in spec.split_by or () if axis != TASK)

    def say(self, where: str, message: str) -> list[Item]:
        """Add a problem of this slice, unless it was said already: two tasks may read the same file. Gives no items."""
        if (problem := Problem(f"{self.place}{where}", message)) not in self.problems:
            self.problems.append(problem)
        return []

    def build(self, context_limit: int | None) -> list[Item]:
        """Give the items of the slice, or say what is wrong with it."""
        info = slice_named(self.spec.name)
        if info is None:
            return self._foreign()
        before = len(self.problems)
        self.check(info, context_limit)
        return [] if len(self.problems) > before else self._own(info)

    def check(self, info: SliceInfo, context_limit: int | None) -> None:
        """Find what is wrong with a slice of ours, by its description alone."""
        spec = self.spec
        for name in spec.tasks:
            if name not in info.tasks:
                self.say(".tasks", f"{name!r} is no task of {info.name}.{suggestion(name, info.tasks)}")
        asked = [task for task in info.asked(spec.tasks) if spec.tasks or spec.axes.keys() <= task.levels.keys()]
        tasks = (asked if spec.tasks else []) or list(info.task_infos)
        if many := next(filter(None, (_too_many(spec, task) for task in asked)), ""):
            self.say(".axes" if spec.axes else ".items", many)
            return
        self._check_axes(info, tasks)
        if context_limit is not None:
            self._check_context(asked, context_limit)
        if spec.data_dir is not None and not Path(spec.data_dir).is_dir():
            self.say(".data_dir", f"{spec.data_dir!r} is not a folder")
        options = sorted({*OWN_OPTIONS, *(name for task in tasks for name in task.options)})
        for name in spec.options:
            if name not in options:
                self.say(f".options.{name}", f"is no option of {info.name}.{suggestion(name, options)}")

    def _check_axes(self, info: SliceInfo, tasks: Sequence[TaskInfo]) -> None:
        """Find axes that none of the tasks has, and levels that an axis does not have."""
        free, axes = any(task.free_axes for task in tasks), sorted({axis for task in tasks for axis in task.levels})
        for axis, levels in self.axes.items():
            if axis not in axes:
                if not free:
                    self.say(f".axes.{axis}", f"{axis!r} is no axis of {info.name}.{suggestion(axis, axes)}")
                continue
            if not levels:
                self.say(f".axes.{axis}", "is left without a level: give at least one, or leave the axis out")
            known = list(dict.fromkeys(level for task in tasks for level in task.levels.get(axis, ())))
            is_open = any(one.name == axis and one.open for one in info.axes)
            also = " (other whole numbers above 0 are possible)" if is_open else ""
            for level in levels:
                if level not in known and not (is_open and level.isdecimal() and int(level) > 0):
                    self.say(f".axes.{axis}", f"{level!r} is no level of {axis}.{suggestion(level, known)}{also}")
        for axis in self.split_by:
            if axis not in axes and not free:
                self.say(".split_by", f"{axis!r} is no axis of {info.name}.{suggestion(axis, [*axes, TASK])}")

    def _check_context(self, tasks: Sequence[TaskInfo], limit: int) -> None:
        """Find lengths above the model's limit; the level counts prompt and answer: the limit itself is allowed."""
        axis = "context_tokens"
        asked, own = self.axes.get(axis, []), [level for task in tasks for level in task.levels.get(axis, ())]
        too_long = sorted({int(level) for level in (asked or own) if level.isdecimal() and int(level) > limit})
        if too_long:
            text = f"{', '.join(map(str, too_long))} tokens are above the model's limit of {limit}"
            fitting = [level for level in dict.fromkeys(own) if not level.isdecimal() or int(level) <= limit]
            more = "" if asked else f"; name the levels to make: {axis}: [{', '.join(fitting)}]"
            self.say(f".axes.{axis}", text + more)

    def _own(self, info: SliceInfo) -> list[Item]:
        spec = self.spec
        notes = info.asked(spec.tasks)
        having = [note for note in notes if all(_has(note, axis) for axis in spec.axes)]
        if not having or (spec.tasks and len(having) < len(notes)):
            lacking = [note.name for note in notes if note not in having] if spec.tasks else [info.name]
            text = f"{', '.join(lacking)} has not all of these axes together: {', '.join(spec.axes)}"
            return self.say(".axes", text)
        items: list[Item] = []
        before = len(self.problems)
        for note in having:
            if lacking := [axis for axis in self.split_by if not _has(note, axis)]:
                text = f"{note.name} has no axis {lacking[0]!r}: choose the tasks that have it with tasks: [...]"
                self.say(".split_by", text)
            else:
                items += self._own_task(info, note)
        if items and all(note.at_most for note in having):  # a file's lines, of which there may be too few
            self._check_levels(items, self.axes if len(items) < self.spec.items else self.split_by)
        if not items and len(self.problems) == before:
            self.say(".axes" if spec.axes else "", f"{info.name} has nothing to ask on these levels")
        return items

    def _own_task(self, info: SliceInfo, note: TaskInfo) -> list[Item]:
        spec, how = self.spec, self.how
        split_by = note.split_by if spec.split_by is None else self.split_by
        metadata = {"seed": self.seed, "items": self.spec.items, "axes": self.axes, "split_by": list(split_by)}
        metadata |= {"tokenizer": how.tokenizer, "chat_template": how.template, "system": how.system, "chat": how.chat}
        metadata |= {"tools_apart": True} if how.tools_apart else {}
        metadata |= {} if spec.data_dir is None else {"data_dir": spec.data_dir}
        task = self._made(note, metadata | self.options)
        if task is None:
            return []
        placed = [
            Placed({TASK: note.label} | _levels(doc, note.levels) | dict(doc.get(note.free_axes) or {}), number, doc)
            for number, doc in enumerate(task.eval_docs)
        ]
        for axis in [axis for axis in split_by if {one.levels.get(axis) for one in placed} & {None, "", "None"}]:
            self.say(".split_by", f"{note.name} has documents without {axis!r}: give each a level, or split by others")
        if not note.at_most:
            self._check_counts(placed, split_by)
        by_task = len(info.tasks) > 1 if spec.split_by is None else TASK in spec.split_by
        items = self._items(task, placed, placed, (TASK, *split_by) if by_task else split_by)
        free = bool(note.free_axes)  # the choices of all other tasks are drawn, as likely as each other
        return _guessed(items, by_others=free) if free or task.OUTPUT_TYPE == "generate_until" else items

    def _made(self, note: TaskInfo, metadata: Mapping[str, Any]) -> Any | None:
        """Let the task make its documents; None where it cannot, which is a problem, unless an unnamed one has none."""
        try:
            return slices_tasks.build([note.name], metadata, ours=True)[note.name]
        except NoItems as error:
            if self.spec.tasks:
                self.say(".tasks", f"{note.name}: {error}")
        except BadRows as error:
            for line in error.lines:
                self.say(".options.file", line)
        except Exception as error:
            refused = isinstance(error, ValueError | OSError | IndexError)  # the last if there is no document
            if (text := str(error) if refused else slices_tasks.describe_task_error(error)) is None:
                raise
            self.say("", f"{note.name}: {text}")
        return None

    def _check_levels(self, placed: Sequence[Placed | Item], certain: Container[str]) -> None:
        """Say which levels no item has. certain: axes of whose levels none can be missing by chance."""
        for axis, levels in self.axes.items():
            seen = {one.levels.get(axis) for one in placed}
            for level in [one for one in levels if one not in seen and (axis in certain or not seen)]:
                yaml = ": write it in quotes if it is yes, no, on or off" * (level in ("true", "false"))
                self.say(f".axes.{axis}", f"no item has the level {level!r}{yaml}")

    def _check_counts(self, placed: Sequence[Placed], split_by: Sequence[str]) -> None:
        """Say which strata came with fewer items than were asked for, and which levels not at all."""
        self._check_levels(placed, split_by)
        for stratum, count in Counter(stratum_of(one.levels, split_by) for one in placed).items():
            if count < self.spec.items:
                text = f"the stratum {stratum!r} has only {count} items, {self.spec.items} are asked for"
                self.say(".items", f"{text}: ask for at most {count}, or leave its level out with axes")

    def _items(self, task: Any, asked: Sequence[Placed], kept: Iterable[Placed], split_by: Sequence[str]) -> list[Item]:
        """Build the prompts of all documents that are asked of lm_eval, in order, and keep some of the items."""
        numbers = {one.number for one in kept}
        made = [make_item(task, one, split_by, self.spec, self.how) for one in asked]
        chosen = [item for one, item in zip(asked, made, strict=True) if one.number in numbers]
        return counted(repeats_joined(chosen), self.how)

    def _foreign(self) -> list[Item]:
        spec = self.spec
        known, ours = slices_tasks.index(ours=False).all_tasks, [one.name for one in catalogue()]
        if spec.name not in known:
            text = f"{spec.name!r} is neither a slice ({', '.join(ours)}) nor an lm_eval task."
            return self.say(".name", text + suggestion(spec.name, [*ours, *known]))
        unsafe = [spec.name] if slices_tasks.runs_code_unconfined(spec.name) else []
        if not unsafe:
            try:
                tasks = slices_tasks.build([spec.name], self.options | {"tokenizer": self.how.tokenizer}, ours=False)
            except (OSError, ValueError) as error:  # datasets' errors are among them: no network, no such data set
                return self.say(".name", f"{spec.name!r} cannot be loaded: {' '.join(str(error).split())[:300]}")
            unsafe = [name for name, task in tasks.items() if task.config.unsafe_code]
        if unsafe:
            text = "runs generated code in lm_eval's own process, with all its rights: use the slice 'code' instead"
            return self.say(".name", f"{unsafe[0]} {text}")
        if unknown := [name for name in spec.tasks if name not in tasks]:
            return self.say(".tasks", f"{unknown[0]!r} is no task of {spec.name}.{suggestion(unknown[0], list(tasks))}")
        chosen = {name: task for name, task in tasks.items() if not spec.tasks or name in spec.tasks}
        split_by = spec.split_by if spec.split_by is not None else ((TASK,) if len(chosen) > 1 else ())
        return [item for name, task in chosen.items() for item in self._foreign_task(name, task, split_by)]

    def _foreign_task(self, name: str, task: Any, split_by: Sequence[str]) -> list[Item]:
        axes, docs = list(dict.fromkeys([*self.axes, *self.split_by])), list(enumerate(task.eval_docs))
        for axis in axes:
            if any(doc_level(doc, axis) is None for _, doc in docs):
                near = suggestion(axis, sorted(docs[0][1]))
                return self.say(f".axes.{axis}", f"{axis!r} is no field of {name}.{near}")
        every = [Placed({TASK: name} | _levels(doc, axes), number, doc) for number, doc in docs]
        counts: Counter[str] = Counter()
        placed = []  # of each stratum the wanted number, a lasting random choice
        fitting = [one for one in every if all(one.levels[axis] in levels for axis, levels in self.axes.items())]
        self._check_levels(fitting, self.axes if name == self.spec.name else ())
        for one in sorted(fitting, key=lambda one: hash_order(str(one.number), self.seed, name)):
            counts[stratum := stratum_of(one.levels, split_by)] += 1
            placed += [one] if counts[stratum] <= self.spec.items else []
        placed.sort(key=lambda one: one.number)
        self._check_counts(placed, split_by)
        try:  # lm_eval draws the examples of one prompt after those of the last: with examples, all prompts are built
            items = self._items(task, every if task.config.num_fewshot else placed, placed, split_by)
        except UsageError as error:
            return self.say(".name", str(error))
        return _guessed(items)


def _guessed(items: Sequence[Item], *, by_others: bool = True) -> list[Item]:
    """Return items with what guessing scores by a stratum's targets; by those of like choices if it has but one."""
    told, alike = defaultdict[Any, list[str]](list), defaultdict[Any, list[str]](list)
    for one in items:
        told[one.stratum, one.choices].append(one.target)
        alike[one.choices].append(one.target)
    best = {key: guessing(alike[key[1]] if by_others and len({*own}) == 1 else own) for key, own in told.items()}
    return [replace(one, chance=max(one.chance, best[one.stratum, one.choices])) for one in items]


def _too_many(spec: SliceSpec, task: TaskInfo) -> str:
    """Say that levels multiply to more than anyone can ask, before they are multiplied out; empty if they do not."""
    counts = {axis: len(spec.axes.get(axis, own)) for axis, own in task.levels.items()}
    split_by = task.split_by if spec.split_by is None else spec.split_by
    strata, cells = math.prod(counts.get(axis, 1) for axis in split_by), math.prod(counts.values())
    if max(cells, 0 if task.at_most else strata * spec.items) <= MOST_ITEMS:
        return ""
    text = f"{task.name} would have {strata:,} strata of {spec.items:,} items from {cells:,} combinations of levels"
    return f"{text}: at most {MOST_ITEMS:,} are made. Ask for fewer levels or items"


def _has(note: TaskInfo, axis: str) -> bool:
    return axis == TASK or axis in note.levels or bool(note.free_axes)


def _levels(doc: Mapping[str, Any], axes: Iterable[str]) -> dict[str, str]:
    return {axis: doc_level(doc, axis) or "" for axis in axes}
