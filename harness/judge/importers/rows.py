"""Answers that an importer collects, in columns, and how they become `Outcomes`: one score per item."""

import json
import math
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from harness.errors import NotComparable, UsageError
from harness.judge.outcomes import Floats, Labels, Outcomes, Said, build, listed
from harness.records import stratum_name

_WORDS = {"true": 1.0, "false": 0.0, **dict.fromkeys(("", "na", "n/a", "nan", "none", "null"), math.nan)}
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?|[+-]?inf", re.ASCII)
_LOWER = re.findall(r"^[^#\s]+", Path(__file__).with_name("less_is_better.txt").read_text("utf-8"), re.MULTILINE)
_MORE = "rate|count|total|mean|avg|max|score|norm|normali[sz]ed|prob|detected|flag|abs|perspective_api|answers?"
_MORE += "|metric|v|gpt|pct|percent(age)?|ratio|frac(tion)?|share|per_[a-z]+"  # as tables call a share
_LESS = re.compile(rf"(?:.*_)?{_LOWER[0]}(?:{'|'.join(_LOWER[1:])})(_({_MORE}))*_*")
_EXACT = 2.0**53  # whole numbers from here on are not all floats: two ids may have become one


@dataclass(frozen=True, slots=True)
class ImportOptions:
    """How to read what other tools wrote. `harness.judge.importers` knows which format takes which option."""

    item: str | None = None  # column of a table that names the item; ``item`` by default
    score: str | None = None  # column of a table that holds the score; ``score`` by default
    # Columns, fields of lm_eval's doc, or fields of Inspect's metadata; dots step into objects and nested columns.
    strata: tuple[str, ...] = ()  # those that split
    cluster: str | None = None  # the one that names the source that items share
    slice: str | None = None  # column of a table; everything is one slice, ``all``, by default
    prompt: str | None = None  # column of a table with what was asked, or its hash, which must match on both sides
    weight: str | None = None  # column of a table with the share of traffic
    chance: float | None = None  # the score that guessing would give; by default taken from a log's choices, else 0
    metric: str | Sequence[str] | None = None  # of lm_eval, or scorers (``scorer.key``) of Inspect: see `per_task`
    filter: str | Sequence[str] | None = None  # of lm_eval, the same way; a task's first by default
    repeats: Literal["refuse", "mean"] | None = None  # of an item with several scores; ``refuse`` by default

    @property
    def axes(self) -> tuple[str, ...]:
        """What the strata's axes are called: the last step of each field, if that tells them apart."""
        short = tuple(name.rsplit(".", 1)[-1] for name in self.strata)
        return short if len(set(short)) == len(short) else self.strata

    @property
    def fields(self) -> tuple[str, ...]:
        """Every field that has to be looked up in a document."""
        return self.strata if self.cluster is None else (*self.strata, self.cluster)


def per_task(
    given: str | Sequence[str] | None, tasks: Mapping[str, Sequence[str]], what: str, at: str
) -> dict[str, str]:
    """Choose a metric, scorer or filter for each task.

    given: ``NAME`` for every task that has it, or ``TASK=NAME``, with TASK a name or a pattern such as ``mmlu_*``.
    tasks: task to the names it has. Tasks that nothing was chosen for are left out. Raises UsageError, with what is
    known, if a choice applies to no task.
    """
    chosen: dict[str, str] = {}
    for one in sorted([given] if isinstance(given, str) else given or (), key=lambda text: "=" in text):
        glob, equals, name = one.rpartition("=")
        matched = [task for task in tasks if not equals or fnmatchcase(task, glob)]
        if not matched:
            raise UsageError(f"{at}: --{what} {one}: there is no task {glob!r}; there are: {', '.join(tasks)}")
        having = [task for task in matched if name in tasks[task]]
        if not having or (equals and len(having) < len(matched)):
            known = sorted(dict.fromkeys(one for task in matched for one in tasks[task]), key="none".__eq__)
            raise UsageError(f"{at}: there is no {what} {name!r}; there are: {', '.join(known) or 'none'}")
        for task in having:
            chosen[task] = name if equals else chosen.get(task, name)
    return chosen


def less_is_better(metric: str) -> bool:
    """Whether a metric, ``scorer.key`` or ``metric,filter`` is known to be no score, because less of it is better."""
    words = re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", metric.partition(",")[0])
    return _LESS.fullmatch(re.sub(r"[^a-z]+", "_", words.lower())) is not None


def best_metric(task: str, known: Sequence[str], preferred: Sequence[str], source: Path) -> str:
    """Return the first preferred of the scores of a task, or its only one. Raises UsageError if neither is there."""
    if len(found := [one for one in preferred if one in known] or known) != 1 and found is known:
        listed = ", ".join(known) or "none"
        raise UsageError(f"{source}: which metric is the score? Give --metric '{task}=NAME', one of {listed}")
    return found[0]


