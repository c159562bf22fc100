"""The further families of long context: every answer counted, read or looked up again by another way."""

from __future__ import annotations

import json
import re
from collections import Counter

import conftest
import pytest
from test_tasks_generated import docs, module

from harness.suite.toolkit.haystack import book
from harness.suite.toolkit.numerals import numbers
from harness.suite.toolkit.seeded import SeededRandom

SIZES = [512, 2048]


@pytest.fixture(scope="module")
def tokenizer():
    """The small tokenizer of the tests, with a chat template."""
    return conftest.make_tokenizer(100_000)


def made(file, tokenizer, items=4, **axes):
    """Documents of a long-context task."""
    return docs("long_context", file, items=items, tokenizer=tokenizer, axes=axes)


def length(doc, tokenizer):
    """Tokens of a question as a chat model reads it, with room for the answer."""
    message = [{"role": "user", "content": doc["prompt"]}]
    return (
        len(tokenizer.encode(tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True))) + 32
    )


@pytest.mark.parametrize(
    ("file", "axes"),
    [("several", {"answers": [2]}), ("words", {}), ("frequent", {}), ("paragraphs", {"people": [3]})],
)
def test_lengths_are_those_of_the_level(file, axes, tokenizer):
    """A text fills its level to within two hundred of the small tokenizer's tokens, and never goes beyond."""
    for doc in made(file, tokenizer, **axes, context_tokens=[1536, 3072]):
        tokens = int(doc["context_tokens"])
        assert tokens - 400 < length(doc, tokenizer) <= tokens


def test_several_numbers_are_all_in_the_text(tokenizer):
    """Asked for one key's numbers, it has so many lines, as three others have; asked for keys, each has one line."""
    line = re.compile(r"A special number for (\w+) is (\d+)\.")
    for doc in made("several", tokenizer, context_tokens=[1536]):
        text, question = doc["prompt"].rsplit("\n\n", 1)
        records = line.findall(text)
        keys = re.findall(r"\w+", question.split(" for ")[1].split("?")[0].replace(" and ", " "))
        expected = [value for key, value in records if key in keys]
        assert sorted(expected) == sorted(doc["targets"])
        assert len(expected) == int(doc["answers"])
        own = {"values": int(doc["answers"]), "keys": 1}[doc["ask"]]
        assert set(Counter(key for key, _ in records).values()) == {own}
        assert len(records) == (4 * own if doc["ask"] == "values" else int(doc["answers"]) + 4)
        assert len(keys) == (1 if doc["ask"] == "values" else int(doc["answers"]))


def test_several_numbers_score_by_all_and_by_share(tokenizer):
    """All numbers in any order score 1; one missing or one too many scores 0, with the share found beside it."""
    score = module("long_context", "families").score_numbers
    doc = made("several", tokenizer, items=1, answers=[4], ask=["keys"], context_tokens=[1536])[0]
    right = doc["targets"]
    assert score(doc, [", ".join(reversed(right))]) == {"exact_match": 1.0, "found": 1.0}
    assert score(doc, [" and ".join(right[:3])]) == {"exact_match": 0.0, "found": 0.75}
    assert score(doc, [", ".join([*right, "12"])]) == {"exact_match": 0.0, "found": 1.0}
    assert score(doc, ["none of them"]) == {"exact_match": 0.0, "found": 0.0}


def test_common_words_are_the_most_common(tokenizer):
    """Counted again, the three targets are the three most frequent words, by far."""
    for doc in made("words", tokenizer, context_tokens=[2048]):
        counts = Counter(doc["prompt"].split("\n\n")[1].split())
        (*top, runner_up) = counts.most_common(4)
        assert {word for word, _ in top} == set(doc["targets"])
        assert min(count for _, count in top) >= 5 * runner_up[1]


