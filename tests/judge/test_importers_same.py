"""Two sides that only look alike, and files as users have them: what `compare` reads, and what it refuses."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from harness.cli import program as cli
from harness.errors import NotComparable, UsageError
from harness.judge.importers import ImportOptions, inspect, load
from harness.judge.importers.json_text import parsed

DATE = "2026-03-01T10-00-00.123456"


def _compare(before: Path, after: Path, *more: str) -> int:
    words = ["compare", "--baseline", before, "--candidate", f"c={after}", "--margin", "0.05", "--quiet", *more]
    words += ["--allow-identical"] if before == after else []
    return cli._run([str(word) for word in words])


def _jsonl(path: Path, rows) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def _csv(path: Path, header: str, rows) -> Path:
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return path


def _sample(at: int, score: float = 1.0, **changes) -> dict:
    hashes = {"doc_hash": f"d{at}", "prompt_hash": f"p{at}", "target_hash": "t"}
    base = {"doc_id": at, "doc": {"q": f"jar {at}"}, "target": "x", "arguments": [[f"Q: jar {at}", {}]], "resps": []}
    scored = {"filtered_resps": [], "filter": "none", "metrics": ["exact_match"], "exact_match": score}
    return base | scored | hashes | changes


def _task(folder: Path, task: str, samples, suffix: str = "jsonl") -> Path:
    _jsonl(folder / f"samples_{task}_{DATE}.{suffix}", samples)
    return folder


def _log(path: Path, scores, *, epochs=1, **header) -> Path:
    """An Inspect log. scores: per item, one value per epoch; None for an epoch that ended in an error."""
    samples = [
        {"id": at, "epoch": epoch, "input": f"jar {at}", "target": "x"}
        | ({"error": {"message": "x"}} if value is None else {"scores": {"match": {"value": value}}})
        for at, values in enumerate(scores)
        for epoch, value in enumerate(values, start=1)
    ]
    config = {"epochs": epochs} | header.pop("config", {})
    run = {"task": "jars", "model": "m", "created": "2026-03-01", "config": config} | header
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"status": "success", "eval": run, "samples": samples}))
    return path


# Ids, levels and clusters keep their value.


def test_float_ids_are_exact(tmp_path):
    """1000000001.0 is item 1000000001: of 1,000 items none merges with another, and the lost half is seen."""
    ids = [*map(float, range(500)), *(1e9 + at for at in range(500))]
    sides = [
        _jsonl(tmp_path / f"{name}.jsonl", [{"item": one, "score": int(one < top)} for one in ids])
        for name, top in (("a", 1e12), ("b", 1e9))
    ]
    assert load(sides[0]).items[-1] == "1000000499"
    assert len(load(sides[0])) == 1000
    assert _compare(*sides) == 1


def test_float_levels_and_clusters_are_exact(tmp_path):
    """Levels and clusters that differ after the sixth digit stay apart; a float keeps its digits."""
    rows = [{"item": at, "score": 1, "k": 1e7 + at % 2, "t": 0.1234567 + at % 2} for at in range(4)]
    found = load(_jsonl(tmp_path / "a.jsonl", rows), ImportOptions(strata=("t",), cluster="k"))
    assert set(found.cluster.names) == {"10000000", "10000001"}
    assert set(found.stratum.names) == {"t=0.1234567", "t=1.1234567"}


def test_an_id_that_no_float_holds_is_refused(tmp_path):
    """From 2**53 on two whole numbers may be one float."""
    path = _jsonl(tmp_path / "a.jsonl", [{"item": 2.0**53, "score": 1}])
    with pytest.raises(NotComparable, match=r"line 1: row 1: the id .* was rounded to a float"):
        load(path)


def test_whole_numbers_that_pandas_wrote_as_floats_are_whole_in_csv_too(tmp_path):
    """``3.0`` of a CSV is the ``3`` of JSON lines; if ``3`` is there as well, both stay as they are."""
    found = load(_csv(tmp_path / "a.csv", "item,score,k", ["1.0,1,5.0", "2.0,1,"]), ImportOptions(cluster="k"))
    assert (found.items, found.cluster.names) == (("1", "2"), ("5", "none"))
    assert load(_csv(tmp_path / "b.csv", "item,score", ["3.0,1", "3,0"])).items == ("3.0", "3")


@pytest.mark.parametrize("score", ["0_1", "١", "1e", "0x1", "1,0"])
def test_only_plain_digits_are_a_score(tmp_path, score):
    """What Python's float() takes beyond plain digits is refused, with its line."""
    path = _csv(tmp_path / "a.csv", "item\tscore", [f"a\t{score}"]).rename(tmp_path / "a.tsv")
    with pytest.raises(NotComparable, match="line 2: item 'a'"):
        load(path)


