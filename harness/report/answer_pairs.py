"""Both answers to the items that a reader wants to see: scored differently, or with a tail event.

Reads answers out of a run directory and puts the two sides together. What it gives is hostile text; whoever shows it
sanitizes it. It judges nothing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

from harness.judge.choice_probability import preferred_choice
from harness.judge.tail_counts import cells, showing
from harness.records import TAIL_KINDS, ChoiceLogprobs, Generation, Item, Scored
from harness.report.evidence import FlipPair, TailEvent

__all__ = ["events", "flips"]

EACH = 20
"""Pairs shown of one candidate's events of one kind."""


def flips(items: Sequence[Item], baseline: Iterable[Scored], candidate: Iterable[Scored], name: str) -> list[FlipPair]:
    """Give the items that the two sides scored differently, the lost ones first."""
    base = {one.item_id: one for one in baseline if _sole(one)}
    side = {one.item_id: one for one in candidate if _sole(one)}
    both = [(item, base[item.id], side[item.id]) for item in items if item.id in base and item.id in side]
    flipped = [pair for pair in both if pair[1].score != pair[2].score]
    flipped.sort(key=lambda pair: (pair[2].score or 0.0) - (pair[1].score or 0.0))
    return [_pair(name, *pair) for pair in flipped]


def events(
    items: Sequence[Item], baseline: Iterable[Scored], candidate: Iterable[Scored], name: str
) -> Iterator[TailEvent]:
    """Give the tail events of a candidate, at most `EACH` of a kind, the kinds in turn."""
    before, after = _by_item(baseline), _by_item(candidate)
    known = {item.id: item for item in items}
    found: dict[str, list[str]] = {kind: [] for kind in TAIL_KINDS}
    for cell in cells(items, _flat(before), _flat(after)):
        found[cell.kind] += [item for item, happened in zip(cell.items, cell.events, strict=True) if happened]
    for at in range(EACH):
        for kind, ids in found.items():
            if at < len(ids):
                one, other = before[ids[at]][0], showing(after[ids[at]], kind)
                if other is not None:
                    yield TailEvent(name, kind, _pair(name, known[ids[at]], one, other))


def _by_item(scored: Iterable[Scored]) -> Mapping[str, list[Scored]]:
    found: dict[str, list[Scored]] = defaultdict(list)
    for one in scored:
        found[one.item_id].append(one)
    return found


def _flat(side: Mapping[str, list[Scored]]) -> list[Scored]:
    return [one for answers in side.values() for one in answers]


def _pair(name: str, item: Item, one: Scored, other: Scored) -> FlipPair:
    return FlipPair(
        candidate=name,
        slice=item.slice,
        stratum=item.stratum,
        item_id=item.id,
        prompt=item.prompt,
        target=item.target,
        baseline_text=_text(item, one),
        candidate_text=_text(item, other),
        baseline_score=one.score or 0.0,
        candidate_score=other.score or 0.0,
        language=item.language,
        stored=bool(item.prompt) or not item.asked,
    )


def _sole(one: Scored) -> bool:
    return one.score is not None and one.response.sample == 0


def _text(item: Item, answer: Scored) -> str:
    """Return an answer as text: of choices, the preferred one."""
    response = answer.response
    if isinstance(response, Generation):
        return response.text
    if isinstance(response, ChoiceLogprobs):
        best = preferred_choice(item, response, answer.metric)
        return item.choices[best] or f"choice {best + 1}"
    return ""
