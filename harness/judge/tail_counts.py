"""Tail events counted: what the candidate's answers show and the baseline's to the same items do not.

With several samples of an item, it is an event where any sample of the candidate shows the sign and no sample of the
baseline does. Plain counting on records: no limits, no tolerance, no verdict.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from harness.records import LATENCY_KINDS, TAIL_KINDS, Generation, Item, Scored

__all__ = ["BLOW_UP", "Cell", "cells", "showing"]

BLOW_UP = "blow_up"
"""The one kind that only a pair shows."""
TIMES_LONGER = 4
"""A candidate's longest answer this many times as long as the baseline's has blown up ..."""
TOKENS_LONGER = 64
"""... if it is also this many tokens longer."""


@dataclass(slots=True)
class Cell:
    """One kind of event in one stratum: a column per item that both sides answered and that was looked at for it."""

    slice: str
    """The slice's label."""
    stratum: str
    """The cell of its axes."""
    kind: str
    """One of `harness.records.TAIL_KINDS`."""
    items: list[str] = field(default_factory=list)
    """Item ids."""
    clusters: list[str] = field(default_factory=list)
    """The source of each."""
    events: list[bool] = field(default_factory=list)
    """Whether the candidate's answer shows it and the baseline's does not."""
    baseline: list[bool] = field(default_factory=list)
    """Whether the baseline's answer shows it; never for `BLOW_UP`."""
    unseen: int = 0
    """Items of the stratum that nobody looked at, because their answers were written before anyone did."""
    one_sided: int = 0
    """Items of the stratum that one side alone answered."""
    unasked: int = 0
    """Items of the stratum that were spared one side, because it was decided early."""


@dataclass(frozen=True, slots=True)
class _Side:
    """What one variant's answers to one item show together."""

    signs: Mapping[str, bool]
    length: int
    seen: bool
    answered: bool


def _sides(scored: Iterable[Scored]) -> dict[str, _Side]:
    answers: dict[str, list[Scored]] = defaultdict(list)
    for one in scored:
        answers[one.item_id].append(one)
    return {item_id: _side(samples) for item_id, samples in answers.items()}


def _side(samples: Sequence[Scored]) -> _Side:
    texts = [one for one in samples if isinstance(one.response, Generation)]
    shown = [one.signs for one in texts if one.signs is not None]
    kinds = {kind for signs in shown for kind in signs}
    return _Side(
        signs={kind: any(signs.get(kind, False) for signs in shown) for kind in kinds},
        length=max((one.length or 0 for one in texts), default=0),
        seen=len(shown) == len(texts),
        answered=len(texts) == len(samples),
    )


def _long(baseline: int, candidate: int) -> bool:
    """Return whether an answer blew up.

    Definition: the candidate's answer is at least four times as long as the baseline's and at least 64 tokens longer,
    both counted in tokens as they were written. Source: own. Limits: a candidate that reasons longer and is right is an
    event too; where the token limit is near the baseline's length nothing can blow up, and "truncated" says it.
    """
    return candidate >= TIMES_LONGER * baseline and candidate >= baseline + TOKENS_LONGER


def cells(
    items: Sequence[Item], baseline: Iterable[Scored], candidate: Iterable[Scored], kinds: Iterable[str] = TAIL_KINDS
) -> list[Cell]:
    """Count the events of a candidate in every stratum, in the order of the items and of the kinds.

    Strata without free text have none. A stratum whose answers nobody looked at has its cells without items, so that
    whoever holds it to a tolerance finds that nothing is known.
    """
    one_side, other_side = _sides(baseline), _sides(candidate)
    strata: dict[tuple[str, str], list[Item]] = defaultdict(list)
    for item in items:
        if item.kind == "generate":
            strata[item.slice, item.stratum].append(item)
    return [cell for place, own in strata.items() for cell in _stratum(place, own, one_side, other_side, kinds)]


def _stratum(
    place: tuple[str, str],
    items: Sequence[Item],
    baseline: Mapping[str, _Side],
    candidate: Mapping[str, _Side],
    kinds: Iterable[str],
) -> list[Cell]:
    found = {kind: Cell(*place, kind) for kind in kinds}
    unseen = one_sided = unasked = 0
    for item in items:
        before, after = baseline.get(item.id), candidate.get(item.id)
        if before is None or after is None:
            unasked += 1
        elif not (before.answered and after.answered):
            one_sided += before.answered != after.answered
        elif not (before.seen and after.seen):
            unseen += 1
        else:
            _add(found, item, before, after)
    # Where nothing could be compared, an empty cell says so: it is not judged, and so never passes.
    kept = [cell for cell in found.values() if cell.items or unseen or one_sided or cell.kind in LATENCY_KINDS]
    for cell in kept:
        cell.unseen, cell.one_sided, cell.unasked = unseen, one_sided, unasked
    return kept


def _add(found: Mapping[str, Cell], item: Item, before: _Side, after: _Side) -> None:
    shown = {
        kind: (before.signs.get(kind, False), after.signs.get(kind, False)) for kind in {**before.signs, **after.signs}
    }
    shown[BLOW_UP] = (False, _long(before.length, after.length))
    for kind, (was, is_now) in shown.items():
        if kind in found:
            cell = found[kind]
            cell.items.append(item.id)
            cell.clusters.append(item.cluster)
            cell.events.append(is_now and not was)
            cell.baseline.append(was)


def showing(answers: Iterable[Scored], kind: str) -> Scored | None:
    """Return the first of an item's answers that shows a sign, the first of all for a kind that only pairs show."""
    given = sorted(answers, key=lambda one: one.response.sample)
    if kind == BLOW_UP:
        return max(given, key=lambda one: one.length or 0, default=None)
    return next((one for one in given if one.signs and one.signs.get(kind)), None)