@pytest.mark.parametrize("value", ["nan", "inf", "0_02", "١"])
@pytest.mark.parametrize("option", ["--margin", "--alpha", "--chance", "--allow-unmatched"])
def test_options_take_plain_numbers_only(tmp_path, option, value):
    """nan, inf and 0_02, which float() takes, end in 2."""
    path = _csv(tmp_path / "a.csv", "item,score", ["a,1"])
    assert _compare(path, path, option, value) == 2


@pytest.mark.parametrize("command", ["compare", "gate"])
def test_help_shows_a_range_only_where_there_is_one(capsys, command):
    """--margin and --alpha are checked by the policy; their help must not show a bound that does not exist."""
    assert cli._run([command, "--help"]) == 0
    shown = capsys.readouterr().out
    assert "--margin NUMBER" in shown
    assert "None" not in shown
    assert command == "gate" or "0<=x<=1" in shown


# One text, one reading.


def test_a_repeated_key_is_refused_with_its_line(tmp_path):
    """In JSON lines, also in a nested object, and in a log: the last of two values does not silently count."""
    path = tmp_path / "a.jsonl"
    path.write_text('{"item": 1, "score": 1}\n{"item": 2, "score": 0, "score": 1}\n')
    with pytest.raises(NotComparable, match=r"a\.jsonl: line 2: the key 'score' is given twice"):
        load(path)
    assert _compare(path, path) == 4
    with pytest.raises(NotComparable, match=r"'c' is given twice in an object that begins \{\"c\": 2\}"):
        parsed('{"a": 1,\n"b":\n{"c": 1, "c": 2}}', "x")


@pytest.mark.parametrize("text", ["[" * 5000, "1" * 5000, "{", '{"a": 1', ""])
def test_json_that_cannot_be_read_is_refused(text):
    """Deep, endless or cut JSON: one message, never a traceback."""
    with pytest.raises(NotComparable, match="JSON"):
        parsed(text, "x")


def test_a_byte_order_mark_is_passed_over(tmp_path):
    """In CSV, JSON lines, lm_eval samples and Inspect logs."""
    _csv(tmp_path / "a.csv", "item,score", ["a,1"])
    _jsonl(tmp_path / "a.jsonl", [{"item": "a", "score": 1}])
    _task(tmp_path / "lm", "jars", [_sample(0)])
    _log(tmp_path / "log.json", [["C"]])
    for path in [*tmp_path.glob("*.*"), *tmp_path.glob("lm/*")]:
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert [len(load(tmp_path / name)) for name in ("a.csv", "a.jsonl", "lm", "log.json")] == [1] * 4


@pytest.mark.parametrize("length", [200_000, 10_000_000])
def test_long_cells_are_read(tmp_path, length):
    """A prompt of 200,000 characters, and one longer than pyarrow's block."""
    path = _csv(tmp_path / "a.csv", "item,score,prompt", [f"{at},1,{'w' * length}{at}" for at in range(2)])
    found = load(path, ImportOptions(prompt="prompt"))
    assert len(set(found.fingerprint.tolist())) == 2


