"""Which item of one side is which item of the other: joined by id and by what was asked.

What does not match is counted and named, and a join that loses too much is refused. It knows no scores but whether
there is one.
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
    """Items that both sides were asked, and those that only one was."""

    baseline: Positions
    """Shape [pairs]: positions in the baseline, ascending."""
    candidate: Positions
    """Shape [pairs]: positions in the candidate."""
    baseline_only: Positions
    """Positions in the baseline without a partner; items that a decided stratum was spared are not among them."""
    candidate_only: Positions
    """Positions in the candidate without a partner."""
    differing: Positions
    """Positions in the baseline of items with the same id that were asked differently."""
    notes: tuple[str, ...]
    """What did not match, in words; empty if all did."""

    @property
    def unmatched_positions(self) -> Positions:
        """Positions in the baseline whose item has no partner."""
        return np.concatenate([self.baseline_only, self.differing])


def pair(baseline: Outcomes, candidate: Outcomes, allow_unmatched: float) -> Pairs:
    """Join a candidate's items to the baseline's.

    allow_unmatched: share of all items, in [0, 1), that may go without a partner. Raises NotComparable if more goes
    without, if an item is in another stratum or cluster on the other side, or if the scores measure different things.
    """
    _check_measure(baseline, candidate)
    own, theirs = _joined(baseline, candidate)
    asked, answered = baseline.fingerprint[own], candidate.fingerprint[theirs]
    same = asked == answered  # also of items of which neither side says what was asked
    pairs = Pairs(
        baseline=own[same],
        candidate=theirs[same],
        baseline_only=_rest(len(baseline), own),
        candidate_only=_rest(len(candidate), theirs),
        differing=own[~same],
        notes=(),
    )
    _check_places(baseline, candidate, pairs)
    return _counted(baseline, candidate, _without_spared(baseline, candidate, pairs), allow_unmatched)


def _joined(baseline: Outcomes, candidate: Outcomes) -> tuple[Positions, Positions]:
    """Return the positions of items with the same id, ascending in the baseline.

    By 64-bit hashes of ids (SipHash): for two sides of a million items each, the chance that any two different ids are
    taken for one is 5e-8, and what was asked is compared besides.
    """
    if candidate.items == baseline.items:
        return np.arange(len(baseline)), np.arange(len(baseline))
    (known, positions), (hashes, order) = (_sorted_hashes(side) for side in (baseline, candidate))
    at = np.minimum(np.searchsorted(known, hashes), len(baseline) - 1)
    same = known[at] == hashes
    partner = np.full(len(baseline), -1, np.int64)
    partner[positions[at[same]]] = order[same]
    own = np.flatnonzero(partner >= 0)
    if (known[1:] != known[:-1]).all() and own.size == np.count_nonzero(same):
        return own, partner[own]
    return _joined_by_id(baseline, candidate)


def _sorted_hashes(side: Outcomes) -> tuple[NDArray[np.int64], Positions]:
    hashes = np.fromiter(map(hash, side.items), np.int64, len(side))
    order = np.argsort(hashes)
    return hashes[order], order


def _joined_by_id(baseline: Outcomes, candidate: Outcomes) -> tuple[Positions, Positions]:
    """Do the same by the ids themselves: slower, and needed only where two ids have one hash."""
    positions = {one: at for at, one in enumerate(baseline.items)}
    found = np.fromiter((positions.get(one, -1) for one in candidate.items), np.int64, len(candidate))
    theirs = np.flatnonzero(found >= 0)
    order = theirs[np.argsort(found[theirs])]
    return found[order], order


def _rest(count: int, taken: Positions) -> Positions:
    left = np.ones(count, bool)
    left[taken] = False
    return np.flatnonzero(left)


def _check_measure(baseline: Outcomes, candidate: Outcomes) -> None:
    for name, measure in baseline.measure.items():
        other = candidate.measure.get(name, measure)
        if other != measure:
            raise NotComparable(
                f"{candidate.name}: {name} is scored by {other!r}, in {baseline.name} by {measure!r}: name one --metric"
            )


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
        if what == "cluster" and all(
            labels.names is side.items for labels, side in ((own, baseline), (theirs, candidate))
        ):
            continue  # every item is its own
        moved = _recoded(theirs, own)[pairs.candidate] != own.codes[pairs.baseline]
        if moved.any():
            first = int(np.flatnonzero(moved)[0])
            here, there = int(pairs.baseline[first]), int(pairs.candidate[first])
            raise NotComparable(
                f"{candidate.name}: {int(moved.sum())} items are in another {what} than in {baseline.name}: item "
                f"{baseline.items[here]!r} in {theirs[there]!r} instead of {own[here]!r}"
            )


def _without_spared(baseline: Outcomes, candidate: Outcomes, pairs: Pairs) -> Pairs:
    """Leave out items of looks that came after a side's last one in that stratum: they were never asked of it."""
    if baseline.look.max(initial=1) == 1 and candidate.look.max(initial=1) == 1:
        return pairs
    kept = [
        alone[longer.look[alone] <= _last_look(shorter, longer)[alone]]
        for alone, longer, shorter in (
            (pairs.baseline_only, baseline, candidate),
            (pairs.candidate_only, candidate, baseline),
        )
    ]
    return replace(pairs, baseline_only=kept[0], candidate_only=kept[1])


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
    parts = [
        _named(pairs.baseline_only, baseline, f"only in {baseline.name}"),
        _named(pairs.candidate_only, candidate, f"only in {candidate.name}"),
        _named(
            pairs.differing,
            baseline,
            "asked differently, or known on one side only (prompt, document or task arguments)",
        ),
    ]
    lost = pairs.baseline_only.size + pairs.candidate_only.size + pairs.differing.size
    total = pairs.baseline.size + lost
    if not pairs.baseline.size:
        parts.append("no item matches: check which column or field is the item's id")
    if lost == 0:
        return pairs
    text = f"{candidate.name}: {pairs.baseline.size} of {total} items match: " + "; ".join(
        part for part in parts if part
    )
    if lost > allow_unmatched * total:
        raise NotComparable(
            f"{text}. At least {1 - allow_unmatched:.4g} must match, unless --allow-unmatched says less"
        )
    return replace(pairs, notes=(text,))


def _named(positions: Positions, side: Outcomes, where: str) -> str:
    if not positions.size:
        return ""
    names = sorted(side.items[int(one)] for one in positions)
    return f"{positions.size} {where} ({', '.join(names[:_SHOWN])}{', ...' if len(names) > _SHOWN else ''})"
