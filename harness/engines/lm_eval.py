"""Any lm_eval model as an engine: vLLM, SGLang, an OpenAI-compatible endpoint, or lm_eval's own `hf`.

Turns items into lm_eval requests and lm_eval's answers into records. What such a model does not tell (tokens
as produced, why an answer ended, memory) is worked out from the text where it has a tokenizer, and left out
where not.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from lm_eval import __version__ as lm_eval_version
from lm_eval.api.instance import Instance

from harness.engines.protocol import Usage
from harness.errors import NonFinite
from harness.records import ChoiceLogprobs, Generation, Item, Proof, Response, Settings, Unanswered
from harness.stops import cut_at_stops

__all__ = ["LmEvalEngine"]

NO_LIMIT = 2**31 - 1


class LmEvalEngine:
    """An lm_eval model, already made, behind the engine protocol.

    `name` is part of the version: give what distinguishes one server or backend from another. Log-likelihoods
    of lm_eval's `hf` model are asked for in float32, because in bf16 it rounds them to whole numbers.
    """

    def __init__(self, lm: Any, proof: Proof, *, name: str = "", context_limit: int | None = None) -> None:
        self._lm = lm
        self._proof = proof
        self._name = name or type(lm).__name__
        self._limit = context_limit or self._own_limit()
        self._prompt_tokens = 0
        self._output_tokens = 0
        self._notes: list[str] = []
        if hasattr(lm, "softmax_dtype") and lm.softmax_dtype is None:
            import torch

            lm.softmax_dtype = torch.float32

    @property
    def version(self) -> str:
        """Part of every cache key."""
        return f"lm_eval/{lm_eval_version}-{self._name}"

    @property
    def context_limit(self) -> int:
        """Longest prompt plus answer, in tokens: what the model says of itself, else no limit."""
        return self._limit

    def proof(self) -> Proof:
        """Say what is loaded, as the caller knows it: a remote model cannot be looked into."""
        return self._proof

    def usage(self) -> Usage:
        """Say what has been spent, as far as tokens can be counted; memory is not known."""
        notes = tuple(dict.fromkeys(self._notes))
        return Usage(self._prompt_tokens, self._output_tokens, peak_bytes=0, notes=notes)

    def answer(self, items: Sequence[Item], settings: Settings) -> Iterator[Response]:
        """Yield the responses, choices first. Raises NonFinite where a log-likelihood is not a number."""
        fitting = []
        for item in items:
            tokens = self._count(item)
            if tokens is not None and tokens + item.max_tokens > self._limit + (item.kind == "choice"):
                samples = settings.samples if item.kind == "generate" else 1
                yield from (Unanswered(item.id, "over_context", tokens, sample) for sample in range(samples))
            else:
                fitting.append(item)
        yield from self._choices([item for item in fitting if item.kind == "choice"])
        texts = [item for item in fitting if item.kind == "generate"]
        for sample in range(settings.samples if texts else 0):
            yield from self._texts(texts, settings, sample)

    def _choices(self, items: Sequence[Item]) -> Iterator[Response]:
        if not items:
            return
        requests = [
            Instance("loglikelihood", dict(item.doc), (item.prompt, choice), index)
            for item in items
            for index, choice in enumerate(item.choices)
        ]
        answers = iter(self._lm.loglikelihood(requests, disable_tqdm=True))
        for item in items:
            pairs = [next(answers) for _ in item.choices]
            logprobs = tuple(float(logprob) for logprob, _ in pairs)
            if not all(map(math.isfinite, logprobs)):
                raise NonFinite(f"{item.id}: a log-likelihood is not finite: {logprobs}", item.id)
            counts = [self._pair(item.prompt, choice) for choice in item.choices]
            self._prompt_tokens += sum(begin + rest - 1 for begin, rest in counts if rest)
            yield ChoiceLogprobs(
                item_id=item.id,
                logprobs=logprobs,
                token_counts=tuple(rest for _, rest in counts),
                greedy=tuple(bool(greedy) for _, greedy in pairs),
                prompt_tokens=counts[0][0] or item.prompt_tokens,
            )

    def _texts(self, items: Sequence[Item], settings: Settings, sample: int) -> Iterator[Response]:
        if settings.temperature > 0:
            self._notes.append(f"{self._name} draws its own random numbers: samples are not paired between variants")
        texts = self._generated([(item, item.stop) for item in items], settings, sample)
        # White space at the beginning never ends an answer: such items are asked again without white space that stops.
        again = [at for at, item in enumerate(items) if not texts[at].strip() and any(map(str.isspace, item.stop))]
        kept = [(items[at], tuple(one for one in items[at].stop if one.strip())) for at in again]
        for at, text in zip(again, self._generated(kept, settings, sample), strict=True):
            texts[at] = cut_at_stops(text, items[at].stop)
        for item, text in zip(items, texts, strict=True):
            ids = self._encode(text, special=False) or []
            prompt = self._count(item) or item.prompt_tokens
            self._prompt_tokens += prompt
            self._output_tokens += len(ids)
            finish = "length" if len(ids) >= item.max_tokens > 0 else "eos"
            yield Generation(item.id, text, tuple(ids), finish, prompt, sample)  # type: ignore[arg-type]

    def _generated(self, asked: Sequence[tuple[Item, tuple[str, ...]]], settings: Settings, sample: int) -> list[str]:
        """Give the answer to each item, ended by the stop texts beside it."""
        requests = [
            Instance("generate_until", dict(item.doc), (item.prompt, _arguments(item, stop, settings)), sample)
            for item, stop in asked
        ]
        return list(self._lm.generate_until(requests, disable_tqdm=True)) if requests else []

    def _own_limit(self) -> int:
        said = getattr(self._lm, "max_length", None)
        return int(said) if isinstance(said, int) else NO_LIMIT

    def _encode(self, text: str, *, special: bool | None) -> list[int] | None:
        """Give the tokens of a text where the model has a tokenizer in this process."""
        if getattr(self._lm, "tokenizer", None) is None or not hasattr(self._lm, "tok_encode"):
            return None
        ids = self._lm.tok_encode(text) if special is None else self._lm.tok_encode(text, add_special_tokens=special)
        return [int(one) for one in ids]

    def _pair(self, context: str, choice: str) -> tuple[int, int]:
        """Give the tokens of context and choice, zeros where they cannot be counted."""
        if not context or self._encode("", special=False) is None or not hasattr(self._lm, "_encode_pair"):
            return 0, 0
        begin, rest = self._lm._encode_pair(context, choice)  # noqa: SLF001  # no public way to lm_eval's own split
        return len(begin), len(rest)

    def _count(self, item: Item) -> int | None:
        """Give the tokens of a prompt and its longest choice; None where they cannot be counted."""
        if item.kind == "generate":
            ids = self._encode(item.prompt, special=None)
            return None if ids is None else len(ids)
        counts = [sum(self._pair(item.prompt, choice)) for choice in item.choices]
        return max(counts, default=0) or None


def _arguments(item: Item, stop: Sequence[str], settings: Settings) -> dict[str, Any]:
    """Give lm_eval's generation arguments."""
    arguments: dict[str, Any] = {
        "until": list(stop),
        "max_gen_toks": item.max_tokens,
        "do_sample": False,
    }
    if settings.temperature > 0:
        arguments |= {"do_sample": True, "temperature": settings.temperature, "top_p": settings.top_p}
    return arguments