@pytest.mark.parametrize(
    ("rows", "items", "scores"),
    [
        (['"a,b",1', '"say ""x""",0', '"two\nlines",1'], ("a,b", 'say "x"', "two\nlines"), [1, 0, 1]),
        (['a"b,1', "c,0", "", "d,"], ('a"b', "c", "d"), [1, 0, np.nan]),
        (["x" * 300_000 + ",1", "y,nan"], ("x" * 300_000, "y"), [1, np.nan]),
    ],
)
def test_cells_of_a_csv(tmp_path, rows, items, scores):
    """Quotes, blank lines and long cells are read as Python's csv module reads them."""
    found = load(_csv(tmp_path / "a.csv", "item,score", rows))
    assert found.items == items
    assert np.array_equal(found.score, scores, equal_nan=True)


@pytest.mark.parametrize("rows", [["a,1", 'b,"0'], ['"a"b,1'], ["a,1", 'b,"0', "c,1", 'd,"1'], ["a,1", "b"]])
def test_quotes_that_swallow_rows_are_refused_with_their_line(tmp_path, rows):
    """An open quote or text after a closing one, which pyarrow reads without an error."""
    with pytest.raises(UsageError, match=r"a\.csv: line \d"):
        load(_csv(tmp_path / "a.csv", "item,score", rows))


def test_nested_parquet_columns_are_named_by_dots(tmp_path):
    """As in JSON lines; whole numbers beyond 2**53 keep every digit, decimals are numbers."""
    pa = pytest.importorskip("pyarrow")
    from decimal import Decimal

    from pyarrow import parquet

    docs = [{"id": 2**60 + at, "task": {"name": f"t{at}"}} for at in range(3)]
    table = pa.table({"__doc__": docs, "__metric__": [{"acc": Decimal("1.0")}] * 3, "n": [None] * 3})
    parquet.write_table(table, tmp_path / "a.parquet")
    options = ImportOptions(item="__doc__.id", score="__metric__.acc", strata=("__doc__.task.name", "n"))
    found = load(tmp_path / "a.parquet", options)
    assert found.items == tuple(str(2**60 + at) for at in range(3))
    assert (found.stratum[2], found.score.tolist()) == ("name=t2,n=none", [1.0] * 3)
    with pytest.raises(UsageError, match=r"no column '__doc__'; there are: __doc__\.id, __doc__\.task\.name"):
        load(tmp_path / "a.parquet", ImportOptions(item="__doc__", score="__metric__.acc"))


def test_strata_with_one_name_are_refused(tmp_path):
    """A level that contains a comma and an equals sign must not merge two cells."""
    rows = [{"item": 1, "score": 1, "a": "x,b=1", "b": "2,b=3"}, {"item": 2, "score": 1, "a": "x", "b": "1,b=2,b=3"}]
    with pytest.raises(UsageError, match="two strata would both be called 'a=x,b=1,b=2,b=3'"):
        load(_jsonl(tmp_path / "a.jsonl", rows), ImportOptions(strata=("a", "b")))


# The two sides were asked the same.


def test_sides_that_disagree_on_clusters_are_refused(tmp_path):
    """The baseline's 200 sources are 20 in the candidate: exit 4."""
    sides = [_csv(tmp_path / f"{n}.csv", "item,score,k", [f"q{at},1,{at % n}" for at in range(200)]) for n in (200, 20)]
    assert _compare(*sides, "--cluster", "k") == 4
    assert _compare(sides[1], sides[1], "--cluster", "k") != 4


def test_hashes_that_one_side_lacks_are_computed(tmp_path):
    """Logs of an older lm_eval have no hashes: the same documents match, other documents under the same ids do not."""
    import hashlib

    def hashed(text):
        return hashlib.sha256(text.encode()).hexdigest()

    old = [{key: value for key, value in _sample(at).items() if "hash" not in key} for at in range(100)]
    new = [
        one
        | {
            "doc_hash": hashed(json.dumps(one["doc"], indent=2, ensure_ascii=False)),
            "prompt_hash": hashed(one["arguments"][0][0]),
            "target_hash": hashed("x"),
        }
        for one in old
    ]
    before = _task(tmp_path / "new", "jars", new)
    assert _compare(before, _task(tmp_path / "old", "jars", old)) == 0
    assert _compare(before, _task(tmp_path / "other", "jars", [one | {"doc": {"q": "other"}} for one in old])) == 4


