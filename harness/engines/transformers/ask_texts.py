"""Items to be answered in free text, from text to records: encoded, planned into sessions, decoded, and cut.

Does not know choices.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from harness.engines.transformers.batches import Backoff, out_of_memory, plan, release_memory, too_large
from harness.engines.transformers.continuous import Continuous
from harness.engines.transformers.decode import Answer, Request, decode_batch
from harness.engines.transformers.desk import Desk
from harness.engines.transformers.divergence import Watch
from harness.engines.transformers.sessions import Session, sessions
from harness.engines.transformers.showing import Showing, as_draft
from harness.engines.transformers.text import StopWatch
from harness.records import Generation, Item, Response, Settings, Unanswered

__all__ = ["TextQuestions"]

Drafts = Mapping[str, Sequence[int]]


@dataclass(frozen=True, slots=True)
class TextQuestions:
    """Asks for answers in free text."""

    desk: Desk
    """The model and its budgets."""
    settings: Settings
    """How answers are sampled."""

    def answer(self, items: Sequence[Item], drafts: Drafts, watch: Watch | None) -> Iterator[Response]:
        """Yield a record for each answer as it ends; `drafts` may be right, by item id."""
        references = dict(watch.drafts) if watch is not None else {}
        guided = self.desk.continuous and self.settings.temperature == 0
        requests: list[Request] = []
        for item in items:
            request = self._request(item)
            if request.tokens > self.desk.limit:
                for sample in range(self.settings.samples):
                    yield Unanswered(item.id, "over_context", len(request.prompt), sample)
                continue
            if guided:
                draft = as_draft(self.desk, references.get(item.id) or drafts.get(item.id, ()), item.max_tokens)
                request = replace(request, draft=draft)
            requests += [replace(request, sample=sample) for sample in range(self.settings.samples)]
        in_passing = watch if guided and references else None
        behind = None
        if watch is not None and in_passing is None:
            behind = Showing(self.desk, watch, references, self._loop(watch, references))
        stops = {item.id: item.stop for item in items}
        answers = []
        for answer in self._decode(requests, self._loop(in_passing, references)):
            answers.append(answer)
            yield self._record(answer, stops[answer.request.item_id])
        if behind is not None:
            behind.rest(answers)
        if in_passing is not None:  # those that were not read with their drafts
            loop = self._loop(watch, references)
            Showing(self.desk, in_passing, references, loop).read([one for one in requests if self._alone(one)])

    def _request(self, item: Item) -> Request:
        prompt = tuple(self.desk.texts.prompt(item.prompt))
        return Request(item.id, 0, prompt, item.max_tokens, StopWatch(self.desk.texts, item.stop))

    # -- answering

    def decode(self, requests: Sequence[Request]) -> Iterator[Answer]:
        """Answer requests, in any order."""
        yield from self._decode(requests, self._loop(None, {}))

    def _decode(self, requests: Sequence[Request], loop: Continuous) -> Iterator[Answer]:
        slots = self.desk.continuous
        alone = [one for one in requests if self._alone(one) or not slots]
        rest = [one for one in requests if slots and not self._alone(one)]
        for answer in itertools.chain(self._in_slots(rest, loop), self._in_batches(alone)):
            self.desk.account.output_tokens += len(answer.ids)
            yield answer

    def _alone(self, request: Request) -> bool:
        """Whether a request is so long that its numbers would depend on what it is answered with."""
        return request.tokens > self.desk.model.longest_together

    def _loop(self, watch: Watch | None, references: Mapping[str, tuple[int, ...]]) -> Continuous:
        """Give what answers, and shows a watch the states that predict requests with a reference."""

        def seen(request: Request, hidden: Tensor) -> None:
            if watch is not None and request.sample == 0:
                watch.see(request.item_id, references.get(request.item_id, ()), hidden)

        texts, read = self.desk.texts, self.desk.account.read
        return Continuous(
            self.desk.model, self.settings, texts.end_ids, texts.pad_id, read, None if watch is None else seen
        )

    def _in_slots(self, requests: Sequence[Request], loop: Continuous) -> Iterator[Answer]:
        """Answer in slots, halving what is held at once whenever memory does not suffice."""
        waiting, budget = list(requests), self.desk.budget
        while waiting:
            done: set[tuple[str, int]] = set()
            try:
                for session in sessions(self.desk, waiting, budget):
                    for answer in self._of_session(session, loop):
                        done.add((answer.request.item_id, answer.request.sample))
                        yield answer
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error):
                    raise
                waiting = [one for one in waiting if (one.item_id, one.sample) not in done]
                if budget.rows == 1:
                    raise too_large(max(waiting, key=lambda one: one.tokens).item_id) from error
                budget = budget.halved()
                self.desk.account.notes.append(f"out of memory while answering: went on with {budget.rows} rows")
            else:
                return
            release_memory()

    @staticmethod
    def _of_session(session: Session, loop: Continuous) -> Iterator[Answer]:
        if session.on_texts:
            return loop.on_texts(session.batches, session.rows)
        return loop(session.batches, session.rows)

    def _in_batches(self, requests: Sequence[Request]) -> Iterator[Answer]:
        """Answer batch after batch, each until its last answer ends."""

        def run(batch: list[Request]) -> list[Answer]:
            texts = self.desk.texts
            answers = decode_batch(self.desk.model, batch, self.settings, ends=texts.end_ids, pad=texts.pad_id)
            self.desk.account.read(sum(len(one.prompt) for one in batch))
            return answers

        careful = Backoff(run, lambda one: [one], lambda one: one.item_id, self.desk.account.notes)
        budget = self.desk.budget
        lengths = [len(one.prompt) if budget.equal and not self._alone(one) else one.tokens for one in requests]
        for batch in plan(lengths, budget):
            yield from careful([requests[index] for index in batch])

    def _record(self, answer: Answer, stops: Sequence[str]) -> Generation:
        request = answer.request
        return Generation(
            item_id=request.item_id,
            text=self.desk.texts.answer(answer.ids, stops),
            token_ids=tuple(answer.ids),
            finish=answer.finish or "length",
            prompt_tokens=len(request.prompt),
            sample=request.sample,
        )