def check_one_model(source: object, made: Iterable[Mapping[str, Any]]) -> None:
    """Raise UsageError if results are of several models; made: what each file says of its model, empty if nothing."""
    told = sorted({(key, str(value)) for one in made for key, value in one.items() if value != ""})
    for (key, one), (other, two) in pairwise(told):
        if key == other:
            raise UsageError(f"{source}: holds results of several models ({key}: {one} and {two}): give those of one")


@dataclass(slots=True)
class Rows:
    """Answers as they are read: logs `add` them one by one to lists, tables give arrays and `Labels`."""

    source: str  # what a message calls the file
    options: ImportOptions
    items: list[str] = field(default_factory=list)
    scores: Any = field(default_factory=list)
    prints: Any = field(default_factory=list)
    slices: Any = field(default_factory=list)
    levels: dict[str, Any] = field(default_factory=dict)  # axis to level; an empty name if an item has no such axis
    clusters: Any = None  # None if every item is a source by itself
    chances: list[float] = field(default_factory=list)
    weights: Floats | None = None
    common: Mapping[str, str] = field(default_factory=dict)  # levels of the answers that are added next
    measure: dict[str, str] = field(default_factory=dict)
    settings: dict[str, str] = field(default_factory=dict)  # what must agree beside the metric
    notes: list[str] = field(default_factory=list)
    sources: dict[str, tuple[str, str]] = field(default_factory=dict)  # see `Outcomes`
    said: Any = field(default_factory=lambda: defaultdict[str, set[Said]](set))  # a table's is a function

    def add(
        self, item: str, score: float, document: Mapping[str, Any], where: str, *, task: str, asked: int, chance: float
    ) -> None:
        """Add one answer of a log.

        document: what strata and clusters are looked up in; `where` it is, for messages. task: its slice. asked: see
        `harness.judge.outcomes.fingerprint`. Raises UsageError if the document lacks a field.
        """
        options = self.options
        strata = zip(options.axes, options.strata, strict=True)
        found = {**self.common, **{axis: as_level(dig(document, one, where)) for axis, one in strata}}
        for axis in {**self.levels, **found}:
            self.levels.setdefault(axis, [""] * len(self.items)).append(found.get(axis, ""))
        if options.cluster:
            self.clusters = self.clusters or []
            source = as_level(dig(document, options.cluster, where))
            self.clusters.append(f"{task}/{source}" if source != "none" else f"none: {item}")
        self.items.append(item)
        self.scores.append(score)
        self.prints.append(asked)
        self.slices.append(task)
        self.chances.append(chance)

    def rerun(self, task: str, asked: Mapping[Path, Collection[str]]) -> None:
        """Note that a task was run several times. asked: what each file asked, the newest last. Raises UsageError."""
        newest = list(asked)[-1]
        if any(set(one) != set(asked[newest]) for one in asked.values()):
            text = f"was run with other items or prompts ({', '.join(one.name for one in asked)}): keep one run's file"
            raise UsageError(f"{self.source}: {task} {text}")
        self.notes.append(f"{self.source}: {task} was run {len(asked)} times; the newest counts ({newest.name})")

    def outcomes(self, name: str) -> Outcomes:
        """Return one score per item. Raises NotComparable if an item has several that are not to be averaged."""
        if not self.items:
            raise NotComparable(f"{self.source}: holds no answers")
        if lower := [one for one in (*self.measure.values(), self.options.score or "") if less_is_better(one)]:
            text = "is not a score: less of it is better"
            raise UsageError(f"{self.source}: {lower[0]} {text}: give a metric of which more is better")
        levels = {axis: Labels.of(values) for axis, values in self.levels.items()}
        columns = [Labels.of(self.slices), _strata(levels, len(self.items), self.source)]
        columns += [] if self.clusters is None else [Labels.of(self.clusters)]
        prints = np.array(self.prints, np.uint64) if len(self.prints) else np.zeros(len(self.items), np.uint64)
        first, scores = self._collapsed(np.asarray(self.scores, np.float64), [one.codes for one in columns] + [prints])
        slices, strata, *clusters = (Labels(one.codes[first], one.names) for one in columns)
        chance = np.asarray(self.chances)[first] if self.chances else 0.0
        told = build(
            name,
            self.items if isinstance(first, slice) else [self.items[at] for at in first],
            scores,
            slices=slices,
            strata=strata,
            clusters=clusters[0] if clusters else None,
            fingerprints=prints[first],
            chance=chance if self.options.chance is None else self.options.chance,
            weight=1.0 if self.weights is None else self.weights[first],
            levels={axis: Labels(one.codes[first], one.names) for axis, one in levels.items()},
            measure=self.measure,
            settings=self.settings,
            notes=tuple(self.notes),
            unique=True,
        )
        return replace(told, sources=self.sources, said=cache(self.said) if callable(self.said) else lambda: self.said)

    def _collapsed(self, scores: Floats, facts: Sequence[NDArray[Any]]) -> tuple[slice | NDArray[np.int64], Floats]:
        """Return the first row of each item, and the item's score. facts: columns that must agree among its rows."""
        mean = self.options.repeats == "mean"
        if len(set(self.items)) == len(self.items) and not mean:
            return slice(None), scores
        rows_of: dict[str, list[int]] = defaultdict(list)
        for row, item in enumerate(self.items):
            rows_of[item].append(row)
        several = {item: rows for item, rows in rows_of.items() if len(rows) > 1}
        for item, rows in several.items():
            if (count := len({tuple(int(column[row]) for column in facts) for row in rows})) > 1:
                raise NotComparable(f"{self.source}: {item!r} names {count} different items: ids must be unique")
        if not mean:
            if mixed := [item for item, rows in several.items() if len({str(scores[row]) for row in rows}) > 1]:
                text = f"{len(mixed)} items have several scores ({listed(mixed)}): an item has one score"
                advice = "If these are several answers to it, ask for their mean (--repeats mean)"
                raise NotComparable(f"{self.source}: {text}. {advice}")
            text = "given more than once, with one score, and counted once"
            self.notes.append(f"{self.source}: {text}: {listed(several)}")
        counts = {(facts[0][rows[0]], len(rows)) for rows in rows_of.values()} if mean else set()  # by slice
        for code, count in sorted(counts):
            what = f"the number of scores of an item of {Labels.of(self.slices).names[code]}"
            if self.settings.setdefault(what, str(count)) != str(count):
                text = f"{what} is {self.settings[what]} and {count}: what was asked until it was right has no mean"
                raise NotComparable(f"{self.source}: {text}: give equally many of each, empty if there is none")
        means = [math.fsum(scores[rows]) / len(rows) for rows in rows_of.values()]
        return np.array([rows[0] for rows in rows_of.values()]), np.array(means)