def test_frequent_words_follow_a_zeta_law(tokenizer):
    """Counted again, the word of rank r comes up 1 / r^2 as often as the first, rounded down; three are asked for."""
    for doc in made("frequent", tokenizer, context_tokens=[2048]):
        counts = [count for _, count in Counter(doc["prompt"].split("\n\n")[1].split()).most_common()]
        assert counts == [counts[0] // rank**2 for rank in range(1, len(counts) + 1)]
        top = Counter(doc["prompt"].split("\n\n")[1].split()).most_common(3)
        assert [word for word, _ in top] == doc["targets"]


def test_paragraphs_hold_the_asked_fact_once(tokenizer):
    """The asked person has one line on the asked fact, and its value is the target."""
    for doc in made("paragraphs", tokenizer, people=[4], context_tokens=[1536], items=12):
        text, question = doc["prompt"].rsplit("\n\n", 1)
        who = re.search(r"[A-Z]\w+ [A-Z]\w+", question[3:]).group()
        lines = re.findall(rf"{who} [^.]+\.", text)
        assert len(lines) == 4
        assert sum(line.endswith(f"{doc['target']}.") for line in lines) == 1


def test_identifiers_are_looked_up(tokenizer):
    """The text is a JSON object of so many pairs, and the target is the value of the asked key."""
    for doc in made("pairs", tokenizer, pairs=[20, 75]):
        table = json.loads(doc["prompt"].split("\n\n")[1])
        key = re.search(r'key "([^"]+)"', doc["prompt"]).group(1)
        assert len(table) == int(doc["pairs"])
        assert table[key] == doc["target"]


def test_one_identifier_is_named_and_no_other_value(tokenizer):
    """The key may be told again; another identifier as a value, whole or cut, leaves open which one is meant."""
    score = module("long_context", "families").score_words
    for doc in made("pairs", tokenizer, pairs=[20]):
        key, right = re.search(r'key "([^"]+)"', doc["prompt"]).group(1), doc["target"]
        table = json.loads(doc["prompt"].split("\n\n")[1])
        wrong, other = next((value, own) for own, value in table.items() if own != key)
        told = [f'The value of the key "{key}" is "{right}".', f'{{"{key}": "{right}"}}', f"{key} = {right}"]
        told += [
            f"{key} {right}",
            f'"{key}" maps to "{right}"',
            f"For {key}, it is {right}",
            f"{right} is the value for {key}",
        ]
        for text in (right, f"**{right.upper()}**", f"{right}\n{right}", f"Key: {key}\nValue: {right}", *told):
            assert score(doc, [text])["exact_match"] == 1.0, text
        both = [
            f"{right}, {wrong}",
            f"{wrong}\n{right}",
            f"{right} or {wrong[:12]}",
            f"{right[:-1]}x",
            json.dumps(table),
        ]
        for text in (wrong, key, *both, f'"{other}": "{wrong}",\n"{key}": "{right}"'):
            assert score(doc, [text])["exact_match"] == 0.0, text


def test_published_identifiers_are_read(shared_data):
    """From data_dir come the published pairs; a number of pairs that is not there is named when asked for."""
    found = docs("long_context", "pairs", items=5, data_dir=str(shared_data))
    assert {doc["pairs"] for doc in found} == {"75"}
    for doc in found:
        table = json.loads(doc["prompt"].split("\n\n")[1])
        assert len(table) == 75
        assert table[re.search(r'key "([^"]+)"', doc["prompt"]).group(1)] == doc["target"]
    with pytest.raises(ValueError, match="140_keys"):
        docs("long_context", "pairs", items=5, data_dir=str(shared_data), axes={"pairs": [140]})


@pytest.mark.parametrize("tokens", ["none", 4096])
def test_babi_facts_stand_in_order_and_give_the_answer(tokens, tokenizer, shared_data):
    """The facts of the file stand in the text in their order; where a person went last is the answer to one fact."""
    rows = docs(
        "long_context",
        "babi_books",
        items=6,
        data_dir=str(shared_data),
        tokenizer=tokenizer,
        axes={"context_tokens": [tokens]},
    )
    assert {doc["facts"] for doc in rows} == {"1", "2", "3"}
    moved = re.compile(r"(Mary|John|Sandra|Daniel) (?:moved|went|went back|journeyed|travelled) to the (\w+)\.")
    for doc in rows:
        if doc["facts"] != "1":
            continue
        who = re.search(r"Where is (\w+)\?", doc["prompt"]).group(1)
        assert [place for name, place in moved.findall(doc["prompt"]) if name == who][-1] == doc["target"]
        if tokens != "none":
            assert tokens - 700 < length(doc, tokenizer) <= tokens


def test_babi_answers_name_one_place():
    """The right place alone scores 1, in a sentence too; a list of places scores 0."""
    score = module("long_context", "books").score_babi
    doc = {"target": "kitchen"}
    assert score(doc, ["Daniel is in the Kitchen."]) == {"exact_match": 1.0}
    assert score(doc, ["kitchen or garden"]) == {"exact_match": 0.0}
    assert score(doc, ["garden"]) == {"exact_match": 0.0}


def test_needles_in_26_languages(tokenizer, shared_data):
    """In every language the asked needle stands once among four with its number, or not at all in the twin."""
    rows = docs(
        "long_context",
        "oneruler",
        items=26,
        data_dir=str(shared_data),
        tokenizer=tokenizer,
        axes={"context_tokens": ["none"]},
    )
    assert {(doc["language"], doc["answer"]) for doc in rows} == {
        (doc["language"], answer) for doc in rows for answer in ("present", "absent")
    }
    assert len({doc["language"] for doc in rows}) == 26
    for doc in rows:
        values = [one for one in numbers(doc["prompt"]) if one > 999_999]
        assert len(values) == len(set(values)) == 4
        assert (str(doc["target"]) in {str(one) for one in values}) == (doc["answer"] == "present")


def test_needles_are_judged_in_their_language(shared_data):
    """The word for none counts in its language, numbers in any digits; a number where there is none does not."""
    score = module("long_context", "books").score_oneruler
    absent = {"answer": "absent", "target": "ha ho letho"}
    assert score(absent, ["<Karabo> Ha ho letho </Karabo>"]) == {"exact_match": 1.0}
    assert score(absent, ["none"]) == {"exact_match": 0.0}
    assert score(absent, ["ha ho letho 1234567"]) == {"exact_match": 0.0}
    present = {"answer": "present", "target": "1104257"}
    hindi = "".join(chr(0x0966 + int(sign)) for sign in "1104257")
    assert score(present, [f"<x> {hindi} </x>"]) == {"exact_match": 1.0}
    assert score(present, ["1104257, 8366954"]) == {"exact_match": 0.0}


def test_needles_in_books_of_their_language(tokenizer, shared_data):
    """With a length, the languages that have a book are asked, and the text is that book's; others are named."""
    rows = docs(
        "long_context",
        "oneruler",
        items=6,
        data_dir=str(shared_data),
        tokenizer=tokenizer,
        axes={"context_tokens": [8192]},
    )
    assert {doc["language"] for doc in rows} == {"en", "fi", "hi", "sr", "st", "ta"}
    finnish = next(doc for doc in rows if doc["language"] == "fi")
    whole = " ".join(next((shared_data / "oneruler/data/books/fi").glob("*.txt")).read_text(encoding="utf-8").split())
    text = " ".join(finnish["prompt"].split())
    assert sum(text[place : place + 60] in whole for place in range(400, 2000, 100)) > 8
    texts = {(doc["prefix_group"], doc["prompt"][: doc["prompt"].index("</")]) for doc in rows}
    assert len(rows) == 12
    assert len({group for group, _ in texts}) == len(texts) == 6
    with pytest.raises(ValueError, match="no book in 'sw'"):
        docs(
            "long_context",
            "oneruler",
            items=1,
            data_dir=str(shared_data),
            tokenizer=tokenizer,
            axes={"context_tokens": [4096], "language": ["sw"]},
        )


def test_books_are_read_round_and_round():
    """Sentences come in the book's order from a random place on, and start again at its end."""
    text = "First one. Second one! Third one?\n\nA heading\n\nLast one."
    stream = book(text, SeededRandom("x"))
    found = [next(stream) for _ in range(10)]
    assert found[:5] == found[5:]
    assert set(found) == {"First one.", "Second one!", "Third one?", "A heading", "Last one."}
    with pytest.raises(ValueError, match="empty"):
        book(" \n ", SeededRandom("x"))


def test_who_copies_the_text_does_not_name_what_was_asked(tokenizer):
    """The beginning of a list holds its common words; the right answer is them alone. So it is of a person's facts."""

    def score(doc, results):
        return module("long_context", "families").score_words(doc | {"prompt": ""}, results)  # as items are stored

    for file in ("words", "frequent"):
        for doc in made(file, tokenizer, context_tokens=[1536]):
            copied = " ".join(doc["prompt"].split("\n\n")[1].split()[:40])
            assert score(doc, [copied])["exact_match"] == 0.0
            right = f"The most common words in the list above are: {', '.join(doc['targets'])}."
            assert score(doc, [right]) == {"exact_match": 1.0, "found": 1.0}
    for doc in made("paragraphs", tokenizer, context_tokens=[1536], people=[4]):
        values = next(one for one in module("long_context", "families").PEOPLE_FACTS.values() if doc["target"] in one)
        assert score(doc, [f"a {doc['target']}"])["exact_match"] == 1.0
        assert score(doc, [", ".join(values)])["exact_match"] == 0.0


@pytest.mark.parametrize(
    ("file", "axes", "chance"),
    [
        ("several", {"answers": [2], "ask": ["values"], "context_tokens": [1536]}, 1 / 4),
        ("several", {"answers": [2], "ask": ["keys"], "context_tokens": [1536]}, 1 / 15),
        ("paragraphs", {"people": [4], "context_tokens": [1536]}, 1 / 4),
        ("pairs", {"pairs": [20]}, 1 / 20),
    ],
)
def test_whoever_picks_one_of_a_kind_from_the_text_guesses(tokenizer, file, axes, chance):
    """One of four people's facts is right once in four, and of six numbers two are a choice of fifteen."""
    assert {doc["chance"] for doc in made(file, tokenizer, **axes)} == {chance}
