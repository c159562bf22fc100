"""The generators under tasks/: same seed, same bytes; every answer found again by another way than it was made."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
import unicodedata
from fractions import Fraction
from functools import cache
from pathlib import Path

import babel
import conftest
import pytest
import yaml
from paths import TASKS


class _Loader(yaml.SafeLoader):
    """Reads !function tags as text."""


_Loader.add_constructor("!function", lambda loader, node: loader.construct_scalar(node))


def read(path: Path) -> dict:
    """A task file as plain data."""
    return yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)  # noqa: S506 - a SafeLoader


@cache
def module(folder: str, name: str):
    """A generator, loaded by its path as lm_eval loads it."""
    spec = importlib.util.spec_from_file_location(f"{folder}_{name}", TASKS / folder / f"{name}.py")
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


def some(folder: str, file: str, **asked) -> list[dict]:
    """The documents of a task file, in few languages where it has many."""
    return docs(folder, file, **(FEW if file.startswith("cldr") else {}), **asked)


def docs(folder: str, file: str, **asked) -> list[dict]:
    """The documents of a task file, made with its own metadata and what is asked for beside."""
    config = read(TASKS / folder / f"{file}.yaml")
    while "custom_dataset" not in config:
        base = read(TASKS / folder / config["include"])
        config = base | {key: value for key, value in config.items() if key != "include"}
    name, function = config["custom_dataset"].split(".")
    made = getattr(module(folder, name), function)(**{**config["metadata"], **asked})
    return [dict(doc) for doc in made["test"]]


def fingerprint(made: list[dict]) -> str:
    """The first 16 hex digits of the SHA-256 of documents as JSON."""
    text = json.dumps(made, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


GOLDEN = {
    ("long_context", "lookup"): "997aef6e4634ae11",
    ("long_context", "chain"): "1e427efc270d25e5",
    ("multi_hop_math", "chains"): "a1884e27ba470105",
    ("typical", "additions"): "4b9d49cb4a1a11b5",
    ("typical", "groups"): "643b80e00edf61f3",
    ("typical", "facts"): "95cb7e82cf5539a9",
    ("low_resource_languages", "cldr_choice"): "49e58bb38adfcadf",  # with the CLDR of Babel 2.18
    ("low_resource_languages", "cldr_write"): "0a22b0dc78a3db8f",
}
GENERATED = list(GOLDEN)
FEW = {"axes": {"language": ["sw", "hy", "th", "fa"]}}
"""Of the CLDR's languages those that are made where one shows as much as all."""

FILLED = {
    ("lookup", "keys=6,context_tokens=1024"): "76b4eb7ed3d8f98e",
    ("chain", "hops=2,context_tokens=1024"): "3bd91e1bacdfa107",
    ("needle", "context_tokens=512"): "5ad4501ed0b296cd",
    ("several", "answers=2,context_tokens=1024"): "b7356b6dec63cd8f",
    ("words", "context_tokens=1024"): "cd762885cf6d3698",
    ("frequent", "context_tokens=1024"): "c9f1a30e64c442c5",
    ("paragraphs", "people=4,context_tokens=1024"): "12d5a3d5f470ab11",
    ("pairs", "pairs=20"): "9fffb3a8641ac411",
}
"""Texts whose length is counted with the tests' own tokenizer, and objects of identifiers."""


@pytest.mark.parametrize(("folder", "file"), GOLDEN)
def test_seed_0_gives_the_known_bytes(folder, file):
    """Eight items per stratum from seed 0 have the SHA-256 that they had on Python 3.11, 3.12 and 3.13."""
    if file.startswith("cldr") and not babel.__version__.startswith("2.18."):
        pytest.skip(f"the digest is that of CLDR 47 in Babel 2.18; this is Babel {babel.__version__}")
    assert fingerprint(docs(folder, file, items=8)) == GOLDEN[folder, file]


@pytest.mark.parametrize(("folder", "file"), GENERATED)
def test_more_items_leave_the_first_as_they_were(folder, file):
    """Asking for five items gives the same bytes for each of them as asking for eleven."""
    few = {doc["id"]: doc for doc in some(folder, file, items=5)}
    many = {doc["id"]: doc for doc in some(folder, file, items=11)}
    assert len(many) > len(few) > 0
    assert all(many[name] == doc for name, doc in few.items())


