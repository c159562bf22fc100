"""Facts hidden in real books, and needles in 26 languages with OneRuler's prompts; all read from files in `data_dir`.

bAbI's stories (Weston et al. 2015, arXiv:1502.05698) in an English book, after BABILong (Kuratov et al. 2024,
arXiv:2406.10149); OneRuler's prompts, nouns and books (Kim et al. 2025, arXiv:2503.01996). Documents are functions of
(seed, cell, number), the files and, where a text is filled up, the tokenizer. lm_eval calls the functions named in the
YAML files.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import datasets

from harness.suite.toolkit.datafiles import find, read_text
from harness.suite.toolkit.haystack import TokenCounter, book, build_haystack
from harness.suite.toolkit.numerals import listed
from harness.suite.toolkit.scoring import named
from harness.suite.toolkit.seeded import SeededRandom, hash_order
from harness.suite.toolkit.strata import NONE, Wanted, cells, draw_plan, wanted, with_cue

BABI = {"1": "qa1_single-supporting-fact", "2": "qa2_two-supporting-facts", "3": "qa3_three-supporting-facts"}
PLACES = ("bathroom", "bedroom", "garden", "hallway", "kitchen", "office")
NEEDLES = 4
BABI_INTRO = "Some facts about people are hidden in the text below. Answer the question about them."

Docs = dict[str, datasets.Dataset]


def babi(**metadata: Any) -> Docs:
    """Make questions on facts that are told in order, bare or hidden in a book."""
    want, folder, measure = _start(metadata)
    stories = {facts: _stories(folder, facts, want.seed) for facts in want.axes["facts"]}
    plan = draw_plan(cells(want.axes), want.split_by, want.items)
    made = [_babi_doc(folder, stories, cell, number, measure, want.seed) for cell, number in plan]
    return _data(made, metadata)


def oneruler(**metadata: Any) -> Docs:
    """Make needles in many languages, bare or in a book of the language; the twin asks for one that is absent."""
    want, folder, measure = _start(metadata)
    if measure is not None:
        tags = [_tag(_prompts(folder, language)) for language in want.axes["language"]]
        measure = TokenCounter(metadata | {"cue": max(tags, key=measure.plain)})
    asked = "language" in (metadata.get("axes") or {})
    chosen = [cell for cell in cells(want.axes) if _possible(folder, cell, needed=asked)]
    if not chosen:
        raise ValueError(f"data_dir {folder!r} holds no book of these languages; context_tokens: [none] needs none")
    plan = draw_plan(chosen, want.split_by, want.items)
    return _data([_needle_doc(folder, cell, number, measure, want.seed) for cell, number in plan], metadata)


def score_babi(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """Score 1 where the right place is named and no other."""
    return {"exact_match": float(named(results[0], PLACES) == {doc["target"]})}


def score_oneruler(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """Score 1 for the right number alone or, where there is none, for the language's word for none and no number."""
    found = listed(results[0])
    if doc["answer"] == "absent":
        return {"exact_match": float(not found and bool(named(results[0], [doc["target"]])))}
    return {"exact_match": float(found == {int(doc["target"])})}


def _start(metadata: dict[str, Any]) -> tuple[Wanted, str, TokenCounter | None]:
    want = wanted(metadata)
    if not metadata.get("data_dir"):
        raise ValueError("its files are not on the hub: name their folder with data_dir")
    bare = set(want.axes["context_tokens"]) == {NONE}
    return want, str(metadata["data_dir"]), None if bare else TokenCounter(metadata)


def _data(docs: list[dict[str, Any]], metadata: dict[str, Any]) -> Docs:
    return {"test": datasets.Dataset.from_list(with_cue(docs, metadata))}


def _text(
    lines: list[str],
    tokens: str,
    measure: TokenCounter | None,
    draw: SeededRandom,
    frame: str,
    source: Iterator[str] | None,
) -> str:
    """Give the bare lines, or a text of so many tokens with the lines in it."""
    if tokens == NONE or measure is None:
        return "\n".join(lines)
    return build_haystack(lines, int(tokens), measure, draw, frame=frame, source=source)


# ------------------------------------------------------------------------------------------------- bAbI


@lru_cache(maxsize=8)
def _stories(folder: str, facts: str, seed: int) -> list[tuple[str, list[str], str, str]]:
    """Give a file's questions in a lasting random order: name, the facts told before it, question, answer."""
    name = f"{BABI[facts]}_test.txt"
    found, told = [], []
    for number, line in enumerate(read_text(find(folder, [f"babi/en/{name}", f"en/{name}", name])).splitlines()):
        place, _, text = line.partition(" ")
        if place == "1":
            told = []
        parts = text.split("\t")
        if len(parts) == 1:
            told.append(text.strip())
        else:
            found.append((str(number), list(told), parts[0].strip(), parts[1].strip()))
    return sorted(found, key=lambda one: hash_order(one[0], seed, facts))


