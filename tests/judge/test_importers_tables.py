"""Plain tables: the same outcomes from CSV, TSV, JSON Lines and Parquet, and clear words for what is wrong in one."""

from __future__ import annotations

import csv
import decimal
import json

import numpy as np
import pytest
from lazily import lazy
from making import stratum
from written import compared, csv_of, jsonl

from harness.errors import NotComparable, UsageError
from harness.judge import compare, gate
from harness.judge.importers import ImportOptions, cells, load
from harness.judge.rules import Rules

pa = lazy("pyarrow")
parquet = lazy("pyarrow.parquet")

ROWS = [
    {
        "id": f"q{at}",
        "ok": float(at % 3 != 0),
        "subject": "law" if at < 6 else "art",
        "book": f"b{at // 2}",
        "w": 1 + at % 2,
    }
    for at in range(12)
]
OPTIONS = ImportOptions(item="id", score="ok", strata=("subject",), cluster="book", weight="w", prompt="id")


def _csv(path, rows=ROWS, delimiter=","):
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
    return path


def _jsonl(path, rows=ROWS):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def _parquet(path, rows=ROWS):
    parquet.write_table(pa.Table.from_pylist(rows), path)
    return path


WRITERS = {"csv": _csv, "tsv": lambda path: _csv(path, delimiter="\t"), "jsonl": _jsonl, "parquet": _parquet}


@pytest.mark.parametrize("suffix", WRITERS)
def test_every_format_gives_the_same(tmp_path, suffix):
    """Items, scores, strata, sources, weights and what was asked, from each format."""
    found = load(WRITERS[suffix](tmp_path / f"base.{suffix}"), OPTIONS)
    assert found.name == "base"
    assert found.items == tuple(row["id"] for row in ROWS)
    assert found.score.tolist() == [row["ok"] for row in ROWS]
    assert [found.stratum[at] for at in range(12)] == [f"subject={row['subject']}" for row in ROWS]
    assert [found.cluster[at] for at in range(12)] == [row["book"] for row in ROWS]
    assert found.weight.tolist() == [row["w"] for row in ROWS]
    assert len(set(found.fingerprint.tolist())) == 12
    assert found.levels["subject"][0] == "law"


def test_two_tables_are_compared(tmp_path):
    """The candidate loses two of law's six: counts, verdict and names as in any run."""
    worse = [row | {"ok": 0.0} if row["id"] in ("q1", "q2") else row for row in ROWS]
    base = load(_csv(tmp_path / "base.csv"), OPTIONS, "base")
    other = load(_jsonl(tmp_path / "cand.jsonl", worse), OPTIONS, "nf4")
    rules = Rules.from_flags(margin=0.1)
    found = gate.judge(compare.compare(base, [other], rules), rules)
    one = stratum(found, "all/subject=law")
    assert (one.n, one.clusters, one.lost, one.gained) == (6, 3, 2, 0)
    assert found.candidates[0].name == "nf4"


def test_columns_default_to_item_and_score(tmp_path):
    """Without --item and --score the columns are called so."""
    path = tmp_path / "t.csv"
    path.write_text("item,score\na,1\nb,0\n")
    assert load(path).score.tolist() == [1.0, 0.0]


def test_a_column_may_name_the_slice(tmp_path):
    """A slice column makes slices of a table."""
    found = load(_csv(tmp_path / "t.csv"), ImportOptions(item="id", score="ok", slice="subject"))
    assert set(found.slice.names) == {"law", "art"}
    assert found.stratum.names == ("all",)