@pytest.mark.parametrize(("folder", "file"), GENERATED)
def test_another_seed_gives_other_items(folder, file):
    """Seeds 0 and 1 give different documents."""
    assert some(folder, file, items=5) != some(folder, file, items=5, seed=1)


@pytest.mark.parametrize(("folder", "file"), GENERATED)
def test_ids_are_unique(folder, file):
    """No two documents of a task share an id, and no two of a kind share question and cluster."""
    made = some(folder, file, items=12)
    assert len({doc["id"] for doc in made}) == len(made)


GENERATING = [
    *GENERATED,
    ("multi_hop_math", "chains_worked"),
    ("structured_output", "to_schema"),
    ("structured_output", "tool_calls"),
]


@pytest.mark.parametrize(("folder", "file"), GENERATING)
def test_a_cue_ends_the_prompt_only_without_a_chat_template(folder, file):
    """With a chat template the documents are those of before; without one only the prompts differ, by a last line."""
    before, chat = some(folder, file, items=2), some(folder, file, items=2, chat_template=True)
    plain = some(folder, file, items=2, chat_template=False)
    assert chat == before
    for doc, own in zip(before, plain, strict=True):
        cue = own["prompt"].removeprefix(doc["prompt"] + "\n")
        assert re.fullmatch(r"(Answer: )?[A-Z][^\n]{9,40}(:|is)", cue)
        assert own | {"prompt": doc["prompt"]} == doc


def test_a_level_more_leaves_the_others_alone():
    """Lists of 12 keys are the same whether or not lists of 5 are asked for beside them."""
    alone = docs("long_context", "lookup", axes={"keys": [12]}, items=6)
    beside = docs("long_context", "lookup", axes={"keys": [5, 12]}, items=6)
    assert alone == [doc for doc in beside if doc["keys"] == "12"]


LINE = re.compile(r"The special number for (\w+) is (\d+)\.")
LINK = re.compile(r"The special number for (\w+) is the same as the one for (\w+)\.")
ASKED = re.compile(r"What is the special number for (\w+)\?\Z")


@pytest.mark.parametrize("keys", [1, 3, 4, 5, 7, 12, 20])
def test_lookup_answers_stand_in_the_list(keys):
    """Read back, each list has so many different keys; the asked one has the target, or is not there in the twin."""
    made = docs("long_context", "lookup", axes={"keys": [keys]}, items=24)
    assert len(made) == 48
    for doc in made:
        records = LINE.findall(doc["prompt"])
        table = dict(records)
        assert len(records) == len(table) == len(set(table.values())) == keys
        asked = ASKED.search(doc["prompt"]).group(1)
        assert table.get(asked, "not listed") == doc["target"]
        assert (asked in table) == (doc["answer"] == "present")
        if doc["answer"] == "present":
            assert doc["chance"] == pytest.approx(1 / keys)
            place = [key for key, _ in records].index(asked)
            assert keys == 1 or ["start", "middle", "end"][int(3 * (place + 0.5) / keys)] == doc["depth"]


def test_twins_ask_the_same_lists():
    """Every list of the present items is asked again for a key that is not in it, and both share a cluster."""
    made = docs("long_context", "lookup", axes={"keys": [5]}, items=9)
    lists = {
        answer: {doc["cluster"]: doc["prompt"].rsplit("\n\n", 1)[0] for doc in made if doc["answer"] == answer}
        for answer in ("present", "absent")
    }
    assert lists["present"] == lists["absent"]
    assert len(lists["present"]) == 9


@pytest.mark.parametrize("hops", [1, 2, 4, 9])
def test_chains_lead_to_their_number(hops):
    """Following the references by hand takes exactly `hops` steps to the target, or to nothing in the twin."""
    made = docs("long_context", "chain", axes={"hops": [hops]}, items=10)
    assert len(made) == 20
    for doc in made:
        numbers, links = dict(LINE.findall(doc["prompt"])), dict(LINK.findall(doc["prompt"]))
        at, steps = ASKED.search(doc["prompt"]).group(1), 0
        while at in links:
            at, steps = links[at], steps + 1
        assert steps == hops
        assert numbers.get(at, "not listed") == doc["target"]
        assert (doc["answer"] == "absent") == (doc["target"] == "not listed")


