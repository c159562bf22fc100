"""Two sides that only look alike, and paths as users give them: what `compare` reads, and what it refuses."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from zlib import crc32

import numpy as np
import pyarrow as pa
import pytest
from paths import DATA
from pyarrow import parquet
from written import DATE, compared, csv_of, inspect_log, jsonl, lm_eval_sample, samples_of

from harness.cli import program as cli
from harness.errors import NotComparable, UsageError
from harness.judge.importers import load
from harness.judge.importers.json_text import parsed
from harness.judge.outcomes import pair


@pytest.mark.parametrize("value", ["nan", "inf", "0_02", "١"])
@pytest.mark.parametrize("option", ["--margin", "--alpha", "--chance", "--allow-unmatched"])
def test_options_take_plain_numbers_only(tmp_path, option, value):
    """nan, inf and 0_02, which float() takes, end in 2."""
    path = csv_of(tmp_path / "a.csv", "item,score", ["a,1"])
    assert compared(path, path, option, value) == 2
    assert compared(path, path, option, "0.02") != 2


@pytest.mark.parametrize("command", ["compare", "gate"])
def test_help_shows_a_range_only_where_there_is_one(capsys, command):
    """--margin and --alpha are checked by the policy; their help must not show a bound that does not exist."""
    assert cli._run([command, "--help"]) == 0
    shown = capsys.readouterr().out
    assert "--margin NUMBER" in shown
    assert "None" not in shown
    assert command == "gate" or "0<=x<=1" in shown


def test_a_repeated_key_is_refused_with_its_line(tmp_path):
    """In JSON lines, also in a nested object, and in a log: the last of two values does not silently count."""
    path = tmp_path / "a.jsonl"
    path.write_text('{"item": 1, "score": 1}\n{"item": 2, "score": 0, "score": 1}\n')
    with pytest.raises(NotComparable, match=r"a\.jsonl: line 2: bad JSON: the key 'score' is given twice"):
        load(path)
    assert compared(path, path) == 4
    with pytest.raises(NotComparable, match="the key 'c' is given twice"):
        parsed('{"a": 1,\n"b":\n{"c": 1, "c": 2}}', "x")


@pytest.mark.parametrize("text", ["[" * 5000, "1" * 5000, "{", '{"a": 1', ""])
def test_json_that_cannot_be_read_is_refused(text):
    """Deep, endless or cut JSON: one message, never a traceback."""
    with pytest.raises(NotComparable, match="JSON"):
        parsed(text, "x")


def test_a_byte_order_mark_is_passed_over(tmp_path):
    """In CSV, JSON lines, lm_eval samples and Inspect logs."""
    csv_of(tmp_path / "a.csv", "item,score", ["a,1"])
    jsonl(tmp_path / "a.jsonl", [{"item": "a", "score": 1}])
    samples_of(tmp_path / "lm", "jars", [lm_eval_sample(0)])
    inspect_log(tmp_path / "log.json", [["C"]])
    for path in [*tmp_path.glob("*.*"), *tmp_path.glob("lm/*")]:
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert [len(load(tmp_path / name)) for name in ("a.csv", "a.jsonl", "lm", "log.json")] == [1] * 4


def test_sides_that_disagree_on_clusters_are_refused(tmp_path):
    """The baseline's 200 sources are 20 in the candidate: exit 4."""
    sides = [
        csv_of(tmp_path / f"{n}.csv", "item,score,k", [f"q{at},1,{at % n}" for at in range(200)]) for n in (200, 20)
    ]
    assert compared(*sides, "--cluster", "k") == 4
    assert compared(sides[1], sides[1], "--cluster", "k") != 4


def test_a_prompt_known_on_one_side_only_is_not_comparable(tmp_path):
    """lm_eval's hashes against a table without prompts: refused, and the reason is given."""
    before = samples_of(tmp_path / "lm", "jars", [lm_eval_sample(at) for at in range(100)])
    after = csv_of(tmp_path / "a.csv", "item,score,task", [f"jars/{at},1,jars" for at in range(100)])
    assert compared(before, after, "--slice", "task") == 4


@pytest.mark.parametrize(
    "words",
    [
        ("--filter", "strict"),
        ("--metric", "f1"),
        ("--metric", "other=exact_match"),
        ("--metric", "jars=f1"),
        ("--item", "doc_id"),
        ("--score", "acc"),
        ("--slice", "q"),
        ("--prompt", "q"),
        ("--weight", "w"),
        ("--stratum", "nowhere"),
        ("--cluster", "nowhere"),
    ],
)
def test_an_option_that_applies_to_nothing_is_refused(tmp_path, capsys, words):
    """Exit 2 with what is known, never a silent pass."""
    folder = samples_of(tmp_path / "lm", "jars", [lm_eval_sample(at) for at in range(100)])
    assert compared(folder, folder) == 0
    assert compared(folder, folder, *words) == 2
    assert capsys.readouterr().err


