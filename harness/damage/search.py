"""Which sets of modules are asked, in what order, within how many minutes; and what that comes to.

Modules are restored in groups: a projection in all layers, a layer, its attention or its MLP, one module. Everything
measured is a line of a journal in the run directory. A search that was killed is the same search again: it reads what
it had measured, and the seconds that it took, and goes on. Knows names, bytes and scores, and no model.
"""

import heapq
import itertools
import math
import random
import re
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from harness.errors import NotComparable, StoreError
from harness.records import canonical_json, digest
from harness.stats.binary import score_limit
from harness.store.files import Appender, atomic_write, read_lines
from harness.store.units import grouped

SCREENING, GREEDY = (0.55, 0.7), 0.85
"""Shares of the time after which no further group is screened, before adding and once more if adding leaves time, and
after which no further one is added."""
NULL_SETS, LEAST_NULL_SETS = 10, 4
"""Random sets that the chosen set is compared with, and how many of them at least if time is out."""
ALPHA = 0.1  # of each limit of an interval; its lower one ranks the groups
_IN_LAYER = re.compile(r"^(?:.*?\.)?(\d+)\.(.+)$")
"""``model.layers.12.self_attn.q_proj``: the first number is the layer, the rest the module's place in it."""
Modules = frozenset[str]
Sizes = Mapping[str, int]  # module to the bytes that restoring it costs


class Group(NamedTuple):
    """Modules that are restored together."""

    name: str  # ``layer 3``, ``layer 3 mlp``, ``self_attn.v_proj``, or the module's own name
    level: str  # ``projection``, ``layer``, ``block``, ``module`` or ``other`` (in no layer: the head)
    modules: tuple[str, ...]
    bytes: int


def layer_of(module: str) -> int | None:
    """Return the number of the layer that a module is in; None for one in no layer."""
    found = _IN_LAYER.match(module)
    return int(found[1]) if found else None


def total_bytes(modules: Iterable[str], sizes: Sizes) -> int:
    """Return what it costs to restore modules."""
    return sum(sizes[name] for name in modules)


def _grouped(names: Mapping[str, str], level: str, sizes: Sizes) -> list[Group]:
    found = grouped((name, module) for module, name in names.items()).items()
    return [Group(name, level, tuple(own), total_bytes(own, sizes)) for name, own in found]


def coarse(sizes: Sizes) -> list[Group]:
    """Return the groups asked first: projections, the rest, and layers, the last first: behind it little runs again."""
    inside = {name: found for name in sizes if (found := _IN_LAYER.match(name))}
    layers = _grouped({name: f"layer {int(found[1])}" for name, found in inside.items()}, "layer", sizes)
    return [
        *_grouped({name: found[2] for name, found in inside.items()}, "projection", sizes),
        *_grouped({name: name for name in sizes if name not in inside}, "other", sizes),
        *sorted(layers, key=lambda one: -(layer_of(one.modules[0]) or 0)),
    ]


def children(group: Group, sizes: Sizes) -> list[Group]:
    """Return the parts of a group: a layer's attention and MLP, else its single modules; none of a single module."""
    if group.level == "layer":
        places = {name: _IN_LAYER.sub(r"\2", name).partition(".")[0] for name in group.modules}
        return _grouped({name: f"{group.name} {place}" for name, place in places.items()}, "block", sizes)
    return [Group(name, "module", (name,), sizes[name]) for name in group.modules] if len(group.modules) > 1 else []


def random_set(sizes: Sizes, most: int, seed: int) -> tuple[str, ...]:
    """Return single modules in random order for as long as they fit into so many bytes."""
    order = sorted(sizes)
    random.Random(seed).shuffle(order)
    return _fitted([(name,) for name in order], sizes, most)


def _fitted(groups: Iterable[Sequence[str]], sizes: Sizes, most: int) -> tuple[str, ...]:
    """Return the modules of the groups that fit into so many bytes, in this order; one that does not fit is left."""
    chosen: set[str] = set()
    for group in groups:
        if total_bytes(chosen.union(group), sizes) <= most:
            chosen.update(group)
    return tuple(sorted(chosen))


class Measured(NamedTuple):
    """What came of asking the items with some modules restored."""

    scores: dict[str, float]  # item id to score, the mean over its samples; 0 if it went unanswered
    kl: float  # mean divergence per token from the baseline, on the baseline's own answers


Ask = Callable[[Modules, Modules], Measured]
"""Asks the items with the first modules restored; the second ones are those of most calls to come."""
Say = Callable[[str], None]
"""Takes a sentence for the person who waits."""


