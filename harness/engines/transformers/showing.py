"""Shows a watch the hidden states behind answers in free text: the answers that were given, or another variant's.

An answer is read again with its prompt, in the pass in which another variant would have it checked as a draft: a model
compared with itself then sums in the same order, and its divergence is 0. Does not know what the
states are for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from harness.engines.transformers.batches import Backoff
from harness.engines.transformers.continuous import Continuous, Line
from harness.engines.transformers.decode import Answer, Request
from harness.engines.transformers.desk import Desk
from harness.engines.transformers.divergence import Watch
from harness.engines.transformers.packing import pack
from harness.engines.transformers.sessions import sessions

__all__ = ["Showing", "as_draft", "reference"]

References = dict[str, tuple[int, ...]]


def reference(desk: Desk, ids: Sequence[int], finish: str | None, most: int) -> tuple[int, ...]:
    """Give the first tokens of an answer that are to be predicted, with the end token where it gave one."""
    end = min(desk.texts.end_ids, default=None)
    return (*ids, *((end,) if finish == "eos" and end is not None else ()))[:most]


def as_draft(desk: Desk, tokens: Sequence[int], most: int) -> tuple[int, ...]:
    """Give at most so many tokens of a reference, without the end token."""
    ended = bool(tokens) and tokens[-1] in desk.texts.end_ids
    return tuple(tokens[: len(tokens) - ended][:most])


@dataclass(slots=True)
class Showing:
    """Reads answers again for a watch."""

    desk: Desk
    """The model and its budgets."""
    watch: Watch
    """Who is shown the states."""
    known: References
    """By item id, the tokens to be predicted; an answer's own are added as it ends, where the watch wants those."""
    loop: Continuous
    """What reads, and shows the watch what it read."""

    def rest(self, answers: Sequence[Answer]) -> None:
        """Show what was not shown yet."""
        self.read(self._first(answers))

    def read(self, requests: Sequence[Request]) -> None:
        """Read requests with their references."""

        def run(lines: list[Line]) -> list[None]:
            self.loop.look(lines)
            return []

        careful = Backoff(run, _halves, lambda line: line[0][0].item_id, self.desk.account.notes)
        for session in sessions(self.desk, self._wanted(requests), self.desk.budget):
            for batch in session.batches:
                list(careful(batch))

    def _first(self, answers: Sequence[Answer]) -> list[Request]:
        """Give the requests of each item's first answer, with that as its reference where there is no other."""
        first = [answer for answer in answers if answer.request.sample == 0]
        for answer in first if self.watch.own else ():
            own = reference(self.desk, answer.ids, answer.finish, self.watch.most)
            self.known.setdefault(answer.request.item_id, own)
        return [answer.request for answer in first]

    def _wanted(self, requests: Sequence[Request]) -> list[Request]:
        """Give those requests that have a reference, with it as their draft."""
        return [
            replace(one, draft=as_draft(self.desk, self.known[one.item_id], one.max_tokens))
            for one in requests
            if one.item_id in self.known
        ]


def _halves(line: Line) -> list[Line]:
    """Divide a packed row into two that are read apart."""
    requests, _ = line
    halves = [requests[: len(requests) // 2], requests[len(requests) // 2 :]]
    return [(half, pack([one.prompt + one.draft for one in half])) for half in halves if half]
