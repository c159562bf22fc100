"""What a table says beside the answers: settings in objects, outages, runs of one question, right answers, grades."""

from __future__ import annotations

import random

import pytest
from written import compared, csv_of, jsonl, lm_eval_sample, samples_of

from harness.judge.importers import ImportOptions, load
from harness.judge.importers.tables import sources
from harness.judge.outages import CERTAIN

WORDS = ("amber", "basil", "cedar", "delta", "ember", "fjord", "grove", "hazel", "ivory", "jolly", "kayak")
COUNT = 1000


def _say(at: object, count: int = 6) -> str:
    return " ".join(random.Random(f"{at}").choices(WORDS, k=count))


def _scores(loss: float, accuracy: float = 0.8, seed: int = 1) -> tuple[list[float], list[float]]:
    """Scores of a baseline, and of a candidate that truly loses `loss`."""
    chance = random.Random(seed)
    base = [float(chance.random() < accuracy) for _ in range(COUNT)]
    return base, [float(one and chance.random() >= loss / accuracy) for one in base]


def _down(at: int, share: int = 12) -> bool:
    return (at * 37) % 100 < share


def _pair(folder, rows) -> list:
    return [jsonl(folder / f"{side}.jsonl", list(rows(side))) for side in "ab"]


@pytest.mark.parametrize("outer", ["", "request", "params", "provider.config", "metadata"])
@pytest.mark.parametrize(
    ("name", "own", "other"),
    [("max_tokens", 64, 1024), ("maxTokens", 64, 1024), ("num_predict", 64, 1024), ("judge_version", 1, 2)],
)
def test_settings_that_differ_are_seen_in_objects_too(tmp_path, outer, name, own, other):
    """A limit that cuts the baseline's answers hides a loss wherever a log says it."""
    base, worse = _scores(0.0)

    def rows(side):
        for at, score in enumerate(base if side == "a" else worse):
            told = {name: own if side == "a" else other}
            for key in reversed(outer.split(".")) if outer else ():
                told = {key: told}
            yield {"item": at, "score": score, "reply": _say((side, at)), **told}

    assert compared(*_pair(tmp_path, rows)) == 4


@pytest.mark.parametrize(
    ("name", "own", "other"),
    [("temperature", "0.70", "0.7"), ("system_prompt", "Be brief.", "Be brief.\r\n"), ("question", "", " ")],
)
def test_ways_of_writing_a_setting_are_no_differences(tmp_path, name, own, other):
    """Numbers count by their value, texts without the space around them."""
    base, same = _scores(0.0)

    def rows(side):
        for at, score in enumerate(base if side == "a" else same):
            told = _say(at) + (own if side == "a" else other) if name == "question" else own if side == "a" else other
            yield {"item": at, "score": score, "reply": _say((side, at)), name: told}

    assert compared(*_pair(tmp_path, rows)) == 0


SIGNS = [
    ("response_code", 502, 200),
    ("http_response_code", 502, 200),
    ("status_code", "STATUS_CODE_ERROR", "STATUS_CODE_OK"),
    ("error", "socket hang up", ""),
    ("error", "read ECONNRESET", ""),
    ("exception", "KeyError('choices')", ""),
    ("error_flag", 1, 0),
    ("completion_tokens", 0, 37),
    ("usage.completion_tokens", 0, 37),
]
JUDGED = [
    ("judge_response", "Error code: 429 - {'error': 'rate limit'}", "Rating: fine"),
    ("judge_error", "Error code: 429 - rate limit", ""),
    ("explanation", "Error code: 503 Service Unavailable", "The answer is good"),
    ("verdict", "ERROR", "CORRECT"),
]


