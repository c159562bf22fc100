"""The project's own engine: a transformers model on one device, exact, batched, with bounded memory.

Turns items into token sequences, plans batches, and puts the answers together. Does not know how a model was
loaded or quantized, and does not know scores.
"""

from __future__ import annotations

import resource
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from harness.engine import Usage
from harness.hf_engine_batches import Backoff, Budget, out_of_memory, plan, plan_rows, release_memory, too_large
from harness.hf_engine_choices import Continuation, Weighed, weigh_rows
from harness.hf_engine_continuous import Continuous, Line
from harness.hf_engine_decode import Answer, Request, decode_batch
from harness.hf_engine_model import LanguageModel, context_limit, end_token_ids
from harness.hf_engine_packing import BRANCHES_AT_MOST, Packed, group_by_prefix, pack
from harness.hf_engine_text import StopWatch, Texts
from harness.records import ChoiceLogprobs, Generation, Item, Proof, Response, Settings, Unanswered

__all__ = ["ENGINE_VERSION", "HFEngine", "Shortcuts"]

ENGINE_VERSION = "hf/2"
"""Raised whenever the same items could get other answers."""

CPU_READING = 4096
"""Tokens read at once on a CPU: more do not make it faster, and take memory."""

ChoiceRow = tuple[tuple[Continuation, ...], Packed]


@dataclass(frozen=True, slots=True)
class Shortcuts:
    """What makes the engine fast; each can be switched off, and no answer changes but within the noise of sums."""

    share_prefixes: bool = True
    """Read once what sequences begin with alike: the context of choices, a haystack, worked examples."""
    continuous: bool = True
    """Give the place of a finished answer to the next one at once."""
    guided: bool = True
    """Check drafts, where there are any, instead of writing the same answer token by token."""


ALL = Shortcuts()
"""Every shortcut."""