STEPS = (
    (re.compile(r"(\w+) (?:gets|finds|buys) (\d+) (?:more )?(\w+)\."), lambda count, n: count + n),
    (re.compile(r"A friend gives (\w+) (\d+) (\w+)\."), lambda count, n: count + n),
    (re.compile(r"(\w+) (?:gives away|loses|sells) (\d+) (\w+)\."), lambda count, n: count - n),
    (re.compile(r"Then (\w+) ends up with (\d+) times as many (\w+) as before\."), lambda count, n: count * n),
    (re.compile(r"(\w+) splits the \w+ into (\d+) equal (parts) and keeps one part\."), Fraction),
)


def solve(text: str) -> tuple[Fraction, int]:
    """The count at the end of a worded chain and the number of its steps, by reading the sentences."""
    who, what = re.search(r"How many (\w+) does (\w+) have now\?", text).group(2, 1)
    count, steps = Fraction(re.match(rf"{who} has (\d+) {what}\.", text).group(1)), 0
    for sentence in re.findall(r"[^.?]+\.", text)[1:]:
        for pattern, effect in STEPS:
            found = pattern.fullmatch(sentence.strip())
            if found and found.group(1) == who and found.group(3) in (what, "parts"):
                count = count / int(found.group(2)) if effect is Fraction else effect(count, int(found.group(2)))
                steps += 1
    return count, steps


@pytest.mark.parametrize("hops", [1, 2, 3, 5, 8, 12])
def test_worded_sums_come_out_right(hops):
    """The sum done again from the words alone is the target, a whole number above zero, after `hops` steps."""
    made = docs("multi_hop_math", "chains", axes={"hops": [hops]}, items=60)
    assert {doc["magnitude"] for doc in made} == {"small", "medium", "large"}
    for doc in made:
        count, steps = solve(doc["prompt"])
        assert steps == hops, doc["prompt"]
        assert count == int(doc["target"]) > 0, doc["prompt"]
        assert count <= {"small": 99, "medium": 999, "large": 99999}[doc["magnitude"]]


def test_additions_add():
    """The target is the sum of the two numbers asked for, each of the size that the stratum names."""
    for doc in docs("typical", "additions", items=20):
        first, second = map(int, re.findall(r"\d+", doc["prompt"]))
        assert first + second == int(doc["target"])
        digits = {"one digit": 1, "two digits": 2, "three digits": 3}[doc["size"]]
        assert len(str(first)) == len(str(second)) == digits


CHOOSING = [("typical", "groups"), ("typical", "facts"), ("low_resource_languages", "cldr_choice")]


@pytest.mark.parametrize(("folder", "file"), CHOOSING)
def test_choices_differ_and_hold_the_answer_anywhere(folder, file):
    """Four different choices, the target among them at the place that gold says, and every place is used."""
    made = some(folder, file, items=40)
    for doc in made:
        assert len(set(doc["choices"])) == 4
        assert doc["choices"][doc["gold"]] == doc["target"]
        assert doc["chance"] == 0.25
    assert {doc["gold"] for doc in made} == {0, 1, 2, 3}


def test_groups_share_no_word():
    """A word of one group stands in no other group, so that a question has one right answer."""
    groups = module("typical", "everyday").GROUPS
    words = [word for own in groups.values() for word in own]
    assert len(words) == len(set(words)) > 100


SCRIPT = {
    "Latn": "LATIN", "Arab": "ARABIC", "Cyrl": "CYRILLIC", "Deva": "DEVANAGARI", "Grek": "GREEK", "Hebr": "HEBREW",
    "Thai": "THAI", "Beng": "BENGALI", "Taml": "TAMIL", "Geor": "GEORGIAN", "Ethi": "ETHIOPIC", "Guru": "GURMUKHI",
    "Laoo": "LAO", "Telu": "TELUGU", "Knda": "KANNADA", "Mlym": "MALAYALAM", "Gujr": "GUJARATI", "Mymr": "MYANMAR",
    "Khmr": "KHMER", "Armn": "ARMENIAN", "Orya": "ORIYA", "Sinh": "SINHALA", "Nkoo": "NKO", "Hans": "CJK",
    "Kore": "HANGUL",
}  # fmt: skip


