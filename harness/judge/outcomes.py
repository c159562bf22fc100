"""What one variant scored, item by item, as columns, and how two sides are joined: by id and by what was asked."""

from __future__ import annotations

import functools
import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from harness.errors import NotComparable

Floats = NDArray[np.float64]
ALLOW_UNMATCHED = 0.01  # share of items that a join may lose unless more is allowed explicitly

Positions = NDArray[np.int64]
Said = tuple[str, bool]  # an answer, and whether it is a likelihood


def natural_key(name: str) -> tuple[tuple[int, float, str], ...]:
    """Sort names as a person would: ``hops=3`` before ``hops=12``."""
    parts = enumerate(re.split("([0-9]+)", f"{name}\0"))  # words at even places, numbers at odd ones
    return tuple((at % 2, float(part) if at % 2 else 0.0, part) for at, part in parts)


def listed(names: Iterable[str], most: int = 3) -> str:
    """Write the first names in their order, and whether there are more."""
    found = sorted(names)
    return ", ".join(found[:most]) + (", ..." if len(found) > most else "")


def fingerprint(*asked: str) -> int:
    """Give 64 bits that identify what was asked (prompt, document, their hashes); 0 if nothing is known of it."""
    if not any(asked):
        return 0
    text = "\0".join(asked).encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") or 1


@dataclass(frozen=True, slots=True, eq=False)
class Labels:
    """A column of names: a code per item and the names that the codes stand for."""

    codes: NDArray[np.int32]  # shape [items]: positions in `names`
    names: tuple[str, ...]  # each once

    def __getitem__(self, item: int) -> str:
        return self.names[int(self.codes[item])]

    @staticmethod
    def of(values: Iterable[str] | Labels) -> Labels:
        """Code a column of names, in order of appearance, unless it is coded."""
        if isinstance(values, Labels):
            return values
        seen: dict[str, int] = {}
        return Labels(np.fromiter((seen.setdefault(value, len(seen)) for value in values), dtype=np.int32), tuple(seen))

    @staticmethod
    def constant(name: str, count: int) -> Labels:
        """Return a column that says the same everywhere."""
        return Labels(np.zeros(count, np.int32), (name,) if count else ())


@dataclass(frozen=True, slots=True, eq=False)
class Outcomes:
    """One variant's scores. Made by `build`, which checks them; every column has one entry per item."""

    name: str  # the variant's
    items: tuple[str, ...]  # ids, each once
    score: Floats  # in [0, 1]; NaN if unanswered; several samples of an item are its mean
    fingerprint: NDArray[np.uint64]  # of what was asked, see `fingerprint`; 0 if unknown
    slice: Labels
    stratum: Labels
    cluster: Labels  # items that share a source share a name here
    chance: Floats  # the score that guessing would give
    weight: Floats  # share of traffic, relative to the other items
    look: NDArray[np.int32]  # the interim look, from 1, by which the item was answered
    levels: Mapping[str, Labels] = field(default_factory=dict)  # of all axes; an empty name if an item has no such axis
    measure: Mapping[str, str] = field(default_factory=dict)  # slice to what the score is (``acc``), if the source says
    settings: Mapping[str, str] = field(default_factory=dict)  # how each slice was asked, as far as the source says
    notes: tuple[str, ...] = ()  # what a reader must know of how these were read
    sources: Mapping[str, tuple[str, str]] = field(default_factory=dict)  # slice to file and maker, if told
    said: Callable[[], Mapping[str, set[Said]]] = dict  # item to its answers, as far as the source holds them

    def __len__(self) -> int:
        return len(self.items)


def build(  # noqa: PLR0913 - one keyword per column, all but three with a default
    name: str,
    items: Sequence[str],
    scores: ArrayLike,
    *,
    slices: Sequence[str] | Labels | str = "all",
    strata: Sequence[str] | Labels | str = "all",
    clusters: Sequence[str] | Labels | None = None,
    fingerprints: Sequence[int] | NDArray[np.uint64] | None = None,
    chance: ArrayLike = 0.0,
    weight: ArrayLike = 1.0,
    looks: ArrayLike = 1,
    levels: Mapping[str, Sequence[str] | Labels] | None = None,
    measure: Mapping[str, str] | None = None,
    settings: Mapping[str, str] | None = None,
    notes: tuple[str, ...] = (),
    unique: bool = False,
) -> Outcomes:
    """Check columns and put them together: one entry per item, or one for all, see `Outcomes`.

    clusters: None if every item is its own. unique: the ids are known to differ. Raises NotComparable, naming the
    variant and the item, on anything that no comparison could trust.
    """
    ids = tuple(items)
    count = len(ids)
    if not count:
        raise NotComparable(f"{name}: there are no items")
    if not unique and len(set(ids)) < count:
        twice = [repr(one) for one, times in Counter(ids).items() if times > 1]
        shown = f"{len(twice)} item ids are duplicated ({listed(twice)})"
        raise NotComparable(f"{name}: {shown}: each item must appear once")
    prints = np.zeros(count, np.uint64) if fingerprints is None else np.asarray(fingerprints, np.uint64)
    if prints.shape != (count,):
        raise NotComparable(f"{name}: {prints.size} fingerprints for {count} items: give one each")
    look = np.broadcast_to(np.asarray(looks, np.int32), (count,))
    if look.min() < 1:
        raise NotComparable(f"{name}: item {ids[int(look.argmin())]!r} has look {look.min()}: looks count from 1")
    own = Labels(np.arange(count, dtype=np.int32), ids)
    return Outcomes(
        *(name, ids, _numbers(name, "score", scores, ids, 1.0), prints),
        slice=_labels(name, "slice", slices, count),
        stratum=_labels(name, "stratum", strata, count),
        cluster=own if clusters is None else _labels(name, "cluster", clusters, count),
        chance=_numbers(name, "chance", chance, ids, 1.0),
        weight=_numbers(name, "weight", weight, ids, np.inf),
        look=look,
        levels={axis: _labels(name, axis, values, count) for axis, values in (levels or {}).items()},
        measure=dict(measure or {}),
        settings=dict(settings or {}),
        notes=notes,
    )