class Journal:
    """Everything that was measured, by the modules restored. Raises StoreError if the file has another search's key."""

    def __init__(self, path: Path, key: str, clock: Callable[[], float] = time.perf_counter) -> None:
        lines = read_lines(path) if path.is_file() else []
        if lines and lines[0].get("key") != key:
            raise StoreError(f"{path}: belongs to other items, models or versions: remove it to search again")
        if not lines:  # new, or a kill in the middle of its first line
            atomic_write(path, canonical_json({"key": key}) + "\n")
        self._clock, self._appender = clock, Appender(path)
        self._known = {digest(line["modules"]): line for line in lines[1:]}
        self.seconds = 0.0  # what the measurements so far took, those of earlier processes included
        self.fresh = 0  # measurements of this process

    def close(self) -> None:
        """Close the file."""
        self._appender.close()

    def seen(self, modules: Iterable[str]) -> bool:
        """Return whether this process has measured these modules, or read again what was measured of them."""
        return bool(self._known.get(digest(sorted(modules)), {}).get("counted"))

    def measure(self, ask: Ask, modules: Iterable[str], base: Modules = frozenset()) -> Measured:
        """Return what is known of these modules, or ask and keep it."""
        names = sorted(modules)
        line = self._known.get(digest(names))
        if line is None:
            began, answers = self._clock(), ask(frozenset(names), base)
            line = {"modules": names, "scores": answers.scores, "kl": answers.kl, "seconds": self._clock() - began}
            self._appender.append(line)
            self._appender.sync()
            self._known[digest(names)] = line
            self.fresh += 1
        if not line.get("counted"):
            self.seconds += line["seconds"]
            line["counted"] = True
        return Measured(line["scores"], line["kl"])


@dataclass(frozen=True, slots=True)
class Counts:
    """Items against a reference: those won back and those newly lost, of how many."""

    won: int
    newly_lost: int
    asked: int

    @property
    def net(self) -> int:
        """Return the items won back, less those newly lost."""
        return self.won - self.newly_lost

    def limit(self, side: Any) -> float:
        """Return one limit of the net number of items, at level 1 - `ALPHA`."""
        return self.asked * score_limit(self.newly_lost, self.won, self.asked, ALPHA, side)

    def rank(self, size: int) -> tuple[float, float]:
        """Return what sorts groups, the best first: by the items surely won back per byte, then by the net per byte.

        A limit below zero is not divided: that would favour the larger group.
        """
        low = self.limit("low")
        return (-low / size if low > 0 else -low, -self.net / size)

    def record(self) -> dict[str, Any]:
        """Return it as JSON, with its interval."""
        low, high = self.limit("low"), self.limit("high")
        return {"won": self.won, "newly_lost": self.newly_lost, "low": round(low, 2), "high": round(high, 2)}


class Step(NamedTuple):
    """A group that was added to those before it."""

    name: str
    modules: tuple[str, ...]  # all that is restored now
    bytes: int
    counts: Counts  # against nothing restored
    alone: Counts  # of the group alone
    gain: Counts  # of the group on top of those before it

    def record(self) -> dict[str, Any]:
        """Return it as JSON."""
        about = {"added": self.name, "bytes": self.bytes, "modules": list(self.modules)}
        return {**about, **self.counts.record(), "alone": self.alone.net, "on_top": self.gain.net}


@dataclass(slots=True)
class Found:
    """What a search came to."""

    groups: list[tuple[Group, Counts, float]] = field(default_factory=list)  # screened; with divergence if restored
    everything: Counts = Counts(0, 0, 1)  # with all modules restored
    lost: tuple[str, ...] = ()  # the items that are lost with nothing restored, as asked again
    kept: tuple[str, ...] = ()  # the items that are kept with nothing restored, as asked again
    kl: float = 0.0  # the divergence with nothing restored
    steps: list[Step] = field(default_factory=list)  # the frontier: each step restores more
    null: list[Counts] = field(default_factory=list)  # of random sets of the bytes of the chosen step
    seconds: float = 0.0  # time of all measurements
    unasked: int = 0  # groups for which there was no time

    def chosen(self, most: int) -> Step | None:
        """Return the smallest step of those that win back most within so many bytes."""
        inside = [one for one in self.steps if one.bytes <= most]
        return max(inside, key=lambda one: (one.counts.net, -one.bytes), default=None)

    def ranked(self) -> list[dict[str, Any]]:
        """Return the groups as JSON, the best first."""
        rows = []
        for group, counts, kl in sorted(self.groups, key=lambda one: one[1].rank(one[0].bytes)):
            layer = None if group.level == "projection" else layer_of(group.modules[0])
            about = {"name": group.name, "level": group.level, "layer": layer, "bytes": group.bytes}
            rows.append({**about, **counts.record(), "divergence": kl})
        return rows

    def by_divergence(self, sizes: Sizes, most: int) -> tuple[str, ...]:
        """Return the modules that the divergence alone would choose: the groups that lower it most per byte."""
        ranked = sorted(self.groups, key=lambda one: (one[2] - self.kl) / one[0].bytes)
        return _fitted([group.modules for group, _, kl in ranked if kl < self.kl], sizes, most)


