"""A server that speaks the OpenAI API as an engine: every answer is checked against what was sent.

Prompts go as token ids of the baseline's tokenizer if the server takes them. Each answer must count the prompt's tokens
as they were sent, stay within its length and come from the same build, so that a truncated prompt, another template or
a server that was replaced ends the run instead of changing a score. Does not know who started the server.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Coroutine, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from harness.engines.http_client import Client, Reply
from harness.engines.protocol import Usage
from harness.engines.server_probe import PROBE, Facts, described, probed, weighing_of
from harness.engines.transformers.text import Texts
from harness.engines.weighing import read_weight, weigh_body
from harness.engines.wire import MOST_STOPS, Manner, Said, is_over_context, read_answer, seed_of
from harness.errors import NotComparable
from harness.records import ChoiceLogprobs, Generation, Item, Proof, Response, Settings, Unanswered
from harness.stops import cut_at_stops
from harness.store.rundir import Appender

__all__ = ["ServedEngine", "Spoken", "Target"]

OK = 200


class Spoken:
    """The baseline's tokenizer as it reads prompts for a server."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self.texts = Texts(tokenizer)

    def prompt(self, text: str, form: str) -> tuple[Any, int]:
        """Give what is sent for a prompt, and how many tokens the server should count."""
        if form == "messages":
            message = [{"role": "user", "content": text}]
            whole = self._tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True)
            return message, len(self.encode(whole))
        ids = self.texts.prompt(text)
        return (ids if form == "token ids" else text), len(ids)

    def encode(self, text: str) -> list[int]:
        """Give the tokens of a text without special ones around it."""
        return list(self._tokenizer.encode(text, add_special_tokens=False, verbose=False))


@dataclass(frozen=True, slots=True)
class Found:
    """What the probe found."""

    facts: Facts
    """What the server says of itself."""
    manner: Manner
    """How it is asked."""
    offset: int | None
    """Tokens that it counts beyond those that were sent; None if it does not count."""
    fingerprint: str
    """Its `system_fingerprint`."""
    weighing: str
    """How choices are weighed; empty if none are asked."""


@dataclass(frozen=True, slots=True)
class Target:
    """What is asked for at a server."""

    model: str
    """What the server calls it."""
    device: str
    """Where it runs, for the record."""
    chat: bool = False
    """Whether prompts go as messages."""
    choices: bool = False
    """Whether choices will be weighed: that is tried at once."""
    limit: int | None = None
    """The model's own context limit."""
    requests: Path | None = None
    """The file for what each request took and said."""


