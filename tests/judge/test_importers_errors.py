"""A baseline whose server failed and whose file says so in place of answers hides no loss of the candidate."""

from __future__ import annotations

import json

import pyarrow as pa
import pytest
from pyarrow import parquet
from written import compared, inspect_log, jsonl, lm_eval_sample, samples_of

FAILED = [at % 5 == 0 for at in range(400)]
BASE = [0.0 if failed or at % 7 == 0 else 1.0 for at, failed in enumerate(FAILED)]
WORSE = [0.0 if at % 7 == 0 or at % 6 == 1 else 1.0 for at in range(400)]  # loses a sixth, and gains what failed


def _answers(side, scores, error):
    failed = [side == "a" and one for one in FAILED]
    return [error if bad else f"{side}: 4{at}" for at, (bad, _) in enumerate(zip(failed, scores, strict=True))]


def _lm_eval(folder, scores, texts):
    made = (lm_eval_sample(at, one, resps=[[text]]) for at, (one, text) in enumerate(zip(scores, texts, strict=True)))
    return samples_of(folder, "jars", made)


def _inspect(folder, scores, texts):
    path = inspect_log(folder / "log.json", [[one] for one in scores])
    log = json.loads(path.read_text())
    for sample, text in zip(log["samples"], texts, strict=True):
        sample["output"] = {"choices": [{"message": {"role": "assistant", "content": text}}]}
    path.write_text(json.dumps(log))
    return path


def _nel(folder, scores, texts):
    rows = enumerate(zip(scores, texts, strict=True))
    lines = ({"problem_idx": at, "prompt": f"{at}?", "reward": one, "model_response": text} for at, (one, text) in rows)
    jsonl(folder / "results.jsonl", lines)
    (folder / "eval-1.json").write_text(json.dumps({"benchmark": {"name": "jars"}}))
    return folder


def _lighteval(folder, scores, texts):
    rows = enumerate(zip(scores, texts, strict=True))
    lines = [
        {"doc": {"query": f"{at}?"}, "metric": {"em": one}, "model_response": {"text": [text], "logprobs": []}}
        for at, (one, text) in rows
    ]
    place = folder / "details" / "m"
    place.mkdir(parents=True)
    parquet.write_table(pa.Table.from_pylist(lines), place / "details_jars_2026-11-26T12-00-00.parquet")
    return folder


def _table(folder, scores, texts):
    rows = enumerate(zip(scores, texts, strict=True))
    lines = ({"item": at, "score": one, "response": text} for at, (one, text) in rows)
    return jsonl(folder / "t.jsonl", lines)


@pytest.mark.parametrize("write", [_lm_eval, _inspect, _nel, _lighteval, _table])
@pytest.mark.parametrize("error", ["", "None", "ERROR", "#N/A", "Error code: 429 - the rate limit is reached"])
def test_errors_in_place_of_the_baselines_answers_hide_no_loss(tmp_path, capsys, write, error):
    """lm_eval writes an empty answer where a server failed; both would be wrong answers that the candidate gains."""
    sides = [
        write(tmp_path / side, scores, _answers(side, scores, error)) for side, scores in (("a", BASE), ("b", WORSE))
    ]
    assert compared(*sides) == 4
    assert compared(*sides, "--allow-unmatched", "0.25", "--json") != 0
    assert f"baseline answered 80 items with {error!r}, which looks like an error" in capsys.readouterr().out


@pytest.mark.parametrize("lacking", [{0}, {5}, {0, 5, 10}])
def test_rows_without_an_answer_do_not_hide_the_column_of_answers(tmp_path, lacking):
    """JSON lines of what failed may lack keys that others have, the first line as well."""
    paths = []
    for side, scores in (("a", BASE), ("b", WORSE)):
        rows = enumerate(zip(scores, _answers(side, scores, "Error: no connection"), strict=True))
        lines = [{"item": at, "score": one, "response": text} for at, (one, text) in rows]
        for at in lacking if side == "a" else ():
            del lines[at]["response"]
        paths.append(jsonl(tmp_path / f"{side}.jsonl", lines))
    assert compared(*paths) == 4


@pytest.mark.parametrize("write", [_lm_eval, _inspect, _nel, _lighteval, _table])
@pytest.mark.parametrize("said", ["", "not listed in the text", "I do not know that", "no"])
def test_what_both_models_say_or_say_of_themselves_is_an_answer(tmp_path, write, said):
    """The same text of the candidate, a refusal, a label."""
    sides = []
    for side in "ab":
        texts = _answers("a", BASE, said)
        texts = texts if side == "a" or said in {"I do not know that", "no"} else [*texts[:399], "other"]
        sides.append(write(tmp_path / side, BASE, [f"{side}: {one}" if one.startswith("a:") else one for one in texts]))
    assert compared(*sides) == 0


