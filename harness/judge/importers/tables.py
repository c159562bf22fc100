"""Plain tables: CSV, TSV, JSON Lines or Parquet with a column for the item, one for the score, and any others.

It knows columns, not what they mean beyond the names it is given. CSV is read by pyarrow if that is installed and the
file is well formed, and by the csv module, which names the line of a fault, otherwise.
"""

from __future__ import annotations

import csv
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.errors import NotComparable, UsageError
from harness.judge.importers.json_text import json_objects, not_utf8
from harness.judge.importers.rows import ImportOptions, Rows, as_item, as_level, as_score, dig
from harness.judge.outcomes import Labels, Outcomes, fingerprint

__all__ = ["SUFFIXES", "load_table"]

SUFFIXES = frozenset({".csv", ".tsv", ".jsonl", ".ndjson", ".parquet", ".pq"})
_CHUNK = 50_000
_BLOCK = 1 << 23
"""Bytes that pyarrow parses at a time; a longer row is read by the csv module."""
_WHOLE = re.compile(r"-?\d+\.0", re.ASCII)


@dataclass(frozen=True, slots=True)
class _Column:
    """A column as it was read: its values, or its different values and which of them each row has."""

    name: str
    values: Sequence[Any]
    codes: NDArray[np.int32] | None = None

    def rows(self, read: Callable[[Any], Any], dtype: type[np.generic]) -> NDArray[Any]:
        """Read every value, and give one result per row."""
        found = np.array([read(value) for value in self.values], dtype)
        return found if self.codes is None else found[self.codes]

    def labels(self) -> Labels:
        names = Labels.of([as_level(value) for value in self.values])
        return names if self.codes is None else Labels(names.codes[self.codes], names.names)

    def row_of(self, unfit: Callable[[Any], Any]) -> int:
        """The first row, from 0, whose value raises NotComparable."""
        for at, value in enumerate(self.values):
            try:
                unfit(value)
            except NotComparable:
                return at if self.codes is None else int((self.codes == at).argmax())
        return 0


def load_table(path: Path, options: ImportOptions, name: str) -> Outcomes:
    """Read a table. Raises UsageError if columns are missing, NotComparable if an id or a score cannot be used."""
    item, score = options.item or "item", options.score or "score"
    named = (item, score, options.slice, options.prompt, options.weight, *options.fields)
    # The item comes first: the one column whose values all differ, which are not worth coding.
    wanted = list(dict.fromkeys(one for one in named if one is not None))
    columns = _columns(path, wanted)
    rows = Rows(str(path))
    rows.items = _items(columns[item], path)
    count = len(rows.items)
    rows.scores = _numbers(columns[score], path, rows.items)
    rows.slices = columns[options.slice].labels() if options.slice else Labels.constant("all", count)
    rows.levels = {axis: columns[one].labels() for axis, one in zip(options.axes, options.strata, strict=True)}
    if options.cluster:
        rows.clusters = columns[options.cluster].labels()
    if options.prompt:
        rows.prints = columns[options.prompt].rows(lambda one: fingerprint(as_level(one)), np.uint64)
    if options.weight:
        rows.weights = _numbers(columns[options.weight], path, rows.items)
    if options.chance is not None:
        rows.chances = [options.chance] * count
    return rows.outcomes(name, options)


def _items(column: _Column, path: Path) -> list[str]:
    if column.codes is None and all(column.values) and set(map(type, column.values)) == {str}:
        return list(column.values)
    try:
        found = [as_item(value, "") for value in column.values]
    except NotComparable as error:
        row = column.row_of(lambda value: as_item(value, ""))
        raise NotComparable(f"{path}: {_place(path, row)}row {row + 1}{error}") from error
    return found if column.codes is None else [found[code] for code in column.codes.tolist()]


def _numbers(column: _Column, path: Path, items: Sequence[str]) -> NDArray[np.float64]:
    try:
        return column.rows(as_score, np.float64)
    except NotComparable as error:
        row = column.row_of(as_score)
        raise NotComparable(f"{path}: {_place(path, row)}item {items[row]!r}{error}") from error


def _place(path: Path, row: int) -> str:
    """Say on which line of a text file a row, from 0, ends; nothing for Parquet."""
    suffix = path.suffix.lower()
    if suffix in (".parquet", ".pq"):
        return ""
    if suffix in (".jsonl", ".ndjson"):
        with path.open(encoding="utf-8-sig") as stream:
            lines = (at for at, line in enumerate(stream, start=1) if line.strip())
            return f"line {next(islice(lines, row, None), row + 1)}: "
    return f"line {next(islice(_csv_rows(path), row + 1, None))[0]}: "


def _columns(path: Path, wanted: Sequence[str]) -> Mapping[str, _Column]:
    suffix = path.suffix.lower()
    if suffix in (".parquet", ".pq"):
        found = _parquet(path, wanted)
    elif suffix in (".jsonl", ".ndjson"):
        objects = json_objects(path)
        found = [
            _Column(one, [dig(row, one, f"{path}: line {at}") for at, row in enumerate(objects, 1)]) for one in wanted
        ]
    else:
        found = _csv(path, wanted)
    return {one.name: one for one in found}


def _check_known(path: Path, wanted: Sequence[str], known: Sequence[str]) -> None:
    missing = [one for one in wanted if one not in known]
    if missing:
        raise UsageError(f"{path}: there is no column {', '.join(map(repr, missing))}; there are: {', '.join(known)}")
    twice = [one for one in wanted if known.count(one) > 1]
    if twice:
        raise UsageError(f"{path}: the column {twice[0]!r} is there {known.count(twice[0])} times")