def test_the_chance_of_guessing_can_be_given(tmp_path):
    """A table cannot know how many choices its questions had."""
    found = load(_csv(tmp_path / "t.csv"), ImportOptions(item="id", score="ok", chance=0.25))
    assert set(found.chance) == {0.25}
    with pytest.raises(UsageError, match="chance=25"):
        load(tmp_path / "t.csv", ImportOptions(item="id", score="ok", chance=25))


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_a_missing_column_is_named_with_those_that_are_there(tmp_path, suffix):
    """Usage, exit code 2, in every format."""
    path = WRITERS[suffix](tmp_path / f"t.{suffix}")
    with pytest.raises(UsageError, match=r"'level'.*there are: .*subject") as caught:
        load(path, ImportOptions(item="id", score="ok", strata=("level",)))
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("text", "error", "says"),
    [
        ("", UsageError, "is empty"),
        ("item,score\n", NotComparable, "holds no answers"),
        ("item,score\na,1\nb\n", UsageError, "line 3 has 1 entries, the header 2"),
        ("item,score,score\na,1,0\n", UsageError, "'score' is there 2 times"),
        ("item,score\na,right\n", NotComparable, "row 1: item 'a': 'right' is not a score"),
        ("item,score\na,1\n,0\n", NotComparable, "row 2 has no item id"),
        ("item,score\na,55\nb,0\n", NotComparable, "item 'a' has score 55.*percentages"),
        ("item,score\na,-0.5\n", NotComparable, "item 'a' has score -0.5"),
        ("item,score\na,inf\n", NotComparable, "item 'a' has score inf"),
        ('item,score\n"a,1\n', UsageError, "not a table"),
        ("item,score\na,1\na,0\n", NotComparable, r"1 items have several scores \(a\).*--repeats mean"),
    ],
)
def test_a_table_that_cannot_be_judged(tmp_path, text, error, says):
    """Each fault with its file, its line or item, and what to do."""
    path = tmp_path / "t.csv"
    path.write_text(text)
    with pytest.raises(error, match=says) as caught:
        load(path)
    assert str(path) in str(caught.value) or str(caught.value).startswith("t: ")


def test_text_that_is_not_utf8_is_refused(tmp_path):
    """A table in another encoding is named as such, not read as something else."""
    (tmp_path / "t.csv").write_bytes(b"item,score\n\xe9,1\n")
    (tmp_path / "t.jsonl").write_bytes(b'{"item": "\xe9", "score": 1}\n')
    for path in tmp_path.iterdir():
        with pytest.raises(UsageError, match=r"line [12] is not UTF-8"):
            load(path)


@pytest.mark.parametrize(
    ("text", "says"),
    [('{"item": "a", "score": 1}\n{"item"', "line 2 is not JSON.*cut there"), ("[1]\n", "holds a list")],
)
def test_json_lines_that_are_none(tmp_path, text, says):
    """The line is named."""
    path = tmp_path / "t.jsonl"
    path.write_text(text)
    with pytest.raises(NotComparable, match=says):
        load(path)


def test_an_empty_score_is_unanswered(tmp_path):
    """Empty, null and nan are missing answers, true and false are right and wrong."""
    path = tmp_path / "t.csv"
    path.write_text("item,score\na,\nb,null\nc,NaN\nd,True\ne,false\n")
    scores = load(path).score
    assert np.isnan(scores[:3]).all()
    assert scores[3:].tolist() == [1.0, 0.0]


def test_repetitions_are_averaged_where_asked(tmp_path):
    """Several answers to an item, at a temperature: their mean is its score."""
    path = tmp_path / "t.csv"
    path.write_text("item,score\na,1\na,0\nb,1\nb,1\n")
    found = load(path, ImportOptions(repeats="mean"))
    assert (found.items, found.score.tolist()) == (("a", "b"), [0.5, 1.0])


def test_repetitions_that_are_not_there_do_not_count_as_right(tmp_path):
    """Rows of failures left out, or added until one is right, would raise the mean; and sides have as many."""
    rows = [{"item": at, "score": score} for at in range(200) for score in (1, 1, 1, 0)]
    base = jsonl(tmp_path / "base.jsonl", rows)
    kept = [one for one in rows[::4] if one["score"]]
    cut = jsonl(tmp_path / "cut.jsonl", kept)
    fewer = jsonl(tmp_path / "fewer.jsonl", rows[:4] + kept[1:])
    again = jsonl(tmp_path / "again.jsonl", [*rows, {"item": 7, "score": 1}])
    for side in (fewer, again):
        with pytest.raises(NotComparable, match="what was asked until it was right has no mean"):
            load(side, ImportOptions(repeats="mean"))
    for side in (cut, fewer, again):
        assert compared(base, side, "--item", "item", "--repeats", "mean") == 4
    same = jsonl(tmp_path / "same.jsonl", rows[::-1])
    assert compared(base, same, "--item", "item", "--repeats", "mean") == 0


def test_a_row_written_twice_counts_once_and_is_named(tmp_path):
    """The same id with the same score: one item, and the comparison says so."""
    path = tmp_path / "t.csv"
    path.write_text("item,score\na,1\nb,0\na,1\n")
    found = load(path)
    assert found.items == ("a", "b")
    assert "counted once: a" in found.notes[0]


