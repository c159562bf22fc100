"""Logs of Inspect, as that tool wrote them, become outcomes and verdicts."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from making import stratum
from paths import DATA
from written import compared, inspect_log, judged_pair

from harness.errors import NotComparable, UsageError
from harness.judge.importers import ImportOptions, inspect, load

INSPECT = DATA / "inspect"


def _as_json(path):
    """The log of an .eval as the .json that Inspect writes: the header with its samples."""
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        parts = {name: json.loads(inspect._member(archive, name, path)) for name in names}
    return parts["header.json"] | {"samples": [part for name, part in parts.items() if name.startswith("samples/")]}


@pytest.fixture
def log():
    """The log of bf16's sums."""
    (path,) = (INSPECT / "bf16").glob("*_sums_*.eval")
    return _as_json(path)


def test_logs_are_items_by_task():
    """Two epochs each: ten items, an item's score the mean of its epochs, choices give the chance."""
    found = load(INSPECT / "bf16")
    scores = dict(zip(found.items, found.score.tolist(), strict=True))
    assert scores == {f"letters/{at}": 1.0 for at in range(1, 5)} | {f"sums/s{at}": float(at != 5) for at in range(6)}
    assert dict(zip(found.items, found.chance.tolist(), strict=True))["letters/1"] == 0.25
    assert found.measure == {"letters": "choice", "sums": "match"}


def test_scores_are_what_inspect_printed():
    """The mean of a task's items is the accuracy in the log's own results."""
    for side in ("bf16", "int4"):
        found = load(INSPECT / side)
        for path in sorted((INSPECT / side).glob("*.eval")):
            header = inspect._header(path)
            task = header["eval"]["task"]
            mine = [score for score, item in zip(found.score, found.items, strict=True) if item.startswith(task)]
            assert np.mean(mine) == pytest.approx(header["results"]["scores"][0]["metrics"]["accuracy"]["value"])


def test_two_models_are_compared():
    """int4 loses s1 and s3 of six; metadata splits into strata."""
    found = judged_pair(INSPECT)
    one = stratum(found, "sums/all")
    assert (one.n, one.lost, one.gained) == (6, 2, 0)
    options = ImportOptions(strata=("hops", "topic.name"))
    with pytest.raises(UsageError, match="no field 'hops'"):  # the letters have no metadata
        judged_pair(INSPECT, options)


def test_json_and_eval_are_the_same(tmp_path, log):
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


def test_the_newest_log_is_so_by_its_time_wherever_it_was_written(tmp_path, capsys):
    """09:00 at an offset of -08:00 is 17:00 in UTC, after 15:00 there."""
    base = inspect_log(tmp_path / "base.json", [["C"]] * 300, created="2026-03-01T10:00:00+00:00")
    for name, grade, created in (("old", "C", "2026-03-01T15:00:00+00:00"), ("new", "I", "2026-03-01T09:00:00-08:00")):
        inspect_log(tmp_path / "int4" / f"{name}.json", [[grade]] * 300, model="int4", created=created)
    assert compared(base, tmp_path / "int4", "--json") == 1
    assert "the newest counts (new.json)" in capsys.readouterr().out


def test_metadata_makes_strata_and_clusters(tmp_path, log):
    """Fields of a sample's metadata, nested ones too."""
    (tmp_path / "log.json").write_text(json.dumps(log))
    found = load(tmp_path / "log.json", ImportOptions(strata=("hops", "topic.name"), cluster="topic.name"))
    assert found.stratum[found.items.index("sums/s1")] == "hops=2,name=sum"
    assert found.cluster[0] == "sums/sum"


@pytest.mark.parametrize(
    ("value", "score"),
    [("C", 1.0), ("I", 0.0), ("P", 0.5), ("N", 0.0), (0.25, 0.25), (True, 1.0), ("0.75", 0.75), ("yes", 1.0)],
)
def test_values_become_scores(tmp_path, log, value, score):
    """Letters, numbers, booleans and words have the values that Inspect's own metrics give them."""
    for sample in log["samples"]:
        sample["scores"]["match"]["value"] = value
    (tmp_path / "log.json").write_text(json.dumps(log))
    assert set(load(tmp_path / "log.json").score) == {score}


