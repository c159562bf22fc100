"""The cells of a table: CSV, TSV, JSON Lines or Parquet, and what is in objects, lists of them and whole responses.

CSV and Parquet are read by pyarrow; the csv module checks a CSV that has quotes, and names the line of a fault.
"""

import csv
import functools
import itertools
import sys
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from harness.errors import NotComparable, UsageError
from harness.judge.importers.json_text import RESPONSE, json_objects, leaves, not_utf8
from harness.judge.importers.rows import as_item, as_level, dig
from harness.judge.outcomes import Labels

PARQUET, JSON_LINES = (".parquet", ".pq"), (".jsonl", ".ndjson")
SUFFIXES = frozenset({".csv", ".tsv", *JSON_LINES, *PARQUET})
_FIRST, _KEYS = 200, 1000  # rows in which a response is looked for; names of what is in objects
_BLOCK = 1 << 23  # bytes of a CSV that are parsed at a time; a file with a longer row is parsed as a whole


class Column(NamedTuple):
    """A column as it was read: its values, or its different values and which of them each row has."""

    values: Sequence[Any]
    codes: NDArray[np.int32] | None = None

    def rows(self, read: Callable[[Any], Any], dtype: Any, fault: Callable[[int], str]) -> NDArray[Any]:
        """Return the result of `read` for every row. fault: says where a row, from 0, is that raised NotComparable."""
        found = np.empty(len(self.values), dtype)
        for at, value in enumerate(self.values):
            try:
                found[at] = read(value)
            except NotComparable as error:
                row = at if self.codes is None else int((self.codes == at).argmax())
                raise NotComparable(f"{fault(row)}{error}") from error
        return found if self.codes is None else found[self.codes]

    def labels(self) -> Labels:
        """Return the cells as levels: what pandas writes as True and JSON as true is one."""
        told = [as_level(value) for value in self.values]
        names = Labels.of([one.lower() if one in {"True", "False"} else one for one in told])
        return names if self.codes is None else Labels(names.codes[self.codes], names.names)


def column_names(path: Path) -> list[str]:
    """Return the names of a table's columns, then of what its objects hold. Raises UsageError, NotComparable."""
    if path.suffix.lower() in JSON_LINES:
        return list(_keys(*_state(path)))
    own = _parquet(path).column_names if path.suffix.lower() in PARQUET else next(_csv_rows(path))
    return [*own, *_inner(*_state(path))]


def _state(path: Path) -> tuple[Path, int, int]:
    return path, (state := path.stat()).st_mtime_ns, state.st_size


@functools.lru_cache(16)
def _keys(path: Path, *_: int) -> tuple[str, ...]:
    """Return the keys of all JSON lines, a thousand, outer ones first: a fault's may come late, tokens may be keys."""
    known = dict.fromkeys(key for row in json_objects(path) for key in (*row, *dict(leaves(row))))
    return tuple(_first(known))


def _first(keys: Iterable[str]) -> list[str]:
    """Return a thousand names, the outer ones first, then the first ones of each object: tokens may be keys."""
    place, known = dict[str, int](), Counter[str]()
    for key in keys:
        known[outer := key.rpartition(".")[0]] += 1
        place[key] = known[outer] if outer else 0
    return sorted(place, key=place.__getitem__)[:_KEYS]


@functools.lru_cache(2)
def _inner(path: Path, *_: int) -> dict[str, Column]:
    """Return what is in a table's lists of objects and in its texts that are whole responses, by dotted names."""
    if path.suffix.lower() in PARQUET:
        own, first = (table := _parquet(path)).column_names, [one.to_pylist() for one in table.columns]
    else:
        own, *rows = itertools.islice(_csv_rows(path), _FIRST + 1)
        first = [*map(list, zip(*rows, strict=True))]
    objects = (
        any(isinstance(one[0], dict) if one and isinstance(one, list) else RESPONSE.match(str(one)) for one in cells)
        for cells in first
    )
    names = [one for one, holds in zip(own, objects, strict=False) if holds and own.count(one) == 1]
    found = dict[str, Column]()
    for name, column in zip(names, _arrow(path, names), strict=True):
        told = [dict(leaves(cell, name)) for cell in column.values]
        keys = _first(key for key in dict.fromkeys(key for one in told for key in one) if key not in own)
        found |= {key: Column([one.get(key) for one in told], column.codes) for key in keys}
    return found