def test_one_id_in_two_strata_is_refused(tmp_path):
    """Numbers that begin anew in every subject are not ids."""
    path = tmp_path / "t.csv"
    path.write_text("item,score,subject\n1,1,law\n1,1,art\n")
    with pytest.raises(NotComparable, match="'1' names 2 different items"):
        load(path, ImportOptions(strata=("subject",)))


def test_levels_are_written_as_a_person_would(tmp_path):
    """1024.0 from a float column is 1024, an empty cell is 'none', and numbers keep their order."""
    rows = [{"item": f"{at}", "score": 1.0, "tokens": value} for at, value in enumerate((1024.0, 256.0, None))]
    found = load(_parquet(tmp_path / "t.parquet", rows), ImportOptions(strata=("tokens",)))
    assert sorted(found.stratum.names) == ["tokens=1024", "tokens=256", "tokens=none"]


def test_a_broken_parquet_is_refused(tmp_path):
    """Bytes that are no Parquet."""
    (tmp_path / "t.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(UsageError, match="not a Parquet file"):
        load(tmp_path / "t.parquet", OPTIONS)


def test_float_ids_are_exact(tmp_path):
    """1000000001.0 is item 1000000001: of 1,000 items none merges with another, and the lost half is seen."""
    ids = [*map(float, range(500)), *(1e9 + at for at in range(500))]
    sides = [
        jsonl(tmp_path / f"{name}.jsonl", [{"item": one, "score": int(one < top)} for one in ids])
        for name, top in (("a", 1e12), ("b", 1e9))
    ]
    assert load(sides[0]).items[-1] == "1000000499"
    assert len(load(sides[0])) == 1000
    assert compared(*sides) == 1


def test_float_levels_and_clusters_are_exact(tmp_path):
    """Levels and clusters that differ after the sixth digit stay apart; a float keeps its digits."""
    rows = [{"item": at, "score": 1, "k": 1e7 + at % 2, "t": 0.1234567 + at % 2} for at in range(4)]
    found = load(jsonl(tmp_path / "a.jsonl", rows), ImportOptions(strata=("t",), cluster="k"))
    assert set(found.cluster.names) == {"10000000", "10000001"}
    assert set(found.stratum.names) == {"t=0.1234567", "t=1.1234567"}


def test_an_id_that_no_float_holds_is_refused(tmp_path):
    """From 2**53 on two whole numbers may be one float."""
    path = jsonl(tmp_path / "a.jsonl", [{"item": 2.0**53, "score": 1}])
    with pytest.raises(NotComparable, match=r"row 1: the id .* was rounded to a float"):
        load(path)


def test_whole_numbers_that_pandas_wrote_as_floats_are_whole_in_csv_too(tmp_path):
    """``3.0`` of a CSV is the ``3`` of JSON lines; if ``3`` is there as well, both stay as they are."""
    found = load(csv_of(tmp_path / "a.csv", "item,score,k", ["1.0,1,5.0", "2.0,1,"]), ImportOptions(cluster="k"))
    assert (found.items, found.cluster.names) == (("1", "2"), ("5", "none: 2"))
    assert load(csv_of(tmp_path / "b.csv", "item,score", ["3.0,1", "3,0"])).items == ("3.0", "3")


@pytest.mark.parametrize("score", ["0_1", "١", "1e", "0x1", "1,0"])
def test_only_plain_digits_are_a_score(tmp_path, score):
    """What Python's float() takes beyond plain digits is refused, with its row."""
    path = csv_of(tmp_path / "a.csv", "item\tscore", [f"a\t{score}"]).rename(tmp_path / "a.tsv")
    with pytest.raises(NotComparable, match="row 1: item 'a'"):
        load(path)


@pytest.mark.parametrize("length", [200_000, 10_000_000])
def test_long_cells_are_read(tmp_path, length):
    """A prompt of 200,000 characters, and one longer than pyarrow's block."""
    path = csv_of(tmp_path / "a.csv", "item,score,prompt", [f"{at},1,{'w' * length}{at}" for at in range(2)])
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
    found = load(csv_of(tmp_path / "a.csv", "item,score", rows))
    assert found.items == items
    assert np.array_equal(found.score, scores, equal_nan=True)


@pytest.mark.parametrize("rows", [["a,1", 'b,"0'], ['"a"b,1'], ["a,1", 'b,"0', "c,1", 'd,"1'], ["a,1", "b"]])
def test_quotes_that_swallow_rows_are_refused_with_their_line(tmp_path, rows):
    """An open quote or text after a closing one, which pyarrow reads without an error."""
    with pytest.raises(UsageError, match=r"a\.csv: line \d"):
        load(csv_of(tmp_path / "a.csv", "item,score", rows))


def test_quotes_of_texts_in_a_tsv_that_swallow_rows_are_refused(tmp_path):
    """Many tools write TSV without quoting: two texts, one begins with a quote and one ends with it."""
    rows = ['a\t1\t"Good evening', "b\t0\tHe left.", 'c\t1\tI am here."', "d\t1\tEnd."]
    path = csv_of(tmp_path / "a.csv", "item\tscore\ttext", rows).rename(tmp_path / "a.tsv")
    with pytest.raises(UsageError, match=r"a\.tsv: line 4: a quoted cell holds whole rows \('Good evening"):
        load(path)
    rows = ['a\t1\t"def f():\n\treturn 1\n\tpass"', 'b\t0\t"x\ty"']
    assert load(csv_of(path, "item\tscore\ttext", rows)).items == ("a", "b")


@pytest.mark.parametrize(("cell", "read"), [('"a, b"', 13), ('"say ""x"""', 13), ('a"b', 53)])
def test_rows_are_read_one_by_one_only_where_a_quote_is_astray(tmp_path, monkeypatch, cell, read):
    """Python's csv module is several times slower than pyarrow: well quoted, it reads the header and the first rows."""
    seen, rows_of = [], cells._csv_rows

    def counted(path):
        for row in rows_of(path):
            seen.append(row)
            yield row

    monkeypatch.setattr(cells, "_FIRST", 10)  # read once, the header three times
    monkeypatch.setattr(cells, "_csv_rows", counted)
    found = load(csv_of(tmp_path / "a.csv", "item,score,text", [f'"q{at}",1,{cell}' for at in range(40)]))
    assert (len(found), len(seen)) == (40, read)


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
        load(jsonl(tmp_path / "a.jsonl", rows), ImportOptions(strata=("a", "b")))


LESS = ["wer", "WER", "metric.cer", "val_loss", "word_perplexity", "error_rate", "brier_score", "max_toxicity", "ece"]
LESS += ["is_incorrect", "wrong", "failed", "failure_rate", "invalid", "hallucinations", "WordErrorRate", "isError"]
LESS += ["latency_s", "flagged", "asr", "stereotype"]
LESS += ["not_correct"]
LESS += ["error_count", "false_positive_rate", "logloss", "kl_divergence", "timeouts", "amb_bias_score_Age"]
LESS += [
    "toxicity_perspective_api",
    "wer_norm",
    "toxicity_max",
    "error_flag",
    "failed_tests",
    "smape",
    "bugs",
    "unparseable",
]
LESS += ["harmfulness", "jailbreak_success", "edit_dist", "misalignment"]
LESS += ["error_pct", "wer_percent", "fail_ratio", "error_fraction", "nll_per_token", "wrong_answers"]
LESS += ["kld", "mean_kld", "bits_per_char", "nrmse", "hamming_distance", "jsd"]
LESS += ["garbled", "loop", "empty_answers", "dropped", "fp_rate", "off_topic"]
MORE = [
    "score",
    "glosser",
    "power",
    "computer",
    "accuracy",
    "pter",
    "lossless",
    "wer_inverted",
    "errors_found_ok",
    "no_error",
    "not_wrong",
    "error_free",
    "failover",
    "FAIL_TO_PASS",
    "correct_pct",
    "pass_ratio",
    "solved_per_token",
    "unbiased",
    "correct",
    "chrf",
    "refusal",
    "correct_fp8",
    "pass_fail",
    "right_wrong",
    "hit_or_miss",
    "correct_vs_wrong",
    "free_of_errors",
    "without_errors",
    "zero_errors",
    "caught_bug",
    "detects_bias",
    "rejects_invalid",
    "resists_jailbreak",
    "handles_missing",
]


@pytest.mark.parametrize("name", [*LESS, *MORE])
def test_a_column_of_which_less_is_better_is_no_score(tmp_path, name):
    """A worse candidate has more of it, which would read as a gain."""
    rows = [{"item": at, name: 0.5} for at in range(4)]
    path, options = _csv(tmp_path / "a.csv", rows), ImportOptions(score=name)
    if name in MORE:
        assert load(path, options).score.tolist() == [0.5] * 4
    else:
        with pytest.raises(UsageError, match=f"{name} is not a score: less of it is better"):
            load(path, options)


@pytest.mark.parametrize("column", ["metric", "scorer", "metric_name", "score_name", "Evaluator"])
@pytest.mark.parametrize("sliced", [False, True])
@pytest.mark.parametrize("told", [["hallucination_rate"], ["accuracy"], ["f1", "exact_match"]])
def test_a_metric_that_a_column_names_is_no_score_if_less_of_it_is_better(tmp_path, column, sliced, told):
    """Long tables name it in all rows, or in those of a slice, and hold it in a column `value`."""
    path = _csv(tmp_path / "a.csv", [{"item": at, "value": 0.5, column: told[at % len(told)]} for at in range(8)])
    options = ImportOptions(score="value", slice=column if sliced else None)
    if told[0] == "hallucination_rate":
        with pytest.raises(UsageError, match="hallucination_rate is not a score: less of it is better"):
            load(path, options)
    else:
        assert load(path, options).score.tolist() == [0.5] * 8


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_an_item_without_a_source_is_one_by_itself(tmp_path, suffix):
    """All of them as one source would count as one item."""
    rows = [{"item": at, "score": 1.0, "book": f"b{at // 2}" if at < 6 else None} for at in range(10)]
    found = load(WRITERS[suffix](tmp_path / f"a.{suffix}", rows), ImportOptions(cluster="book"))
    assert len(found.cluster.names) == 7


def test_decimals_are_exact(tmp_path):
    """Ids that are one float are two items; scores are numbers; zeros at the end say nothing."""
    ids = pa.array([decimal.Decimal("1." + "0" * 20 + str(at)) for at in range(4)] + [decimal.Decimal(7)])
    scores = pa.array([decimal.Decimal(one) for one in ("0.50", "1.00", "0.00", "0.25", "1.00")])
    parquet.write_table(pa.table({"item": ids, "score": scores}), tmp_path / "a.parquet")
    found = load(tmp_path / "a.parquet")
    assert found.items == ("1", *(f"1.{'0' * 20}{at}" for at in (1, 2, 3)), "7")
    assert found.score.tolist() == [0.5, 1.0, 0.0, 0.25, 1.0]


def test_bytes_that_are_no_text_are_a_sentence(tmp_path):
    """Ids in a binary column that is not UTF-8."""
    parquet.write_table(pa.table({"item": [b"\xff", b"\xfe"], "score": [1, 0]}), tmp_path / "a.parquet")
    with pytest.raises(NotComparable, match=r"a.parquet: holds values of another type .*UTF8"):
        load(tmp_path / "a.parquet")


def test_half_of_a_surrogate_pair_does_not_stop_the_report(tmp_path):
    """JSON may hold it, and UTF-8 may not."""
    rows = [{"item": f"\ud800{at}", "score": 1, "s": "\udfff"} for at in range(200)]
    base = jsonl(tmp_path / "a.jsonl", rows)
    side = jsonl(tmp_path / "b.jsonl", [one | {"score": 0} for one in rows])
    assert load(base).items[0] == "\\ud8000"
    assert compared(base, side, "--stratum", "s", "--output", str(tmp_path / "out")) == 1


def test_a_score_just_above_one_is_shown_as_such(tmp_path):
    """`has score 1: it must be in [0, 1]` would leave nothing to mend."""
    with pytest.raises(NotComparable, match=r"has score 1\.0000001: it must be in"):
        load(_jsonl(tmp_path / "a.jsonl", [{"item": 1, "score": 1.0000001}]))


@pytest.mark.parametrize("column", ["question", "Prompt"])
@pytest.mark.parametrize(("asked", "context", "right"), [(20, 1, 3), (1000, 1, 0), (1, 1, 0), (20, 50, 0)])
def test_rows_that_ask_the_same_are_one_source_without_an_option(tmp_path, column, asked, context, right):
    """A log of traffic that holds twenty questions fifty times; not one template, or one question about many texts."""
    for side in "ab":
        rows = [
            {
                "item": at,
                "score": 1,
                column: f"q{at % asked}",
                "context": f"c{at % asked % context}{at // asked % context}",
            }
            for at in range(1000)
        ]
        _csv(tmp_path / f"{side}.csv", [{**row, "response": f"{side}{row['item']}"} for row in rows])
    assert compared(tmp_path / "a.csv", tmp_path / "b.csv") == right
    assert compared(tmp_path / "a.csv", tmp_path / "b.csv", "--prompt", "item") == 0


@pytest.mark.parametrize(
    "column",
    ["image", "Audio", "video", "premise", "hypothesis", "sentence", "statement", "source", "table", "schema"],
)
@pytest.mark.parametrize("question", ["question", "instruction"])
def test_one_question_about_many_texts_or_images_is_many(tmp_path, question, column):
    """What differs between its rows stands in the column beside it; rows that are alike in both are one source."""
    for times, code in ((1, 0), (250, 3)):
        for side in "ab":
            rows = [
                {"item": at, "score": 1, question: f"q{at % 4}", column: f"a lamp in room {at // times}", "note": at}
                for at in range(1000)
            ]
            _csv(tmp_path / f"{side}.csv", [{**row, "response": f"{side}{row['item']}"} for row in rows])
        assert compared(tmp_path / "a.csv", tmp_path / "b.csv") == code


@pytest.mark.parametrize("origin", ["user {}", "https://example.org/{}", "chat no. {}"])
def test_where_a_question_comes_from_makes_no_other_question(tmp_path, origin):
    """Twenty questions that fifty users asked each: `source` holds texts only where it holds sentences."""
    for side in "ab":
        rows = [{"item": at, "score": 1, "question": f"q{at % 20}", "source": origin.format(at)} for at in range(1000)]
        _csv(tmp_path / f"{side}.csv", [{**row, "response": f"{side}{row['item']}"} for row in rows])
    assert compared(tmp_path / "a.csv", tmp_path / "b.csv") == 3


@pytest.mark.parametrize("column", ["text", "messages", "hypothesis", "statement", "image"])
def test_a_models_own_text_beside_a_question_is_no_part_of_it(tmp_path, column):
    """Fifty sampled answers to each of twenty questions are twenty sources, also where a column holds each answer."""
    for side in "ab":
        rows = [{"item": at, "score": 1, "question": f"q{at % 20}", column: f"{side} says {at}"} for at in range(1000)]
        _csv(tmp_path / f"{side}.csv", rows)
    assert compared(tmp_path / "a.csv", tmp_path / "b.csv") == 3


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
@pytest.mark.parametrize(
    ("column", "told", "code"),
    [
        ("num_fewshot", (0, 5), 4),
        ("prompt_version", ("v1", "v2"), 4),
        ("Dataset", ("squad", "squad_v2"), 4),
        ("judge_model", ("large", "small"), 4),
        ("k_shot", (0, 5), 4),
        ("max_model_len", (2048, 8192), 4),
        ("split", ("validation", "test"), 4),
        ("scorer", ("exact", "contains"), 4),
        ("enable_thinking", ("off", "on"), 4),
        ("num_fewshot", (5, 5), 0),
        ("model_revision", ("a", "b"), 0),
        ("system", ("bf16", "int4"), 0),
        ("system_prompt", ("Be brief.", "Think first."), 4),
    ],
)
def test_tables_that_say_that_they_were_asked_otherwise_are_not_compared(tmp_path, capsys, suffix, column, told, code):
    """A column that says the same of all rows, and something else on the other side: five examples hide a loss."""
    for side, how in zip("ab", told, strict=True):
        rows = [{"item": at, "score": float(at % 50 > 0), column: how} for at in range(500)]
        WRITERS[suffix](tmp_path / f"{side}.{suffix}", rows)
    words = [tmp_path / f"a.{suffix}", tmp_path / f"b.{suffix}", "--json"]
    assert compared(*words, "--allow-identical") == code
    assert code == 0 or f"{column}: '{told[1]}', in baseline '{told[0]}'" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("column", "values", "code"),
    [
        ("num_fewshot", ((0, 0), (0, 5)), 4),
        ("num_fewshot", ((0, 5), (0, 5)), 0),
        ("num_fewshot", ((0, 0), (0, None)), 0),
        ("judge", (("right", "wrong"), ("right", "right")), 0),
    ],
)
def test_rows_of_a_table_that_were_asked_otherwise_are_seen(tmp_path, column, values, code):
    """Two runs in one file: a part of it had five examples. What a judge said of each row is no setting."""
    for side, told in zip("ab", values, strict=True):
        rows = [{"item": at, "score": float(at % 50 > 0), column: told[at % 2]} for at in range(500)]
        WRITERS["jsonl"](tmp_path / f"{side}.jsonl", rows)
    assert compared(tmp_path / "a.jsonl", tmp_path / "b.jsonl", "--allow-identical") == code