class ServedEngine:
    """A server, ready to answer. proof: what is known of the model; what the probe finds is added to it."""

    def __init__(self, client: Client, spoken: Spoken, proof: Proof, target: Target) -> None:
        self._client, self._spoken, self.device = client, spoken, target.device
        self._loop = asyncio.new_event_loop()
        self._prompt_tokens = self._output_tokens = 0
        self._notes: dict[str, None] = {}
        self._requests = None if target.requests is None else Appender(target.requests)
        try:
            self._found = self._run(self._look(target))
        except BaseException:
            self.close()
            raise
        known = [one for one in (self._found.facts.limit, target.limit) if one]
        self._limit = min(known, default=2**31 - 1)
        self._proof = self._proven(proof)

    @property
    def version(self) -> str:
        """Part of every cache key: the program and what it says of its configuration."""
        served = self._proof.served or {}
        said = [served.get("engine"), served.get("version") or "?", self._found.fingerprint, self._found.manner.prompts]
        return "served/1-" + "-".join(str(one) for one in said if one)

    @property
    def context_limit(self) -> int:
        """Longest prompt plus answer, in tokens."""
        return self._limit

    def proof(self) -> Proof:
        """Say what is served, and how far that is known."""
        return self._proof

    def usage(self) -> Usage:
        """Say what has been spent; the memory of a server is not known."""
        return Usage(self._prompt_tokens, self._output_tokens, peak_bytes=0, notes=tuple(self._notes))

    def close(self) -> None:
        """Close the connections and the file of requests."""
        self._run(self._client.close())
        self._loop.close()
        if self._requests is not None:
            self._requests.close()

    def answer(self, items: Sequence[Item], settings: Settings) -> Iterator[Response]:
        """Yield the responses to one work unit once all are there.

        Raises Incomplete if the server is gone, NotComparable if an answer is not from what was probed, NonFinite.
        """
        asked: list[Coroutine[Any, Any, Response]] = []
        for item in items:
            if item.kind == "choice":
                asked.append(self._choice(item))
            else:
                asked += [self._text(item, settings, sample) for sample in range(settings.samples)]
        yield from self._run(_together(asked))

    def _run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self._loop.run_until_complete(work)

    async def _look(self, target: Target) -> Found:
        facts = await described(self._client, target.model)
        ids = self._spoken.texts.prompt(PROBE)
        _, count = self._spoken.prompt(PROBE, "messages" if target.chat else "token ids")
        manner, said = await probed(self._client, target.model, ids, chat=target.chat, count=count)
        offset = None if said.prompt_tokens is None else said.prompt_tokens - count
        weighing = await weighing_of(self._client, manner, ids, self._spoken.encode) if target.choices else ""
        return Found(facts, manner, offset, said.fingerprint, weighing)

    def _proven(self, proof: Proof) -> Proof:
        """Add to a proof what was found, and say in a sentence how far it goes."""
        found, served = self._found, dict(proof.served or {})
        served["version"] = found.facts.version or served.get("version", "")
        served |= {"prompts": found.manner.prompts, "prompt_offset": found.offset, "weighing": found.weighing}
        served |= {"fingerprint": found.fingerprint, "context_limit": found.facts.limit, "said": found.facts.said}
        notes = [*proof.notes, f"its prompts are sent as {found.manner.prompts}"]
        if found.offset:
            notes.append(f"its server counts {found.offset:+d} tokens in every prompt: a template of its own, perhaps")
        if found.offset is None:
            notes.append("its server does not count tokens, so a truncated prompt or another template is not seen")
        return replace(proof, served=served, notes=tuple(notes))

    async def _text(self, item: Item, settings: Settings, sample: int) -> Response:
        content, count = self._spoken.prompt(item.prompt, self._found.manner.prompts)
        if count + item.max_tokens > self._limit:
            return Unanswered(item.id, "over_context", count, sample)
        stops = [one for one in item.stop if one][:MOST_STOPS]
        firm = [one for one in stops if one.strip()]
        said = await self._said(item, sample, settings, (content, count), stops)
        if isinstance(said, Said) and not said.text.strip() and said.finish != "length" and firm != stops:
            # White space at the beginning never ends an answer: asked again without white space that stops.
            said = await self._said(item, sample, settings, (content, count), firm)
        return said if isinstance(said, Unanswered) else self._generation(item, sample, said, count)

    async def _said(
        self, item: Item, sample: int, settings: Settings, prompt: tuple[Any, int], stops: Sequence[str]
    ) -> Said | Unanswered:
        """Ask for one answer and check it."""
        manner, (content, count) = self._found.manner, prompt
        seed = seed_of(settings, item.id, sample)
        body = manner.body(content, item.max_tokens, settings, seed, stops)
        reply = await self._client.post(manner.path, body)
        if reply.status != OK:
            return self._refused(item, sample, reply, count)
        said = self._checked(item, sample, reply, count)
        if said.output_tokens is not None and said.output_tokens > item.max_tokens:
            raise NotComparable(
                f"{item.id}: the server wrote {said.output_tokens} tokens where {item.max_tokens} were allowed: it"
                f" ignores {manner.limit_name}, so its answers are not those that were asked for"
            )
        return Unanswered(item.id, "over_context", count, sample) if said.truncated else said

    def _generation(self, item: Item, sample: int, said: Said, count: int) -> Generation:
        text = cut_at_stops(said.text, item.stop)
        ids = list(said.ids) if said.ids is not None else self._spoken.encode(said.text)
        while ids and ids[-1] in self._spoken.texts.end_ids:
            ids.pop()
        stopped = bool(said.stop) or text != said.text
        finish = "stop" if stopped else "length" if said.finish == "length" else "eos"
        return Generation(item.id, text, tuple(ids), finish, count, sample)  # type: ignore[arg-type]

    async def _choice(self, item: Item) -> Response:
        pairs = self._spoken.texts.pairs(item.prompt, item.choices, item.id)
        context = len(pairs[0][0])
        if max(len(begin) + len(rest) for begin, rest in pairs) >= self._limit:  # one answer token is written
            return Unanswered(item.id, "over_context", context)
        weighed = await _together([self._weigh(item, begin, rest) for begin, rest in pairs])
        refused = next((one for one in weighed if isinstance(one, Unanswered)), None)
        if refused is not None:
            return refused
        logprobs, greedy = zip(*weighed, strict=True)
        return ChoiceLogprobs(item.id, logprobs, tuple(len(rest) for _, rest in pairs), greedy, context)

    async def _weigh(self, item: Item, begin: Sequence[int], rest: Sequence[int]) -> tuple[float, bool] | Unanswered:
        tokens, way = [*begin, *rest], self._found.weighing
        reply = await self._client.post(self._found.manner.path, weigh_body(way, self._found.manner.model, tokens))
        if reply.status != OK:
            return self._refused(item, 0, reply, len(begin))
        self._checked(item, 0, reply, len(tokens))
        return read_weight(way, reply.data, tokens, len(begin), item.id)

    def _checked(self, item: Item, sample: int, reply: Reply, count: int) -> Said:
        """Read an answer, count and log it. Raises NotComparable if it is not to the prompt, or from another build."""
        try:
            said = read_answer(reply.data)
        except ValueError as error:
            raise NotComparable(f"{item.id}: the server gave {error}") from error
        self._prompt_tokens += count
        self._output_tokens += said.output_tokens or 0
        self._log(item, sample, reply, said)
        if said.prompt_tokens is not None and said.prompt_tokens != count + (self._found.offset or 0):
            raise NotComparable(
                f"{item.id}: the server counts {said.prompt_tokens} tokens in a prompt of {count}: it truncates"
                " prompts, or reads them with another template or tokenizer than the baseline's"
            )
        if said.fingerprint != self._found.fingerprint:
            raise NotComparable(
                f"{item.id}: the server's fingerprint changed from {self._found.fingerprint!r} to {said.fingerprint!r}"
                " during the run: its model or program was replaced; run against one that stays, with another --output"
            )
        return said

    def _refused(self, item: Item, sample: int, reply: Reply, count: int) -> Unanswered:
        """Give an item that the server does not answer: it does not fit, or it is refused for its content."""
        over = is_over_context(reply.message)
        self._log(item, sample, reply, None)
        if not over:
            # The sentence may quote the prompt, so that it goes to the log, which is kept as texts are.
            sys.stdout.write(f"{item.id}: HTTP {reply.status} {reply.message}\n")
            self._notes[f"its server refused {item.id} with HTTP {reply.status}: see the worker's log"] = None
        return Unanswered(item.id, "over_context" if over else "rejected", count, sample)

    def _log(self, item: Item, sample: int, reply: Reply, said: Said | None) -> None:
        """Keep what a request took and said of itself, and no text."""
        if self._requests is None:
            return
        record: dict[str, Any] = {"item": item.id, "sample": sample, "status": reply.status, "tries": reply.tries}
        record["seconds"] = round(reply.seconds, 3)
        if said is not None:
            record |= {"finish": said.finish, "null": said.null, "fingerprint": said.fingerprint}
            record |= {"prompt_tokens": said.prompt_tokens, "output_tokens": said.output_tokens}
        self._requests.append(record)


async def _together(work: Sequence[Coroutine[Any, Any, Any]]) -> list[Any]:
    """Do all at once; if one fails, end the others and raise what it raised."""
    tasks = [asyncio.ensure_future(one) for one in work]
    try:
        return await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise
