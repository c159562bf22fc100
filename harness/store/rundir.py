"""The run directory (docs/report.md): written so that a kill at any instant loses at most one work unit.

A unit counts only when all its responses are there. Lines of items and answers begin with a check of their own bytes
and of their folder, so that a line that was edited, or copied from another variant, is found by its number.
"""

import contextlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from harness.errors import StoreError
from harness.records import Item, Scored, Timing, canonical_json, item_from_json, scored_from_json, to_json
from harness.store.files import RESTORE, Appender, explained, read_json, read_lines, sealed, write_if_other, write_json
from harness.store.locks import held
from harness.store.units import Unit, grouped

# Version of the layout, in run.json. Runs without one were made before lines had a check, a unit, a look, the metric
# that is the score, and the right choice.
SCHEMA = 2
SCORERS = 14  # in run.json, too: raised whenever an answer may get another score (see tests/suite/test_scorers.py)
ITEMS = "items"  # the folder of the items, which their lines are sealed to


@dataclass(frozen=True, slots=True)
class Shard:
    """Part `index` (from 1) of `count` of a run's work units."""

    index: int = 1
    count: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.index <= self.count:
            raise ValueError(f"shard {self.label} does not exist: write i/n with i from 1 to n")

    def __str__(self) -> str:
        """Return the form used in file names."""
        return f"{self.index}of{self.count}"

    @property
    def label(self) -> str:
        """Return the form for a person, as in ``2/4``."""
        return f"{self.index}/{self.count}"

    @classmethod
    def all(cls, count: int) -> "list[Shard]":
        """Return every shard of a run that is split into so many."""
        return [cls(index + 1, count) for index in range(count)]

    @classmethod
    def of(cls, unit: int, plan: Mapping[str, Any]) -> "Shard":
        """Return a work unit's shard, as run.json records it; a run that does not record it dealt units out in turn."""
        count = int(plan["shards"])
        return cls(plan["shard_of"][unit] if "shard_of" in plan else unit % count + 1, count)


