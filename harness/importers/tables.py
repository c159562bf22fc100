"""Plain tables: CSV, TSV, JSON Lines or Parquet with a column for the item, one for the score, and any others.

It knows columns, not what they mean beyond the names it is given.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.errors import NotComparable, UsageError
from harness.importers.rows import ImportOptions, Rows, as_level, as_score, dig
from harness.judge.outcomes import Outcomes, fingerprint

__all__ = ["SUFFIXES", "json_lines", "load_table"]

SUFFIXES = frozenset({".csv", ".tsv", ".jsonl", ".ndjson", ".parquet", ".pq"})


def load_table(path: Path, options: ImportOptions, name: str) -> Outcomes:
    """Read a table. Raises UsageError where columns are missing, NotComparable where a score is none."""
    item, score = options.item or "item", options.score or "score"
    named = {"item": item, "score": score, "slice": options.slice, "prompt": options.prompt, "weight": options.weight}
    wanted = [one for one in named.values() if one is not None]
    columns = _columns(path, [*wanted, *options.fields])
    rows = Rows(str(path))
    rows.items = [_item(value, path, line) for line, value in enumerate(columns[item], start=1)]
    rows.scores = [as_score(value, f"{path}: item {rows.items[at]!r}") for at, value in enumerate(columns[score])]
    count = len(rows.items)
    rows.slices = [as_level(value) for value in columns[options.slice]] if options.slice else ["all"] * count
    rows.levels = list(zip(*([as_level(one) for one in columns[axis]] for axis in options.strata), strict=True))
    rows.levels = rows.levels or [()] * count
    if options.cluster:
        rows.clusters = [as_level(value) for value in columns[options.cluster]]
    if options.prompt:
        rows.prints = [fingerprint(as_level(value)) for value in columns[options.prompt]]
    if options.weight:
        rows.weights = [as_score(value, f"{path}: {options.weight}") for value in columns[options.weight]]
    if options.chance is not None:
        rows.chances = [options.chance] * count
    return rows.outcomes(name, options)


def _item(value: object, path: Path, line: int) -> str:
    if value is None or value == "":
        raise NotComparable(f"{path}: row {line} has no item id")
    return as_level(value)


def _columns(path: Path, wanted: Sequence[str]) -> Mapping[str, Sequence[Any]]:
    suffix = path.suffix.lower()
    if suffix in (".parquet", ".pq"):
        return _parquet(path, wanted)
    if suffix in (".jsonl", ".ndjson"):
        lines = json_lines(path)
        return {one: [dig(line, one, f"{path}: line {at}") for at, line in enumerate(lines, 1)] for one in wanted}
    return _csv(path, wanted, "\t" if suffix == ".tsv" else ",")


def _check_known(path: Path, wanted: Sequence[str], known: Sequence[str]) -> None:
    missing = [one for one in dict.fromkeys(wanted) if one not in known]
    if missing:
        raise UsageError(f"{path}: there is no column {', '.join(map(repr, missing))}; there are: {', '.join(known)}")


def _csv(path: Path, wanted: Sequence[str], delimiter: str) -> Mapping[str, Sequence[str]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.reader(stream, delimiter=delimiter, strict=True)
            header = next(reader, None)
            if not header:
                raise UsageError(f"{path}: is empty: a header line with column names is needed")
            _check_known(path, wanted, header)
            twice = sorted({one for one in wanted if header.count(one) > 1})
            if twice:
                raise UsageError(f"{path}: the column {twice[0]!r} stands there {header.count(twice[0])} times")
            lines = [_row(line, header, path, reader.line_num) for line in reader if line]
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: is not UTF-8 text ({error.reason} at byte {error.start})") from error
    except csv.Error as error:
        raise UsageError(f"{path}: is not a table: {error}") from error
    places = {one: header.index(one) for one in wanted}
    return {one: [line[at] for line in lines] for one, at in places.items()}


def _row(line: list[str], header: list[str], path: Path, number: int) -> list[str]:
    if len(line) != len(header):
        raise UsageError(f"{path}: line {number} has {len(line)} entries, the header {len(header)}")
    return line


def json_lines(path: Path) -> list[dict[str, Any]]:
    """Read JSON objects, one per line. Raises NotComparable naming the line that is none."""
    found = []
    try:
        with path.open(encoding="utf-8") as stream:
            for number, line in enumerate(stream, start=1):
                if line.strip():
                    found.append(_object(line, path, number))
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: is not UTF-8 text ({error.reason} at byte {error.start})") from error
    return found


def _object(line: str, path: Path, number: int) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except json.JSONDecodeError as error:
        cut = "" if line.endswith("\n") else ": the file was cut there"
        raise NotComparable(f"{path}: line {number} is not JSON ({error.msg}){cut}") from error
    if not isinstance(value, dict):
        raise NotComparable(f"{path}: line {number} holds a {type(value).__name__}, not an object")
    return value


def _parquet(path: Path, wanted: Sequence[str]) -> Mapping[str, Sequence[Any]]:
    try:
        from pyarrow import lib, parquet
    except ImportError as error:
        raise UsageError(
            f"{path}: Parquet is read by pyarrow: pip install 'quantcliff[parquet]', or write CSV"
        ) from error
    try:
        known = parquet.read_schema(path).names
        _check_known(path, wanted, known)
        table = parquet.read_table(path, columns=list(dict.fromkeys(wanted)))
    except lib.ArrowException as error:
        raise UsageError(f"{path}: is not a Parquet file: {error}") from error
    return {one: table.column(one).to_pylist() for one in wanted}
