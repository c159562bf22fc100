"""The user's own traffic: a JSON-lines file of questions with their right answers, validated whole.

Messages about a bad line name the file, the line and the rule, and never quote the line: it may hold personal data.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from harness.records import digest
from harness.suite.sandbox.names import toothless, unclear
from harness.suite.tail.language import scripts_of
from harness.suite.toolkit.datafiles import filled_lines
from harness.suite.toolkit.numerals import only_value
from harness.suite.toolkit.scoring_json import finite, schema_problem, unique
from harness.suite.toolkit.strata import level_text

Scorer = Literal["exact", "choice", "numeric", "contains", "regex", "json_schema", "code_tests", "chrf"]
_READ_BY = {"choices": ("choice",), "json_schema": ("json_schema",), "tolerance": ("numeric",)}
_READ_BY |= dict.fromkeys(("tests", "setup", "functions"), ("code_tests",))
_READ_BY["target"] = tuple(one for one in get_args(Scorer) if one not in {"json_schema", "code_tests"})
_SHOWN = 20


class BadRows(ValueError):
    """Lines of a file that cannot be asked or judged, all of them at once."""

    def __init__(self, path: Path, found: Sequence[tuple[int, str]]) -> None:
        self.lines = [f"{path.name}:{number}: {message}" for number, message in found[:_SHOWN]]
        if len(found) > _SHOWN:
            self.lines.append(f"... and {len(found) - _SHOWN} more")
        super().__init__("\n".join(self.lines))


class Message(BaseModel):
    """One turn of a conversation."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    role: Literal["system", "user", "assistant"]
    content: str


