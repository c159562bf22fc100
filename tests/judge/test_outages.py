"""What of a baseline's file shows that its server failed, though some of it is right, and what shows nothing of it."""

from __future__ import annotations

import csv
import json
import random
import re

import pyarrow as pa
import pytest
from pyarrow import parquet
from written import compared, inspect_log, jsonl, lm_eval_sample, samples_of

from harness.judge.importers import tables
from harness.judge.outages import Told, in_words, outages
from harness.records import Generation, Scored

COUNT, WORDS = 1000, ("amber", "basil", "cedar", "delta", "ember", "fjord", "grove", "hazel", "ivory", "jolly", "kayak")


def _scores(seed: int, loss: float, accuracy: float = 0.8) -> tuple[list[float], list[float]]:
    """Scores of a baseline, and of a candidate that truly loses `loss`."""
    chance = random.Random(seed)
    base = [float(chance.random() < accuracy) for _ in range(COUNT)]
    return base, [float(one and chance.random() >= loss / accuracy) for one in base]


def _say(side: str, at: int) -> str:
    return " ".join(random.Random(f"{side}{at}").choices(WORDS, k=6))


def _pair(folder, lines) -> list:
    return [jsonl(folder / f"{side}.jsonl", list(lines(side))) for side in "ab"]


def _down(at: int, share: int = 12) -> bool:
    return (at * 37) % 100 < share


@pytest.mark.parametrize(
    ("column", "fault", "fine"),
    [
        ("finish_reason", "length", "stop"),
        ("response_finish_reason", "length", "stop"),
        ("response_status", 503, 200),
        ("truncated", True, False),
        ("timed_out", True, False),
        ("http_code", 503, 200),
        ("error", "KeyError: 'choices'", ""),
        ("error", {"code": 503, "message": "temporarily down"}, None),
        ("exception", "ReadError", ""),
        ("error", "JSONDecodeError: Expecting value: line 1 column 1 (char 0)", ""),
    ],
)
@pytest.mark.parametrize("right", [0.0, 0.4])
def test_answers_that_the_file_marks_as_failed_hide_no_loss_though_some_are_right(tmp_path, column, fault, fine, right):
    """The answer stood before the cut, say. As many marks on both sides are no sign of it."""
    base, worse = _scores(1, 0.08)
    chance = random.Random(2)

    def lines(side, *, failing="a"):
        for at, one in enumerate(base if side == "a" else worse):
            down = side in failing and _down(at, 20)
            score = float(chance.random() < right) if down else one
            yield {"item": at, "score": score, "reply_text": _say(side, at), column: fault if down else fine}

    assert compared(*_pair(tmp_path, lines)) == 4
    (tmp_path / "both").mkdir()
    assert compared(*_pair(tmp_path / "both", lambda side: lines(side, failing="ab"))) != 4


def test_a_mark_in_a_nested_column_need_not_cost(tmp_path):
    """It is named by its path, and the candidate may have lost the same items."""
    base, _ = _scores(16, 0.0)
    paths = []
    for side in "ab":
        rows = [
            {"item": at, "score": 0.0 if _down(at, 8) else one}
            | {
                "response": {
                    "text": _say(side, at),
                    "finish_reason": "length" if side == "a" and _down(at, 8) else "stop",
                }
            }
            for at, one in enumerate(base)
        ]
        parquet.write_table(pa.Table.from_pylist(rows), path := tmp_path / f"{side}.parquet")
        paths.append(path)
    assert compared(*paths) == 4


def _ends(off: bool) -> str:
    return "length" if off else "stop"


