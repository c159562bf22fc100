"""Plain tables: CSV, TSV, JSON Lines or Parquet with a column for the item, one for the score, and any others.

CSV and Parquet are read by pyarrow; the csv module checks a CSV that has quotes, and names the line of a fault.
"""

import csv
import functools
import itertools
import json
import re
import sys
import tomllib
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from harness.errors import NotComparable, UsageError
from harness.judge.importers.json_text import RESPONSE, json_objects, leaves, not_utf8
from harness.judge.importers.rows import ImportOptions, Rows, as_item, as_level, as_score, check_one_model, dig
from harness.judge.outages import CERTAIN
from harness.judge.outcomes import Labels, Outcomes, Said, fingerprint, listed
from harness.suite.chance import guessing

PARQUET, JSON_LINES = (".parquet", ".pq"), (".jsonl", ".ndjson")
SUFFIXES = frozenset({".csv", ".tsv", *JSON_LINES, *PARQUET})
_COLUMNS = tomllib.loads(Path(__file__).with_name("columns.toml").read_text("utf-8"))
_ASKED, _RIGHT, _MADE, _LIKELY, _ANSWER, _EXPECTED, _MEASURED, _STATE = map(re.compile, _COLUMNS["patterns"].values())
_BESIDE, _LOOSE = map(frozenset, _COLUMNS["names"].values())
_IS_ASKED = re.compile(f"{_ASKED.pattern}|{_RIGHT.pattern}").fullmatch
_FAULT = re.compile(Path(__file__).with_name("faults.txt").read_text("utf-8"))  # of a column's name and a cell
_HOW = f"{Path(__file__).with_name('how_asked.txt').read_text('utf-8')}|{_MADE.pattern}"  # of names
_SCORED = dict.fromkeys(("metric", "scorer", "metric_name", "score_name", "evaluator"), 1)
_MOST = _SCORED | dict.fromkeys(("judge", "grader"), 1)
"""How many values a column of settings may have to be compared, if not nine: a column `judge` may hold verdicts."""
# Rows in which a response is looked for; names of what is in objects; items of the lowest and highest score if sorted
_FIRST, _KEYS, _SORTED = 200, 1000, 5
_SHOWN, _BRIEF = 200, 99  # characters of a cell in which a failure is looked for; of one that is not looked over first
_BLOCK = 1 << 23  # bytes of a CSV that are parsed at a time; a file with a longer row is parsed as a whole


class _Column(NamedTuple):
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
        names = Labels.of([as_level(value) for value in self.values])
        return names if self.codes is None else Labels(names.codes[self.codes], names.names)


def load_table(path: Path, options: ImportOptions, name: str) -> Outcomes:
    """Read a table. Raises UsageError if columns are missing, NotComparable if an id or a score cannot be used."""
    item, score = options.item or "item", options.score or "score"
    named = (item, score, options.slice, options.prompt, options.weight, *options.fields)
    known = _header(path)
    right = [one for one in known if _RIGHT.fullmatch(one) and one != score and known.count(one) == 1][:1]
    how = [one for one in known if re.fullmatch(_HOW, one) and one not in named and known.count(one) == 1]
    # The item comes first: the one column whose values all differ, which are not worth coding.
    wanted = list(dict.fromkeys(one for one in (*named, *right, *how) if one is not None))
    columns = dict(zip(wanted, _columns(path, wanted, optional=right + how), strict=True))
    items = _items(columns[item], path)

    def numbers(column: str) -> NDArray[np.float64]:
        return columns[column].rows(as_score, np.float64, lambda row: f"{path}: row {row + 1}: item {items[row]!r}")

    slices = columns[options.slice].labels() if options.slice else Labels.constant("all", len(items))
    rows = Rows(str(path), options, items, numbers(score), slices=slices)
    rows.levels = {axis: columns[one].labels() for axis, one in zip(options.axes, options.strata, strict=True)}
    if options.prompt:
        rows.prints = columns[options.prompt].rows(lambda one: fingerprint(as_level(one)), np.uint64, str)
    rows.clusters = columns[options.cluster].labels() if options.cluster else None
    if rows.clusters and "none" in (names := rows.clusters.names):  # an item without one is a source by itself
        pairs = zip(items, rows.clusters.codes, strict=True)
        rows.clusters = [f"none: {item}" if names[code] == "none" else names[code] for item, code in pairs]
    rows.weights = numbers(options.weight) if options.weight else None
    scores, steps = rows.scores, np.diff(rows.scores)
    least = min(np.count_nonzero(scores > scores.min(initial=1)), np.count_nonzero(scores < scores.max(initial=0)))
    in_order = least >= _SORTED and ((steps >= 0).all() or (steps <= 0).all()) and not any(map(_IS_ASKED, known))
    if in_order and items == [str(at + (items[0] == "1")) for at in range(len(items))]:
        text = "its rows are sorted by score, and its ids number them: on the other side they number other items"
        raise NotComparable(f"{path}: {text}: give the ids of what was asked")
    if right and options.chance is None:
        own, codes = columns[right[0]].labels(), slices.codes
        guess = [guessing([own.names[at] for at in own.codes[codes == one]]) for one in range(len(slices.names))]
        rows.chances = [guess[code] for code in codes]  # by the right answers of the row's slice
    told = {one: {*columns[one].labels().names} - {"none"} for one in how}
    check_one_model(path, ({key: one} for key, own in told.items() if _MADE.fullmatch(key) for one in own))
    by = [one for one, own in told.items() if one.lower() in _SCORED and len(own) == 1]
    if options.repeats and (several := [one for one, own in told.items() if one.lower() in _SCORED and len(own) > 1]):
        text = f"holds several of {several[0]} ({listed(told[several[0]])}), which have no mean"
        raise UsageError(f"{path}: {text}: give the rows of one")
    metrics = {*(slices.names if (options.slice or "").lower() in _SCORED else ())}.union(*(told[one] for one in by))
    rows.measure = {one: one for one in metrics}
    told = {one: own for one, own in told.items() if not _MADE.fullmatch(one)}
    rows.settings = {one: listed(own, 9) for one, own in told.items() if len(own) <= _MOST.get(one.lower(), 9)}
    rows.said = functools.partial(_answers, path, options)
    return rows.outcomes(name)


