"""The OpenAI API as quantcliff uses it: how a prompt is sent, and what is read from an answer.

Knows JSON. Sends nothing, and does not judge whether an answer can be trusted.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from harness.engines.api_tools import add_pieces, parse_calls
from harness.records import Settings, digest

__all__ = [
    "MOST_STOPS",
    "Answer",
    "Piece",
    "RequestForm",
    "is_over_context",
    "join_stream",
    "parse_answer",
    "seed_of",
]

Piece = tuple[float, int]
"""When a part of a streamed text came, and how many characters of the answer (not of its reasoning) there were then."""

MOST_STOPS = 4
"""Stop texts that the API takes; the others are looked for in the answer."""

_OVER_CONTEXT = re.compile(
    r"context.?(length|size|window)|max_model_len|exceed_context|too (long|many tokens)|longer than|input.?tokens",
    re.IGNORECASE,
)


def is_over_context(message: str) -> bool:
    """Whether an error says that the prompt, or the prompt and its longest answer, do not fit."""
    return bool(_OVER_CONTEXT.search(message))


def seed_of(settings: Settings, item_id: str, sample: int) -> int:
    """Give the seed of a sample: the same for the same item and sample on every variant."""
    return int(digest([settings.seed, item_id, sample])[:8], 16) >> 1


@dataclass(frozen=True, slots=True)
class RequestForm:
    """How a server is asked: what the probe at the start found to work."""

    model: str
    """What the server calls the model."""
    prompts: Literal["token ids", "text", "messages"] = "token ids"
    """What is sent."""
    gives_ids: bool = False
    """Whether the answer's token ids come back (`return_token_ids`)."""
    limit_name: str = "max_tokens"
    """The field that bounds an answer."""
    stream: bool = False
    """Whether answers are streamed."""

    @property
    def path(self) -> str:
        """Where questions go."""
        return "/chat/completions" if self.prompts == "messages" else "/completions"

    def body(
        self, prompt: Any, most: int, settings: Settings, seed: int = 0, stop: Sequence[str] = ()
    ) -> dict[str, Any]:
        """Give the request for one answer of at most so many tokens."""
        name = "messages" if self.prompts == "messages" else "prompt"
        body = {
            "model": self.model,
            name: prompt,
            self.limit_name: most,
            "temperature": settings.temperature,
            "seed": seed,
            "stream": self.stream,
        }
        if self.stream:
            body["stream_options"] = {"include_usage": True}
        if settings.temperature > 0:
            body["top_p"] = settings.top_p
        if stop:
            body["stop"] = list(stop)[:MOST_STOPS]
        if self.gives_ids:
            body["return_token_ids"] = True
        return body


@dataclass(frozen=True, slots=True)
class Answer:
    """What an answer says, before anything is made of it."""

    text: str
    """The answer; reasoning that came in its own field stands before it between think marks."""
    ids: tuple[int, ...] | None
    """Its tokens, if they came back."""
    finish: str
    """The server's word for why it ended."""
    stop: str
    """The stop text that ended it, if the server says so."""
    prompt_tokens: int | None
    """`usage.prompt_tokens`."""
    output_tokens: int | None
    """`usage.completion_tokens`."""
    fingerprint: str
    """`system_fingerprint`, empty if there is none."""
    null: bool
    """Whether the content was null: there is no text, which is not the same as an empty one."""
    truncated: bool
    """Whether the server says that it cut the prompt or ran out of context."""
    cached_tokens: int | None = None
    """Tokens of the prompt that the server remembered, if it says so."""
    reasoning_tokens: int | None = None
    """Tokens of reasoning, if it says so."""
    calls: tuple[dict[str, str], ...] = ()
    """Tool calls that the server found, each with ``name`` and ``arguments``."""


