"""The nouns of quantcliff: what is asked, what was answered, what it scored.

Frozen, plain data. Scores are proportions in [0, 1], tokens those of the baseline's tokenizer, times seconds.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

_KINDS: dict[str, dict[str, str]] = json.loads(Path(__file__).with_name("kinds.json").read_text("utf-8"))
TAIL_KINDS = _KINDS["tail_events"]
"""Every kind of tail event and what it says of an answer; `harness.suite.tail` defines them."""
QUANTITIES = _KINDS["quantities"]
"""Every quantity of free text that is compared with the baseline's as a ratio."""
LATENCY_KINDS = _KINDS["latency"]
"""What may be late of a streamed answer; `policy.latency` says how late, and a tolerance of tail events how often."""


def canonical_json(value: object) -> str:
    """Return the one JSON text of a value: sorted keys, no spaces, no NaN."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def digest(value: object) -> str:
    """Return the first 16 hex digits of the SHA-256 of a value's canonical JSON."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:16]


def stratum_name(levels: Mapping[str, str]) -> str:
    """Name one cell of a slice's axes, as in ``hops=3,magnitude=large``; ``all`` where nothing splits it."""
    return ",".join(f"{axis}={level}" for axis, level in levels.items()) or "all"


@dataclass(frozen=True, slots=True)
class Item:
    """One question, with everything an engine needs to ask it and a judge needs to place it."""

    id: str  # stable across machines and runs: ``<task>/<id of the document>``
    slice: str  # the label of the slice in the config
    task: str  # the lm_eval task that made it and scores it
    kind: Literal["generate", "choice"]  # free text, or the log-probability of each choice
    prompt: str  # the whole text before the answer, chat template already applied
    levels: Mapping[str, str]  # axis to level, all axes, also those that do not split the slice into strata
    stratum: str  # the cell of the axes that split: see `stratum_name`
    cluster: str  # items that share a source (a haystack, a problem in several languages) share this name
    choices: tuple[str, ...] = ()  # the continuations to weigh, leading white space included; empty for free text
    target: str = ""  # the right answer as a person would read it
    gold: int | None = None  # index of the right choice; None for free text, and if no choice or more than one is right
    max_tokens: int = 0  # the longest answer, in tokens; 0 for choices
    stop: tuple[str, ...] = ()  # texts that end an answer
    prefix_group: str = ""  # items with the same name here share a long beginning of their prompts; empty for none
    chance: float = 0.0  # the score that guessing would give
    weight: float = 1.0  # the share of traffic that the item stands for, relative to the other items
    language: str = ""  # the expected language of the answer (BCP 47), empty if it does not matter
    prompt_tokens: int = 0  # the length of the prompt (for choices: with the longest choice), in the baseline's tokens
    doc: Mapping[str, Any] = field(default_factory=dict)  # the lm_eval document, which scores an answer; JSON
    asked: str = ""  # the digest of the item as it was asked, where its texts were not kept whole; else empty

    def digest(self) -> str:
        """Identify all that decides the answer and its score: the same for an item and what was kept of it."""
        if self.asked:
            return self.asked
        whole = to_json(self)
        for name in ("asked", "gold"):  # gold follows from `doc`, and older runs did not record it
            del whole[name]
        return digest(whole)


@dataclass(frozen=True, slots=True)
class Settings:
    """How answers are sampled: one for all variants of a run."""

    temperature: float = 0.0  # 0 is greedy
    top_p: float = 1.0  # nucleus sampling, 1 is off
    samples: int = 1  # answers per item; the item's score is their mean
    seed: int = 0  # root of the seeds of samples, the same for the same item and sample on every variant


@dataclass(frozen=True, slots=True)
class Generation:
    """A free-text answer."""

    item_id: str  # which item
    text: str  # the answer, cut before the stop text
    token_ids: tuple[int, ...]  # the answer's tokens as the model produced them, the end token left out
    finish: Literal["stop", "eos", "length"]  # ended at a stop text, at the end token, or at the token limit
    prompt_tokens: int  # tokens of the prompt
    sample: int = 0  # which of several answers to the item
    type: Literal["generation"] = "generation"  # the tag that tells the records apart on disk


@dataclass(frozen=True, slots=True)
class ChoiceLogprobs:
    """How likely each choice is as the continuation of the prompt."""

    item_id: str  # which item
    logprobs: tuple[float, ...]  # summed natural-log probability of each choice's tokens, float32 softmax
    token_counts: tuple[int, ...]  # tokens of each choice
    greedy: tuple[bool, ...]  # whether greedy decoding would have produced the choice
    prompt_tokens: int  # tokens of the context
    sample: int = 0  # always 0: log-probabilities are not sampled
    type: Literal["choice_logprobs"] = "choice_logprobs"  # the tag that tells the records apart on disk


