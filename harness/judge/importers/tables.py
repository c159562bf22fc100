"""Plain tables: CSV, TSV, JSON Lines or Parquet with a column for the item, one for the score, and any others."""

import contextlib
import functools
import itertools
import json
import re
import tomllib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from harness.errors import NotComparable, UsageError
from harness.judge.importers.cells import Column, column_names, item_ids, read_columns
from harness.judge.importers.json_text import unwritten
from harness.judge.importers.rows import ImportOptions, Rows, as_level, as_score, check_one_model, less_is_better
from harness.judge.outages import CERTAIN
from harness.judge.outcomes import Labels, Outcomes, Said, fingerprint, listed
from harness.suite.chance import guessing

_COLUMNS = tomllib.loads(Path(__file__).with_name("columns.toml").read_text("utf-8"))
_LOOSE, _IN = frozenset(_COLUMNS["names"]["loose"]), {key: re.compile(one) for key, one in _COLUMNS["patterns"].items()}
_ASKED, _RIGHT, _BESIDE, _MADE, _LIKELY, _ANSWER, _EXPECTED = [*_IN.values()][:7]
_IS_ASKED = re.compile(f"{_ASKED.pattern}|{_RIGHT.pattern}").fullmatch
_FAULT = re.compile(Path(__file__).with_name("faults.txt").read_text("utf-8"))  # of a column's name and a cell
_HOW = f"{Path(__file__).with_name('how_asked.txt').read_text('utf-8')}|{_MADE.pattern}"  # of names
_SCORED = dict.fromkeys(("metric", "scorer", "metric_name", "score_name", "evaluator"), 1)
_MOST = _SCORED | dict.fromkeys(("judge", "grader", "thinking", "cot", "examples", "shots"), 1)
"""How many values a column of settings may have to be compared, if not nine: `judge` may hold verdicts or thoughts."""
_SENTENCES = 10  # different sentences of which a column has more, and half of its cells, if it is one of sentences
_SORTED = 5  # items of the lowest and highest score if a table is sorted by it
_CODE = re.compile(r"-?\d{1,3}|none")  # of HTTP
_MOST_RUNS = 32  # of a question
_LONG = 20  # characters of most texts beside a question that no model writes
_CHOICES, _NEARLY_ALL = 100, 0.98  # values that a right answer may have; share of rows in which it decides the score
_SHOWN, _BRIEF = 200, 99  # characters of a cell in which a failure is looked for; of one that is not looked over first


def load_table(path: Path, options: ImportOptions, name: str) -> Outcomes:
    """Read a table. Raises UsageError if columns are missing, NotComparable if an id or a score cannot be used."""
    item, score = options.item or "item", options.score or "score"
    named = (item, score, options.slice, options.prompt, options.weight, *options.fields)
    known = column_names(path)
    right = [one for one in known if _RIGHT.fullmatch(one) and one != score and known.count(one) == 1][:1]
    maybe = [one for one in known if _IN["maybe_right"].fullmatch(one) and one not in named and known.count(one) == 1]
    given = [one for one in known if _ANSWER.search(one) and not _EXPECTED.search(one) and known.count(one) == 1]
    beside = [*maybe, *given] if maybe and given and not right and options.chance is None else []
    how = [one for one in known if re.fullmatch(_HOW, _snake(one)) and one not in named and known.count(one) == 1]
    # The item comes first: the one column whose values all differ, which are not worth coding.
    wanted = list(dict.fromkeys(one for one in (*named, *right, *how, *beside) if one is not None))
    columns = dict(zip(wanted, read_columns(path, wanted, optional=[*right, *how, *beside]), strict=True))
    items = item_ids(columns[item], path)

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
    # What an answer must equal to be right is the right answer, whatever it is called.
    said = {one: columns[one].labels() for one in beside}
    right = right or [one for one in maybe if any(_decides(said[one], said[other], scores) for other in given)][:1]
    if right and options.chance is None:
        own, codes = columns[right[0]].labels(), slices.codes
        guess = [guessing([own.names[at] for at in own.codes[codes == one]]) for one in range(len(slices.names))]
        rows.chances = [guess[code] for code in codes]  # by the right answers of the row's slice
    told = {one: {*columns[one].labels().names} - {"none"} for one in how}
    check_one_model(path, ({key: one} for key, own in told.items() if _MADE.fullmatch(key) for one in own))
    scored = {one: own for one, own in told.items() if one.lower() in _SCORED}
    by = [own if len(own) == 1 else {*filter(less_is_better, own)} for own in scored.values()]
    if options.repeats and (several := [one for one, own in scored.items() if len(own) > 1]):
        text = f"holds several of {several[0]} ({listed(told[several[0]])}), which have no mean"
        raise UsageError(f"{path}: {text}: give the rows of one")
    metrics = {*(slices.names if (options.slice or "").lower() in _SCORED else ())}.union(*by)
    rows.measure = {one: one for one in metrics}
    told = {one: own for one, own in told.items() if not _MADE.fullmatch(one)}
    rows.settings = {
        one: listed({_setting(one, cell) for cell in own}, 9)
        for one, own in told.items()
        if len(own) <= _MOST.get(one.rpartition(".")[2].lower(), 9)
    }
    rows.said = functools.partial(_answers, path, options)
    return rows.outcomes(name)


