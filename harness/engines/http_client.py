"""Requests to a server of models, repeated when that may help (a failed connection, `BUSY`, 5xx), to an end."""

import asyncio
import contextlib
import json
import random
import time
from collections.abc import AsyncIterator, Callable, Container, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import httpx2

from harness.engines.wire import Piece, join_stream
from harness.errors import Incomplete, ModelError, one_line

OK, SERVER_ERROR = 200, 500
BUSY = frozenset({408, 409, 425, 429, 503})  # of a server that may answer the same later
FAILS, NO_PAGE = frozenset({0, *range(SERVER_ERROR, 600)}), (500, 501)  # of one that may never do; 0 is no answer
ITS_OWN = (403, SERVER_ERROR, 502, 504)  # what a filter, a gateway or a server may answer to one request alone
FIRST_PAUSE, LONGEST_PAUSE = 0.25, 30.0  # seconds before a request is repeated, unless the server names more
CONNECT_SECONDS = 20.0
PATIENCE, ODD_TRIES = 5.0, 3  # how long an error, and how often half an answer, may be a moment's trouble
LARGEST = 1 << 27  # bytes of one answer, unpacked
AGAIN = "finished work is kept, give the same command again to continue"
# Answers by which address, key or model are wrong, so that no other item would fare better, with what to do.
_NO_ENTRY = json.loads(Path(__file__).with_name("no_entry.json").read_text("utf-8"))
NO_ENTRY: dict[int, str] = {int(status): remedy for status, remedy in _NO_ENTRY.items()}


@dataclass(frozen=True, slots=True)
class Reply:
    """What a server answered in the end."""

    status: int  # HTTP status: 200, or one that says that the request is at fault
    data: Mapping[str, Any]
    message: str
    tries: int
    seconds: float  # from the first try to the answer
    sent: float = 0.0  # when the first try was sent, on the monotonic clock, if the answer is streamed
    pieces: tuple[Piece, ...] = ()  # of a streamed answer: when its text came, in seconds after `sent`


class _AgainError(Exception):
    """What went wrong with one request, the seconds that the server asks to wait, and the status if that says it."""


