"""What one variant scored, item by item, as columns: the input of every comparison.

A run directory, an lm_eval log and a CSV file all become the same `Outcomes`. Columns of names are integer codes with
their labels, so that a million items stay small. It knows neither files nor statistics nor the other side.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from harness.errors import NotComparable

__all__ = ["Labels", "Outcomes", "build", "fingerprint", "natural_key"]

Floats = NDArray[np.float64]


def natural_key(name: str) -> tuple[tuple[int, float, str], ...]:
    """Sort names as a person would: ``hops=3`` before ``hops=12``."""
    parts: list[tuple[int, float, str]] = []
    word, number = "", ""
    for letter in f"{name}\0":
        if letter.isascii() and letter.isdigit():
            number += letter
            continue
        if number:
            parts += [(0, 0.0, word), (1, float(number), number)]
            word, number = "", ""
        word += letter
    return (*parts, (0, 0.0, word))


def fingerprint(*asked: str) -> int:
    """Give 64 bits that identify what was asked (prompt, document, their hashes); 0 if nothing is known of it."""
    if not any(asked):
        return 0
    text = "\0".join(asked).encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") or 1


@dataclass(frozen=True, slots=True, eq=False)
class Labels:
    """A column of names: a code per item and the names that the codes stand for."""

    codes: NDArray[np.int32]
    """Shape [items]: positions in `names`."""
    names: tuple[str, ...]
    """Each name once."""

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

    name: str
    """The variant's name."""
    items: tuple[str, ...]
    """Item ids, each once."""
    score: Floats
    """In [0, 1]; NaN if the item went unanswered. Several samples of an item are its mean."""
    fingerprint: NDArray[np.uint64]
    """What was asked, see `fingerprint`; 0 if unknown."""
    slice: Labels
    """The slice's label."""
    stratum: Labels
    """The cell of its axes."""
    cluster: Labels
    """Items that share a source share a name here."""
    chance: Floats
    """The score that guessing would give."""
    weight: Floats
    """Share of traffic, relative to the other items."""
    look: NDArray[np.int32]
    """The interim look, from 1, by which the item was answered."""
    levels: Mapping[str, Labels] = field(default_factory=dict)
    """Axis to level, also of axes that do not split the slice; an empty name where an item has no such axis."""
    measure: Mapping[str, str] = field(default_factory=dict)
    """Slice to what the score is (``acc``, ``exact_match``), where the source says it."""
    notes: tuple[str, ...] = ()
    """What a reader of the comparison must know of how these were read."""

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
    if not unique:
        _check_unique(name, ids)
    columns = {
        "slice": _labels(name, "slice", slices, count),
        "stratum": _labels(name, "stratum", strata, count),
        "cluster": Labels(np.arange(count, dtype=np.int32), ids)
        if clusters is None
        else _labels(name, "cluster", clusters, count),
    }
    score = _numbers(name, "score", scores, ids)
    prints = np.zeros(count, np.uint64) if fingerprints is None else np.asarray(fingerprints, np.uint64)
    if prints.shape != (count,):
        raise NotComparable(f"{name}: {prints.size} fingerprints for {count} items: give one each")
    look = np.broadcast_to(np.asarray(looks, np.int32), (count,))
    if look.min() < 1:
        raise NotComparable(f"{name}: item {ids[int(look.argmin())]!r} has look {look.min()}: looks count from 1")
    _check_range(name, "score", score, ids, 1.0, missing=True)
    return Outcomes(
        name=name,
        items=ids,
        score=score,
        fingerprint=prints,
        **columns,
        chance=_check_range(name, "chance", _numbers(name, "chance", chance, ids), ids, 1.0),
        weight=_check_range(name, "weight", _numbers(name, "weight", weight, ids), ids, np.inf),
        look=look,
        levels={axis: _labels(name, axis, values, count) for axis, values in (levels or {}).items()},
        measure=dict(measure or {}),
        notes=notes,
    )


def _check_unique(name: str, ids: tuple[str, ...]) -> None:
    if len(set(ids)) == len(ids):
        return
    seen: set[str] = set()
    twice = sorted({one for one in ids if one in seen or seen.add(one)})  # type: ignore[func-returns-value]
    shown = ", ".join(repr(one) for one in twice[:3]) + (", ..." if len(twice) > 3 else "")  # noqa: PLR2004
    raise NotComparable(f"{name}: {len(twice)} item ids are duplicated ({shown}): each item must appear once")


def _labels(name: str, what: str, values: Sequence[str] | Labels | str, count: int) -> Labels:
    if isinstance(values, str):
        return Labels.constant(values, count)
    labels = values if isinstance(values, Labels) else Labels.of(values)
    if labels.codes.shape != (count,):
        raise NotComparable(f"{name}: {labels.codes.size} entries in {what!r} for {count} items: give one each")
    return labels


def _numbers(name: str, what: str, values: ArrayLike, ids: tuple[str, ...]) -> Floats:
    try:
        numbers = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise NotComparable(f"{name}: {what} is not all numbers: {error}") from error
    if numbers.ndim == 0:
        return np.broadcast_to(numbers, (len(ids),))
    if numbers.shape != (len(ids),):
        raise NotComparable(f"{name}: {numbers.size} entries in {what!r} for {len(ids)} items: give one each")
    return numbers


def _check_range(
    name: str, what: str, values: Floats, ids: tuple[str, ...], top: float, *, missing: bool = False
) -> Floats:
    good = (values >= 0.0) & (values <= top) & np.isfinite(values)
    if missing:
        good |= np.isnan(values)
    if not good.all():
        first = int(np.flatnonzero(~good)[0])
        hint = "" if np.isinf(top) else "; percentages and other scales must be brought there first"
        bounds = "0 or more" if np.isinf(top) else "in [0, 1]"
        count = int(np.count_nonzero(~good))
        more = f" ({count} such items)" if count > 1 else ""
        raise NotComparable(
            f"{name}: item {ids[first]!r} has {what} {values[first]:g}{more}: it must be {bounds}{hint}"
        )
    return values
