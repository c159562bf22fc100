"""Retrieval among look-alikes: lists of keys with numbers, bare or scattered through a long text, and their twins.

One record is asked for; the others look like it (or, where there is to be one alone of its kind, are of other kinds, so
that a long text is read once for several questions). The unanswerable twin asks the same list or text for a key that is
not in it.
Every document is a function of (seed, task, cell, number) and, where a text is filled up, of the tokenizer.
lm_eval calls `lookup`, `chain` and `score`, named in the YAML files.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import datasets

from harness.suite.toolkit.haystack import TokenCounter, build_haystack
from harness.suite.toolkit.scoring import abstained, only_number
from harness.suite.toolkit.seeded import SeededRandom
from harness.suite.toolkit.strata import NONE, Wanted, cells, draw_plan, wanted, with_cue

DEPTHS = ("start", "middle", "end")
ABSENT, IF_ABSENT = "not listed", "if the answer is not in the "
KEYS = tuple((Path(__file__).parent / "keys.txt").read_text(encoding="utf-8").split())
LENGTHS = (1, *range(3, len(KEYS) - 2))
DENIED = re.compile(rf"\b(?:{ABSENT}|not (?:mentioned )?in the (?:list|text)|wrong|can(?:no|')t be)\b|\?\s+no\b")
LIST_INTRO = (
    f'Some special numbers are listed below. Answer the question about them; {IF_ABSENT}list, reply "{ABSENT}".'
)
TEXT_INTRO = (
    "Some special numbers are hidden in the text below. Answer the question about them; "
    f'{IF_ABSENT}text, reply "{ABSENT}".'
)
NEEDLE_INTRO = TEXT_INTRO.replace("special numbers", "numbers")
KINDS = (
    ("The special number for {} is {}.", "What is the special number for {}?"),
    ("The room called {} can be reached on extension {}.", "On which extension can the room called {} be reached?"),
    ("The locker marked {} opens with the code {}.", "Which code opens the locker marked {}?"),
)
"""Records of three kinds with the questions for them: a long text holds one of each, a needle alone of its kind."""


def lookup(**metadata: Any) -> dict[str, datasets.Dataset]:
    """Make the documents of one needle among look-alikes: what lm_eval's `custom_dataset` asks for."""
    want = wanted(metadata)
    _check_keys(want)
    measure = _ruler(metadata, want)
    docs = [
        _lookup_doc(want.seed, cell, number, measure)
        for cell, number in draw_plan(_cells(want), want.split_by, want.items)
    ]
    return {"test": datasets.Dataset.from_list(with_cue(docs, metadata))}


def chain(**metadata: Any) -> dict[str, datasets.Dataset]:
    """Make the documents of a chain of references among other chains."""
    want = wanted(metadata)
    measure = _ruler(metadata, want)
    docs = [
        _chain_doc(want.seed, cell, number, measure)
        for cell, number in draw_plan(_cells(want), want.split_by, want.items)
    ]
    return {"test": datasets.Dataset.from_list(with_cue(docs, metadata))}