def _strata(levels: Mapping[str, Labels], count: int, source: str) -> Labels:
    """Name each item's cell of the axes. Raises UsageError if two cells would have one name."""
    key: NDArray[Any] = np.zeros(count, np.int64)
    for at, labels in enumerate(levels.values()):
        key = key * len(labels.names) + labels.codes
        key = np.unique(key, return_inverse=True)[1] if at else key
    first = np.zeros(int(key.max()) + 1, np.int64)
    first[key[::-1]] = np.arange(count)[::-1]
    names = [stratum_name({axis: labels[at] for axis, labels in levels.items() if labels[at]}) for at in first.tolist()]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise UsageError(f"{source}: two strata would both be called {twice!r}: rename a level")
    return Labels(key.astype(np.int32), tuple(names))


def score_of(scores: Mapping[str, Any], metric: str, where: str) -> float:
    """Read the score that an item has by a metric. Raises NotComparable if it has none, or not one number."""
    if metric not in scores:
        raise NotComparable(f"{where}: has no {metric}, other items of its task do")
    if isinstance(scores[metric], (list, dict)):
        raise NotComparable(f"{where}: {metric} is not one number per item: give another --metric")
    return as_score(scores[metric], where)


def as_score(value: object, where: str = "") -> float:
    """Read one score: a number, a boolean, or either as text; NaN if there is none. Raises NotComparable."""
    if value is None or value != value:  # noqa: PLR0124 - NaN alone differs from itself
        return math.nan
    if isinstance(value, (bool, int, float)) and abs(value) < _EXACT:
        return float(value)
    if isinstance(value, str):
        text = value.strip().lower()
        if text in _WORDS or _NUMBER.fullmatch(text):
            return _WORDS[text] if text in _WORDS else float(text)
    raise NotComparable(f"{where}: {value!r:.80} is not a score: a number in [0, 1] is needed")


def as_level(value: object) -> str:
    """Write an id or a level exactly: 3.0 as ``3``, 0.1 as ``0.1``, a missing one as ``none``."""
    if isinstance(value, str):  # half of a surrogate pair, which no file can hold, as an escape
        return value.encode("utf-8", "backslashreplace").decode() or "none"
    if value is None or value != value:  # noqa: PLR0124 - NaN alone differs from itself
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() and abs(value) < _EXACT else repr(value)
    if isinstance(value, (dict, list)):
        return json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)
    return str(value)


def as_item(value: object, where: str) -> str:
    """Write an item's id. Raises NotComparable if it is missing, or a float too large to be exact."""
    if value is None or value == "" or value != value:  # noqa: PLR0124 - NaN alone differs from itself
        raise NotComparable(f"{where} has no item id")
    if isinstance(value, float) and abs(value) >= _EXACT:
        raise NotComparable(f"{where}: the id {value!r} was rounded to a float: write ids as text or whole numbers")
    return as_level(value)


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