@pytest.mark.parametrize(
    ("column", "values", "code"),
    [("model", ("int4", "bf16"), 2), ("Checkpoint", ("b", "a"), 2), ("model", ("int4", None), 0), ("model", "ii", 0)],
)
def test_a_table_of_several_models_is_refused(tmp_path, column, values, code):
    """Where two files were put together, a part of the candidate's rows may be the baseline's."""
    for side, told in zip("ab", (("bf16", "bf16"), values), strict=True):
        rows = [{"item": at, "score": float(at % 50 > 0), column: told[at % 2]} for at in range(500)]
        _csv(tmp_path / f"{side}.csv", rows)
    assert compared(tmp_path / "a.csv", tmp_path / "b.csv", "--allow-identical") == code


NAMES = ["user_input", "prompts", "inputs.question", "messages", "expected_output", "gold_label", "example.expected"]


@pytest.mark.parametrize("name", NAMES)
def test_another_question_or_right_answer_is_seen_under_the_names_of_other_tools(tmp_path, name):
    """DeepEval, ragas, promptfoo and LangSmith have names of their own; the same names with the same texts match."""

    def told(side, at, *, other):
        text = f"What is {at} and {7 if other and side == 'a' and at % 8 == 0 else 3}?"
        if name == "messages":
            return {"messages": [{"role": "user", "content": text}]}
        outer, _, last = name.rpartition(".")
        return {outer: {last: text}} if outer else {last: text}

    def paths(*, other):
        return [
            jsonl(
                tmp_path / f"{side}.jsonl",
                [{"item": at, "score": 1, "by": side, **told(side, at, other=other)} for at in range(400)],
            )
            for side in "ab"
        ]

    assert compared(*paths(other=True)) == 4
    assert compared(*paths(other=False)) == 0


