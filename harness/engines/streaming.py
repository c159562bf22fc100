"""What a streamed answer shows of time: its first token, the gaps, what comes before the answer, cold or warm, cached.

A server that remembers prompts answers a known one sooner, so each request carries a salt that keeps it from what is
remembered. If the server has no field for one, the item is asked again with a salted beginning, for its times alone.
"""

import bisect
import re
import secrets
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

from harness.engines.http_client import Reply
from harness.engines.wire import Answer
from harness.records import Item
from harness.suite.toolkit.thinking import split

_TIMED, _HELD = 0.25, 0.02  # least moments of its tokens (drafts send up to four at once), and share of the whole time
IDLE_SECONDS = 60.0  # a server without a request for so long is idle
_SALT_FIELDS = dict.fromkeys(("vllm", "sglang"), "cache_salt")
_SALT_FIELDS |= dict.fromkeys(("llama-cpp", "llamacpp"), "cache_prompt")
"""The field that keeps a request from remembered prompts, by the engine's name or the owner in the model list."""


class StreamTimer:
    """The times of one server's streamed answers. server: its engine, or what it calls itself."""

    def __init__(self, server: str, encode: Callable[[str], list[int]]) -> None:
        self._field, self._encode = _SALT_FIELDS.get(server, ""), encode
        self._ends: list[float] = []

    def salt(self) -> dict[str, Any]:
        """Return the fields that keep a request from remembered prompts; empty if the server has none."""
        return {self._field: False if self._field == "cache_prompt" else secrets.token_hex(8)} if self._field else {}

    def times(self, item: Item, reply: Reply, answer: Answer, cache: str) -> dict[str, Any]:
        """Return what is recorded of a streamed answer, and no text. cache: ``salted``, ``repeated``, or empty."""
        when = [seconds for seconds, _ in reply.pieces]
        gaps = [round(later - sooner, 4) for sooner, later in pairwise(when)]
        text, thought = split(answer.text, prompt=item.prompt)
        tokens, reasoning = answer.output_tokens or len(when), answer.reasoning_tokens
        timed = len({*when}) / tokens if gaps and when[-1] - when[0] > _HELD * when[-1] else 0.0
        right = re.search(rf"(?<!\w){re.escape(item.target)}(?!\w)", text) if item.target else None
        return {
            "state": self._state(reply),
            "cache": _cache(cache, answer.cached_tokens if reply.tries == 1 else None),  # its own first try caches, too
            "first": next((round(seconds, 4) for seconds, length in reply.pieces if length), None),
            # A gateway that holds a stream back sends it in few reads, whose times are not the tokens'.
            "per_token": round((when[-1] - when[0]) / (tokens - 1), 5) if tokens > 1 and timed >= _TIMED else None,
            "longest_gap": max(gaps, default=None),
            "gaps": gaps,
            "preamble": len(self._encode(text[: right.start()])) if right else None,
            "reasoning": len(self._encode(thought)) if reasoning is None and thought else reasoning or 0,
        }

    def _state(self, reply: Reply) -> str:
        """Say whether the server was cold: no answer before this request since its start, or for a while."""
        before, first = bisect.bisect_right(self._ends, reply.sent), not self._ends
        idle = before > 0 and reply.sent - self._ends[before - 1] > IDLE_SECONDS
        bisect.insort(self._ends, reply.sent + (reply.pieces[-1][0] if reply.pieces else 0.0))
        return "start" if first else "idle" if idle else "warm"


def _cache(kind: str, cached_tokens: int | None) -> str:
    """Say whether the server had the prompt already, by what it counts if it does."""
    if cached_tokens is None:
        return {"salted": "uncached", "repeated": "cached"}.get(kind, "unknown")
    return "uncached" if not cached_tokens else "cached" if kind == "repeated" else "unknown"


def salted_prompt(body: Mapping[str, Any], encode: Callable[[str], list[int]]) -> dict[str, Any]:
    """Return a request for the same prompt with a beginning that no server has seen."""
    salt = f"[{secrets.token_hex(8)}] "
    if "messages" in body:
        first, *rest = body["messages"]
        return {**body, "messages": [{**first, "content": salt + first["content"]}, *rest]}
    prompt = body["prompt"]
    # A token that begins every text remains the first one.
    return {**body, "prompt": salt + prompt if isinstance(prompt, str) else [*prompt[:1], *encode(salt), *prompt[1:]]}
