"""What tables of responses, chats and measures really hold: the answers alone are compared, and the questions are."""

from __future__ import annotations

import csv
import json
import random

import pytest
from written import compared, jsonl

BEFORE = [float(at % 5 > 0) for at in range(400)]
AFTER = [0.0 if at % 10 == 1 else one for at, one in enumerate(BEFORE)]  # loses a tenth
DOWN = [at % 5 == 0 and at % 10 < 9 for at in range(400)]  # the baseline's wrong answers


def _text(side, at):
    return f"{side} says that item {at} is {at * 7} and no other"


def _csv(path, rows):
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def _tables(tmp_path, columns, scores=(BEFORE, AFTER), write=_csv, suffix="csv"):
    """Two tables. columns: side and item to the row's columns beside id and score."""
    return [
        write(
            tmp_path / f"{side}.{suffix}",
            [{"item": f"q{at:03}", "score": one, **columns(side, at)} for at, one in enumerate(own)],
        )
        for side, own in zip("ab", scores, strict=True)
    ]


@pytest.mark.parametrize("likely", ["avg_logprob", "cumulative_logprob", "nll"])
@pytest.mark.parametrize("fault", [{"response": ""}, {"finish_reason": "length"}, {"response": "Error code: 503"}])
def test_a_likelihood_beside_an_answer_does_not_hide_that_there_is_none(tmp_path, likely, fault):
    """Gemini and vLLM give both: what the baseline's server failed to answer hides no loss."""

    def columns(side, at):
        told = {"response": _text(side, at), likely: f"-{at % 7}.{at}", "finish_reason": "stop"}
        return told | (fault if side == "a" and DOWN[at] else {})

    gained = [1.0 if DOWN[at] else one for at, one in enumerate(AFTER)]
    assert compared(*_tables(tmp_path, columns, (BEFORE, gained)), "--margin", "0.05") == 4


def _chat(side, at, chance):
    message = {"role": "assistant", "content": _text("x", at)}
    return {"id": f"{side}{chance.random()}", "created": chance.randrange(10**9), "choices": [{"message": message}]}


MEASURES = ["output_duration", "response_date", "completion_price", "generation_speed", "output_tokens_per_second"]


@pytest.mark.parametrize("measure", ["", *MEASURES])
def test_one_endpoint_asked_twice_is_seen_whatever_was_measured(tmp_path, measure):
    """The same answers, in whole responses or beside times and prices that differ, are the same run."""
    chance = random.Random(5)

    def columns(side, at):
        told = f"2026-01-0{1 + chance.randrange(9)} 10:00:{at % 60:02}" if "date" in measure else chance.random()
        return {"response": _text("x", at), measure: told} if measure else {"response": _chat(side, at, chance)}

    scores, write = (BEFORE, BEFORE), (_csv if measure else jsonl)
    assert compared(*_tables(tmp_path, columns, scores, write, "csv" if measure else "jsonl")) == 4


def test_numbers_are_answers_beside_a_column_of_sentences(tmp_path):
    """Only what can be a measure alone is left out: decimals, dates and long ids."""
    lost = [0.0 if at == 7 else one for at, one in enumerate(BEFORE)]

    def columns(side, at):
        return {"hypothesis": f"the lamp in room {at} is lit", "response": at + (side == "b"), "label": at % 3}

    assert compared(*_tables(tmp_path, columns, (BEFORE, lost)), "--margin", "0.05") == 0


@pytest.mark.parametrize(
    "error",
    [
        "Error code: 400 - {{'message': 'cannot be read', 'body': {!r}}}",
        "litellm.BadRequestError: OpenAIException - invalid request: {}",
    ],
)
def test_errors_that_repeat_their_prompt_are_counted_together(tmp_path, error):
    """No two are alike, and no model writes them."""

    def columns(side, at):
        return {
            "response": error.format(f"question {chr(97 + at % 26)} {at}")
            if side == "a" and DOWN[at]
            else _text(side, at)
        }

    gained = [1.0 if DOWN[at] else one for at, one in enumerate(AFTER)]
    assert compared(*_tables(tmp_path, columns, (BEFORE, gained)), "--margin", "0.05") == 4


@pytest.mark.parametrize("thought", ["<think>{}</think>", "<think>\n{}", "{}\n</think>\n"])
def test_a_thought_alone_is_no_answer(tmp_path, thought):
    """As runs take it: nothing was answered."""

    def columns(side, at):
        return {"response": thought.format(_text(side, at)) if side == "a" and DOWN[at] else f"{_text(side, at)}."}

    gained = [1.0 if DOWN[at] else one for at, one in enumerate(AFTER)]
    assert compared(*_tables(tmp_path, columns, (BEFORE, gained)), "--margin", "0.05") == 4