def _babi_doc(
    folder: str,
    files: dict[str, list[tuple[str, list[str], str, str]]],
    cell: dict[str, str],
    number: int,
    measure: TokenCounter | None,
    seed: int,
) -> dict[str, Any]:
    stories = files[cell["facts"]]
    if number >= len(stories):
        raise ValueError(f"facts={cell['facts']} has only {len(stories)} questions")
    name, told, question, answer = stories[number]
    draw = SeededRandom(seed, "babi", json.dumps(cell), name)
    source = None if cell["context_tokens"] == NONE else book(_english_book(folder), draw)
    ending = f"{question} Answer with one word."
    text = _text(told, cell["context_tokens"], measure, draw, f"{BABI_INTRO}\n\n\n\n{ending}", source)
    return _document(cell, f"{name}", f"babi/{cell['facts']}/{name}", f"{BABI_INTRO}\n\n{text}\n\n{ending}", answer) | {
        "chance": 1 / len(PLACES),
        "language": "en",
    }


@lru_cache(maxsize=1)
def _english_book(folder: str) -> str:
    return read_text(find(folder, ["gutenberg_moby_dick/2701-0.txt", "2701-0.txt", "book.txt"]))


# --------------------------------------------------------------------------------------------- OneRuler


@lru_cache(maxsize=32)
def _prompts(folder: str, language: str) -> dict[str, str]:
    places = [f"{root}prompt/{language}/niah.txt" for root in ("oneruler/data/", "data/", "")]
    read: dict[str, str] = json.loads(read_text(find(folder, places)))
    return read


@lru_cache(maxsize=32)
def _nouns(folder: str, language: str) -> tuple[str, ...]:
    name = "vocab/100_noun_list_translated.tsv"
    lines = read_text(find(folder, [f"{root}{name}" for root in ("oneruler/data/", "data/", "")])).splitlines()
    column = lines[0].split("\t").index(language)
    return tuple(dict.fromkeys(line.split("\t")[column].strip() for line in lines[1:] if line.strip()))


@lru_cache(maxsize=32)
def _book_of(folder: str, language: str) -> str | None:
    for root in ("oneruler/data/", "data/", ""):
        files = sorted((Path(folder) / f"{root}books" / language).glob("*.txt"))
        if files:
            return read_text(files[0])
    return None


def _possible(folder: str, cell: dict[str, str], *, needed: bool) -> bool:
    """Whether a cell can be made; a language that was asked for and has no book is an error."""
    if cell["context_tokens"] == NONE or _book_of(folder, cell["language"]) is not None:
        return True
    if needed:
        raise ValueError(
            f"data_dir {folder!r} holds no book in {cell['language']!r}; context_tokens: [none] needs none"
        )
    return False


def _needle_doc(
    folder: str, cell: dict[str, str], number: int, measure: TokenCounter | None, seed: int
) -> dict[str, Any]:
    """Ask for one of four needles; a long text is read once for all four, and for as many that are not in it."""
    language, tokens = cell["language"], cell["context_tokens"]
    turn, at = (number, 0) if tokens == NONE else divmod(number, NEEDLES)
    name = f"oneruler/{language}/{tokens}/{turn}"
    draw, words = SeededRandom(seed, "oneruler", tokens, turn), _prompts(folder, language)
    known = _nouns(folder, language)
    nouns = draw.sample(known, NEEDLES + 1)
    values = draw.sample(range(1_000_000, 10_000_000), NEEDLES)
    lines = [
        words["needle_numbers"].format(key=noun, value=value).strip()
        for noun, value in zip(nouns, values, strict=False)
    ]
    rest = [noun for noun in known if noun not in nouns]
    nouns += SeededRandom(seed, "oneruler", "absent", tokens, turn).sample(rest, NEEDLES - 1)
    absent = cell["answer"] == "absent"
    asked, target = (nouns[NEEDLES + at], words["none"]) if absent else (nouns[at], str(values[at]))
    before = words["task"].split("{context}")[0]
    endings = {noun: _ending(words, noun) for noun in nouns}
    frame = before + (max(endings.values(), key=measure.plain) if measure else "")
    source = None if tokens == NONE else book(_book_of(folder, language) or "", draw)
    body = _text(draw.shuffled(lines), tokens, measure, draw, f"{frame}xxxx", source)
    return _document(cell, str(number), name, f"{before}{body}{endings[asked]}", target) | {
        "prefix_group": "" if tokens == NONE else name,
        "chance": 0.0 if absent else 1 / NEEDLES,
        "cue": _tag(words),
    }


def _tag(words: dict[str, str]) -> str:
    """Give the tag that opens an answer in the language."""
    return words["answer_numbers"].split()[0]


def _ending(words: dict[str, str], noun: str) -> str:
    """Give what follows the text: OneRuler's question for a noun."""
    asking = (words["question_single_numbers"].format(query1=noun), " ", words["please_list"], " ")
    after = words["task"].split("{context}")[1]
    return "".join([after, *asking, words["if_no_numbers"], words["answer_prefix"], words["answer_numbers"]])


def _document(cell: dict[str, str], number: str, cluster: str, prompt: str, target: str) -> dict[str, Any]:
    place = ",".join(f"{axis}={level}" for axis, level in cell.items())
    return {"id": f"{place}/{number}", **cell, "cluster": cluster, "prompt": prompt, "target": target}
