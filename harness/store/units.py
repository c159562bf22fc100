"""Which items of a run are asked together, in what order, and at which look.

A pure function of the items, so every process that reads the same config makes the same units.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from harness.records import Item

__all__ = ["Unit", "plan_units"]


@dataclass(frozen=True, slots=True)
class Unit:
    """Items that are answered in one call of the engine: finished whole or not at all."""

    index: int
    """Position in the run; shard i of n does the units whose index is i - 1 modulo n."""
    slice: str
    """The slice's label."""
    look: int
    """The interim look, from 1, that its items belong to."""
    items: tuple[Item, ...]
    """What is asked."""


def plan_units(items: Sequence[Item], unit_items: int, looks: int) -> list[Unit]:
    """Cut items into work units: by look, then slice, then strata that share prompts.

    The items of one stratum stay together, so that a stratum that is decided early takes whole units with it and the
    others are answered in the same company as before. Items that share a prefix, and clusters, are never cut by a look.
    """
    by_place: dict[tuple[int, int, int], list[Item]] = defaultdict(list)
    slices = {name: position for position, name in enumerate(dict.fromkeys(item.slice for item in items))}
    for name, position in slices.items():
        own = [item for item in items if item.slice == name]
        for number, block in enumerate(_blocks(own)):
            for item, look in zip(block, _looks(block, looks), strict=True):
                by_place[look, position, number].append(item)
    units: list[Unit] = []
    for place in sorted(by_place):
        for chunk in _chunks(by_place[place], unit_items):
            units.append(Unit(len(units), chunk[0].slice, place[0], tuple(chunk)))
    return units


def _blocks(items: Sequence[Item]) -> list[list[Item]]:
    """Group a slice's items by stratum; strata whose items share a prefix stay together."""
    parent: dict[str, str] = {}

    def find(name: str) -> str:
        while parent.setdefault(name, name) != name:
            name = parent[name]
        return name

    first: dict[str, str] = {}
    for item in items:
        find(item.stratum)
        if item.prefix_group:
            parent[find(item.stratum)] = find(first.setdefault(item.prefix_group, item.stratum))
    blocks: dict[str, list[Item]] = defaultdict(list)
    for item in items:
        blocks[find(item.stratum)].append(item)
    return list(blocks.values())


def _looks(items: Sequence[Item], looks: int) -> list[int]:
    """Return each item's look: clusters of the same strata are dealt out in order, whole."""
    covers: dict[str, set[str]] = defaultdict(set)
    for item in items:
        covers[item.cluster].add(item.stratum)
    alike: dict[frozenset[str], list[str]] = defaultdict(list)
    for cluster, strata in covers.items():
        alike[frozenset(strata)].append(cluster)
    look: dict[str, int] = {}
    for clusters in alike.values():
        for rank, cluster in enumerate(clusters):
            look[cluster] = rank * looks // len(clusters) + 1
    return [look[item.cluster] for item in items]


def _chunks(items: Sequence[Item], size: int) -> Iterable[list[Item]]:
    """Cut into runs of at most `size` items, never inside a prefix group unless it alone is larger."""
    groups: dict[str, list[Item]] = defaultdict(list)
    for item in items:
        groups[item.prefix_group or item.id].append(item)
    chunk: list[Item] = []
    for group in groups.values():
        if chunk and len(chunk) + len(group) > size:
            yield chunk
            chunk = []
        chunk = [*chunk, *group]
    if chunk:
        yield chunk