def test_epochs_are_averaged(tmp_path, log):
    """Right in one epoch of two: one half."""
    for sample in log["samples"]:
        sample["scores"]["match"]["value"] = "C" if sample["epoch"] == 1 else "I"
    (tmp_path / "log.json").write_text(json.dumps(log))
    assert set(load(tmp_path / "log.json").score) == {0.5}


def test_a_sample_without_a_score_is_unanswered(tmp_path, log):
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
        ({"samples": []}, "holds 0 of .* samples"),
        ({"samples": [], "results": {"completed_samples": None, "total_samples": None}}, "holds 0 of its samples"),
    ],
)
def test_an_unfinished_log_is_refused(tmp_path, log, change, says):
    """Only a log that ended in success and holds samples is judged."""
    (tmp_path / "log.json").write_text(json.dumps(log | change))
    with pytest.raises(NotComparable, match=says):
        load(tmp_path / "log.json")


def test_several_scorers_need_a_name(tmp_path, log):
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


def test_messages_are_the_same_question_whatever_their_ids(tmp_path, log):
    """A chat's messages get new ids in every run; what they say is what was asked."""
    prints = []
    for run in ("x", "y"):
        for sample in log["samples"]:
            sample["input"] = [{"id": f"{run}{sample['id']}", "role": "user", "content": sample["id"]}]
        (tmp_path / "log.json").write_text(json.dumps(log))
        prints.append(load(tmp_path / "log.json").fingerprint.tolist())
    assert prints[0] == prints[1]
    assert len(set(prints[0])) == 6


def test_a_damaged_zip_is_refused(tmp_path):
    """Half an .eval is not judged."""
    (whole,) = (INSPECT / "bf16").glob("*_sums_*.eval")
    (tmp_path / "log.eval").write_bytes(whole.read_bytes()[:4000])
    with pytest.raises(NotComparable, match=r"not a whole \.eval"):
        load(tmp_path / "log.eval")


def test_an_eval_without_a_header_did_not_finish(tmp_path):
    """The header is written last: without it the evaluation was cut."""
    with zipfile.ZipFile(tmp_path / "log.eval", "w") as archive:
        archive.writestr("_journal/start.json", "{}")
    with pytest.raises(NotComparable, match="did not finish"):
        load(tmp_path / "log.eval")


def test_logs_of_several_models_are_refused(tmp_path, log):
    """One side is one model."""
    for name in ("one", "two"):
        log["eval"] |= {"model": name, "task": f"sums-{name}"}
        (tmp_path / f"{name}.json").write_text(json.dumps(log))
    with pytest.raises(UsageError, match=r"several models \(model: one and two\)"):
        load(tmp_path)


def test_an_older_log_of_another_model_is_not_passed_over(tmp_path):
    """Inspect writes the logs of all models to one folder: the newest of a task may be the candidate's."""
    for name, created in (("bf16", "2026-03-01"), ("int4", "2026-03-02")):
        inspect_log(tmp_path / f"{name}.json", [["C"]] * 3, model=name, created=created)
    with pytest.raises(UsageError, match=r"several models \(model: bf16 and int4\)"):
        load(tmp_path)


@pytest.mark.parametrize("status", ["error", "cancelled", "started"])
@pytest.mark.parametrize("count", [0, 5, 9])
def test_a_failed_log_beside_its_retry_does_not_count(tmp_path, status, count):
    """`inspect eval-retry` writes a new log, which holds the samples of the failed one, and leaves that one."""
    failed = inspect_log(tmp_path / "a.json", [["I"]] * count, created="2026-03-01")
    failed.write_text(json.dumps(json.loads(failed.read_text()) | {"status": status}))
    inspect_log(tmp_path / "b.json", [["C"]] * 9, created="2026-03-02")
    found = load(tmp_path)
    assert found.score.tolist() == [1.0] * 9
    assert [f"a.json: its status is '{status}', and a later log of jars counts" in one for one in found.notes] == [True]


