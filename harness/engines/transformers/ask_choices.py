"""Items with choices, from text to records: encoded, put into rows, weighed, and put together again.

Does not know free text.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from harness.engines.transformers.batches import Backoff, plan_rows
from harness.engines.transformers.choices import Continuation, Weighed, weigh_rows
from harness.engines.transformers.desk import Desk
from harness.engines.transformers.divergence import Watch
from harness.engines.transformers.packing import Packed, pack
from harness.records import ChoiceLogprobs, Item, Response, Unanswered

__all__ = ["ChoiceQuestions"]

Row = tuple[tuple[Continuation, ...], Packed]


@dataclass(frozen=True, slots=True)
class ChoiceQuestions:
    """Asks how likely each choice is."""

    desk: Desk
    """The model and its budgets."""

    def answer(self, items: Sequence[Item], watch: Watch | None) -> Iterator[Response]:
        """Yield a record for each item as soon as its last choice is weighed."""
        asked: dict[str, list[Continuation]] = {}
        for item in items:
            pairs = self.desk.texts.pairs(item.prompt, item.choices, item.id)
            # The last token is predicted and not read, so it may lie one beyond the limit.
            if max(len(begin) + len(rest) for begin, rest in pairs) > self.desk.limit + 1:
                yield Unanswered(item.id, "over_context", len(pairs[0][0]))
                continue
            asked[item.id] = [
                Continuation(item.id, index, tuple(begin), tuple(rest)) for index, (begin, rest) in enumerate(pairs)
            ]
        found: dict[str, dict[int, Weighed]] = {name: {} for name in asked}
        for weighed in self.weigh(list(asked.values()), keep=watch is not None):
            mine = found[weighed.item_id]
            mine[weighed.choice] = weighed
            if len(mine) == len(asked[weighed.item_id]):
                yield _record(asked[weighed.item_id], found.pop(weighed.item_id), watch)

    def weigh(self, asked: Sequence[Sequence[Continuation]], *, keep: bool = False) -> Iterator[Weighed]:
        """Weigh the choices of some items, in any order; keep says whether with the hidden states behind them."""
        rows = self._rows(asked)

        def run(rows: list[Row]) -> list[Weighed]:
            answers = weigh_rows(self.desk.model, rows, self.desk.texts.pad_id, keep=keep)
            self.desk.account.read(sum(len(packed.tokens) for _, packed in rows))
            return answers

        careful = Backoff(run, _halves, lambda row: row[0][0].item_id, self.desk.account.notes)
        for batch in plan_rows([packed for _, packed in rows], self.desk.reading()):
            yield from careful([rows[index] for index in batch])

    def _rows(self, asked: Sequence[Sequence[Continuation]]) -> list[Row]:
        """Put choices that begin alike into common rows."""
        wanted = [one for choices in asked for one in choices]
        sequences = [one.sequence for one in wanted]
        groups = self.desk.groups(sequences)
        return [
            (tuple(wanted[index] for index in group), pack([sequences[index] for index in group])) for group in groups
        ]


def _halves(row: Row) -> list[Row]:
    """Divide a packed row into two that are read apart."""
    choices, _ = row
    halves = [choices[: len(choices) // 2], choices[len(choices) // 2 :]]
    return [(half, pack([one.sequence for one in half])) for half in halves if half]


def _record(asked: Sequence[Continuation], weighed: dict[int, Weighed], watch: Watch | None) -> ChoiceLogprobs:
    ordered = [weighed[index] for index in range(len(asked))]
    if watch is not None:
        tokens = [token for one in asked for token in one.tokens]
        watch.see(asked[0].item_id, tokens, torch.cat([one.hidden for one in ordered if one.hidden is not None]))
    return ChoiceLogprobs(
        item_id=asked[0].item_id,
        logprobs=tuple(one.logprob for one in ordered),
        token_counts=tuple(len(one.tokens) for one in asked),
        greedy=tuple(one.greedy for one in ordered),
        prompt_tokens=len(asked[0].context),
    )