@pytest.mark.parametrize("words", [("--filter", "x"), ("--metric", "acc")])
def test_tables_have_no_metric_or_filter(tmp_path, words):
    """The option is named, with those that tables take."""
    path = csv_of(tmp_path / "a.csv", "item,score", ["a,1"])
    assert compared(path, path, *words) == 2


@pytest.mark.parametrize("words", [("--repeats", "mean"), ("--filter", "none"), ("--metric", "jars=third")])
def test_inspect_logs_have_no_filter_and_no_repeats(tmp_path, words):
    """Epochs are reduced by the log's own rule."""
    log = inspect_log(tmp_path / "a.json", [["C"]] * 100)
    assert compared(log, log, "--metric", "jars=match") == 0
    assert compared(log, log, *words) == 2


GUESSED = {
    "letters": ("ABCD", 0.25),
    "letters in brackets": (["(A)", "(B)", "(C)"], 1 / 3),
    "letters with a point": (["A.", "B."], 0.5),
    "letters with a text": (["A. red", "B) blue", "D: a\nb"], 1 / 3),
    "letters in a list": (["['A']", "['D']"], 0.5),
    "yes and no": (["yes", "no"], 0.5),
    "a few words": (["red", "green", "blue"], 1 / 3),
    "almost always no": (["no"] * 9 + ["yes"], 0.9),
    "one that is not there": (["red", ""], 0.0),
    "a letter among words": (["A", "B", "red"], 1 / 3),
}


