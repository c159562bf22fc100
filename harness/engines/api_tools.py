"""Tools through the chat API: the calls that the server found in an answer, whole or in the pieces of a stream."""

import json
from typing import Any


def parse_calls(given: Any) -> tuple[dict[str, str], ...]:
    """Return the name and the arguments (JSON in a text) of each call. Raises ValueError if it is no list of calls."""
    if not isinstance(given, list | None):
        raise ValueError(f"an answer whose tool_calls are a {type(given).__name__}")  # noqa: TRY004 - as for any shape
    if not given:
        return ()
    functions = [one["function"] for one in given if isinstance(one, dict) and isinstance(one.get("function"), dict)]
    if len(functions) != len(given):
        raise ValueError("an answer with a tool call that has no function")
    return tuple({name: _text(one.get(name)) for name in ("name", "arguments")} for one in functions)


def add_pieces(calls: list[Any], pieces: Any) -> int:
    """Add what one event of a stream says of its calls, and return how many characters that is."""
    new = 0
    for piece in pieces if isinstance(pieces, list) else [pieces] if pieces else []:
        function = piece.get("function") if isinstance(piece, dict) else None
        if not isinstance(function, dict):
            calls.append(None)  # `parse_calls` refuses it, whatever comes after
            continue
        said = {name: _text(function.get(name)) for name in ("name", "arguments")}
        call = _begun(calls, piece, said["name"])
        for name, text in said.items():
            call["function"][name] += text
            new += len(text)
    return new


def _begun(calls: list[Any], piece: dict[str, Any], name: str) -> dict[str, Any]:
    """Return the call of a piece's index, unless it has another id, or a new one at the end of the calls."""
    index, own = piece.get("index"), piece.get("id") or ""
    for call in reversed(calls):
        if isinstance(call, dict) and call["index"] == index and not (index is None and name):
            if not own or not call["id"] or own == call["id"]:
                return call
            break
    made: dict[str, Any] = {"index": index, "id": own, "function": {"name": "", "arguments": ""}}
    calls.append(made)
    return made


def _text(value: Any) -> str:
    return value if isinstance(value, str) else "" if value is None else json.dumps(value)
