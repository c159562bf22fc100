"""Items with choices, from text to records: encoded, packed into rows, and scored by log-likelihood."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from harness.engines.transformers.packing import OomRetry, PackedRequests, plan_rows
from harness.engines.transformers.prefill import prefill
from harness.engines.transformers.scheduler import EngineContext, HiddenStateObserver
from harness.errors import NonFinite
from harness.records import ChoiceLogprobs, Item, Response, Unanswered

__all__ = ["ChoiceScoring", "Continuation", "ScoredChoice"]


@dataclass(frozen=True, slots=True)
class Continuation:
    """One choice of one item, in tokens: at least one of the context before it, and at least one of its own."""

    item_id: str
    choice: int
    context: tuple[int, ...]
    tokens: tuple[int, ...]

    @property
    def sequence(self) -> tuple[int, ...]:
        """What the model has to read: all but the last token, which is only predicted."""
        return (self.context + self.tokens)[:-1]


@dataclass(frozen=True, slots=True, eq=False)
class ScoredChoice:
    """How likely a choice is."""

    item_id: str
    choice: int
    logprob: float
    """Natural logarithm, summed over the choice's tokens."""
    greedy: bool
    hidden: Tensor | None
    """[tokens, width] The final hidden states that predict the choice's tokens, if they were asked for."""


Row = PackedRequests[Continuation]


@dataclass(frozen=True, slots=True)
class ChoiceScoring:
    """Asks how likely each choice is."""

    context: EngineContext

    def answer(self, items: Sequence[Item], observer: HiddenStateObserver | None) -> Iterator[Response]:
        """Yield a record for each item as soon as its last choice is scored."""
        asked: dict[str, list[Continuation]] = {}
        for item in items:
            pairs = self.context.texts.pairs(item.prompt, item.choices, item.id)
            # The last token is predicted and not read, so it may lie one beyond the limit.
            if max(len(begin) + len(rest) for begin, rest in pairs) > self.context.limit + 1:
                yield Unanswered(item.id, "over_context", len(pairs[0][0]))
                continue
            asked[item.id] = [
                Continuation(item.id, index, tuple(begin), tuple(rest)) for index, (begin, rest) in enumerate(pairs)
            ]
        found: dict[str, dict[int, ScoredChoice]] = {name: {} for name in asked}
        everything = [one for choices in asked.values() for one in choices]
        for scored in self.score_choices(everything, keep=observer is not None):
            name, mine = scored.item_id, found[scored.item_id]
            mine[scored.choice] = scored
            if len(mine) < len(asked[name]):
                continue
            ordered = [mine[index] for index in range(len(mine))]
            del found[name]
            if observer is not None:
                tokens = [token for one in asked[name] for token in one.tokens]
                observer.observe(name, tokens, torch.cat([one.hidden for one in ordered if one.hidden is not None]))
            yield ChoiceLogprobs(
                item_id=name,
                logprobs=tuple(one.logprob for one in ordered),
                token_counts=tuple(len(one.tokens) for one in asked[name]),
                greedy=tuple(one.greedy for one in ordered),
                prompt_tokens=len(asked[name][0].context),
            )

    def score_choices(self, asked: Sequence[Continuation], *, keep: bool = False) -> Iterator[ScoredChoice]:
        """Score choices, in any order; keep says whether with the hidden states behind them.

        Raises NonFinite, naming the item, if a logit is NaN or infinite.
        """

        def run(rows: list[Row]) -> list[ScoredChoice]:
            answers = self._score_rows(rows, keep=keep)
            self.context.usage.prompt_tokens += sum(len(row.tree.tokens) for row in rows)
            return answers

        retry = OomRetry(run, Row.halves, lambda row: row.requests[0].item_id, self.context.usage.notes)
        for batch in plan_rows(self.context.pack(asked), self.context.prefill_budget()):
            yield from retry(batch)

    def _score_rows(self, rows: Sequence[Row], *, keep: bool) -> list[ScoredChoice]:
        model = self.context.model
        result = prefill(model, [row.tree for row in rows], pad=self.context.texts.pad_id, keep=False)
        states, choices = [], [choice for row in rows for choice in row.requests]
        for index, row in enumerate(rows):
            for choice, path in zip(row.requests, row.tree.paths, strict=True):
                states.append(result.hidden[index, model.tensor(path[-len(choice.tokens) :])])
        hidden = torch.cat(states)  # [all tokens of all choices, width]
        target = model.tensor([token for one in choices for token in one.tokens])
        logprobs = torch.empty(len(target), dtype=torch.float64)
        greedy = torch.empty(len(target), dtype=torch.bool)
        for part, logits in model.head.tiles(hidden, precise=True):
            picked = logits.gather(1, target[part, None])[:, 0]
            logprobs[part] = (picked - logits.logsumexp(dim=-1)).double().cpu()
            greedy[part] = (logits.argmax(dim=-1) == target[part]).cpu()
        answers, start = [], 0
        for one in choices:
            part = slice(start, start + len(one.tokens))
            start += len(one.tokens)
            if not bool(torch.isfinite(logprobs[part]).all()):
                raise NonFinite(f"{one.item_id}: the model's logits are NaN or infinite", one.item_id)
            total, best = float(logprobs[part].sum()), bool(greedy[part].all())
            answers.append(ScoredChoice(one.item_id, one.choice, total, best, hidden[part] if keep else None))
        return answers