@pytest.mark.parametrize(("key", "who", "said"), [("messages", "role", "content"), ("conversations", "from", "value")])
@pytest.mark.parametrize(("other", "code"), [("", 0), ("question", 4), ("system", 4)])
def test_of_a_chat_with_its_answer_question_and_system_prompt_are_compared(tmp_path, key, who, said, other, code):
    """Row numbers of another selection name other questions; another system prompt is another setting."""
    user, model = ("user", "assistant") if who == "role" else ("human", "gpt")

    def columns(side, at):
        odd = other if side == "b" else ""
        system = "Think step by step." if odd == "system" else "Answer."
        asked = f"what is {'other' if odd == 'question' else ''} {at}?"
        told = (("system", system), (user, asked), (model, _text(side, at)))
        return {key: [{who: one, said: text} for one, text in told]}

    lost = [0.0 if at == 7 else one for at, one in enumerate(BEFORE)]
    assert compared(*_tables(tmp_path, columns, (BEFORE, lost), jsonl, "jsonl"), "--margin", "0.05") == code


@pytest.mark.parametrize("beside", ["A", "option_a", "choices.text", "image_id", "review", "transcript"])
def test_a_question_that_many_rows_share_is_another_with_what_stands_beside_it(tmp_path, capsys, beside):
    """Options, images, and any column of sentences that both tables have alike; if there is none, it is said."""

    def columns(side, at):
        text = f"the {at}th customer wrote that the lamp in the hall was lit again"
        return {"question": "Which is true?" if at % 2 else f"{at}?", beside: text, "prediction": f"{side}{at}"}

    lost = [0.0 if at == 7 else one for at, one in enumerate(BEFORE)]
    assert compared(*_tables(tmp_path, columns, (BEFORE, lost)), "--margin", "0.05") == 0
    tables = _tables(tmp_path, lambda side, at: {**columns(side, at), beside: ""}, (BEFORE, lost))
    assert compared(*tables, "--margin", "0.05", "--json") == 3
    assert "400 items ask 201 questions, of which each counts as one source" in " ".join(
        capsys.readouterr().out.split()
    )


@pytest.mark.parametrize(
    ("one", "other", "code"),
    [
        ({"do_sample": "True"}, {"do_sample": True}, 0),
        ({"target": "[1, 2]"}, {"target": [1, 2]}, 0),
        ({"question": "what is {at}?\r\nSay it."}, {"question": "what is {at}?\nSay it."}, 0),
        ({"question": "{at}?", "prompt": "{at}?"}, {"question": "{at}?", "prompt": "1 + 1 = 2. {at}?"}, 4),
        ({"instruction": "Say", "input": "mine {at}"}, {"instruction": "Say", "input": "yours {at}"}, 4),
        ({"question": "{at}?"}, {"question": "{at}!"}, 4),
    ],
)
def test_formats_write_one_value_otherwise_and_it_is_the_same(tmp_path, capsys, one, other, code):
    """CSV by pandas and JSON lines; what differs is named by its column."""
    rows = []
    for side, own in (("a", one), ("b", other)):
        told = [
            {key: text.replace("{at}", str(at)) if isinstance(text, str) else text for key, text in own.items()}
            for at in range(400)
        ]
        scores = [0.0 if at == 7 and side == "b" else BEFORE[at] for at in range(400)]
        rows.append([{"item": at, "score": scores[at], "response": _text(side, at), **told[at]} for at in range(400)])
    tables = _csv(tmp_path / "a.csv", rows[0]), jsonl(tmp_path / "b.jsonl", rows[1])
    assert compared(*tables, "--margin", "0.05", "--json") == code
    told = capsys.readouterr()
    said = " ".join((told.out + told.err).split())
    assert (f"another '{list(one)[-1]}' than in baseline" in said) == (code == 4)


@pytest.mark.parametrize("column", ["critique", "justification"])
def test_what_a_reader_wrote_of_wrong_answers_is_no_failure(tmp_path, column):
    """Somebody looked at the baseline's mistakes alone."""

    def columns(side, at):
        wrong = side == "a" and not BEFORE[at]
        return {"response": _text(side, at), column: ("arithmetic error", "incomplete")[at % 2] if wrong else ""}

    lost = [0.0 if at == 7 else one for at, one in enumerate(BEFORE)]
    assert compared(*_tables(tmp_path, columns, (BEFORE, lost)), "--margin", "0.05") == 0


def test_cells_of_json_are_read_as_the_objects_that_they_are(tmp_path):
    """Whole responses in CSV cells and in JSON lines are compared with one another."""
    chance = random.Random(6)
    lost = [0.0 if at == 7 else one for at, one in enumerate(BEFORE)]
    sides = [[_chat(side, at, chance) for at in range(400)] for side in "ab"]
    for side in sides[1]:
        side["choices"][0]["message"]["content"] += "!"
    a = [{"item": at, "score": BEFORE[at], "response": json.dumps(one)} for at, one in enumerate(sides[0])]
    b = [{"item": at, "score": lost[at], "response": one} for at, one in enumerate(sides[1])]
    assert compared(_csv(tmp_path / "a.csv", a), jsonl(tmp_path / "b.jsonl", b), "--margin", "0.05") == 0
