"""A server that speaks the OpenAI API as an engine: an answer to anything but what was sent ends the run."""

import asyncio
import contextlib
import json
import math
import secrets
import sys
from collections.abc import Collection, Coroutine, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from harness.engines import server_probe, wire
from harness.engines.http_client import AGAIN, ITS_OWN, OK, SERVER_ERROR, Client, Reply
from harness.engines.protocol import EngineBase
from harness.engines.server_probe import PromptEncoder
from harness.engines.streaming import StreamTimer, salted_prompt
from harness.errors import Incomplete, NotComparable
from harness.models.compatibility import replaced
from harness.records import ChoiceLogprobs, Generation, Item, Proof, Response, Settings, Unanswered, digest
from harness.stops import cut_at_stops
from harness.store.files import Appender
from harness.suite.toolkit.thinking import split
from harness.suite.toolkit.tool_calls import with_api_calls

# Why an answer may end; with anything else (``abort``, ``error``, a time limit of the server) it is none.
FINISHED = frozenset({"stop", "length", "eos", "eos_token", "stop_sequence", "end_turn", "tool_calls", "function_call"})
_HIDES = "its server thinks without showing it"
REPLACED = "its model or program was replaced; run against one that stays, with another --output"


@dataclass(frozen=True, slots=True)
class Target:
    """What is asked for at a server, and how (see `EngineSpec`)."""

    model: str
    device: str  # where it runs, for the record
    chat: bool = False
    choices: bool = False  # whether choices will be scored: that is tried at once
    limit: int | None = None  # the model's own context limit
    requests: Path | None = None  # the file for what each request took and reported
    stream: bool = False
    cached_pass: bool = False
    tools: bool = False  # whether tools are offered through the API, and calls read from its answer


