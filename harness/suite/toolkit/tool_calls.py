"""Tool calls: read from an answer in the formats of the families, and each failure put in one class (docs/axes.md)."""

import json
import re
import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from harness.records import TAIL_KINDS
from harness.suite.toolkit.datafiles import read_text
from harness.suite.toolkit.scoring_json import NOT_JSON, fits_schema, json_of, same_value

FAILURES = tuple(kind for kind in TAIL_KINDS if kind.startswith("tool_"))
"""Every class of failure; an answer is in one of them at most. Each is a kind of tail event."""

Listed = Sequence[Mapping[str, Any]]


class ToolCall(NamedTuple):
    """One call as an answer makes it."""

    name: str  # the tool's; empty if it could not be read
    arguments: Any  # what it is called with; `NOT_JSON` if that could not be read


_UNREAD = ToolCall("", NOT_JSON)
_PATTERNS = tomllib.loads(read_text(Path(__file__).with_name("tool_calls.toml")))
_RE: dict[str, re.Pattern[str]] = {name: re.compile(pattern) for name, pattern in _PATTERNS.items()}
_FROM_API = "<api_tool_calls>"  # before the calls that a server has parsed: they alone are made, whatever the text says
_MOST_VALUES = 100  # so many JSON values in an answer are looked at; more are a call that cannot be read


def tool_calls(text: str) -> list[ToolCall]:
    """Return the calls that an answer makes, in order; one that cannot be read, as in a second format, is too."""
    _, parsed, listed = text.rpartition(_FROM_API)
    if parsed:
        return list(_from_json(listed, [])) or [_UNREAD]
    left: list[str] = []  # what is no part of the calls that are read
    calls = _of_one_family(text, left)
    other = any(map(_RE["attempts"].search, left)) or any(len(one) < len(text) and tool_calls(one) for one in left)
    return [*calls, _UNREAD] if calls and other else calls


def _of_one_family(text: str, left: list[str]) -> list[ToolCall]:
    if "<tool_call>" in text:
        left.append(_RE["tagged"].sub("\n", text))
        return [call for body in _RE["tagged"].findall(text) for call in _tagged(body, left)]
    if "<function=" in text:
        return list(_tagged(text, left))
    if found := _RE["kimi"].findall(text):
        left.append(re.sub(r"<\|tool_calls_section_(?:begin|end)\|>", "", _RE["kimi"].sub("\n", text)))
        return [ToolCall(name, json_of(body)) for name, body in found]
    if "[TOOL_CALLS]" in text:
        before, *bodies = _RE["mistral"].split(text)
        left.append(before)
        return [call for body in bodies for call in _mistral(body, left)]
    if _RE["name_first"].match(text.strip()):
        return list(_mistral(text.strip(), left))
    bare = text.replace("<|python_tag|>", "").strip()  # JSON with no mark around it: an object, a list, or several
    whole = bare[:1] in {"{", "["}
    pieces = [bare] if whole else [one.strip() for one in _RE["fenced"].findall(bare)]
    calls = [one for one in pieces if one[:1] in {"{", "["} and _RE["keys"].search(one)]
    left += [] if whole else [_RE["fenced"].sub(lambda one: "\n" if one[1].strip() in calls else one[0], bare)]
    return [call for piece in calls for call in _from_json(piece, left)]


def with_api_calls(text: str, calls: Sequence[Mapping[str, str]], said: str) -> str:
    """Return an answer with the calls that a server parsed, in the form in which `tool_calls` reads them.

    said: the text without thoughts; a call that the server left in it counts as one that cannot be read.
    """
    if not calls and not tool_calls(said) and not _RE["attempts"].search(said):
        return text
    listed = json.dumps(list(calls), ensure_ascii=False).replace("<", "\\u003c")
    return f"{text}\n{_FROM_API}{listed}".lstrip("\n")


def _tagged(body: str, left: list[str]) -> Iterator[ToolCall]:
    if functions := _RE["xml"].findall(body):
        left.append(_RE["xml"].sub("\n", body))
    else:
        yield from _from_json(body, behind := list[str]())
        if re.search(r"[^\s;,]", "".join(behind)):  # servers' parsers read no call from such a body
            yield _UNREAD
    for name, inner in functions:
        left.append(_RE["parameter"].sub("\n", inner))
        given = _RE["parameter"].findall(inner)  # a value is JSON if it is valid, else its text
        once = {key: told if (value := json_of(told)) is NOT_JSON else value for key, told in given}
        yield ToolCall(name, once if len(once) == len(given) else NOT_JSON)