def test_cldr_facts_are_written_in_their_script():
    """55 languages in 26 scripts; of each language nearly all letters are of the script that the axis says."""
    cldr = module("low_resource_languages", "cldr")
    scripts = {script for script, _ in cldr.LANGUAGES.values()}
    assert len(cldr.LANGUAGES) >= 24
    assert len(scripts) >= 10
    for language, (script, _) in cldr.LANGUAGES.items():
        names = [fact["accepted"][0] for fact in cldr.facts(language) if fact["fact"] != "number"]
        letters = [sign for name in names for sign in name if unicodedata.category(sign) in ("Lu", "Ll", "Lo")]
        known = ("HIRAGANA", "KATAKANA", "CJK") if script == "Jpan" else (SCRIPT[script],)
        right = sum(unicodedata.name(sign).startswith(known) for sign in letters)
        assert len(names) > 60, language
        assert right > 0.95 * len(letters), language


def test_cldr_answers_are_the_cldr_s():
    """Names that any atlas confirms stand among the facts; a name for two things is left out; digits are native."""
    cldr = module("low_resource_languages", "cldr")
    table = {
        (language, fact["fact"], fact["key"]): fact["accepted"]
        for language in ("sw", "hy", "th", "nqo")
        for fact in cldr.facts(language)
    }
    assert table["sw", "country", "DE"] == ["Ujerumani"]
    assert "\u0574\u0561\u0580\u057f" in table["hy", "month", "3"]  # mart
    assert table["th", "weekday", "0"] == ["\u0e27\u0e31\u0e19\u0e08\u0e31\u0e19\u0e17\u0e23\u0e4c"]  # wan chan
    assert table["th", "number", "0"] == ["7,153,509.47"]
    assert [fact["accepted"] for fact in cldr.facts("fa") if fact["key"] == "0" and fact["fact"] == "number"] == [
        ["\u06f7\u066c\u06f1\u06f5\u06f3\u066c\u06f5\u06f0\u06f9\u066b\u06f4\u06f7"]
    ]
    for language in cldr.LANGUAGES:
        found = [
            (fact["fact"], fact["accepted"][0].casefold()) for fact in cldr.facts(language) if fact["fact"] != "number"
        ]
        assert len(found) == len(set(found)), language


def test_cldr_facts_do_not_depend_on_which_language_is_asked_first():
    """Backwards, and with Babel's tables forgotten in between, every language has the same facts."""
    from babel import localedata

    cldr = module("low_resource_languages", "cldr")
    forwards = {language: cldr.facts(language) for language in cldr.LANGUAGES}
    for language in reversed(cldr.LANGUAGES):
        localedata._cache.clear()
        assert cldr.facts.__wrapped__(language) == forwards[language], language


@pytest.fixture(scope="module")
def tokenizer():
    """The small tokenizer of the tests, with a chat template."""
    return conftest.make_tokenizer(100_000)


def filled(file: str, axes: str, tokenizer, **asked) -> list[dict]:
    """The documents of a long-context task on these levels."""
    levels = {axis: [level] for axis, _, level in (one.partition("=") for one in axes.split(","))}
    return docs("long_context", file, axes=levels, tokenizer=tokenizer, **asked)


@pytest.mark.parametrize(("file", "axes"), FILLED)
def test_seed_0_gives_the_known_texts(tokenizer, file, axes):
    """Eight items per stratum, filled up by the tests' own tokenizer, have the SHA-256 of Python 3.11 to 3.13."""
    assert fingerprint(filled(file, axes, tokenizer, items=8)) == FILLED[file, axes]


@pytest.mark.parametrize(("file", "axes"), FILLED)
def test_more_questions_leave_the_first_texts_as_they_were(tokenizer, file, axes):
    """Asking for five items gives the same bytes for each of them as asking for eleven; another seed gives others."""
    few = {doc["id"]: doc for doc in filled(file, axes, tokenizer, items=5)}
    many = {doc["id"]: doc for doc in filled(file, axes, tokenizer, items=11)}
    other = {doc["id"]: doc for doc in filled(file, axes, tokenizer, items=5, seed=1)}
    assert len(many) > len(few) == len(other) > 0
    assert all(many[name] == doc != other[name] for name, doc in few.items())


