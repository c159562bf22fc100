"""Reads what other tools ran: lm_eval samples, Inspect logs, plain tables. Each becomes `Outcomes`.

The format is found from the path and the first bytes. Reading needs no torch, and none of the tools that wrote the
files.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

from harness.errors import UsageError
from harness.importers.inspect import is_log, load_inspect, log_files
from harness.importers.lm_eval import is_sample, load_lm_eval, sample_files
from harness.importers.rows import ImportOptions
from harness.importers.tables import SUFFIXES, load_table
from harness.judge.outcomes import Outcomes

__all__ = ["Format", "ImportOptions", "format_of", "load"]

Format = Literal["lm_eval", "inspect", "table"]

_KNOWN = (
    "lm_eval samples (a directory with samples_*.jsonl), Inspect logs (.eval, .json), or a table (.csv, .tsv, .jsonl, "
    ".parquet)"
)


def load(path: Path, options: ImportOptions | None = None, name: str | None = None) -> Outcomes:
    """Read one variant's outcomes.

    path: a file or a directory. name: the variant's name; the path's own unless given. Raises UsageError where the
    path, a column or a metric is not there, NotComparable where what is there cannot be trusted.
    """
    options = options or ImportOptions()
    if options.chance is not None and not 0.0 <= options.chance < 1.0:
        raise UsageError(f"chance={options.chance:g} is not a proportion in [0, 1)")
    readers = {"lm_eval": load_lm_eval, "inspect": load_inspect, "table": load_table}
    try:
        return readers[format_of(path, options)](path, options, name or path.stem or str(path))
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror or error}") from error


def format_of(path: Path, options: ImportOptions | None = None) -> Format:
    """Find the format of a path. Raises UsageError where it is none of them, with what would help."""
    if not path.exists():
        raise UsageError(f"{path}: there is no such file or directory")
    if path.is_dir():
        return _of_directory(path)
    suffix = path.suffix.lower()
    if suffix == ".eval":
        return "inspect"
    if suffix == ".json":
        return _of_json(path)
    if suffix in (".jsonl", ".ndjson"):
        named = options is not None and (options.item is not None or options.score is not None)
        return "table" if named or not is_sample(_first_object(path)) else "lm_eval"
    if suffix in SUFFIXES:
        return "table"
    raise UsageError(f"{path}: is none of what can be read: {_KNOWN}")


def _of_directory(path: Path) -> Format:
    if sample_files(path):
        return "lm_eval"
    if any(path.rglob("results_*.json")):
        raise UsageError(f"{path}: holds lm_eval's averages alone: run it again with --log_samples")
    if log_files(path):
        return "inspect"
    raise UsageError(f"{path}: holds none of what can be read: {_KNOWN}")


def _of_json(path: Path) -> Format:
    try:
        data = json.loads(path.read_bytes())
    except ValueError as error:
        raise UsageError(f"{path}: is not JSON ({error})") from error
    if is_log(data):
        return "inspect"
    hint = (
        ": lm_eval's averages alone; give the directory of its samples_*.jsonl"
        if path.name.startswith("results")
        else ""
    )
    raise UsageError(f"{path}: is not a log of Inspect{hint}")


def _first_object(path: Path) -> dict[str, object]:
    with path.open(encoding="utf-8", errors="replace") as stream:
        line = next((line for line in stream if line.strip()), "{}")
    try:
        data = json.loads(line)
    except ValueError:
        return {}
    return data if isinstance(data, dict) else {}