class ServedEngine(EngineBase):
    """A server, ready to answer. proof: what is known of the model; what the probe finds is added to it."""

    def __init__(self, client: Client, encoder: PromptEncoder, proof: Proof, target: Target) -> None:
        super().__init__(proof)
        self._client, self._encoder, self._target = client, encoder, target
        self._loop, self.device = asyncio.new_event_loop(), target.device
        self._fresh = secrets.randbits(31)  # of no other engine's, so that a gateway that remembers answers gives none
        self._requests = None if target.requests is None else Appender(target.requests)
        self._timer: StreamTimer | None = None
        self._closes = False  # whether an answer closed a thought that the template had opened
        self._heeds = target.requests is None  # the temperature: a run looks whether it does, no `verify`
        try:
            self._run(self._look(client, encoder, target))
        except BaseException:
            self.close()
            raise

    async def _look(self, client: Client, encoder: PromptEncoder, target: Target) -> None:
        """Find out how the server is asked, and add to the proof what was found and how far it goes."""
        version, limit, reported = await server_probe.describe(client, target.model)
        self.context_limit = min((one for one in (limit, target.limit) if one), default=2**31 - 1)
        how = {"chat": target.chat, "stream": target.stream}
        form, answer, reply = await server_probe.probe(client, target.model, encoder, **how)
        _, count = encoder.sent(server_probe.PROBE, form.prompts)
        served = dict(self._proof.served or {})
        if target.stream:
            server = str(served.get("engine", ""))
            owner = str(reported.get("owned_by", "")) if server == "openai" else server
            self._timer = StreamTimer(owner, encoder.encode)
            self._log(Item("probe", "", "", "generate", server_probe.PROBE, {}, "", ""), 0, reply, answer)
        way = await server_probe.find_logprob_method(client, form, encoder) if target.choices else ""
        offset = None if answer.prompt_tokens is None else answer.prompt_tokens - count
        self._form, self._offset, self._logprob_method, client.counts = form, offset, way, offset is not None
        self._build = {"fingerprint": answer.fingerprint, "model": answer.model}
        self._ends = FINISHED | ({answer.finish} & {""})
        # The first question asks to count, so its answer is cut: a server that says "stop" of it may always do so.
        cut = (answer.output_tokens or len(encoder.encode(answer.text))) >= server_probe.ANSWER_TOKENS
        self._silent = cut and answer.finish != "length"
        served |= {"version": version or served.get("version", ""), "prompts": form.prompts}
        served |= {"prompt_offset": offset, "logprob_method": way, "fingerprint": answer.fingerprint}
        served |= {"context_limit": limit, "reported": reported}
        served["canary"] = await server_probe.canary(client, form, encoder)
        parts = [served.get("engine"), served["version"] or "?", answer.fingerprint, form.prompts]
        self.version = "served/1-" + "-".join(str(one) for one in parts if one)
        notes = [*self._proof.notes, f"its prompts are sent as {form.prompts}"]
        if offset:
            notes.append(f"its server counts {offset:+d} tokens in every prompt: a template of its own, perhaps")
        if offset is None:
            notes.append("its server does not count tokens, so a truncated prompt or another template is not seen")
        self._proof = replace(self._proof, served=served, notes=tuple(notes))

    def close(self) -> None:
        """Close the connections and the file of requests."""
        self._run(self._client.close())
        self._loop.close()
        if self._requests is not None:
            self._requests.close()

    def answer(self, items: Sequence[Item], settings: Settings) -> Iterator[Response]:
        """Yield the responses once all are there. Raises Incomplete, NotComparable (not what was probed), NonFinite."""
        if not self._heeds:
            note = self._run(server_probe.check_temperature(self._client, self._form, self._encoder, settings))
            self._heeds, self._spent.notes[:] = True, [*self._spent.notes, *filter(None, [note])]
        asked: list[Coroutine[Any, Any, Response]] = []
        for item in items:
            if item.kind == "choice":
                asked.append(self._choice(item))
            else:
                asked += [self._text(item, settings, sample) for sample in range(settings.samples)]
        given, before = self._run(_together(asked)), (self._proof.served or {})["canary"]
        now = self._run(server_probe.canary(self._client, self._form, self._encoder)) if before else []
        if replaced(before, now):
            raise NotComparable(f"what its server gives for one and the same prompt changed during the run: {REPLACED}")
        yield from self._with_thoughts(given, {item.id for item in items if self._offered(item)})

    def _with_thoughts(self, given: Sequence[Response], offered: Collection[str]) -> Iterator[Response]:
        """Yield the responses; an answer that never closes the thought that the template opened is that thought.

        So is one that was cut, if the server reads that template, and one that ended, if other answers have the mark.
        """
        opens = "" if _HIDES in self._spent.notes else self._encoder.opens
        texts = [(one, split(one.text)[1]) for one in given if isinstance(one, Generation)] if opens else []
        closing = sum(bool(thought) and not one.text.startswith((opens, "<think>\n")) for one, thought in texts)
        # One mark may be astray, unless the server counts that template's tokens.
        self._closes = self._closes or closing >= (1 if self._offset == 0 else max(len(texts) / 3, 1))
        read = self._closes or self._offset == 0  # the server's template opens the thought as well
        bare = [one for one, thought in texts if not thought and (read if one.finish != "eos" else self._closes)]
        unclosed = [one for one in bare if one.finish != "eos" or one.item_id not in offered]
        instead: dict[int, Response] = {id(one): replace(one, text=f"{opens}\n{one.text}") for one in unclosed}
        yield from (instead.get(id(one), one) for one in given)

    def _run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self._loop.run_until_complete(work)

    async def _text(self, item: Item, settings: Settings, sample: int) -> Response:
        prompt = _, count = self._encoder.sent(item.prompt, self._form.prompts)
        if count + item.max_tokens > self.context_limit:
            return Unanswered(item.id, "over_context", count, sample)
        stops = [one for one in item.stop if one][: wire.MOST_STOPS]
        firm = [one for one in stops if one.strip()]
        answer = await self._ask(item, sample, settings, prompt, stops)
        said = isinstance(answer, Unanswered) or bool(answer.text[answer.before :].strip() or answer.calls)
        if not (said or answer.finish == "length") and firm != stops:  # type: ignore[union-attr]
            # White space at the beginning never ends an answer: asked again without white space that stops.
            answer = await self._ask(item, sample, settings, prompt, firm)
        if isinstance(answer, Unanswered):
            return answer
        whole, thought = answer.text, answer.text[: answer.before]  # stop texts are looked for in the answer alone
        text = thought + cut_at_stops(whole[len(thought) :], item.stop)
        stopped = bool(answer.stop) or text != whole
        if self._offered(item):
            whole = text = with_api_calls(text, answer.calls, said=split(text, prompt=item.prompt)[0])
            count = answer.prompt_tokens or count
        ids = list(answer.ids) if answer.ids is not None else self._encoder.encode(whole)
        while ids and ids[-1] in self._encoder.end_ids:
            ids.pop()
        cut = answer.finish == "length" or (self._silent and (answer.output_tokens or len(ids)) >= item.max_tokens)
        finish = "stop" if stopped else "length" if cut else "eos"
        return Generation(item.id, text, tuple(ids), finish, count, sample)  # type: ignore[arg-type]

    async def _ask(
        self, item: Item, sample: int, settings: Settings, prompt: tuple[Any, int], stops: Sequence[str]
    ) -> wire.Answer | Unanswered:
        """Ask for one answer and check it."""
        form, (content, count) = self._form, prompt
        seed = int(digest([settings.seed, item.id, sample])[:8], 16) >> 1 if settings.temperature else self._fresh
        offered = self._offered(item)
        body = form.body(content, item.max_tokens, settings, seed, stops) | ({"tools": offered} if offered else {})
        salt = self._timer.salt() if self._timer else {}
        reply = await self._client.post(form.path, body | salt, ITS_OWN, math.inf)
        if OK < reply.status < SERVER_ERROR:  # what is refused stays refused, if it was not a moment's trouble
            reply = await self._client.post(form.path, body | salt, ITS_OWN, math.inf)
        if reply.status != OK:
            return await self._refused(item, sample, reply, count)
        answer = self._checked(item, sample, reply, count, "salted" if salt else "", tools=len(offered))
        if answer.calls and not offered:
            raise NotComparable(f"{item.id}: the server took a tool call out of an answer, and no tools were offered")
        if self._timer is not None:
            await self._time_again(item, sample, body, salt)
        written, most = server_probe.written(answer, item.max_tokens, self._encoder), item.max_tokens
        if answer.reasoning_tokens and not answer.before and _HIDES not in self._spent.notes:
            self._spent.notes.append(_HIDES)
        early = answer.finish == "length" and written + answer.apart < most - 1
        if written > most or (early and not answer.truncated):
            why = "it has a limit of its own" if early else f"it ignores {form.limit_name}"
            said = f"{item.id}: the server wrote {written} tokens where {most} were allowed: {why}"
            raise NotComparable(f"{said}, so its answers are not those that were asked for")
        if answer.finish == "content_filter":
            return Unanswered(item.id, "rejected", count, sample)
        if answer.finish not in self._ends and not answer.truncated:
            said = f"the server broke its answer off (finish_reason {answer.finish!r})"
            raise Incomplete(f"{item.id}: {said}; {AGAIN}")
        return Unanswered(item.id, "over_context", count, sample) if answer.truncated else answer

    async def _time_again(self, item: Item, sample: int, body: dict[str, Any], salt: dict[str, Any]) -> None:
        """Ask for the times of what the first answer does not show: an unknown prompt, and on request a known one."""
        passes = [] if salt else [("salted", salted_prompt(body, self._encoder.encode))]
        if self._target.cached_pass:
            passes.append(("repeated", {**body, **salt, **({"cache_prompt": True} if "cache_prompt" in salt else {})}))
        for kind, request in passes:
            reply = await self._client.post(self._form.path, request)
            with contextlib.suppress(ValueError):  # of no shape that has times
                if reply.status == OK:
                    self._log(item, sample, reply, wire.parse_answer(reply.data), kind, again=True)

    async def _choice(self, item: Item) -> Response:
        pairs = self._encoder.pairs(item.prompt, item.choices, item.id)
        context = len(pairs[0][0])
        if max(len(begin) + len(rest) for begin, rest in pairs) >= self.context_limit:  # one answer token is written
            return Unanswered(item.id, "over_context", context)
        scored = await _together([self._choice_logprob(item, begin, rest) for begin, rest in pairs])
        if refused := [one for one in scored if isinstance(one, Unanswered)]:
            return refused[0]
        logprobs, greedy, weights = zip(*scored, strict=True)
        alike = len({each for own in weights for each in own}) == 1 and sum(map(len, weights)) > len(pairs)
        sure = [rest for (_, rest), one in zip(pairs, logprobs, strict=True) if one == 0.0]  # one may begin another
        if len(pairs) > 1 and (alike or any(one[: len(rest)] != rest[: len(one)] for one in sure for rest in sure)):
            said = (
                f"{item.id}: the server gives all tokens of its choices one log-probability, or two choices certainty"
            )
            raise NotComparable(f"{said}, which no model does: look for a cache, or numbers that overflow, in its log")
        return ChoiceLogprobs(item.id, logprobs, tuple(len(rest) for _, rest in pairs), greedy, context)

    async def _choice_logprob(
        self, item: Item, begin: list[int], rest: list[int]
    ) -> tuple[float, bool, list[float]] | Unanswered:
        tokens, way = [*begin, *rest], self._logprob_method
        request = wire.logprob_request(way, self._form.model, tokens) | {"seed": self._fresh}
        reply = await self._client.post(self._form.path, request, ITS_OWN, math.inf)
        if reply.status != OK:
            return await self._refused(item, 0, reply, len(begin))
        self._checked(item, 0, reply, len(tokens), "")
        return wire.sum_logprobs(way, reply.data, tokens, len(begin), item.id)

    def _offered(self, item: Item) -> list[dict[str, Any]]:
        return list(json.loads(item.doc.get("tool_schemas") or "[]")) if self._target.tools else []

    def _checked(self, item: Item, sample: int, reply: Reply, count: int, cache: str, *, tools: int = 0) -> wire.Answer:
        """Read an answer, count and log it. Raises NotComparable if it is not to the prompt, or from another build."""
        try:
            answer = wire.parse_answer(reply.data)
        except ValueError as error:
            raise NotComparable(f"{item.id}: the server gave {error}") from error
        self._spent.prompt_tokens += (answer.prompt_tokens or count) if tools else count
        self._spent.output_tokens += answer.output_tokens or 0
        self._log(item, sample, reply, answer, cache)
        counted, expected = answer.prompt_tokens, None if self._offset is None else count + self._offset
        found = f"{item.id}: the server counts {counted or 'no'} tokens in a prompt of {count}"
        # How the server's template writes tools is not known, but it must.
        if expected is not None and tools and (counted or 0) <= expected:
            why = "its template does not write the tools that it is offered, or it truncates them"
            raise NotComparable(f"{found} and {tools} tools: {why}; leave engine.tools out")
        if expected is not None and not tools and counted != expected:
            why = "it truncates prompts, or reads them with another template or tokenizer than the baseline's"
            raise NotComparable(f"{found}: {why}")
        build = {"fingerprint": answer.fingerprint, "model": answer.model}
        if changed := next((name for name in build if build[name] != self._build[name]), ""):
            said = f"{item.id}: the server's {changed} changed from {self._build[changed]!r} to {build[changed]!r}"
            raise NotComparable(f"{said} during the run: {REPLACED}")
        return answer

    async def _refused(self, item: Item, sample: int, reply: Reply, count: int) -> Unanswered:
        """Give an item that does not fit, or is refused for its content. Raises Incomplete if all is refused now."""
        over = bool(wire.OVER_CONTEXT.search(reply.message))
        self._log(item, sample, reply, None)
        if not over:
            content, _ = self._encoder.sent(server_probe.PROBE, self._form.prompts)
            known = self._form.body(content, server_probe.ANSWER_TOKENS, Settings(), self._fresh)
            if (now := await self._client.post(self._form.path, known)).status != OK:
                problem = f"the server refuses a question that it had answered, with HTTP {now.status} {now.message}"
                raise Incomplete(f"{item.id}: {problem}: look at its key, its account and its log; {AGAIN}")
            # The sentence may quote the prompt, so that it goes to the log, which is kept as texts are.
            sys.stdout.write(f"{item.id}: HTTP {reply.status} {reply.message}\n")
            self._spent.notes.append(f"its server refused {item.id} with HTTP {reply.status}: see the worker's log")
        return Unanswered(item.id, "over_context" if over else "rejected", count, sample)

    def _log(
        self, item: Item, sample: int, reply: Reply, answer: wire.Answer | None, cache: str = "", *, again: bool = False
    ) -> None:
        """Keep what a request took and reported, and no text. again: whether it was asked for its times alone."""
        if self._requests is None:
            return
        record: dict[str, Any] = {"item": item.id, "sample": sample, "status": reply.status, "tries": reply.tries}
        record |= {"seconds": round(reply.seconds, 3)}
        if answer is not None:
            record |= {"finish": answer.finish, "null": answer.null, "fingerprint": answer.fingerprint}
            record |= {"prompt_tokens": answer.prompt_tokens, "output_tokens": answer.output_tokens}
            if self._timer is not None and reply.sent:
                record |= {"pass": cache if again else "answer", **self._timer.times(item, reply, answer, cache)}
        self._requests.append(record)


async def _together(work: Sequence[Coroutine[Any, Any, Any]]) -> list[Any]:
    """Do all at once; if one fails, end the others and raise what it raised."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one) for one in work]
    except BaseExceptionGroup as several:
        raise several.exceptions[0] from None
    return [task.result() for task in tasks]