def _answers(path: Path, options: ImportOptions) -> Mapping[str, set[Said]]:
    """Return the cells of the columns of answers by item; none if there are none."""
    used = {options.item or "item", options.score or "score", *options.fields, options.slice, options.prompt}
    known = [one for one in _header(path) if one not in used and not _MEASURED.fullmatch(one)]
    texts = {"text", "content", "message"} if options.prompt or any(map(_ASKED.fullmatch, known)) else set()
    answering = [one for one in known if one in texts or (_ANSWER.search(one) and not _EXPECTED.search(one))]
    others = [one for one in known if one not in answering and known.count(one) == 1 and _STATE.search(one)]
    states, wanted = {one: re.sub(r"(?<=[a-z])(?=[A-Z])", "_", one) for one in others}, [*answering, *others]
    items, *answers = _columns(path, [options.item or "item", *wanted], optional=wanted) if wanted else [_Column([])]
    ids, found, labels = _items(items, path), defaultdict[str, set[Said]](set), [cell.labels() for cell in answers]
    empty = [np.array([name == "none" for name in one.names])[one.codes] for one in labels[: len(answering)]]
    filled = [np.count_nonzero(~one) for one in empty]
    varying = [one for one, known in zip(empty, labels, strict=False) if len(known.names) > 1]
    bare = np.all([*varying, np.full(len(ids), bool(varying))], axis=0)  # rows without any answer
    found |= {item: {("", False)} for item in itertools.compress(ids, bare)}
    for at, (column, one) in enumerate(zip(wanted, labels, strict=True)):
        if column in states:
            said = [_failure(column, f"{states[column]}: {cell[:_SHOWN]}") for cell in one.names]
        else:  # of several answers, `response_1`, each is one; one cell for all says who answered
            several, likely = re.search(r"\d", column), _LIKELY.search(column) is not None
            cells = one.names if len(one.names) > 1 else ()
            said = [(json.dumps([cell]) if several else cell, likely and "." in cell) for cell in cells] or [None]
            if "none" in cells and len(filled) > 1:  # it may be in another column
                nothing = json.dumps(["none"]) if several else f"({column}: none)"
                said[cells.index("none")] = (nothing, False) if 2 * filled[at] > max(filled) else None
        for item, code, no in zip(ids, one.codes, bare, strict=True) if any(said) else ():
            if (told := said[code]) and (column in states or not no):
                found[item].add(told)
    return found


def _failure(column: str, told: str) -> Said | None:
    """Give what a cell says if it says that there is no answer; failures count together. told: its name and it."""
    if (len(low := told.lower()) < _BRIEF or any(one in low for one in _LOOSE)) and (fault := _FAULT.fullmatch(told)):
        how = told.partition(": ")[2]
        how = f"a failure{' of its server' * bool(CERTAIN.match(how))}" if fault["failed"] else how
        return f"({column}: {how})", False
    return None


