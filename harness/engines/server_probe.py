"""What a server is and does, found out before the first item: a server that says yes may still not do it.

Asks for its version and limits, sends one short prompt in each form until one works, and checks what comes back against
what was sent. Choices may only be weighed if the log-probabilities of a prompt are those of its own answer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from harness.config.fields import suggestion
from harness.engines.http_client import OK, Client, Reply
from harness.engines.wire import METHODS, Answer, RequestForm, logprob_request, parse_answer, sum_logprobs
from harness.errors import Incomplete, ModelError, NonFinite, NotComparable, RunError
from harness.records import Settings

__all__ = ["CANARY", "PROBE", "ServerInfo", "canary", "describe", "find_logprob_method", "overlong", "probe"]

PROBE = "One, two, three, four, five, six, seven,"
ANSWER_TOKENS = 4
"""Tokens that the answer to it may have."""
CANARY = "The old lighthouse keeper opened the letter, and"
"""A prompt with many likely continuations, whose log-probabilities show weights."""
CANARY_TOKENS = 16
"""Tokens of its continuation that are looked at."""
CANARY_SECONDS = 5.0
"""How long it is asked again, if the server has an error instead."""
TOLERANCE = 0.1
"""Most that the log-probability of a token may differ between answering and reading: sums in bfloat16 differ."""

Encode = Callable[[str], Sequence[int]]
"""Gives the tokens of an answer, if the server does not."""


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """What a server says of itself."""

    version: str = ""
    limit: int | None = None
    """Longest prompt plus answer, in tokens."""
    reported: dict[str, Any] = field(default_factory=dict)
    """What else it says, for the record."""


async def describe(client: Client, model: str) -> ServerInfo:
    """Ask a server for its version, models and limits. Raises ModelError if it has no such model."""
    models = await client.get("/models")
    if models.status in {401, 403}:
        raise ModelError(f"{client.url}/models answers with HTTP {models.status}: look at the key (api_key_env)")
    listed = [(str(one.get("id")), one) for one in models.data.get("data") or () if isinstance(one, dict)]
    own = next((one for name, one in listed if name == model), {})
    if listed and not own:
        raise ModelError(f"{client.url} has no model {model!r}.{suggestion(model, [name for name, _ in listed])}")
    version = str((await client.get("/version", root=True)).data.get("version") or "")
    props = (await client.get("/props", root=True)).data if not version else {}
    limit = own.get("max_model_len") or (own.get("meta") or {}).get("n_ctx")
    limit = limit or (props.get("default_generation_settings") or {}).get("n_ctx")
    kept = {key: props[key] for key in ("model_alias", "model_ftype", "total_slots") if key in props}
    kept |= {key: own[key] for key in ("owned_by", "root", "max_model_len") if own.get(key) is not None}
    return ServerInfo(version or str(props.get("build_info") or ""), limit if isinstance(limit, int) else None, kept)


def _content(form: RequestForm, text: str, ids: Sequence[int]) -> Any:
    """Return a prompt as a form sends it."""
    return {"token ids": list(ids), "text": text, "messages": [{"role": "user", "content": text}]}[form.prompts]


async def probe(
    client: Client, model: str, ids: Sequence[int], encode: Encode, *, chat: bool, count: int, stream: bool = False
) -> tuple[RequestForm, Answer, Reply]:
    """Find out how a server is asked, and give its first answer with it.

    count: tokens of the probe as it is sent, the template included. Raises ModelError if it takes no form of prompt,
    NotComparable if it ignores the longest length of an answer.
    """
    if chat:
        forms = [RequestForm(model, "messages", limit_name=name) for name in ("max_completion_tokens", "max_tokens")]
    else:
        forms = [RequestForm(model, gives_ids=True), RequestForm(model), RequestForm(model, "text")]
    refused = ""
    for form in (replace(one, stream=stream) for one in forms):
        reply = await client.post(form.path, form.body(_content(form, PROBE, ids), ANSWER_TOKENS, Settings()))
        kind: type[RunError] = ModelError
        if reply.status != OK:
            refused = f"HTTP {reply.status} {reply.message}".strip()
            continue
        try:
            answer = parse_answer(reply.data)
        except ValueError as error:
            raise ModelError(f"{client.url} does not speak the OpenAI API: {error}") from error
        if stream and not reply.sent:
            refused = "it does not stream its answers: leave engine.stream out"
        elif form.prompts == "token ids" and answer.prompt_tokens not in {None, count}:
            refused = f"{count} token ids were sent and it counts {answer.prompt_tokens}"
        elif written := overlong(answer, ANSWER_TOKENS, encode):
            refused = f"it wrote {written} tokens where {ANSWER_TOKENS} were allowed ({form.limit_name})"
            kind = NotComparable
        else:
            return replace(form, gives_ids=form.gives_ids and answer.ids is not None), answer, reply
    raise kind(f"{client.url} cannot be asked: {refused}")


def overlong(answer: Answer, most: int, encode: Encode) -> int:
    """Return how many tokens an answer has if that is more than it may have, else 0.

    If the server does not count them, those of its text are counted: they need not be the ones that were written, so
    only twice as many are too many.
    """
    if answer.output_tokens is not None:
        return answer.output_tokens if answer.output_tokens > most else 0
    count = len(encode(answer.text.replace("<think>", "").replace("</think>", "").replace("\ufffd", "")))
    return count if count > 2 * most else 0


async def canary(client: Client, form: RequestForm, ids: Sequence[int]) -> list[float]:
    """Return the log-probabilities of a continuation of `CANARY`, whose tokens are `ids`; empty if there are none."""
    plain = replace(form, stream=False, gives_ids=False)
    body = plain.body(_content(form, CANARY, ids), CANARY_TOKENS, Settings())
    body["logprobs"] = True if form.prompts == "messages" else 1
    try:
        reply = await client.post(form.path, body, retry_seconds=CANARY_SECONDS)
        found = reply.data["choices"][0]["logprobs"]
        weights = found.get("token_logprobs") or [one["logprob"] for one in found["content"]]
        return [round(float(one), 6) for one in weights]
    except (Incomplete, KeyError, TypeError, IndexError, ValueError, AttributeError):
        return []  # the server gives none, in whichever way it says so


async def find_logprob_method(client: Client, form: RequestForm, ids: Sequence[int], encode: Encode) -> str:
    """Find how a server weighs a prompt's tokens. Raises NotComparable if it does not, or not as those it writes."""
    why = "it takes no token ids"
    if form.prompts == "token ids":
        body = {**replace(form, stream=False).body(list(ids), ANSWER_TOKENS, Settings()), "logprobs": 1}
        reply = await client.post(form.path, body)
        answer, own = _own_logprobs(reply, encode)
        why = "it does not give the log-probability of each token of its own answer"
        for way in METHODS if answer else ():
            why = await _tried(client, form, way, [*ids, *answer], len(ids), own)
            if not why:
                return way
    raise NotComparable(
        f"{client.url} cannot weigh choices: {why}. Leave out the slices with choices, ask for their letter in"
        " text (options: {as_text: true}), or use an engine that gives log-probabilities of the prompt (vllm, sglang)"
    )


def _own_logprobs(reply: Reply, encode: Encode) -> tuple[Sequence[int], list[float]]:
    """Give the tokens of an answer with their log-probabilities; nothing if the server gives none."""
    try:
        answer, found = parse_answer(reply.data), reply.data["choices"][0]["logprobs"]["token_logprobs"]
        weights = [float(one) for one in found]
    except (ValueError, KeyError, TypeError, IndexError):
        return (), []
    ids = encode(answer.text) if answer.ids is None else answer.ids
    return (ids, weights) if len(ids) == len(weights) else ((), [])


async def _tried(
    client: Client, form: RequestForm, way: str, tokens: Sequence[int], begin: int, own: Sequence[float]
) -> str:
    """Say why a way does not work; empty if it does."""
    reply = await client.post(form.path, logprob_request(way, form.model, tokens))
    if reply.status != OK:
        return f"{way}: HTTP {reply.status} {reply.message}"
    try:
        found, _ = sum_logprobs(way, reply.data, tokens, begin, way)
    except (NotComparable, NonFinite) as error:
        return str(error)
    if abs(found - sum(own)) > TOLERANCE * len(own):
        return f"{way}: it gives {found:.3f} for its own answer, which had {sum(own):.3f} when it was written"
    return ""
