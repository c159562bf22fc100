"""Logs of lm_eval and Inspect, as those tools wrote them, become outcomes and verdicts."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from making import stratum
from paths import DATA

from harness.errors import NotComparable, UsageError
from harness.judge import compare, gate
from harness.judge.importers import ImportOptions, format_of, load
from harness.judge.importers import inspect as importers_inspect
from harness.judge.rules import Rules

LM_EVAL, INSPECT = DATA / "lm_eval", DATA / "inspect"


def _judged(folder, options=None, margin=0.4):
    rules = Rules.from_flags(margin=margin)
    sides = [load(folder / name, options) for name in ("bf16", "int4")]
    return gate.judge(compare.compare(sides[0], sides[1:], rules), rules)


def _lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def _write(path, lines):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.fixture
def samples(tmp_path):
    """A copy of an lm_eval output directory that a test may change."""
    return Path(shutil.copytree(LM_EVAL / "bf16", tmp_path / "bf16"))


def _only(folder, task):
    (found,) = folder.glob(f"samples_{task}_*.jsonl")
    return found


def test_lm_eval_samples_are_items_by_task():
    """Two tasks of 12 documents: ids by task and doc_id, acc and the first filter's exact_match, the variant's name."""
    found = load(LM_EVAL / "bf16")
    assert found.name == "bf16"
    assert len(found) == 24
    assert found.items[0] == "colors/0"
    assert set(found.slice.names) == {"colors", "sums"}
    colors = found.score[[name.startswith("colors") for name in found.items]]
    assert colors.tolist() == [float(at != 3) for at in range(12)]
    assert found.measure == {"colors": "acc", "sums": "exact_match,strict-match"}
    assert any("filter 'strict-match' of strict-match, flexible-extract" in note for note in found.notes)


def test_lm_eval_scores_are_what_lm_eval_printed():
    """The means of the items are the averages of lm_eval's own table for the same logs (0.25 and 0.75 on int4)."""
    for name, expected in (("strict-match", 0.25), ("flexible-extract", 0.75)):
        found = load(LM_EVAL / "int4", ImportOptions(filter=name, metric=None))
        mine = [score for score, item in zip(found.score, found.items, strict=True) if item.startswith("sums")]
        assert np.mean(mine) == expected


def test_lm_eval_a_filter_that_is_not_there_is_named():
    """Where a task has several filters, another name is refused with those that there are."""
    with pytest.raises(UsageError, match="no filter 'loose'; there are: strict-match, flexible-extract"):
        load(LM_EVAL / "bf16", ImportOptions(filter="loose"))


def test_lm_eval_choices_give_the_chance():
    """Three choices: guessing gives a third; free text gives nothing."""
    found = load(LM_EVAL / "bf16")
    chances = dict(zip(found.items, found.chance.tolist(), strict=True))
    assert chances["colors/5"] == pytest.approx(1 / 3)
    assert chances["sums/5"] == 0.0


def test_lm_eval_doc_fields_make_strata_and_clusters(samples):
    """A field of the document splits, a nested one too; another names the source."""
    _only(samples, "sums").unlink()
    found = load(samples, ImportOptions(strata=("hops", "source.book"), cluster="source.book"))
    assert found.stratum[0] == "hops=1,book=b0"
    assert found.stratum[11] == "hops=2,book=b2"
    assert found.levels["book"][4] == "b1"
    assert found.cluster[4] == "colors/b1"


def test_lm_eval_a_field_that_is_not_there_is_named_with_those_that_are():
    """`--stratum level` over documents that have no level: usage, and the fields to choose from."""
    with pytest.raises(
        UsageError, match="no field 'level'; there are: answer, choices, hops, question, source"
    ) as caught:
        load(LM_EVAL / "bf16", ImportOptions(strata=("level",)))
    assert caught.value.exit_code == 2


def test_lm_eval_two_models_are_compared():
    """int4 lost documents 5 and 7 of each task: 2 of 12 in colors, one of 12 in sums (even ones fail strict-match)."""
    found = _judged(LM_EVAL)
    colors, sums = stratum(found, "colors/all"), stratum(found, "sums/all")
    assert (colors.n, colors.lost, colors.gained, colors.baseline_mean) == (12, 2, 0, 11 / 12)
    assert (sums.n, sums.lost, sums.gained) == (12, 2, 0)
    assert found.exit_code == 3


def test_lm_eval_another_prompt_is_another_item(samples):
    """The same doc_ids under another prompt hash: nothing matches, and it says that they were asked differently."""
    path = _only(samples, "colors")
    _write(path, [line | {"prompt_hash": "other"} for line in _lines(path)])
    rules = Rules.from_flags(margin=0.4)
    compared = compare.compare(load(LM_EVAL / "bf16", name="a"), [load(samples, name="b")], rules)
    assert "12 asked differently" in compared.candidates[0].refused
    assert gate.judge(compared, rules).exit_code == 4


