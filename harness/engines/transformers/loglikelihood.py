"""Items with choices, from text to records: encoded, packed into rows, and scored by the log-likelihood of each choice.

Does not know free text.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from harness.engines.transformers.batches import OomRetry, plan_rows
from harness.engines.transformers.divergence import HiddenStateObserver
from harness.engines.transformers.model import LanguageModel
from harness.engines.transformers.packing import PackedRequests
from harness.engines.transformers.prefill import prefill
from harness.engines.transformers.scheduler import EngineContext
from harness.errors import NonFinite
from harness.records import ChoiceLogprobs, Item, Response, Unanswered

__all__ = ["ChoiceScoring", "Continuation", "ScoredChoice"]


@dataclass(frozen=True, slots=True)
class Continuation:
    """One choice of one item, in tokens."""

    item_id: str
    """Which item."""
    choice: int
    """Which of its choices."""
    context: tuple[int, ...]
    """Tokens before the choice, at least one."""
    tokens: tuple[int, ...]
    """Tokens of the choice, at least one."""

    @property
    def sequence(self) -> tuple[int, ...]:
        """What the model has to read: all but the last token, which is only predicted."""
        return (self.context + self.tokens)[:-1]


@dataclass(frozen=True, slots=True, eq=False)
class ScoredChoice:
    """How likely a choice is."""

    item_id: str
    """Which item."""
    choice: int
    """Which of its choices."""
    logprob: float
    """Natural logarithm, summed over the choice's tokens."""
    greedy: bool
    """Whether every token was the most likely one."""
    hidden: Tensor | None
    """[tokens, width] The final hidden states that predict the choice's tokens, if they were asked for."""


Row = PackedRequests[Continuation]


@dataclass(frozen=True, slots=True)
class ChoiceScoring:
    """Asks how likely each choice is."""

    context: EngineContext
    """The model and its budgets."""

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
        for scored in self.score_choices(
            [one for choices in asked.values() for one in choices], keep=observer is not None
        ):
            mine = found[scored.item_id]
            mine[scored.choice] = scored
            if len(mine) == len(asked[scored.item_id]):
                yield _record(asked[scored.item_id], found.pop(scored.item_id), observer)

    def score_choices(self, asked: Sequence[Continuation], *, keep: bool = False) -> Iterator[ScoredChoice]:
        """Score choices, in any order; keep says whether with the hidden states behind them."""
        rows = self.context.pack(asked)

        def run(rows: list[Row]) -> list[ScoredChoice]:
            answers = _score_rows(self.context.model, rows, self.context.texts.pad_id, keep=keep)
            self.context.usage.read(sum(len(row.tree.tokens) for row in rows))
            return answers

        retry = OomRetry(run, Row.halves, lambda row: row.requests[0].item_id, self.context.usage.notes)
        for batch in plan_rows([row.tree for row in rows], self.context.prefill_budget()):
            yield from retry([rows[index] for index in batch])


def _record(
    asked: Sequence[Continuation], scored: dict[int, ScoredChoice], observer: HiddenStateObserver | None
) -> ChoiceLogprobs:
    ordered = [scored[index] for index in range(len(asked))]
    if observer is not None:
        tokens = [token for one in asked for token in one.tokens]
        observer.observe(asked[0].item_id, tokens, torch.cat([one.hidden for one in ordered if one.hidden is not None]))
    return ChoiceLogprobs(
        item_id=asked[0].item_id,
        logprobs=tuple(one.logprob for one in ordered),
        token_counts=tuple(len(one.tokens) for one in asked),
        greedy=tuple(one.greedy for one in ordered),
        prompt_tokens=len(asked[0].context),
    )


def _score_rows(model: LanguageModel, rows: Sequence[Row], pad: int, *, keep: bool) -> list[ScoredChoice]:
    """Score choices; keep says whether with the states behind them.

    Raises NonFinite, naming the item, if a logit is NaN or infinite.
    """
    result = prefill(model, [row.tree for row in rows], pad=pad, keep=False)
    hidden = []
    for index, row in enumerate(rows):
        for choice, path in zip(row.requests, row.tree.paths, strict=True):
            hidden.append(result.hidden[index, model.tensor(path[-len(choice.tokens) :])])
    return _score(model, torch.cat(hidden), [choice for row in rows for choice in row.requests], keep=keep)


def _score(model: LanguageModel, hidden: Tensor, choices: Sequence[Continuation], *, keep: bool) -> list[ScoredChoice]:
    """Score choices by the hidden states that predict their tokens, [all tokens of all choices, width]."""
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