def item_ids(column: Column, path: Path) -> list[str]:
    """Return the ids of the items. Raises NotComparable, naming the row of what is none."""
    arrow = path.suffix.lower() not in JSON_LINES
    if arrow and column.codes is None and all(column.values) and set(map(type, column.values)) == {str}:
        return list(column.values)
    return list(column.rows(lambda one: as_item(one, ""), object, lambda row: f"{path}: row {row + 1}").tolist())


def read_columns(path: Path, wanted: Sequence[str], optional: Sequence[str] = ()) -> list[Column]:
    """Read columns. optional: those that a JSON line may lack. Raises UsageError, NotComparable."""
    if path.suffix.lower() in JSON_LINES:
        lines, absent = [(at, dict(leaves(row)) | row) for at, row in enumerate(json_objects(path), 1)], {*optional}
        return [
            Column([row.get(one) if one in absent else dig(row, one, f"{path}: line {at}") for at, row in lines])
            for one in wanted
        ]
    names = [one for one in wanted if one not in (inner := _inner(*_state(path)))]
    known = inner | dict(zip(names, _arrow(path, names), strict=True))
    return [known[name] for name in wanted]


def _arrow(path: Path, wanted: Sequence[str]) -> list[Column]:
    if not wanted:
        return []
    table = (_parquet if path.suffix.lower() in PARQUET else _csv)(path, list(dict.fromkeys(wanted)))
    return [_from_arrow(table.column(name), coded=at > 0) for at, name in enumerate(wanted)]


def _check_known(path: Path, wanted: Sequence[str], known: Sequence[str]) -> None:
    if missing := [one for one in wanted if one not in known]:
        raise UsageError(f"{path}: there is no column {', '.join(map(repr, missing))}; there are: {', '.join(known)}")
    if twice := [one for one in wanted if known.count(one) > 1]:
        raise UsageError(f"{path}: the column {twice[0]!r} is there {known.count(twice[0])} times")


def _csv_rows(path: Path) -> Iterator[list[str]]:
    """Return each row, the header first, read strictly. Raises UsageError."""
    csv.field_size_limit(sys.maxsize)
    with path.open(encoding="utf-8-sig", newline="") as stream:
        reader, width = csv.reader(stream, delimiter=_delimiter(path), strict=True), 0
        try:
            for row in filter(None, reader):
                width = width or len(row)
                if len(row) != width:
                    raise UsageError(f"{path}: line {reader.line_num} has {len(row)} entries, the header {width}")
                for cell in row if _delimiter(path) == "\t" else ():
                    if "\t" in cell and cell.count("\t") == cell.count("\n") * (width - 1):
                        begin = f"a quoted cell holds whole rows ({cell[:40]!r} ...)"
                        raise UsageError(f"{path}: line {reader.line_num}: {begin}: write a quote in a text as two")
                yield row
        except UnicodeDecodeError as error:
            raise not_utf8(path) from error
        except csv.Error as error:
            raise UsageError(f"{path}: line {reader.line_num} is not a table: {error}") from error
        if not width:
            raise UsageError(f"{path}: is empty: a header line with column names is needed")