def other_questions(paths: Sequence[Path], options: ImportOptions) -> set[str]:
    """Return the items of which the second table says another question or right answer than the first."""
    known, found = [_header(path) for path in paths], set[str]()
    names = [one for one in known[0] if _IS_ASKED(one) and all(own.count(one) == 1 for own in known)]
    wanted = [options.item or "item", *names]
    (ids, *asked), (own, *told) = (_columns(path, wanted, names) for path in paths) if names else ([_Column([])],) * 2
    items, theirs = _items(ids, paths[0]), _items(own, paths[1])
    for before, after in zip(map(_Column.labels, asked), map(_Column.labels, told), strict=True):
        said = dict(zip(items, (before.names[code] for code in before.codes), strict=True))
        texts = zip(theirs, (after.names[code] for code in after.codes), strict=True)
        if min(len(before.names), len(after.names)) > 1:  # one text may name a template
            found |= {item for item, text in texts if said.get(item, text) != text}
    return found


def sources(paths: Sequence[Path], options: ImportOptions) -> dict[str, int]:
    """Return item to what the first table says it was asked, if that is more than one question; equal ones are one."""
    known, *others = map(_header, paths)
    names = [one for one in known if (_IS_ASKED(one) or one.lower() in _BESIDE) and known.count(one) == 1]
    if not any(map(_ASKED.fullmatch, names)):
        return {}
    items, *columns = _columns(paths[0], [options.item or "item", *names], optional=names)
    asked = dict(zip(names, map(_Column.labels, columns), strict=True))
    for path, header in zip(paths[1:], others, strict=True):
        for name in [one for one in asked if not _IS_ASKED(one) and header.count(one) == 1]:
            texts, own = set(_columns(path, [name], optional=[name])[0].labels().names), asked[name].names
            where_from = name.lower() == "source" and "".join(own).count(" ") < 3 * len(own)  # and no sentences
            if where_from or 2 * len(texts.intersection(own)) < len(own):  # answers, such as `messages` may hold
                del asked[name]
    told = zip(*([one.names[code] for code in one.codes] for one in asked.values()), strict=True)
    found = dict(zip(_items(items, paths[0]), (fingerprint(*one) for one in told), strict=True))
    return found if len(set(found.values())) > 1 else {}


def _header(path: Path) -> list[str]:
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
def _inner(path: Path, *_: int) -> dict[str, _Column]:
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
    found = dict[str, _Column]()
    for name, column in zip(names, _arrow(path, names), strict=True):
        told = [dict(leaves(cell, name)) for cell in column.values]
        keys = _first(key for key in dict.fromkeys(key for one in told for key in one) if key not in own)
        found |= {key: _Column([one.get(key) for one in told], column.codes) for key in keys}
    return found


def _items(column: _Column, path: Path) -> list[str]:
    arrow = path.suffix.lower() not in JSON_LINES
    if arrow and column.codes is None and all(column.values) and set(map(type, column.values)) == {str}:
        return list(column.values)
    return list(column.rows(lambda one: as_item(one, ""), object, lambda row: f"{path}: row {row + 1}").tolist())


def _columns(path: Path, wanted: Sequence[str], optional: Sequence[str] = ()) -> list[_Column]:
    """Read columns. optional: those that a JSON line may lack."""
    if path.suffix.lower() in JSON_LINES:
        lines, absent = [(at, dict(leaves(row)) | row) for at, row in enumerate(json_objects(path), 1)], {*optional}
        return [
            _Column([row.get(one) if one in absent else dig(row, one, f"{path}: line {at}") for at, row in lines])
            for one in wanted
        ]
    names = [one for one in wanted if one not in (inner := _inner(*_state(path)))]
    known = inner | dict(zip(names, _arrow(path, names), strict=True))
    return [known[name] for name in wanted]


def _arrow(path: Path, wanted: Sequence[str]) -> list[_Column]:
    if not wanted:
        return []
    table = (_parquet if path.suffix.lower() in PARQUET else _csv)(path, wanted)
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


def _from_arrow(column: Any, *, coded: bool) -> _Column:
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
        return _Column(column.to_pylist())
    found = column.combine_chunks().dictionary_encode("encode")
    codes = np.frombuffer(found.indices.buffers()[1], np.int32, len(found), found.indices.offset * 4)
    return _Column(found.dictionary.to_pylist(), codes)


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
