"""Items from text to records: choices are scored by their log-likelihood, free text is decoded and cut."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from harness.engines.transformers import packing
from harness.engines.transformers.continuous import Continuous, Drafts, EngineContext, Observer, Row, schedules
from harness.engines.transformers.decode import Answer, Request, decode_batch
from harness.engines.transformers.model import prefill
from harness.engines.transformers.packing import PackedRequests, run_batches
from harness.engines.transformers.text import StopDetector
from harness.errors import NonFinite
from harness.records import ChoiceLogprobs, Generation, Item, Response, Settings, Unanswered
from harness.stops import cut_at_stops

References = dict[str, tuple[int, ...]]


class Continuation(NamedTuple):
    """One choice of one item, in tokens: at least one of the context before it, and at least one of its own."""

    item_id: str
    choice: int
    context: tuple[int, ...]
    tokens: tuple[int, ...]

    @property
    def sequence(self) -> tuple[int, ...]:
        """What the model has to read: all but the last token, which is only predicted."""
        return (self.context + self.tokens)[:-1]


ChoiceRow = PackedRequests[Continuation]


class ScoredChoice(NamedTuple):
    """How likely a choice is."""

    item_id: str
    choice: int
    logprob: float  # natural logarithm, summed over the choice's tokens
    greedy: bool
    hidden: Tensor | None  # [tokens, width] the final hidden states that predict its tokens, if they were asked for


def score_items(context: EngineContext, items: Sequence[Item], observer: Observer) -> Iterator[Response]:
    """Yield a record for each item with choices as soon as the last of them is scored."""
    asked: dict[str, list[Continuation]] = {}
    for item in items:
        pairs = context.texts.pairs(item.prompt, item.choices, item.id)
        # The last token is predicted and not read, so it may lie one beyond the limit.
        if max(len(begin) + len(rest) for begin, rest in pairs) > context.limit + 1:
            yield Unanswered(item.id, "over_context", len(pairs[0][0]))
            continue
        numbered = enumerate(pairs)
        asked[item.id] = [Continuation(item.id, at, tuple(begin), tuple(rest)) for at, (begin, rest) in numbered]
    found: dict[str, dict[int, ScoredChoice]] = {name: {} for name in asked}
    everything = [one for choices in asked.values() for one in choices]
    for scored in score_choices(context, everything, keep=observer is not None):
        name, mine = scored.item_id, found[scored.item_id]
        mine[scored.choice] = scored
        if len(mine) < len(asked[name]):
            continue
        own, ordered = asked[name], [mine[index] for index in range(len(mine))]
        del found[name]
        if observer is not None:
            tokens = [token for one in own for token in one.tokens]
            observer.observe(name, tokens, torch.cat([one.hidden for one in ordered if one.hidden is not None]))
        logprobs, greedy = zip(*((one.logprob, one.greedy) for one in ordered), strict=True)
        yield ChoiceLogprobs(name, logprobs, tuple(len(one.tokens) for one in own), greedy, len(own[0].context))


def score_choices(context: EngineContext, asked: list[Continuation], *, keep: bool = False) -> Iterator[ScoredChoice]:
    """Score choices, in any order; keep: with the hidden states behind them. Raises NonFinite, naming the item."""

    def run(rows: list[ChoiceRow]) -> list[ScoredChoice]:
        answers = _score_rows(context, rows, keep=keep)
        context.usage.prompt_tokens += sum(len(row.tree.tokens) for row in rows)
        return answers

    batches = packing.plan_rows(context.pack(asked), context.prefill_budget())
    return run_batches(batches, run, PackedRequests.halves, lambda row: row.requests[0].item_id, context.usage.notes)


def _score_rows(context: EngineContext, rows: Sequence[ChoiceRow], *, keep: bool) -> list[ScoredChoice]:
    model = context.model
    hidden, _ = prefill(model, [row.tree for row in rows], pad=context.texts.pad_id, keep=False)
    states, choices = [], [choice for row in rows for choice in row.requests]
    for index, row in enumerate(rows):
        for choice, path in zip(row.requests, row.tree.paths, strict=True):
            states.append(hidden[index, model.tensor(path[-len(choice.tokens) :])])
    hidden = torch.cat(states)  # [all tokens of all choices, width]
    target = model.tensor([token for one in choices for token in one.tokens])
    logprobs, greedy = torch.empty(len(target), dtype=torch.float64), torch.empty(len(target), dtype=torch.bool)
    for part, logits in model.head.tiles(hidden, precise=True):
        logprobs[part] = (logits.gather(1, target[part, None])[:, 0] - logits.logsumexp(dim=-1)).double().cpu()
        greedy[part] = (logits.argmax(dim=-1) == target[part]).cpu()
    answers, sizes = [], [len(one.tokens) for one in choices]
    parts = (torch.split(one, sizes) for one in (logprobs, greedy, hidden))
    for one, own, best, seen in zip(choices, *parts, strict=True):
        if not bool(torch.isfinite(own).all()):
            raise NonFinite(f"{one.item_id}: the model's logits are NaN or infinite", one.item_id)
        total = float(own.sum())
        answers.append(ScoredChoice(one.item_id, one.choice, total, bool(best.all()), seen if keep else None))
    return answers


@dataclass(frozen=True, slots=True)
class TextGeneration:
    """Asks for answers in free text."""

    context: EngineContext
    settings: Settings

    def answer(self, items: Sequence[Item], drafts: Drafts, observer: Observer) -> Iterator[Response]:
        """Yield a record for each answer as it ends; an observer's references are checked as drafts, or read later."""
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
            known = references.get(item.id) or drafts.get(item.id, ()) if speculative else ()
            draft = as_draft(context, known, item.max_tokens)
            requests += [replace(request, sample=sample, draft=draft) for sample in range(samples)]
        at_once = observer is not None and speculative and bool(references)
        stops = {item.id: item.stop for item in items}
        again = []  # what an observer has not seen yet
        for answer in self.decode(requests, self._loop(observer if at_once else None, references)):
            request, name = answer.request, answer.request.item_id
            text, finish = cut_at_stops(texts.decode(answer.ids), stops[name]), answer.finish or "length"
            yield Generation(name, text, tuple(answer.ids), finish, len(request.prompt), request.sample)
            if observer is not None and request.sample == 0 and (not at_once or self._alone(request)):
                again.append(answer)
        if observer is not None:
            self._replay(again, observer.own_tokens, references, self._loop(observer, references))

    def _replay(self, answers: Sequence[Answer], own_tokens: int, references: References, loop: Continuous) -> None:
        """Read first answers, or their references, again for an observer; adds own answers to references.

        In the pass in which another variant would have them checked as drafts: a model's divergence from itself is 0.
        """
        context = self.context

        def run(rows: list[Row]) -> list[None]:
            loop.read(rows, keep=False)
            return []

        end = min(context.texts.end_ids, default=None)
        wanted: list[Request] = []
        for answer in answers:
            request = answer.request
            if own_tokens:
                ended = (end,) if answer.finish == "eos" and end is not None else ()
                references.setdefault(request.item_id, (*answer.ids, *ended)[:own_tokens])
            if request.item_id in references:
                draft = as_draft(context, references[request.item_id], request.max_tokens)
                wanted.append(replace(request, draft=draft))
        batches = (batch for schedule in schedules(context, wanted, context.budget) for batch in schedule.batches)
        list(run_batches(batches, run, PackedRequests.halves, lambda row: row.requests[0].item_id, context.usage.notes))

    def decode(self, requests: Sequence[Request], loop: Continuous | None = None) -> Iterator[Answer]:
        """Answer requests, in any order; loop: one that shows an observer what it reads."""
        loop, slots = loop or self._loop(None, {}), self.context.continuous
        alone = [one for one in requests if self._alone(one) or not slots]
        rest = [one for one in requests if slots and not self._alone(one)]
        for answer in itertools.chain(self._in_slots(rest, loop), self._in_batches(alone)):
            self.context.usage.output_tokens += len(answer.ids)
            yield answer

    def _alone(self, request: Request) -> bool:
        """Whether a request is so long that its numbers would depend on what it is answered with."""
        return request.tokens > self.context.model.longest_together

    def _loop(self, observer: Observer, references: References) -> Continuous:
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
                if not packing.out_of_memory(error):
                    raise
                waiting = [one for one in waiting if (one.item_id, one.sample) not in done]
                if budget.rows == 1:
                    raise packing.too_large(max(waiting, key=lambda one: one.tokens).item_id) from error
                budget = replace(budget, tokens=max(1, budget.tokens // 2), rows=max(1, budget.rows // 2))
                self.context.usage.notes.append(f"out of memory while answering: went on with {budget.rows} rows")
            else:
                return
            packing.release_memory()

    def _in_batches(self, requests: Sequence[Request]) -> Iterator[Answer]:
        """Answer batch after batch, each until its last answer ends."""
        context, model, budget = self.context, self.context.model, self.context.budget

        def run(batch: list[Request]) -> list[Answer]:
            if context.assisted is None:
                answers = decode_batch(model, batch, self.settings, context.texts)
            else:
                answers = [context.assisted.answer(model, one, context.texts) for one in batch]
            context.usage.prompt_tokens += sum(len(one.prompt) for one in batch)
            return answers

        lengths = [len(one.prompt) if budget.equal and not self._alone(one) else one.tokens for one in requests]
        batches = ([requests[index] for index in batch] for batch in packing.plan(lengths, budget))
        return run_batches(batches, run, lambda one: [one], lambda one: one.item_id, context.usage.notes)


def as_draft(context: EngineContext, tokens: Sequence[int], most: int) -> tuple[int, ...]:
    """Return at most so many tokens of a reference, without the end token."""
    return tuple(tokens[: len(tokens) - (bool(tokens) and tokens[-1] in context.texts.end_ids)][:most])