NESTED = {
    "text and reason": lambda text, off: {"response": {"text": text, "finish_reason": _ends(off)}},
    "reason beside it": lambda text, off: {"response": text, "meta": {"finish_reason": _ends(off)}},
    "no text": lambda text, off: {"data": {"id": text, "response": "" if off else text}},
    "no sample": lambda text, off: {"data": {"id": text, "sampled": "" if off else text}},
    "error": lambda text, off: {"result": {"text": text, "error": "HTTP 503" if off else None}},
    "error in place of it": lambda text, off: {"gen": {"id": text, "response": "Error code: 503" if off else text}},
    "status": lambda text, off: {"run": {"id": text, "status_code": 503 if off else 200}},
    "body of a chat": lambda text, off: {
        "response": {"body": {"choices": [{"message": {"content": text}, "finish_reason": _ends(off)}]}}
    },
    "choices": lambda text, off: {"choices": [{"id": text, "message": {"content": None if off else text}}]},
    "message": lambda text, off: {"message": {"role": "assistant", "content": "" if off else text}, "at": text},
    "messages": lambda text, off: {
        "messages": [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "" if off else text}]
    },
    "sharegpt": lambda text, off: {
        "conversations": [{"from": "human", "value": "Why?"}, {"from": "gpt", "value": "Error: 503" if off else text}]
    },
    "outputs": lambda text, off: {"outputs": [{"text": text, "finish_reason": _ends(off)}]},
    "deep": lambda text, off: {"run": json.loads('{"a":' * 400 + '"b"' + "}" * 400), "response": "" if off else text},
}


@pytest.mark.parametrize("form", NESTED)
def test_objects_in_json_lines_hide_no_failure_of_the_baseline(tmp_path, form):
    """Clients write answers, states and errors into objects and lists of them; equally good sides pass."""
    base, worse = _scores(17, 0.1)

    def lines(side, *, failing):
        for at, (was, now) in enumerate(zip(base, worse, strict=True)):
            off = failing and side == "a" and _down(at)
            score = was if side == "a" or not failing else now
            yield {"item": at, "score": 0.0 if off else score, **NESTED[form](_say(side, at), off)}

    assert compared(*_pair(tmp_path, lambda side: lines(side, failing=True))) == 4
    (tmp_path / "well").mkdir()
    assert compared(*_pair(tmp_path / "well", lambda side: lines(side, failing=False))) == 0


def _parts(text):
    return [{"type": "text", "text": text}]


def _csv(path, rows, write):
    """Objects as pandas writes them into the cells of a CSV, or as JSON."""
    with path.open("w", newline="", encoding="utf-8") as stream:
        table = csv.DictWriter(stream, list(dict.fromkeys(key for row in rows for key in row)))
        table.writeheader()
        for row in rows:
            table.writerow({key: write(one) if isinstance(one, dict | list) else one for key, one in row.items()})
    return path


BATCHES = {
    "anthropic, empty": lambda text, off: {"result": {"message": {"content": _parts("" if off else text)}}},
    "anthropic, a thought": lambda text, off: {
        "message": {"content": [{"type": "thinking", "thinking": f"So {text}"}, *_parts("" if off else text)]}
    },
    "a tool's call before it": lambda text, off: {
        "messages": [
            {"role": "user", "content": "Why?"},
            {"role": "assistant", "content": None, "tool_calls": [{"id": text, "type": "function"}]},
            {"role": "tool", "content": "42"},
            {"role": "assistant", "content": "" if off else text},
        ]
    },
    "responses, a thought": lambda text, off: {
        "output": [{"type": "reasoning", "summary": []}, {"type": "message", "content": _parts("" if off else text)}]
    },
    "anthropic, expired": lambda text, off: {
        "result": {"type": "expired", "message": None} if off else {"type": "ok", "message": {"content": _parts(text)}}
    },
    "parts of a choice": lambda text, off: {
        "choices": [{"message": {"content": _parts("Error: 503" if off else text)}}]
    },
    "a message": lambda text, off: {"role": "assistant", "content": _parts("" if off else text)},
    "langchain": lambda text, off: {
        "messages": [{"type": "human", "content": "Why?"}, {"type": "ai", "content": "" if off else text}]
    },
    "gemini": lambda text, off: {
        "candidates": [
            {"content": {"parts": None if off else [{"text": text}]}, "finishReason": "OTHER" if off else "STOP"}
        ]
    },
    "responses": lambda text, off: {
        "output_text": text, "incomplete_details": {"reason": "max_output_tokens"} if off else {"reason": None}
    },
    "llama.cpp": lambda text, off: {"content": "" if off else text, "stop": not off},
    "result": lambda text, off: {"result": "Too Many Requests" if off else text},
    "no result": lambda text, off: {"result": "[no response]" if off else text},
    "page": lambda text, off: {"result": "<html><title>504 Gateway Time-out</title>" + "<p>" * 300 if off else text},
    "spark": lambda text, off: {"reply": {"result": None if off else text, "errorMessage": "LIMIT" if off else None}},
    "quota": lambda text, off: {"result": text, "state": "RESOURCE_EXHAUSTED" if off else "OK"},
    "status": lambda text, off: {"result": text, "status": "incomplete" if off else "completed"},
}  # fmt: skip


