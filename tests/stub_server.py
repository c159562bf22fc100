"""A server that speaks the OpenAI API without a model, with a switch for each way in which real servers fail.

It knows answers by the token ids or the text of their prompts (`Answers`), and gives every token a log-probability that
depends on what precedes it alone. `served` runs one in this process. As a program it takes the flags of a managed
server, and ``--settings FILE`` with its answers and faults.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import math
import os
import re
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

FAULTS = (
    "no_start",
    "truncates",  # counts and reads fewer prompt tokens than were sent
    "other_template",  # counts 9 more tokens in every prompt but the first
    "ignores_max_tokens",
    "echoes",  # repeats the prompt in its answer, and counts the new tokens alone
    "ignores_echo",  # and prompt_logprobs: gives the answer's log-probabilities alone
    "no_prompt_logprobs",  # rejects them, so that echo is left
    "wrong_logprobs",
    "probabilities",  # in place of their logarithms, everywhere
    "busy",  # 429 with Retry-After to each first try
    "resets",  # a 500, and then the connection is reset, once for each prompt
    "null",  # the content of every answer but the first is null
    "new_fingerprint",  # from the third request on
    "new_weights",  # from the 40th request on: other log-probabilities under the same name and fingerprint
    "fallback",  # from the 40th request on: none, as of another program under the same name
    "shy",  # 500 to whoever wants log-probabilities, until it was asked without them once more
    "no_usage",
    "text_only",  # no token ids
    "unknown_fields",  # rejects return_token_ids
    "no_completions",  # chat alone
    "thinks",  # puts half of an answer into a reasoning field
    "abort",  # says so as the reason why every answer but the first ended
    "content_filter",  # the same
    "picky",  # rejects every prompt but that of its first request with 400
    "breaks",  # fails with 500 at every prompt but that of its first request and of a canary
    "expires",  # rejects all from the 3rd request on with 400: its key is no longer valid
    "short",  # rejects prompts of more than 60 tokens for their length
    "wants_key",
    "dies",  # the process ends at the 20th request
    "slow",  # 0.05 s for each answer
    "cuts",  # breaks every stream but the first off after a few pieces
    "cuts_once",  # the same, once for each prompt
    "quiet_cut",  # ends every stream but the first without a finish reason
    "remembers",  # counts the tokens of a prompt that it saw before, with the same salt, as cached
    "late",  # 0.3 s before the first text of a stream, after its role
    "no_stream",  # answers in one piece
    "ignores_tools",  # counts no token of the tools that it is offered
    "same_index",  # gives every streamed call the index 0
)


FINISHES = {"abort", "content_filter"}
"""Faults that are a reason to finish."""


@dataclass
class Answers:
    """What a stub knows: text and token ids of the answer to a prompt, by its token ids and by its text."""

    by_ids: dict[str, dict[str, Any]] = field(default_factory=dict)
    default: dict[str, Any] = field(default_factory=lambda: {"text": " ok", "ids": [11, 12]})

    def add(self, ids: list[int], prompt: str, text: str, answer: list[int]) -> None:
        """Learn an answer."""
        known = {"text": text, "ids": answer, "count": len(ids), "prompt": prompt}
        self.by_ids[_key(ids)] = self.by_ids[prompt] = known

    def find(self, prompt: Any) -> dict[str, Any]:
        """Give what is known of a prompt."""
        return self.by_ids.get(prompt if isinstance(prompt, str) else _key(prompt), self.default)


def _key(ids: list[int]) -> str:
    return ",".join(map(str, ids))


def logprob(before: list[int], token: int) -> float:
    """The log-probability of a token after others."""
    text = f"{before[-3:]} {token}".encode()
    return -0.05 - hashlib.sha256(text).digest()[0] / 64


def _asked(body: dict[str, Any]) -> str:
    return json.dumps(body.get("prompt", body.get("messages")))


class Stub(ThreadingHTTPServer):
    """The server with what it has seen."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, answers: Answers, faults: set[str], *, model: str = "stub", port: int = 0) -> None:
        assert faults <= set(FAULTS), faults
        self.answers, self.faults, self.model = answers, faults, model
        self.asked: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.failed: set[str] = set()
        self.too_long: set[str] = set()  # prompts that it rejects, as text and as ids
        self.refuses: Callable[[dict[str, Any]], int] = lambda _: 0  # the status of an error for a request, if any
        self.gets: Callable[[str], int] = lambda _: 0  # the same for a page
        # What becomes of every reply but the first two: JSON, or headers and the parts of a body that may have no end
        self.spoil: Callable[[dict[str, Any]], dict[str, Any] | tuple[dict[str, str], Iterable[bytes]]] | None = None
        self.lies = False  # says "stop" for every answer, also for one that it cut
        self.busiest = self.busy = 0
        self.lock = threading.Lock()
        super().__init__(("127.0.0.1", port), Handler)

    @property
    def url(self) -> str:
        """The base URL."""
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    @property
    def questions(self) -> list[dict[str, Any]]:
        """What was asked after the probe and the canary, which wants log-probabilities at first."""
        return [body for body in self.asked if not self.is_canary(body)][1:]

    def is_canary(self, body: dict[str, Any]) -> bool:
        """Whether a request is the canary, with log-probabilities or without."""
        first = next((one for one in self.asked if "logprobs" in one), {})
        return "logprobs" in body or _asked(body) == _asked(first)

    def handle_error(self, *_: Any) -> None:
        """Say nothing of a client that is gone."""