def _csv(path: Path, wanted: Sequence[str]) -> Any:
    """Read a CSV as a table of texts. Raises UsageError, naming the line of what is wrong."""
    from pyarrow import csv as arrow_csv
    from pyarrow import lib

    rows = _csv_rows(path)
    _check_known(path, wanted, next(rows))
    if _delimiter(path) == "\t" or not _well_quoted(path):
        deque(rows, maxlen=0)  # this raises at the line of the fault
    parse = arrow_csv.ParseOptions(delimiter=_delimiter(path), newlines_in_values=True)
    kinds = dict.fromkeys(wanted, lib.string())
    convert = arrow_csv.ConvertOptions(include_columns=wanted, column_types=kinds, strings_can_be_null=False)
    for block in (_BLOCK, min(path.stat().st_size + 1, 2**31 - 1)):
        try:
            table = arrow_csv.read_csv(path, arrow_csv.ReadOptions(block_size=block), parse, convert)
            return lib.Table.from_arrays([_plain(one) for one in table.columns], wanted)
        except lib.ArrowException as error:
            problem = error
    deque(rows, maxlen=0)
    raise UsageError(f"{path}: is not a table: {problem}")


def _plain(column: Any) -> Any:
    """Write the whole numbers that pandas wrote as floats, ``3.0`` as ``3``, unless two values would become one."""
    from pyarrow import compute

    if not compute.any(compute.ends_with(column, ".0")).as_py():
        return column
    plain = compute.replace_substring_regex(column, pattern=r"^(-?[0-9]+)\.0$", replacement=r"\1")
    return plain if compute.count_distinct(plain) == compute.count_distinct(column) else column


def _delimiter(path: Path) -> str:
    return "\t" if path.suffix.lower() == ".tsv" else ","


def _well_quoted(path: Path) -> bool:
    """Whether quotes begin and end cells, and come in pairs, which pyarrow does not check, and csv does slowly."""
    data = np.memmap(path, np.uint8, "r")
    blocks = range(0, data.size, _BLOCK)
    quotes = np.concatenate([np.flatnonzero(data[at : at + _BLOCK] == ord('"')) + at for at in blocks])
    if quotes.size % 2 or not quotes.size:
        return not quotes.size
    edges = np.frombuffer(f'{_delimiter(path)}\r\n"'.encode(), np.uint8)
    opening, closing = quotes[::2], quotes[1::2]
    begins = (opening == 0) | np.isin(data[opening - 1], edges)
    ends = (closing == data.size - 1) | np.isin(data[np.minimum(closing + 1, data.size - 1)], edges)
    return bool(begins.all() and ends.all())


def _from_arrow(column: Any, *, coded: bool) -> Column:
    """Take over a column of Arrow: texts and numbers once each if they are coded, anything else value by value."""
    from pyarrow import compute, types

    kind = column.type
    if types.is_dictionary(kind):
        column, kind = column.cast(kind.value_type), kind.value_type
    if types.is_integer(kind) or types.is_temporal(kind) or types.is_null(kind) or types.is_binary(kind):
        column = column.cast("string")
    elif types.is_decimal(kind):  # exactly, without zeros at the end
        column = compute.replace_substring_regex(column.cast("string"), r"\.0*$|(\.\d*?[1-9])0+$", r"\1")
    if not coded or types.is_nested(kind):
        return Column(column.to_pylist())
    found = column.combine_chunks().dictionary_encode("encode")
    codes = np.frombuffer(found.indices.buffers()[1], np.int32, len(found), found.indices.offset * 4)
    return Column(found.dictionary.to_pylist(), codes)


def _parquet(path: Path, wanted: Sequence[str] | None = None) -> Any:
    """Read columns of a Parquet file, or the first rows of all if no columns are named. Raises UsageError."""
    from pyarrow import lib, parquet

    try:
        with parquet.ParquetFile(path) as file:
            if wanted is None:
                first = itertools.islice(file.iter_batches(_FIRST), 1)
                return _flat(lib.Table.from_batches([*first], file.schema_arrow))
            _check_known(path, wanted, _flat(file.schema_arrow.empty_table()).column_names)
            return _flat(file.read(columns=list(wanted)))
    except lib.ArrowException as error:
        raise UsageError(f"{path}: is not a Parquet file: {error}") from error


def _flat(table: Any) -> Any:
    """Make a column of each field of nested columns, named by its dotted path."""
    while any(str(kind).startswith("struct<") for kind in table.schema.types):
        table = table.flatten()
    return table