@pytest.mark.parametrize("suffix", ["jsonl", "parquet", "json.csv", "python.csv"])
@pytest.mark.parametrize("form", BATCHES)
def test_answers_of_batches_and_clients_hide_no_failure_of_the_baseline(tmp_path, form, suffix):
    """Whatever a column is called, unless it is a question: its cell says that there is no answer."""
    base, worse = _scores(19, 0.1)

    def tables(place, *, failing):
        for side, scores in (("a", base), ("b", worse if failing else base)):
            off = [failing and side == "a" and _down(at) for at in range(len(scores))]
            texts = [f"{_say(side, at)} or so" for at in range(len(scores))]
            rows = [
                {"item": at, "score": 0.0 if down else score, **BATCHES[form](text, down)}
                for at, (score, down, text) in enumerate(zip(scores, off, texts, strict=True))
            ]
            path = tmp_path / place / f"{side}.{suffix}"
            path.parent.mkdir(exist_ok=True)
            if suffix == "jsonl":
                jsonl(path, rows)
            elif suffix == "parquet":
                parquet.write_table(pa.Table.from_pylist(rows), path)
            else:
                _csv(path, rows, json.dumps if suffix.startswith("json") else repr)
            yield path

    assert compared(*tables("failing", failing=True)) == 4
    assert compared(*tables("well", failing=False)) == 0


@pytest.mark.parametrize("beside", ["both", "baseline"])
@pytest.mark.parametrize(
    ("column", "wrong", "right"),
    [
        ("valid", False, True),
        ("feedback", "The response contains a calculation error.", "Well done."),
        ("traceback", "Error: expected 3 got 4", ""),
        ("stderr", "ValueError: an exception", ""),
        ("extracted_value", None, 4),
        ("test_output", "1 failed; connection error", "1 passed"),
    ],
)
def test_a_column_that_says_which_answers_are_wrong_is_no_failure(tmp_path, column, wrong, right, beside):
    """A candidate that is better by five points, or a table alone that has it: neither is a broken baseline."""
    base, worse = _scores(20, 0.05)
    sides = []
    for side, scores in (("a", worse if beside == "both" else base), ("b", base)):
        rows = [{"item": at, "score": one, "reply_text": _say(side, at)} for at, one in enumerate(scores)]
        for row in rows if beside == "both" or side == "a" else ():
            row[column] = right if row["score"] else wrong
        sides.append(jsonl(tmp_path / f"{side}.jsonl", rows))
    assert compared(*sides) == 0


WORDS = """Internal error, an exception, timed out, time-out, time out, connection, disconnected, unavailable
overloaded, bad gateway, remote protocol, read_error, payload_error, apiconnectionerror, engine dead, ssl_error
incompleteread, jsondecodeerror, keyerror: 'choices', bad request, badrequest, chunkedencoding, errno, code: 503
'code': 429, quota
retries, throttled, limit exceeded, deadline exceeded, resource exhausted, rate limit, too many requests, out of memory
context length, context window"""


@pytest.mark.parametrize("words", re.split(", |\n", WORDS))
def test_long_cells_are_looked_over_for_words_that_every_failure_has(words):
    """What is passed over because it has none of `loose` fits no pattern of a failure in words."""
    for told in (words, words.upper()):
        if tables._FAULT.fullmatch(f"note: {told} {'x ' * 60}"):
            assert str(tables._failure("note", f"note: {told} {'x ' * 60}")).startswith("('(note: a failure")