class Handler(BaseHTTPRequestHandler):
    """Answers one connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Stub

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        """What the server says of itself."""
        found: dict[str, Any] | None = {
            "/health": {},
            "/version": {"version": "1.2.3"},
            "/v1/models": {"data": [{"id": self.server.model, "max_model_len": 2048, "owned_by": "stub"}]},
        }.get(self.path)
        if status := self.server.gets(self.path):
            self._send(status, error("not now"))
        else:
            self._send(404 if found is None else 200, found or {})

    def do_POST(self) -> None:
        """Answer a prompt, or fail in the way that was asked for."""
        stub = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with stub.lock:
            stub.asked.append(body)
            stub.headers.append(dict(self.headers))
            number = len(stub.asked)
            stub.busy += 1
            stub.busiest = max(stub.busiest, stub.busy)
        try:
            if "dies" in stub.faults and number == 20:
                os._exit(7)
            time.sleep(0.05 if "slow" in stub.faults else 0.002)
            refusal = self._refusal(body, number)
            if refusal is None:
                self._answer(body, number)
            elif refusal[0]:
                self._send(*refusal)
        finally:
            with stub.lock:
                stub.busy -= 1

    def _refusal(self, body: dict[str, Any], number: int) -> tuple[int, dict[str, Any]] | None:
        faults, prompt = self.server.faults, body.get("prompt")
        if status := self.server.refuses(body):
            return status, error("not now")
        name = _asked(body)
        given = self.headers.get("Authorization", "").removeprefix("Bearer ")
        long = isinstance(prompt, list) and len(prompt) > 60
        beyond = (prompt if isinstance(prompt, str) else _key(prompt or [])) in self.server.too_long
        other = prompt != self.server.asked[0].get("prompt")
        wrong_place = self.path == "/v1/completions" and "no_completions" in faults
        refusals = {
            (401, f"Incorrect API key provided: {given}"): "wants_key" in faults and given != "sesame",
            (404, "no such thing"): body.get("model") != self.server.model or wrong_place,
            (400, "prompt must be a string"): "text_only" in faults and isinstance(prompt, list),
            (422, "return_token_ids: not permitted"): "unknown_fields" in faults and "return_token_ids" in body,
            (400, "prompt_logprobs is not supported"): "no_prompt_logprobs" in faults and "prompt_logprobs" in body,
            (400, "the content is not allowed"): "picky" in faults and other,
            (500, "the parser failed"): "breaks" in faults and other and not self.server.is_canary(body),
            (400, "API key expired"): "expires" in faults and number > 2,
            (400, "maximum context length is 60 tokens"): ("short" in faults and long) or beyond,
        }
        for (status, message), holds in refusals.items():
            if holds:
                return status, error(message)
        plain = [one for one in self.server.asked if one.get("prompt") == prompt and "logprobs" not in one]
        if "shy" in faults and "logprobs" in body and not plain:
            return 500, error("out of luck")
        if "busy" in faults and name not in self.server.failed:
            self.server.failed.add(name)
            return 429, error("slow down")
        if "resets" in faults and (name, "reset") not in self.server.failed:
            return self._reset(name)
        return None

    def _reset(self, name: Any) -> tuple[int, dict[str, Any]]:
        """Fail with 500 at the first try, and by a reset connection at the second."""
        if name not in self.server.failed:
            self.server.failed.add(name)
            return 500, error("out of luck")
        self.server.failed.add((name, "reset"))  # type: ignore[arg-type]
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.connection.close()
        return 0, {}

    def _answer(self, body: dict[str, Any], number: int) -> None:
        stub, chat = self.server, "messages" in body
        prompt = body["messages"][-1]["content"] if chat else body["prompt"]
        known = stub.answers.find(prompt)
        most = int(body.get("max_tokens", body.get("max_completion_tokens", 16)))
        ids = list(known["ids"])
        cut = ids if "ignores_max_tokens" in stub.faults else ids[:most]
        text = known["text"] if len(cut) == len(ids) else known["text"][: max(1, len(known["text"]) * most // len(ids))]
        text = f"{known.get('prompt', prompt)}{text}" if "echoes" in stub.faults else text
        count = known.get("count", 3) if isinstance(prompt, str) else len(prompt)
        count += 7 * len(body.get("tools", ())) if "ignores_tools" not in stub.faults else 0
        choice: dict[str, Any] = {"index": 0, "finish_reason": "length" if len(cut) < len(ids) else "stop"}
        if stub.lies:
            choice["finish_reason"] = "stop"
        if number > 1 and (word := next(iter(FINISHES.intersection(stub.faults)), "")):
            choice["finish_reason"] = word
        self._say(choice, text, chat=chat, number=number)
        if chat and body.get("tools") and known.get("calls"):
            choice["message"] |= {"content": text or None, "tool_calls": known["calls"]}
            choice["finish_reason"] = "tool_calls"
        if not chat:
            choice |= self._logprobs(body, prompt, cut)
        if body.get("return_token_ids"):
            choice["token_ids"] = cut
        if number > 1:
            count += ("other_template" in stub.faults) * 9 - ("truncates" in stub.faults) * (count // 2)
        changed = "new_fingerprint" in stub.faults and number >= 3
        reply = {"choices": [choice], "system_fingerprint": "stub-2" if changed else "stub-1"}
        if "no_usage" not in stub.faults:
            reply["usage"] = {"prompt_tokens": count, "completion_tokens": len(cut)}
            seen = ("seen", json.dumps([prompt, body.get("cache_salt")]))
            if "remembers" in stub.faults:
                reply["usage"]["prompt_tokens_details"] = {"cached_tokens": count if seen in stub.failed else 0}
            stub.failed.add(seen)  # type: ignore[arg-type]
        if body.get("stream") and "no_stream" not in stub.faults:
            self._stream(reply, json.dumps(prompt), first=number == 1)
        else:
            self._send(200, reply)

    def _stream(self, reply: dict[str, Any], name: str, *, first: bool) -> None:
        """Send an answer as vLLM streams it: a role, pieces of text with their tokens, the end, the usage."""
        faults, choice = self.server.faults, dict(reply["choices"][0])
        usage, build = reply.pop("usage", None), {"system_fingerprint": reply["system_fingerprint"]}
        once = "cuts_once" in faults and (name, "cut") not in self.server.failed
        cut = not first and ("cuts" in faults or once)
        self.server.failed.add((name, "cut"))  # type: ignore[arg-type]
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream; charset=utf-8")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        events = list(_pieces(choice, same_index="same_index" in faults))
        end = {"delta": {}, "finish_reason": choice["finish_reason"]}
        if "message" not in choice:
            end = {"text": "", "finish_reason": choice["finish_reason"]}
        events += [] if "quiet_cut" in faults and not first else [end]
        for at, event in enumerate(events[:2] if cut else events):
            time.sleep(0.3 if "late" in faults and at == ("message" in choice) else 0.002)  # a token takes its time
            self._chunk({"choices": [{"index": 0, **event}], **build})
        if cut:
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        if usage is not None:
            self._chunk({"choices": [], "usage": usage, **build})
        self._chunk("[DONE]")
        self.wfile.write(b"0\r\n\r\n")

    def _chunk(self, event: Any) -> None:
        text = event if isinstance(event, str) else json.dumps(event, ensure_ascii=False)
        data = f"data: {text}\n\n".encode()
        with contextlib.suppress(OSError):
            self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")

    def _say(self, choice: dict[str, Any], text: str, *, chat: bool, number: int) -> None:
        said: Any = None if "null" in self.server.faults and number > 1 else text
        if not chat:
            choice["text"] = said
        elif "thinks" in self.server.faults:
            choice["message"] = {"role": "assistant", "content": said, "reasoning": "let me see"}
        else:
            choice["message"] = {"role": "assistant", "content": said}

    def _logprobs(self, body: dict[str, Any], prompt: Any, answer: list[int]) -> dict[str, Any]:
        deaf, shift = "ignores_echo" in self.server.faults, 1.5 * ("wrong_logprobs" in self.server.faults)
        found: dict[str, Any] = {}
        if isinstance(prompt, str):
            return found
        whole = [*prompt, *answer]
        weights = [None, *(logprob(whole[:at], token) for at, token in enumerate(whole) if at)]
        if "probabilities" in self.server.faults:
            weights = [one and math.exp(one) for one in weights]
        if "prompt_logprobs" in body and not deaf:
            found["prompt_logprobs"] = [None] + [
                {str(token): {"logprob": weights[at] - shift, "rank": 1}} for at, token in enumerate(prompt) if at
            ]
        gone = "fallback" in self.server.faults and len(self.server.asked) >= 40
        if "logprobs" in body and not gone:
            shown = weights if body.get("echo") and not deaf else weights[len(prompt) :]
            shown = [one if one is None or not body.get("echo") else one - shift for one in shown]
            if "new_weights" in self.server.faults and len(self.server.asked) >= 40:
                shown = [one and one - 0.6 for one in shown]
            found["logprobs"] = {"token_logprobs": shown, "top_logprobs": [one and {"x": one} for one in shown]}
        return found

    def _send(self, status: int, data: dict[str, Any]) -> None:
        asked = self.server.asked
        canary = bool(asked) and asked[-1].get("max_tokens") == 16 and "logprobs" in asked[-1]
        if self.server.spoil is not None and len(asked) > 2 and not canary:
            spoiled = self.server.spoil(data)
            if isinstance(spoiled, tuple):
                self._pour(*spoiled)
                return
            data = spoiled
        text = json.dumps(data).encode()
        self.send_response(status)
        if status == 429:
            self.send_header("Retry-After", "0.05")
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        with contextlib.suppress(OSError):
            self.wfile.write(text)

    def _pour(self, headers: dict[str, str], parts: Iterable[bytes]) -> None:
        self.send_response(200)
        for name, value in {**headers, "Transfer-Encoding": "chunked"}.items():
            self.send_header(name, value)
        self.end_headers()
        with contextlib.suppress(OSError):
            for part in parts:
                self.wfile.write(f"{len(part):x}\r\n".encode() + part + b"\r\n")
            self.wfile.write(b"0\r\n\r\n")


def _pieces(choice: dict[str, Any], *, same_index: bool = False) -> Iterator[dict[str, Any]]:
    """The events of a choice: of a message its role first, then a few characters each; tokens with the text."""
    message, ids = choice.get("message"), choice.get("token_ids")
    if message is not None:
        yield (
            {"delta": {"role": "assistant", "content": ""}}
            if message["content"] is not None
            else {"delta": {"role": "assistant"}}
        )
        yield from ({"delta": {"reasoning": one}} for one in re.findall(r"^\S+|.+", message.get("reasoning", "")))
    text = (choice.get("text") if message is None else message["content"]) or ""
    parts = [text[at : at + 3] for at in range(0, len(text), 3)] or [""]
    for at, part in enumerate(parts):
        piece: dict[str, Any] = {"text": part} if message is None else {"delta": {"content": part}}
        if message is None and choice.get("text") is None:
            piece = {"text": None}
        if ids is not None:
            piece["token_ids"] = ids[len(ids) * at // len(parts) : len(ids) * (at + 1) // len(parts)]
        if message is None or message["content"] is not None:
            yield piece
    for at, call in enumerate((message or {}).get("tool_calls", ())):
        index = {"index": 0 if same_index else at}
        first = {"id": call["id"], "type": "function", "function": {"name": call["function"]["name"], "arguments": ""}}
        yield {"delta": {"tool_calls": [index | first]}}
        for piece in re.findall(r"(?s).{1,5}", call["function"]["arguments"]):
            yield {"delta": {"tool_calls": [index | {"function": {"arguments": piece}}]}}


def error(message: str) -> dict[str, Any]:
    """An error as OpenAI's API words it."""
    return {"error": {"message": message, "type": "invalid_request_error"}}