def test_a_prompt_known_on_one_side_only_is_not_comparable(tmp_path):
    """lm_eval's hashes against a table without prompts: refused, and the reason is given."""
    before = _task(tmp_path / "lm", "jars", [_sample(at) for at in range(100)])
    after = _csv(tmp_path / "a.csv", "item,score,task", [f"jars/{at},1,jars" for at in range(100)])
    assert _compare(before, after, "--slice", "task") == 4


# Options apply, or are refused.


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
    folder = _task(tmp_path / "lm", "jars", [_sample(at) for at in range(100)])
    assert _compare(folder, folder) == 0
    assert _compare(folder, folder, *words) == 2
    assert capsys.readouterr().err


@pytest.mark.parametrize("words", [("--filter", "x"), ("--metric", "acc")])
def test_tables_have_no_metric_or_filter(tmp_path, words):
    """The option is named, with those that tables take."""
    path = _csv(tmp_path / "a.csv", "item,score", ["a,1"])
    assert _compare(path, path, *words) == 2


@pytest.mark.parametrize("words", [("--repeats", "mean"), ("--filter", "none"), ("--metric", "jars=third")])
def test_inspect_logs_have_no_filter_and_no_repeats(tmp_path, words):
    """Epochs are reduced by the log's own rule."""
    log = _log(tmp_path / "a.json", [["C"]] * 100)
    assert _compare(log, log, "--metric", "jars=match") == 0
    assert _compare(log, log, *words) == 2


def test_a_runs_own_comparison_takes_no_option_of_files(tmp_path, capsys):
    """`compare RUN --cluster x` would change nothing: exit 2. A run is not one side, either."""
    (tmp_path / "run.json").write_text("{}")
    for words in (["--cluster", "x"], ["--allow-unmatched", "0.5"], ["--metric", "a"]):
        assert cli._run(["compare", str(tmp_path), *words]) == 2
        assert f"{words[0]}: for files of other tools" in capsys.readouterr().err
    assert _compare(tmp_path, tmp_path) == 2
    assert "is a run of quantcliff" in capsys.readouterr().err


def test_metrics_and_filters_are_chosen_per_task(tmp_path):
    """A name applies to the tasks that have it; TASK=NAME, with patterns, to those tasks alone."""
    both = [_sample(at, metrics=["acc", "acc_norm"], acc=0, acc_norm=1) for at in range(4)]
    folder = _task(_task(tmp_path / "lm", "arc_easy", both), "gsm", [_sample(at) for at in range(4)])
    filtered = [_sample(at, score, filter=name) for at in range(4) for name, score in (("strict", 0), ("loose", 1))]
    _task(folder, "sums", filtered)
    found = load(folder, ImportOptions(metric="acc_norm", filter=("loose",)))
    assert found.measure == {"arc_easy": "acc_norm", "gsm": "exact_match", "sums": "exact_match,loose"}
    assert any("gsm: has no such --metric" in note for note in found.notes)
    assert load(folder, ImportOptions(metric=("arc_*=acc_norm",))).measure["arc_easy"] == "acc_norm"
    for wrong in ("gsm=acc_norm", "*=acc", "mmlu=acc"):
        with pytest.raises(UsageError, match="there are: "):
            load(folder, ImportOptions(metric=(wrong,)))


# Layouts and settings of lm_eval and Inspect.