@dataclass(frozen=True, slots=True)
class Unanswered:
    """An item that could not be asked: said, never truncated silently."""

    item_id: str  # which item
    reason: Literal["over_context", "rejected"]  # prompt and longest answer do not fit, or a server refused
    prompt_tokens: int  # tokens of the prompt
    sample: int = 0  # which of several answers to the item
    type: Literal["unanswered"] = "unanswered"  # the tag that tells the records apart on disk


Response = Generation | ChoiceLogprobs | Unanswered


@dataclass(frozen=True, slots=True)
class Scored:
    """One response and what it scored: a line of a results file."""

    item_id: str  # which item
    item_digest: str  # `Item.digest` of the item that was asked: a changed item never meets an old answer
    unit: int  # the work unit that it was answered in
    score: float | None  # in [0, 1]; None if the item went unanswered
    metrics: Mapping[str, float]  # what the task's own scorer said, by metric
    response: Response  # the answer
    # Kind of tail event to whether the answer shows it, for the kinds that were looked for; None if none was
    signs: Mapping[str, bool] | None = None
    length: int | None = None  # tokens of a free-text answer, also where its text is not kept; None if not counted
    choice_probability: float | None = None  # of choices: the probability of the right one among them; else None
    metric: str = ""  # the name of the metric that is the score, a key of `metrics`; empty if the item went unanswered


@dataclass(frozen=True, slots=True)
class Timing:
    """What a work unit cost; kept apart from answers so that answers are comparable byte by byte."""

    unit: int  # which work unit
    seconds: float  # wall time inside the engine
    prompt_tokens: int  # tokens read, shared prefixes counted once
    output_tokens: int  # tokens written
    items: int  # items answered


@dataclass(frozen=True, slots=True)
class Proof:
    """What a loaded variant shows of itself: that it is what the config says it is."""

    method: str  # the quantization method, ``none`` for a plain model
    kernel: str  # the layer class (and kernel) that does the work, as loaded
    quantized_modules: int  # linear modules that are quantized
    linear_modules: int  # all linear modules, the head included
    bits_per_weight: float  # stored bits over weights of the quantized modules, scales and zeros included
    weight_bytes: int  # bytes of all parameters and buffers in memory, counted tensor by tensor
    disk_bytes: int  # bytes of the checkpoint's weight files; 0 if it is quantized at load
    compute_dtype: str  # the dtype that activations are computed in
    vocabulary: int  # rows of the output head
    tokenizer_digest: str  # identity of the tokenizer's behaviour
    notes: tuple[str, ...] = ()  # sentences that a reader of the report needs (``auto-gptq runs on GPTQModel`` ...)
    # Share of the weights in linear and expert matrices that is quantized, but embeddings and head; None: not recorded
    quantized_share: float | None = None
    end_tokens: tuple[int, ...] = ()  # tokens that end an answer, ascending; empty in runs that did not record them
    # If another program or library answers: ``kind`` (``proven`` or ``declared``), ``engine``, ``version``, ``dtype``,
    # ``flags``, how it is asked and what it says of itself
    served: Mapping[str, Any] | None = None
    kv_cache: Mapping[str, Any] | None = None  # its class, its settings, bytes per token next to the model's own
    decoding: Mapping[str, Any] | None = None  # what proposes tokens, the attention implementation, the largest batch
    module_bits: Mapping[str, Any] | None = None
    """Where modules have bits of their own: bits to their names (``modules``) and what they hold (``bytes``)."""


def to_json(record: Any) -> dict[str, Any]:
    """Return a record as plain JSON data."""
    return dataclasses.asdict(record)


def _tuples(data: dict[str, Any], *names: str) -> dict[str, Any]:
    return {**data, **{name: tuple(data[name]) for name in names if name in data}}


def proof_from_json(data: Mapping[str, Any]) -> Proof:
    """Read a proof back. Raises KeyError or TypeError if it is not one."""
    return Proof(**{**_tuples(dict(data), "end_tokens"), "notes": tuple(data["notes"])})


def item_from_json(data: Mapping[str, Any]) -> Item:
    """Read an item back. Raises TypeError where a field is unknown or missing."""
    return Item(**_tuples(dict(data), "choices", "stop"))


def scored_from_json(data: Mapping[str, Any]) -> Scored:
    """Read a results line back, its response by the tag. Raises KeyError or TypeError where it is not one."""
    kinds: dict[str, Any] = {"generation": Generation, "choice_logprobs": ChoiceLogprobs, "unanswered": Unanswered}
    known = _tuples(dict(data["response"]), "token_ids", "logprobs", "token_counts", "greedy")
    return Scored(**{**data, "response": kinds[known["type"]](**known)})
