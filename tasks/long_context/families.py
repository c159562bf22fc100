"""More ways to look into a long text: several answers at once, common words, paragraphs, pairs of identifiers.

After the families of RULER (Hsieh et al. 2024, arXiv:2404.06654) and the key-value retrieval of Liu et al. 2023
(arXiv:2307.03172), in own wording. Where more than one question can be asked of a text, `QUESTIONS` are, one after the
other: it is read once, and they are one cluster. Every document is a function of (seed, task, cell, number) and, where
a text is filled up, of the tokenizer. lm_eval calls the functions named in the YAML files.
"""

from __future__ import annotations

import json
import math
import re
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets

from harness.suite.toolkit.datafiles import find, read_json_lines
from harness.suite.toolkit.haystack import ANSWER_ROOM, TokenCounter, build_haystack
from harness.suite.toolkit.numerals import listed
from harness.suite.toolkit.scoring import named
from harness.suite.toolkit.seeded import SeededRandom
from harness.suite.toolkit.strata import NONE, cells, draw_plan, sample_documents, wanted, with_cue

KEYS = tuple((Path(__file__).parent / "keys.txt").read_text(encoding="utf-8").split())
INTRO = "Some special numbers are hidden in the text below. Answer the question about them."
QUESTIONS = 4
"""Questions on one text, at most."""
VOWELS, CONSONANTS = "aeiou", "bdfgklmnprstvz"
MADE_WORD = re.compile(rf"\b(?:[{CONSONANTS}][{VOWELS}]){{3}}\b")
"""Words as `_word` makes them: those in an answer count as the list's, whose text no scorer has."""
IDENTIFIER = re.compile(r"\b[\da-f]{8}-[\da-f-]{3,30}+")
"""Identifiers of a key or a value, also cut ones."""
PEOPLE_FACTS = {
    "was born in the city of": (
        "Lisbon",
        "Nairobi",
        "Osaka",
        "Lima",
        "Tartu",
        "Cork",
        "Hanoi",
        "Quito",
        "Bergen",
        "Accra",
    ),
    "trained as a": ("carpenter", "surgeon", "pilot", "baker", "surveyor", "glassblower", "translator", "botanist"),
    "is known for playing the": ("cello", "oboe", "harp", "trumpet", "banjo", "piano", "flute", "drums"),
    "is the owner of a": ("sailing boat", "vineyard", "bookshop", "telescope", "windmill", "printing press"),
}
PEOPLE_ASK = {
    "was born in the city of": "In which city was {who} born?",
    "trained as a": "What did {who} train as?",
    "is known for playing the": "Which instrument is {who} known for?",
    "is the owner of a": "What does {who} own?",
}

Docs = dict[str, datasets.Dataset]


def several(**metadata: Any) -> Docs:
    """Make texts in which one key has several numbers, or several keys are asked for at once."""
    return _made(metadata, _several_doc)


def words(**metadata: Any) -> Docs:
    """Make long lists of words, a few of them far more common than the others."""
    return _made(metadata, _words_doc)


def frequent(**metadata: Any) -> Docs:
    """Make long lists in which the word of rank r comes up about 1 / r^2 as often as the first."""
    return _made(metadata, _frequent_doc)


def paragraphs(**metadata: Any) -> Docs:
    """Make short paragraphs on people who do not exist, and ask for a fact of one of them."""
    return _made(metadata, _paragraph_doc)


def pairs(**metadata: Any) -> Docs:
    """Make JSON objects of random identifiers and ask for one value; from `data_dir` the published ones."""
    want = wanted(metadata)
    if data_dir := metadata.get("data_dir"):
        asked = "pairs" in (metadata.get("axes") or {})
        docs = [doc for count in want.axes["pairs"] for doc in _published(data_dir, int(count), needed=asked)]
        return _data(sample_documents(docs, want, "pairs"), metadata)
    plan = draw_plan(cells(want.axes), want.split_by, want.items)
    return _data([_pairs_doc(want.seed, cell, number) for cell, number in plan], metadata)