@pytest.mark.parametrize("name", ["modelName", "completion.model", "served_model", "quant", "dtype"])
def test_a_file_of_two_models_is_refused_whatever_the_column_is_called(tmp_path, name):
    """The baseline's rows among the candidate's halve its loss; a judge may be another model."""
    for column, problem in ((name, "holds results of several models"), ("judge_model", "")):
        rows = [f"{at},1,{'bf16' if at % 2 else 'int4'}" for at in range(40)]
        path = csv_of(tmp_path / "a.csv", f"item,score,{column}", rows)
        if problem:
            with pytest.raises(UsageError, match=problem):
                load(path)
        else:
            assert len(load(path)) == 40


@pytest.mark.parametrize(("first", "step", "problem"), [(0, 1, True), (1, 1, True), (0, 3, False), (7, 1, False)])
def test_row_numbers_of_a_table_that_is_sorted_by_score_are_no_ids(tmp_path, first, step, problem):
    """pandas' `sort_values(...).reset_index()` on both sides: the tenth row is another item on each."""
    rows = [f"{first + step * at},{int(at < 70)}" for at in range(100)]
    path = csv_of(tmp_path / "a.csv", "item,score", rows)
    if problem:
        with pytest.raises(NotComparable, match="rows are sorted by score, and its ids number them"):
            load(path)
    else:
        assert len(load(path)) == 100
    asked = csv_of(tmp_path / "b.csv", "item,score,question", [f"{row},What is {at}?" for at, row in enumerate(rows)])
    assert len(load(asked)) == 100


def test_several_metrics_of_an_item_have_no_mean(tmp_path):
    """A long table has a row for each metric: `--repeats mean` is of several answers."""
    rows = [f"q{at},{one},{at % 2}" for at in range(20) for one in ("accuracy", "fluency")]
    path = csv_of(tmp_path / "a.csv", "item,metric,score", rows)
    with pytest.raises(UsageError, match=r"holds several of metric \(accuracy, fluency\), which have no mean"):
        load(path, ImportOptions(repeats="mean"))


def test_a_thousand_keys_of_one_object_leave_room_for_those_of_others(tmp_path):
    """Probabilities by token are keys as well."""
    rows = [
        {
            "item": at,
            "score": 1,
            "first": {f"t{at}_{k}": 0.5 for k in range(60)},
            "a": {"body": {"model": f"m{at // 20}"}},
        }
        for at in range(40)
    ]
    with pytest.raises(UsageError, match="several models"):
        load(jsonl(tmp_path / "a.jsonl", rows))