@pytest.mark.parametrize(
    ("failed", "error", "says"),
    [
        ({"created": "2026-03-03"}, UsageError, "with other items"),
        ({"created": "2026-03-02"}, UsageError, "with other items"),
        ({"created": ""}, UsageError, "with other items"),
        ({"task_args": {"hops": 2}}, NotComparable, "its status is 'error'"),
        ({"task": "cups"}, NotComparable, "its status is 'error'"),
        ({"config": {"limit": 9}}, UsageError, r"different settings \(config.limit\)"),
        ({"model": "other"}, UsageError, "several models"),
    ],
)
def test_a_failed_log_without_its_retry_is_refused(tmp_path, failed, error, says):
    """The newest one, or one of another task, of other arguments or settings, or of another model."""
    told = {"created": "2026-03-01"} | failed
    path = inspect_log(tmp_path / "a.json", [["C"]] * 5, **told)
    inspect_log(tmp_path / "b.json", [["C"]] * 9, created="2026-03-02")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"status": "error"}))
    with pytest.raises(error, match=says):
        load(tmp_path)


def test_a_task_run_twice_counts_with_its_newest_log(tmp_path, log):
    """The later `created` counts, whatever the files are called, and the comparison says so."""
    for name, created, value in (("a", "2026-02-01", "I"), ("b", "2026-01-01", "C")):
        log["eval"]["created"] = created
        for sample in log["samples"]:
            sample["scores"]["match"]["value"] = value
        (tmp_path / f"{name}.json").write_text(json.dumps(log))
    found = load(tmp_path)
    assert set(found.score) == {0.0}
    assert any("was run 2 times; the newest counts (a.json)" in note for note in found.notes)
    log["eval"]["created"] = "2026-03-01"
    log["samples"] = [one for one in log["samples"] if one["id"] != "s5"]
    log["results"]["completed_samples"] = len(log["samples"])
    (tmp_path / "c.json").write_text(json.dumps(log))
    with pytest.raises(UsageError, match="was run with other items"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("metric", "values"),
    [("match.x", "no scorer 'match.x'; there are: match"), ("match", None)],
    ids=["a key of a number", "the scorer itself"],
)
def test_a_key_needs_a_scorer_with_keys(tmp_path, log, metric, values):
    """--metric scorer.key over a scorer with one value: usage."""
    (tmp_path / "log.json").write_text(json.dumps(log))
    if values is None:
        assert load(tmp_path / "log.json", ImportOptions(metric=metric)).measure == {"sums": "match"}
        return
    with pytest.raises(UsageError, match=values):
        load(tmp_path / "log.json", ImportOptions(metric=metric))


@pytest.mark.parametrize("change", [{"samples": [{"id": "s0"}]}, {"eval": {}}, {"samples": [[]]}])
def test_json_of_another_shape_is_refused(tmp_path, log, change):
    """A sample without an input, a header without a task, a sample that is no object."""
    (tmp_path / "log.json").write_text(json.dumps(log | change))
    with pytest.raises(NotComparable):
        load(tmp_path / "log.json")


def _two(folder: Path, law: str) -> Path:
    """Two Inspect logs of one task that differ in an argument."""
    inspect_log(folder / "astro.json", [["C"]] * 200, task_args={"subject": "astro", "shots": 5}, created="2026-03-02")
    inspect_log(folder / "law.json", [[law]] * 200, task_args={"subject": "law", "shots": 5})
    return folder


def test_logs_of_one_task_with_other_arguments_are_judged_apart(tmp_path):
    """The older of the two is not dropped: what differs makes strata, and the loss in one is seen."""
    before, after = _two(tmp_path / "a", "C"), _two(tmp_path / "b", "I")
    found = load(before)
    assert len(found) == 400
    assert set(found.stratum.names) == {"subject=astro", "subject=law"}
    assert compared(before, before) == 0
    assert compared(before, after) == 1


