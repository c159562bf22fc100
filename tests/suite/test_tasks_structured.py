"""Structured answers: the right value fits its schema and stands in the facts; what no program reads scores nothing."""

from __future__ import annotations

import json

import pytest
from jsonschema import Draft202012Validator
from test_tasks_generated import docs, fingerprint, module

from harness.suite.toolkit.scoring_json import NOT_JSON, fits_schema, json_of, same_value, schema_problem

GOLDEN = {"to_schema": "c8dbac69e5bdc227", "tool_calls": "8cae4da9959f6a33"}


@pytest.mark.parametrize("file", GOLDEN)
def test_seed_0_gives_the_known_bytes(file):
    """Eight items per stratum from seed 0 have the SHA-256 that they had on Python 3.11, 3.12 and 3.13."""
    assert fingerprint(docs("structured_output", file, items=8)) == GOLDEN[file]


@pytest.mark.parametrize("file", GOLDEN)
def test_the_right_value_fits_the_schema_and_scores_one(file):
    """Every target satisfies its schema by jsonschema, and scores 1 however its keys are ordered or it is fenced."""
    score = module("structured_output", "structures").score
    for doc in docs("structured_output", file, items=12):
        value, schema = json.loads(doc["target"]), json.loads(doc["schema"])
        Draft202012Validator.check_schema(schema)
        Draft202012Validator(schema).validate(value)
        for text in (doc["target"], f"```json\n{json.dumps(value, indent=2)}\n```", json.dumps(value, sort_keys=True)):
            assert score(doc, [text]) == {"exact_match": 1.0, "valid": 1.0, "parses": 1.0}
        assert score(doc, [f"```json\r\n{doc['target']}\r\n```"])["exact_match"] == 1.0
        assert score(doc, [f"Sure! {doc['target']}"]) == {"exact_match": 0.0, "valid": 0.0, "parses": 0.0}
        assert score(doc, [doc["target"][:-1]])["parses"] == 0.0


def leaves(value):
    """All values at the ends of a JSON value."""
    if isinstance(value, dict):
        return [leaf for one in value.values() for leaf in leaves(one)]
    return [leaf for one in value for leaf in leaves(one)] if isinstance(value, list) else [value]


def test_every_fact_of_the_answer_is_told():
    """Each value of the right answer stands in the facts, and there are as many as the axis says."""
    for doc in docs("structured_output", "to_schema", items=12):
        facts = doc["prompt"].split("Facts:\n")[1].split("\n\nSchema:")[0]
        found = leaves(json.loads(doc["target"]))
        assert len(found) == int(doc["fields"])
        for leaf in found:
            said = {True: "yes", False: "no"}[leaf] if isinstance(leaf, bool) else str(leaf)
            assert said in facts


def test_shapes_are_what_they_say():
    """A flat answer has no branch, a nested one goes three deep, a list is a list of records."""

    def depth(value):
        return 1 + max((depth(one) for one in value.values()), default=0) if isinstance(value, dict) else 0

    for doc in docs("structured_output", "to_schema", items=8, axes={"fields": [9]}):
        value = json.loads(doc["target"])
        if doc["shape"] == "list":
            assert [len(row) for row in value] == [3, 3, 3]
        else:
            assert depth(value) == {"flat": 1, "nested": 4}[doc["shape"]]


def test_one_tool_of_those_offered_is_right():
    """As many tools as the axis says, the asked one among them, with its arguments in the request."""
    for doc in docs("structured_output", "tool_calls", items=8):
        lines = doc["prompt"].split("Tools:\n")[1].split("\n\nRequest:")[0].splitlines()
        offered = {tool["name"]: tool for tool in map(json.loads, lines)}
        call = json.loads(doc["target"])
        assert len(offered) == len(lines) == int(doc["tools"])
        assert len(call["arguments"]) == int(doc["arguments"])
        request = doc["prompt"].split("Request:")[1]
        assert offered[call["name"]]["description"] in request
        for value in call["arguments"].values():
            assert isinstance(value, bool) or str(value) in request


NO_JSON = ["", "{", "{'a': 1}", '{"a": 1,}', '{"a": NaN}', '{"a": 1, "a": 2}', '{"a": 1} and more', "[" * 5000]


@pytest.mark.parametrize("text", NO_JSON)
def test_what_is_no_json(text):
    """Unfinished, commented, doubled or nested beyond reason: none of it is JSON."""
    assert json_of(text) is NOT_JSON
    assert fits_schema(text, {}) == 0.0


def test_values_are_compared_as_json_does():
    """Key order and 1 against 1.0 do not matter; true is not 1, null is a value, a string is no number."""
    assert same_value('{"b": [1.0, null], "a": "x"}', {"a": "x", "b": [1, None]}) == 1.0
    assert same_value("true", 1) == 0.0
    assert same_value("null", None) == 1.0
    assert same_value('"1"', 1) == 0.0
    assert same_value("[1, 2]", [2, 1]) == 0.0


def test_schemas_are_checked_before_use():
    """A schema with an unknown type, or one that refers elsewhere, is refused; its own $defs are fine."""
    assert "objct" in schema_problem({"type": "objct"})
    assert "another document" in schema_problem({"allOf": [{"$ref": "https://example.com/s"}]})
    assert schema_problem({"$defs": {"n": {"type": "integer"}}, "type": "array", "items": {"$ref": "#/$defs/n"}}) == ""


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("date", ["2024-02-29", "2000-12-31"], ["03 January", "2023-02-29", "2024-04-31", "2024-01-03T10:00"]),
        ("date-time", ["2024-01-03T10:00:00Z", "2024-01-03T10:00:00.5+02:00", "2024-01-03T10:00:00"], ["2024-01-03"]),
        ("time", ["10:00:00Z", "23:59"], ["25:00", "noon"]),
        ("duration", ["P3D", "PT1H30M"], ["P", "3 days"]),
        ("email", ["a@b.co"], ["a", "a b@c"]),
        ("uuid", ["123e4567-e89b-12d3-a456-426614174000"], ["123"]),
        ("uri", ["https://a.b/c?d=1#e"], ["www.a.b", "a b"]),
        ("ipv4", ["1.2.3.4"], ["1.2.3", "256.1.1.1", "1.2.3.4."]),
        ("hostname", ["a-b.c"], ["-a"]),
    ],
)
def test_formats_count(name, good, bad):
    """A text of another form does not satisfy a schema with a `format`; what is no text has none."""
    schema = {"type": ["string", "integer"], "format": name}
    assert [fits_schema(json.dumps(one), schema) for one in (*good, *bad, 7)] == [1] * len(good) + [0] * len(bad) + [1]


def test_a_format_that_is_not_checked_is_refused():
    """One of JSON Schema's; what others call a format, or a property of that name, is nobody's rule."""
    assert "the format 'iri'" in schema_problem({"properties": {"a": {"format": "iri"}}, "required": ["a"]})
    assert schema_problem({"type": "string", "format": "password"}) == ""
    assert schema_problem({"type": "object", "required": ["format"], "properties": {"format": {"const": "iri"}}}) == ""


def test_decimals_are_multiples_as_they_are_written():
    """0.07 is a multiple of 0.01, 0.075 is none, and a number beyond exact floats is judged."""
    prices = {"type": "number", "multipleOf": 0.01}
    assert all(fits_schema(f"{number / 100}", prices) for number in range(1, 1000))
    assert [fits_schema(one, prices) for one in ("0.075", "1e300", "19.999", "7")] == [0, 1, 0, 1]
