"""A scorer neither raises on an answer nor hangs: what goes beyond a limit scores 0, and the item says so."""

# ruff: noqa: E501 - schemas are kept as they read

from __future__ import annotations

import signal
import time

import pytest

from harness.suite.toolkit import scoring
from harness.suite.toolkit.generated_code import Asked, program_of
from harness.suite.toolkit.numerals import numbers
from harness.suite.toolkit.scoring import OverLimit, limited, matches_any, noted
from harness.suite.toolkit.scoring_json import NOT_JSON, fits_schema, json_of, same_value, schema_problem

SLOW = "a" * 40 + "!"
NESTED = {"type": "array", "items": {"$ref": "#"}}
BEYOND = {
    "a pattern": lambda: matches_any(SLOW, ["^(a+)+$"]),
    "a pattern of a schema": lambda: fits_schema(f'"{SLOW}"', {"pattern": "^(a+)+$"}),
    "a pattern of names": lambda: fits_schema(f'{{"{SLOW}": 1}}', {"patternProperties": {"^(a+)+$": {}}}),
    "references that double": lambda: fits_schema("[" * 60 + "1" + "]" * 60, {"items": {"allOf": [{"$ref": "#"}, {"$ref": "#"}]}}),
    "depth": lambda: same_value("[" * 900 + "]" * 900, []),
    "depth of a schema": lambda: fits_schema("[" * 900 + "]" * 900, NESTED),
    "an endless reference": lambda: fits_schema("{}", {"$ref": "#"}),
    "a missing definition": lambda: fits_schema("{}", {"$ref": "#/$defs/no"}),
    "a reference to the network": lambda: fits_schema("{}", {"$dynamicRef": "http://127.0.0.1:9/x"}),
    "a number too large": lambda: fits_schema("1" + "0" * 400, {"multipleOf": 0.1}),
}  # fmt: skip


@pytest.mark.parametrize("case", BEYOND)
def test_beyond_a_limit_an_answer_scores_nothing_and_says_so(case, monkeypatch):
    """Time (here a second), depth and references: 0.0, a note, and no exception."""
    monkeypatch.setattr("harness.suite.toolkit.scoring.SECONDS", 1.0)
    started = time.monotonic()
    with noted() as notes:
        assert BEYOND[case]() == 0.0
    assert notes
    assert time.monotonic() - started < 6


@pytest.mark.parametrize(
    "text", ["1" + "0" * 5000, "1e999", "-1e999", "[1e400]", "NaN", '{"a":1,"a":2}', "\ud800", '"\\ud800', "[" * 50]
)
def test_odd_json_is_no_reason_to_stop(text):
    """Numbers beyond a double are not JSON here: two of them would be equal."""
    assert json_of(text) is NOT_JSON
    assert same_value(text, 1) == fits_schema(text, {"type": "object"}) == 0.0


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        ({"$dynamicRef": "http://example.org/x"}, "dynamic reference"),
        ({"items": {"$recursiveRef": "#"}}, "dynamic reference"),
        ({"$ref": "http://example.org/x"}, "another document"),
        ({"properties": {"a": {"$ref": "other.json#/x"}}}, "another document"),
        ({"$ref": "#"}, "without end"),
        (
            {
                "properties": {"a": {"$ref": "#/$defs/a"}},
                "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}},
            },
            "without end",
        ),
        ({"properties": {"a": {"$ref": "#/$defs/no"}}}, "does not have"),
        ({"properties": {"a": {"pattern": "("}}}, "is not a 'regex'"),
        ({"patternProperties": {"(": {}}}, "is not a 'regex'"),
        ({"type": "nothing"}, "not JSON Schema"),
        ({}, "every JSON value fits"),
        ({"title": "Order", "properties": {"city": {"type": "string"}}}, "every JSON value fits"),
        ({"$schema": 5}, "not of type 'string'"),
        ({"$schema": {}}, "not of type 'string'"),
    ],
)
def test_schemas_that_could_not_judge_are_refused(schema, said):
    """Before anything runs, with what is wrong."""
    assert said in schema_problem(schema)


def test_schemas_that_recurse_and_names_like_keywords_are_good():
    """A tree refers to itself; a property may be called pattern, and data may hold what looks like a reference."""
    tree = {
        "type": "object",
        "properties": {"left": {"$ref": "#"}, "pattern": {"type": "string"}, "$ref": {"type": "string"}},
    }
    assert schema_problem(tree) == ""
    assert fits_schema('{"left": {"left": {}, "pattern": "("}, "$ref": "http://x"}', tree) == 1.0
    assert fits_schema('{"left": 3}', tree) == 0.0
    assert schema_problem({"enum": [{"$ref": "http://example.org"}], "default": {"$dynamicRef": "x"}}) == ""
    assert schema_problem({"$ref": "#/$defs/a", "$defs": {"a": {"type": "string"}}}) == ""


@pytest.mark.parametrize("text", ["=*", "1,", "\n", '"\\"', " ", "7 "])
@pytest.mark.timeout(30)
def test_a_loop_of_any_text_is_read_in_time_that_grows_with_its_length(text):
    """A model that loops writes one thing thousands of times: code, numbers and JSON are still read within seconds."""
    answer = text * (40_000 // len(text))
    program_of(answer, Asked("javascript", "f"))
    numbers(answer)
    json_of('"' + answer)


def test_time_in_which_a_job_stands_still_is_no_answers_fault(monkeypatch):
    """Suspended, or on a machine that does other things: processor time counts, and a scorer that waits ends, too."""

    def endless():
        while True:
            pass

    with limited(0.2):
        time.sleep(0.6)
    with pytest.raises(OverLimit), limited(0.2):
        endless()
    monkeypatch.setattr(scoring, "WAITS", 2)
    with pytest.raises(OverLimit), limited(0.2):
        time.sleep(20)


def test_an_alarm_that_someone_else_has_set_goes_on():
    """A program that embeds us may watch itself by the clock."""
    signal.setitimer(signal.ITIMER_REAL, 600)
    try:
        with limited(0.2):
            assert signal.getitimer(signal.ITIMER_REAL)[0] > 500
        assert signal.getitimer(signal.ITIMER_REAL)[0] > 500
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