def test_lm_eval_other_documents_are_other_items(samples):
    """The same doc_ids over shuffled documents (another doc hash) do not match either."""
    path = _only(samples, "colors")
    lines = _lines(path)
    _write(path, [line | {"doc_id": 11 - line["doc_id"]} for line in lines])
    compared = compare.compare(
        load(LM_EVAL / "bf16", name="a"), [load(samples, name="b")], Rules.from_flags(margin=0.4)
    )
    assert "12 asked differently" in compared.candidates[0].refused


def test_lm_eval_metric_by_name_and_by_preference(samples):
    """acc is taken before acc_norm; --metric takes the other; one that is not there is named with those that are."""
    _only(samples, "sums").unlink()
    assert load(samples).measure == {"colors": "acc"}
    assert load(samples, ImportOptions(metric="acc_norm")).measure == {"colors": "acc_norm"}
    with pytest.raises(UsageError, match="no metric 'f1'; there are: acc, acc_norm"):
        load(samples, ImportOptions(metric="f1"))


def test_lm_eval_metrics_of_two_sides_must_be_one(samples):
    """acc of one side against acc_norm of the other is refused."""
    _only(samples, "sums").unlink()
    sides = [load(samples, ImportOptions(metric=name), name) for name in ("acc", "acc_norm")]
    compared = compare.compare(sides[0], sides[1:], Rules.from_flags())
    assert "--metric" in compared.candidates[0].refused


@pytest.mark.parametrize("name", ["word_perplexity", "bits_per_byte"])
def test_lm_eval_less_is_better_is_no_score(samples, name):
    """A perplexity is never taken for a score, asked for or not."""
    path = _only(samples, "colors")
    _write(path, [line | {"metrics": [name], name: 0.5} for line in _lines(path)])
    for options in (ImportOptions(), ImportOptions(metric=name)):
        with pytest.raises(UsageError):
            load(samples, options)


def test_lm_eval_a_metric_of_several_numbers_is_refused(samples):
    """[log-likelihood, weight] pairs are not one number per item."""
    path = _only(samples, "colors")
    _write(path, [line | {"acc": [-3.0, 5]} for line in _lines(path)])
    with pytest.raises(NotComparable, match="not one number per item"):
        load(samples)


def test_lm_eval_a_task_run_twice_counts_with_its_newest_file(samples):
    """Two dates of one task: the newer counts, and the comparison says so."""
    path = _only(samples, "colors")
    newer = path.with_name("samples_colors_2027-01-01T00-00-00.000000.jsonl")
    _write(newer, [line | {"acc": 0.0} for line in _lines(path)])
    found = load(samples)
    assert found.score[:12].tolist() == [0.0] * 12
    assert any("colors was run 2 times; the newest counts" in note for note in found.notes)


def test_lm_eval_several_models_in_one_directory_are_refused():
    """The parent of two models' directories is neither of them."""
    with pytest.raises(UsageError, match="several models"):
        load(LM_EVAL)


def test_lm_eval_averages_alone_cannot_be_judged(tmp_path):
    """A directory with results_*.json only: the remedy is --log_samples."""
    (tmp_path / "results_2026-01-01.json").write_text('{"results": {}}')
    with pytest.raises(UsageError, match="--log_samples"):
        load(tmp_path)
    with pytest.raises(UsageError, match="averages alone"):
        load(tmp_path / "results_2026-01-01.json")


def test_lm_eval_a_log_cut_short_is_refused(samples):
    """A last line without its end: the file and line are named, nothing is judged on the rest."""
    path = _only(samples, "colors")
    path.write_text(path.read_text()[:-40])
    with pytest.raises(NotComparable, match=r"line 12 is not JSON.*cut there") as caught:
        load(samples)
    assert caught.value.exit_code == 4


def test_lm_eval_a_single_file_is_read_as_one():
    """One samples file is one task; its format is found from its first line."""
    path = _only(LM_EVAL / "bf16", "colors")
    assert format_of(path) == "lm_eval"
    assert len(load(path)) == 12


def test_inspect_logs_are_items_by_task():
    """Two epochs each: ten items, an item's score the mean of its epochs, choices give the chance."""
    found = load(INSPECT / "bf16")
    scores = dict(zip(found.items, found.score.tolist(), strict=True))
    assert scores == {f"letters/{at}": 1.0 for at in range(1, 5)} | {f"sums/s{at}": float(at != 5) for at in range(6)}
    assert dict(zip(found.items, found.chance.tolist(), strict=True))["letters/1"] == 0.25
    assert found.measure == {"letters": "choice", "sums": "match"}


