"""Graders of structured answers: is it JSON, does it fit a schema, is it the value that was asked for.

Pure functions on text. Schemas are JSON Schema, draft 2020-12 unless a schema names another, judged by the package
jsonschema; a schema's references to the network are never followed. Knows nothing of models or tasks.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

__all__ = ["NOT_JSON", "fits_schema", "json_of", "same_value", "schema_problem"]

NOT_JSON = object()
"""What `json_of` gives for an answer that is not JSON; None is JSON's null."""

_FENCE = re.compile(r"\A```[a-zA-Z]*[ \t]*\n(.*?)\n?```\Z", re.DOTALL)


def json_of(text: str) -> Any:
    """Give the JSON value that an answer is, `NOT_JSON` where it is none.

    White space around it and one Markdown fence are let through; any other word before or after is not. NaN, infinity
    and a key given twice are not JSON here.
    """
    bare = text.strip()
    fenced = _FENCE.match(bare)
    try:
        return json.loads(fenced.group(1) if fenced else bare, parse_constant=_refuse, object_pairs_hook=_unique)
    except (ValueError, RecursionError):
        return NOT_JSON


def _refuse(name: str) -> Any:
    raise ValueError(name)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("a key is given twice")
    return made


def schema_problem(schema: Mapping[str, Any]) -> str:
    """Say in a sentence what is wrong with a schema; empty where nothing is."""
    from jsonschema.exceptions import SchemaError
    from jsonschema.validators import validator_for

    try:
        validator_for(schema, default=_default()).check_schema(schema)
    except SchemaError as error:
        return f"the schema is not JSON Schema: {error.message[:200]}"
    if any(isinstance(one, str) and not one.startswith("#") for one in _references(schema)):
        return "the schema refers to another document; write what it needs into its own $defs"
    return ""


def _references(value: Any) -> list[Any]:
    if isinstance(value, Mapping):
        own = [value["$ref"]] if "$ref" in value else []
        return own + [one for part in value.values() for one in _references(part)]
    return [one for part in value for one in _references(part)] if isinstance(value, list) else []


def _default() -> Any:
    from jsonschema import Draft202012Validator

    return Draft202012Validator


def fits_schema(text: str, schema: Mapping[str, Any]) -> float:
    """Score 1 where the answer is JSON that satisfies the schema."""
    from jsonschema.validators import validator_for

    value = json_of(text)
    if value is NOT_JSON:
        return 0.0
    return float(validator_for(schema, default=_default())(schema).is_valid(value))


def same_value(text: str, target: Any) -> float:
    """Score 1 where the answer is JSON with the target's value: order of keys does not matter, types do."""
    value = json_of(text)
    return float(value is not NOT_JSON and _typed(value) == _typed(target))


def _typed(value: Any) -> Any:
    """Keep true apart from 1, which Python takes for the same; 1 and 1.0 are the same number in JSON."""
    if isinstance(value, bool):
        return ("bool", value)
    if isinstance(value, dict):
        return {key: _typed(one) for key, one in value.items()}
    return [_typed(one) for one in value] if isinstance(value, list) else value