class RunDir:
    """One run's directory; every path and every read and write of it is here. All methods raise StoreError."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def exists(self) -> bool:
        """Whether a run was planned here."""
        return (self.path / "run.json").is_file()

    def begin(self, plan: Mapping[str, Any], items: Iterable[Item], shard: Shard, units: Iterable[Unit]) -> None:
        """Write the plan, or find the same plan there and make its items files whole again.

        items: as they are to be stored. units: the work that they are part of. Raises StoreError if the directory holds
        the results of another config, or other files.
        """
        # The other shards may begin at the same time: each writes the same files whole, and run.json last.
        recorded = {**plan, "schema": SCHEMA, "scorers": SCORERS, "shards": shard.count}
        with explained(self.path, "read"):
            names = {path.name for path in self.path.iterdir()} if self.path.is_dir() else set()
        strangers = sorted(name for name in names if name not in {"shards", ITEMS} and not name.startswith(".run."))
        if "run.json" in names:
            self._same_plan(recorded)
        elif strangers:
            raise StoreError(f"{self.path}: holds {', '.join(strangers[:3])} but no run.json: give another --output")
        place = {item.id: {"unit": unit.index, "look": unit.look} for unit in units for item in unit.items}
        sealed_lines = ((item.slice, sealed({**to_json(item), **place[item.id]}, ITEMS)) for item in items)
        for name, lines in grouped(sealed_lines).items():
            write_if_other(self.items_path(name), "".join(lines))
        if "run.json" not in names:
            write_json(self.path / "run.json", recorded)
            self._same_plan(recorded)

    def _same_plan(self, plan: Mapping[str, Any]) -> None:
        """Refuse another plan than the one that is there, naming what differs; older runs do not say what scored."""
        later = {"scorers": SCORERS, "scored_by": plan.get("scored_by")}
        there: dict[str, Any] = later | read_json(self.path / "run.json")
        changed = sorted(key for key in plan if canonical_json(there.get(key)) != canonical_json(plan[key]))
        if there.get("schema", 0) != SCHEMA or {"scorers", "scored_by"} & {*changed}:
            text = "was made by another version of quantcliff, lm_eval or a task: it can be judged but not continued"
            raise StoreError(f"{self.path}: {text}; give another --output or name")
        if "shards" in changed:
            text = f"its work is split into {there['shards']} shard(s), not {plan['shards']}"
            raise StoreError(f"{self.path}: {text}: use --shard i/{there['shards']}, or another --output")
        if "config" in changed:
            before, after = there["config"], plan["config"]
            changed = sorted(key for key in {*before, *after} if before.get(key) != after.get(key)) or changed
        if changed:
            text = f"holds the results of another config ({', '.join(changed)} changed)"
            raise StoreError(f"{self.path}: {text}: give another --output or name, or remove that directory")

    def plan(self) -> dict[str, Any]:
        """Read what was planned; an error if nothing was."""
        if not self.exists():
            hint = "it is not a run directory" if self.path.is_dir() else "there is no such directory"
            raise StoreError(f"{self.path}: {hint}: give the directory that `quantcliff run` printed")
        return read_json(self.path / "run.json")

    def items_path(self, slice_name: str) -> Path:
        """Where a slice's items are stored."""
        return self.path / ITEMS / f"{slice_name}.jsonl"

    def items(self) -> list[Item]:
        """Read every item, slice by slice in the config's order."""
        return [item for name in self.plan()["slices"] for item, _ in self.placed_items(name)]

    def placed_items(self, slice_name: str, *, seals: bool = False) -> list[tuple[Item, dict[str, int]]]:
        """Read a slice's items, each with its ``unit`` and ``look``; an older run has none."""
        path = self.items_path(slice_name)
        lines = read_lines(path, ITEMS, whole=True, seals=seals)
        placed = [place_of(line) for line in lines]
        for number, place in enumerate(placed, start=1):
            if seals and [*map(type, place.values())] != [int, int]:
                raise StoreError(f"{path}: line {number} has no unit or look: it was changed after the run: {RESTORE}")
        return list(zip(_parsed(item_from_json, lines, path, "an item"), placed, strict=True))

    def erased(self) -> frozenset[str]:
        """Read which items' texts were erased, by id."""
        path = self.path / "erased.json"
        return frozenset(read_json(path)["items"]) if path.is_file() else frozenset()

    def results_path(self, variant: str, slice_name: str, shard: Shard) -> Path:
        """Where a variant's answers to a slice lie."""
        return self.path / variant / f"{slice_name}-{shard}.jsonl"

    def results(self, variant: str, slice_name: str, shard: Shard, **strict: bool) -> list[Scored]:
        """Read a variant's answers to a slice; none if there is no such file. strict: as `read_lines` takes it."""
        path = self.results_path(variant, slice_name, shard)
        return _parsed(_scored, read_lines(path, variant, **strict), path, "a result") if path.is_file() else []

    def all_results(self, variant: str) -> list[Scored]:
        """Read a variant's answers from every shard."""
        places = product(self.plan()["slices"], Shard.all(self.plan()["shards"]))
        return [one for place in places for one in self.results(variant, *place)]

    def keep(self, variant: str, slice_name: str, shard: Shard, answers: Iterable[Scored]) -> None:
        """Leave only these answers in a results file, if there is one: no other one, and no line cut short."""
        path = self.results_path(variant, slice_name, shard)
        if path.is_file():
            write_if_other(path, "".join(sealed(to_json(one), variant) for one in answers))

    def timings(self, variant: str) -> list[Timing]:
        """Read what each unit cost, the last measurement of each."""
        paths = sorted((self.path / variant).glob("timings-*.jsonl"))
        latest = {one.unit: one for path in paths for one in timings_in(path).values()}
        return [latest[unit] for unit in sorted(latest)]

    def request_times(self, variant: str) -> list[dict[str, Any]]:
        """Read the times of a variant's streamed answers, of an item that was asked again the last ones."""
        paths = sorted((self.path / variant).glob("requests-*.log"))
        lines = (line for path in paths for line in read_lines(path) if "first" in line)
        return list({(line.get("item"), line.get("sample"), line.get("pass")): line for line in lines}.values())

    def record(self, variant: str, name: str, data: Mapping[str, Any]) -> None:
        """Write one of a variant's small JSON files."""
        write_json(self.path / variant / name, data)

    def recorded(self, variant: str, name: str) -> dict[str, Any] | None:
        """Read one of a variant's small JSON files; None if it is not there."""
        path = self.path / variant / name
        return read_json(path) if path.is_file() else None

    def failures(self, variant: str) -> list[str]:
        """Read why a variant could not be judged; empty if it could."""
        return [str(read_json(path)["message"]) for path in sorted((self.path / variant).glob("failure-*.json"))]

    def shards_without(self, ending: str, count: int) -> list[Shard]:
        """Return the shards that have no file of this ending."""
        # A listing is fresh, while NFS remembers for a time that a file was not there.
        there = {path.name for path in (self.path / "shards").iterdir()}
        return [one for one in Shard.all(count) if f"{one}.{ending}" not in there]

    def locked(self, shard: Shard) -> contextlib.AbstractContextManager[str]:
        """Hold a shard of the run for this process; an error if another process holds it."""
        return held(self.path / "shards" / f"{shard}.lock", f"shard {shard} of this run")