def test_inspect_scores_are_what_inspect_printed():
    """The mean of a task's items is the accuracy in the log's own results."""
    for side in ("bf16", "int4"):
        found = load(INSPECT / side)
        for path in sorted((INSPECT / side).glob("*.eval")):
            header = importers_inspect._header(path)
            task = header["eval"]["task"]
            mine = [score for score, item in zip(found.score, found.items, strict=True) if item.startswith(task)]
            assert np.mean(mine) == pytest.approx(header["results"]["scores"][0]["metrics"]["accuracy"]["value"])


def test_inspect_two_models_are_compared():
    """int4 loses s1 and s3 of six; metadata splits into strata."""
    found = _judged(INSPECT)
    one = stratum(found, "sums/all")
    assert (one.n, one.lost, one.gained) == (6, 2, 0)
    options = ImportOptions(strata=("hops", "topic.name"))
    with pytest.raises(UsageError, match="no field 'hops'"):  # the letters have no metadata
        _judged(INSPECT, options)


def _as_json(path):
    """The log of an .eval as the .json that Inspect writes: the header with its samples."""
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        parts = {name: json.loads(importers_inspect._member(archive, name, path)) for name in names}
    return parts["header.json"] | {"samples": [part for name, part in parts.items() if name.startswith("samples/")]}


@pytest.fixture
def log():
    """The log of bf16's sums."""
    (path,) = (INSPECT / "bf16").glob("*_sums_*.eval")
    return _as_json(path)


def test_inspect_json_and_eval_are_the_same(tmp_path, log):
    """Both formats, and an .eval zipped by deflate as older versions did, give the same outcomes."""
    (tmp_path / "log.json").write_text(json.dumps(log))
    with zipfile.ZipFile(tmp_path / "log.eval", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("header.json", json.dumps({key: log[key] for key in log if key != "samples"}))
        for at, sample in enumerate(log["samples"]):
            archive.writestr(f"samples/{at}.json", json.dumps(sample))
    (zstandard,) = (INSPECT / "bf16").glob("*_sums_*.eval")
    found = [load(path) for path in (zstandard, tmp_path / "log.json", tmp_path / "log.eval")]
    for other in found[1:]:
        assert sorted(zip(found[0].items, found[0].score, found[0].fingerprint, strict=True)) == sorted(
            zip(other.items, other.score, other.fingerprint, strict=True)
        )


def test_inspect_metadata_makes_strata_and_clusters(tmp_path, log):
    """Fields of a sample's metadata, nested ones too."""
    (tmp_path / "log.json").write_text(json.dumps(log))
    found = load(tmp_path / "log.json", ImportOptions(strata=("hops", "topic.name"), cluster="topic.name"))
    assert found.stratum[found.items.index("sums/s1")] == "hops=2,name=sum"
    assert found.cluster[0] == "sums/sum"


@pytest.mark.parametrize(
    ("value", "score"),
    [("C", 1.0), ("I", 0.0), ("P", 0.5), ("N", 0.0), (0.25, 0.25), (True, 1.0), ("0.75", 0.75), ("yes", 1.0)],
)
def test_inspect_values_become_scores(tmp_path, log, value, score):
    """Letters, numbers, booleans and words have the values that Inspect's own metrics give them."""
    for sample in log["samples"]:
        sample["scores"]["match"]["value"] = value
    (tmp_path / "log.json").write_text(json.dumps(log))
    assert set(load(tmp_path / "log.json").score) == {score}


def test_inspect_epochs_are_averaged(tmp_path, log):
    """Right in one epoch of two: one half."""
    for sample in log["samples"]:
        sample["scores"]["match"]["value"] = "C" if sample["epoch"] == 1 else "I"
    (tmp_path / "log.json").write_text(json.dumps(log))
    assert set(load(tmp_path / "log.json").score) == {0.5}


def test_inspect_a_sample_without_a_score_is_unanswered(tmp_path, log):
    """A sample that broke is missing, not wrong."""
    for sample in log["samples"]:
        if sample["id"] == "s0":
            sample["scores"] = {}
    (tmp_path / "log.json").write_text(json.dumps(log))
    found = load(tmp_path / "log.json")
    assert np.isnan(found.score[found.items.index("sums/s0")])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"status": "error"}, "status is 'error'"),
        ({"status": "started"}, "status is 'started'"),
        ({"invalidated": True}, "marked as invalid"),
        ({"samples": []}, "holds no answers"),
    ],
)
def test_inspect_an_unfinished_log_is_refused(tmp_path, log, change, says):
    """Only a log that ended in success and holds samples is judged."""
    (tmp_path / "log.json").write_text(json.dumps(log | change))
    with pytest.raises(NotComparable, match=says):
        load(tmp_path / "log.json")


