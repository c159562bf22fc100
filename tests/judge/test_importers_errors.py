"""A baseline whose server failed and whose file says so in place of answers hides no loss of the candidate."""

from __future__ import annotations

import json
import random

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
@pytest.mark.parametrize("error", ["", "None", "API Error", "#N/A", "Error code: 429 - the rate limit is reached"])
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
    ("finish_reason", "abort", "stop"),
    ("finish_reason", {"type": "length", "length": 256}, {"type": "stop"}),
    ("finishReason", "max_output_tokens", "stop"),
    ("error", "502 Bad Gateway", ""),
    ("error", 503, None),
    ("error", "Server disconnected without sending a response.", ""),
    ("error_type", "APITimeoutError", ""),
    ("errorMessage", "This model's maximum context length is 4096 tokens.", ""),
    ("is_error", True, False),
    ("err", "server_error", ""),
    ("failure_reason", "timeout", ""),
    ("is_error", 1, 0),
    ("error", "quota exceeded", ""),
    ("done_reason", "length", "stop"),
    ("stop_type", "limit", "eos"),
    ("stopped_limit", True, False),
    ("finish_reason", "FinishReason.LENGTH", "FinishReason.STOP"),
    ("finish_reason", "FINISH_REASON_MAX_TOKENS", "FINISH_REASON_STOP"),
    ("finish_reason", "time_limit", "eos"),
    ("finish_reason", "insufficient_system_resource", "stop"),
    ("meta.status_code", 503, 200),
    ("meta.is_error", True, False),
    ("meta.error", 503, None),
    ("meta.answer", "None", "4 lamps"),
    ("meta.finish_reason", "model_length", "stop"),
    ("response.truncated", True, False),
    ("response.finish_reason.type", "length", "stop"),
    ("response.status_code", 503, 200),
    ("response.error.code", 503, None),
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


WITH_NUMBERS = [
    '{{"error":"timeout","code":5{}}}',
    "This model's maximum context length is 4096 tokens. However, you requested {} tokens ({} in the messages).",
    "Rate limit reached for m: Limit 90000, Used {}, Requested {}. Please try again in {}ms.",
    "Request timed out after {}.{} seconds",
]


@pytest.mark.parametrize("column", ["response", "error"])
@pytest.mark.parametrize("fault", WITH_NUMBERS)
def test_errors_that_hold_other_numbers_each_time_hide_no_loss(tmp_path, column, fault):
    """What was asked, used or waited for; beside the column of errors the answer is empty."""
    sides = []
    for side, scores in (("a", BASE), ("b", WORSE)):
        lines = [{"item": at, "score": one, "response": f"{side} 4{at}"} for at, one in enumerate(scores)]
        for at, line in enumerate(lines):
            failed = side == "a" and FAILED[at]
            line["response"] = "" if failed else line["response"]
            line[column] = fault.format(at + 3600, at, at * 7) if failed else line.get(column, "")
        sides.append(jsonl(tmp_path / side / "t.jsonl", lines))
    assert compared(*sides) == 4


@pytest.mark.parametrize("low", [0.2, 0.1, 0.04])
@pytest.mark.parametrize("column", ["response", "error"])
def test_a_grade_above_zero_makes_an_error_no_answer(tmp_path, column, low):
    """A judge's lowest grade may be 1 of 10, and characters in common with the reference give a little."""
    sides = []
    for side, scores in (("a", BASE), ("b", WORSE)):
        lines = [{"item": at, "score": one or low, "response": f"{side} 4{at}"} for at, one in enumerate(scores)]
        for at, line in enumerate(lines):
            fine = line["response"] if column == "response" else ""
            line[column] = "Connection error." if side == "a" and FAILED[at] else fine
        sides.append(jsonl(tmp_path / side / "t.jsonl", lines))
    assert compared(*sides) == 4


def test_an_error_that_is_right_once_by_luck_is_no_answer(tmp_path):
    """Where `retry after 20` was asked for 20; a template that is right as often as the candidate's is an answer."""
    sides = []
    for side, scores in (("a", BASE), ("b", WORSE)):
        texts = _answers(side, scores, "Error code: 429 - retry after 20")
        sides.append(_table(tmp_path / side, [*scores], texts))
    rows = [json.loads(line) for line in sides[0].read_text().splitlines()]
    rows[FAILED.index(True)]["score"] = 1.0
    jsonl(sides[0], rows)
    assert compared(*sides) == 4
    few = [float(at % 10 == 0) for at in range(400)]
    texts = [[f"The final answer is {at}" for at in range(400)], [f"{at} lamps" for at in range(400)]]
    sides = [_table(tmp_path / name, few, said) for name, said in zip("cd", texts, strict=True)]
    assert compared(*sides) == 0


@pytest.mark.parametrize("error", ["请求超时", "服务器繁忙，请稍后再试", "サーバーエラー", "오류가 발생했습니다"])
def test_a_short_error_without_blanks_hides_no_loss(tmp_path, error):
    """A Chinese, Japanese or Korean sign says as much as half a word; a label of two is none."""
    sides = [
        _table(tmp_path / side, scores, _answers(side, scores, error)) for side, scores in (("a", BASE), ("b", WORSE))
    ]
    assert compared(*sides) == 4
    sides = [_table(tmp_path / side, BASE, _answers(side, BASE, "消极")) for side in "ab"]
    assert compared(*sides) == 0


RIGHT = {"expected_output": "output", "reference_response": "response", "output": "prediction", "gold": "response"}