def _labels(name: str, what: str, values: Sequence[str] | Labels | str, count: int) -> Labels:
    if isinstance(values, str):
        return Labels.constant(values, count)
    labels = Labels.of(values)
    if labels.codes.shape != (count,):
        raise NotComparable(f"{name}: {labels.codes.size} entries in {what!r} for {count} items: give one each")
    return labels


def _numbers(name: str, what: str, values: ArrayLike, ids: tuple[str, ...], top: float) -> Floats:
    """Return a column of numbers in [0, top]; a score may be NaN. Raises NotComparable."""
    try:
        numbers = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise NotComparable(f"{name}: {what} is not all numbers: {error}") from error
    if numbers.ndim and numbers.shape != (len(ids),):
        raise NotComparable(f"{name}: {numbers.size} entries in {what!r} for {len(ids)} items: give one each")
    numbers = np.broadcast_to(numbers, (len(ids),))
    wrong = ~((numbers >= 0.0) & (numbers <= top) & np.isfinite(numbers))
    if what == "score":
        wrong &= ~np.isnan(numbers)
    if wrong.any():
        first, count = int(wrong.argmax()), int(np.count_nonzero(wrong))
        more = f" ({count} such items)" if count > 1 else ""
        bounds = "0 or more" if np.isinf(top) else "in [0, 1]; percentages and other scales must be brought there first"
        raise NotComparable(f"{name}: item {ids[first]!r} has {what} {numbers[first]:.9g}{more}: it must be {bounds}")
    return numbers


@dataclass(frozen=True, slots=True, eq=False)
class Pairs:
    """Items that both sides were asked, and those that only one was, by their positions in a side."""

    baseline: Positions  # shape [pairs], ascending
    candidate: Positions  # shape [pairs]
    baseline_only: Positions  # without a partner; not those that a decided stratum was spared
    candidate_only: Positions
    differing: Positions  # in the baseline: the same id, asked differently
    notes: tuple[str, ...] = ()  # what did not match, in words


def pair(baseline: Outcomes, candidate: Outcomes, allow_unmatched: float) -> Pairs:
    """Join a candidate's items to the baseline's. allow_unmatched: share that may go without a partner, in [0, 1).

    Raises NotComparable if more goes without, if an item is in another stratum or cluster on the other side, or if the
    scores measure different things or were asked for with other settings.
    """
    known = {**candidate.measure, **candidate.settings}
    for name, measure in {**baseline.measure, **baseline.settings}.items():
        if (other := known.get(name, measure)) != measure:
            text = f"{name}: {other!r:.200}, in {baseline.name} {measure!r:.200}"
            raise NotComparable(f"{candidate.name}: {text}: give results of one --metric and of the same settings")
    own, theirs = joined(baseline, candidate)
    same = baseline.fingerprint[own] == candidate.fingerprint[theirs]  # also if neither side says what was asked
    here, there = _alone(baseline, own, candidate), _alone(candidate, theirs, baseline)
    pairs = Pairs(own[same], theirs[same], baseline_only=here, candidate_only=there, differing=own[~same])
    _check_places(baseline, candidate, pairs)
    return _counted(baseline, candidate, pairs, allow_unmatched)


def _alone(side: Outcomes, paired: Positions, other: Outcomes) -> Positions:
    """Return the items without a partner, but for those of looks after the other's last one in that stratum."""
    alone = np.setdiff1d(np.arange(len(side)), paired, assume_unique=True)
    if side.look.max() == 1 and other.look.max() == 1:
        return alone
    return np.asarray(alone[side.look[alone] <= _last_look(other, side)[alone]])