@contextlib.contextmanager
def served(answers: Answers | None = None, *faults: str, model: str = "stub") -> Iterator[Stub]:
    """Run a stub in a thread of this process."""
    stub = Stub(answers or Answers(), set(faults), model=model)
    thread = threading.Thread(target=stub.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield stub
    finally:
        stub.shutdown()
        stub.server_close()
        thread.join()


def settings_file(path: Path, answers: Answers, *faults: str) -> Path:
    """Write what the program is to know and how it is to fail."""
    path.write_text(json.dumps({"answers": vars(answers), "faults": faults}), encoding="utf-8")
    return path


def main() -> None:
    """Run as a managed server would: ``stub_server.py MODEL --port N ...``; it starts a child, as vLLM does."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--settings", type=Path)
    parser.add_argument("model")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--served-model-name", default="stub")
    known, others = parser.parse_known_args()
    print("flags:", *others, flush=True)
    child = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(600)"], start_new_session=True)
    print(f"processes: {os.getpid()} {child.pid}", flush=True)
    settings = json.loads(known.settings.read_text(encoding="utf-8")) if known.settings else {}
    answers, faults = Answers(**settings.get("answers", {})), set(settings.get("faults", ()))
    if "no_start" in faults:
        sys.exit("Error: there is no such model")
    Stub(answers, faults, model=known.served_model_name, port=known.port).serve_forever()


if __name__ == "__main__":
    main()