class Row(BaseModel):
    """One line of the file."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    id: str | None = None  # its lasting name; made of the line's content where there is none
    prompt: str | None = None  # the question
    messages: tuple[Message, ...] | None = None  # instead of `prompt`: a conversation that ends with the user's turn
    scorer: Scorer  # how the answer is judged
    target: str | bool | int | float | tuple[str, ...] | None = None  # one or several; for regex the expression
    choices: tuple[str, ...] = ()  # for choice: what to choose from
    json_schema: dict[str, Any] | None = Field(default=None, alias="schema")  # for json_schema
    tests: tuple[str, ...] = ()  # for code_tests: code that calls what the answer defines and raises where it is wrong
    setup: str = ""  # for code_tests: code that runs before the tests, such as imports and helpers
    functions: tuple[str, ...] = ()  # for code_tests: what the answer must define, if not all that the tests lack
    code_language: Literal["python", "javascript"] = "python"  # for code_tests: of answer and tests
    tolerance: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0  # for numeric: how far off the answer may be
    strata: dict[str, str | int | float | bool] = Field(default_factory=dict)  # axis to level: product, country ...
    cluster: str | None = None  # questions that share a source (a conversation, a customer) share this name
    weight: Annotated[float, Field(gt=0, le=1e12)] = 1.0  # the share of traffic, relative to the others
    language: str = ""  # the expected language of the answer (BCP 47)

    @model_validator(mode="after")
    def _can_be_asked_and_judged(self) -> Row:
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("give either prompt or messages")
        if self.prompt is not None and not self.prompt.strip():
            raise ValueError("prompt is empty")
        if self.messages is not None and (not self.messages or self.messages[-1].role != "user"):
            raise ValueError("messages must end with the user's turn")
        if self.messages is not None and any(one.role == "system" for one in self.messages[1:]):
            raise ValueError("a system message stands first or not at all")
        if problem := _problem(self):
            raise ValueError(problem)
        if self.language and not scripts_of(self.language):  # in which no drift could be seen
            raise ValueError("language is none that is known: write a BCP 47 tag such as en, pt-BR or ja")
        for name in sorted(self.model_fields_set & _READ_BY.keys()):
            if self.scorer not in _READ_BY[name] and getattr(self, name) not in ("", Row.model_fields[name].default):
                raise ValueError(f"{name.removeprefix('json_')} is read by {' and '.join(_READ_BY[name])} alone")
        return self

    @property
    def targets(self) -> tuple[str, ...]:
        """All right answers, as text."""
        if isinstance(self.target, float) and self.scorer == "numeric":  # 1.234 of JSON is no 1234 in any language
            return (re.sub(r"(?<=\.\d{3})$", "e0", level_text(self.target)),)
        several = self.target if isinstance(self.target, tuple) else (self.target,)
        return tuple(level_text(one) for one in several if one is not None)


def _problem(row: Row) -> str:  # noqa: PLR0911 - one return per rule
    """What the scorer of a line lacks; empty if it can judge an answer."""
    match row.scorer:
        case "choice" if len(row.choices) < 2 or len(set(row.choices)) < len(row.choices) or not all(row.choices):  # noqa: PLR2004 - one is no choice
            return "the scorer 'choice' needs two or more different choices"
        case "choice" if len(row.targets) != 1 or row.targets[0] not in row.choices:
            return "the target is not one of the choices, letter by letter"
        case "numeric" if not row.targets or any(only_value(one, row.language) is None for one in row.targets):
            return "the scorer 'numeric' needs a number as target"
        case "json_schema":
            lacking = "the scorer 'json_schema' needs a schema"
            return lacking if row.json_schema is None else schema_problem(row.json_schema)
        case "code_tests":
            return _code_problem(row)
        case "regex" if bad := next(filter(None, map(_pattern_problem, row.targets)), ""):
            return bad
        case "exact" | "contains" | "chrf" | "regex" if not row.targets or not all(one.strip() for one in row.targets):
            return f"the scorer {row.scorer!r} needs a target that is not empty"
    return ""


def _pattern_problem(pattern: str) -> str:
    try:
        anything = all(re.search(pattern, one) for one in ("", "\ue000")) and "(?!" not in pattern
    except re.error as error:
        return f"the target is not a regular expression: {error.msg} at position {error.pos}"
    return "the target is found in every answer, an empty one too, so every answer would be right" if anything else ""


def _code_problem(row: Row) -> str:
    if not row.tests or not all(one.strip() for one in row.tests):
        return "the scorer 'code_tests' needs tests that are not empty"
    python = row.code_language == "python"
    for number, one in enumerate((row.setup, *row.tests) if python else ()):
        try:
            ast.parse(one)
        except (SyntaxError, ValueError) as error:  # never its text: it is the user's own
            place = f"test {number}" if number else "setup"
            return f"{place} is not Python: {getattr(error, 'msg', 'null bytes')}"
    vague = "" if row.functions else unclear(row.setup, row.tests, row.code_language)
    said = vague or toothless(row.setup, row.tests, row.code_language)
    return f"item {row.id}: {said}" if said and row.id else said


def read_rows(path: Path) -> list[Row]:
    """Read and validate the whole file. Raises BadRows with every bad line, OSError where it cannot be read."""
    rows: list[Row] = []
    found: list[tuple[int, str]] = []
    names: dict[str, int] = {}
    for number, line in filled_lines(path):
        row = _row(line)
        if isinstance(row, list):
            found += [(number, problem) for problem in row]
        elif (first := names.setdefault(str(row.id), number)) != number:
            found.append((number, f"its id is that of line {first}"))
        else:
            rows.append(row)
    if found or not rows:
        raise BadRows(path, found or [(1, "the file holds no question")])
    return rows


def _row(line: str) -> Row | list[str]:
    """The question of a line, or all that is wrong with it."""
    try:
        data = json.loads(line, parse_constant=finite, object_pairs_hook=unique)
    except RecursionError:
        return ["is nested too deeply"]
    except ValueError as error:
        return [f"is not JSON: {error.msg if isinstance(error, json.JSONDecodeError) else error.args[0]}"]
    if not isinstance(data, dict):
        return ["is not a JSON object"]
    try:
        row = Row.model_validate(data)
    except ValidationError as error:
        return [_sentence(dict(one)) for one in error.errors(include_input=False, include_url=False)]
    return row if row.id else row.model_copy(update={"id": digest(data)})


def _sentence(error: Mapping[str, Any]) -> str:
    """Turn one of pydantic's errors into a sentence, without what the line says."""
    place = ".".join(str(part) for part in error["loc"] if not str(part).startswith(("str", "int", "float", "tuple")))
    if error["type"] == "value_error":
        return str(error["ctx"]["error"])
    if place == "scorer" and error["type"] == "literal_error":
        return f"scorer is none of {', '.join(get_args(Scorer))}"
    rules = {"extra_forbidden": "is not a key here", "missing": "is missing"}
    return f"{place}: {rules.get(error['type']) or error['msg'][0].lower() + error['msg'][1:]}"