@pytest.mark.parametrize(("label", "code"), [(True, 0), (False, 4)])
@pytest.mark.parametrize("form", ["lists", "columns", "epochs"])
def test_a_label_that_reads_like_an_error_is_an_answer_if_it_is_right(tmp_path, form, label, code):
    """Some items are right in all of their answers with it; with one that is an error, none is, on either side."""
    chance, classes = random.Random(18), ("Login issue on the phone", "Refund by mail", "Request timed out")
    gold = [chance.choice(classes if label else classes[:2]) for _ in range(600)]
    skill, sides = [chance.betavariate(4, 1) for _ in gold], []
    for side in "ab":
        told = [
            [one if chance.random() < can else chance.choice(classes) for _ in range(3)]
            for one, can in zip(gold, skill, strict=True)
        ]
        right = [[float(text == one) for text in texts] for one, texts in zip(gold, told, strict=True)]
        cells = [{"responses": one} if form == "lists" else _cell("columns", one) for one in told]
        rows = enumerate(zip(right, cells, strict=True))
        path = jsonl(
            tmp_path / f"{side}.jsonl", [{"item": at, "score": sum(own) / 3, **one} for at, (own, one) in rows]
        )
        if form == "epochs":
            path = inspect_log(tmp_path / f"{side}.json", right, epochs=3)
            log = json.loads(path.read_text())
            for sample, text in zip(log["samples"], [text for texts in told for text in texts], strict=True):
                sample["output"] = {"choices": [{"message": {"content": text}}]}
            path.write_text(json.dumps(log))
        sides.append(path)
    assert compared(*sides, "--margin", "0.1") == code


def test_a_limit_that_cuts_every_answer_of_the_baseline_hides_no_loss(tmp_path):
    """Its column holds one value; the candidate's another."""
    base, worse = _scores(3, 0.08)
    cut = [float(one and not _down(at, 45)) for at, one in enumerate(base)]

    def lines(side):
        for at, one in enumerate(cut if side == "a" else worse):
            yield {"item": at, "score": one, "finish_reason": "length" if side == "a" else "stop"}

    assert compared(*_pair(tmp_path, lines)) == 4


@pytest.mark.parametrize(
    "error", ['{{"error":"InternalServerError","request_id":"req_{0:08x}"}}', "gave-up-on-{0:x}-ab"]
)
def test_identifiers_in_one_word_are_no_other_words(tmp_path, error):
    """They are hexadecimal, so the letters differ as well."""
    base, worse = _scores(4, 0.08)

    def lines(side):
        for at, one in enumerate(base if side == "a" else worse):
            down = side == "a" and _down(at)
            text = error.format(at * 2654435761 % 2**32) if down else _say(side, at)
            yield {"item": at, "score": 0.0 if down else one, "response": text}

    assert compared(*_pair(tmp_path, lines)) == 4


def _cell(form: str, texts: list) -> dict:
    match form:
        case "null":
            return {"responses": texts}
        case "python":
            return {"responses": repr(texts)}
        case "objects":
            return {"outputs": [{"text": one or ""} for one in texts]}
        case "messages":
            return {"outputs": [{"role": "assistant", "content": one} for one in texts]}
        case "columns":
            return {f"run{at}_response": one or "" for at, one in enumerate(texts)}
    return {f"completion_{at}_text": one or "" for at, one in enumerate(texts)}


@pytest.mark.parametrize("form", ["null", "python", "objects", "messages", "columns", "numbered"])
def test_one_of_several_answers_that_failed_hides_no_loss_however_they_are_listed(tmp_path, form):
    """The item's score is their mean; equally good sides pass, whatever words they use."""
    chance = random.Random(5)
    shares = [chance.betavariate(4, 1) for _ in range(COUNT)]

    def lines(side, *, loss=0.1, down=True):
        for at, share in enumerate(shares):
            right = [float(chance.random() < share - (loss if side == "b" else 0.0)) for _ in range(4)]
            failed = [down and side == "a" and chance.random() < 0.12 for _ in range(4)]
            texts = [None if off else _say(f"{side}{k}", at) for k, off in enumerate(failed)]
            score = sum(one for one, off in zip(right, failed, strict=True) if not off) / 4
            yield {"item": at, "score": score, **_cell(form, texts)}

    assert compared(*_pair(tmp_path, lines)) == 4
    (tmp_path / "well").mkdir()
    assert compared(*_pair(tmp_path / "well", lambda side: lines(side, loss=0.0, down=False))) == 0


