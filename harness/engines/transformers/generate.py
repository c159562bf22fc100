"""Items to be answered in free text, from text to records: encoded, planned into schedules, decoded, and cut."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from harness.engines.transformers.continuous import Continuous
from harness.engines.transformers.decode import Answer, Request, decode_batch
from harness.engines.transformers.packing import (
    OomRetry,
    PackedRequests,
    out_of_memory,
    plan,
    release_memory,
    too_large,
)
from harness.engines.transformers.scheduler import EngineContext, HiddenStateObserver, Row, schedules
from harness.engines.transformers.text import StopDetector
from harness.records import Generation, Item, Response, Settings, Unanswered

__all__ = ["TextGeneration", "as_draft"]

References = dict[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class TextGeneration:
    """Asks for answers in free text."""

    context: EngineContext
    settings: Settings

    def answer(
        self, items: Sequence[Item], drafts: Mapping[str, Sequence[int]], observer: HiddenStateObserver | None
    ) -> Iterator[Response]:
        """Yield a record for each answer as it ends; `drafts` may be right, by item id.

        An observer's references are checked as drafts in the pass that answers, if drafts can be checked; if not, or if
        answers are their own references, they are read again afterwards.
        """
        context, samples, texts = self.context, self.settings.samples, self.context.texts
        references = dict(observer.references) if observer is not None else {}
        speculative = context.continuous and self.settings.temperature == 0
        requests: list[Request] = []
        for item in items:
            prompt = tuple(texts.prompt(item.prompt))
            request = Request(item.id, 0, prompt, item.max_tokens, StopDetector(texts, item.stop))
            if request.tokens > context.limit:
                yield from (Unanswered(item.id, "over_context", len(prompt), sample) for sample in range(samples))
                continue
            if speculative:
                draft = as_draft(context, references.get(item.id) or drafts.get(item.id, ()), item.max_tokens)
                request = replace(request, draft=draft)
            requests += [replace(request, sample=sample) for sample in range(samples)]
        at_once = observer is not None and speculative and bool(references)
        stops = {item.id: item.stop for item in items}
        answers = []
        for answer in self._decode(requests, self._loop(observer if at_once else None, references)):
            answers.append(answer)
            request = answer.request
            yield Generation(
                item_id=request.item_id,
                text=texts.answer(answer.ids, stops[request.item_id]),
                token_ids=tuple(answer.ids),
                finish=answer.finish or "length",
                prompt_tokens=len(request.prompt),
                sample=request.sample,
            )
        if observer is not None:
            again = [one for one in answers if not at_once or self._alone(one.request)]
            self._replay_hidden_states(again, observer, references)

    def _replay_hidden_states(
        self, answers: Sequence[Answer], observer: HiddenStateObserver, references: References
    ) -> None:
        """Read the first answer to each item, or its reference, again for an observer; adds own answers to references.

        They are read with their prompts in the pass in which another variant would have them checked as drafts, so a
        model compared with itself sums in the same order, and its divergence is 0.
        """
        context, loop = self.context, self._loop(observer, references)

        def run(rows: list[Row]) -> list[None]:
            loop.read(rows, keep=False)
            return []

        end = min(context.texts.end_ids, default=None)
        wanted: list[Request] = []
        for answer in answers:
            request = answer.request
            if request.sample > 0:
                continue
            if observer.uses_own_answers:
                ended = (end,) if answer.finish == "eos" and end is not None else ()
                references.setdefault(request.item_id, (*answer.ids, *ended)[: observer.max_tokens])
            if request.item_id in references:
                draft = as_draft(context, references[request.item_id], request.max_tokens)
                wanted.append(replace(request, draft=draft))
        retry = OomRetry(run, PackedRequests.halves, lambda row: row.requests[0].item_id, context.usage.notes)
        for schedule in schedules(context, wanted, context.budget):
            for batch in schedule.batches:
                list(retry(batch))

    def decode(self, requests: Sequence[Request]) -> Iterator[Answer]:
        """Answer requests, in any order."""
        yield from self._decode(requests, self._loop(None, {}))

    def _decode(self, requests: Sequence[Request], loop: Continuous) -> Iterator[Answer]:
        slots = self.context.continuous
        alone = [one for one in requests if self._alone(one) or not slots]
        rest = [one for one in requests if slots and not self._alone(one)]
        for answer in itertools.chain(self._in_slots(rest, loop), self._in_batches(alone)):
            self.context.usage.output_tokens += len(answer.ids)
            yield answer

    def _alone(self, request: Request) -> bool:
        """Whether a request is so long that its numbers would depend on what it is answered with."""
        return request.tokens > self.context.model.longest_together

    def _loop(self, observer: HiddenStateObserver | None, references: References) -> Continuous:
        """Return what answers, and shows an observer the states that predict requests with a reference."""

        def observe(request: Request, hidden: Tensor) -> None:
            if observer is not None and request.sample == 0:
                observer.observe(request.item_id, references.get(request.item_id, ()), hidden)

        return Continuous(self.context, self.settings, None if observer is None else observe)

    def _in_slots(self, requests: Sequence[Request], loop: Continuous) -> Iterator[Answer]:
        """Answer in slots, halving what is held at once whenever memory does not suffice."""
        waiting, budget = list(requests), self.context.budget
        while waiting:
            done: set[tuple[str, int]] = set()
            try:
                for schedule in schedules(self.context, waiting, budget):
                    for answer in loop.answer(schedule):
                        done.add((answer.request.item_id, answer.request.sample))
                        yield answer
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error):
                    raise
                waiting = [one for one in waiting if (one.item_id, one.sample) not in done]
                if budget.rows == 1:
                    raise too_large(max(waiting, key=lambda one: one.tokens).item_id) from error
                budget = replace(budget, tokens=max(1, budget.tokens // 2), rows=max(1, budget.rows // 2))
                self.context.usage.notes.append(f"out of memory while answering: went on with {budget.rows} rows")
            else:
                return
            release_memory()

    def _in_batches(self, requests: Sequence[Request]) -> Iterator[Answer]:
        """Answer batch after batch, each until its last answer ends."""
        context = self.context
        model, budget, ends, pad = context.model, context.budget, context.texts.end_ids, context.texts.pad_id

        def run(batch: list[Request]) -> list[Answer]:
            if context.assisted is None:
                answers = decode_batch(model, batch, self.settings, ends=ends, pad=pad)
            else:
                answers = [context.assisted.answer(model, one, ends, pad) for one in batch]
            context.usage.prompt_tokens += sum(len(one.prompt) for one in batch)
            return answers

        retry = OomRetry(run, lambda one: [one], lambda one: one.item_id, context.usage.notes)
        lengths = [len(one.prompt) if budget.equal and not self._alone(one) else one.tokens for one in requests]
        for batch in plan(lengths, budget):
            yield from retry([requests[index] for index in batch])


def as_draft(context: EngineContext, tokens: Sequence[int], most: int) -> tuple[int, ...]:
    """Return at most so many tokens of a reference, without the end token."""
    ended = bool(tokens) and tokens[-1] in context.texts.end_ids
    return tuple(tokens[: len(tokens) - ended][:most])
