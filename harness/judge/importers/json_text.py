"""JSON as other tools write it, read strictly: whole files and JSON lines, with or without a byte order mark.

A key given twice is an error, because JSON readers disagree about which of the two values counts.
"""

import ast
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from harness.errors import NotComparable, UsageError
from harness.suite.toolkit.scoring_json import unique

# How a text begins that holds a whole response; types of parts that are no answer; steps of a dotted name.
RESPONSE = re.compile(Path(__file__).with_name("response.txt").read_text("utf-8").strip())
_ASKING, _SYSTEM, _ANSWERING = ("user", "human"), ("system", "developer"), ("assistant", "gpt", "model", "bot", "ai")
_THOUGHTS, _DEEPEST = ("thinking", "redacted_thinking", "reasoning"), 9


def parsed(text: str | bytes, where: str) -> Any:
    """Parse one JSON text. Raises NotComparable, at `where`, if it is none, nests too deeply, or has a key twice."""
    try:
        return json.loads(text.decode("utf-8-sig") if isinstance(text, bytes) else text, object_pairs_hook=unique)
    except RecursionError as error:
        raise NotComparable(f"{where}: the JSON is nested too deeply to be read") from error
    except ValueError as error:
        known = isinstance(error, json.JSONDecodeError | UnicodeDecodeError)
        raise NotComparable(f"{where} is not JSON ({error})" if known else f"{where}: bad JSON: {error}") from error


def leaves(told: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Give what is in an object, or in a list of them, by dotted names; of messages, those of the last one's role.

    Of a chat with its answer, the first message of the system and of the user as well.
    """
    told = unwritten(told) if isinstance(told, str) and RESPONSE.match(told) else told
    if isinstance(told, list) and told and all(isinstance(one, dict) for one in told):
        kinds = [str(one.get("type")) for one in told]
        rest = [one for one, kind in zip(told, kinds, strict=True) if kind not in _THOUGHTS and "tool" not in kind]
        told = rest or [{"type": "text", "text": f"calls {told}" if "tool" in str(kinds) else ""}]
        role = next((one for key in ("role", "from", "type") if isinstance(one := told[-1].get(key), str)), "")
        for other in (*_SYSTEM, *(_ASKING if role.lower() in _ANSWERING else ())) if role not in _SYSTEM else ():
            first: dict[str, Any] = next((one for one in told if other in one.values()), {})
            yield from (
                (f"{name}.{other}.{key}".lstrip("."), one)
                for key, one in first.items()
                if one != other and isinstance(one, str)
            )
        parts, name = [one for one in told if not role or role in one.values()], f"{name}.{role}".rstrip(".")
        parts = [one for one in parts if one.get("content") or not one.get("tool_calls")] or parts
        keys = dict.fromkeys(key for one in parts for key in one)
        told = {key: own if len(own := [one[key] for one in parts if key in one]) > 1 else own[0] for key in keys}
    if isinstance(told, dict) and name.count(".") < _DEEPEST:
        for key, one in told.items():
            yield from leaves(one, f"{name}.{key}".lstrip("."))
    else:
        yield name, told


def unwritten(text: str) -> Any:
    """Return what a text holds as JSON, or as Python writes lists and objects; the text if it is neither."""
    with suppress(ValueError, RecursionError):
        return json.loads(text)
    with suppress(ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        return json.loads(json.dumps(ast.literal_eval(text)))  # tuples are lists
    return text


def json_object(text: str | bytes, where: str) -> dict[str, Any]:
    """Parse one JSON text that must be an object. Raises NotComparable."""
    value = parsed(text, where)
    if not isinstance(value, dict):
        raise NotComparable(f"{where} holds a {type(value).__name__}, not an object")
    return value


def below(path: Path, pattern: str) -> list[Path]:
    """Find the files below a folder, each once, also in folders that a link in it leads to."""
    links = [one for one in path.rglob("*") if one.is_symlink() and one.is_dir()]
    found = {(one.parent.resolve(), one.name): one for root in (*links, path) for one in root.rglob(pattern)}
    return sorted(found.values())


def json_objects(path: Path) -> list[dict[str, Any]]:
    """Read objects: one per line, or one array of them. Raises NotComparable naming the line that is not an object."""
    try:
        with path.open(encoding="utf-8-sig") as stream:
            start = next((line for line in stream if line.strip()), "")
            if start.lstrip().startswith("["):
                text = start + stream.read()
                with suppress(ValueError, RecursionError):  # of what is no array, the lines say what is wrong
                    json.loads(text)
                    found = parsed(text, str(path))
                    if all(isinstance(one, dict) for one in found):
                        return list(found)
            stream.seek(0)
            return [_line(line, f"{path}: line {at}") for at, line in enumerate(stream, start=1) if line.strip()]
    except UnicodeDecodeError as error:
        raise not_utf8(path) from error


def not_utf8(path: Path) -> UsageError:
    """Say on which line of a file the first bytes are that are not UTF-8."""
    lines = enumerate(path.read_bytes().split(b"\n"), start=1)
    line = next((at for at, text in lines if text.decode(errors="ignore").encode() != text), 1)
    return UsageError(f"{path}: line {line} is not UTF-8 text")


def _line(text: str, where: str) -> dict[str, Any]:
    try:
        return json_object(text, where)
    except NotComparable as error:
        cut = ": the file was cut there" if "is not JSON" in str(error) and not text.endswith("\n") else ""
        raise NotComparable(f"{error}{cut}") from error


def first_object(path: Path) -> dict[str, Any]:
    """Return the first object of a file, of JSON lines or of an array; an empty one if the file begins otherwise."""
    with path.open(encoding="utf-8-sig", errors="replace") as stream:
        line = next((line for line in stream if line.strip()), "{}")
    try:
        whole = line.lstrip()[:1] == "[" or line.strip() == "{"  # an array, or an object over several lines
        data = json.loads(path.read_text("utf-8-sig", "replace") if whole else line)
    except (ValueError, RecursionError):
        return {}
    first = data[0] if isinstance(data, list) and data else data
    return first if isinstance(first, dict) else {}


def inner(data: object, *keys: str) -> Mapping[str, Any]:
    """Step into objects; an empty one if something else is there."""
    for key in keys:
        data = data.get(key) if isinstance(data, Mapping) else None
    return data if isinstance(data, Mapping) else {}