def score_numbers(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """Score 1 for all the right numbers and no other; beside it, the share of them that was found."""
    found, right = listed(results[0]), {int(one) for one in doc["targets"]}
    return {"exact_match": float(found == right), "found": len(found & right) / len(right)}


def score_words(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """Score 1 where the right words are named and no other that could be; beside it, the share of them that was.

    Half of a list are its common words: whoever copies some of it names them all. The asked key may be told again.
    """
    right = {*doc["targets"]}
    like = [values for values in PEOPLE_FACTS.values() if doc["target"] in values]
    others = (MADE_WORD if "common" in doc else IDENTIFIER).findall(results[0].casefold()) if not like else like[0]
    said = named(results[0], [*right, *(one for one in others if one not in {*right, doc.get("key")})])
    return {"exact_match": float(said == right), "found": len(said & right) / len(right)}


def _made(metadata: dict[str, Any], make: Callable[[int, dict[str, str], int, TokenCounter], dict[str, Any]]) -> Docs:
    """Make what is wanted of each cell; `make` is given the seed, a cell, a number and what measures texts."""
    want, measure = wanted(metadata), TokenCounter(metadata)
    plan = draw_plan(cells(want.axes), want.split_by, want.items)
    return _data([make(want.seed, cell, number, measure) for cell, number in plan], metadata)


def _data(docs: list[dict[str, Any]], metadata: dict[str, Any]) -> Docs:
    return {"test": datasets.Dataset.from_list(with_cue(docs, metadata))}


def _several_doc(seed: int, cell: dict[str, str], number: int, measure: TokenCounter) -> dict[str, Any]:
    """Ask for all numbers of one of four keys that have several each, or for those of some of the keys of a text."""
    turn, at = divmod(number, QUESTIONS)
    draw = SeededRandom(seed, "several", json.dumps(cell), turn)
    count, tokens = int(cell["answers"]), cell["context_tokens"]
    if cell["ask"] == "values":
        names = [name for name in draw.sample(KEYS, QUESTIONS) for _ in range(count)]
        asked = [[name] for name in names[::count]]
    else:
        names = draw.sample(KEYS, count + QUESTIONS)
        asked = [names[start : start + count] for start in range(QUESTIONS)]
    records = list(zip(names, map(str, draw.sample(range(1000, 10000), len(names))), strict=True))
    lines = draw.shuffled([f"A special number for {name} is {value}." for name, value in records])
    questions = [_numbers_of(keys, several=cell["ask"] == "values") for keys in asked]
    text = build_haystack(lines, int(tokens), measure, draw, frame=_frame(INTRO, questions, measure))
    targets = [value for name, value in records if name in asked[at]]
    prompt = f"{INTRO}\n\n{text}\n\n{questions[at]}"
    chance = 1 / (QUESTIONS if cell["ask"] == "values" else math.comb(len(names), count))
    return _document(cell, number, prompt, targets, context=tokens, turn=turn) | {"chance": chance}


def _numbers_of(keys: list[str], *, several: bool) -> str:
    if several:
        return f"What are all the special numbers for {keys[0]}? Answer with the numbers only."
    listed = ", ".join(keys[:-1]) + " and " * (len(keys) > 1) + keys[-1]
    return f"What are the special numbers for {listed}? Answer with the numbers only."


def _frame(intro: str, questions: list[str], measure: TokenCounter) -> str:
    """Give what stands around a text, with the longest of the questions: the text is the same for all of them."""
    return f"{intro}\n\n\n\n{max(questions, key=measure.plain)}"


def _words_doc(seed: int, cell: dict[str, str], number: int, measure: TokenCounter) -> dict[str, Any]:
    """Repeat the common words as often as the length allows; the others come up once each."""
    draw = SeededRandom(seed, "words", json.dumps(cell), number)
    common, budget = int(cell["common"]), int(cell["context_tokens"])
    question = f"Which {common} words are the most common in the list above? Answer with the words only."
    intro = "Read the list of words below. Some of them come up again and again."
    seen: set[str] = set()
    targets = [_word(draw, seen) for _ in range(common)]
    room = budget - ANSWER_ROOM - measure.whole(f"{intro}\n\n\n\n{question}")
    flow: list[str] = []
    while True:
        block = [*targets * 5, *[_word(draw, seen) for _ in range(5 * common)]]
        room -= measure.plain(" " + " ".join(block)) + 1
        if room < 0:
            break
        flow += block
    if not flow:
        raise ValueError(f"context_tokens={budget} is too short for {common} common words; take more tokens")
    text = f"{intro}\n\n{' '.join(draw.shuffled(flow))}\n\n{question}"
    return _document(cell, number, text, targets, context=cell["context_tokens"])


def _frequent_doc(seed: int, cell: dict[str, str], number: int, measure: TokenCounter) -> dict[str, Any]:
    """Repeat words by a zeta law of exponent 2, as often as the length allows; the first ranks are asked for."""
    draw = SeededRandom(seed, "frequent", json.dumps(cell), number)
    common, budget = int(cell["common"]), int(cell["context_tokens"])
    question = f"Which {common} words are the most frequent in the list above? Answer with the words only."
    intro = "Read the list of words below. Some of them are more frequent than others."
    room = budget - ANSWER_ROOM - measure.whole(f"{intro}\n\n\n\n{question}")
    seen: set[str] = set()
    ranked: list[str] = []

    def flow(times: int) -> list[str]:
        """The list in which the first word comes up so many times: ranks up to the root of it come up at all."""
        while len(ranked) ** 2 < times:
            ranked.append(_word(draw, seen))
        return [word for rank, word in enumerate(ranked, start=1) for _ in range(times // rank**2)]

    def fits(times: int) -> bool:
        return measure.plain(" " + " ".join(flow(times))) <= room

    least = common * common
    if not fits(least):
        raise ValueError(f"context_tokens={budget} is too short for {common} frequent words; take more tokens")
    low, high = least, 2 * least
    while fits(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    text = f"{intro}\n\n{' '.join(draw.shuffled(flow(low)))}\n\n{question}"
    return _document(cell, number, text, ranked[:common], context=cell["context_tokens"])


def _word(draw: SeededRandom, seen: set[str]) -> str:
    """Make a word that no language has, and that was not made before."""
    while True:
        made = "".join(draw.choice(CONSONANTS) + draw.choice(VOWELS) for _ in range(3))
        if made not in seen:
            seen.add(made)
            return made


def _paragraph_doc(seed: int, cell: dict[str, str], number: int, measure: TokenCounter) -> dict[str, Any]:
    turn, at = divmod(number, QUESTIONS)
    draw = SeededRandom(seed, "paragraphs", json.dumps(cell), turn)
    seen: set[str] = set()
    people = [f"{_word(draw, seen).title()} {_word(draw, seen).title()}" for _ in range(int(cell["people"]))]
    told = {(who, fact): draw.choice(values) for who in people for fact, values in PEOPLE_FACTS.items()}
    lines = [f"{who} {fact} {value}." for (who, fact), value in told.items()]
    asked = draw.sample(list(told), QUESTIONS)
    intro = "Read the text below and answer the question about it."
    questions = [f"{PEOPLE_ASK[fact].format(who=who)} Answer in a few words." for who, fact in asked]
    tokens = cell["context_tokens"]
    text = build_haystack(lines, int(tokens), measure, draw, frame=_frame(intro, questions, measure))
    prompt = f"{intro}\n\n{text}\n\n{questions[at]}"
    chance = {"chance": 1 / len(people)}
    return _document(cell, number, prompt, [told[asked[at]]], context=tokens, turn=turn) | chance


def _identifier(draw: SeededRandom) -> str:
    return str(uuid.UUID(int=draw.below(2**128), version=4))


def _pairs_doc(seed: int, cell: dict[str, str], number: int) -> dict[str, Any]:
    count = int(cell["pairs"])
    turn, at = divmod(number, min(QUESTIONS, count))
    draw = SeededRandom(seed, "pairs", json.dumps(cell), turn)
    records = [(_identifier(draw), _identifier(draw)) for _ in range(count)]
    key, value = draw.shuffled(records)[at]
    return _pairs(cell, number, records, key, value, turn=turn)


def _pairs(
    cell: dict[str, str], number: int, records: list[tuple[str, str]], key: str, value: str, turn: int | None = None
) -> dict[str, Any]:
    text = json.dumps(dict(records), indent=0).replace('",\n', '",\n ').replace("{\n", "{").replace("\n}", "}")
    prompt = (
        "Below is a JSON object of keys and values. Give the value of the key asked for.\n\n"
        f'{text}\n\nWhat is the value of the key "{key}"? Answer with the value only.'
    )
    return _document(cell, number, prompt, [value], context=NONE, turn=turn) | {"chance": 1 / len(records), "key": key}


def _published(data_dir: str, count: int, *, needed: bool) -> list[dict[str, Any]]:
    """Read the published items of so many pairs; none where the file is missing and was not asked for by its number."""
    name = f"kv-retrieval-{count}_keys.jsonl.gz"
    try:
        rows = read_json_lines(find(data_dir, [f"kv_retrieval/{name}", name]))
    except ValueError:
        if needed:
            raise
        return []
    cell = {"pairs": str(count)}
    return [
        _pairs(cell, number, [tuple(pair) for pair in row["ordered_kv_records"]], row["key"], row["value"])
        for number, row in enumerate(rows)
    ]


def _document(
    cell: dict[str, str], number: int, prompt: str, targets: list[str], *, context: str, turn: int | None = None
) -> dict[str, Any]:
    """Give a document. turn: the number of its text, where other documents ask of the same one."""
    place = ",".join(f"{axis}={level}" for axis, level in cell.items())
    cluster = f"{place}/{number}" if turn is None else f"{place},text={turn}"
    return {
        "id": f"{place}/{number}",
        "cluster": cluster,
        "prefix_group": "" if turn is None else cluster,
        **cell,
        "prompt": prompt,
        "targets": targets,
        "target": ", ".join(targets),
        "chance": 0.0,
        "language": "" if context == NONE else "en",
    }