@pytest.mark.parametrize("tokens", [512, 2048, 8192])
@pytest.mark.parametrize("chat", [True, False])
def test_texts_are_as_long_as_the_level_says(tokenizer, tokens, chat):
    """Prompt and answer room fill the level, chat template included, and are short of it by two sentences at most."""
    made = docs(
        "long_context", "needle", axes={"context_tokens": [tokens]}, items=3, tokenizer=tokenizer, chat_template=chat
    )
    assert len(made) == 6
    for doc in made:
        text = doc["prompt"]
        if chat:
            message = [{"role": "user", "content": text}]
            text = tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True)
        length = len(tokenizer.encode(text)) + 32
        assert tokens - 200 < length <= tokens


NEEDLES = (
    (LINE, ASKED),
    (
        re.compile(r"The room called (\w+) can be reached on extension (\d+)\."),
        re.compile(r"On which extension can the room called (\w+) be reached\?\Z"),
    ),
    (
        re.compile(r"The locker marked (\w+) opens with the code (\d+)\."),
        re.compile(r"Which code opens the locker marked (\w+)\?\Z"),
    ),
)


def test_the_needle_occurs_once_or_not_at_all(tokenizer):
    """The asked key stands in the text once, at its depth and alone of its kind, or not at all in the twin."""
    made = docs("long_context", "needle", axes={"context_tokens": [2048]}, items=12, tokenizer=tokenizer)
    for doc in made:
        text, question = doc["prompt"].rsplit("\n\n", 1)
        ((line, found),) = [(line, found) for line, ask in NEEDLES if (found := ask.search(question))]
        asked, records = found.group(1), line.findall(text)
        assert len(re.findall(rf"\b{asked}\b", text)) == (doc["answer"] == "present")
        assert len(records) == 1
        assert dict(records).get(asked, "not listed") == doc["target"]
        assert len(re.findall(r"\d+", text)) == sum(len(other.findall(text)) for other, _ in NEEDLES) == 3
        if doc["answer"] == "present":
            assert ["start", "middle", "end"][int(3 * text.index(f" {asked} ") / len(text))] == doc["depth"]


SHARED = {
    "lookup": ({"context_tokens": [1024], "keys": [6]}, 6),
    "needle": ({"context_tokens": [512]}, 6),
    "several": ({"context_tokens": [1536], "answers": [2, 4]}, 4),
    "paragraphs": ({"context_tokens": [1536], "people": [3]}, 4),
    "pairs": ({"pairs": [20]}, 4),
}


@pytest.mark.parametrize("file", SHARED)
def test_questions_on_one_text_share_it(tokenizer, file):
    """Several different questions are asked of each text: one cluster, one prefix group, letter by letter alike."""
    axes, per_text = SHARED[file]
    strata = 1 if file in {"paragraphs", "pairs"} else 2
    made = docs("long_context", file, axes=axes, items=2 * per_text, tokenizer=tokenizer)
    groups: dict[str, list[tuple[str, str]]] = {}
    for doc in made:
        assert doc["prefix_group"] == doc["cluster"]
        groups.setdefault(doc["prefix_group"], []).append(tuple(doc["prompt"].rsplit("\n\n", 1)))
    assert len(made) == 2 * per_text * strata
    for own in groups.values():
        assert len({text for text, _ in own}) == 1
        assert len({question for _, question in own}) == len(own) == per_text
    assert len({own[0][0] for own in groups.values()}) == len(groups)


@pytest.mark.parametrize("file", ["chain", "words", "frequent"])
def test_what_is_asked_once_shares_nothing(tokenizer, file):
    """Where a text has one question, or its twin lacks a line of it, no two prompts are said to share a beginning."""
    groups = [
        doc["prefix_group"]
        for doc in docs("long_context", file, axes={"context_tokens": [1024]}, items=6, tokenizer=tokenizer)
        if doc.get("prefix_group")
    ]
    assert len(groups) == len(set(groups)) == (36 if file == "chain" else 0)


def test_a_length_without_a_tokenizer_is_refused():
    """Without a tokenizer to count with, a text of so many tokens is refused; the message says how to name one."""
    with pytest.raises(ValueError, match="tokenizer"):
        docs("long_context", "needle", items=1)


