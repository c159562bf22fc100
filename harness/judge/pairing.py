"""Which item of one side is which item of the other: joined by id and by what was asked.

What does not match is counted and named, and a join that loses too much is refused.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from harness.errors import NotComparable
from harness.judge.outcomes import Labels, Outcomes

__all__ = ["ALLOW_UNMATCHED", "Pairs", "pair"]

ALLOW_UNMATCHED = 0.01
"""Share of items that a join may lose unless more is allowed explicitly."""

Positions = NDArray[np.int64]
_SHOWN = 5


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
    """Join a candidate's items to the baseline's.

    allow_unmatched: share of all items, in [0, 1), that may go without a partner. Raises NotComparable if more goes
    without, if an item is in another stratum or cluster on the other side, or if the scores measure different things.
    """
    for name, measure in baseline.measure.items():
        if (other := candidate.measure.get(name, measure)) != measure:
            raise NotComparable(
                f"{candidate.name}: {name} is scored by {other!r}, in {baseline.name} by {measure!r}: name one --metric"
            )
    own, theirs = _joined(baseline, candidate)
    same = baseline.fingerprint[own] == candidate.fingerprint[theirs]  # also if neither side says what was asked
    pairs = Pairs(
        baseline=own[same],
        candidate=theirs[same],
        baseline_only=np.setdiff1d(np.arange(len(baseline)), own, assume_unique=True),
        candidate_only=np.setdiff1d(np.arange(len(candidate)), theirs, assume_unique=True),
        differing=own[~same],
    )
    _check_places(baseline, candidate, pairs)
    return _counted(baseline, candidate, _without_spared(baseline, candidate, pairs), allow_unmatched)


def _joined(baseline: Outcomes, candidate: Outcomes) -> tuple[Positions, Positions]:
    """Return the positions of items with the same id, ascending in the baseline."""
    if candidate.items == baseline.items:
        return np.arange(len(baseline)), np.arange(len(baseline))
    positions = {one: at for at, one in enumerate(baseline.items)}
    found = np.fromiter((positions.get(one, -1) for one in candidate.items), np.int64, len(candidate))
    theirs = np.flatnonzero(found >= 0)
    theirs = theirs[np.argsort(found[theirs])]
    return found[theirs], theirs


def _recoded(labels: Labels, known: Labels) -> NDArray[np.int64]:
    """Return a column's codes in the codes of another column, -1 if that has no such name."""
    position = {name: code for code, name in enumerate(known.names)}
    table = np.array([position.get(name, -1) for name in labels.names], np.int64)
    codes: NDArray[np.int64] = table[labels.codes]
    return codes


def _check_places(baseline: Outcomes, candidate: Outcomes, pairs: Pairs) -> None:
    """Raise NotComparable if an item is in another slice, stratum or cluster on the other side."""
    for what in ("slice", "stratum", "cluster"):
        own: Labels = getattr(baseline, what)
        theirs: Labels = getattr(candidate, what)
        if own.names is baseline.items and theirs.names is candidate.items:
            continue  # every item is its own source
        moved = _recoded(theirs, own)[pairs.candidate] != own.codes[pairs.baseline]
        if moved.any():
            first = int(moved.argmax())
            here, there = int(pairs.baseline[first]), int(pairs.candidate[first])
            raise NotComparable(
                f"{candidate.name}: {int(moved.sum())} items are in another {what} than in {baseline.name}: item "
                f"{baseline.items[here]!r} in {theirs[there]!r} instead of {own[here]!r}"
            )


def _without_spared(baseline: Outcomes, candidate: Outcomes, pairs: Pairs) -> Pairs:
    """Leave out items of looks that came after a side's last one in that stratum: they were never asked of it."""
    if baseline.look.max(initial=1) == 1 and candidate.look.max(initial=1) == 1:
        return pairs
    alone, other = pairs.baseline_only, pairs.candidate_only
    return replace(
        pairs,
        baseline_only=alone[baseline.look[alone] <= _last_look(candidate, baseline)[alone]],
        candidate_only=other[candidate.look[other] <= _last_look(baseline, candidate)[other]],
    )


def _last_look(side: Outcomes, other: Outcomes) -> NDArray[np.int64]:
    """For each item of `other`: the last look that `side` took in its stratum; without limit where it took none."""
    width = len(other.stratum.names) + 1
    own = (_recoded(side.slice, other.slice) + 1) * width + _recoded(side.stratum, other.stratum) + 1
    theirs = (other.slice.codes.astype(np.int64) + 1) * width + other.stratum.codes + 1
    last = np.zeros((len(other.slice.names) + 1) * width, np.int64)
    np.maximum.at(last, own, side.look)
    last[last == 0] = np.iinfo(np.int64).max
    found: NDArray[np.int64] = last[theirs]
    return found


def _counted(baseline: Outcomes, candidate: Outcomes, pairs: Pairs, allow_unmatched: float) -> Pairs:
    """Name what did not match. Raises NotComparable where it is more than allowed."""
    asked = "asked differently, or known on one side only (prompt, document or task arguments)"
    lost, parts = 0, []
    for positions, side, where in (
        (pairs.baseline_only, baseline, f"only in {baseline.name}"),
        (pairs.candidate_only, candidate, f"only in {candidate.name}"),
        (pairs.differing, baseline, asked),
    ):
        lost += positions.size
        if positions.size:
            names = sorted(side.items[int(one)] for one in positions)
            shown = ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
            parts.append(f"{positions.size} {where} ({shown})")
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
