"""The project's own engine: a transformers model on one device, exact, batched, with bounded memory.

Turns items into token sequences, plans batches, and puts the answers together. Does not know how a model was
loaded or quantized, and does not know scores.
"""

from __future__ import annotations

import resource
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from harness.engine import Usage
from harness.hf_engine_batches import Backoff, Budget, plan
from harness.hf_engine_choices import Continuation, Weighed, plain_pass
from harness.hf_engine_decode import Answer, Request, decode_batch
from harness.hf_engine_model import LanguageModel, context_limit, end_token_ids
from harness.hf_engine_text import StopWatch, Texts
from harness.records import ChoiceLogprobs, Generation, Item, Proof, Response, Settings, Unanswered

__all__ = ["ENGINE_VERSION", "HFEngine"]

ENGINE_VERSION = "hf/1"
"""Raised whenever the same items could get other answers."""


class HFEngine:
    """A loaded transformers model, ready to answer.

    `batch_invariant` is false for variants whose answer to an item depends on what else is in the batch
    (LLM.int8): they get every row alone, so that an answer is a function of its item.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        proof: Proof,
        *,
        device: str,
        batch_tokens: int = 16384,
        max_batch: int = 64,
        batch_invariant: bool = True,
    ) -> None:
        self._model = LanguageModel(model, device)
        self._texts = Texts(tokenizer, end_token_ids(model))
        self._proof = proof
        self._limit = context_limit(model, tokenizer)
        rows = max_batch if batch_invariant else 1
        self._budget = Budget(batch_tokens, rows, equal=self._model.kind == "opaque")
        self._prompt_tokens = 0
        self._output_tokens = 0
        self._notes: list[str] = []

    @property
    def version(self) -> str:
        """Part of every cache key."""
        return ENGINE_VERSION

    @property
    def context_limit(self) -> int:
        """Longest prompt plus answer, in tokens."""
        return self._limit

    def proof(self) -> Proof:
        """Say what is loaded."""
        return self._proof

    def usage(self) -> Usage:
        """Say what has been spent so far."""
        return Usage(
            self._prompt_tokens, self._output_tokens, self._peak_bytes(), tuple(dict.fromkeys(self._notes))
        )

    def answer(self, items: Sequence[Item], settings: Settings) -> Iterator[Response]:
        """Yield the responses to one work unit: choices first, then free text, long items before short ones.

        An item that does not fit the context is `Unanswered`, never cut. Raises NonFinite with the item's id
        where logits are NaN or infinite, RunError where one item alone does not fit memory.
        """
        yield from self._answer_choices([item for item in items if item.kind == "choice"])
        yield from self._answer_texts([item for item in items if item.kind == "generate"], settings)

    # -- choices

    def _answer_choices(self, items: Sequence[Item]) -> Iterator[Response]:
        asked: dict[str, list[Continuation]] = {}
        for item in items:
            pairs = self._texts.pairs(item.prompt, item.choices, item.id)
            # The last token is predicted and not read, so it may lie one beyond the limit.
            if max(len(begin) + len(rest) for begin, rest in pairs) > self._limit + 1:
                yield Unanswered(item.id, "over_context", len(pairs[0][0]))
                continue
            asked[item.id] = [
                Continuation(item.id, index, tuple(begin), tuple(rest))
                for index, (begin, rest) in enumerate(pairs)
            ]
        wanted = [one for choices in asked.values() for one in choices]
        found: dict[str, dict[int, Weighed]] = {name: {} for name in asked}
        run = Backoff(self._weigh, lambda one: one.item_id, self._notes)
        for batch in plan([len(one.read) for one in wanted], self._budget):
            for weighed in run([wanted[index] for index in batch]):
                choices = found[weighed.item_id]
                choices[weighed.choice] = weighed
                if len(choices) == len(asked[weighed.item_id]):
                    yield _choice_record(asked[weighed.item_id], choices)

    def _weigh(self, batch: list[Continuation]) -> list[Weighed]:
        answers = plain_pass(self._model, batch, self._texts.pad_id)
        self._prompt_tokens += sum(len(one.read) for one in batch)
        return answers

    # -- free text

    def _answer_texts(self, items: Sequence[Item], settings: Settings) -> Iterator[Response]:
        requests: list[Request] = []
        stops = {item.id: item.stop for item in items}
        for item in items:
            prompt = tuple(self._texts.prompt(item.prompt))
            if len(prompt) + item.max_tokens > self._limit:
                for sample in range(settings.samples):
                    yield Unanswered(item.id, "over_context", len(prompt), sample)
                continue
            watch = StopWatch(self._texts, item.stop)
            requests += [
                Request(item.id, sample, prompt, item.max_tokens, watch) for sample in range(settings.samples)
            ]

        def run(batch: list[Request]) -> list[Answer]:
            ends, pad = self._texts.end_ids, self._texts.pad_id
            answers = decode_batch(self._model, batch, settings, ends=ends, pad=pad)
            self._prompt_tokens += sum(len(one.prompt) for one in batch)
            self._output_tokens += sum(len(one.ids) for one in answers)
            return answers

        careful = Backoff(run, lambda one: one.item_id, self._notes)
        for batch in self._plan_texts(requests):
            for answer in careful([requests[index] for index in batch]):
                yield self._text_record(answer, stops[answer.request.item_id])

    def _plan_texts(self, requests: Sequence[Request]) -> list[list[int]]:
        if self._budget.equal:
            return plan([len(one.prompt) for one in requests], self._budget)
        return plan([len(one.prompt) + one.max_tokens for one in requests], self._budget)

    def _text_record(self, answer: Answer, stops: Sequence[str]) -> Generation:
        request = answer.request
        return Generation(
            item_id=request.item_id,
            text=self._texts.answer(answer.ids, stops),
            token_ids=tuple(answer.ids),
            finish=answer.finish or "length",
            prompt_tokens=len(request.prompt),
            sample=request.sample,
        )

    def _peak_bytes(self) -> int:
        """Give the largest memory seen: the GPU allocator's high water, else the resident set."""
        if self._model.device.type == "cuda":
            return int(torch.cuda.max_memory_allocated(self._model.device))
        kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return kilobytes if sys.platform == "darwin" else kilobytes * 1024


def _choice_record(asked: Sequence[Continuation], weighed: dict[int, Weighed]) -> ChoiceLogprobs:
    ordered = [weighed[index] for index in range(len(asked))]
    return ChoiceLogprobs(
        item_id=asked[0].item_id,
        logprobs=tuple(one.logprob for one in ordered),
        token_counts=tuple(len(one.tokens) for one in asked),
        greedy=tuple(one.greedy for one in ordered),
        prompt_tokens=len(asked[0].context),
    )
