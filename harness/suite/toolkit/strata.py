"""Levels, cells and strata: which items a slice needs, and which cell of its axes each falls into."""

import itertools
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.records import stratum_name
from harness.suite.toolkit.seeded import hash_order

Cell = Mapping[str, str]  # axis to level


class NoItems(ValueError):
    """A task has nothing to ask of what is wanted: another task of the slice may."""


NONE = "none"  # the level of an item that an axis does not apply to, such as the depth of a needle that is absent


def level_text(value: object) -> str:
    """Give a level as the one text that names it: 3, 3.0 and "3" are the same level."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value).removesuffix(".0") if isinstance(value, float) else str(value)


def stratum_of(levels: Mapping[str, str], split_by: Sequence[str]) -> str:
    """Name the stratum of an item: its levels on the axes that split, in their order."""
    return stratum_name({axis: levels[axis] for axis in split_by})


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a task is asked to make."""

    seed: int  # root of every random choice
    items: int  # per stratum
    axes: Mapping[str, tuple[str, ...]]  # every axis of the task to the levels to make or keep
    split_by: tuple[str, ...]  # the axes whose cells are strata


def wanted(metadata: Mapping[str, Any]) -> Wanted:
    """Read what is asked for out of lm_eval's `metadata`.

    ``levels`` (axis to levels) is the task's own default and ``axes`` what was asked for, axis by axis. Raises
    ValueError where an axis is not the task's, an axis is left without a level, or items is not a positive number.
    """
    levels: Mapping[str, Any] = metadata["levels"]
    asked: Mapping[str, Any] = metadata.get("axes") or {}
    if unknown := sorted(set(asked) - set(levels)):
        raise ValueError(f"no axis {unknown[0]!r}; this task has {', '.join(levels)}")
    axes = {axis: tuple(level_text(one) for one in asked.get(axis, own)) for axis, own in levels.items()}
    if empty := [axis for axis, own in axes.items() if not own]:
        raise ValueError(f"axis {empty[0]!r} is left without a level")
    told = metadata.get("split_by")
    split_by = tuple(levels) if told is None else tuple(told)
    if strange := sorted(set(split_by) - set(levels)):
        raise ValueError(f"no axis {strange[0]!r} to split by; this task has {', '.join(levels)}")
    if (items := int(metadata.get("items", 32))) < 1:
        raise ValueError(f"{items} items per stratum is none at all")
    return Wanted(int(metadata.get("seed", 0)), items, axes, split_by)


def cue(metadata: Mapping[str, Any]) -> str:
    """Give the task's ``cue``, which ends prompts without a chat template: a base model may go on with the question."""
    return f"\n{metadata.get('cue', 'The answer is:')}" if metadata.get("chat_template") is False else ""


def with_cue(docs: Iterable[Mapping[str, Any]], metadata: Mapping[str, Any]) -> list[dict[str, Any]]:
    """End the documents' prompts with the task's cue, or their own (``cue``, dropped), if there is no chat template."""
    made = []
    for doc in map(dict, docs):
        own = {"cue": doc.pop("cue")} if "cue" in doc else {}
        made.append(doc | {"prompt": doc["prompt"] + cue({**metadata, **own})})
    return made


def cells(axes: Mapping[str, Sequence[str]]) -> list[dict[str, str]]:
    """Give every combination of the axes' levels, the last axis turning fastest."""
    return [dict(zip(axes, combination, strict=True)) for combination in itertools.product(*axes.values())]


def draw_plan(available: Iterable[Cell], split_by: Sequence[str], items: int) -> list[tuple[dict[str, str], int]]:
    """Spread the items of each stratum evenly over its cells: pairs of cell and number of the item within the cell.

    What a generator makes of a pair depends on the pair, and on the earlier ones of its cell where it avoids a
    repetition, so asking for more items, or for more levels of an axis that splits, leaves those as they were.
    """
    strata: dict[str, list[dict[str, str]]] = defaultdict(list)
    for cell in available:
        strata[stratum_of(cell, split_by)].append(dict(cell))
    return [(own[number % len(own)], number // len(own)) for own in strata.values() for number in range(items)]


def sample_documents(
    docs: Iterable[Mapping[str, Any]], want: Wanted, task: str, rank: Callable[[Mapping[str, Any]], int] = lambda _: 0
) -> list[dict[str, Any]]:
    """Keep the documents on the wanted levels, and of each stratum the wanted number.

    Which ones is a lasting random choice by the document's ``cluster``, so that languages that share their problems
    keep the same problems; those of a lower `rank` come first. Documents carry ``id``, ``cluster`` and each axis as
    text. Raises NoItems where none is left.
    """

    def order(doc: Mapping[str, Any]) -> tuple[int, str, str]:
        return rank(doc), hash_order(str(doc["cluster"]), want.seed, task), str(doc["id"])

    strata: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for doc in docs:
        if all(doc[axis] in levels for axis, levels in want.axes.items()):
            strata[stratum_of({axis: doc[axis] for axis in want.axes}, want.split_by)].append(dict(doc))
    kept = [doc for own in strata.values() for doc in sorted(own, key=order)[: want.items]]
    if not kept:
        raise NoItems(f"{task} has no item on these levels")
    return kept