@pytest.mark.parametrize("tool", ["lm_eval", "inspect"])
@pytest.mark.parametrize("what", GUESSED)
def test_the_targets_of_generated_answers_say_what_guessing_scores(tmp_path, tool, what):
    """Two sides that only guess have no signal; right answers have."""
    targets, chance = GUESSED[what]
    count = len(targets) * 300

    def side(name, score):
        told = [targets[at % len(targets)] for at in range(count)]
        if tool == "lm_eval":
            samples = [lm_eval_sample(at, score(at), target=told[at], resps=[[f"{name}{at}"]]) for at in range(count)]
            return samples_of(tmp_path / name, "jars", samples)
        path = inspect_log(tmp_path / f"{name}.json", [[score(at)] for at in range(count)], created=name)
        log = json.loads(path.read_text())
        for sample in log["samples"]:
            sample["target"] = told[sample["id"]]
        path.write_text(json.dumps(log))
        return path

    def guessed(at):
        return float(at % len(targets) == at // len(targets) % len(targets))

    base = side("base", guessed)
    assert np.allclose(load(base).chance, chance)
    assert compared(base, side("also", guessed)) == (3 if chance else 0)
    assert compared(side("good", lambda at: 1.0), side("better", lambda at: float(at > 0))) == 0


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_the_right_answers_of_a_table_say_what_guessing_scores(tmp_path, suffix):
    """Two sides that guess among A to D have no signal, unless --chance says otherwise; nor has one answer to all."""

    def side(name, right, scores):
        rows = [{"id": at, "Target": right[at], "correct": scores[at]} for at in range(800)]
        if suffix == ".jsonl":
            return jsonl(tmp_path / f"{name}.jsonl", rows)
        return csv_of(tmp_path / f"{name}.csv", "id,Target,correct", [",".join(map(str, one.values())) for one in rows])

    letters = ["ABCD"[at % 4] for at in range(800)]
    often = ["N/A" if at % 5 else f"name {at}" for at in range(800)]
    words = ("--item", "id", "--score", "correct", "--margin", "0.1")
    for right, guesses in (
        (letters, [int(at // 4 % 4 == 0) for at in range(800)]),
        (often, [int(at % 5 > 0) for at in range(800)]),
    ):
        base, other = side("base", right, guesses), side("other", right, [0, 0, 0, 0, *guesses[4:]])
        assert compared(base, other, *words) == 3
        assert compared(base, other, *words, "--chance", "0") == 0
        assert compared(side("good", right, [1] * 800), side("better", right, [0, *[1] * 799]), *words) == 0


@pytest.mark.parametrize("known", [(True, True), (True, False), (False, True)])
def test_one_side_that_knows_the_right_answers_is_enough(tmp_path, known):
    """Two sides that guess among four letters have no signal, whichever table says what is right."""

    def side(name, told, scores):
        rows = [f"{at},{score}" + f",{'ABCD'[at % 4]}" * told for at, score in enumerate(scores)]
        return csv_of(tmp_path / f"{name}.csv", "item,score" + ",gold" * told, rows)

    guesses = [int(at // 4 % 4 == 0) for at in range(2000)]
    sides = side("a", known[0], guesses), side("b", known[1], [0, 0, 0, 0, *guesses[4:]])
    assert compared(*sides) == 3


def _pair_of_tables(folder: Path, kind: str) -> list[str]:
    """Write two tables that quantcliff can pair, and return the paths."""
    random, n = np.random.default_rng(8), 6_000
    able = random.random(n) < (0.995 if kind == "nearly all right" else 0.25)
    other = able ^ (random.random(n) < 0.01)
    if kind.startswith("two that guess"):
        other = random.random(n) < 0.25
    scores = [able.astype(float), other.astype(float)]
    if kind in {"graded narrowly", "graded", "graded by another order"}:
        marks, noise = np.round(random.random(n), 3), np.round(random.random(n), 3)
        scores = [marks, 0.5 * (marks + noise)] if kind != "graded narrowly" else [marks / 50 + 0.5, noise / 50 + 0.5]
    ids = [np.arange(n), random.permutation(n) if "another order" in kind else np.arange(n)]
    sides = zip(ids, scores, strict=True)
    rows = [[f"q{item},{score:g}" for item, score in zip(*side, strict=True)] for side in sides]
    if kind == "two that guess, and a row of means":
        rows = [[*own, f"mean,{score.mean():g}"] for own, score in zip(rows, scores, strict=True)]
    return [csv_of(folder / f"{name}.csv", "item,score", own) for name, own in zip("ab", rows, strict=True)]


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        ("a good build", 0),
        ("nearly all right", 0),
        ("graded narrowly", 0),
        ("graded", 0),
        ("graded by another order", 3),
        ("two that guess", 3),
        ("two that guess, and a row of means", 3),
        ("rows of another order", 3),
    ],
)
def test_sides_that_are_right_on_unrelated_items_show_no_signal(tmp_path, capsys, kind, code):
    """Two that guess, and ids that are row numbers of two orders, score alike; which items are right tells it."""
    paths = _pair_of_tables(tmp_path, kind)
    assert compared(*paths, "--margin", "0.05") == code
    assert ("no_signal" in capsys.readouterr().out) == (code == 3)
    assert compared(*paths, "--margin", "0.05", "--chance", "0") == 0  # who says what guessing scores is believed


@pytest.mark.parametrize("told", ["book", "question"])
def test_two_sides_that_guess_source_by_source_show_no_signal(tmp_path, told):
    """Each answers the ten items of a source alike, as guesses at one text are: sources coincide by chance, not items.

    A source is a column of `--cluster`, or a question that was asked ten times. Of 40 strata one is shown by chance
    about once in three such tables; item by item it would be ten of them.
    """
    random, strata, sources = np.random.default_rng(5), 40, 100
    paths = []
    for name in "ab":
        right = np.repeat(random.random(strata * sources) < 0.5, 10).astype(int)
        rows = [f"{at},{at // (10 * sources)},s{at // 10},{one}" for at, one in enumerate(right)]
        paths.append(csv_of(tmp_path / f"{name}.csv", f"item,part,{told},score", rows))
    words = ["--cluster", "book"] if told == "book" else []
    compared(*paths, "--stratum", "part", "--margin", "0.2", *words, "--output", str(tmp_path / "out"))
    found = json.loads((tmp_path / "out" / "comparisons.json").read_text())
    said = [one["verdict"] for one in found["candidates"][0]["strata"]]
    assert said.count("no_signal") >= strata - 3


@pytest.mark.parametrize(("offered", "chance"), [(["yes", "no"], 0.95), (None, 0.5)])
def test_one_choice_for_all_samples_of_inspect_is_a_guess(tmp_path, offered, chance):
    """Where 19 of 20 right answers are `no`; choices that differ from item to item have no such answer."""
    log = json.loads(inspect_log(tmp_path / "a.json", [[1.0]] * 200).read_text())
    for at, sample in enumerate(log["samples"]):
        sample |= {"choices": offered or [f"{at}", f"{at + 1}"], "target": "B" if at % 20 else "A"}
    (tmp_path / "a.json").write_text(json.dumps(log))
    assert set(load(tmp_path / "a.json").chance) == {chance}


LOGS = {  # what differs between two Inspect logs, and whether they are compared
    "another limit of tokens": ({"model_generate_config": {"max_tokens": 16}}, False),
    "another temperature": ({"model_generate_config": {"temperature": 1.0}}, False),
    "another solver": ({"solver": "chain_of_thought"}, False),
    "other examples": ({"solver_args": {"shots": 5}}, False),
    "another limit of a sample": ({"config": {"message_limit": 2}}, False),
    "another limit of work": ({"config": {"working_limit": 2}}, False),
    "another limit of cost": ({"config": {"cost_limit": 2}}, False),
    "another grader": ({"scorers": [{"name": "graded", "options": {"model": "other"}}]}, False),
    "another version": ({"task_version": 2}, False),
    "another place of the model": ({"model_args": {"load_in_4bit": True}, "model_base_url": "http://b"}, True),
    "other connections": ({"model_generate_config": {"max_connections": 9}}, True),
    "another place of the data": ({"dataset": {"location": "elsewhere"}}, True),
}
ASKED = {"solver": "generate", "solver_args": {"shots": 0}, "task_version": 1, "scorers": [{"name": "graded"}]}


@pytest.mark.parametrize("what", LOGS)
def test_inspect_logs_of_other_settings_are_not_compared(tmp_path, what):
    """A baseline that was given fewer tokens, or another solver, would make any candidate look good."""
    changed, fits = LOGS[what]
    before = inspect_log(tmp_path / "a.json", [["C"]] * 100 + [["I"]], **ASKED)
    after = inspect_log(tmp_path / "b.json", [["C"]] * 101, **(ASKED | changed))
    assert compared(before, after) == (0 if fits else 4)
    with nullcontext() if fits else pytest.raises(NotComparable, match="and of the same settings"):
        pair(load(before), load(after), 0.0)


def test_inspect_logs_of_another_prompt_template_are_not_compared(tmp_path):
    """A task's own solver stands in the plan alone; a sample's input is the question before any template."""
    paths = []
    for name, right, told in (("a", 100, "In one word."), ("b", 101, "Step by step."), ("c", 101, "In one word.")):
        path = inspect_log(tmp_path / f"{name}.json", [[float(at < right)] for at in range(101)])
        log = json.loads(path.read_text())
        log["plan"] = {"name": "plan", "steps": [{"solver": "system_message", "params": {"template": told}}]}
        paths.append(path)
        path.write_text(json.dumps(log))
    assert compared(paths[0], paths[1]) == 4
    assert compared(paths[0], paths[2]) == 0


@pytest.mark.parametrize("layout", ["list", "object"])
@pytest.mark.parametrize("changed", [{"max_gen_toks": 4}, {"until": ["."]}, {"temperature": 1.0}])
def test_lm_eval_samples_of_other_settings_are_not_compared(tmp_path, layout, changed):
    """The prompts are the same, and so are their hashes; how texts are generated is not."""
    how = {"until": ["\n"], "max_gen_toks": 256, "temperature": 0.0}

    def side(name, settings, right):
        asked = [[[f"Q {at}", settings]] for at in range(101)]
        if layout == "object":
            asked = [{"gen_args_0": {"arg_0": f"Q {at}", "arg_1": settings}} for at in range(101)]
        made = (lm_eval_sample(at, float(at < right), arguments=one) for at, one in enumerate(asked))
        return samples_of(tmp_path / name, "jars", made)

    base = side("base", how, 100)
    assert compared(base, side("same", dict(reversed(how.items())), 101)) == 0
    assert compared(base, side("other", how | changed, 101)) == 4


def test_lm_eval_samples_of_other_repeats_are_not_compared(tmp_path):
    """A vote of eight answers is no match for one: the prompt and its settings are the same."""

    def side(name, repeats):
        said = [[f"{name} {at}" for at in range(repeats)]]
        asked = [[[f"Q {at}", {"temperature": 1.0}]] for at in range(101)]
        made = [lm_eval_sample(at, 1.0, arguments=one, resps=said) for at, one in enumerate(asked)]
        return samples_of(tmp_path / name, "jars", made)

    base = side("base", 1)
    assert compared(base, side("same", 1)) == 0
    assert compared(base, side("voted", 8)) == 4


def test_lm_eval_samples_of_another_version_are_not_compared(tmp_path):
    """A task's version counts up where its scores change; a side that says none is not refused for it."""
    sides = [
        samples_of(tmp_path / n, "jars", [lm_eval_sample(at, float(at < r)) for at in range(101)])
        for n, r in (("a", 100), ("b", 101))
    ]
    for versions, code in (([1, None], 0), ([1, 1], 0), ([1, 2], 4)):
        for folder, version in zip(sides, versions, strict=True):
            (folder / "results_x.json").write_text(json.dumps({"versions": {"jars": version} if version else {}}))
        assert compared(*sides) == code


@pytest.mark.parametrize(
    ("before", "after", "code"),
    [
        ({}, {"config": {"model_args": "pretrained=b,max_gen_toks=16"}, "max_length": 512}, 0),
        ({"config": {"model_args": "pretrained=a"}}, {"config": {"model_args": "pretrained=b,load_in_4bit=True"}}, 0),
        ({"config": {"model_args": "pretrained=a,max_gen_toks=16"}}, {"config": {"model_args": "pretrained=b"}}, 4),
        ({"config": {"model_args": {"max_gen_toks": 16}}}, {"config": {"model_args": "a=1,max_gen_toks=16"}}, 0),
        ({"config": {"model_args": "enable_thinking=False"}}, {"config": {"model_args": "enable_thinking=True"}}, 4),
        ({"max_length": 512}, {"max_length": 4096}, 4),
        ({"max_length": 512}, {"max_length": 512}, 0),
    ],
)
def test_lm_eval_models_with_other_limits_are_not_compared(tmp_path, before, after, code):
    """A baseline whose prompts or answers were cut is no measure; what only one side says is no difference."""
    sides = []
    for name, right, told in (("a", 100, before), ("b", 101, after)):
        folder = samples_of(tmp_path / name, "jars", [lm_eval_sample(at, float(at < right)) for at in range(101)])
        (folder / f"results_{DATE}.json").write_text(json.dumps(told))
        sides.append(folder)
    assert compared(*sides) == code


@pytest.mark.parametrize(
    ("before", "after", "code"),
    [
        ({"model_sha": "c0"}, {"model_sha": "c0"}, 4),
        ({"model_sha": "c0"}, {"model_sha": "c1"}, 0),
        ({"model_sha": "c0"}, {"model_sha": "c0", "model_args": "pretrained=m,load_in_4bit=True"}, 0),
        ({"model_sha": ""}, {"model_sha": ""}, 0),
    ],
)
def test_lm_eval_results_of_one_model_and_revision_are_not_compared(tmp_path, before, after, code):
    """The baseline run again at another batch size differs in some answers; a path may hold another model later."""
    sides = []
    for name, right, told in (("a", 100, before), ("b", 101, after)):
        folder = samples_of(tmp_path / name, "jars", [lm_eval_sample(at, float(at < right)) for at in range(101)])
        config = {"model": "hf", "model_args": "pretrained=m"} | told
        (folder / f"results_{DATE}.json").write_text(json.dumps({"config": config}))
        sides.append(folder)
    assert compared(*sides) == code
    assert compared(*sides, "--allow-identical") == 0


def test_a_runs_own_comparison_takes_no_option_of_files(tmp_path, capsys):
    """`compare RUN --cluster x` would change nothing: exit 2. A run is not one side, either."""
    (tmp_path / "run.json").write_text("{}")
    for words in (["--cluster", "x"], ["--allow-unmatched", "0.5"], ["--metric", "a"]):
        assert cli._run(["compare", str(tmp_path), *words]) == 2
        assert f"{words[0]}: for files of other tools" in capsys.readouterr().err
    assert compared(tmp_path, tmp_path) == 2
    assert "is a run of quantcliff" in capsys.readouterr().err


def _answered(kind: str, path: Path, texts: list[str], *, scores: list[int]) -> Path:
    """The same questions as a log or table of a kind, with these answers; in the reverse order if the path says so."""
    order = range(len(texts))[:: -1 if "copy" in path.name else 1]
    if kind == "lm_eval":
        return samples_of(path, "jars", [lm_eval_sample(at, scores[at], resps=[[texts[at]]]) for at in order])
    if kind == "inspect":
        log = json.loads(inspect_log(path.with_suffix(".json"), [["C" if one else "I"] for one in scores]).read_text())
        for at, sample in enumerate(log["samples"]):
            message = {"id": f"{path.name}{at}", "content": texts[at]}
            sample |= {"uuid": f"{path.name}{at}", "output": {"choices": [{"message": message}]}}
        log["samples"] = [log["samples"][at] for at in order]
        path.with_suffix(".json").write_text(json.dumps(log))
        return path.with_suffix(".json")
    if kind == "jsonl":
        rows = [{"item": at, "score": scores[at], "response": [texts[at]]} for at in order]
        return jsonl(path.with_suffix(".jsonl"), rows)
    if kind == "parquet":
        columns = {"item": list(order), "score": [scores[at] for at in order], "response": [texts[at] for at in order]}
        parquet.write_table(pa.table(columns), path.with_suffix(".parquet"))
        return path.with_suffix(".parquet")
    return csv_of(
        path.with_suffix(".csv"), "item,score,model_output", [f"{at},{scores[at]},{texts[at]}" for at in order]
    )


@pytest.mark.parametrize("kind", ["lm_eval", "inspect", "jsonl", "parquet", "csv"])
def test_a_reordered_copy_of_the_baseline_is_refused(tmp_path, capsys, kind):
    """All scores and answers are the baseline's: exit 4, unless asked for. One other answer or score is enough."""
    texts, scores = [f"text {at}" for at in range(200)], [1] * 200
    before = _answered(kind, tmp_path / "base", texts, scores=scores)
    copy = _answered(kind, tmp_path / "copy", texts, scores=scores)
    assert compared(before, copy) == 4
    assert "are the baseline's" in capsys.readouterr().err
    assert compared(before, copy, "--allow-identical") == 0
    texts[7] = "another text"
    assert compared(before, _answered(kind, tmp_path / "copy2", texts, scores=scores)) == 0
    texts[7], scores[7] = "text 7", 0
    assert compared(before, _answered(kind, tmp_path / "copy3", texts, scores=scores)) == 0


@pytest.mark.parametrize("name", ["pred", "y_pred", "preds", "hypothesis", "logprobs", "Model Output", "reply"])
def test_a_column_of_answers_is_known_by_its_name(tmp_path, name):
    """A candidate that says all that the baseline says is the baseline."""
    rows = [f"{at},1,said {at}" for at in range(200)]
    before, after = (csv_of(tmp_path / f"{at}.csv", f"item,score,{name}", rows[::at]) for at in (1, -1))
    assert compared(before, after) == 4


@pytest.mark.parametrize("name", ["text", "content", "message"])
def test_a_text_beside_a_question_is_an_answer(tmp_path, name):
    """Alone it may be the question itself, which is the same on both sides."""
    for asked, code in (("question", 4), ("note", 0)):
        rows = [f"{at},1,asked {at},said {at}" for at in range(200)]
        sides = [csv_of(tmp_path / f"{at}.csv", f"item,score,{asked},{name}", rows[::at]) for at in (1, -1)]
        assert compared(*sides) == code


@pytest.mark.parametrize(
    "header",
    [
        "item,score,response,response_time",
        "item,score,response,output_tokens",
        "item,score,response,completion_id",
        "item,score,logprob,response",
        "item,score,output",
        "item,score,response",
    ],
)
def test_a_copy_is_known_by_its_answers_whatever_else_a_table_says(tmp_path, header):
    """The same model asked again takes another time; an export may order, rename or leave out columns."""

    def table(name, header, texts=lambda at: f"said {at}", step=1):
        cells = {
            "item": str,
            "score": lambda _: "1",
            "logprob": lambda at: f"-{at}.5",
            "response": texts,
            "output": texts,
        }
        columns = [cells.get(one, lambda at: str(at * len(name))) for one in header.split(",")]
        return csv_of(tmp_path / name, header, [",".join(one(at) for one in columns) for at in range(200)][::step])

    first = "item,score,response,logprob" if "logprob" in header or header.endswith("response") else header
    before = table("a.csv", first.replace("output", "response") if first.endswith("output") else first)
    assert compared(before, table("copy.csv", header, step=-1)) == 4
    assert compared(before, table("other.csv", header, lambda at: f"said {at % 199}")) == 0


@pytest.mark.parametrize("header", ["item,score", "item,score,question", "item,score,response", "item,score,predicate"])
def test_equal_scores_alone_are_no_copy(tmp_path, header):
    """Two variants may agree on every item; questions and empty answers do not show who answered."""
    more = {2: "", 3: "," if "response" in header else ",why"}[header.count(",") + 1]
    rows = [f"{at},1{more}" for at in range(200)]
    before, after = csv_of(tmp_path / "a.csv", header, rows), csv_of(tmp_path / "b.csv", header, rows[::-1])
    assert compared(before, after) == 0


def test_a_table_with_right_answers_in_some_rows_or_twice_is_read(tmp_path):
    """Nobody asked for that column: what it lacks is no fault of the table."""
    rows = [{"item": at, "score": int(at > 0), "target": f"t{at}", "prompt": "p"} for at in range(200)]
    del rows[7]["target"], rows[8]["prompt"]
    base = jsonl(tmp_path / "a.jsonl", rows)
    assert compared(base, jsonl(tmp_path / "b.jsonl", [rows[0] | {"score": 1}, *rows[1:]])) == 0
    lines = [f"{at},1,x,y,p,p" for at in range(200)]
    header = "item,score,target,target,prompt,prompt"
    base = csv_of(tmp_path / "a.csv", header, ["0,0,x,y,p,p", *lines[1:]])
    assert compared(base, csv_of(tmp_path / "b.csv", header, lines)) == 0


def test_equal_graded_scores_are_a_copy(tmp_path):
    """Nobody gives 200 answers that are 57 % right, 33 %, 91 % ... but who gave them; a few marks may agree."""
    for grades, code in ((97, 4), (11, 0)):
        rows = [f"{at},{0.4 + at * 37 % grades / grades / 2:.4f}" for at in range(200)]
        base, copy = (csv_of(tmp_path / f"{grades}{step}.csv", "item,score", rows[::step]) for step in (1, -1))
        assert compared(base, copy) == code
        assert compared(base, csv_of(tmp_path / "other.csv", "item,score", [*rows[1:], "0,0.999"])) == 0


def test_a_copy_of_the_baseline_that_lacks_an_item_is_refused(tmp_path):
    """The rest of it is the baseline all the same; a different answer to one item is enough not to be."""
    rows = [f"i{at},1,text {at}" for at in range(400)]
    base = csv_of(tmp_path / "a.csv", "item,score,response", rows)
    for number, own in enumerate((rows[1:], [*rows, "more,1,x"])):
        assert compared(base, csv_of(tmp_path / f"{number}.csv", "item,score,response", own)) == 4
    other = csv_of(tmp_path / "b.csv", "item,score,response", [*rows[2:], "i1,1,another"])
    assert compared(base, other) == 0


def _begun_later(folder: Path) -> Path:
    """The same files as those of another run, begun at another moment."""
    for file in [one for one in folder.rglob(f"*{DATE}.*") if one.is_file()]:
        file.rename(file.with_name(file.name.replace(DATE, DATE.replace("123456", "654321"))))
    return folder


def _two_tasks(tool: str, folder: Path, says, of: dict[str, str]) -> Path:
    """Two tasks of 200 items; says: what a variant answers to an item. of: task to the variant that answered it."""
    told = {task: [says(f"{variant}{task}", at) for at in range(200)] for task, variant in of.items()}
    if tool == "table":
        rows = [{"item": f"{one}{at}", "score": 1, "t": one} | told[one][at] for one in of for at in range(200)]
        return jsonl(folder.with_suffix(".jsonl"), rows)
    for task, variant in of.items():
        if tool == "lm_eval":
            samples_of(folder, task, [lm_eval_sample(at, resps=told[task][at]["response"]) for at in range(200)])
        elif tool == "inspect":
            log = inspect_log(folder / f"{task}.json", [["C"]] * 200, task=task, eval_id=told[task][0].get("log", ""))
            data = json.loads(log.read_text())
            for sample, one in zip(data["samples"], told[task], strict=True):
                sample["output"] = {"choices": [{"message": {"content": one["response"]}}]}
            log.write_text(json.dumps(data))
        else:
            place = folder / "details" / "m" / DATE
            place.mkdir(parents=True, exist_ok=True)
            rows = [
                {
                    "doc": {"query": f"{at}?", "id": str(at)},
                    "model_response": one,
                    "metric": {"em": float(at > 0 or variant != "other")},
                }
                for at, one in enumerate(told[task])
            ]
            parquet.write_table(pa.Table.from_pylist(rows), place / f"details_{task}_{DATE}.parquet")
    return folder


def _likelihood(who: str, at: int) -> float:
    return -(crc32(f"{who}{at}".encode()) % 9_999_999) / 1e6 - 0.1


SAID = {  # by tool: what each variant answers, and whether another build may answer the same
    "letters": ("lm_eval", lambda _, at: {"response": [["ABCD"[at % 4]]]}, True),
    "numbers": ("lm_eval", lambda _, at: {"response": [[f"-{at}.50437, True"]]}, True),
    "some long texts": ("lm_eval", lambda who, at: {"response": [[f"{who} {at} " * (40 if at < 19 else 2)]]}, True),
    "long texts": ("lm_eval", lambda who, at: {"response": [[f"{who} {at} " * 40]]}, False),
    "choices": ("lm_eval", lambda who, at: {"response": [[[str(_likelihood(who, at)), "True"]]]}, False),
    "a log of letters": ("inspect", lambda _, at: {"response": "ABCD"[at % 4]}, True),
    "the same log": ("inspect", lambda who, at: {"response": "ABCD"[at % 4], "log": who}, False),
    "a log of texts": ("inspect", lambda who, at: {"response": f"{who} {at} " * 40}, False),
    "details of letters": ("lighteval", lambda _, at: {"text": ["ABCD"[at % 4]]}, True),
    "details of choices": ("lighteval", lambda who, at: {"text": [], "logprobs": [_likelihood(who, at), -9.5]}, False),
    "rows of letters": ("table", lambda _, at: {"response": "ABCD"[at % 4]}, True),
    "rows of texts": ("table", lambda who, at: {"response": f"{who} {at} " * 40}, False),
    "rows of losses": ("table", lambda who, at: {"loss": -_likelihood(who, at)}, False),
    "rows of grades": ("table", lambda who, at: {"score": _likelihood(who, at) / 100 + 0.9}, False),
    "rows of marks": ("table", lambda _, at: {"score": 0.5 + at % 19 / 40}, True),
}  # fmt: skip


@pytest.mark.parametrize("what", SAID)
def test_one_task_of_the_baselines_is_refused(tmp_path, capsys, what):
    """A copied file among its own, unless another build could answer all of it alike, as it may letters."""
    tool, says, fits = SAID[what]
    words = ["--slice", "t"] if tool == "table" else []
    base = _two_tasks(tool, tmp_path / "a", says, {"one": "base", "two": "base"})
    side = _begun_later(_two_tasks(tool, tmp_path / "b", says, {"one": "other", "two": "base"}))
    for file in [one for one in side.rglob("*one*") if one.suffix != ".parquet"] or [side] * side.is_file():
        text = file.read_text().replace('"exact_match": 1', '"exact_match": 0', 1).replace('"C"', '"I"', 1)
        file.write_text(text.replace('"score": 1,', '"score": 0,', 1) + "\n")
    assert compared(base, side, *words, "--allow-identical") == 0
    capsys.readouterr()
    assert compared(base, side, *words) == (0 if fits else 4)
    said = capsys.readouterr().err
    assert fits or f"the results of c for two are the baseline's ({base})" in said
    assert fits or tool == "table" or f"{side}/" in said
    if tool == "table":
        assert compared(base, side, "--stratum", "t") == (0 if fits else 4)


@pytest.mark.parametrize("linked", [False, True])
@pytest.mark.parametrize("tool", ["lm_eval", "lighteval"])
def test_one_task_by_the_baselines_own_file_is_refused(tmp_path, capsys, tool, linked):
    """Short answers may be alike in two runs, but not in the file of one run, by its name, copied or linked."""

    def says(who, at):
        letter = "ABCD"[(at + who.startswith("other")) % 4]
        return {"response": [[letter]]} if tool == "lm_eval" else {"text": [letter]}

    base = _two_tasks(tool, tmp_path / "a", says, {"one": "base", "two": "base"})
    side = _begun_later(_two_tasks(tool, tmp_path / "b", says, {"one": "other", "two": "base"}))
    assert compared(base, side) == 0
    (own,), (theirs,) = (list(folder.rglob("*_two_*")) for folder in (side, base))
    own.unlink()
    copy = own.with_name(theirs.name)
    copy.symlink_to(theirs) if linked else copy.write_bytes(theirs.read_bytes())
    assert compared(base, side) == 4
    assert f"the results of c for two are the baseline's ({base})" in capsys.readouterr().err


def test_two_candidates_are_not_one_file(tmp_path, capsys):
    """The path of one given for the other as well: the other was never read. Two runs of one build may agree."""
    rows = [f"{at},{int(at > 0)},said {at}" for at in range(200)]
    base = csv_of(tmp_path / "base.csv", "item,score,response", rows)
    one = csv_of(tmp_path / "one.csv", "item,score,response", [rows[0].replace("said", "wrote"), *rows[1:]])
    again = csv_of(tmp_path / "again.csv", "item,score,response", [rows[0].replace("said", "wrote"), *rows[:0:-1]])
    words = ["--candidate", f"nf4={one}", "--json"]
    assert compared(base, one, *words) == 4
    (reason,) = json.loads(capsys.readouterr().out)["candidates"][1]["reasons"]
    assert f"the results of nf4 are c's ({one}), byte for byte" in reason
    assert compared(base, one, *words, "--allow-identical") == 0
    assert compared(base, again, *words) == 0


TWICE = {  # what a model answers, beside the latency of a call, and whether two honest candidates may answer it alike
    "letters": (lambda _, at: {"response": "ABCD"[at % 4]}, True),
    "short texts": (lambda who, at: {"response": f"{who} {at}"}, True),
    "long texts": (lambda who, at: {"response": f"{who} {at} " * 40}, False),
    "losses": (lambda who, at: {"loss": -_likelihood(who, at)}, False),
    "marks": (lambda who, at: {"score": 0.5 + (at + (who == "base") * (at % 7 == 0)) % 39 / 80}, True),
    "grades": (lambda who, at: {"score": 0.5 + at * 7 % 300 / 600 + _likelihood(who, at) / 1e4}, False),
}


@pytest.mark.parametrize("what", TWICE)
def test_two_candidates_that_one_model_answered_are_refused(tmp_path, capsys, what):
    """One endpoint behind two names: the second pass says nothing of the build that it is called by."""
    says, fits = TWICE[what]
    base, one, two, other = (
        jsonl(
            tmp_path / f"{name}.jsonl",
            [{"item": at, "score": float(at > 0), **says(who, at), "latency": f"{name} {at}"} for at in range(300)],
        )
        for name, who in (("base", "base"), ("one", "same"), ("two", "same"), ("other", "other"))
    )
    base.write_text(base.read_text().replace('"A"', '"B"', 1))
    words = ["--candidate", f"two={two}", "--candidate", f"other={other}", "--json", "--margin", "0.1"]
    assert compared(base, one, *words) == (0 if fits else 4)
    judged = {side["name"]: side for side in json.loads(capsys.readouterr().out)["candidates"]}
    assert [judged[name]["verdict"] for name in ("c", "two", "other")] == [
        "pass",
        "pass" if fits else "not_judged",
        "pass",
    ]
    assert fits or f"the results of two are c's ({one}), every score" in judged["two"]["reasons"][0]
    assert compared(base, one, *words, "--allow-identical") == 0
    two.write_text(
        two.read_text().replace('"score": 1.0', '"score": 0.0', 1).replace('"score": 0.9', '"score": 0.8', 1)
    )
    assert compared(base, one, *words) == 0


@pytest.mark.parametrize("path", ["nowhere", "nowhere/samples.jsonl"])
def test_a_path_that_is_not_there(tmp_path, path):
    """Usage, naming the path."""
    with pytest.raises(UsageError, match="no such file or directory"):
        load(tmp_path / path)


def test_a_path_that_is_nothing_known(tmp_path):
    """What can be read is listed."""
    (tmp_path / "a.txt").write_text("x")
    for path in (tmp_path, tmp_path / "a.txt"):
        with pytest.raises(UsageError, match="What can: lm_eval samples"):
            load(path)


def test_json_of_something_else_is_refused(tmp_path):
    """A .json that is no log of Inspect, or no JSON."""
    for text, says in (("[1]", "not a log of Inspect"), ("{", "is not JSON")):
        (tmp_path / "a.json").write_text(text)
        with pytest.raises(UsageError, match=says):
            load(tmp_path / "a.json")


def test_reading_needs_none_of_the_tools():
    """Importers load without torch, lm_eval, inspect_ai or pyarrow."""
    code = (
        "import sys; from pathlib import Path; from harness.judge.importers import load; "
        f"load(Path({str(DATA / 'lm_eval' / 'bf16')!r})); "
        "print({'torch', 'lm_eval', 'inspect_ai', 'pyarrow', 'pandas'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=DATA.parent.parent
    )
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize("name", ["c", "baseline"])
def test_two_variants_of_one_name_are_refused(tmp_path, capsys, name):
    """A table in which two rows have one name cannot be read."""
    rows = [[f"{at},{int(at % one > 0)}" for at in range(90)] for one in (3, 4)]
    sides = [csv_of(tmp_path / f"{at}.csv", "item,score", own) for at, own in enumerate(rows)]
    assert compared(*sides, "--candidate", f"{name}={sides[1]}") == 2
    assert "needs a different name" in capsys.readouterr().err
