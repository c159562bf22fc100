"""Which items of a run are asked together, in what order, and at which look: a function of the items alone."""

import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from harness.records import Item

Key = TypeVar("Key")
Value = TypeVar("Value")


def grouped(pairs: Iterable[tuple[Key, Value]]) -> dict[Key, list[Value]]:
    """Return the values of each key, both in the order in which they come."""
    found: dict[Key, list[Value]] = {}
    for key, value in pairs:
        found.setdefault(key, []).append(value)
    return found


@dataclass(frozen=True, slots=True)
class Unit:
    """Items that are answered in one call of the engine: finished whole or not at all."""

    index: int  # position in the run
    slice: str  # the slice's label
    look: int  # the interim look, from 1, that its items belong to
    items: tuple[Item, ...]


def planned_tokens(items: Iterable[Item], samples: int) -> int:
    """Return what items cost at most, in tokens of prompts and answers; a prompt's shared beginning counts once."""
    alike = grouped((item.prefix_group or item.id, item) for item in items).values()
    prompts = sum(max(item.prompt_tokens for item in own) for own in alike)
    return prompts + samples * sum(item.max_tokens for own in alike for item in own)


def split_units(units: Sequence[Unit], count: int, samples: int) -> list[int]:
    """Return each unit's shard, from 1: heaviest first, to the shard with the least work; each look by itself."""
    shard_of, whole = [0] * len(units), [0] * count
    for look in sorted({unit.look for unit in units}):
        load = [0] * count
        costs = {unit.index: planned_tokens(unit.items, samples) for unit in units if unit.look == look}
        for index in sorted(costs, key=lambda index: (-costs[index], index)):
            shard = min(range(count), key=lambda shard: (load[shard], whole[shard], shard))
            shard_of[index] = shard + 1
            load[shard] += costs[index]
            whole[shard] += costs[index]
    return shard_of


def idle_share(units: Sequence[Unit], count: int, samples: int) -> float:
    """Return the share of time that so many shards are expected to wait for the slowest of them."""
    loads: dict[tuple[int, int], int] = defaultdict(int)
    for unit, shard in zip(units, split_units(units, count, samples), strict=True):
        loads[unit.look, shard] += planned_tokens(unit.items, samples)
    by_look = grouped((look, load) for (look, _), load in loads.items()).values()
    return 1 - sum(loads.values()) / (count * sum(map(max, by_look)))


def plan_units(
    items: Sequence[Item], unit_items: int, looks: int, *, unit_tokens: int | None = None, samples: int = 1
) -> list[Unit]:
    """Cut items into work units: by look, then slice, then strata that share prompts.

    The items of one stratum stay together, so that a stratum that is decided early takes whole units with it and the
    others are answered in the same company as before. Items that share a prefix, and clusters, are never cut by a look.
    """
    by_place: dict[tuple[int, int, int], list[Item]] = defaultdict(list)
    for position, name in enumerate(dict.fromkeys(item.slice for item in items)):
        for number, block in enumerate(_blocks([item for item in items if item.slice == name])):
            for item, look in zip(block, _looks(block, looks), strict=True):
                by_place[look, position, number].append(item)
    size = (unit_items, unit_tokens or sys.maxsize, samples)
    chunks = ((place[0], chunk) for place in sorted(by_place) for chunk in _chunks(by_place[place], *size))
    return [Unit(index, chunk[0].slice, look, tuple(chunk)) for index, (look, chunk) in enumerate(chunks)]


def _blocks(items: Sequence[Item]) -> list[list[Item]]:
    """Group a slice's items by stratum; strata whose items share a prefix stay together."""
    parent: dict[str, str] = {}

    def find(name: str) -> str:
        while parent.setdefault(name, name) != name:
            name = parent[name]
        return name

    first: dict[str, str] = {}
    for item in (one for one in items if one.prefix_group):
        parent[find(item.stratum)] = find(first.setdefault(item.prefix_group, item.stratum))
    return list(grouped((find(item.stratum), item) for item in items).values())


def _looks(items: Sequence[Item], looks: int) -> list[int]:
    """Return each item's look: clusters of the same strata are dealt out in order, whole."""
    covers = grouped((item.cluster, item.stratum) for item in items)
    alike = grouped((frozenset(strata), cluster) for cluster, strata in covers.items())
    look = {cluster: rank * looks // len(own) + 1 for own in alike.values() for rank, cluster in enumerate(own)}
    return [look[item.cluster] for item in items]


def _chunks(items: Sequence[Item], size: int, tokens: int, samples: int) -> Iterable[list[Item]]:
    """Cut into runs of at most `size` items and so many planned tokens, never inside a prefix group."""
    groups = grouped((item.prefix_group or item.id, item) for item in items)
    chunk: list[Item] = []
    spent = 0
    for group in groups.values():
        cost = planned_tokens(group, samples)
        if chunk and (len(chunk) + len(group) > size or spent + cost > tokens):
            yield chunk
            chunk, spent = [], 0
        chunk, spent = [*chunk, *group], spent + cost
    if chunk:
        yield chunk
