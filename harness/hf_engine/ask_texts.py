"""Items to be answered in free text, from text to records: encoded, planned into sessions, decoded, and cut.

Does not know choices.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from harness.hf_engine.batches import Backoff, Budget, out_of_memory, plan, plan_rows, release_memory, too_large
from harness.hf_engine.continuous import Continuous, Line, tokens_on_text
from harness.hf_engine.decode import Answer, Request, decode_batch
from harness.hf_engine.desk import Desk
from harness.hf_engine.divergence import Watch
from harness.hf_engine.packing import group_by_prefix, pack
from harness.hf_engine.text import StopWatch
from harness.records import Generation, Item, Response, Settings, Unanswered

__all__ = ["TextQuestions"]

Drafts = Mapping[str, Sequence[int]]
References = Mapping[str, tuple[int, ...]]
NOTHING: References = {}


TEXT_AT_LEAST = 256
"""Tokens: a shared beginning of at least this length is kept once for all answers that grow on it, provided that it is
longer than all that grows: every step looks at the whole row."""


@dataclass(frozen=True, slots=True)
class _Session:
    """Lines that are answered together."""

    batches: list[list[Line]]
    """Those of one batch are read in one pass."""
    rows: int
    """How many slots, or texts, are in use at a time."""
    on_texts: bool
    """Whether the answers of a line grow on one copy of what their prompts share."""


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
        guided = self.desk.shortcuts.guided and self.settings.temperature == 0
        requests: list[Request] = []
        for item in items:
            request = self._request(item)
            if request.tokens > self.desk.limit:
                for sample in range(self.settings.samples):
                    yield Unanswered(item.id, "over_context", len(request.prompt), sample)
                continue
            if guided:
                draft = self._draft(references.get(item.id) or drafts.get(item.id, ()), item.max_tokens)
                request = replace(request, draft=draft)
            requests += [replace(request, sample=sample) for sample in range(self.settings.samples)]
        in_passing = watch if guided and references else None
        stops = {item.id: item.stop for item in items}
        answers = []
        for answer in self.decode(requests, in_passing, references):
            answers.append(answer)
            yield self._record(answer, stops[answer.request.item_id])
        if watch is not None and in_passing is None:
            first = [answer for answer in answers if answer.request.sample == 0]
            known = dict(references)
            if watch.own:
                known |= {
                    name: self._reference(answer.ids, answer.finish, watch.most)
                    for answer in first
                    if (name := answer.request.item_id) not in references
                }
            self._show([answer.request for answer in first], watch, known)

    def show(self, items: Sequence[Item], answers: Mapping[str, Generation], watch: Watch) -> None:
        """Read items with the answers that they were given before, and show the states that predict these."""
        known = {name: self._reference(one.token_ids, one.finish, watch.most) for name, one in answers.items()}
        self._show([self._request(item) for item in items], watch, known)

    def _request(self, item: Item) -> Request:
        prompt = tuple(self.desk.texts.prompt(item.prompt))
        return Request(item.id, 0, prompt, item.max_tokens, StopWatch(self.desk.texts, item.stop))

    def _reference(self, ids: Sequence[int], finish: str | None, most: int) -> tuple[int, ...]:
        """Give the first tokens of an answer that are to be predicted, with the end token where it gave one."""
        end = min(self.desk.texts.end_ids, default=None)
        return (*ids, *((end,) if finish == "eos" and end is not None else ()))[:most]

    def _draft(self, tokens: Sequence[int], most: int) -> tuple[int, ...]:
        """Give an answer's tokens without the end token."""
        ended = bool(tokens) and tokens[-1] in self.desk.texts.end_ids
        return tuple(tokens[: len(tokens) - ended][:most])

    # -- answering

    def decode(
        self, requests: Sequence[Request], watch: Watch | None = None, references: References = NOTHING
    ) -> Iterator[Answer]:
        """Answer requests, in any order; `watch` is shown the states that predict those with a reference."""
        continuous = self.desk.shortcuts.continuous
        answers = self._in_slots(requests, self._loop(watch, references)) if continuous else self._in_batches(requests)
        for answer in answers:
            self.desk.account.output_tokens += len(answer.ids)
            yield answer

    def _loop(self, watch: Watch | None, references: References) -> Continuous:
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
                for session in self._sessions(waiting, budget):
                    grow = loop.on_texts if session.on_texts else loop
                    for answer in grow(session.batches, session.rows):
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

    def _sessions(self, requests: Sequence[Request], budget: Budget) -> Iterator[_Session]:
        """Split requests into stretches of similar length, each with as many rows as the budget has room for."""
        order = sorted(requests, key=lambda one: -one.tokens)
        while order:
            longest = order[0].tokens
            count = next((at for at, one in enumerate(order) if 2 * one.tokens < longest), len(order))
            mine, order = order[:count], order[count:]
            sequences = [one.prompt + one.draft for one in mine]
            groups = group_by_prefix(sequences, most=self.desk.branches if budget.rows > 1 else 0)
            lines: list[Line] = [
                (tuple(mine[index] for index in group), pack([sequences[index] for index in group])) for group in groups
            ]
            yield from self._by_room(lines, budget)

    def _by_room(self, lines: Sequence[Line], budget: Budget) -> Iterator[_Session]:
        """Let the answers of lines with a long common text grow on it, in rows of like many; all others in slots."""
        texts = sorted((line for line in lines if _is_text(line)), key=lambda line: -len(line[0]))
        while texts:
            branches = len(texts[0][0])
            count = next((at for at, line in enumerate(texts) if 2 * len(line[0]) < branches), len(texts))
            mine, texts = texts[:count], texts[count:]
            largest = max(tokens_on_text(line, branches) for line in mine)
            rows = max(1, min(budget.rows // branches, budget.tokens // largest, count))
            yield self._session(mine, budget, rows, on_texts=True)
        apart = [line for line in lines if not _is_text(line)]
        if apart:
            requests = [request for line, _ in apart for request in line]
            longest = max(request.tokens for request in requests)
            slots = max(1, min(budget.rows, budget.tokens // longest, len(requests)))
            yield self._session(apart, budget, slots, on_texts=False)

    def _session(self, lines: Sequence[Line], budget: Budget, rows: int, *, on_texts: bool) -> _Session:
        batches = plan_rows([packed for _, packed in lines], self.desk.reading(budget))
        return _Session([[lines[index] for index in batch] for batch in batches], rows, on_texts)

    def _in_batches(self, requests: Sequence[Request]) -> Iterator[Answer]:
        """Answer batch after batch, each until its last answer ends."""

        def run(batch: list[Request]) -> list[Answer]:
            texts = self.desk.texts
            answers = decode_batch(self.desk.model, batch, self.settings, ends=texts.end_ids, pad=texts.pad_id)
            self.desk.account.read(sum(len(one.prompt) for one in batch))
            return answers

        careful = Backoff(run, lambda one: [one], lambda one: one.item_id, self.desk.account.notes)
        budget = self.desk.budget
        for batch in plan([len(one.prompt) if budget.equal else one.tokens for one in requests], budget):
            yield from careful([requests[index] for index in batch])

    # -- showing

    def _show(self, requests: Sequence[Request], watch: Watch, known: References) -> None:
        """Read each prompt with its reference, and show the states.

        The same pass as that which checks drafts, planned the same way: a model compared with itself then sums
        in the same order, and its divergence is 0.
        """
        wanted = [
            replace(one, draft=self._draft(known[one.item_id], one.max_tokens))
            for one in requests
            if one.item_id in known
        ]
        loop = self._loop(watch, known)

        def run(lines: list[Line]) -> list[None]:
            loop.look(lines)
            return []

        careful = Backoff(run, _halves, lambda line: line[0][0].item_id, self.desk.account.notes)
        for session in self._sessions(wanted, self.desk.budget):
            for batch in session.batches:
                list(careful(batch))

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


def _is_text(line: Line) -> bool:
    """Whether a line's answers are better kept on one copy of what their prompts share."""
    requests, packed = line
    grown = tokens_on_text(line, len(requests)) - packed.trunk
    return len(requests) > 1 and packed.trunk >= TEXT_AT_LEAST and packed.trunk >= grown


def _halves(line: Line) -> list[Line]:
    """Divide a packed row into two that are read apart."""
    requests, _ = line
    halves = [requests[: len(requests) // 2], requests[len(requests) // 2 :]]
    return [(half, pack([one.prompt + one.draft for one in half])) for half in halves if half]