def test_logs_of_one_task_with_other_settings_are_refused(tmp_path):
    """A smoke test of 10 items is not a repetition of the whole run."""
    inspect_log(tmp_path / "a.json", [["C"]] * 10, config={"limit": 10}, created="2026-03-02")
    inspect_log(tmp_path / "b.json", [["C"]] * 20)
    with pytest.raises(UsageError, match=r"different settings \(config.limit\)"):
        load(tmp_path)


def test_logs_of_two_variants_of_one_model_are_refused(tmp_path):
    """A model quantized as it is loaded has the baseline's name: its later log would replace the baseline's."""
    inspect_log(tmp_path / "a.json", [["C"]] * 10, model_args={})
    inspect_log(tmp_path / "b.json", [["I"]] * 10, model_args={"load_in_4bit": True}, created="2026-03-02")
    with pytest.raises(UsageError, match=r"different settings \(model_args\)"):
        load(tmp_path)
    inspect_log(tmp_path / "b.json", [["I"]] * 10, model_args={"load_in_4bit": True}, task="cups")
    with pytest.raises(UsageError, match=r"several models \(model_args: {'load_in_4bit': True} and {}\)"):
        load(tmp_path)


def test_sides_with_other_task_arguments_are_not_comparable(tmp_path):
    """Five shots against none are two measurements, even over the same questions."""
    sides = [inspect_log(tmp_path / f"{n}.json", [["C"]] * 100, task_args={"shots": n}) for n in (0, 5)]
    assert compared(*sides) == 4
    assert compared(sides[0], sides[0]) == 0


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
    log = inspect_log(tmp_path / "a.json", [["C", "C", "I", "I"]], epochs=4, config={"epochs_reducer": [reducer]})
    found = load(log)
    assert found.score.tolist() == pytest.approx([score])
    epochs = "" if reducer.startswith("pass_at") else " of 4"
    assert found.measure == {"jars": "match" if reducer == "mean" else f"match,{reducer}{epochs}"}


@pytest.mark.parametrize("name", ["mine", "at_least_0"])
def test_an_unknown_reducer_is_named(tmp_path, name):
    """A reducer of the user's own cannot be computed here; at least none are right of any answers."""
    with pytest.raises(UsageError, match=f"reduces epochs by '{name}'"):
        load(inspect_log(tmp_path / "a.json", [["C", "I"]], config={"epochs_reducer": [name]}))


@pytest.mark.parametrize("reducer", ["mean", "median", "max", "pass_at_1"])
def test_an_epoch_that_ended_in_an_error_is_missing(tmp_path, reducer):
    """An item that lacks one is unanswered: the others may be those in which the model did not run away."""
    config = {"epochs_reducer": reducer}
    scores = [["C", None, "C", "I"], ["C", None, None, None], ["C"] * 4, ["C", "I"]]
    found = load(inspect_log(tmp_path / "a.json", scores, epochs=4, config=config))
    assert np.array_equal(found.score, [np.nan, np.nan, 1.0, np.nan], equal_nan=True)
    assert any("3 items have no score in some of their 4 epochs" in note for note in found.notes)
    base = inspect_log(tmp_path / "base.json", [["C", "C"]] * 200, epochs=2, config=config)
    for missing, code in ((0, 0), (100, 4)):
        scores = [["C", None]] * missing + [["C", "C"]] * (200 - missing)
        side = inspect_log(tmp_path / f"{missing}.json", scores, epochs=2, config=config)
        assert compared(base, side, "--allow-identical") == code