STATES = [
    ("status", "timeout", "ok"),
    ("status", "HTTP 503", "completed"),
    ("error", "Connection error: timed out", ""),
    ("answer", "", "4 lamps"),
    ("answer", "no answer", "4 lamps"),
    ("request_state", "aborted", "done"),
    ("finish_reason", "length", "stop"),
    ("error", "429 Too Many Requests", ""),
    ("error_message", "CUDA out of memory", ""),
    ("status_code", 500, 200),
    ("finish_reason", "error", "stop"),
]


@pytest.mark.parametrize(("column", "fault", "well"), STATES)
@pytest.mark.parametrize("answered", [True, False])
def test_a_column_that_tells_of_failures_of_the_baseline_hides_no_loss(tmp_path, capsys, column, fault, well, answered):
    """The failed items would be wrong answers that the candidate gains; what was written of an answer is left out."""
    sides = []
    for side, scores in (("a", BASE), ("b", WORSE)):
        lines = [{"item": at, "score": one, "response": f"{side} 4{at}"} for at, one in enumerate(scores)]
        for at, line in enumerate(lines):
            line[column] = fault if side == "a" and FAILED[at] else well
            if not answered:
                del line["response"]
        sides.append(jsonl(tmp_path / side / "t.jsonl", lines))
    assert compared(*sides) == 4
    assert compared(*sides, "--allow-unmatched", "0.25", "--json") != 0
    assert "baseline answered 80 items with" in capsys.readouterr().out


def test_a_failure_that_only_late_lines_tell_hides_no_loss(tmp_path):
    """The server failed after 1,200 answers, and no line before has the key."""
    sides = []
    for side in "ab":
        lines = [{"item": at, "score": int(at % 8 > 0 or side == "a")} for at in range(1200)]
        late = {"error": "Connection error."} if side == "a" else {}
        lines += [{"item": at, "score": int(side == "b")} | late for at in range(1200, 1350)]
        sides.append(jsonl(tmp_path / side / "t.jsonl", lines))
    assert compared(*sides) == 4


@pytest.mark.parametrize("column", ["status", "error", "answer", "number"])
def test_what_a_column_says_of_both_sides_or_of_wrong_answers_is_no_failure(tmp_path, column):
    """The verdict of tests, an error of the program that was generated, and what is right."""
    told = {"status": "failed", "error": "AssertionError: 3 != 4", "answer": "none", "number": 500}[column]
    sides = []
    for side in "ab":
        lines = [{"item": at, "score": one, "response": f"{side} 4{at}"} for at, one in enumerate(BASE)]
        for line in lines:
            line[column] = "passed" if line["score"] else told
        sides.append(jsonl(tmp_path / side / "t.jsonl", lines))
    assert compared(*sides) == 0


@pytest.mark.parametrize("by", ["time", "model_length", "content_filter"])
def test_a_limit_that_cuts_the_baselines_samples_alone_hides_no_loss(tmp_path, capsys, by):
    """A server with a smaller context, or a slower one; of the candidate it may be a loop, and counts as wrong."""
    sides = []
    for side, scores in (("a", BASE), ("b", WORSE)):
        path = _inspect(tmp_path / side, scores, _answers("b", scores, ""))
        log = json.loads(path.read_text())
        for at, sample in enumerate(log["samples"]):
            if FAILED[at] and side == "a":
                sample["output"]["choices"][0]["stop_reason"] = by
                if by == "time":
                    sample["limit"] = {"type": "time", "limit": 60}
        path.write_text(json.dumps(log))
        sides.append(path)
    assert compared(*sides) == 4
    assert compared(*sides, "--allow-unmatched", "0.25", "--json") != 0
    assert "baseline answered 80 items with '(cut by a limit: " in capsys.readouterr().out
    well = [float(at % 7 > 0) for at in range(400)]
    assert compared(_inspect(tmp_path / "well", well, _answers("b", well, "")), sides[0]) == 1


def test_a_word_for_nothing_beside_no_likelihoods_is_a_failure(tmp_path):
    """Details of lighteval may hold null where the likelihoods of a text would be."""
    sides = []
    for side, scores in (("a", BASE), ("b", WORSE)):
        folder = _lighteval(tmp_path / side, scores, _answers(side, scores, "N/A"))
        (file,) = folder.rglob("*.parquet")
        lines = parquet.read_table(file).to_pylist()
        for line in lines:
            line["model_response"]["logprobs"] = None
        parquet.write_table(pa.Table.from_pylist(lines), file)
        sides.append(folder)
    assert compared(*sides) == 4