@pytest.mark.parametrize(("folder", "file"), GENERATED)
def test_the_example_is_a_real_item(folder, file):
    """What slice.yml shows of a task is its first item of seed 0, word by word."""
    name = read(TASKS / folder / f"{file}.yaml")["task"]
    shown = read(TASKS / folder / "slice.yml")["examples"][name]
    first = docs(folder, file, items=1)[0]
    assert shown["prompt"].split() == first["prompt"].split()
    assert shown["answer"] == first["target"]
    assert shown.get("choices") == first.get("choices")


def test_a_text_of_a_length_counts_its_cue(tokenizer):
    """Without a chat template a needle's text has room for the record that its prompt begins, and ends with it."""
    own = filled("needle", "context_tokens=512", tokenizer, items=3, chat_template=False)
    for doc in own:
        assert doc["prompt"].endswith((" is", "on extension", "with the code"))
        assert 512 - 200 < len(tokenizer.encode(doc["prompt"])) + 32 <= 512


def test_a_name_that_was_not_asked_for_is_no_right_answer():
    """Seven days recited name none of them, Indonesia is not India, and a number with a digit more is another."""
    cldr = module("low_resource_languages", "cldr")

    def scored(language, english, text):
        fact = next(one for one in cldr.facts(language) if one["english"] == english)
        return cldr.score_written(cldr._written_doc(fact), [text])["exact_match"]

    days = [one["accepted"][0] for one in cldr.facts("sw") if one["fact"] == "weekday"]
    assert scored("sw", "Monday", f"Kwa Kiswahili ni {days[0]}.") == 1.0
    assert scored("sw", "Monday", ", ".join(days)) == 0.0
    assert scored("sw", "Arabic", "Kwa Kiswahili: Kiarabu") == 1.0
    assert scored("ja", "India", "\u30a4\u30f3\u30c9\u3067\u3059") == 1.0
    assert scored("ja", "India", "\u30a4\u30f3\u30c9\u30cd\u30b7\u30a2") == 0.0
    number = next(one for one in cldr.facts("de") if one["fact"] == "number")
    written = number["accepted"][0]
    assert [scored("de", number["english"], text) for text in (f"{written}.", f"1{written}", f"{written}5")] == [
        1,
        0,
        0,
    ]
    english = number["english"]  # as the question writes it
    assert scored("de", english, f"In German {english} is {written}.") == 1.0
    other = next(one["accepted"][0] for one in cldr.facts("de") if one["fact"] == "number" and one != number)
    french = next(one for one in cldr.facts("fr") if one["fact"] == "number")["accepted"][0]
    said = [
        f"en {english}, fr : {french}",
        f"1. {french}",
        f"6 {french}",
        f"6\u202f{french}",
        f"-{french}",
        f"\u2212{french}",
    ]
    assert [scored("fr", english, text) for text in [f"{french} {french}", *said]] == [1, 1, 1, 0, 0, 0, 0]
    for said in (f"{written} or {other}", f"{written}, {written.replace('.', ' ')}, {written.replace('.', '')}"):
        assert scored("de", english, said) == 0.0


def test_who_repeats_the_instruction_does_not_abstain():
    """The beginning of the prompt says "not in the list", as an abstention does."""
    doc = next(one for one in docs("long_context", "lookup", items=1) if one["answer"] == "absent")
    score = module("long_context", "retrieval").score
    assert score(doc, [doc["prompt"].split("\n\n")[0]])["exact_match"] == 0.0
    assert score(doc, ["The answer is not in the list."])["exact_match"] == 1.0


def test_a_number_that_is_said_not_to_be_there_is_no_answer():
    """A small model copies the right number and then denies it."""
    doc = next(one for one in docs("long_context", "lookup", items=1) if one["answer"] == "present")
    score, number = module("long_context", "retrieval").score, doc["target"]
    for said in ("Room {} is not listed in the text.", "It is {}. The answer is not in the text.", "Not listed: {}"):
        assert score(doc, [said.format(number)])["exact_match"] == 0.0, said
    for said in ("It is {}. Not long ago, the baker sold a coat.", "It is {}, not 12.", "{} is the unlisted number."):
        assert score(doc, [said.format(number)])["exact_match"] == 1.0, said