class AnswerFiles(contextlib.ExitStack):
    """The results files of one variant, all closed when the context ends. Raises StoreError."""

    def __init__(self, directory: RunDir, variant: str, shard: Shard) -> None:
        super().__init__()
        self._directory, self._variant, self._shard = directory, variant, shard
        self._answers: dict[str, Appender] = {}
        timings = Appender(directory.path / variant / f"timings-{shard}.jsonl")
        self._timings = self.enter_context(contextlib.closing(timings))

    def append(self, slice_name: str, scored: Scored) -> None:
        """Write one answer."""
        if slice_name not in self._answers:
            file = Appender(self._directory.results_path(self._variant, slice_name, self._shard), self._variant)
            self._answers[slice_name] = self.enter_context(contextlib.closing(file))
        self._answers[slice_name].append(to_json(scored))

    def finish(self, slice_name: str, timing: Timing) -> None:
        """Have the disk hold a unit's answers."""
        if slice_name in self._answers:
            self._answers[slice_name].sync()
        self._timings.append(to_json(timing))


def timings_in(path: Path) -> dict[int, Timing]:
    """Read what the units of a shard cost, by unit; the last measurement of each. Raises StoreError."""
    return {one.unit: one for one in _parsed(lambda line: Timing(**line), read_lines(path), path, "a timing")}


def place_of(line: dict[str, Any]) -> dict[str, int]:
    """Take an item's ``unit`` and ``look`` out of its line; an older run has none."""
    return {name: line.pop(name) for name in ("unit", "look") if name in line}


def _scored(line: Mapping[str, Any]) -> Scored:
    """Read a results line. Raises KeyError, TypeError or ValueError for what no run writes."""
    one = scored_from_json(line)
    if one.score is not None and not (type(one.score) in {int, float} and 0 <= one.score <= 1):
        raise ValueError(f"score {one.score!r} is not a number in [0, 1]")
    if type(one.response.sample) is not int:
        raise ValueError(f"sample {one.response.sample!r} is not a whole number")
    values = [one.metrics.get(one.metric)] if one.metric else one.metrics.values()
    if one.metrics and one.score not in values:
        raise ValueError(f"score {one.score} is not the value of its metric")
    if one.response.item_id != one.item_id:
        raise ValueError(f"it holds the answer to another item ({one.response.item_id})")
    return one


def _parsed(reader: Callable[[Any], Any], lines: list[dict[str, Any]], path: Path, what: str) -> list[Any]:
    found = []
    for number, line in enumerate(lines, start=1):
        try:
            found.append(reader(line))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise StoreError(f"{path}: line {number} is not {what} of quantcliff: {error}") from error
    return found