class _Search:
    def __init__(
        self, journal: Journal, ask: Ask, right: Mapping[str, float], sizes: Sizes, seconds: float, say: Say
    ) -> None:
        self.journal, self.ask, self.right, self.sizes, self.limit = journal, ask, right, sizes, seconds
        self.say, self.found, self.base = say, Found(), self.journal.measure(ask, ())

    def measured(self, what: str, modules: Iterable[str], base: Modules = frozenset()) -> Measured:
        """Ask the items, and say what came of it."""
        fresh, after = self.journal.fresh, self.journal.measure(self.ask, modules, base)
        if self.journal.fresh > fresh:
            counts, spent = self.counts(after, self.base), f"{self.journal.seconds / 60:.1f} of {self.limit / 60:g} min"
            self.say(f"{what}: {counts.won} won back, {counts.newly_lost} newly lost ({spent})")
        return after

    def counts(self, after: Measured, before: Measured) -> Counts:
        """Count the items that are right after and were not before, and the other way round."""
        was, now = ({name: one.scores[name] >= score for name, score in self.right.items()} for one in (before, after))
        won = sum(now[name] and not was[name] for name in now)
        return Counts(won, sum(was[name] and not now[name] for name in now), len(now))

    def settle(self, kept: Collection[str]) -> None:
        """Leave out items that are on the other side when asked again, and restore nothing, then everything."""
        still = {name: (self.base.scores[name] >= score) for name, score in self.right.items()}
        self.right = {name: score for name, score in self.right.items() if still[name] == (name in kept)}
        lost, known = (tuple(sorted(one for one in self.right if (one in kept) == side)) for side in (False, True))
        if not lost:
            raise NotComparable("none of the lost items is lost when it is asked again, so nothing can be won back")
        everything = self.counts(self.measured("everything", self.sizes), self.base)
        self.found = Found(everything=everything, lost=lost, kept=known, kl=self.base.kl)

    def late(self, share: float) -> bool:
        return self.journal.seconds >= share * self.limit

    def screen(self, share: float) -> None:
        """Ask the groups one by one: coarse ones first, then the parts of those that win back most per byte."""
        waiting = [((-math.inf, 0.0), at, group) for at, group in enumerate(coarse(self.sizes))]
        number, asked = itertools.count(len(waiting)), set[Modules]()
        while waiting and (self.journal.seen(waiting[0][2].modules) or not self.late(share)):
            _, _, group = heapq.heappop(waiting)
            after = self.measured(group.name, group.modules)
            counts = self.counts(after, self.base)
            if (modules := frozenset(group.modules)) not in asked:
                asked.add(modules)
                self.found.groups.append((group, counts, after.kl))
            for part in children(group, self.sizes):
                heapq.heappush(waiting, (counts.rank(group.bytes), next(number), part))
        self.found.unasked = len({frozenset(group.modules) for _, _, group in waiting} - asked)

    def add(self, most: int) -> None:
        """Add groups one at a time, each time the one that surely wins back most per byte on top of those before.

        A group's gain is measured again whenever another was added: only the first in line is, as gains rarely grow.
        """
        current, now = frozenset[str](), self.base
        able = [(at, group, own) for at, (group, own, _) in enumerate(self.found.groups) if own.net > 0]
        line = sorted((own.rank(group.bytes), at, group, own, 0) for at, group, own in able)
        alone = {group.name: counts for group, counts, _ in self.found.groups}
        while line:
            _, at, group, gain, rounds = heapq.heappop(line)
            wanted = current | set(group.modules)
            size, new = total_bytes(wanted, self.sizes), total_bytes(wanted - current, self.sizes)
            if size > most or not new or (self.late(GREEDY) and not self.journal.seen(wanted)):
                continue
            after = self.measured(f"with {group.name}", wanted, current)
            if rounds != len(self.found.steps):
                gain = self.counts(after, now)
                if gain.net > 0:
                    heapq.heappush(line, (gain.rank(new), at, group, gain, len(self.found.steps)))
                continue
            current, now, total = wanted, after, self.counts(after, self.base)
            self.found.steps.append(Step(group.name, tuple(sorted(wanted)), size, total, alone[group.name], gain))

    def compare(self, size: int) -> None:
        """Ask random sets of so many bytes: fewer of them if time is out."""
        for seed in range(NULL_SETS):
            if seed < LEAST_NULL_SETS or not self.late(1.0):
                after = self.measured("a random set", random_set(self.sizes, size, seed))
                self.found.null.append(self.counts(after, self.base))


def search(
    journal: Journal,
    ask: Ask,
    right: Mapping[str, float],
    sizes: Sizes,
    *,
    kept: Collection[str],
    most: int,
    seconds: float,
    say: Say = lambda _: None,
) -> Found:
    """Screen groups, add the best ones to at most `most` bytes, and ask random sets of the bytes of the chosen step.

    right: item id to the baseline's score, of the items that the baseline got right; kept: those that the candidate got
    right too. Items that are on the other side when asked again are left out. sizes: module to bytes.
    """
    work = _Search(journal, ask, right, sizes, seconds, say)
    work.settle(kept)
    for share in SCREENING:
        work.found.groups, work.found.steps = [], []  # what was measured is not measured again
        work.screen(share)
        work.add(most)
    if (step := work.found.chosen(most)) is not None:
        work.compare(step.bytes)
    work.found.seconds = journal.seconds
    return work.found


def null_share(counts: Counts, null: Sequence[Counts]) -> float:
    """Return the p-value of a chosen set among random ones: the share of all that win back as much or more."""
    return (1 + sum(one.net >= counts.net for one in null)) / (1 + len(null))
