"""The OpenAI API as quantcliff uses it: how a prompt is sent, and what is read from an answer.

Log-probabilities of a prompt come in two ways: ``prompt_logprobs`` (vLLM) names each token's log-probability and rank
by its id; ``echo`` with ``logprobs`` repeats the prompt with a list of numbers.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from harness.errors import NonFinite, NotComparable
from harness.records import Settings

Piece = tuple[float, int]
"""When a part of a streamed text came, and how many characters of the answer (not of its reasoning) there were then."""
MOST_STOPS = 4  # stop texts that the API takes; the others are looked for in the answer
_LENGTH = dict.fromkeys(("max_tokens", "max_output_tokens"), "length")  # other words for it, of what a gateway leads to
OVER_CONTEXT = re.compile(Path(__file__).with_name("over_context.txt").read_text("utf-8"))
METHODS: dict[str, dict[str, Any]] = {
    "prompt_logprobs": {"prompt_logprobs": 1, "max_tokens": 1},
    "echo": {"echo": True, "logprobs": 1, "max_tokens": 1},
}  # the fields of a request that ask for the log-probabilities of its prompt, by the name of the way


@dataclass(frozen=True, slots=True)
class RequestForm:
    """How a server is asked: what the probe at the start found to work."""

    model: str
    prompts: Literal["token ids", "text", "messages"] = "token ids"
    gives_ids: bool = False  # whether the answer's token ids come back (`return_token_ids`)
    limit_name: str = "max_tokens"  # the field that bounds an answer
    stream: bool = False

    @property
    def path(self) -> str:
        """Where questions go."""
        return "/chat/completions" if self.prompts == "messages" else "/completions"

    def body(self, prompt: Any, most: int, given: Settings, seed: int = 0, stop: Sequence[str] = ()) -> dict[str, Any]:
        """Return the request for one answer of at most so many tokens."""
        body = {"model": self.model, "messages" if self.prompts == "messages" else "prompt": prompt}
        body |= {self.limit_name: most, "temperature": given.temperature, "seed": seed, "stream": self.stream}
        body |= {"stream_options": {"include_usage": True}} if self.stream else {}
        body |= {"top_p": given.top_p} if given.temperature > 0 else {}
        body |= {"stop": list(stop)[:MOST_STOPS]} if stop else {}
        return body | ({"return_token_ids": True} if self.gives_ids else {})


@dataclass(frozen=True, slots=True)
class Answer:
    """What an answer says, before anything is made of it."""

    text: str  # the answer; reasoning that came in its own field stands before it between think marks
    before: int  # characters of that reasoning with its marks
    ids: tuple[int, ...] | None  # its tokens, if they came back
    finish: str
    stop: str  # the stop text that ended it, if the server says so
    prompt_tokens: int | None
    output_tokens: int | None
    fingerprint: str
    model: str  # what the server calls the model that answered
    null: bool  # whether there was no text at all
    truncated: bool  # whether the server says that it cut the prompt or ran out of context
    cached_tokens: int | None  # tokens of the prompt that the server remembered, if it says so
    reasoning_tokens: int | None
    apart: int  # tokens of a thought that `output_tokens` does not hold
    calls: tuple[dict[str, str], ...] = ()  # tool calls that the server found, each with ``name`` and ``arguments``


def parse_answer(data: Mapping[str, Any]) -> Answer:
    """Read an answer of either path. Raises ValueError if it has not the shape of one."""
    choices = data.get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        raise ValueError(f"an answer without choices: {str(dict(data))[:200]}")
    choice = next((one for one in choices if isinstance(one, dict) and one.get("index") == 0), choices[0])
    message = choice.get("message")
    holder, name = (message, "content") if isinstance(message, dict) else (choice, "text")
    content, thought = holder.get(name), holder.get("reasoning") or holder.get("reasoning_content")
    for what, one in ((name, content), ("reasoning", thought)):
        if one is not None and not isinstance(one, str):
            raise ValueError(f"an answer whose {what} is a {type(one).__name__}")
    thought = (thought or "").replace("<think>", "").replace("</think>", "")  # some servers leave a mark in
    content = re.sub(r"\A\s*</think>\s*", "", content) if thought and content else content
    before = f"<think>\n{thought}\n</think>\n\n" if thought else ""
    calls, usage = parse_calls(holder.get("tool_calls")), _mapping(data, "usage")
    ids, stop = choice.get("token_ids"), choice.get("stop_reason")
    if ids is not None and not (isinstance(ids, list) and all(type(one) is int and one >= 0 for one in ids)):
        raise ValueError(f"an answer whose tokens are no token ids: {ids!r:.80}")
    thinking = _count(_mapping(usage, "completion_tokens_details"), "reasoning_tokens")
    output_tokens, finish = _count(usage, "completion_tokens"), str(choice.get("finish_reason") or "").lower()
    if ids is not None and abs(len(ids) - (len(ids) if output_tokens is None else output_tokens)) > 1:  # an end token
        raise ValueError(f"an answer with {len(ids)} token ids that counts {output_tokens} tokens")
    return Answer(
        *(before + (content or ""), len(before), None if ids is None else tuple(ids)),
        finish="error" if choice.get("error") else _LENGTH.get(finish, finish),
        stop=stop if isinstance(stop, str) else "",
        prompt_tokens=_count(usage, "prompt_tokens") or None,  # 0 is not counted
        output_tokens=len(ids) if output_tokens is None and ids is not None else output_tokens,
        fingerprint=str(data.get("system_fingerprint") or ""),
        model=str(data.get("model") or ""),
        null=content is None and not calls,
        truncated=bool(data.get("truncated") or choice.get("truncated"))
        or choice.get("finish_reason") == "model_length",
        cached_tokens=_count(_mapping(usage, "prompt_tokens_details"), "cached_tokens"),
        reasoning_tokens=thinking,
        apart=_apart(thinking or 0, output_tokens or 0, usage),
        calls=calls,
    )


def _apart(thinking: int, written: int, usage: Mapping[str, Any]) -> int:
    """Tokens of a thought that a server counts beside those of the answer (xAI, Gemini), and not among them."""
    total, prompt = _count(usage, "total_tokens") or 0, _count(usage, "prompt_tokens") or 0
    return thinking if thinking > written or total == prompt + written + thinking else 0


def _mapping(data: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    return value if isinstance(value := data.get(name), dict) else {}


def _count(usage: Mapping[str, Any], name: str) -> int | None:
    return value if type(value := usage.get(name)) is int and value >= 0 else None


def parse_calls(given: Any) -> tuple[dict[str, str], ...]:
    """Return the name and the arguments (JSON in a text) of each call. Raises ValueError if it is no list of calls."""
    if not isinstance(given, list | None):
        raise ValueError(f"an answer whose tool_calls are a {type(given).__name__}")  # noqa: TRY004 - as for any shape
    if not given:
        return ()
    functions = [one["function"] for one in given if isinstance(one, dict) and isinstance(one.get("function"), dict)]
    if len(functions) != len(given):
        raise ValueError("an answer with a tool call that has no function")
    return tuple({name: _as_text(one.get(name)) for name in ("name", "arguments")} for one in functions)


def add_pieces(calls: list[Any], pieces: Any) -> int:
    """Add what one event of a stream says of its calls, and return how many characters that is."""
    new = 0
    for piece in pieces if isinstance(pieces, list) else [pieces] if pieces else []:
        function = piece.get("function") if isinstance(piece, dict) else None
        if not isinstance(function, dict):
            calls.append(None)  # `parse_calls` refuses it, whatever comes after
            continue
        said = {name: _as_text(function.get(name)) for name in ("name", "arguments")}
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


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else "" if value is None else json.dumps(value)


def join_stream(events: Sequence[tuple[float, Mapping[str, Any]]]) -> tuple[dict[str, Any], tuple[Piece, ...]]:
    """Put the events of a stream together to an unstreamed answer (the first one), with its pieces of text."""
    data: dict[str, Any] = {}
    choice: dict[str, Any] = {}
    said: dict[str, str] = {}
    pieces: list[Piece] = []
    calls: list[Any] = []
    called, chat = 0, False
    for when, event in events:
        data |= {name: value for name, value in event.items() if value is not None}
        choices = event.get("choices")
        for one in choices if isinstance(choices, list) else ():
            if not isinstance(one, dict) or one.get("index"):
                continue
            chat = chat or isinstance(one.get("delta"), dict)
            part = one["delta"] if isinstance(one.get("delta"), dict) and one["delta"] else one
            texts = ("text", "content", "reasoning", "reasoning_content")
            new = {name: part[name] for name in texts if isinstance(part.get(name), str)}
            said |= {name: said.get(name, "") + text for name, text in new.items()}
            called += (more := add_pieces(calls, part.get("tool_calls")))
            if any(new.values()) or more:
                pieces.append((when, len(said.get("content", said.get("text", ""))) + called))
            if isinstance(one.get("token_ids"), list):
                choice["token_ids"] = [*choice.get("token_ids", ()), *one["token_ids"]]
            choice |= {name: one[name] for name in ("finish_reason", "stop_reason") if one.get(name) is not None}
    choice |= {"message": {**said, **({"tool_calls": calls} if calls else {})}} if chat else said
    return {**data, "choices": [choice]}, tuple(pieces)


def logprob_request(way: str, model: str, tokens: Sequence[int]) -> dict[str, Any]:
    """Return the request for the log-probabilities of a sequence of tokens, in one of `METHODS`."""
    return {"model": model, "prompt": list(tokens), "temperature": 0, "stream": False, **METHODS[way]}


def sum_logprobs(way: str, data: Any, tokens: list[int], begin: int, item_id: str) -> tuple[float, bool, list[float]]:
    """Return the log-probability of the tokens from `begin` (at least 1) on, whether each is the likeliest, and each.

    Raises NotComparable if the answer has another shape, NonFinite if a number is none.
    """
    try:
        rows = _prompt_rows(way, data["choices"][0], tokens)[begin - 1 :]
    except (AttributeError, KeyError, IndexError, TypeError, ValueError) as error:
        raise NotComparable(f"{item_id}: the server gives no log-probability of each prompt token: {error}") from error
    weights = [weight for weight, _ in rows]
    if not all(math.isfinite(one) and one < 1e-3 for one in weights):  # noqa: PLR2004 - sums round; above 0 are probabilities
        raise NonFinite(f"{item_id}: a log-probability is not finite, or above 0: {weights}", item_id)
    return math.fsum(weights), all(best for _, best in rows), weights


def _prompt_rows(way: str, choice: Mapping[str, Any], tokens: Sequence[int]) -> list[tuple[float, bool]]:
    """Read the log-probability of each token but the first, and whether it is the most likely one."""
    echoed = way == "echo"  # parallel lists over prompt and answer; else one mapping for each token, by its id
    found = choice["logprobs"]["token_logprobs"][: len(tokens)] if echoed else choice["prompt_logprobs"]
    if len(found) != len(tokens):
        raise ValueError(f"{len(found)} log-probabilities for {len(tokens)} tokens")
    if found[0] is not None:
        raise ValueError("the first token has one, though nothing precedes it")
    if echoed:
        pairs = zip(map(float, found[1:]), choice["logprobs"]["top_logprobs"][1 : len(tokens)], strict=True)
        return [(one, one >= max(map(float, top.values()))) for one, top in pairs]
    own = [row[str(token)] for token, row in zip(tokens[1:], found[1:], strict=True)]
    return [(float(one["logprob"]), one["rank"] == 1) for one in own]
