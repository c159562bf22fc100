"""Graders of structured answers: is it JSON, does it fit a schema, is it the value that was asked for.

Schemas are JSON Schema, draft 2020-12 unless one names another; references to other documents are never followed.
"""

import json
import math
import re
import tomllib
from collections.abc import Iterator, Mapping
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

from harness.suite.toolkit.scoring import BEYOND, limited, note, scored

NOT_JSON = object()  # what `json_of` gives for an answer that is not JSON; None is JSON's null
_DEEPEST = 100  # levels of nesting; beyond it an answer is not read
_DATA = ("const", "enum", "default", "examples")
_FORMATS: dict[str, str] = tomllib.loads(Path(__file__).with_name("formats.toml").read_text("utf-8"))
_PROBES: tuple[Any, ...] = (None, {}, [], "", 0)
_FENCE = re.compile(r"\A```[a-zA-Z]*[ \t\r]*\n(.*?)\n?```\Z", re.DOTALL)


def json_of(text: str) -> Any:
    """Give the JSON value that an answer is, `NOT_JSON` where it is none.

    White space around it and one Markdown fence are let through; any other word before or after is not. NaN, infinity
    and a key given twice are not JSON here.
    """
    bare = text.strip()
    bare = fenced[1] if (fenced := _FENCE.match(bare)) else bare
    deepest = depth = 0
    for mark in re.findall(r'"(?:[^"\\]|\\.)*+"?|[\[{\]}]', bare):
        depth += (mark in "[{") - (mark in "]}")
        deepest = max(deepest, depth)
    if deepest > _DEEPEST:
        note(f"JSON nested deeper than {_DEEPEST} levels")
        return NOT_JSON
    try:
        return json.loads(bare, parse_constant=finite, parse_float=finite, object_pairs_hook=unique)
    except (ValueError, RecursionError):
        return NOT_JSON


def finite(text: str) -> float:
    """Read a number, as a hook of `json.loads`. Raises ValueError if it is none of JSON, or beyond a float."""
    if not math.isfinite(number := float(text)):
        raise ValueError(f"{text} is no JSON number")
    return number


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make the object of its pairs, as a hook of `json.loads`. Raises ValueError where a key is given twice."""
    made, keys = dict(pairs), [key for key, _ in pairs]
    if len(made) != len(keys):
        raise ValueError(f"the key {next(key for key in keys if keys.count(key) > 1)!r} is given twice")
    return made


def schema_problem(schema: Mapping[str, Any]) -> str:
    """Say in a sentence what is wrong with a schema; empty where nothing is."""
    from jsonschema.exceptions import SchemaError

    try:
        _validators(schema).check_schema(schema)
    except SchemaError as error:
        return f"the schema is not JSON Schema: {error.message[:200]}"
    except RecursionError:
        return "the schema is nested too deep"
    named = [(key, value) for key, value in _keywords(schema) if isinstance(value, str)]
    if any(key in {"$dynamicRef", "$recursiveRef"} for key, _ in named):
        return "the schema has a dynamic reference; write it as a $ref to its own $defs"
    if unknown := {value for key, value in named if key == "format"} & {*_FORMATS["unchecked"].split()}:
        return f"the schema has the format {min(unknown)!r}, which is not checked: write a pattern or leave it out"
    references = [value for key, value in named if key == "$ref"]
    if any(not one.startswith("#") for one in references):
        return "the schema refers to another document; write what it needs into its own $defs"
    problem = next(filter(None, (_unfollowed(schema, one) for one in references)), "")
    free = not problem and all(map(_validator(schema).is_valid, _PROBES))
    return "every JSON value fits the schema, even 0: give it a `type` and say what is `required`" if free else problem


def _unfollowed(schema: Mapping[str, Any], reference: str) -> str:
    """What is wrong with a reference into the schema itself: it leads nowhere, or round in a circle."""
    from referencing.exceptions import Unresolvable

    validator = _validator(schema)
    try:
        with limited():
            for probe in _PROBES:
                list(validator.descend(probe, {"$ref": reference}))
    except Unresolvable:
        return f"the schema refers to {reference[:80]!r}, which it does not have"
    except BEYOND:
        return f"the schema's reference {reference[:80]!r} leads back to itself without end"
    return ""


def _keywords(schema: Any) -> Iterator[tuple[str, Any]]:
    """Every key of a schema and of the schemas in it with its value; not those of data."""
    if isinstance(schema, Mapping):
        for key, value in schema.items():
            yield key, value
            if key not in _DATA:
                yield from _keywords(value)
    elif isinstance(schema, list):
        for one in schema:
            yield from _keywords(one)


def _validators(schema: Mapping[str, Any]) -> Any:
    """The class of validators for the draft that a schema names, or for 2020-12."""
    from jsonschema import Draft202012Validator
    from jsonschema.validators import validator_for

    return validator_for({"$schema": str(schema.get("$schema"))}, default=Draft202012Validator)


def _validator(schema: Mapping[str, Any]) -> Any:
    """The schema's validator, with nothing to look up but the schema itself."""
    from referencing import Registry

    return _exact(_validators(schema))(schema, registry=Registry())


@cache
def _exact(draft: Any) -> Any:
    """A draft's validators, to which 0.07 is a multiple of 0.01, and which check formats."""
    from jsonschema.validators import extend

    def multiple(validator: Any, step: float, value: Any, schema: Any) -> Any:
        known = validator.is_type(value, "number")  # and an error follows where no double holds it
        good = not known or Fraction(str(value)) % Fraction(str(step)) == 0 * (value + 0 * step)
        return draft.VALIDATORS["enum"](validator, [value] * good, value, schema)

    formats = {"format": lambda one, name, *more: draft.VALIDATORS["pattern"](one, _FORMATS.get(name, ""), *more)}
    return extend(draft, {"multipleOf": multiple, **formats})


def fits_schema(text: str, schema: Mapping[str, Any]) -> float:
    """Score 1 where the answer is JSON that satisfies the schema."""
    from referencing.exceptions import Unresolvable

    value = json_of(text)
    if value is NOT_JSON:
        return 0.0
    try:
        return scored(lambda: float(_validator(schema).is_valid(value)))
    except Unresolvable as error:
        note(f"the schema refers to what it does not have: {error}")
        return 0.0


def same_value(text: str, target: Any) -> float:
    """Score 1 where the answer is JSON with the target's value: order of keys does not matter, types do."""
    value = json_of(text)
    return scored(lambda: float(value is not NOT_JSON and _typed(value) == _typed(target)))


def _typed(value: Any) -> Any:
    """Keep true apart from 1, which Python takes for the same; 1 and 1.0 are the same number in JSON."""
    if isinstance(value, bool):
        return ("bool", value)
    if isinstance(value, dict):
        return {key: _typed(one) for key, one in value.items()}
    return [_typed(one) for one in value] if isinstance(value, list) else value