def test_a_sample_that_failed_is_unanswered_though_it_was_scored(tmp_path):
    """With score_on_error Inspect scores what was there when a server failed: no loss of the model, on either side."""
    path = inspect_log(tmp_path / "a.json", [["C"]] * 3)
    log = json.loads(path.read_text())
    log["samples"][1] |= {"error": {"message": "no connection"}, "scores": {"match": {"value": "I"}}}
    path.write_text(json.dumps(log))
    assert np.array_equal(load(path).score, [1.0, np.nan, 1.0], equal_nan=True)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({}, 1),
        ({"explanation": "Grade not found in model output: As a grader,"}, 4),
        ({"error": "429 rate limit"}, 4),
    ],
)
def test_a_grader_or_server_that_failed_hides_no_loss(tmp_path, change, code):
    """Inspect scores `I` where its grader gave no grade: of the baseline's answers, this is no mistake of the model."""
    sides = {"b": [["C"]] * 500, "c": [["I" if at % 10 == 0 else "C"] for at in range(500)]}
    paths = [inspect_log(tmp_path / f"{name}.json", scores) for name, scores in sides.items()]
    log = json.loads(paths[0].read_text())
    for sample in log["samples"]:
        sample["output"] = {"choices": [{"message": {"content": f"jar {sample['id']}"}}]}
        if change and sample["id"] % 10 == 1:
            sample["output"]["error"] = change.get("error")
            sample["scores"]["match"] = {"value": "I", "explanation": change.get("explanation")}
    paths[0].write_text(json.dumps(log))
    assert compared(*paths) == code


@pytest.mark.parametrize(
    ("options", "roles", "code"),
    [
        ({}, None, 4),
        ({"model": None}, {"critic": {"model": "judge"}}, 4),
        ({}, {"grader": {"model": "judge"}}, 0),
        ({"model": "judge"}, None, 0),
        ({"model_role": "critic"}, {"critic": {"model": "judge"}}, 0),
    ],
)
def test_models_that_grade_themselves_are_not_compared(tmp_path, options, roles, code):
    """Inspect's graders are the model that is evaluated, unless one is named: two graders are two scales."""
    header = {"scorers": [{"name": "model_graded_qa", "options": options}], "model_roles": roles}
    paths = [inspect_log(tmp_path / f"{name}.json", [["C"]] * 300, **header, model=name) for name in ("b", "c")]
    assert compared(*paths, "--allow-identical") == code


@pytest.mark.parametrize("sides", ["bc", "cb"])
def test_a_model_that_grades_itself_is_not_compared_with_one_that_another_grades(tmp_path, sides):
    """`--model-role grader=...` that was forgotten on one side is in the log of the other alone."""
    header = {"scorers": [{"name": "model_graded_qa", "options": {}}]}
    roles = {"b": {}, "c": {"model_roles": {"grader": {"model": "judge"}}}}
    paths = [inspect_log(tmp_path / f"{one}.json", [["C"]] * 300, **header, **roles[one], model=one) for one in sides]
    assert compared(*paths, "--allow-identical") == 4


def test_a_sample_that_a_person_ended_is_unanswered_and_an_edited_score_is_said(tmp_path):
    """Both are scored as they stood; neither is what the model did, on one side alone it may hide a loss."""
    path = inspect_log(tmp_path / "a.json", [["I"]] * 3)
    log = json.loads(path.read_text())
    log["samples"][0]["limit"] = {"type": "operator", "limit": 1}
    log["samples"][1]["limit"] = {"type": "token", "limit": 9}
    log["samples"][2]["scores"]["match"] = {"value": "C", "history": [{"value": "I"}, {"value": "C"}]}
    path.write_text(json.dumps(log))
    found = load(path)
    assert np.array_equal(found.score, [np.nan, 0.0, 1.0], equal_nan=True)
    assert [note.rpartition(": ")[2] for note in found.notes] == [
        "1 samples have scores that were edited after the run"
    ]


def test_an_epoch_given_twice_is_refused(tmp_path):
    """Two answers to one epoch of one sample are two runs mixed together."""
    log = json.loads(inspect_log(tmp_path / "a.json", [["C"]]).read_text())
    (tmp_path / "a.json").write_text(json.dumps(log | {"samples": log["samples"] * 2}))
    with pytest.raises(NotComparable, match="epoch 1 twice"):
        load(tmp_path / "a.json")


def test_other_json_next_to_logs_is_passed_over_and_half_a_log_is_not(tmp_path):
    """Listings and settings are not logs; a file that is not JSON could be one cut short."""
    inspect_log(tmp_path / "log.json", [["C"]])
    for name, text in (("listing.json", '{"log.json": {"task": "jars", "status": "success"}}'), ("logs.json", "[]")):
        (tmp_path / name).write_text(text)
    assert len(load(tmp_path)) == 1
    (tmp_path / "cut.json").write_text((tmp_path / "log.json").read_text()[:50])
    with pytest.raises(NotComparable, match=r"cut\.json is not JSON"):
        load(tmp_path)


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