class HFEngine:
    """A loaded transformers model, ready to answer.

    `batch_invariant` is false for variants whose answer to an item depends on what else is in the batch
    (LLM.int8): they get every item alone, so that an answer is a function of its item. `share_prefixes` and
    `continuous` switch off what makes the engine fast and changes no answer: reading what sequences share
    once, and filling the place of a finished answer at once. A model whose cache is not a plain one, or that
    fails the trial of either, goes without them by itself; `usage` says so.
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
        shortcuts: Shortcuts = ALL,
    ) -> None:
        self._model = LanguageModel(model, device)
        self._texts = Texts(tokenizer, end_token_ids(model))
        self._proof = proof
        self._limit = context_limit(model, tokenizer)
        self._invariant = batch_invariant
        self._shares = shortcuts.share_prefixes and self._model.takes_trees
        self._continuous = shortcuts.continuous and self._model.takes_trees
        self._guided = shortcuts.guided and self._continuous and batch_invariant
        rows = max_batch if batch_invariant else 1
        self._budget = Budget(batch_tokens, rows, equal=self._model.kind == "opaque")
        self._prompt_tokens = 0
        self._output_tokens = 0
        self._notes: list[str] = []
        if not self._model.takes_trees:
            self._notes.append(f"plain path: {self._model.path_note}")

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
        notes = tuple(dict.fromkeys(self._notes))
        return Usage(self._prompt_tokens, self._output_tokens, self._peak_bytes(), notes)

    def answer(
        self, items: Sequence[Item], settings: Settings, drafts: Mapping[str, Sequence[int]] | None = None
    ) -> Iterator[Response]:
        """Yield the responses to one work unit: choices first, then free text, long items before short ones.

        `drafts` may give, by item id, the tokens that another variant answered: where this one answers the
        same, that is found in one pass; it changes no answer. An item that does not fit the context is
        `Unanswered`, never cut. Raises NonFinite with the item's id where logits are NaN or infinite,
        RunError where one item alone does not fit memory.
        """
        yield from self._answer_choices([item for item in items if item.kind == "choice"])
        texts = [item for item in items if item.kind == "generate"]
        yield from self._answer_texts(texts, settings, drafts or {})

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
                Continuation(item.id, index, tuple(begin), tuple(rest)) for index, (begin, rest) in enumerate(pairs)
            ]
        rows = self._choice_rows(list(asked.values()))
        found: dict[str, dict[int, Weighed]] = {name: {} for name in asked}
        run = Backoff(self._weigh, _split_row, lambda row: row[0][0].item_id, self._notes)
        for batch in plan_rows([packed for _, packed in rows], self._reading_budget()):
            for weighed in run([rows[index] for index in batch]):
                choices = found[weighed.item_id]
                choices[weighed.choice] = weighed
                if len(choices) == len(asked[weighed.item_id]):
                    yield _choice_record(asked[weighed.item_id], choices)

    def _choice_rows(self, asked: Sequence[Sequence[Continuation]]) -> list[ChoiceRow]:
        """Put choices that begin alike into common rows; only those of one item where batches matter."""
        most = BRANCHES_AT_MOST if self._shares else 0
        together = [[one for choices in asked for one in choices]] if self._invariant else asked
        rows: list[ChoiceRow] = []
        for wanted in together:
            sequences = [one.sequence for one in wanted]
            for group in group_by_prefix(sequences, most=most):
                packed = pack([sequences[index] for index in group])
                rows.append((tuple(wanted[index] for index in group), packed))
        return rows

    def _weigh(self, rows: list[ChoiceRow]) -> list[Weighed]:
        answers = weigh_rows(self._model, rows, self._texts.pad_id)
        self._prompt_tokens += sum(len(packed.tokens) for _, packed in rows)
        return answers

    # -- free text

    def _answer_texts(
        self, items: Sequence[Item], settings: Settings, drafts: Mapping[str, Sequence[int]]
    ) -> Iterator[Response]:
        requests: list[Request] = []
        stops = {item.id: item.stop for item in items}
        guided = self._guided and settings.temperature == 0
        for item in items:
            prompt = tuple(self._texts.prompt(item.prompt))
            if len(prompt) + item.max_tokens > self._limit:
                yield from _over_context(item.id, len(prompt), settings.samples)
                continue
            draft = tuple(drafts.get(item.id, ()))[: item.max_tokens] if guided else ()
            watch = StopWatch(self._texts, item.stop)
            requests += [
                Request(item.id, sample, prompt, item.max_tokens, watch, draft) for sample in range(settings.samples)
            ]
        answers = self._decode if self._continuous else self._decode_plainly
        for answer in answers(requests, settings):
            self._output_tokens += len(answer.ids)
            yield self._text_record(answer, stops[answer.request.item_id])

    def _decode(self, requests: Sequence[Request], settings: Settings) -> Iterator[Answer]:
        """Answer in slots, halving what is held at once whenever memory does not suffice."""
        loop = Continuous(self._model, settings, self._texts.end_ids, self._texts.pad_id, self._count_prompt)
        waiting, budget = list(requests), self._budget
        while waiting:
            done: set[tuple[str, int]] = set()
            try:
                for lines, slots in self._sessions(waiting, budget):
                    for answer in loop(lines, slots):
                        done.add((answer.request.item_id, answer.request.sample))
                        yield answer
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error):
                    raise
                waiting = [one for one in waiting if (one.item_id, one.sample) not in done]
                if budget.rows == 1:
                    raise too_large(max(waiting, key=lambda one: one.tokens).item_id) from error
                budget = budget.halved()
                self._notes.append(f"out of memory while answering: went on with {budget.rows} rows")
            else:
                return
            release_memory()

    def _sessions(self, requests: Sequence[Request], budget: Budget) -> Iterator[tuple[list[list[Line]], int]]:
        """Split requests into stretches of similar length, each with as many slots as the budget has room for."""
        order = sorted(requests, key=lambda one: -one.tokens)
        while order:
            longest = order[0].tokens
            count = next((at for at, one in enumerate(order) if 2 * one.tokens < longest), len(order))
            mine, order = order[:count], order[count:]
            slots = max(1, min(budget.rows, budget.tokens // longest, count))
            most = BRANCHES_AT_MOST if self._shares and budget.rows > 1 else 0
            sequences = [one.prompt + one.draft for one in mine]
            lines: list[Line] = [
                (tuple(mine[index] for index in group), pack([sequences[index] for index in group]))
                for group in group_by_prefix(sequences, most=most)
            ]
            batches = plan_rows([packed for _, packed in lines], self._reading_budget(budget))
            yield [[lines[index] for index in batch] for batch in batches], slots

    def _decode_plainly(self, requests: Sequence[Request], settings: Settings) -> Iterator[Answer]:
        """Answer batch after batch, each until its last answer ends."""

        def run(batch: list[Request]) -> list[Answer]:
            ends, pad = self._texts.end_ids, self._texts.pad_id
            answers = decode_batch(self._model, batch, settings, ends=ends, pad=pad)
            self._count_prompt(sum(len(one.prompt) for one in batch))
            return answers

        careful = Backoff(run, lambda one: [one], lambda one: one.item_id, self._notes)
        lengths = [len(one.prompt) if self._budget.equal else one.tokens for one in requests]
        for batch in plan(lengths, self._budget):
            yield from careful([requests[index] for index in batch])

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

    # -- budgets and counts

    def _reading_budget(self, budget: Budget | None = None) -> Budget:
        """Give how much may be read in one pass."""
        budget = budget or self._budget
        tokens = min(budget.tokens, CPU_READING) if self._model.device.type == "cpu" else budget.tokens
        return Budget(tokens, budget.rows, budget.equal)

    def _count_prompt(self, tokens: int) -> None:
        self._prompt_tokens += tokens

    def _peak_bytes(self) -> int:
        """Give the largest memory seen: the GPU allocator's high water, else the resident set."""
        if self._model.device.type == "cuda":
            return int(torch.cuda.max_memory_allocated(self._model.device))
        kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return kilobytes if sys.platform == "darwin" else kilobytes * 1024


def _over_context(item_id: str, tokens: int, samples: int) -> Iterator[Unanswered]:
    return (Unanswered(item_id, "over_context", tokens, sample) for sample in range(samples))


def _split_row(row: ChoiceRow) -> list[ChoiceRow]:
    """Divide a packed row into two that are read apart."""
    choices, _ = row
    halves = [choices[: len(choices) // 2], choices[len(choices) // 2 :]]
    return [(half, pack([one.sequence for one in half])) for half in halves if half]


def _choice_record(asked: Sequence[Continuation], weighed: dict[int, Weighed]) -> ChoiceLogprobs:
    ordered = [weighed[index] for index in range(len(asked))]
    return ChoiceLogprobs(
        item_id=asked[0].item_id,
        logprobs=tuple(one.logprob for one in ordered),
        token_counts=tuple(len(one.tokens) for one in asked),
        greedy=tuple(one.greedy for one in ordered),
        prompt_tokens=len(asked[0].context),
    )
