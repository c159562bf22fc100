"""What one variant scored, item by item, as columns: the input of every comparison.

A run directory, an lm_eval log and a CSV file all become the same `Outcomes`. Columns of names are integer codes with
their labels, so that a million items stay small.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from harness.errors import NotComparable

__all__ = ["Labels", "Outcomes", "build", "fingerprint", "natural_key"]

Floats = NDArray[np.float64]


def natural_key(name: str) -> tuple[tuple[int, float, str], ...]:
    """Sort names as a person would: ``hops=3`` before ``hops=12``."""
    parts = enumerate(re.split("([0-9]+)", f"{name}\0"))  # words at even places, numbers at odd ones
    return tuple((at % 2, float(part) if at % 2 else 0.0, part) for at, part in parts)


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
        """The name that stands at an item."""
        return self.names[int(self.codes[item])]

    @staticmethod
    def of(values: Iterable[str]) -> Labels:
        """Code a column of names, in order of appearance."""
        seen: dict[str, int] = {}
        codes = np.fromiter((seen.setdefault(value, len(seen)) for value in values), dtype=np.int32)
        return Labels(codes, tuple(seen))

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
    notes: tuple[str, ...] = ()  # what a reader must know of how these were read

    def __len__(self) -> int:
        """The number of items, answered or not."""
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
    notes: tuple[str, ...] = (),
    unique: bool = False,
) -> Outcomes:
    """Check columns and put them together.

    items: ids, each once. scores: shape [items], in [0, 1], NaN if unanswered. slices, strata: a name per item, or
    one for all. clusters: a name per item; None if every item is its own. chance, weight, looks: per item, or one
    for all. unique: the ids are known to differ. Raises NotComparable, naming the variant and the item, on anything
    that no comparison could trust.
    """
    ids = tuple(items)
    count = len(ids)
    if not count:
        raise NotComparable(f"{name}: there are no items")
    if not unique and len(set(ids)) < count:
        twice = sorted(one for one, times in Counter(ids).items() if times > 1)
        shown = ", ".join(map(repr, twice[:3])) + (", ..." if len(twice) > 3 else "")  # noqa: PLR2004
        raise NotComparable(f"{name}: {len(twice)} item ids are duplicated ({shown}): each item must appear once")
    prints = np.zeros(count, np.uint64) if fingerprints is None else np.asarray(fingerprints, np.uint64)
    if prints.shape != (count,):
        raise NotComparable(f"{name}: {prints.size} fingerprints for {count} items: give one each")
    look = np.broadcast_to(np.asarray(looks, np.int32), (count,))
    if look.min() < 1:
        raise NotComparable(f"{name}: item {ids[int(look.argmin())]!r} has look {look.min()}: looks count from 1")
    own = Labels(np.arange(count, dtype=np.int32), ids)
    return Outcomes(
        name=name,
        items=ids,
        score=_numbers(name, "score", scores, ids, 1.0),
        fingerprint=prints,
        slice=_labels(name, "slice", slices, count),
        stratum=_labels(name, "stratum", strata, count),
        cluster=own if clusters is None else _labels(name, "cluster", clusters, count),
        chance=_numbers(name, "chance", chance, ids, 1.0),
        weight=_numbers(name, "weight", weight, ids, np.inf),
        look=look,
        levels={axis: _labels(name, axis, values, count) for axis, values in (levels or {}).items()},
        measure=dict(measure or {}),
        notes=notes,
    )


def _labels(name: str, what: str, values: Sequence[str] | Labels | str, count: int) -> Labels:
    if isinstance(values, str):
        return Labels.constant(values, count)
    labels = values if isinstance(values, Labels) else Labels.of(values)
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
        raise NotComparable(f"{name}: item {ids[first]!r} has {what} {numbers[first]:g}{more}: it must be {bounds}")
    return numbers