@pytest.mark.parametrize(
    "text", [lambda rows: "".join(json.dumps(row) + "\n" for row in rows), lambda rows: json.dumps(rows, indent=2)]
)
@pytest.mark.parametrize("suffix", ["json", "jsonl"])
def test_older_layouts_of_lm_eval_are_read(tmp_path, suffix, text):
    """JSON lines or one indented array, called .json or .jsonl, with results next to them; as a file or a folder."""
    rows = [_sample(at) | {"arguments": {"gen_args_0": {"arg_0": f"Q: jar {at}"}}} for at in range(3)]
    path = tmp_path / f"samples_jars_{DATE}.{suffix}"
    path.write_text(text(rows))
    (tmp_path / f"results_{DATE}.json").write_text('{"results": {}}')
    assert load(path).items == load(tmp_path).items == ("jars/0", "jars/1", "jars/2")


@pytest.mark.parametrize(
    ("changes", "chance"),
    [
        ({}, 1 / 8),
        ({"doc": {"mc2_targets": {"choices": list("abcdefgh"), "labels": [1, 1, 1, 1, 0, 0, 0, 0]}}}, 0.5),
        ({"doc": {"mc1_targets": {"labels": [1, 0]}, "labels": [0] * 7 + [1]}}, 1 / 8),
        ({"doc": {"choices": {"label": list("ABCDEFGH")}}}, 1 / 8),
        ({"target": "[0, 5]"}, 0.25),
        ({"target": [3]}, 1 / 8),
        ({"target": "7"}, 1 / 8),
    ],
)
def test_guessing_gets_the_share_of_right_choices(tmp_path, changes, chance):
    """Several right choices, marked 0/1 in the document or listed as the target, are guessed more often."""
    line = _sample(0, metrics=["acc"], acc=0.5, arguments=[["Q", f" {at}"] for at in range(8)]) | changes
    assert load(_task(tmp_path / "lm", "mc", [line])).chance.tolist() == [chance]


def test_a_baseline_at_the_chance_of_several_right_choices_has_no_signal(tmp_path):
    """Half of the choices are right and the baseline scores a half: no damage could be seen, so it does not pass."""
    doc = {"mc2_targets": {"labels": [1, 1, 0, 0]}}
    asked = [["Q", f" {at}"] for at in range(4)]
    lines = [_sample(at, metrics=["acc"], acc=0.5, arguments=asked, doc=doc) for at in range(200)]
    folder = _task(tmp_path / "lm", "mc2", lines)
    assert _compare(folder, folder) == 3


def _two(folder: Path, law: str) -> Path:
    """Two Inspect logs of one task that differ in an argument."""
    _log(folder / "astro.json", [["C"]] * 200, task_args={"subject": "astro", "shots": 5}, created="2026-03-02")
    _log(folder / "law.json", [[law]] * 200, task_args={"subject": "law", "shots": 5})
    return folder


def test_logs_of_one_task_with_other_arguments_are_judged_apart(tmp_path):
    """The older of the two is not dropped: what differs makes strata, and the loss in one is seen."""
    before, after = _two(tmp_path / "a", "C"), _two(tmp_path / "b", "I")
    found = load(before)
    assert len(found) == 400
    assert set(found.stratum.names) == {"subject=astro", "subject=law"}
    assert _compare(before, before) == 0
    assert _compare(before, after) == 1


def test_logs_of_one_task_with_other_settings_are_refused(tmp_path):
    """A smoke test of 10 items is not a repetition of the whole run."""
    _log(tmp_path / "a.json", [["C"]] * 10, config={"limit": 10}, created="2026-03-02")
    _log(tmp_path / "b.json", [["C"]] * 20)
    with pytest.raises(UsageError, match=r"different settings \(config.limit\)"):
        load(tmp_path)


def test_sides_with_other_task_arguments_are_not_comparable(tmp_path):
    """Five shots against none are two measurements, even over the same questions."""
    sides = [_log(tmp_path / f"{n}.json", [["C"]] * 100, task_args={"shots": n}) for n in (0, 5)]
    assert _compare(*sides) == 4
    assert _compare(sides[0], sides[0]) == 0


