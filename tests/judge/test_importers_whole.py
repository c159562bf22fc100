"""A task that both folders name and neither can show is refused, not passed over."""

from __future__ import annotations

import json
import shutil

import pyarrow as pa
import pytest
from pyarrow import parquet
from written import DATE, compared, csv_of, inspect_log, jsonl, lm_eval_sample, samples_of

SCORES = [float(at % 4 > 0) for at in range(200)]
WORSE = [float(at % 4 > 1) for at in range(200)]


_RIGHT = ("target", "gold", "reference", "expected", "expected_answer", "correct_answer", "ground_truth", "Answer_Key")


def _lm_eval(folder, task, scores, tasks=("good", "bad")):
    samples_of(folder / "m", task, [lm_eval_sample(at, one, doc_hash=f"{task}{at}") for at, one in enumerate(scores)])
    summary = {"configs": {one: {} for one in tasks}, "config": {"model": "hf"}}
    (folder / "m" / f"results_{DATE}.json").write_text(json.dumps(summary))


def _inspect(folder, task, scores):
    inspect_log(folder / task / "log.json", [[one] for one in scores], task=task)


def _nel(folder, task, scores):
    lines = ({"problem_idx": at, "prompt": f"{task} {at}", "reward": one} for at, one in enumerate(scores))
    jsonl(folder / task / "results.jsonl", lines)
    (folder / task / "eval-1.json").write_text(json.dumps({"benchmark": {"name": task}}))


def _lighteval(folder, task, scores):
    place = folder / "details" / "m" / task
    place.mkdir(parents=True)
    lines = [{"doc": {"query": f"{task} {at}"}, "metric": {"em": one}} for at, one in enumerate(scores)]
    parquet.write_table(pa.Table.from_pylist(lines), place / f"details_{task}_2026-11-26T12-00-00.parquet")


def _sides(tmp_path, write):
    """Two folders with a task that is alike on both sides but for one item, and one that gets worse."""
    for side, one, two in (("base", SCORES, SCORES), ("side", [0.0, 0.0, *SCORES[2:]], WORSE)):
        write(tmp_path / side, "good", one)
        write(tmp_path / side, "bad", two)
    return tmp_path / "base", tmp_path / "side"


def _cut(pattern, change):
    def apply(folder):
        for file in folder.rglob(pattern):
            change(file)

    return apply


def _no_samples(file):
    file.write_text(json.dumps(json.loads(file.read_text()) | {"samples": []}))


@pytest.mark.parametrize(
    ("write", "spoil", "code"),
    [
        (_lm_eval, _cut("samples_bad*", lambda file: file.unlink()), 4),
        (_lm_eval, _cut("samples_bad*", lambda file: file.rename(f"{file}.gz")), 4),
        (_inspect, _cut("bad/log.json", _no_samples), 4),
        (_nel, _cut("bad/eval-*.json", lambda file: file.unlink()), 2),
        (_nel, _cut("bad/results.jsonl", lambda file: file.unlink()), 2),
        (_nel, _cut("bad/results.jsonl", lambda file: file.write_text("")), 4),
    ],
)
def test_a_task_of_which_half_is_there_is_refused(tmp_path, write, spoil, code):
    """Lost on both sides alike, so that every item that is left matches."""
    sides = _sides(tmp_path, write)
    assert compared(*sides) == 1
    for one in sides:
        spoil(one)
    assert compared(*sides) == code


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("suffix", ["eval", "json"])
@pytest.mark.parametrize("write", [_lm_eval, _nel, _lighteval])
def test_a_folder_of_several_tools_is_refused(tmp_path, capsys, write, suffix, indent):
    """What only one of them asked would not count, and it may be the task that got worse."""
    sides = _sides(tmp_path, write)
    for side, scores in zip(sides, (SCORES, WORSE), strict=True):
        log = inspect_log(side / "logs" / f"log.{suffix}", [[one] for one in scores])
        log.write_text(json.dumps({"version": 2} | json.loads(log.read_text()), indent=indent))
    assert compared(*sides) == 2
    assert "holds results of several tools" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["no JSON", "{", '{\n  "eval": 1\n}', '["eval", "status"]', "[" * 5000, ""])