def _mistral(body: str, left: list[str]) -> Iterator[ToolCall]:
    """Read a list of calls, or names that are followed by their arguments."""
    if body.lstrip()[:1] in {"[", "{"}:
        yield from _from_json(body, left)
        return
    rest = body
    while named := _RE["named"].match(rest):
        arguments = _first_value(named[2]) or named[2]
        yield ToolCall(named[1], json_of(arguments))
        rest = named[2][len(arguments) :]
    if rest is body or re.match(r"\w[\w.-]*\Z|\s*[])}\"']", rest):  # no call, a name alone, a brace too many
        yield _UNREAD
    left.append(rest)


def _first_value(text: str, at: int = 0) -> str:
    """Return the JSON value that begins at a place, as it is written; empty if it has no end."""
    try:
        return text[at : json.JSONDecoder().raw_decode(text, at)[1]]
    except (ValueError, RecursionError):
        return ""


def _from_json(text: str, left: list[str]) -> Iterator[ToolCall]:
    rest = text.strip().removeprefix("```json").removesuffix("```").strip()
    value = json_of(rest)
    if value is not NOT_JSON:
        yield from _calls_of(value)
        return
    first = _first_value(rest)
    yield from _calls_of(json_of(first))
    end, read, looked, between = len(first), len(first), 0, ""
    for begin in _RE["open"].finditer(rest, end) if first else ():  # several, with ; or a line break or words between
        at = begin.start()
        if at < end:
            continue
        if looked == _MOST_VALUES:
            yield _UNREAD
            return
        piece, looked = _first_value(rest, at), looked + 1
        end = at + len(piece)
        if _RE["keys"].search(piece) or (not piece and _RE["begun"].match(rest, at)):
            yield from _calls_of(json_of(piece))
            between, read = f"{between}\n{rest[read:at]}", end
    left.append(f"{between}\n{rest[read:]}")


def _calls_of(value: Any) -> Iterator[ToolCall]:
    """Return the calls in a JSON value of any of the forms; one that cannot be read if it has none."""
    if isinstance(value, Mapping) and isinstance(value.get("tool_calls"), list) and "name" not in value:
        value = value["tool_calls"]
    if isinstance(value, list):
        for one in value:
            yield from _calls_of(one)
        return
    inner = value.get("function") if isinstance(value, Mapping) else None
    call = inner if isinstance(inner, Mapping) else value
    told = value.get("name", call.get("name")) if isinstance(value, Mapping) and isinstance(call, Mapping) else None
    if not isinstance(told, str) or call.get("name") != told or {"arguments", "parameters"} <= set(call):
        yield _UNREAD
        return
    arguments = call.get("arguments", call.get("parameters", {}))
    yield ToolCall(call["name"], json_of(arguments) if isinstance(arguments, str) else arguments)


def failure(text: str, tools: Listed, target: Listed) -> str:  # noqa: PLR0911 - one return per class
    """Return the class of an answer's failure, one of `FAILURES`; empty if it makes exactly the right calls.

    tools: as in OpenAI's API. target: the right calls, in any order. The first class of docs/axes.md that holds counts.
    """
    calls = tool_calls(text)
    if not target:
        return "tool_uncalled_for" if calls or _RE["attempts"].search(text) else ""
    if any(call.arguments is NOT_JSON for call in calls):
        return "tool_invalid_json"
    schemas = {one["function"]["name"]: one["function"]["parameters"] for one in tools}
    made, wanted = Counter(call.name for call in calls), Counter(one["name"] for one in target)
    if any(name not in schemas for name in made):
        return "tool_unknown_name"
    if made - wanted:
        return "tool_wrong_name"
    if wanted - made:
        return "tool_no_call"
    written = [(call.name, json.dumps(call.arguments)) for call in calls]
    if not all(fits_schema(arguments, schemas[name]) for name, arguments in written):
        return "tool_schema"
    left = list(target)  # as many as were made, in any order
    for name, arguments in written:
        found = next((one for one in left if one["name"] == name and same_value(arguments, one["arguments"])), None)
        if found is None:
            return "tool_wrong_value"
        left.remove(found)
    return ""