@pytest.mark.parametrize(
    ("reducer", "score"),
    [
        ("mean", 0.5),
        ("max", 1.0),
        ("median", 0.5),
        ("mode", 1.0),
        ("at_least_2", 1.0),
        ("at_least_3", 0.0),
        ("pass_at_2", 5 / 6),
    ],
)
def test_epochs_become_one_score_by_the_logs_own_reducer(tmp_path, reducer, score):
    """Right twice in four epochs."""
    log = _log(tmp_path / "a.json", [["C", "C", "I", "I"]], epochs=4, config={"epochs_reducer": [reducer]})
    found = load(log)
    assert found.score.tolist() == pytest.approx([score])
    assert found.measure == {"jars": "match" if reducer == "mean" else f"match,{reducer}"}


def test_an_unknown_reducer_is_named(tmp_path):
    """A reducer of the user's own cannot be computed here."""
    with pytest.raises(UsageError, match="reduces epochs by 'mine'"):
        load(_log(tmp_path / "a.json", [["C", "I"]], config={"epochs_reducer": ["mine"]}))


def test_an_epoch_that_ended_in_an_error_leaves_the_others(tmp_path):
    """The mean of the scored ones with a count in the notes; below half of them the item is unanswered."""
    scores = [["C", None, "C", "I"], ["C", None, None, None], ["C"] * 4, ["C", "I"]]
    found = load(_log(tmp_path / "a.json", scores, epochs=4))
    assert np.array_equal(found.score, [2 / 3, np.nan, 1.0, 0.5], equal_nan=True)
    assert any("3 items have no score in some of their 4 epochs" in note for note in found.notes)


def test_an_epoch_given_twice_is_refused(tmp_path):
    """Two answers to one epoch of one sample are two runs mixed together."""
    log = json.loads(_log(tmp_path / "a.json", [["C"]]).read_text())
    (tmp_path / "a.json").write_text(json.dumps(log | {"samples": log["samples"] * 2}))
    with pytest.raises(NotComparable, match="epoch 1 twice"):
        load(tmp_path / "a.json")


def test_other_json_next_to_logs_is_passed_over_and_half_a_log_is_not(tmp_path):
    """Listings and settings are not logs; a file that is not JSON could be one cut short."""
    _log(tmp_path / "log.json", [["C"]])
    for name, text in (("listing.json", '{"log.json": {"task": "jars", "status": "success"}}'), ("logs.json", "[]")):
        (tmp_path / name).write_text(text)
    assert len(load(tmp_path)) == 1
    (tmp_path / "cut.json").write_text((tmp_path / "log.json").read_text()[:50])
    with pytest.raises(NotComparable, match=r"cut\.json is not JSON"):
        load(tmp_path)


# The baseline again, under another name.


def _answered(kind: str, path: Path, texts: list[str], *, scores: list[int]) -> Path:
    """The same questions as a log or table of a kind, with these answers; in the reverse order if the path says so."""
    order = range(len(texts))[:: -1 if "copy" in path.name else 1]
    if kind == "lm_eval":
        return _task(path, "jars", [_sample(at, scores[at], resps=[[texts[at]]]) for at in order])
    if kind == "inspect":
        log = json.loads(_log(path.with_suffix(".json"), [["C" if one else "I"] for one in scores]).read_text())
        for at, sample in enumerate(log["samples"]):
            message = {"id": f"{path.name}{at}", "content": texts[at]}
            sample |= {"uuid": f"{path.name}{at}", "output": {"choices": [{"message": message}]}}
        log["samples"] = [log["samples"][at] for at in order]
        path.with_suffix(".json").write_text(json.dumps(log))
        return path.with_suffix(".json")
    if kind == "jsonl":
        rows = [{"item": at, "score": scores[at], "response": [texts[at]]} for at in order]
        return _jsonl(path.with_suffix(".jsonl"), rows)
    if kind == "parquet":
        columns = {"item": list(order), "score": [scores[at] for at in order], "response": [texts[at] for at in order]}
        parquet.write_table(pa.table(columns), path.with_suffix(".parquet"))
        return path.with_suffix(".parquet")
    return _csv(path.with_suffix(".csv"), "item,score,model_output", [f"{at},{scores[at]},{texts[at]}" for at in order])