@pytest.mark.parametrize(("column", "fault", "fine"), SIGNS + JUDGED)
def test_signs_of_an_outage_in_a_column_hide_no_loss(tmp_path, column, fault, fine):
    """Without a text, or beside one that was not judged."""
    base, worse = _scores(0.12)

    def rows(side):
        for at, one in enumerate(base if side == "a" else worse):
            down = side == "a" and _down(at, 20)
            told = {"reply": _say((side, at))} if (column, fault, fine) in JUDGED else {}
            yield {"item": at, "score": 0.0 if down else one, column: fault if down else fine, **told}

    pair = [
        csv_of(
            tmp_path / f"{side}.csv",
            ",".join((found := list(rows(side)))[0]),
            [",".join('"' + str(cell).replace('"', '""') + '"' for cell in row.values()) for row in found],
        )
        for side in "ab"
    ]
    assert compared(*pair) == 4


TEXTS = [
    "ValueError: The decoder prompt (length {n}) is longer than the maximum model length of 4096.",
    "max_tokens must be at least 1, got -{n}.",
    "The input ({n} tokens) is longer than the model's context length (4096 tokens).",
    "Requested token count exceeds the model's maximum context length of 4096 tokens.",
    "Input validation error: `inputs` must have less than 4096 tokens. Given: {n}",
    "the request exceeds the available context size, try increasing it",
    "prompt is too long: {n} tokens > 4096 maximum",
    "input_length({n}) + max_new_tokens exceeds session_len(4096)",
    "Please reduce the length of the messages or completion.",
    "Engine core proc died unexpectedly",
    "429 RESOURCE_EXHAUSTED",
    "TypeError: fetch failed",
    "<Response [500]>",
    "ChatCompletionMessage(content=None, refusal=None, role='assistant', tool_calls=None)",
    "content='' additional_kwargs={{}} response_metadata={{}}",
    "GENERATION_ERROR",
]


@pytest.mark.parametrize("text", TEXTS)
def test_an_error_in_place_of_an_answer_need_not_cost(tmp_path, text):
    """The candidate, which has room for longer prompts, may truly fail where the baseline's server refused."""
    base, same = _scores(0.0)

    def rows(side):
        for at, one in enumerate(base if side == "a" else same):
            down = _down(at)
            said = text.format(n=4097 + at) if down and side == "a" else _say((side, at))
            yield {"item": at, "score": 0.0 if down else one, "reply": said}

    assert compared(*_pair(tmp_path, rows)) == 4


@pytest.mark.parametrize(
    "text",
    [
        "The answer is 42, since the request exceeds what was asked.",
        "The prompt asks for a city: Paris.",
        "Content is king.",
        "Choices are limited here.",
        "Error bars show the spread.",
        "TypeError: cannot add int and str",
        "AttributeError: 'NoneType' object has no attribute 'group'",
        "Extra data: line 2 column 1 (char 30)",
        "The request exceeds the approval limit of $40.",
        "The input is too long; write less.",
    ],
)
def test_words_of_a_model_are_no_error(text):
    """They begin otherwise than a program's."""
    assert not CERTAIN.match(text)


