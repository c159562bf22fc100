"""Scores responses as they come and writes them, in the order in which a unit's responses came."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future

from harness.judge import choice_probability
from harness.records import Item, Response, Scored
from harness.store.privacy import TextPolicy
from harness.store.rundir import AnswerFiles
from harness.store.units import Unit
from harness.suite.scorer import Score, Scorer
from harness.suite.tail import examine

__all__ = ["AnswerWriter"]


class AnswerWriter:
    """Between a worker's responses and a variant's files.

    digests: item id to the digest of the item that was asked.
    """

    def __init__(self, files: AnswerFiles, scorer: Scorer, text_policy: TextPolicy, digests: Mapping[str, str]) -> None:
        self._files, self._scorer, self._text_policy, self._digests = files, scorer, text_policy, digests
        self._pending: list[tuple[Unit, Item, Response, Future[Score]]] = []

    def take(self, unit: Unit, response: Response) -> None:
        """Score and write a response; if its code has to run first, that goes on next to the worker."""
        item = next(item for item in unit.items if item.id == response.item_id)
        if (future := self._scorer.start(item, response)) is not None:
            self._pending.append((unit, item, response, future))
        else:
            self._write(unit, item, response, self._scorer.score(item, response))

    def settle(self) -> None:
        """Write, in their order, the responses whose code was run."""
        for unit, item, response, future in self._pending:
            self._write(unit, item, response, future.result())
        self._pending.clear()

    def _write(self, unit: Unit, item: Item, response: Response, score: Score) -> None:
        answer, thought = self._scorer.answered(item, response)
        seen = examine(item, answer, score.value, score.metrics, thought)
        scored = Scored(
            item_id=item.id,
            item_digest=self._digests[item.id],
            unit=unit.index,
            score=score.value,
            metrics=score.metrics,
            metric=score.metric,
            response=response,
            choice_probability=choice_probability.of_answer(item, response),
            signs=seen.signs,
            length=seen.length,
        )
        self._files.append(unit.slice, self._text_policy.scored(scored))