@pytest.mark.parametrize("kind", ["lm_eval", "inspect", "jsonl", "parquet", "csv"])
def test_a_reordered_copy_of_the_baseline_is_refused(tmp_path, capsys, kind):
    """All scores and answers are the baseline's: exit 4, unless asked for. One other answer or score is enough."""
    texts, scores = [f"text {at}" for at in range(200)], [1] * 200
    before = _answered(kind, tmp_path / "base", texts, scores=scores)
    copy = _answered(kind, tmp_path / "copy", texts, scores=scores)
    assert _compare(before, copy) == 4
    assert "are the baseline's" in capsys.readouterr().err
    assert _compare(before, copy, "--allow-identical") == 0
    texts[7] = "another text"
    assert _compare(before, _answered(kind, tmp_path / "copy2", texts, scores=scores)) == 0
    texts[7], scores[7] = "text 7", 0
    assert _compare(before, _answered(kind, tmp_path / "copy3", texts, scores=scores)) == 0


@pytest.mark.parametrize("header", ["item,score", "item,score,question", "item,score,response"])
def test_equal_scores_alone_are_no_copy(tmp_path, header):
    """Two variants may agree on every item; questions and empty answers do not show who answered."""
    more = {2: "", 3: ",why" if "question" in header else ","}[header.count(",") + 1]
    rows = [f"{at},1{more}" for at in range(200)]
    before, after = _csv(tmp_path / "a.csv", header, rows), _csv(tmp_path / "b.csv", header, rows[::-1])
    assert _compare(before, after) == 0


# Archives are read within limits.


def _eval(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


@pytest.mark.parametrize(("limit", "value"), [("MAX_MEMBERS", 1), ("MAX_MEMBER", 1 << 20), ("MAX_TOTAL", 1 << 20)])
def test_an_archive_that_unpacks_to_too_much_is_refused(tmp_path, monkeypatch, limit, value):
    """Too many members, one too large, all together too large: refused with the limit, before anything is unpacked."""
    path = _eval(tmp_path / "a.eval", {"header.json": b" " * (3 << 20), "samples/1.json": b"{}"})
    monkeypatch.setattr(inspect, limit, value)
    with pytest.raises(NotComparable, match="and at most 1 are read"):
        load(path)


def test_an_archive_with_a_damaged_member_is_refused(tmp_path):
    """A checksum that does not fit: the member is named."""
    path = _eval(tmp_path / "a.eval", {"header.json": b'{"status": "success", "eval": {"task": "t"}}' * 50})
    data = bytearray(path.read_bytes())
    data[60] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(NotComparable, match=r"header\.json is damaged"):
        load(path)


def test_a_metric_of_which_less_is_better_is_no_score(tmp_path):
    """The averages beside the samples say so of any metric: more of it must not read as an improvement."""
    line = {"doc_id": 0, "doc": {}, "target": "x", "arguments": [["q", "a"]], "resps": [["x"]], "filtered_resps": ["x"]}
    text = json.dumps({**line, "filter": "none", "metrics": ["score"], "score": 1.0})
    (tmp_path / "samples_toxic_2026-01-01T00-00-00.jsonl").write_text(text + "\n", encoding="utf-8")
    assert load(tmp_path).measure == {"toxic": "score"}
    averages = {"higher_is_better": {"toxic": {"score": False}}}
    (tmp_path / "results_2026-01-01T00-00-00.json").write_text(json.dumps(averages), encoding="utf-8")
    with pytest.raises(UsageError, match="which metric is the score"):
        load(tmp_path)
    with pytest.raises(UsageError, match="less of it is better"):
        load(tmp_path, ImportOptions(metric="score"))