@pytest.mark.parametrize("reducer", ["max", "median", "at_least_2", "pass_at_2"])
def test_an_epoch_that_failed_hides_no_loss_whatever_the_reducer(tmp_path, reducer):
    """The item may be right all the same, so its score does not show what the errors cost."""
    chance = random.Random(6)
    shares, sides = [chance.betavariate(4, 2) for _ in range(COUNT)], []
    for side, loss in (("a", 0.0), ("b", 0.12)):
        told, scores = [], []
        for at, share in enumerate(shares):
            failed = [side == "a" and chance.random() < 0.2 for _ in range(3)]
            scores.append([float(not off and chance.random() < share - loss) for off in failed])
            told += ["Error code: 503" if off else _say(f"{side}{k}", at) for k, off in enumerate(failed)]
        path = inspect_log(tmp_path / f"{side}.json", scores, epochs=3, config={"epochs_reducer": [reducer]})
        log = json.loads(path.read_text())
        for sample, text in zip(log["samples"], told, strict=True):
            sample["output"] = {"choices": [{"message": {"role": "assistant", "content": text}}]}
        path.write_text(json.dumps(log))
        sides.append(path)
    assert compared(*sides) == 4


def test_an_empty_answer_that_a_majority_outvotes_hides_no_loss(tmp_path):
    """lm_eval's filters vote over repeats, and a request that failed is an empty one."""
    chance = random.Random(7)
    shares, sides = [chance.betavariate(4, 1) for _ in range(COUNT)], []
    for side, loss in (("a", 0.0), ("b", 0.15)):
        lines = []
        for at, share in enumerate(shares):
            failed = [side == "a" and chance.random() < 0.2 for _ in range(4)]
            right = [not off and chance.random() < share * (1 - loss) for off in failed]
            texts = ["" if off else _say(f"{side}{k}", at) for k, off in enumerate(failed)]
            lines.append(lm_eval_sample(at, float(sum(right) >= 2), resps=[texts], filtered_resps=[texts[0]]))
        sides.append(samples_of(tmp_path / side, "jars", lines))
    assert compared(*sides) == 4


@pytest.mark.parametrize("loss", [0.06, 0.0])
def test_an_error_that_is_scored_as_one_of_two_classes_hides_no_loss(tmp_path, loss):
    """It is right in half of the items, where the baseline's own answers would be in nine of ten."""
    base, worse = _scores(8, loss, accuracy=0.9)
    chance = random.Random(9)

    def lines(side, *, down=12):
        for at, one in enumerate(base if side == "a" else worse):
            off = side == "a" and _down(at, down)
            score, text = (float(chance.random() < 0.5), "the backend gave up") if off else (one, _say(side, at))
            yield {"item": at, "score": score, "response": text}

    assert compared(*_pair(tmp_path, lines)) == 4
    (tmp_path / "well").mkdir()
    assert compared(*_pair(tmp_path / "well", lambda side: lines(side, down=0))) in ({1, 3} if loss else {0})


@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
def test_other_words_for_answers_as_good_are_no_outage(tmp_path, share):
    """A candidate that answers in another form, on items of which few are right in all of their epochs or grades."""
    chance = random.Random(10)
    hard = [chance.betavariate(6 * share, 6 * (1 - share)) for _ in range(COUNT)]
    sides = []
    for side, form in (("a", "The answer is {}."), ("b", "Answer: option {}")):
        scores = [[float(chance.random() < one) for _ in range(4)] for one in hard]
        path = inspect_log(tmp_path / f"{side}.json", scores, epochs=4)
        log = json.loads(path.read_text())
        for sample in log["samples"]:
            sample["output"] = {"choices": [{"message": {"content": form.format(chance.choice("ABCD"))}}]}
        path.write_text(json.dumps(log))
        sides.append(path)
    assert compared(*sides) != 4


def test_a_fixed_wrong_answer_in_other_words_is_no_outage(tmp_path):
    """Both give up on the same items, the candidate in other words: nothing is hidden, as nothing is gained there."""
    base, _ = _scores(11, 0.0)

    def lines(side):
        words = {"a": "The text does not say that.", "b": "This is not in the text."}[side]
        for at, one in enumerate(base):
            lost = _down(at, 4)
            yield {"item": at, "score": 0.0 if lost else one, "response": words if lost else _say(side, at)}

    assert compared(*_pair(tmp_path, lines)) == 0