@pytest.mark.parametrize("again", [50, 25])
@pytest.mark.parametrize("columns", [("question_id", "seed"), ("task_id", "epoch"), ("qid", "sample_idx")])
def test_runs_of_one_question_under_ids_of_their_own_are_one_source(tmp_path, columns, again):
    """Twelve runs of fifty questions hold fifty answers' worth of evidence, also if each subject numbers its own."""
    chance = random.Random(5)
    known = [(chance.random() < 0.75, chance.random() < 0.08) for _ in range(50)]

    def rows(side):
        for at, (right, lost) in enumerate(known):
            for run in range(12):
                score = float(right and not (side == "b" and lost))
                told = {columns[0]: at % again, columns[1]: run, "subject": str(at // again)}
                yield {"item": f"{at}_{run}", "score": score, **told, "reply": _say((side, at))}

    pair = _pair(tmp_path, rows)
    assert compared(*pair, "--stratum", "subject") == 3
    assert again < 50 or compared(*pair, "--cluster", columns[0]) == 3
    assert len(set(sources(pair, ImportOptions(strata=("subject",))).values())) == 50
    asked = [{**row, "question": f"What of {row['item'].split('_')[0]}?"} for row in rows("a")]
    assert len(set(sources([jsonl(tmp_path / "q.jsonl", asked)] * 2, ImportOptions()).values())) == 50
    prompts = [{**row, "prompt": f"{_say(row[columns[1]])} What of {row['item']}?"} for row in rows("a")]
    assert (
        len(set(sources([jsonl(tmp_path / "p.jsonl", prompts)] * 2, ImportOptions(strata=("subject",))).values())) == 50
    )
    without = [{key: one for key, one in row.items() if key != columns[1]} for row in rows("a")]
    single = [{**row, columns[1]: f"{at}"} for at, row in enumerate(rows("a"))]  # each row has its own
    for at, told in enumerate((without, single)):
        assert sources([jsonl(tmp_path / f"{at}.jsonl", told)] * 2, ImportOptions()) == {}


@pytest.mark.parametrize("name", ["answerKey", "answer_idx", "correctAnswer", "Correct Answer", "label", "answer", "y"])
def test_two_that_guess_pass_under_no_name_of_the_right_answer(tmp_path, name):
    """Both answer A nearly always: a quarter is right, and nothing can be lost."""
    chance = random.Random(3)
    right = [chance.choice("ABCD") for _ in range(600)]

    def rows(side):
        own = random.Random(side)
        for at, one in enumerate(right):
            said = "A" if own.random() < 0.9 else own.choice("BCD")
            yield {"item": at, "score": float(said == one), "prediction": said, name: one}

    assert compared(*_pair(tmp_path, rows)) == 3


def test_a_column_that_repeats_the_models_answer_is_not_the_right_one(tmp_path):
    """Only what decides the score, read with an answer, is."""
    base, same = _scores(0.0)

    def rows(side):
        for at, score in enumerate(base if side == "a" else same):
            said = "A" if score else "ABCD"[at % 4]
            yield {"item": at, "score": score, "prediction": said, "label": said, "reply": _say((side, at))}

    assert compared(*_pair(tmp_path, rows)) == 0


def test_grades_against_right_and_wrong_are_not_compared(tmp_path):
    """Partial credit on one side alone hides a loss; on both it is how both are scored."""
    base, worse = _scores(0.12)
    chance = random.Random(2)

    def rows(side, graded):
        for at, one in enumerate(base if side == "a" else worse):
            part = side in graded and not one and chance.random() < 0.6
            yield {"item": at, "score": 0.5 if part else one, "reply": _say((side, at))}

    assert compared(*_pair(tmp_path, lambda side: rows(side, "b"))) == 3
    assert compared(*_pair(tmp_path, lambda side: rows(side, "ab"))) == 1
    worse = [score and float(at % 3 > 0) for at, score in enumerate(base)]
    assert compared(*_pair(tmp_path, lambda side: rows(side, "b"))) == 1  # credit hides losses, and makes none


@pytest.mark.parametrize(
    ("name", "own", "other"),
    [("prompt_version", "1.1", "1.10"), ("dataset", "2024/test", "2025/test"), ("judge_prompt", "a/judge", "b/judge")],
)
def test_versions_and_paths_are_no_ways_of_writing(tmp_path, name, own, other):
    """1.10 is not 1.1, and one file name lies in many folders."""
    base, same = _scores(0.0)

    def rows(side):
        for at, score in enumerate(base if side == "a" else same):
            yield {"item": at, "score": score, "reply": _say((side, at)), name: own if side == "a" else other}

    assert compared(*_pair(tmp_path, rows)) == 4


@pytest.mark.parametrize("column", ["choice", "answer_letter", "text", "review", "answer_idx"])
def test_what_the_model_chose_is_no_question(tmp_path, column):
    """Of a good candidate a few answers differ, whatever the column is called."""
    base, same = _scores(0.01)

    def rows(side):
        for at, score in enumerate(base if side == "a" else same):
            yield {"item": at, "score": score, "question": f"What of {at}?", column: "AB"[int(score)]}

    assert compared(*_pair(tmp_path, rows)) == 0


@pytest.mark.parametrize("name", ["passage", "context", "choices", "article", "schema"])
def test_another_text_beside_the_same_question_is_another_question(tmp_path, name):
    """A context that is cut on one side, say; texts that all differ may be answers."""
    base, same = _scores(0.0)

    def rows(side, cut):
        for at, one in enumerate(base if side == "a" else same):
            text = _say(("text", at), 40)
            text = text[:60] if side == "b" and at % 100 < cut else text
            yield {"item": at, "score": one, "question": f"What of {at}?", name: text, "reply": _say((side, at))}

    assert compared(*_pair(tmp_path, lambda side: rows(side, 25))) == 4
    assert compared(*_pair(tmp_path, lambda side: rows(side, 0))) == 0


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_questions_can_be_the_ids(tmp_path, form):
    """Some tools write no others."""
    base, worse = _scores(0.12)
    pair = []
    for side, scores in (("a", base), ("b", worse)):
        path = tmp_path / f"{side}.{form}"
        if form == "csv":
            pair.append(csv_of(path, "user_input,score", [f"What of {at}?,{one}" for at, one in enumerate(scores)]))
        else:
            pair.append(jsonl(path, [{"user_input": f"What of {at}?", "score": one} for at, one in enumerate(scores)]))
    assert compared(*pair, "--item", "user_input") == 1


@pytest.mark.parametrize("all_lengths", [True, False])
def test_ruler_is_judged_by_length(tmp_path, all_lengths):
    """Its samples give the score under their own length, and -1 under others: the long ones are the tail."""
    base, worse = _scores(0.3)

    def samples(scores, kept):
        for at, (one, was) in enumerate(zip(scores, kept, strict=True)):
            length, score = ("16384", one) if at % 2 else ("4096", was)
            told = dict.fromkeys(("4096", "8192", "16384") if all_lengths else ("4096",), -1.0) | {length: score}
            sample = lm_eval_sample(at, 0.0, metrics=list(told), **told)
            del sample["exact_match"]
            yield sample

    pair = [samples_of(tmp_path / side, "niah", samples(own, base)) for side, own in (("a", base), ("b", worse))]
    assert compared(*pair) == 1
    assert set(load(pair[0]).slice.names) == {"niah 4096", "niah 16384"}


def test_an_empty_list_of_answers_is_no_answer(tmp_path):
    """What a failed call leaves in a sample."""
    base, worse = _scores(0.1)

    def samples(scores, side):
        for at, one in enumerate(scores):
            down = side == "a" and _down(at, 20)
            told = [] if down else [[_say((side, at))]]
            yield lm_eval_sample(at, 0.0 if down else one, resps=told, filtered_resps=told)

    assert compared(*[samples_of(tmp_path / s, "qa", samples(own, s)) for s, own in (("a", base), ("b", worse))]) == 4


@pytest.mark.parametrize("name", ["mer", "wil", "ttft", "false_alarm_rate", "omissions", "wrong_language"])
def test_less_is_better_of_more_names(tmp_path, name):
    """`--score wil` of a worse candidate is higher."""
    pair = [csv_of(tmp_path / f"{side}.csv", f"item,{name}", [f"{at},{at % 2}" for at in range(9)]) for side in "ab"]
    assert compared(*pair, "--score", name) == 2


def test_rows_of_an_error_rate_and_of_a_score_are_not_averaged(tmp_path):
    """A row for each metric, under ids of its own, and no --slice."""
    base, worse = _scores(0.1)

    def rows(side):
        for at, one in enumerate(base if side == "a" else worse):
            yield {"item": f"{at}-acc", "metric": "accuracy", "score": one}
            yield {"item": f"{at}-hal", "metric": "hallucination_rate", "score": 1.0 - one}

    assert compared(*_pair(tmp_path, rows)) == 2