@functools.lru_cache(maxsize=1)  # an import looks for copies first
def joined(baseline: Outcomes, candidate: Outcomes) -> tuple[Positions, Positions]:
    """Return the positions of items with the same id, ascending in the baseline.

    By 64-bit hashes of ids (SipHash): for two sides of a million items each, the chance that any two different ids have
    one hash is 5e-8, and what was asked is compared besides.
    """
    if candidate.items == baseline.items:
        return np.arange(len(baseline)), np.arange(len(baseline))
    before, after = (np.fromiter(map(hash, side.items), np.int64, len(side)) for side in (baseline, candidate))
    _, own, theirs = np.intersect1d(before, after, assume_unique=True, return_indices=True)
    order = np.argsort(own)
    return own[order], theirs[order]


def _recoded(labels: Labels, known: Labels) -> NDArray[np.int64]:
    """Return a column's codes in the codes of another column, -1 if that has no such name."""
    position = {name: code for code, name in enumerate(known.names)}
    return np.asarray(np.array([position.get(name, -1) for name in labels.names], np.int64)[labels.codes])


def _check_places(baseline: Outcomes, candidate: Outcomes, pairs: Pairs) -> None:
    """Raise NotComparable if an item is in another slice, stratum or cluster on the other side."""
    for what in ("slice", "stratum", "cluster"):
        own, theirs = getattr(baseline, what), getattr(candidate, what)
        if own.names is baseline.items and theirs.names is candidate.items:
            continue  # every item is its own source
        moved = _recoded(theirs, own)[pairs.candidate] != own.codes[pairs.baseline]
        if moved.any():
            first = int(moved.argmax())
            here, there = int(pairs.baseline[first]), int(pairs.candidate[first])
            shown = f"item {baseline.items[here]!r} in {theirs[there]!r} instead of {own[here]!r}"
            text = f"{int(moved.sum())} items are in another {what} than in {baseline.name}"
            raise NotComparable(f"{candidate.name}: {text}: {shown}")


def _last_look(side: Outcomes, other: Outcomes) -> NDArray[np.int64]:
    """For each item of `other`: the last look that `side` took in its stratum; without limit where it took none."""
    width = len(other.stratum.names) + 1
    own = (_recoded(side.slice, other.slice) + 1) * width + _recoded(side.stratum, other.stratum) + 1
    theirs = (other.slice.codes.astype(np.int64) + 1) * width + other.stratum.codes + 1
    last = np.zeros((len(other.slice.names) + 1) * width, np.int64)
    np.maximum.at(last, own, side.look)
    last[last == 0] = np.iinfo(np.int64).max
    return np.asarray(last[theirs])


def _counted(baseline: Outcomes, candidate: Outcomes, pairs: Pairs, allow_unmatched: float) -> Pairs:
    """Name what did not match. Raises NotComparable where it is more than allowed."""
    asked = "asked differently, or known on one side only (prompt, right answer, document or task arguments)"
    lost, parts = 0, []
    for positions, side, where in (
        (pairs.baseline_only, baseline, f"only in {baseline.name}"),
        (pairs.candidate_only, candidate, f"only in {candidate.name}"),
        (pairs.differing, baseline, asked),
    ):
        lost += positions.size
        if positions.size:
            parts.append(f"{positions.size} {where} ({listed((side.items[int(one)] for one in positions), 5)})")
    if lost == 0:
        return pairs
    if not pairs.baseline.size:
        parts.append("no item matches: check which column or field is the item's id")
    total = pairs.baseline.size + lost
    text = f"{candidate.name}: {pairs.baseline.size} of {total} items match: {'; '.join(parts)}"
    if lost > allow_unmatched * total:
        least = f"At least {1 - allow_unmatched:.4g} must match, unless --allow-unmatched says less"
        raise NotComparable(f"{text}. {least}")
    return replace(pairs, notes=(text,))


@dataclass(frozen=True, slots=True, eq=False)
class Columns:
    """The joined items, sorted by stratum."""

    item: NDArray[np.int64]  # position in the baseline
    place: NDArray[np.int32]
    before: Floats
    after: Floats
    look: NDArray[np.int32]
    weight: Floats
    chance: Floats
    cluster: NDArray[np.int32] | None
    other: NDArray[np.int32] | None  # the same by another kind of source; None if there is none
    stands: Floats  # how many items each stands for in an average
    layer: NDArray[np.int8] | None  # see `harness.judge.layers`; None if no stratum has layers

    @property
    def answered(self) -> NDArray[np.bool_]:
        """Whether both sides answered each."""
        return np.asarray(~(np.isnan(self.before) | np.isnan(self.after)))

    def of(self, first: int, last: int) -> Columns:
        """Return the rows of consecutive strata."""
        # Needles of the same type: otherwise numpy converts the whole column at every call.
        start, stop = map(int, np.searchsorted(self.place, np.array([first, last + 1], self.place.dtype)))
        return self.where(slice(start, stop))

    def where(self, rows: slice | NDArray[Any]) -> Columns:
        """Return some of the rows, these very columns if all are wanted."""
        if not isinstance(rows, slice) and rows.dtype == bool and rows.all():
            return self
        cut: list[Any] = [None if one is None else one[rows] for one in map(self.__getattribute__, self.__slots__)]
        return Columns(*cut)