def _plain(column: _Column) -> _Column:
    """Write the whole numbers that pandas wrote as floats, ``3.0`` as ``3``, unless two values would become one."""
    values = [value[:-2] if value.endswith(".0") and _WHOLE.fullmatch(value) else value for value in column.values]
    kept = len(set(values)) == len(set(column.values))
    return _Column(column.name, values if kept else column.values, column.codes)


def _csv_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Give each row, the header first, with the line it ends on, read strictly. Raises UsageError."""
    csv.field_size_limit(sys.maxsize)
    with path.open(encoding="utf-8-sig", newline="") as stream:
        reader = csv.reader(stream, delimiter=_delimiter(path), strict=True)
        width = 0
        try:
            for row in filter(None, reader):
                width = width or len(row)
                if len(row) != width:
                    raise UsageError(f"{path}: line {reader.line_num} has {len(row)} entries, the header {width}")
                yield reader.line_num, row
        except UnicodeDecodeError as error:
            raise not_utf8(path) from error
        except csv.Error as error:
            raise UsageError(f"{path}: line {reader.line_num} is not a table: {error}") from error


def _csv(path: Path, wanted: Sequence[str]) -> list[_Column]:
    rows = _csv_rows(path)
    _, header = next(rows, (0, []))
    if not header:
        raise UsageError(f"{path}: is empty: a header line with column names is needed")
    _check_known(path, wanted, header)
    found = _csv_arrow(path, wanted, header)
    if found is None:
        places = [header.index(one) for one in wanted]
        columns: list[list[str]] = [[] for _ in wanted]
        while chunk := [row for _, row in islice(rows, _CHUNK)]:
            cells = list(zip(*chunk, strict=True))
            for column, place in zip(columns, places, strict=True):
                column.extend(cells[place])
        found = [_plain(_Column(name, column)) for name, column in zip(wanted, columns, strict=True)]
    return found


def _delimiter(path: Path) -> str:
    return "\t" if path.suffix.lower() == ".tsv" else ","


def _csv_arrow(path: Path, wanted: Sequence[str], header: Sequence[str]) -> list[_Column] | None:
    """Read a CSV by pyarrow; None if that is not installed, or the file is one that the csv module would not take."""
    try:
        from pyarrow import compute, lib
        from pyarrow import csv as arrow_csv
    except ImportError:
        return None
    if not _well_quoted(path):
        return None
    try:
        table = arrow_csv.read_csv(
            path,
            read_options=arrow_csv.ReadOptions(block_size=_BLOCK),
            parse_options=arrow_csv.ParseOptions(delimiter=_delimiter(path), newlines_in_values=True),
            convert_options=arrow_csv.ConvertOptions(
                include_columns=wanted, column_types=dict.fromkeys(header, lib.string()), strings_can_be_null=False
            ),
        )
        found = [_from_arrow(name, table.column(name), coded=at > 0) for at, name in enumerate(wanted)]
        floats = [compute.any(compute.ends_with(table.column(name), ".0")).as_py() for name in wanted]
    except lib.ArrowException:
        return None
    return [_plain(one) if any_float else one for one, any_float in zip(found, floats, strict=True)]


def _well_quoted(path: Path) -> bool:
    """Whether quotes begin and end cells, and come in pairs, which pyarrow does not check."""
    data = np.memmap(path, np.uint8, "r")
    parts = (np.flatnonzero(data[at : at + _BLOCK] == ord('"')) + at for at in range(0, data.size, _BLOCK))
    quotes = np.concatenate(list(parts))
    if quotes.size % 2 or not quotes.size:
        return not quotes.size
    edges = np.frombuffer(f'{_delimiter(path)}\r\n"'.encode(), np.uint8)
    opening, closing = quotes[::2], quotes[1::2]
    begins = np.isin(data[opening - 1], edges) | (opening == 0)
    ends = (closing == data.size - 1) | np.isin(data[np.minimum(closing + 1, data.size - 1)], edges)
    return bool(begins.all() and ends.all())


def _from_arrow(name: str, column: Any, *, coded: bool) -> _Column:
    """Take over a column of Arrow: texts and numbers once each if they are coded, anything else value by value."""
    from pyarrow import types

    kind = column.type
    if types.is_dictionary(kind):
        column, kind = column.cast(kind.value_type), kind.value_type
    if types.is_integer(kind) or types.is_temporal(kind) or types.is_null(kind) or types.is_binary(kind):
        column = column.cast("string")
    elif types.is_decimal(kind):
        column = column.cast("float64")
    if not coded or types.is_nested(kind):
        return _Column(name, column.to_pylist())
    found = column.combine_chunks().dictionary_encode("encode")
    codes = np.frombuffer(found.indices.buffers()[1], np.int32, len(found), found.indices.offset * 4)
    return _Column(name, found.dictionary.to_pylist(), codes)


def _parquet(path: Path, wanted: Sequence[str]) -> list[_Column]:
    try:
        from pyarrow import lib, parquet
    except ImportError as error:
        raise UsageError(
            f"{path}: Parquet is read by pyarrow: pip install 'quantcliff[parquet]', or write CSV"
        ) from error
    try:
        with parquet.ParquetFile(path) as file:
            _check_known(path, wanted, _flat(file.schema_arrow.empty_table()).column_names)
            table = _flat(file.read(columns=list(wanted)))
        return [_from_arrow(name, table.column(name), coded=at > 0) for at, name in enumerate(wanted)]
    except lib.ArrowException as error:
        raise UsageError(f"{path}: is not a Parquet file: {error}") from error


def _flat(table: Any) -> Any:
    """Make a column of each field of nested columns, named by its dotted path."""
    while any(str(kind).startswith("struct<") for kind in table.schema.types):
        table = table.flatten()
    return table
