"""Divergence in a run directory: where traces and measured divergences are stored, and which are missing.

::

    <baseline>/traces-<i>of<n>/<unit>.safetensors   hidden states and token ids, until the run is complete
    <variant>/divergence/<i>of<n>.jsonl             one line per work unit: the divergence of each of its items

Does not know models or how a divergence is measured.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import StoreError
from harness.records import canonical_json
from harness.stats.divergence import Divergence
from harness.store.files import Appender, atomic_write, read_lines
from harness.store.rundir import RunDir, Shard

__all__ = [
    "DivergenceFile",
    "RunTraces",
    "TracePlan",
    "divergence_from_json",
    "divergences",
    "remove_traces",
    "trace_path",
    "traces_folder",
]

DIGITS = 7
"""Significant digits that a divergence is kept with."""


def divergence_from_json(data: Mapping[str, Any]) -> Divergence:
    """Read a divergence back. Raises TypeError if a field is unknown or missing."""
    fields: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in data.items()}
    return Divergence(**fields)


@dataclass(frozen=True, slots=True)
class TracePlan:
    """What of the baseline's answers is kept until every candidate was compared with it."""

    tokens: int
    """First tokens of each answer; 0 if divergence is off."""
    bytes: int
    """Most disk that traces and head take, over all shards."""


def trace_path(folder: Path, unit: int) -> Path:
    """Return where the traces of a work unit are stored."""
    return folder / f"{unit}.safetensors"


def traces_folder(directory: RunDir, baseline: str, shard: Shard) -> Path:
    """Return where a shard's traces are stored, if they may be in the run."""
    return directory.path / baseline / f"traces-{shard}"


def remove_traces(directory: RunDir) -> int:
    """Remove all traces of a run, and count their files. Raises StoreError."""
    count = 0
    for folder in sorted(directory.path.glob("*/traces-*")):
        count += sum(1 for _ in folder.iterdir())
        try:
            shutil.rmtree(folder)
        except OSError as error:
            raise StoreError(f"{folder}: cannot be removed: {error.strerror}; give the same command again") from error
    return count


@dataclass(frozen=True, slots=True)
class RunTraces:
    """A shard's traces, and the divergences measured with them, as the runner sees them."""

    directory: RunDir
    """The run."""
    baseline: str
    """Its baseline's name."""
    shard: Shard
    """The shard."""
    tracing: TracePlan
    """What was planned."""
    folder: Path
    """Where the traces are."""

    @property
    def on(self) -> bool:
        """Whether divergence is measured."""
        return self.tracing.tokens > 0

    def compared(self, variant: str) -> bool:
        """Whether a variant is compared with the traces: control and candidates are."""
        return self.on and variant != self.baseline

    def measured(self, variant: str) -> set[int] | None:
        """Return the units whose divergence is there; None for a variant that has none. Raises StoreError."""
        return DivergenceFile(self.directory, variant, self.shard).units() if self.compared(variant) else None

    def keep(self, variant: str, units: set[int]) -> None:
        """Drop what was measured in other units, and a line cut short. Raises StoreError."""
        DivergenceFile(self.directory, variant, self.shard).keep(units.__contains__)

    def missing(self, units: set[int]) -> set[int]:
        """Return the units whose traces are missing; none if divergence is not measured."""
        return {unit for unit in units if self.on and not trace_path(self.folder, unit).is_file()}

    def take(self, variant: str, unit: int, found: Sequence[Divergence], why: str) -> None:
        """Keep what was measured in a unit. Raises StoreError."""
        DivergenceFile(self.directory, variant, self.shard).append(unit, found, why)

    def finish(self) -> None:
        """Remove the traces, unless a variant failed that may yet be asked."""
        names = [path.parent for path in self.directory.path.glob("*/failure-*.json")]
        if self.folder.is_dir() and not names:
            shutil.rmtree(self.folder)


class DivergenceFile:
    """A variant's measured divergences of one shard, a line for each work unit."""

    def __init__(self, directory: RunDir, variant: str, shard: Shard) -> None:
        self._path = directory.path / variant / "divergence" / f"{shard}.jsonl"

    def units(self) -> set[int]:
        """Name the units that are there. Raises StoreError."""
        return {int(line["unit"]) for line in self._lines()}

    def keep(self, wanted: Callable[[int], bool]) -> None:
        """Drop the lines of other units, and a line cut short. Raises StoreError."""
        if self._path.is_file():
            text = "".join(canonical_json(line) + "\n" for line in self._lines() if wanted(int(line["unit"])))
            if text.encode() != self._path.read_bytes():
                atomic_write(self._path, text)

    def append(self, unit: int, found: Sequence[Divergence], why: str) -> None:
        """Write a unit's line: what was measured, or why nothing was. Raises StoreError."""
        file = Appender(self._path)
        try:
            file.append({"unit": unit, "items": [_to_json(one) for one in found], **({"why": why} if why else {})})
            file.sync()
        finally:
            file.close()

    def read(self) -> tuple[list[Divergence], list[str]]:
        """Return what was measured, and the reasons why something was not. Raises StoreError."""
        lines = self._lines()
        try:
            found = [divergence_from_json(one) for line in lines for one in line["items"]]
        except (KeyError, TypeError) as error:
            msg = f"{self._path}: a line is not a divergence of quantcliff: {error}; remove the file to do without"
            raise StoreError(msg) from error
        return found, list(dict.fromkeys(line["why"] for line in lines if line.get("why")))

    def _lines(self) -> list[dict[str, Any]]:
        return read_lines(self._path) if self._path.is_file() else []


def divergences(directory: RunDir, variant: str, count: int) -> tuple[list[Divergence], list[str]]:
    """Read a variant's divergences of all `count` shards, and why some are not there. Raises StoreError."""
    parts = [DivergenceFile(directory, variant, Shard(index + 1, count)).read() for index in range(count)]
    return [one for found, _ in parts for one in found], list(dict.fromkeys(why for _, said in parts for why in said))


def _to_json(one: Divergence) -> dict[str, Any]:
    """Return a divergence as JSON, its numbers with as many digits as they are worth."""
    columns = {name: getattr(one, name) for name in ("kl", "reverse_kl", "baseline_logprob", "candidate_logprob")}
    rounded = {name: [float(f"{value:.{DIGITS}g}") for value in values] for name, values in columns.items()}
    return json.loads(json.dumps({"item_id": one.item_id, "same_top": one.same_top, **rounded}))  # type: ignore[no-any-return]