@pytest.mark.parametrize("alike", [False, True])
def test_words_that_are_never_right_and_cost_nothing_are_named(tmp_path, capsys, alike):
    """The baseline's server may have failed on long prompts, which the candidate cannot answer: a reader can tell."""
    base, worse = _scores(13, 0.07)

    def lines(side):
        for at, one in enumerate(base if side == "a" else worse):
            long = _down(at)
            says = "Something went wrong." if long and (alike or side == "a") else _say(side, at)
            yield {"item": at, "score": 0.0 if long else one, "response": says}

    compared(*_pair(tmp_path, lines), "--json")
    named = [one for one in json.loads(capsys.readouterr().out)["warnings"] if "'Something went wrong.'" in one]
    assert [one.partition(" with ")[0] for one in named] == ([] if alike else ["baseline answered 120 items"])


def _chat(said: str, cut: bool) -> dict:
    asked = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "How many?"}]
    return {"messages": [*asked, {"role": "assistant", "content": said * (not cut)}]}


def _choices(said: str, cut: bool) -> dict:
    return {"response": {"choices": [{"index": 0, "message": {"role": "assistant", "content": said * (not cut)}}]}}


def _limit(said: str, cut: bool) -> dict:
    return {"choices": [{"index": 0, "text": said, "finish_reason": "length" if cut else "stop"}]}


@pytest.mark.parametrize("shape", [_chat, _choices, _limit])
@pytest.mark.parametrize("ending", [".jsonl", ".parquet"])
@pytest.mark.parametrize("down", [12, 0])
def test_lists_of_objects_are_looked_into_in_every_format(tmp_path, shape, ending, down):
    """What a chat API gives is kept as lists of messages and choices; Parquet holds them as columns of lists."""
    base, worse = _scores(15, 0.1 if down else 0.0)
    paths = []
    for side, scores in (("a", base), ("b", worse)):
        cut = [side == "a" and _down(at, down) for at in range(COUNT)]
        made = [shape(_say(side, at), one) for at, one in enumerate(cut)]
        rows = [{"item": at, "score": 0.0 if cut[at] else one} | made[at] for at, one in enumerate(scores)]
        paths.append(tmp_path / f"{side}{ending}")
        if ending == ".parquet":
            parquet.write_table(pa.Table.from_pylist(rows), paths[-1])
        else:
            jsonl(paths[-1], rows)
    assert compared(*paths) == (4 if down else 0)


def test_an_error_that_comes_after_many_tokens_as_keys_is_seen(tmp_path):
    """Probabilities by token are a thousand names and more; a column `error` comes where the server first failed."""
    base, worse = _scores(14, 0.1)

    def lines(side):
        for at, one in enumerate(base if side == "a" else worse):
            down = side == "a" and at > 300 and _down(at, 20)
            row = {"item": at, "score": 0.0 if down else one, "top": {f"{side}{at}-{n}": -1.0 for n in range(5)}}
            yield row | ({"error": "HTTP 503"} if down else {})

    assert compared(*_pair(tmp_path, lines)) == 4


@pytest.mark.parametrize("failing", [0.1, 0.3])
def test_errors_of_programs_hide_no_errors_of_the_server(tmp_path, failing):
    """Both are in one column, without the answers; a better candidate, whose programs fail less often, passes."""
    chance = random.Random(12)
    base = [float(chance.random() >= failing) for _ in range(COUNT)]

    def lines(side, *, down=True, gain=0.0, loss=0.08):
        for at, one in enumerate(base):
            off = down and side == "a" and _down(at, 10)
            score = one if side == "a" else float(chance.random() >= loss if one else chance.random() < gain)
            said = "APIConnectionError: Connection error." if off else "" if score else "AssertionError: 3 != 4"
            yield {"item": at, "score": 0.0 if off else score, "error": said}

    assert compared(*_pair(tmp_path, lines)) == 4
    (tmp_path / "well").mkdir()
    assert compared(*_pair(tmp_path / "well", lambda side: lines(side, down=False, gain=0.2, loss=0.01))) == 0


