"""What a server is and does, found out before the first item: a server that says yes may still not do it."""

import contextlib
import math
import secrets
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

from harness.config.fields import suggestion
from harness.engines.http_client import BUSY, FAILS, OK, Client, Reply
from harness.engines.transformers.text import TextCodec
from harness.engines.wire import METHODS, Answer, RequestForm, logprob_request, parse_answer, sum_logprobs
from harness.errors import ModelError, NonFinite, NotComparable, RunError
from harness.records import Settings
from harness.suite.toolkit.thinking import opening

PROBE = "Count to one hundred in words: one, two, three, four, five, six, seven,"  # no chat model stops at once
ANSWER_TOKENS = 4  # tokens that the answer to it may have
CANARY = "The old lighthouse keeper opened the letter, and"  # has many likely continuations
CANARY_TOKENS = 16  # tokens of its continuation that are looked at
CANARY_TRIES = 3  # how often it is asked again, if the server has an error instead
TEMPERATURE_TRIES, FIRSTS = 6, 3  # how often it is asked, and of how many first tokens answers are not greedy
DRAWN = 0.5  # a temperature from which on six equal answers are odd
FEW = 0.75  # SmolLM2's answers, cut anywhere, are read back as this share of their tokens and two, or more
TOLERANCE = 0.1
"""Most that a token's log-probability may differ on average between answering and reading: sums in bfloat16 differ."""


class PromptEncoder(TextCodec):
    """The baseline's tokenizer as it reads prompts for a server."""

    opens = ""  # the mark with which its template opens a thought for the answer, if it does

    def sent(self, text: str, form: str) -> tuple[Any, int]:
        """Return what is sent for a prompt, and how many tokens the server should count."""
        if form == "messages":
            message = [{"role": "user", "content": text}]
            whole = self._tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True)
            self.opens = opening(whole)
            return message, len(self.encode(whole))
        ids = self.prompt(text)
        return (ids if form == "token ids" else text), len(ids)


async def describe(client: Client, model: str) -> tuple[str, int | None, dict[str, Any]]:
    """Ask for version, limit in tokens, and what else is recorded. Raises ModelError if there is no such model."""
    models = await client.get("/models")
    if models.status in {401, 403}:
        raise ModelError(f"{client.url}/models answers with HTTP {models.status}: look at the key (api_key_env)")
    data: Any = models.data.get("data")
    listed = [(str(one.get("id")), one) for one in data if isinstance(one, dict)] if isinstance(data, list) else []
    own = next((one for name, one in listed if name == model), {})
    if listed and not own:
        raise ModelError(f"{client.url} has no model {model!r}.{suggestion(model, [name for name, _ in listed])}")
    version = str((await client.get("/version", root=True)).data.get("version") or "")
    props = (await client.get("/props", root=True)).data if not version else {}
    inner = (own, own.get("meta"), props.get("default_generation_settings"))
    limits = [one.get(key) for one in inner if isinstance(one, dict) for key in ("max_model_len", "n_ctx")]
    limit = next((one for one in limits if type(one) is int and one > 0), None)
    kept = {key: props.get(key) for key in ("model_alias", "model_ftype", "total_slots")}
    kept |= {key: own.get(key) for key in ("owned_by", "root", "max_model_len")}
    kept = {key: one for key, one in kept.items() if type(one) in {str, int}}
    return version or str(props.get("build_info") or ""), limit, kept


async def probe(
    client: Client, model: str, encoder: PromptEncoder, *, chat: bool, stream: bool
) -> tuple[RequestForm, Answer, Reply]:
    """Find out how a server is asked, with its first answer. Raises ModelError, NotComparable if it ignores lengths."""
    if chat:
        forms = [RequestForm(model, "messages", limit_name=name) for name in ("max_completion_tokens", "max_tokens")]
    else:
        forms = [RequestForm(model, gives_ids=True), RequestForm(model), RequestForm(model, "text")]
    refused = ""
    for form in (replace(one, stream=stream) for one in forms):
        content, count = encoder.sent(PROBE, form.prompts)
        reply = await client.post(form.path, form.body(content, ANSWER_TOKENS, Settings()))
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
        elif (wrote := written(answer, ANSWER_TOKENS, encoder)) > ANSWER_TOKENS:
            refused = f"it wrote {wrote} tokens where {ANSWER_TOKENS} were allowed ({form.limit_name})"
            kind = NotComparable
        elif PROBE in answer.text:  # in which a scorer may find what was asked for
            refused, kind = "it repeats the prompt in its answers", NotComparable
        else:
            return replace(form, gives_ids=form.gives_ids and answer.ids is not None), answer, reply
    raise kind(f"{client.url} cannot be asked: {refused}")


def written(answer: Answer, most: int, encoder: PromptEncoder) -> int:
    """Return how many tokens an answer has; `most` if they are not counted, and its text may well have as many."""
    text = answer.text.replace("<think>", "").replace("</think>", "")
    count = len(encoder.encode(text.replace("\ufffd", "")))
    # Those of its text need not be the ones that were written; a row of one sign may be one. A count of 0 is none.
    row = sum(one == other and not one.isalnum() for one, other in pairwise(text))
    few = 0 < count < FEW * most - 2 - row and not answer.calls
    return answer.output_tokens or (count if few or count > 2 * most else most)


