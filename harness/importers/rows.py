"""Rows that an importer collects, one per answer, and how they become `Outcomes`: one score per item.

Several answers to an item become their mean where that is asked for, or where the format says that they are
repetitions; the same answer written twice counts once and is named. It knows no file format.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from harness.errors import NotComparable, UsageError
from harness.judge.outcomes import Outcomes, build
from harness.records import stratum_name

__all__ = ["ImportOptions", "Rows", "as_level", "as_score", "dig"]

_SHOWN = 3
_UNANSWERED = frozenset({"", "na", "n/a", "nan", "none", "null"})
_WORDS = {"true": 1.0, "false": 0.0}


@dataclass(frozen=True, slots=True)
class ImportOptions:
    """How to read what others wrote. Each format uses what applies to it."""

    item: str | None = None
    """Column of a table that names the item; ``item`` unless given."""
    score: str | None = None
    """Column of a table that holds the score; ``score`` unless given."""
    strata: tuple[str, ...] = ()
    """Columns, fields of lm_eval's doc, or fields of Inspect's metadata that split; dots step into objects."""
    cluster: str | None = None
    """The same for the source that items share."""
    slice: str | None = None
    """Column of a table that names the slice; everything is one slice, ``all``, unless given."""
    prompt: str | None = None
    """Column of a table with what was asked, or its hash: items asked differently do not match."""
    weight: str | None = None
    """Column of a table with the share of traffic."""
    chance: float | None = None
    """The score that guessing would give; taken from the number of choices where a log has them, else 0."""
    metric: str | None = None
    """Metric of an lm_eval log, or scorer (``scorer`` or ``scorer.key``) of an Inspect log; found unless given."""
    filter: str | None = None
    """Filter of an lm_eval log, where a task has several; the first unless given."""
    repeats: Literal["refuse", "mean"] = "refuse"
    """What to do with an item that stands in a table several times with different scores."""

    @property
    def axes(self) -> tuple[str, ...]:
        """What the strata's axes are called: the last step of each field, where that tells them apart."""
        short = tuple(name.rsplit(".", 1)[-1] for name in self.strata)
        return short if len(set(short)) == len(short) else self.strata

    @property
    def fields(self) -> tuple[str, ...]:
        """Every field that has to be looked up in a document."""
        return (*self.strata, *(() if self.cluster is None else (self.cluster,)))


@dataclass(slots=True)
class Rows:
    """Answers as they are read, in columns."""

    source: str
    """What a message calls the file."""
    items: list[str] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    prints: list[int] = field(default_factory=list)
    slices: list[str] = field(default_factory=list)
    levels: list[tuple[str, ...]] = field(default_factory=list)
    clusters: list[str] = field(default_factory=list)
    chances: list[float] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)
    measure: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def outcomes(self, name: str, options: ImportOptions, *, repeated: bool = False) -> Outcomes:
        """Give one score per item. repeated: the format says that several answers to an item are repetitions.

        Raises NotComparable where an item has several scores and nothing says to average them, and where `build` does.
        """
        if not self.items:
            raise NotComparable(f"{self.source}: holds no answers")
        first, scores = self._collapsed(mean=repeated or options.repeats == "mean")
        kept = [self.levels[at] for at in first]
        axes = options.axes
        names = [stratum_name(dict(zip(axes, level, strict=True))) for level in kept]
        return build(
            name,
            [self.items[at] for at in first],
            scores,
            slices=[self.slices[at] for at in first],
            strata=names,
            clusters=[self.clusters[at] for at in first] if self.clusters else None,
            fingerprints=np.array([self.prints[at] for at in first], np.uint64) if self.prints else None,
            chance=[self.chances[at] for at in first] if self.chances else 0.0,
            weight=[self.weights[at] for at in first] if self.weights else 1.0,
            levels={axis: [level[at] for level in kept] for at, axis in enumerate(axes)},
            measure=self.measure,
            notes=tuple(self.notes),
        )

    def _collapsed(self, *, mean: bool) -> tuple[list[int], list[float]]:
        """Give the first row of each item, and the item's score."""
        rows: dict[str, list[int]] = {}
        for at, item in enumerate(self.items):
            rows.setdefault(item, []).append(at)
        if len(rows) == len(self.items):
            return list(range(len(self.items))), self.scores
        several = {item: at for item, at in rows.items() if len(at) > 1}
        self._check_same_question(several)
        if not mean:
            self._check_same_answer(several)
            self.notes.append(
                f"{self.source}: given more than once, with one score, and counted once: {_shown(several)}"
            )
        first = [at[0] for at in rows.values()]
        return first, [math.fsum(self.scores[one] for one in at) / len(at) for at in rows.values()]

    def _check_same_question(self, several: Mapping[str, list[int]]) -> None:
        for item, at in several.items():
            asked = {(self.slices[one], self.levels[one], self.prints[one] if self.prints else 0) for one in at}
            if len(asked) > 1:
                raise NotComparable(f"{self.source}: {item!r} names {len(asked)} different items: ids must be unique")

    def _check_same_answer(self, several: Mapping[str, list[int]]) -> None:
        mixed = [item for item, at in several.items() if len({repr(self.scores[one]) for one in at}) > 1]
        if mixed:
            raise NotComparable(
                f"{self.source}: {len(mixed)} items have several scores ({_shown(mixed)}): an item has one; where "
                "these are several answers to it, ask for their mean (--repeats mean)"
            )


def _shown(names: Mapping[str, Any] | list[str]) -> str:
    listed = sorted(names)
    return ", ".join(listed[:_SHOWN]) + (", ..." if len(listed) > _SHOWN else "")


def as_score(value: object, where: str) -> float:
    """Read one score: a number, a boolean, or either as text; NaN where there is none. Raises NotComparable."""
    if value is None:
        return math.nan
    if isinstance(value, (bool, int, float)):
        return float(value)
    if isinstance(value, str):
        text = value.strip().lower()
        if text in _UNANSWERED:
            return math.nan
        if text in _WORDS:
            return _WORDS[text]
        try:
            return float(text)
        except ValueError:
            pass
    raise NotComparable(f"{where}: {value!r} is not a score: a number in [0, 1] is needed")


def as_level(value: object) -> str:
    """Write a level as a person would: 3.0 as ``3``, a missing one as ``none``."""
    if value is None or value == "":
        return "none"
    if isinstance(value, bool):
        return "true" if value else "false"
    return format(value, "g") if isinstance(value, float) else str(value)


def dig(document: Mapping[str, Any], field_name: str, where: str) -> Any:
    """Step into a document by a dotted name. Raises UsageError naming the fields that are there."""
    if field_name in document:
        return document[field_name]
    found: Any = document
    for step in field_name.split("."):
        if not isinstance(found, Mapping) or step not in found:
            known = ", ".join(sorted(map(str, document))[:20]) or "none"
            raise UsageError(f"{where}: there is no field {field_name!r}; there are: {known}")
        found = found[step]
    return found