@pytest.mark.parametrize("value", [0.5, {"cer": 0.5}])
def test_a_scorer_of_which_less_is_better_is_no_score(tmp_path, log, value):
    """By its own name, or by that of its key."""
    for sample in log["samples"]:
        sample["scores"] = {"wer": {"value": value}}
    (tmp_path / "a.json").write_text(json.dumps(log))
    with pytest.raises(UsageError, match="is not a score: less of it is better"):
        load(tmp_path)


@pytest.mark.parametrize(("reducer", "code"), [("max", 4), ("at_least_1", 4), ("mean", 1), ("pass_at_1", 1)])
def test_more_epochs_do_not_hide_a_loss(tmp_path, reducer, code):
    """A candidate that is right once in eight, with eight epochs, is no match for one that is right each time."""
    config = {"epochs_reducer": [reducer]}
    base = inspect_log(tmp_path / "a.json", [[1.0]] * 200, config=config)
    side = inspect_log(tmp_path / "b.json", [[1.0] + [0.0] * 7] * 200, epochs=8, config=config)
    assert compared(base, side) == code


@pytest.mark.parametrize(("reducer", "code"), [("mode", 4), ("median", 4), ("mean", 1)])
def test_a_vote_of_several_epochs_is_no_match_for_one(tmp_path, reducer, code):
    """Right in three epochs of five is right by vote, and in one epoch it is so in three items of five."""
    config = {"epochs_reducer": [reducer]}
    base = inspect_log(tmp_path / "a.json", [[1.0]] * 200, config=config)
    side = inspect_log(tmp_path / "b.json", [[1.0] * 3 + [0.0] * 2] * 200, epochs=5, config=config)
    assert compared(base, side) == code


def test_a_log_of_two_scorers_is_refused(tmp_path, log):
    """Items that another scorer scored would be compared with those of the first."""
    first, *_, last = log["samples"]
    for sample in log["samples"]:
        sample["scores"] = {"lenient" if sample is first else "strict": {"value": 1.0}}
    (tmp_path / "a.json").write_text(json.dumps(log))
    with pytest.raises(NotComparable, match="is scored by strict, others of its task by lenient"):
        load(tmp_path)
    first["scores"] |= last["scores"]
    (tmp_path / "a.json").write_text(json.dumps(log))
    assert set(load(tmp_path, ImportOptions(metric="strict")).score) == {1.0}


@pytest.mark.parametrize("completed", [0, 1])
def test_a_log_with_fewer_samples_than_it_counts_is_refused(tmp_path, log, completed):
    """Two sides that were cut alike would be compared by what is left, also if those that are gone had failed."""
    count = log["results"]["completed_samples"]
    log["results"]["completed_samples"] -= completed
    log["samples"].pop()
    (tmp_path / "a.json").write_text(json.dumps(log))
    with pytest.raises(NotComparable, match=f"holds {count - 1} of {count} samples"):
        load(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        lambda log: log["samples"][0].update(scores=["C"]),
        lambda log: log["samples"][0].update(scores={"match": "C"}),
        lambda log: log["samples"][0].update(metadata=["a"]),
        lambda log: log["samples"][0].update(input=["a", "b"]),
        lambda log: log["samples"][0].update(choices=3),
        lambda log: log["eval"].update(task_args=["a"]),
        lambda log: log["eval"].update(config={"epochs": "many"}),
        lambda log: log["eval"].update(config=["a"]),
        lambda log: log["results"].update(scores=["a"]),
    ],
)
def test_values_of_another_type_are_a_sentence(tmp_path, log, change):
    """Not a traceback: the file and what to do."""
    log["eval"]["config"].pop("epochs_reducer", None)
    change(log)
    (tmp_path / "a.json").write_text(json.dumps(log))
    with pytest.raises(NotComparable, match=r"a.json|holds values of another type than its format has"):
        load(tmp_path)