async def canary(client: Client, form: RequestForm, encoder: PromptEncoder) -> list[float]:
    """Return the log-probabilities of a continuation of `CANARY`; empty if the server gives none. Raises Incomplete."""
    plain = replace(form, stream=False, gives_ids=False)
    body = plain.body(encoder.sent(CANARY, form.prompts)[0], CANARY_TOKENS, Settings())
    asked = {**body, "logprobs": True if form.prompts == "messages" else 1}
    for _ in range(CANARY_TRIES):  # each with a seed that no gateway remembers, which changes nothing else
        reply = await client.post(form.path, asked | {"seed": secrets.randbits(31)}, FAILS - BUSY)
        if reply.status not in FAILS:
            break
        await client.post(form.path, body)  # it fails, if it is asked for them or now: until it answers without
    with contextlib.suppress(KeyError, TypeError, IndexError, ValueError, AttributeError):
        found = reply.data["choices"][0]["logprobs"]
        weights = found.get("token_logprobs") or [one["logprob"] for one in found["content"]]
        return [round(float(one), 6) for one in weights] if all(map(math.isfinite, weights)) else []
    return []  # the server gives none, in whichever way it says so


async def check_temperature(client: Client, form: RequestForm, encoder: PromptEncoder, settings: Settings) -> str:
    """Raise NotComparable if a server draws at temperature 0; return a note if from `DRAWN` on it does not seem to.

    It draws if all answers to one prompt differ, and their first tokens are three or more: by rounding, two may be.
    """
    content, texts = encoder.sent(CANARY, form.prompts)[0], set[str]()
    for _ in range(TEMPERATURE_TRIES):
        body = form.body(content, CANARY_TOKENS, settings, secrets.randbits(31))
        reply = await client.post(form.path, body)
        with contextlib.suppress(ValueError):  # of no shape of an answer, as an error
            texts.add(parse_answer(reply.data).text.removeprefix("<think>\n"))
    if not any(texts):
        return "whether its server heeds the temperature is not known: it shows nothing of a short answer"
    if settings.temperature >= DRAWN and len(texts) == 1:
        said = f"{TEMPERATURE_TRIES} times the same to one question at temperature {settings.temperature:g}"
        return f"its server answered {said}: it may not heed it, or remember answers"
    firsts = {tuple(encoder.encode(one)[:1]) for one in texts}
    if not settings.temperature and len(texts) == TEMPERATURE_TRIES and len(firsts) >= FIRSTS:
        said = f"{client.url} gives {TEMPERATURE_TRIES} different answers to one question at temperature 0"
        raise NotComparable(f"{said}: it draws them. Let it heed it, or set sampling.temperature to what it uses")
    return ""


async def find_logprob_method(client: Client, form: RequestForm, encoder: PromptEncoder) -> str:
    """Find how a server weighs a prompt's tokens. Raises NotComparable if it does not, or not as those it writes."""
    why = "it takes no token ids"
    if form.prompts == "token ids":
        ids = encoder.prompt(CANARY)  # whose tokens differ in weight: of a certain answer all are near 0
        body = {**replace(form, stream=False).body(ids, ANSWER_TOKENS, Settings()), "logprobs": 1}
        answer, own = _own_logprobs(await client.post(form.path, body), encoder)
        why = "it does not give the log-probability of each token of its own answer"
        for way in METHODS if answer else ():
            why = await _tried(client, form, way, [*ids, *answer], len(ids), own)
            if not why:
                return way
    other = "use an engine that gives log-probabilities of the prompt (vllm, sglang)"
    remedy = f"Leave out the slices with choices, ask for their letter in text (options: {{as_text: true}}), or {other}"
    raise NotComparable(f"{client.url} cannot weigh choices: {why}. {remedy}")


def _own_logprobs(reply: Reply, encoder: PromptEncoder) -> tuple[Sequence[int], list[float]]:
    """Give the tokens of an answer with their log-probabilities; nothing if the server gives none."""
    try:
        answer, found = parse_answer(reply.data), reply.data["choices"][0]["logprobs"]["token_logprobs"]
        weights = [float(one) for one in found]
    except (ValueError, KeyError, TypeError, IndexError):
        return (), []
    ids = encoder.encode(answer.text) if answer.ids is None else answer.ids
    return (ids, weights) if len(ids) == len(weights) else ((), [])


async def _tried(client: Client, form: RequestForm, way: str, tokens: list[int], begin: int, own: list[float]) -> str:
    """Say why a way does not work; empty if it does."""
    reply = await client.post(form.path, logprob_request(way, form.model, tokens))
    if reply.status != OK:
        return f"{way}: HTTP {reply.status} {reply.message}"
    try:
        _, _, found = sum_logprobs(way, reply.data, tokens, begin, way)
    except (NotComparable, NonFinite) as error:
        return str(error)
    if (apart := sum(abs(one - two) for one, two in zip(found, own, strict=True)) / len(own)) > TOLERANCE:
        return f"{way}: what it gives for the tokens of its own answer is {apart:.2f} apart from when it wrote them"
    return ""