def test_inspect_several_scorers_need_a_name(tmp_path, log):
    """Two scorers, or one with two values: --metric says which, and the message gives the choices."""
    for sample in log["samples"]:
        sample["scores"] |= {"other": {"value": {"a": 0.5, "b": 1}}}
    path = tmp_path / "log.json"
    path.write_text(json.dumps(log))
    with pytest.raises(UsageError, match="Give --metric, one of match, other"):
        load(path)
    with pytest.raises(UsageError, match=r"Give --metric, one of other\.a, other\.b"):
        load(path, ImportOptions(metric="other"))
    with pytest.raises(UsageError, match="no scorer 'third'"):
        load(path, ImportOptions(metric="third"))
    assert set(load(path, ImportOptions(metric="other.a")).score) == {0.5}


def test_inspect_messages_are_the_same_question_whatever_their_ids(tmp_path, log):
    """A chat's messages get new ids in every run; what they say is what was asked."""
    prints = []
    for run in ("x", "y"):
        for sample in log["samples"]:
            sample["input"] = [{"id": f"{run}{sample['id']}", "role": "user", "content": sample["id"]}]
        (tmp_path / "log.json").write_text(json.dumps(log))
        prints.append(load(tmp_path / "log.json").fingerprint.tolist())
    assert prints[0] == prints[1]
    assert len(set(prints[0])) == 6


def test_inspect_a_damaged_zip_is_refused(tmp_path):
    """Half an .eval is not judged."""
    (whole,) = (INSPECT / "bf16").glob("*_sums_*.eval")
    (tmp_path / "log.eval").write_bytes(whole.read_bytes()[:4000])
    with pytest.raises(NotComparable, match=r"not a whole \.eval"):
        load(tmp_path / "log.eval")


def test_inspect_an_eval_without_a_header_did_not_finish(tmp_path):
    """The header is written last: without it the evaluation was cut."""
    with zipfile.ZipFile(tmp_path / "log.eval", "w") as archive:
        archive.writestr("_journal/start.json", "{}")
    with pytest.raises(NotComparable, match="did not finish"):
        load(tmp_path / "log.eval")


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
        f"load(Path({str(LM_EVAL / 'bf16')!r})); "
        "print({'torch', 'lm_eval', 'inspect_ai', 'pyarrow', 'pandas'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=DATA.parent.parent
    )
    assert done.stdout.strip() == "set()"


def test_inspect_logs_of_several_models_are_refused(tmp_path, log):
    """One side is one model."""
    for name in ("one", "two"):
        log["eval"] |= {"model": name, "task": f"sums-{name}"}
        (tmp_path / f"{name}.json").write_text(json.dumps(log))
    with pytest.raises(UsageError, match=r"several models \(one, two\)"):
        load(tmp_path)


def test_inspect_a_task_run_twice_counts_with_its_newest_log(tmp_path, log):
    """The later `created` counts, whatever the files are called, and the comparison says so."""
    for name, created, value in (("a", "2026-02-01", "I"), ("b", "2026-01-01", "C")):
        log["eval"]["created"] = created
        for sample in log["samples"]:
            sample["scores"]["match"]["value"] = value
        (tmp_path / f"{name}.json").write_text(json.dumps(log))
    found = load(tmp_path)
    assert set(found.score) == {0.0}
    assert any("more than once" in note for note in found.notes)


@pytest.mark.parametrize(
    ("metric", "values"),
    [("match.x", "no scorer 'match.x'; there are: match"), ("match", None)],
    ids=["a key of a number", "the scorer itself"],
)
def test_inspect_a_key_needs_a_scorer_with_keys(tmp_path, log, metric, values):
    """--metric scorer.key over a scorer with one value: usage."""
    (tmp_path / "log.json").write_text(json.dumps(log))
    if values is None:
        assert load(tmp_path / "log.json", ImportOptions(metric=metric)).measure == {"sums": "match"}
        return
    with pytest.raises(UsageError, match=values):
        load(tmp_path / "log.json", ImportOptions(metric=metric))


@pytest.mark.parametrize("change", [{"samples": [{"id": "s0"}]}, {"eval": {}}, {"samples": [[]]}])
def test_inspect_json_of_another_shape_is_refused(tmp_path, log, change):
    """A sample without an input, a header without a task, a sample that is no object."""
    (tmp_path / "log.json").write_text(json.dumps(log | change))
    with pytest.raises(NotComparable):
        load(tmp_path / "log.json")