class Client:
    """Bounded requests to one server; the key is in no error or log. gone: why it can never answer, or empty."""

    def __init__(
        self,
        url: str,
        *,
        key: str = "",
        concurrency: int = 8,
        timeout: float = 600,
        retry_seconds: float = 300,
        gone: Callable[[], str] = lambda: "",
        proxies: bool = True,
    ) -> None:
        self.url, self._key, self._retry_seconds, self._gone = url, key, retry_seconds, gone
        self._slots, self._timeout = asyncio.Semaphore(concurrency), timeout
        self.counts = False  # whether an answer should count the tokens of its prompt
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
        limits = httpx2.Limits(max_connections=concurrency + 1, max_keepalive_connections=concurrency)
        patience = httpx2.Timeout(timeout, connect=CONNECT_SECONDS, pool=None)
        self._http = httpx2.AsyncClient(headers=headers, limits=limits, timeout=patience, trust_env=proxies)

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def get(self, path: str, *, root: bool = False) -> Reply:
        """Read what a server says of itself, with `root` beside its ``/v1``: a page that it lacks is a `Reply`, too."""
        url, final = (self.url.removesuffix("/v1"), FAILS) if root else (self.url, NO_PAGE)
        return await self._answered("GET", url + path, b"", final, PATIENCE)

    async def post(self, path: str, body: Any, final: Container[int] = (), patience: float = PATIENCE) -> Reply:
        """Ask until there is an answer, or a `final` one for that long. Raises Incomplete, ModelError (`NO_ENTRY`)."""
        content = json.dumps(body, allow_nan=False).encode()
        async with self._slots:
            reply = await self._answered("POST", self.url + path, content, final, patience)
        if reply.status in NO_ENTRY and reply.status not in final:
            said = f": {reply.message}" if reply.message else ""
            raise ModelError(f"{self.url}{path} answers with HTTP {reply.status}{said}. {NO_ENTRY[reply.status]}")
        return reply

    async def _answered(self, method: str, url: str, content: bytes, final: Container[int], patience: float) -> Reply:
        started, number = time.monotonic(), 0
        while True:
            number += 1
            try:
                return await self._try(method, url, content, number, started)
            except _AgainError as error:
                problem, wait, status = (*error.args, 0)[:3]
            if why := self._gone():
                raise Incomplete(f"{why}; {AGAIN}")
            pause = max(wait, random.uniform(0.5, 1.0) * min(LONGEST_PAUSE, FIRST_PAUSE * 2**number))
            seconds = time.monotonic() - started
            if status in final and seconds + pause > min(patience, self._retry_seconds):
                return Reply(status, {}, problem, number, seconds)
            if seconds + pause > self._retry_seconds:
                tries = "1 try" if number == 1 else f"{number} tries"
                said = f"{self.url} gave no answer in {tries} and {seconds:.0f} s ({problem})"
                raise Incomplete(f"{said}; {AGAIN} (engine.retry_seconds bounds the time)")
            await asyncio.sleep(pause)

    async def _try(self, method: str, url: str, content: bytes, number: int, started: float) -> Reply:
        """Ask once. Raises _AgainError if asking again may help."""
        page, limit = method == "GET", self._timeout if method == "POST" else min(self._timeout, 3 * CONNECT_SECONDS)
        try:
            request = self._http.stream(method, url, content=content)
            async with asyncio.timeout(limit), request as response:
                stream = response.headers.get("content-type", "").startswith("text/event-stream")
                reply = await (self._streamed if stream else self._reply)(response, number, started)
        except (TimeoutError, httpx2.HTTPError) as error:
            problem = self._clean(one_line(error) if str(error) else f"no whole answer in {self._timeout:g} s")
            late = isinstance(error, TimeoutError | httpx2.ReadTimeout)
            if page and number > 1 and (late or isinstance(error, httpx2.TimeoutException)):
                return Reply(0, {}, problem, number, time.monotonic() - started)
            raise _AgainError(problem, 0.0, 504 if late else 0) from error  # as a gateway says it
        queued = not page and response.is_success  # unless it is OK
        if reply.status in BUSY or reply.status >= SERVER_ERROR or (queued and reply.status != OK):
            wait, problem = _retry_after(response.headers), f"HTTP {reply.status} {reply.message}".strip()
            raise _AgainError(problem, wait, reply.status)
        counted = isinstance(usage := reply.data.get("usage"), dict) and usage.get("prompt_tokens")
        odd = number <= ODD_TRIES and not (reply.data.get("choices") and (counted or not self.counts))
        if reply.status == OK and not page and (not reply.data or reply.data.get("error") or odd):
            problem = f"HTTP 200 with {reply.message or 'a body that is not a JSON object of an answer'}"
            raise _AgainError(problem, 0.0, 500 if reply.data.get("error") else 0)
        return reply

    async def _streamed(self, response: httpx2.Response, number: int, started: float) -> Reply:
        """Read a stream to its end, timed from the first try: who waits for an answer waits for what failed before it.

        Raises _AgainError if it breaks off or reports an error of the server.
        """
        events: list[tuple[float, Mapping[str, Any]]] = []
        async for when, text in _events(response):
            if (event := _json_object(text)) is None:
                raise _AgainError("a stream with an event that is not a JSON object", 0.0)
            if event.get("error") is not None or event.get("object") == "error":
                raise _AgainError(self._clean(_message(event)), 0.0, 500)
            events.append((when - started, event))
        data, pieces = join_stream(events)
        if not data["choices"][0].get("finish_reason"):
            raise _AgainError("the stream broke off in the middle of the answer", 0.0)
        return Reply(response.status_code, data, "", number, time.monotonic() - started, started, pieces)

    async def _reply(self, response: httpx2.Response, number: int, started: float) -> Reply:
        data = _json_object(b"".join([part async for part in _parts(response)])) or {}
        return Reply(response.status_code, data, self._clean(_message(data)), number, time.monotonic() - started)

    def _clean(self, text: str) -> str:
        """Take the key out of what a server says, and shorten it."""
        return (text.replace(self._key, "[key]") if self._key else text)[:400]


async def _parts(response: httpx2.Response) -> AsyncIterator[bytes]:
    """Yield the body, unpacked. Raises ModelError if it has no end, or is a bomb."""
    size = 0
    async for part in response.aiter_bytes():
        if (size := size + len(part)) > LARGEST:
            raise ModelError(f"{response.url} sends more than {LARGEST:,} bytes for one answer: look at engine.url")
        yield part


async def _events(response: httpx2.Response) -> AsyncIterator[tuple[float, bytes]]:
    """Yield the events of a stream and when each came. Lines end at a line feed alone: JSON may hold U+2028."""
    rest = b""
    async for part in _parts(response):
        now = time.monotonic()
        *lines, rest = (rest + part).split(b"\n")
        for line in lines:
            name, _, value = line.partition(b":")
            if name == b"data" and value.strip() not in {b"", b"[DONE]"}:
                yield now, value


def _json_object(text: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if b"\\ud" in text.lower():  # a half of a surrogate pair alone cannot be written
        found = json.loads(json.dumps(found, ensure_ascii=False).encode(errors="replace"))
    return found if isinstance(found, dict) else None


def _message(data: Mapping[str, Any]) -> str:
    """Give the sentence of an error, of the shapes that servers use: a string, or an object with a message."""
    found: Any = data.get("error", data.get("detail", data.get("message", "")))
    if isinstance(found, dict):
        found = " ".join(str(found[name]) for name in ("type", "code", "message") if found.get(name))
    return " ".join(str(found or "").split())


def _retry_after(headers: Mapping[str, str]) -> float:
    """Give the seconds that a server asks to wait, as a number or a date; 0 if it does not say."""
    said = headers.get("retry-after", "").strip()
    for read in (float, lambda text: parsedate_to_datetime(text).timestamp() - time.time()):
        with contextlib.suppress(TypeError, ValueError, IndexError):
            return max(0.0, read(said))
    return 0.0