def parse_answer(data: Mapping[str, Any]) -> Answer:
    """Read an answer of either path. Raises ValueError if it has not the shape of one."""
    choices = data.get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        raise ValueError(f"an answer without choices: {str(dict(data))[:200]}")
    choice = choices[0]
    message = choice.get("message")
    holder, name = (message, "content") if isinstance(message, dict) else (choice, "text")
    content = holder.get(name)
    if content is not None and not isinstance(content, str):
        raise ValueError(f"an answer whose {name} is a {type(content).__name__}")
    thought = holder.get("reasoning") or holder.get("reasoning_content")
    text = f"<think>\n{thought}\n</think>\n\n{content or ''}" if thought else content or ""
    if thought is not None and not isinstance(thought, str):
        raise ValueError(f"an answer whose reasoning is a {type(thought).__name__}")
    calls = parse_calls(holder.get("tool_calls"))
    usage = _mapping(data, "usage")
    ids, stop = choice.get("token_ids"), choice.get("stop_reason")
    if ids is not None and not (isinstance(ids, list) and all(type(one) is int and one >= 0 for one in ids)):
        raise ValueError(f"an answer whose tokens are no token ids: {ids!r:.80}")
    output_tokens = _count(usage, "completion_tokens")
    return Answer(
        text=text,
        ids=None if ids is None else tuple(ids),
        finish=str(choice.get("finish_reason") or ""),
        stop=stop if isinstance(stop, str) else "",
        prompt_tokens=_count(usage, "prompt_tokens"),
        output_tokens=len(ids) if output_tokens is None and ids is not None else output_tokens,
        fingerprint=str(data.get("system_fingerprint") or ""),
        null=content is None and not calls,
        truncated=bool(data.get("truncated") or choice.get("truncated")),
        cached_tokens=_count(_mapping(usage, "prompt_tokens_details"), "cached_tokens"),
        reasoning_tokens=_count(_mapping(usage, "completion_tokens_details"), "reasoning_tokens"),
        calls=calls,
    )


def join_stream(events: Sequence[tuple[float, Mapping[str, Any]]]) -> tuple[dict[str, Any], tuple[Piece, ...]]:
    """Put the events of a stream together to what an unstreamed answer is, and return when its pieces of text came."""
    data: dict[str, Any] = {}
    choice: dict[str, Any] = {}
    said: dict[str, str] = {}
    pieces: list[Piece] = []
    calls: list[Any] = []
    called, chat = 0, False
    for when, event in events:
        data |= {name: value for name, value in event.items() if value is not None}
        for one in _first_choices(event):
            chat = chat or isinstance(one.get("delta"), dict)
            part = one["delta"] if isinstance(one.get("delta"), dict) and one["delta"] else one
            new = {name: part[name] for name in _TEXTS if isinstance(part.get(name), str)}
            said |= {name: said.get(name, "") + text for name, text in new.items()}
            called += (more := add_pieces(calls, part.get("tool_calls")))
            if any(new.values()) or more:
                pieces.append((when, len(said.get("content", said.get("text", ""))) + called))
            if isinstance(one.get("token_ids"), list):
                choice["token_ids"] = [*choice.get("token_ids", ()), *one["token_ids"]]
            choice |= {name: one[name] for name in ("finish_reason", "stop_reason") if one.get(name) is not None}
    choice |= {"message": {**said, **({"tool_calls": calls} if calls else {})}} if chat else said
    return {**data, "choices": [choice]}, tuple(pieces)


def _first_choices(event: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the parts of an event that belong to the first answer; one was asked for."""
    choices = event.get("choices")
    found = choices if isinstance(choices, list) else []
    return [one for one in found if isinstance(one, dict) and not one.get("index")]


def _mapping(data: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = data.get(name)
    return value if isinstance(value, dict) else {}


_TEXTS = ("text", "content", "reasoning", "reasoning_content")


def _count(usage: Mapping[str, Any], name: str) -> int | None:
    value = usage.get(name)
    return value if type(value) is int and value >= 0 else None
