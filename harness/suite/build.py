"""One slice of a config to its items: which tasks, what to ask of their generators, what came, into which strata.

Knows the config's slice, the catalogue and lm_eval tasks as objects. Whatever is wrong becomes a Problem with its path.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from harness.config.fields import suggestion
from harness.config.schema import SliceSpec
from harness.errors import UsageError
from harness.records import Item
from harness.suite import tasks as slices_tasks
from harness.suite.catalogue import SliceInfo, TaskInfo, catalogue
from harness.suite.items import OWN_OPTIONS, Prompting, counted, doc_level, make_item
from harness.suite.problems import Problems, check_spec
from harness.suite.toolkit.seeded import hash_order
from harness.suite.toolkit.strata import NoItems, level_text, stratum_of
from harness.suite.toolkit.traffic import BadRows

__all__ = ["SliceBuilder"]

TASK = "task"
"""The axis that every slice has: which of its tasks made the item."""


class SliceBuilder:
    """Makes the items of one slice after another."""

    def __init__(self, seed: int, how: Prompting, limit: int | None, context_limit: int | None) -> None:
        self.seed, self.how, self.limit, self.context_limit = seed, how, limit, context_limit

    def build(self, spec: SliceSpec, place: str, problems: Problems) -> list[Item]:
        """Give the items of a slice, or say what is wrong with it."""
        info = next((one for one in catalogue() if one.name == spec.name), None)
        if info is None:
            return self._foreign(spec, place, problems)
        before = len(problems.found)
        check_spec(spec, info, place, self.context_limit, problems)
        return [] if len(problems.found) > before else self._own(spec, info, place, problems)

    def _count(self, spec: SliceSpec) -> int:
        return spec.items if self.limit is None else min(spec.items, self.limit)

    # ------------------------------------------------------------------------------------- slices of ours

    def _own(self, spec: SliceSpec, info: SliceInfo, place: str, problems: Problems) -> list[Item]:
        notes = [info.task_info(name) for name in spec.tasks] or [note for note in info.task_infos if not note.optional]
        having = [note for note in notes if all(_has(note, axis) for axis in spec.axes)]
        if missing := [note.name for note in notes if note not in having and spec.tasks] or (not having):
            names = ", ".join(missing) if isinstance(missing, list) else info.name
            problems.say(f"{place}.axes", f"{names} has not all of these axes together: {', '.join(spec.axes)}")
            return []
        items: list[Item] = []
        before = len(problems.found)
        for note in having:
            if lacking := [axis for axis in spec.split_by or () if axis != TASK and not _has(note, axis)]:
                text = f"{note.name} has no axis {lacking[0]!r}: choose the tasks that have it with tasks: [...]"
                problems.say(f"{place}.split_by", text)
                continue
            items += self._own_task(spec, info, note, place, problems)
        if not items and len(problems.found) == before:
            problems.say(f"{place}.axes" if spec.axes else place, f"{info.name} has nothing to ask on these levels")
        return items

    def _own_task(self, spec: SliceSpec, info: SliceInfo, note: TaskInfo, place: str, problems: Problems) -> list[Item]:
        split_by = note.split_by if spec.split_by is None else tuple(axis for axis in spec.split_by if axis != TASK)
        metadata = {
            "seed": self.seed,
            "items": self._count(spec),
            "axes": {axis: [level_text(level) for level in levels] for axis, levels in spec.axes.items()},
            "split_by": list(split_by),
            "tokenizer": self.how.tokenizer,
            "chat_template": self.how.template,
            "system": self.how.system,
            "chat": self.how.chat,
            **({"data_dir": spec.data_dir} if spec.data_dir is not None else {}),
            **{name: value for name, value in spec.options.items() if name not in OWN_OPTIONS},
        }
        task = self._made(note, metadata, spec, place, problems)
        if task is None:
            return []
        by_task = TASK in spec.split_by if spec.split_by is not None else info.splits_by_task
        full_split = (*((TASK,) if by_task else ()), *split_by)
        placed = [
            ({TASK: note.label} | _levels(doc, note.levels) | dict(doc.get(note.free_axes) or {}), number, doc)
            for number, doc in enumerate(task.eval_docs)
        ]
        if not note.at_most:
            self._check_counts(spec, placed, split_by, place, problems)
        return self._items(task, placed, full_split, spec)

    def _made(
        self, note: TaskInfo, metadata: Mapping[str, Any], spec: SliceSpec, place: str, problems: Problems
    ) -> Any | None:
        """Let the task make its documents; None where it cannot, and why is a problem.

        That it has nothing to ask is a problem only where it was named, or where it is the slice's last task.
        """
        try:
            return slices_tasks.own_tasks([note.name], metadata)[note.name]
        except NoItems as error:
            if spec.tasks:
                problems.say(f"{place}.tasks", f"{note.name}: {error}")
        except BadRows as error:
            for line in error.lines:
                problems.say_once(f"{place}.options.file", line)
        except (ValueError, OSError) as error:
            problems.say_once(place, f"{note.name}: {error}")
        except Exception as error:
            if (text := slices_tasks.describe_task_error(error)) is None:
                raise
            problems.say_once(place, f"{note.name}: {text}")
        return None

    def _check_counts(
        self,
        spec: SliceSpec,
        placed: Sequence[tuple[Mapping[str, str], int, Any]],
        split_by: Sequence[str],
        place: str,
        problems: Problems,
    ) -> None:
        """Say which strata came with fewer items than were asked for, and which levels not at all."""
        wanted = self._count(spec)
        for axis, levels in spec.axes.items():
            seen = {own[axis] for own, _, _ in placed}
            for level in map(level_text, levels):
                if level not in seen and (axis in split_by or not seen):
                    problems.say(f"{place}.axes.{axis}", f"no item has the level {level!r}")
        counts = Counter(stratum_of(own, split_by) for own, _, _ in placed)
        for stratum, count in counts.items():
            if count < wanted:
                text = (
                    f"the stratum {stratum!r} has only {count} items, {wanted} are asked for: ask for at most {count}"
                )
                problems.say(f"{place}.items", f"{text}, or leave its level out with axes")

    def _items(
        self,
        task: Any,
        placed: Iterable[tuple[Mapping[str, str], int, Mapping[str, Any]]],
        split_by: Sequence[str],
        spec: SliceSpec,
    ) -> list[Item]:
        made = [self._item(task, spec, split_by, levels, number, doc) for levels, number, doc in placed]
        return counted(made, self.how)

    def _item(
        self, task: Any, spec: SliceSpec, split_by: Sequence[str], levels: Mapping[str, str], number: int, doc: Any
    ) -> Item:
        return make_item(task, number, doc, levels, split_by, spec.key, self.how, spec.options)

    # -------------------------------------------------------------------------- any task that lm_eval ships

    def _foreign(self, spec: SliceSpec, place: str, problems: Problems) -> list[Item]:
        known = slices_tasks.lm_eval_names()
        if spec.name not in known:
            near = suggestion(spec.name, [*(one.name for one in catalogue()), *known])
            ours = ", ".join(one.name for one in catalogue())
            problems.say(f"{place}.name", f"{spec.name!r} is neither a slice ({ours}) nor an lm_eval task.{near}")
            return []
        if slices_tasks.runs_code_unconfined(spec.name):
            problems.say(f"{place}.name", _unconfined(spec.name))
            return []
        options = {name: value for name, value in spec.options.items() if name not in OWN_OPTIONS}
        try:
            tasks = slices_tasks.shipped_tasks(spec.name, options | {"tokenizer": self.how.tokenizer})
        except (OSError, ValueError) as error:  # datasets' errors are among them: no network, no such data set
            problems.say(f"{place}.name", f"{spec.name!r} cannot be loaded: {' '.join(str(error).split())[:300]}")
            return []
        if unsafe := [name for name, task in tasks.items() if task.config.unsafe_code]:
            problems.say(f"{place}.name", _unconfined(unsafe[0]))
            return []
        if unknown := [name for name in spec.tasks if name not in tasks]:
            problems.say(
                f"{place}.tasks", f"{unknown[0]!r} is no task of {spec.name}.{suggestion(unknown[0], list(tasks))}"
            )
            return []
        chosen = {name: task for name, task in tasks.items() if not spec.tasks or name in spec.tasks}
        split_by = spec.split_by if spec.split_by is not None else ((TASK,) if len(chosen) > 1 else ())
        items: list[Item] = []
        for name, task in chosen.items():
            items += self._foreign_task(spec, name, task, split_by, place, problems)
        return items

    def _foreign_task(
        self, spec: SliceSpec, name: str, task: Any, split_by: Sequence[str], place: str, problems: Problems
    ) -> list[Item]:
        axes = list(dict.fromkeys([*spec.axes, *(axis for axis in split_by if axis != TASK)]))
        docs = list(enumerate(task.eval_docs))
        for axis in axes:
            if any(doc_level(doc, axis) is None for _, doc in docs):
                fields = sorted(docs[0][1]) if docs else []
                problems.say(f"{place}.axes.{axis}", f"{axis!r} is no field of {name}.{suggestion(axis, fields)}")
                return []
        keep = {axis: {level_text(level) for level in levels} for axis, levels in spec.axes.items()}
        placed = [({TASK: name} | _levels(doc, axes), number, doc) for number, doc in docs]
        placed = [one for one in placed if all(one[0][axis] in levels for axis, levels in keep.items())]
        placed = self._some(spec, placed, split_by, name)
        self._check_counts(spec, placed, split_by, place, problems)
        try:
            if not task.config.num_fewshot:
                return self._items(task, placed, split_by, spec)
            return self._with_examples(task, docs, placed, split_by, spec)
        except UsageError as error:
            problems.say(f"{place}.name", str(error))
            return []

    def _some(
        self, spec: SliceSpec, placed: Sequence[tuple[Any, int, Any]], split_by: Sequence[str], name: str
    ) -> list[tuple[Any, int, Any]]:
        """Keep the wanted number per stratum, a lasting random choice, in the data's order."""
        kept: Counter[str] = Counter()
        chosen = []
        for one in sorted(placed, key=lambda one: hash_order(str(one[1]), self.seed, name)):
            stratum = stratum_of(one[0], split_by)
            kept[stratum] += 1
            if kept[stratum] <= self._count(spec):
                chosen.append(one)
        return sorted(chosen, key=lambda one: one[1])

    def _with_examples(
        self,
        task: Any,
        docs: Sequence[tuple[int, Any]],
        placed: Sequence[tuple[Any, int, Any]],
        split_by: Sequence[str],
        spec: SliceSpec,
    ) -> list[Item]:
        """Build the prompts of all documents in order: lm_eval draws the examples of one after those of the last."""
        by_number = {number: levels for levels, number, _ in placed}
        unplaced = dict.fromkeys(split_by, "")
        built = [self._item(task, spec, split_by, by_number.get(number, unplaced), number, doc) for number, doc in docs]
        kept = [item for (number, _), item in zip(docs, built, strict=True) if number in by_number]
        return counted(kept, self.how)


def _unconfined(name: str) -> str:
    return f"{name} runs generated code in lm_eval's own process, with all its rights: use the slice 'code' instead"


def _has(note: TaskInfo, axis: str) -> bool:
    return axis == TASK or axis in note.levels or bool(note.free_axes)


def _levels(doc: Mapping[str, Any], axes: Iterable[str]) -> dict[str, str]:
    return {axis: doc_level(doc, axis) or "" for axis in axes}