@pytest.mark.parametrize("share", [0.3, 0.6])
def test_empty_texts_that_are_often_right_hide_no_empty_answers_of_an_outage(tmp_path, share):
    """A tool call has no text: what both sides answer so says nothing of those that the baseline alone does."""
    base, worse = _scores(13, 0.1)

    def lines(side, *, down=True):
        for at, (was, now) in enumerate(zip(base, worse, strict=True)):
            call, off = (at * 53) % 100 < 100 * share, down and side == "a" and _down(at)
            one = was if side == "a" else now if down else was
            yield {"item": at, "score": 0.0 if off else one, "response": "" if call or off else _say(side, at)}

    assert compared(*_pair(tmp_path, lines)) == 4
    (tmp_path / "well").mkdir()
    assert compared(*_pair(tmp_path / "well", lambda side: lines(side, down=False))) == 0


@pytest.mark.parametrize("thought", [{"reasoning": ""}, {"reasoning": "so", "signature": None}])
def test_parts_of_a_message_without_a_text_are_no_empty_answers(tmp_path, thought):
    """Thoughts that a provider keeps to itself hide no empty answers, and fewer of them on one side are no outage."""
    base, worse = _scores(14, 0.1)
    for down in (True, False):
        sides = []
        for side, scores in (("a", base), ("b", worse if down else base)):
            lost = [down and side == "a" and _down(at) for at in range(COUNT)]
            path = inspect_log(
                tmp_path / f"{side}{down}.json", [[0.0 if off else one] for off, one in zip(lost, scores, strict=True)]
            )
            log = json.loads(path.read_text())
            for at, (sample, off) in enumerate(zip(log["samples"], lost, strict=True)):
                told = [{"type": "text", "text": "" if off else _say(side, at)}]
                if side == "a" or at % 40:
                    told.insert(0, {"type": "reasoning", **thought})
                sample["output"] = {"choices": [{"message": {"role": "assistant", "content": told}}]}
            path.write_text(json.dumps(log))
            sides.append(path)
        assert compared(*sides) == (4 if down else 0)


@pytest.mark.parametrize("cell", ["['a', ('b', ['c'])]", f"[0x{'f' * 6000}]", "[" * 20_000 + '"', "[{1, 2}, b'x']"])
def test_a_cell_that_is_no_list_of_answers_is_a_text(tmp_path, cell):
    """However much it looks like one: it stops nothing."""
    base, _ = _scores(15, 0.0)
    lines = [{"item": at, "score": one, "response": cell if not at else f"jar {at}"} for at, one in enumerate(base)]
    sides = [jsonl(tmp_path / "a.jsonl", lines), jsonl(tmp_path / "b.jsonl", [one | {"x": 1} for one in lines])]
    assert compared(*sides, "--allow-identical") == 0


def _thought(text, at, off, other):
    parts = [{"type": "thinking", "thinking": f"So {at}"}]
    return [*parts, {"type": "tool_use", "id": f"t{at}", "name": "f"}] if other else [*parts, *_parts(text)[off:]]


BESIDE = {
    "a column of few cells": lambda text, at, off, other: {
        "response": "" if off else text, "response_note": f"Looked at twice, {at}." if other else None
    },
    "a field of a choice": lambda text, at, off, other: {
        "choices": [{"message": {"content": "" if off else text, "refusal": f"Not that, {at}." if other else None}}]
    },
    "parts of another type": lambda text, at, off, other: {"response": _thought(text, at, off, other)},
    "a thought alone": lambda text, at, off, other: {"message": {"content": _thought(text, at, off, False)}},
    "a thought in a cell": lambda text, at, off, other: {"response": json.dumps(_thought(text, at, off, other))},
    "a mark of the end": lambda text, at, off, other: {"response": "<|im_end|>" if off else text},
}  # fmt: skip