def score(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """Score 1 for the one right number alone, unless it is said not to be there; where there is none, for saying so."""
    said = results[0].casefold()
    if doc["answer"] == "absent":
        repeated = IF_ABSENT in said  # the instruction, which says what an abstention says
        return {"exact_match": 0.0 if repeated else abstained(results[0])}
    return {"exact_match": 0.0 if DENIED.search(said) else only_number(results[0], doc["target"])}


def _check_keys(want: Wanted) -> None:
    odd = [keys for keys in want.axes["keys"] if not keys.isdigit() or int(keys) not in LENGTHS]
    if odd:
        raise ValueError(f"keys={odd[0]}: a list holds 1, or 3 to {max(LENGTHS)} keys (two have no middle)")


def _ruler(metadata: dict[str, Any], want: Wanted) -> TokenCounter | None:
    if set(want.axes["context_tokens"]) == {NONE}:
        return None
    cues = (_cue(kind, key) for kind in KINDS for key in KEYS)
    return TokenCounter(metadata | {"cue": max(cues, key=TokenCounter(metadata).plain)})


def _cue(kind: tuple[str, str], key: str) -> str:
    """Begin the record that a question of this kind asks for."""
    return f"Answer: {kind[0].partition(' {}.')[0].format(key)}"


def _cells(want: Wanted) -> Iterator[dict[str, str]]:
    """Give the cells that exist: an absent needle has no depth, nor has the only line of a list."""
    for cell in cells(want.axes):
        depth = cell.get("depth")
        alone = cell.get("keys") == "1" and cell["context_tokens"] == NONE
        nowhere = cell["answer"] == "absent" or alone
        if depth is None or (depth == NONE) == nowhere:
            yield cell


def _line(key: str, value: str) -> str:
    return f"The special number for {key} is {value}."


def _question(key: str) -> str:
    return f"What is the special number for {key}?"


def _third(position: int, count: int) -> str:
    """Say in which third of a list a line stands, by its middle: every third of three lines or more has one."""
    return DEPTHS[3 * (2 * position + 1) // (2 * count)]


def _shared(cell: dict[str, str]) -> bool:
    """Long texts are shared by the questions at all depths; a bare list is cheap, so each question gets its own."""
    return cell["context_tokens"] != NONE and int(cell["keys"]) > 1


def _lookup_doc(seed: int, cell: dict[str, str], number: int, measure: TokenCounter | None) -> dict[str, Any]:
    keys, tokens = int(cell["keys"]), cell["context_tokens"]
    depth, turn = cell["depth"], number
    if cell["answer"] == "absent":  # the twins take the lists of their present brothers in turn
        depth, turn = DEPTHS[number % 3], number // 3
    if keys == 1 and tokens != NONE:
        return _needle_doc(seed, cell, number, (depth, turn), measure)
    if keys == 1:
        depth, turn = NONE, number
    group = "any" if _shared(cell) else depth
    name = f"keys={keys},context_tokens={tokens},{group},{turn}"
    records, other = _records(seed, name, keys)
    questions = tuple(_question(key) for key in (*dict(records), *other))
    text = _text(seed, name, tuple(_line(*record) for record in records), questions, tokens, measure)
    if cell["answer"] == "absent":
        asked, target = other[DEPTHS.index(depth)] if depth in DEPTHS else other[0], ABSENT
    else:
        near = [record for place, record in enumerate(records) if keys == 1 or _third(place, keys) == depth]
        asked, target = SeededRandom(seed, "asked", name, depth).choice(near)
    return _document(cell, number, name, text, KINDS[0], asked, target, 1 / keys)


def _needle_doc(
    seed: int, cell: dict[str, str], number: int, place: tuple[str, int], measure: TokenCounter | None
) -> dict[str, Any]:
    """Ask for one of a text's three records, each alone of its kind and in a third of its own.

    place: the third (the twin's is that of the record whose kind it asks for) and the number of the text. The questions
    at all depths and their twins share the text.
    """
    depth, turn = place
    name = f"keys=1,context_tokens={cell['context_tokens']},any,{turn}"
    records, other = _records(seed, name, len(KINDS))
    kinds = SeededRandom(seed, "kinds", name).shuffled(KINDS)
    lines = tuple(line.format(*record) for (line, _), record in zip(kinds, records, strict=True))
    questions = tuple(ask.format(key) for _, ask in KINDS for key in (*dict(records), *other))
    text = _text(seed, name, lines, questions, cell["context_tokens"], measure, intro=NEEDLE_INTRO)
    third = DEPTHS.index(depth)
    asked, target = (other[third], ABSENT) if cell["answer"] == "absent" else records[third]
    return _document(cell, number, name, text, kinds[third], asked, target, 1 / len(KINDS))


@lru_cache(maxsize=64)
def _records(seed: int, name: str, keys: int) -> tuple[list[tuple[str, str]], list[str]]:
    """Give the records of a list, and keys that are not in it. All numbers have four digits and differ."""
    draw = SeededRandom(seed, "records", name)
    words = draw.sample(KEYS, keys + 3)
    values = draw.sample(range(1000, 10000), keys)
    return [(word, str(value)) for word, value in zip(words, values, strict=False)], words[keys:]


@lru_cache(maxsize=16)
def _text(
    seed: int, name: str, lines: tuple[str, ...], questions: tuple[str, ...], tokens: str, measure: TokenCounter | None,
    *, intro: str = TEXT_INTRO,
) -> str:  # fmt: skip
    """Give the whole beginning of the prompt: the bare list, or a text of so many tokens with the lines in it.

    questions: all that may be asked of it: the longest of them is counted in.
    """
    if tokens == NONE:
        return f"{LIST_INTRO}\n\n" + "\n".join(lines)
    if measure is None:
        raise ValueError("a text of so many tokens needs a tokenizer to count them")
    frame = f"{intro}\n\n\n\n{max(questions, key=measure.plain)}"
    clear = intro == NEEDLE_INTRO
    body = build_haystack(lines, int(tokens), measure, SeededRandom(seed, "filler", name), frame=frame, clear=clear)
    return f"{intro}\n\n{body}"


def _chain_doc(seed: int, cell: dict[str, str], number: int, measure: TokenCounter | None) -> dict[str, Any]:
    """Make one question over chains of references: the last key of a chain is asked for, its first has the number.

    In the twin the asked chain's first line is gone: the reference leads nowhere, and that is the right answer.
    """
    hops, tokens = int(cell["hops"]), cell["context_tokens"]
    name = f"hops={hops},context_tokens={tokens},{number}"
    draw = SeededRandom(seed, "chain", name)
    chains = 3
    words = draw.sample(KEYS, chains * (hops + 1))
    values = draw.sample(range(1000, 10000), chains)
    rows: list[list[str]] = []
    for place in range(chains):
        own = words[place * (hops + 1) : (place + 1) * (hops + 1)]
        links = [f"The special number for {late} is the same as the one for {early}." for early, late in pairwise(own)]
        rows.append([_line(own[0], str(values[place])), *links])
    asked = words[hops]
    absent = cell["answer"] == "absent"
    shown = [line for place, row in enumerate(rows) for line in (row[1:] if absent and place == 0 else row)]
    group = f"{name},{cell['answer']}"  # the twin's text lacks a line, so that the two share no beginning
    text = _text(seed, group, tuple(draw.shuffled(shown)), (_question(asked),), tokens, measure)
    target = ABSENT if absent else str(values[0])
    made = _document(cell, number, name, text, KINDS[0], asked, target, 1 / chains)
    return made if tokens == NONE else made | {"prefix_group": group}


def _document(
    cell: dict[str, str], number: int, name: str, text: str, kind: tuple[str, str], key: str, target: str, chance: float
) -> dict[str, Any]:
    question = kind[1].format(key)
    place = ",".join(f"{axis}={level}" for axis, level in cell.items())
    return {
        "id": f"{place}/{number}",
        **cell,
        "cluster": name,
        "prefix_group": "" if cell["context_tokens"] == NONE else name,
        "prompt": f"{text}\n\n{question}",
        "question": question,
        "cue": _cue(kind, key),
        "target": target,
        "chance": 0.0 if cell["answer"] == "absent" else chance,
        "language": "en",
    }
