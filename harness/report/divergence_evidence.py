"""From measured divergences to what a report shows: by stratum, by token position, the A/A pass beside every variant.

An explanation and an alarm: no verdict reads any of it. Does not know files or models.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from harness.records import Item
from harness.report import evidence
from harness.stats.divergence import Divergence, summarise

__all__ = ["rows"]

EVERYTHING = "all"
"""The name of a slice's strata taken together."""

STARTS = (0, 1, 4, 16, 64, 256, 1024, 4096)
"""First token of each bucket of positions: divergence grows with the answer, and most of it early on."""

Place = tuple[str, str, str]
"""Slice, stratum, positions."""


def rows(
    items: Sequence[Item], found: Mapping[str, Sequence[Divergence]], *, floor: str
) -> tuple[evidence.Divergence, ...]:
    """Give the rows of every variant in `found`; `floor` names the A/A pass, whose mean KL stands beside the others."""
    by_id = {item.id: item for item in items}
    clusters = {item.id: item.cluster for item in items}
    parts = {name: _parts(by_id, some) for name, some in found.items()}
    order = {place: number for number, place in enumerate(_places(items))}
    floors = {place: summarise(some).kl for place, some in parts.get(floor, {}).items()}
    return tuple(
        _row(name, place, mine[place], clusters, floors.get(place))
        for name, mine in parts.items()
        for place in sorted(mine, key=order.__getitem__)
    )


def _places(items: Sequence[Item]) -> Iterator[Place]:
    """Give every place in the order of the items: a slice's strata, the slice, the slice by positions."""
    strata: dict[str, dict[str, None]] = defaultdict(dict)
    for item in items:
        strata[item.slice][item.stratum] = None
    for name, inside in strata.items():
        yield from ((name, stratum, "") for stratum in inside if stratum != EVERYTHING)
        yield name, EVERYTHING, ""
        yield from ((name, EVERYTHING, _label(start)) for start in STARTS)


def _parts(items: Mapping[str, Item], found: Sequence[Divergence]) -> dict[Place, list[Divergence]]:
    """Deal divergences out; the tokens of choices stand in no order, so only free text is dealt out by position."""
    parts: dict[Place, list[Divergence]] = defaultdict(list)
    for one in found:
        item = items[one.item_id]
        for stratum in {item.stratum, EVERYTHING}:
            parts[item.slice, stratum, ""].append(one)
        if item.kind == "generate":
            for start, part in _by_position(one):
                parts[item.slice, EVERYTHING, _label(start)].append(part)
    return parts


def _by_position(one: Divergence) -> Iterator[tuple[int, Divergence]]:
    for start, end in zip(STARTS, (*STARTS[1:], None), strict=True):
        if len(one.kl) > start:
            columns = ("kl", "reverse_kl", "same_top", "baseline_logprob", "candidate_logprob")
            yield start, replace(one, **{name: getattr(one, name)[start:end] for name in columns})


def _label(start: int) -> str:
    place = STARTS.index(start)
    if place + 1 == len(STARTS):
        return f"{start} and on"
    last = STARTS[place + 1] - 1
    return str(start) if last == start else f"{start}-{last}"


def _row(
    name: str, place: Place, some: Sequence[Divergence], clusters: Mapping[str, str], floor: float | None
) -> evidence.Divergence:
    summary = summarise(some, clusters)
    return evidence.Divergence(
        candidate=name,
        slice=place[0],
        stratum=place[1],
        position=place[2],
        tokens=summary.tokens,
        kl=summary.kl,
        agreement=summary.same_top,
        kl_error=summary.kl_error,
        agreement_error=summary.same_top_error,
        reverse_kl=summary.reverse_kl,
        probability_change=summary.probability_change,
        floor=floor,
        sequences=summary.sequences,
        worst=summary.worst,
    )