def _decides(right: Labels, answer: Labels, scores: NDArray[np.float64]) -> bool:
    """Whether a column of few values, read with a column of answers, says which are right, in nearly all rows."""
    if not 1 < len(right.names) <= _CHOICES:
        return False
    known = {name.strip().lower(): code for code, name in enumerate(right.names)}
    codes = np.array([known.get(name.strip().lower(), -1) for name in answer.names])[answer.codes]
    return bool(
        np.mean((codes == right.codes) == (scores == 1.0)) > _NEARLY_ALL and 0 < np.nansum(scores) < len(scores)
    )


def _snake(column: str) -> str:
    return re.sub(r"[ -]", "_", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", column))


def _setting(column: str, told: str) -> str:
    """A setting as it is compared: numbers that are no versions by their value, texts without the space around."""
    with contextlib.suppress(ValueError):
        return told if _IN["version"].search(column) and float(told) else f"{float(told) + 0.0:.6g}"
    return _alike(told) if re.search("stop|template", column) else _alike(told).strip()


def _answers(path: Path, options: ImportOptions) -> Mapping[str, set[Said]]:
    """Return the cells of the columns of answers by item; none if there are none."""
    used = {options.item or "item", options.score or "score", *options.fields, options.slice, options.prompt}
    known = [one for one in column_names(path) if one not in used and not _IN["asking"].search(one)]
    known = [one for one in known if not _IN["measured"].fullmatch(one) or _IN["written"].fullmatch(_snake(one))]
    texts = {"text", "content", "message"} if options.prompt or any(map(_ASKED.fullmatch, known)) else set()
    answering = [one for one in known if one in texts or (_ANSWER.search(one) and not _EXPECTED.search(one))]
    answering = [one for one in answering if not _IN["written"].fullmatch(_snake(one))]
    answering = [one for one in answering if not _IN["priced"].fullmatch(one)] or answering
    others = [one for one in known if one not in answering and known.count(one) == 1 and _IN["state"].search(one)]
    wanted = [*answering, *others]
    items, *columns = read_columns(path, [options.item or "item", *wanted], optional=wanted) if wanted else [Column([])]
    cells_of = dict(zip(wanted, map(Column.labels, columns), strict=True))
    coded = [
        one
        for one in answering
        if one.endswith("code") and {"200"} < {*cells_of[one].names} and all(map(_CODE.fullmatch, cells_of[one].names))
    ]
    answering, others = [one for one in answering if one not in coded], [*others, *coded]
    states, wanted = {one: _snake(one) for one in others}, [*answering, *others]
    ids, found = item_ids(items, path), defaultdict[str, set[Said]](set)
    labels = [*_unfolded(answering, [cells_of[one] for one in answering]), *(cells_of[one] for one in others)]
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


def _unfolded(names: Sequence[str], labels: Sequence[Labels]) -> Iterator[Labels]:
    """Give the cells of columns of answers without objects, which have columns of their own, and without measures.

    These are columns of nothing but numbers, dates and ids next to one of sentences.
    """
    outer = {name[: dot.start()] for name in names for dot in re.finditer(r"\.", name)}
    sentences = [sum(" " in cell for cell in one.names) for one in labels]
    wordy = any(count > max(_SENTENCES, len(one.names) / 2) for count, one in zip(sentences, labels, strict=True))
    filled = [np.array([cell != "none" for cell in one.names])[one.codes] for one in labels]
    for name, one in zip(names, labels, strict=True):
        odd = np.array([wordy and not _LIKELY.search(name) and all(map(_IN["value"].fullmatch, one.names))])
        if name in outer:  # where something of the object has a column of its own
            inner = [own for other, own in zip(names, filled, strict=True) if other.startswith(f"{name}.")]
            odd = np.array([_IN["object"].match(cell) is not None for cell in one.names])[one.codes] & np.any(
                inner, axis=0
            )
        odd = np.broadcast_to(odd, one.codes.shape)
        told = zip(one.codes, odd, strict=True)
        yield Labels.of(["none" if no else one.names[code] for code, no in told]) if odd.any() else one


def _failure(column: str, told: str) -> Said | None:
    """Give what a cell says if it says that there is no answer; failures count together. told: its name and it."""
    how = told.partition(": ")[2]
    if _IN["judged"].search(column):
        certain = CERTAIN.match(how) or re.fullmatch(r"(?i)error|timed?.?out|(parse|judge|grading).(error|failed)", how)
        return (f"({column}: a failure of its server)", False) if certain else None
    if (len(low := told.lower()) < _BRIEF or any(one in low for one in _LOOSE)) and (fault := _FAULT.fullmatch(told)):
        how = f"a failure{' of its server' * bool(CERTAIN.match(how))}" if fault["failed"] else how
        return f"({column}: {how})", False
    return None


def _alike(text: str) -> str:
    """A cell as it is compared: with one kind of line ends, lists and objects in one form of writing."""
    told = unwritten(text) if text[:1] in {"[", "{"} else text
    return text.replace("\r\n", "\n") if isinstance(told, str) else json.dumps(told, sort_keys=True)


def other_questions(paths: Sequence[Path], options: ImportOptions) -> dict[str, set[str]]:
    """Return column to the items of which the second table says another question or right answer than the first.

    So do long texts and options beside it, of which half are the same on both sides.
    """
    known, found = [column_names(path) for path in paths], dict[str, set[str]]()
    sure = [one for one in known[0] if _IS_ASKED(one) and all(own.count(one) == 1 for own in known)]
    beside = [one for one in known[0] if _IN["long_text"].fullmatch(one) and all(own.count(one) == 1 for own in known)]
    names = [*sure, *(one for one in beside if one not in sure)]
    wanted = [options.item or "item", *names]
    (ids, *asked), (own, *told) = (
        (read_columns(path, wanted, names) for path in paths) if names else ([Column([])],) * 2
    )
    items, theirs = item_ids(ids, paths[0]), item_ids(own, paths[1])
    for name, *both in zip(names, map(Column.labels, asked), map(Column.labels, told), strict=True):
        end = "" if "prompt" in name.lower() else None  # where a space at the end is asked, too
        texts = [[_alike(cell).strip(end) for cell in one.names] for one in both]
        (said, other), (before, after) = texts, both
        long = 2 * sum(len(one) >= _LONG and not _IN["object"].match(one) for one in said) > len(said)
        if name not in sure and not (long and 2 * len({*said} & {*other}) >= len({*said})):
            continue
        first = dict(zip(items, (said[code] for code in before.codes), strict=True))
        rows = zip(theirs, (other[code] for code in after.codes), strict=True)
        odd = {item for item, text in rows if first.get(item, text) != text}
        if min(map(len, texts)) > 1:  # one text may name a template
            found |= {name: odd} if odd else {}
    return found


def _numbered(numbers: Sequence[Labels], runs: Sequence[Labels]) -> Labels | None:
    """Return which question each row asks, if the rows of one are its runs: few, each once, and nearly all."""
    codes, run = (
        np.unique(np.stack([one.codes for one in some]), axis=1, return_inverse=True)[1].reshape(-1)
        for some in (numbers, runs)
    )
    each, count = np.bincount(codes), int(run.max()) + 1
    once = np.unique(codes * np.int64(count) + run).size == codes.size
    if not 1 < count <= _MOST_RUNS or not once or 2 * each.mean() <= count:
        return None
    return Labels(codes.astype(np.int32), tuple(map(str, range(each.size))))


def sources(paths: Sequence[Path], options: ImportOptions) -> dict[str, int]:
    """Return item to what the first table says it was asked, if that is more than one question; equal ones are one."""
    known, *others = map(column_names, paths)
    names = [one for one in known if (_IS_ASKED(one) or _BESIDE.fullmatch(one)) and known.count(one) == 1]
    names = names if any(map(_ASKED.fullmatch, names)) else []
    strata = [one for one in (options.slice, *options.strata) if one]
    runs, numbers = (
        [one for one in known if _IN[kind].fullmatch(_snake(one)) and one not in {options.item or "item", *strata}]
        for kind in ("run", "number")
    )
    wanted = [*names, *runs, *numbers] if runs and numbers else names
    if not wanted:
        return {}
    wanted = list(dict.fromkeys([*wanted, *strata]))
    items, *columns = read_columns(paths[0], [options.item or "item", *wanted], optional=wanted)
    every = dict(zip(wanted, map(Column.labels, columns), strict=True))
    asked = {one: every[one] for one in names}
    for path, header in zip(paths[1:], others, strict=True):
        for name in [one for one in asked if not _IS_ASKED(one) and header.count(one) == 1]:
            texts, own = set(read_columns(path, [name], optional=[name])[0].labels().names), asked[name].names
            where_from = name.lower() == "source" and "".join(own).count(" ") < 3 * len(own)  # and no sentences
            if where_from or 2 * len(texts.intersection(own)) < len(own):  # answers, such as `messages` may hold
                del asked[name]
    pairs = itertools.product(numbers, [[one] for one in runs] + [runs] * (len(runs) > 1)) if runs else ()
    found = [_numbered([every[one] for one in (number, *strata)], [every[one] for one in run]) for number, run in pairs]
    several = sorted(filter(None, found), key=lambda one: len(one.names))
    count = len({*zip(*(one.codes.tolist() for one in asked.values()), strict=True)})
    if several and not 0 < count <= len(several[0].names):  # a text may say its run
        asked = {"number": several[0]}
    if not asked:
        return {}
    told = zip(*([one.names[code] for code in one.codes] for one in asked.values()), strict=True)
    prints = dict(zip(item_ids(items, paths[0]), (fingerprint(*sorted(one)) for one in told), strict=True))
    return prints if len(set(prints.values())) > 1 else {}