@pytest.mark.parametrize("suffix", ["jsonl", "parquet", "json.csv"])
@pytest.mark.parametrize("form", BESIDE)
@pytest.mark.parametrize("share", [1, 30])
def test_what_is_beside_few_answers_hides_no_empty_ones(tmp_path, form, suffix, share):
    """An empty cell of a column that few rows fill is no empty answer; nor is one with a call of a tool alone."""
    base, worse = _scores(23, 0.1)

    def tables(place, *, failing):
        for side, scores in (("a", base), ("b", worse if failing else base)):
            rows = []
            for at, score in enumerate(scores):
                off = failing and side == "a" and _down(at)
                other = not off and random.Random(f"{side} {at}").random() < share / 100
                told = BESIDE[form](f"{_say(side, at)} or so", at, off, other)
                rows.append({"item": at, "score": 0.0 if off else score, **told})
            (path := tmp_path / place / f"{side}.{suffix}").parent.mkdir(exist_ok=True)
            if suffix == "parquet":
                parquet.write_table(pa.Table.from_pylist(rows), path)
            else:
                jsonl(path, rows) if suffix == "jsonl" else _csv(path, rows, json.dumps)
            yield path

    assert compared(*tables("failing", failing=True)) == 4
    assert compared(*tables("well", failing=False)) == 0


def test_parts_of_few_answers_of_one_side_are_no_empty_answers_of_the_others(tmp_path):
    """Three of a thousand replies are a thought alone: they are three, and the other side need not have any."""
    base, _ = _scores(24, 0.0)

    def lines(side):
        for at, score in enumerate(base):
            off = side == "a" and at in {5, 50, 500}
            yield {"item": at, "score": score, "response": _thought(_say(side, at), at, off, False)}

    assert compared(*_pair(tmp_path, lines)) == 0


@pytest.mark.parametrize(
    ("word", "given", "code"),
    [
        ("conn reset", "a", 4),
        ("EOF", "a", 4),
        ("404", "a", 4),
        ("unsure", "ab", 0),
        ("Neutral.", "candidate's spelling", 0),
    ],
)
def test_a_short_word_that_is_never_right_and_that_the_other_side_never_gives_is_an_error(tmp_path, word, given, code):
    """Labels that both sides give, in whatever spelling, stay answers."""
    base, worse = _scores(31, 0.07 if code else 0.0)

    def lines(side):
        for at, (was, now) in enumerate(zip(base, worse, strict=True)):
            score, label = (was if side == "a" else now), ("yes", "no")[at % 2]
            if (side == "a" and _down(at)) or (given == "ab" and _down(at + 1, 9)):
                yield {"item": at, "score": 0.0, "response": word}
            elif side == "b" and given.startswith("c") and _down(at):
                yield {"item": at, "score": score, "response": "neutral"}
            else:
                yield {"item": at, "score": score, "response": label}

    assert compared(*_pair(tmp_path, lines)) == code


@pytest.mark.parametrize("lead", ["", "<think>\n", "some copper oxide"])
@pytest.mark.parametrize("sign", ["!", "<unk>", "G", "abc "])
def test_one_sign_up_to_the_limit_is_no_answer(sign, lead):
    """A server whose logits are no numbers, at once or after some tokens; a model may loop over words by itself."""
    said = Generation("q", lead + sign * 40, tuple(range(40)), "length", 5, 0)
    scored = Scored("q", "digest", 0, 0.0, {}, said, length=40)
    assert [one.text for one in in_words([scored])] == ([] if " " in sign else [sign * 3])


def test_nothing_up_to_the_limit_must_cost():
    """Special tokens that the server leaves out, or a thought that it hides."""
    said = Generation("q", "", (0,) * 40, "length", 5, 0)
    (told,) = in_words([Scored("q", "digest", 0, 0.0, {}, said, length=40)])
    for right, code in ((1.0, True), (0.0, None)):
        given = [told._replace(item=f"{at}") for at in range(40)]
        others = [Told(f"{at}", f"It is {_say('b', at)}", right) for at in range(40)]
        found = outages([given, others], {f"{at}": "t" for at in range(40)})
        assert (len(found.errors), len(found.doubtful)) == ((40, 0) if code else (0, 40))


def test_errors_that_repeat_their_prompts_count_together(tmp_path):
    """Each text is another."""
    base, worse = _scores(9, 0.1)

    def lines(side):
        for at, one in enumerate(base if side == "a" else worse):
            down = side == "a" and _down(at, 20)
            said = f"Error code: 400 - {{'input': {_say('q', at)!r}}}" if down else _say(side, at)
            yield {"item": at, "score": 0.0 if down else one, "reply": said}

    assert compared(*_pair(tmp_path, lines)) == 4
