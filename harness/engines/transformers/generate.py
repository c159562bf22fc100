"""Items to be answered in free text, from text to records: encoded, planned into schedules, decoded, and cut.

Does not know choices.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from harness.engines.transformers.batches import OomRetry, out_of_memory, plan, release_memory, too_large
from harness.engines.transformers.continuous import Continuous
from harness.engines.transformers.decode import Answer, Request, decode_batch
from harness.engines.transformers.divergence import HiddenStateObserver
from harness.engines.transformers.packing import PackedRequests
from harness.engines.transformers.scheduler import EngineContext, Schedule, schedules
from harness.engines.transformers.text import StopDetector
from harness.records import Generation, Item, Response, Settings, Unanswered

__all__ = ["TextGeneration"]

Drafts = Mapping[str, Sequence[int]]
References = dict[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class TextGeneration:
    """Asks for answers in free text."""

    context: EngineContext
    """The model and its budgets."""
    settings: Settings
    """How answers are sampled."""

    def answer(self, items: Sequence[Item], drafts: Drafts, observer: HiddenStateObserver | None) -> Iterator[Response]:
        """Yield a record for each answer as it ends; `drafts` may be right, by item id.

        An observer's references are checked as drafts in the pass that answers, if drafts can be checked; if not, or if
        answers are their own references, they are read again afterwards.
        """
        references = dict(observer.references) if observer is not None else {}
        speculative = self.context.continuous and self.settings.temperature == 0
        requests: list[Request] = []
        for item in items:
            request = self._request(item)
            if request.tokens > self.context.limit:
                for sample in range(self.settings.samples):
                    yield Unanswered(item.id, "over_context", len(request.prompt), sample)
                continue
            if speculative:
                draft = as_draft(self.context, references.get(item.id) or drafts.get(item.id, ()), item.max_tokens)
                request = replace(request, draft=draft)
            requests += [replace(request, sample=sample) for sample in range(self.settings.samples)]
        at_once = observer is not None and speculative and bool(references)
        stops = {item.id: item.stop for item in items}
        answers = []
        for answer in self._decode(requests, self._loop(observer if at_once else None, references)):
            answers.append(answer)
            yield self._record(answer, stops[answer.request.item_id])
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

        def run(rows: list[PackedRequests[Request]]) -> list[None]:
            loop.prefill_only(rows)
            return []

        wanted: list[Request] = []
        for answer in answers:
            request = answer.request
            if request.sample == 0 and observer.uses_own_answers:
                own = reference(context, answer.ids, answer.finish, observer.max_tokens)
                references.setdefault(request.item_id, own)
            if request.sample == 0 and request.item_id in references:
                draft = as_draft(context, references[request.item_id], request.max_tokens)
                wanted.append(replace(request, draft=draft))
        retry = OomRetry(run, PackedRequests.halves, _first_id, context.usage.notes)
        for schedule in schedules(context, wanted, context.budget):
            for batch in schedule.batches:
                list(retry(batch))

    def _request(self, item: Item) -> Request:
        prompt = tuple(self.context.texts.prompt(item.prompt))
        return Request(item.id, 0, prompt, item.max_tokens, StopDetector(self.context.texts, item.stop))

    # -- answering

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

    def _loop(self, observer: HiddenStateObserver | None, references: Mapping[str, tuple[int, ...]]) -> Continuous:
        """Return what answers, and shows an observer the states that predict requests with a reference."""

        def observe(request: Request, hidden: Tensor) -> None:
            if observer is not None and request.sample == 0:
                observer.observe(request.item_id, references.get(request.item_id, ()), hidden)

        texts, read = self.context.texts, self.context.usage.read
        return Continuous(
            self.context.model, self.settings, texts.end_ids, texts.pad_id, read, None if observer is None else observe
        )

    def _in_slots(self, requests: Sequence[Request], loop: Continuous) -> Iterator[Answer]:
        """Answer in slots, halving what is held at once whenever memory does not suffice."""
        waiting, budget = list(requests), self.context.budget
        while waiting:
            done: set[tuple[str, int]] = set()
            try:
                for schedule in schedules(self.context, waiting, budget):
                    for answer in self._run(schedule, loop):
                        done.add((answer.request.item_id, answer.request.sample))
                        yield answer
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error):
                    raise
                waiting = [one for one in waiting if (one.item_id, one.sample) not in done]
                if budget.rows == 1:
                    raise too_large(max(waiting, key=lambda one: one.tokens).item_id) from error
                budget = budget.halved()
                self.context.usage.notes.append(f"out of memory while answering: went on with {budget.rows} rows")
            else:
                return
            release_memory()

    @staticmethod
    def _run(schedule: Schedule, loop: Continuous) -> Iterator[Answer]:
        answer = loop.on_prefixes if schedule.on_prefixes else loop.in_slots
        return answer(schedule.batches, schedule.rows)

    def _in_batches(self, requests: Sequence[Request]) -> Iterator[Answer]:
        """Answer batch after batch, each until its last answer ends."""

        def run(batch: list[Request]) -> list[Answer]:
            texts, model, assisted = self.context.texts, self.context.model, self.context.assisted
            if assisted is None:
                answers = decode_batch(model, batch, self.settings, ends=texts.end_ids, pad=texts.pad_id)
            else:
                answers = [assisted.answer(model, one, texts.end_ids, texts.pad_id) for one in batch]
            self.context.usage.read(sum(len(one.prompt) for one in batch))
            return answers

        retry = OomRetry(run, lambda one: [one], lambda one: one.item_id, self.context.usage.notes)
        budget = self.context.budget
        lengths = [len(one.prompt) if budget.equal and not self._alone(one) else one.tokens for one in requests]
        for batch in plan(lengths, budget):
            yield from retry([requests[index] for index in batch])

    def _record(self, answer: Answer, stops: Sequence[str]) -> Generation:
        request = answer.request
        return Generation(
            item_id=request.item_id,
            text=self.context.texts.answer(answer.ids, stops),
            token_ids=tuple(answer.ids),
            finish=answer.finish or "length",
            prompt_tokens=len(request.prompt),
            sample=request.sample,
        )


def reference(context: EngineContext, ids: Sequence[int], finish: str | None, most: int) -> tuple[int, ...]:
    """Return the first tokens of an answer that are to be predicted, with the end token if it ended with one."""
    end = min(context.texts.end_ids, default=None)
    return (*ids, *((end,) if finish == "eos" and end is not None else ()))[:most]


def as_draft(context: EngineContext, tokens: Sequence[int], most: int) -> tuple[int, ...]:
    """Return at most so many tokens of a reference, without the end token."""
    ended = bool(tokens) and tokens[-1] in context.texts.end_ids
    return tuple(tokens[: len(tokens) - ended][:most])


def _first_id(row: PackedRequests[Request]) -> str:
    return row.requests[0].item_id