@pytest.mark.parametrize("right", RIGHT)
@pytest.mark.parametrize("error", ["", "timeout", None])
def test_no_other_column_stands_for_an_answer_that_is_missing(tmp_path, right, error):
    """What is right, a time or a file, longer than the answer, beside it."""
    sides = []
    for side, scores in (("a", BASE), ("b", WORSE)):
        texts = _answers(side, scores, error)
        rows = enumerate(zip(scores, texts, strict=True))
        more = {"completion_timestamp": "2026-11-26T12:00:00.{0}", "output_file": "out/{0}.txt"}
        lines = [
            {"item": at, "score": one, right: f"a lamp, a jar, a river {at}", RIGHT[right]: text}
            | {key: told.format(at) for key, told in more.items()}
            for at, (one, text) in rows
        ]
        sides.append(jsonl(tmp_path / side / "t.jsonl", lines))
    assert compared(*sides) == 4


REPEATS, COUNT = 4, 1200


def _repeated(seed, loss):
    """Scores of several answers to each item."""
    chance = random.Random(seed)
    shares = [0.6 + 0.4 * (at % 7) / 7 for at in range(COUNT)]
    return [[float(chance.random() < share - loss) for _ in range(REPEATS)] for share in shares]


def _one_failed(side, scores, error, *, down):
    """Texts of each answer, and the scores, where one of several answers to 40 % of the items is an error."""
    lost = [down and at % 10 < 4 for at in range(COUNT)]
    told = [[error if off and not k else f"{side} {at} {k}" for k in range(REPEATS)] for at, off in enumerate(lost)]
    return told, [[0.0, *own[1:]] if off else own for off, own in zip(lost, scores, strict=True)]


def _repeats_lm_eval(folder, told, scores):
    lines = [
        lm_eval_sample(at, sum(one) / REPEATS, resps=[texts], filtered_resps=[texts])
        for at, (one, texts) in enumerate(zip(scores, told, strict=True))
    ]
    return samples_of(folder, "jars", lines)


def _repeats_inspect(folder, told, scores):
    path = inspect_log(folder / "log.json", scores, epochs=REPEATS)
    log = json.loads(path.read_text())
    for sample, text in zip(log["samples"], [text for texts in told for text in texts], strict=True):
        sample["output"] = {"choices": [{"message": {"role": "assistant", "content": text}}]}
    path.write_text(json.dumps(log))
    return path


def _repeats_table(folder, told, scores):
    lines = [
        {"item": at, "score": one, "response": text}
        for at, (own, texts) in enumerate(zip(scores, told, strict=True))
        for one, text in zip(own, texts, strict=True)
    ]
    return jsonl(folder / "t.jsonl", lines)


def _repeats_listed(folder, told, scores):
    rows = enumerate(zip(scores, told, strict=True))
    lines = [{"item": at, "score": sum(own) / REPEATS, "completions": texts} for at, (own, texts) in rows]
    return jsonl(folder / "t.jsonl", lines)


def _repeats_wide(folder, told, scores):
    rows = enumerate(zip(scores, told, strict=True))
    lines = [
        {"item": at, "score": sum(own) / REPEATS} | {f"response_{k}": text for k, text in enumerate(texts)}
        for at, (own, texts) in rows
    ]
    return jsonl(folder / "t.jsonl", lines)


REPEATED = [_repeats_lm_eval, _repeats_inspect, _repeats_table, _repeats_listed, _repeats_wide]


@pytest.mark.parametrize("write", REPEATED)
@pytest.mark.parametrize("error", ["", "Error code: 429 - the rate limit is reached"])
def test_an_error_in_place_of_one_of_several_answers_hides_no_loss(tmp_path, write, error):
    """Their mean is above 0, so it alone does not show that one of them was none."""
    more = ["--repeats", "mean"] if write is _repeats_table else []
    base, worse = _repeated(1, 0.0), _repeated(2, 0.1)
    for down in (True, False):
        sides = [
            write(tmp_path / f"{down}" / "a", *_one_failed("a", base, error, down=down)),
            write(tmp_path / f"{down}" / "b", *_one_failed("b", worse, error, down=False)),
        ]
        assert compared(*sides, *more) == (4 if down else 1)


def test_failures_of_both_servers_hide_no_loss_if_the_baselines_are_more(tmp_path):
    """The slower one runs into more timeouts, not twice as many; as many on both sides are no sign of it."""
    right = [at % 9 > 0 for at in range(3000)]
    worse = [one and at % 17 > 0 for at, one in enumerate(right)]
    for share, code in ((12, 4), (7, 1)):
        sides = []
        for side, scores, lost in (("a", right, share), ("b", worse, 7)):
            down = [(at * 37) % 100 < lost for at in range(3000)]
            lines = [
                {"item": at, "score": int(well and not off), "response": "" if off else f"{side} {at}"}
                | {"error": "Connection error: timed out" if off else ""}
                for at, (well, off) in enumerate(zip(scores, down, strict=True))
            ]
            sides.append(jsonl(tmp_path / f"{share}{side}.jsonl", lines))
        assert compared(*sides, "--margin", "0.03") == code


@pytest.mark.parametrize("column", ["finish_reason", "status", "error"])
def test_the_same_failures_on_both_sides_make_no_copy(tmp_path, column):
    """A column that tells of failures alone holds no answers, which would show whose they are."""
    said = {"finish_reason": ("length", "stop"), "status": ("timeout", "passed"), "error": ("TimeoutError", "")}[column]
    sides = []
    for side in "ab":
        lines = [{"item": at, "score": at % 9 > 0, "seconds": f"{side}{at}"} for at in range(164)]
        sides.append(jsonl(tmp_path / f"{side}.jsonl", [one | {column: said[one["score"]]} for one in lines]))
    assert compared(*sides, "--margin", "0.1") == 0


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


@pytest.mark.parametrize("by", ["time", "model_length", "max_tokens", "content_filter"])
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
