"""Divergence in a run directory: traces until the run is complete, and of each variant a line of results per unit."""

import contextlib
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import StoreError
from harness.records import canonical_json
from harness.stats.divergence import Divergence
from harness.store.files import Appender, read_lines, write_if_other
from harness.store.rundir import RunDir, Shard

DIGITS = 7  # significant digits that a divergence is kept with
_ROUNDED = ("kl", "reverse_kl", "baseline_logprob", "candidate_logprob")


def divergence_from_json(data: Mapping[str, Any]) -> Divergence:
    """Read a divergence back. Raises TypeError if a field is unknown or missing."""
    fields: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in data.items()}
    return Divergence(**fields)


def trace_path(folder: Path, unit: int) -> Path:
    """Return where the traces of a work unit are stored."""
    return folder / f"{unit}.safetensors"


def traces_folder(directory: RunDir, baseline: str, shard: Shard) -> Path:
    """Return where a shard's traces are stored, if they may be in the run."""
    return directory.path / baseline / f"traces-{shard}"


def divergences(directory: RunDir, variant: str, count: int) -> tuple[list[Divergence], list[str]]:
    """Read a variant's divergences of all `count` shards, and why some are not there. Raises StoreError."""
    found: list[Divergence] = []
    reasons: dict[str, None] = {}
    for path in (_path(directory, variant, shard) for shard in Shard.all(count)):
        try:
            for line in _lines(path):
                found += map(divergence_from_json, line["items"])
                reasons[line.get("why", "")] = None
        except (KeyError, TypeError) as error:
            msg = f"{path}: a line is not a divergence of quantcliff: {error}; remove the file to do without"
            raise StoreError(msg) from error
    return found, list(filter(None, reasons))


def _path(directory: RunDir, variant: str, shard: Shard) -> Path:
    return directory.path / variant / "divergence" / f"{shard}.jsonl"


def _lines(path: Path) -> list[dict[str, Any]]:
    return read_lines(path) if path.is_file() else []


@dataclass(frozen=True, slots=True)
class RunTraces:
    """A shard's traces, and the divergences measured with them, as the runner sees them."""

    directory: RunDir
    baseline: str
    shard: Shard
    tokens: int  # first tokens of each answer that are traced; 0 if divergence is not measured
    folder: Path  # where the traces are
    excluded: frozenset[str]  # items that leave no trace

    def compared(self, variant: str) -> bool:
        """Whether a variant is compared with the traces: control and candidates are."""
        return self.tokens > 0 and variant != self.baseline

    def measured(self, variant: str) -> set[int] | None:
        """Return the units whose divergence is there; None for a variant that has none. Raises StoreError."""
        if not self.compared(variant):
            return None
        return {int(line["unit"]) for line in _lines(_path(self.directory, variant, self.shard))}

    def keep(self, variant: str, units: set[int]) -> None:
        """Drop what was measured in other units, and a line cut short. Raises StoreError."""
        path = _path(self.directory, variant, self.shard)
        if path.is_file():
            text = "".join(canonical_json(line) + "\n" for line in _lines(path) if int(line["unit"]) in units)
            write_if_other(path, text)

    def missing(self, units: set[int]) -> set[int]:
        """Return the units whose traces are missing; none if divergence is not measured."""
        return {unit for unit in units if self.tokens and not trace_path(self.folder, unit).is_file()}

    def take(self, variant: str, unit: int, found: Sequence[Divergence], why: str) -> None:
        """Keep what was measured in a unit, or why nothing was. Raises StoreError."""
        items: list[dict[str, Any]] = []
        for one in found:
            rounded = {name: [float(f"{value:.{DIGITS}g}") for value in getattr(one, name)] for name in _ROUNDED}
            items.append({"item_id": one.item_id, "same_top": one.same_top, **rounded})
        line = {"unit": unit, "items": items, **({"why": why} if why else {})}
        with contextlib.closing(Appender(_path(self.directory, variant, self.shard))) as file:
            file.append(line)
            file.sync()

    def finish(self) -> None:
        """Remove the traces, unless a variant failed that may yet be asked."""
        if self.folder.is_dir() and not any(self.directory.path.glob("*/failure-*.json")):
            shutil.rmtree(self.folder)