@pytest.mark.parametrize("write", [_lm_eval, _nel, _lighteval])
def test_other_json_beside_the_results_of_a_tool_is_passed_over(tmp_path, write, text):
    """Notes, settings, half a file: none of it is a log of Inspect."""
    sides = _sides(tmp_path, write)
    for side in sides:
        (side / "notes.json").write_text(text)
    assert compared(*sides) == 1


@pytest.mark.parametrize("suffix", [".gz", ".zst", ".zip", ".part"])
@pytest.mark.parametrize("write", [_lm_eval, _inspect, _nel, _lighteval])
def test_a_task_that_is_packed_on_both_sides_is_refused(tmp_path, write, suffix):
    """No summary is there that names it; packed beside what is read it does not matter."""
    sides = _sides(tmp_path, write)
    for one in sides:
        for file in [*one.rglob("results_*.json"), *one.glob("bad/eval-*.json")]:
            file.unlink()
        for file in [*one.rglob("*_bad_*"), *one.glob("bad/*")]:
            shutil.copy(file, f"{file}{suffix}")
    if write is not _nel:
        assert compared(*sides) == 1
    for file in [one for side in sides for one in side.rglob(f"*{suffix}")]:
        file.with_suffix("").unlink()
    assert compared(*sides) == 4


@pytest.mark.parametrize(("write", "place"), [(_inspect, ""), (_nel, ""), (_lighteval, "details/m")])
def test_a_folder_behind_a_link_is_read(tmp_path, write, place):
    """Results in a cache, with a link to their folder; a link to what is read already gives nothing twice."""
    sides = _sides(tmp_path, write)
    for one in sides:
        store = tmp_path / f"{one.name} of the cache"
        shutil.move(one / place / "bad", store)
        (one / place / "bad").symlink_to(store)
        (one / "latest").symlink_to(one, target_is_directory=True)
    assert compared(*sides) == 1


@pytest.mark.parametrize(
    ("column", "words", "code"),
    [
        ("prompt", (), 4),
        ("Question", (), 4),
        *((one, (), 4) for one in _RIGHT),
        ("note", (), 0),
        ("answer", (), 0),
        ("prompt", ("--prompt", "item"), 0),
    ],
)
def test_ids_that_are_row_numbers_of_another_selection_are_refused(tmp_path, column, words, code):
    """The candidate's unanswered rows were dropped, and the others numbered anew: they are easier questions."""
    easy = [at for at in range(655) if at % 12]
    base = csv_of(tmp_path / "base.csv", f"item,score,{column}", [f"{at},{min(at % 12, 1)},q{at}" for at in range(600)])
    side = csv_of(tmp_path / "side.csv", f"item,score,{column}", [f"{at},1,q{one}" for at, one in enumerate(easy)])
    assert compared(base, side, *words) == code


@pytest.mark.parametrize("column", ["target", "question"])
def test_a_few_other_questions_that_the_candidate_gains_hide_no_loss(tmp_path, capsys, column):
    """They are named and taken as lost: of the others it loses more than the margin."""
    told = [f"q{at}" for at in range(2000)]
    base = csv_of(
        tmp_path / "base.csv", f"item,score,{column}", [f"{at},{int(at >= 300)},{one}" for at, one in enumerate(told)]
    )
    lines = [f"{at},{int(at < 20 or at >= 340)},{one}{'!' * (at < 20)}" for at, one in enumerate(told)]
    side = csv_of(tmp_path / "side.csv", f"item,score,{column}", lines)
    assert compared(base, side, "--margin", "0.02", "--json") == 3
    assert "20 asked differently" in capsys.readouterr().out


def test_a_few_edited_questions_and_a_column_of_one_side_are_tolerated(tmp_path):
    """As many as may be unmatched: one in a hundred."""
    told = [f"q{at}" for at in range(300)]
    base = csv_of(tmp_path / "base.csv", "item,score,prompt,gold", [f"{one},1,{one},x{one}" for one in told])
    for few, code in ((3, 0), (4, 4)):
        lines = [f"{one},{int(at > 0)},{one if at >= few else 'Q'}" for at, one in enumerate(told)]
        assert compared(base, csv_of(tmp_path / "side.csv", "item,score,prompt", lines)) == code
