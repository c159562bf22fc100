"""Tasks over public data sets, read from local files: levels counted another way, pairs kept, answers scored."""

from __future__ import annotations

import csv
import json
from collections import Counter, defaultdict

import conftest
import pytest
from test_slices import experiment

from harness.errors import ConfigError
from harness.records import Generation
from harness.suite.scorer import Scorer, load_items
from harness.suite.toolkit.datafiles import find, read_json_lines, read_tsv


@pytest.fixture(scope="module")
def tokenizer():
    """The small tokenizer of the tests, with a chat template."""
    return conftest.make_tokenizer(100_000)


def test_gsm8k_is_split_by_its_annotated_steps(tokenizer, shared_data):
    """Each stratum holds 21 problems whose solution has so many <<...>>, with the number after ####."""
    spec = {"name": "multi_hop_math", "tasks": ["quantcliff_gsm8k"], "data_dir": str(shared_data), "items": 21}
    items = load_items(experiment(spec), tokenizer)
    rows = [
        json.loads(line) for line in (shared_data / "gsm8k" / "test.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    by_question = {row["question"]: row["answer"] for row in rows}
    assert Counter(item.levels["steps"] for item in items) == dict.fromkeys(["1", "2", "3", "4", "5", "6", "7+"], 21)
    for item in items:
        question = item.prompt.removeprefix("<|user|>").rsplit("\n\nWork", 1)[0]
        answer = by_question[question]
        steps = len(answer.split("<<")) - 1
        assert item.levels["steps"] == (str(steps) if steps < 7 else "7+")
        assert item.target == answer.split("#### ")[1].replace(",", "")


def test_gsm8k_grader_reads_the_announced_number(tokenizer, shared_data):
    """The reference with "Answer:" scores 1, in the form of any writer; a wrong or an early number scores 0."""
    spec = {"name": "multi_hop_math", "tasks": ["quantcliff_gsm8k"], "data_dir": str(shared_data), "items": 5}
    items = load_items(experiment(spec), tokenizer)
    scorer = Scorer(items)
    for item in items:
        number = int(item.target)
        for text in (
            f"2 + 2 = 4.\nAnswer: {number}",
            f"... Answer: ${number:,}.00, as 3 people say",
            f"It is {number:,}.",
        ):
            assert scorer.score(item, Generation(item.id, text, (), "eos", 1))[0] == 1.0, text
        for text in (f"Answer: {number + 1}", f"{number} minus 1 gives {number - 1}", "Answer: none", ""):
            assert scorer.score(item, Generation(item.id, text, (), "eos", 1))[0] == 0.0, text


def test_mgsm_asks_the_same_problems_in_every_language(tokenizer, shared_data):
    """Each cluster is one problem in all eleven languages, and in native digits where there are any."""
    spec = {"name": "multi_hop_math", "tasks": ["quantcliff_mgsm"], "data_dir": str(shared_data), "items": 6}
    items = load_items(experiment(spec), tokenizer)
    clusters = defaultdict(list)
    for item in items:
        clusters[item.cluster].append(item)
    assert len(clusters) == 6
    for own in clusters.values():
        assert len({item.target for item in own}) == 1
        assert Counter(item.levels["digits"] for item in own) == {"ascii": 11, "native": 3}
        assert {item.language for item in own if item.levels["digits"] == "native"} == {"bn", "te", "th"}
    native = [item for item in items if item.levels["digits"] == "native"]
    assert not any(sign in "0123456789" for item in native for sign in item.prompt)
    assert all(any(sign.isdecimal() for sign in item.prompt) for item in native)


def test_mgsm_answers_in_native_digits_count(tokenizer, shared_data):
    """A Thai answer in Thai digits is the number that it says."""
    axes = {"language": ["th"], "digits": ["native"]}
    spec = {
        "name": "multi_hop_math",
        "tasks": ["quantcliff_mgsm"],
        "data_dir": str(shared_data),
        "axes": axes,
        "items": 4,
    }
    items = load_items(experiment(spec), tokenizer)
    assert len(items) == 4
    for item in items:
        thai = "".join(chr(0x0E50 + int(sign)) for sign in item.target)
        assert Scorer(items).score(item, Generation(item.id, f"Answer: {thai}", (), "eos", 1))[0] == 1.0


def test_a_stratum_with_too_few_items_is_named(tokenizer, shared_data):
    """GSM8K has thirty problems of seven steps or more: asking for forty of them says so, and how many there are."""
    axes = {"steps": ["7+"]}
    spec = {
        "name": "multi_hop_math",
        "tasks": ["quantcliff_gsm8k"],
        "data_dir": str(shared_data),
        "axes": axes,
        "items": 40,
    }
    with pytest.raises(ConfigError, match=r"'steps=7\+' has only 30 items, 40 are asked for: ask for at most 30"):
        load_items(experiment(spec), tokenizer)


def test_a_data_dir_without_the_data_is_named(tokenizer, tmp_path):
    """An existing folder that lacks the file is a problem that says which places were tried."""
    spec = {"name": "multi_hop_math", "tasks": ["quantcliff_gsm8k"], "data_dir": str(tmp_path)}
    with pytest.raises(ConfigError, match=r"holds none of gsm8k/test\.jsonl, test\.jsonl"):
        load_items(experiment(spec), tokenizer)


def test_files_are_read_line_by_line_with_their_place(tmp_path):
    """JSON lines and tab-separated lines come back as rows; what is wrong is named with file and line."""
    good, bad, short = tmp_path / "good.jsonl", tmp_path / "bad.jsonl", tmp_path / "short.tsv"
    good.write_text('{"a": "x\\u2028y"}\n\n{"a": 2}\n', encoding="utf-8")
    assert read_json_lines(good) == [{"a": "x\u2028y"}, {"a": 2}]
    bad.write_text('{"a": 1}\n[1]\n', encoding="utf-8")
    with pytest.raises(ValueError, match=r"bad\.jsonl:2: not a JSON object but list"):
        read_json_lines(bad)
    short.write_text("one\ttwo\nthree\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"short\.tsv:2: 1 columns, not 2"):
        read_tsv(short, ["a", "b"])
    assert find(str(tmp_path), ["missing", "good.jsonl"]) == good


def test_tsv_is_read_without_quoting(shared_data):
    """MGSM's files hold quotation marks that quote nothing: 250 rows in every language, as csv reads them unquoted."""
    for path in sorted((shared_data / "mgsm").glob("*.tsv")):
        rows = read_tsv(path, ["question", "answer_number"])
        with path.open(encoding="utf-8", newline="") as file:
            other = list(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
        assert [list(row.values()) for row in rows] == other
        assert len(rows) == 250


PARALLEL = {
    "quantcliff_belebele": ({"en", "am", "bm", "ig", "sn", "zu"}, 4),
    "quantcliff_xcopa": ({"et", "ht", "id", "it", "qu", "sw", "ta", "th", "tr", "vi", "zh"}, 2),
}


@pytest.mark.parametrize("task", PARALLEL)
def test_parallel_questions_are_the_same_in_every_language(task, tokenizer, shared_data):
    """Split by language, every language has the same clusters, and a question has the same answer in all of them."""
    languages, choices = PARALLEL[task]
    spec = {
        "name": "low_resource_languages",
        "tasks": [task],
        "data_dir": str(shared_data),
        "items": 9,
        "split_by": ["language"],
    }
    items = load_items(experiment(spec), tokenizer)
    assert Counter(item.levels["language"] for item in items) == dict.fromkeys(languages, 9)
    by_language = defaultdict(dict)
    for item in items:
        assert len(item.choices) == choices
        assert 1 / choices <= item.chance < 1 / choices + 0.03  # one of them is right a little more often
        assert item.choices[item.doc["gold"]].strip() == item.target
        by_language[item.levels["language"]][item.id.split("/", 2)[2]] = (item.cluster, item.doc["gold"])
    first = by_language.popitem()[1]
    assert len(first) == 9
    assert all(own == first for own in by_language.values())


def test_sib200_holds_39_languages_in_their_scripts(tokenizer, shared_data):
    """All the languages that the folder has are asked; the sentences come from the files."""
    spec = {"name": "low_resource_languages", "tasks": ["quantcliff_sib200"], "data_dir": str(shared_data), "items": 4}
    items = load_items(experiment({**spec, "split_by": ["language"]}), tokenizer)
    assert len({item.levels["language"] for item in items}) == 39
    assert len({item.levels["script"] for item in items}) >= 20
    assert len({item.cluster for item in items}) == 4
    for item in items:
        assert len(item.choices) == 7
        assert item.target in item.choices
        assert item.chance == 51 / 204  # whoever always says science/technology is right so often
    tamil = next(item for item in items if item.levels["language"] == "ta")
    text = (shared_data / "sib200_test/annotated/tam_Taml/test.tsv").read_text(encoding="utf-8")
    assert tamil.prompt.removeprefix("<|user|>").split("\n\nWhat")[0] in text


def test_a_language_that_was_asked_for_must_be_there(tokenizer, shared_data):
    """Of the task's own languages those without a file are left out; one that the config names is a problem."""
    spec = {"name": "low_resource_languages", "tasks": ["quantcliff_sib200"], "data_dir": str(shared_data), "items": 1}
    with pytest.raises(ConfigError, match="por_Latn"):
        load_items(experiment({**spec, "axes": {"language": ["pt"]}}), tokenizer)


def test_resource_classes_agree_between_the_tables():
    """A language has one resource class and one script, whichever task asks in it."""
    from test_tasks_generated import module

    one = module("low_resource_languages", "cldr").LANGUAGES
    other = module("low_resource_languages", "parallel").languages()
    both = set(one) & set(other)
    assert len(both) > 40
    assert {name: str(one[name][1]) for name in both} == {name: other[name][2] for name in both}
    same = {"Hang": "Kore"}
    assert {name: one[name][0] for name in both} == {name: same.get(other[name][1], other[name][1]) for name in both}
