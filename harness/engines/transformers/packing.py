"""Sequences that begin alike, laid out as one tree so that what they share is read once.

The tree is one row of tokens in depth-first order. A token may attend to those before it that are on its own
path, which is all of the mask: token q sees token k where ``k <= q < end[k]``, end[k] being one past the last
token under k. Positions are depths. Knows nothing of models, devices or texts.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Packed", "common_prefix", "group_by_prefix", "pack"]

Ids = NDArray[np.int64]

WORTH_SHARING = 16
"""Tokens: a shared beginning shorter than this is read again instead."""

BRANCHES_AT_MOST = 2048
"""Tokens beyond the part that all sequences of a row share: they are masked from each other, at a cost that grows
with their number's square."""


@dataclass(frozen=True, slots=True, eq=False)
class Packed:
    """Several sequences as one row."""

    tokens: Ids
    """[length] Tokens in depth-first order."""
    positions: Ids
    """[length] Depth of each token: its position in every sequence that holds it."""
    ends: Ids
    """[length] One past the last token that may attend to this one."""
    paths: tuple[Ids, ...]
    """For each sequence, in the order given, where its tokens are in the row."""

    @property
    def single(self) -> bool:
        """Whether the row is one sequence and needs no mask beyond the causal one."""
        return bool((self.ends == len(self.tokens)).all())

    @property
    def trunk(self) -> int:
        """Tokens before the first branch: all that follow may attend to them."""
        return len(self.tokens) if self.single else int((self.ends == len(self.tokens)).argmin())


def common_prefix(one: Ids, other: Ids) -> int:
    """Give the number of tokens that two sequences begin with alike."""
    length = min(len(one), len(other))
    differs = np.flatnonzero(one[:length] != other[:length])
    return int(differs[0]) if len(differs) else length


def pack(sequences: Sequence[Sequence[int]]) -> Packed:
    """Lay sequences (each of at least one token) out as one row."""
    arrays = [np.asarray(sequence, dtype=np.int64) for sequence in sequences]
    order = sorted(range(len(arrays)), key=lambda index: tuple(sequences[index]))
    pieces: list[Ids] = []
    depths: list[Ids] = []
    starts: list[tuple[int, int]] = []  # of the pieces on the current path: depth, place in the row
    ends: list[tuple[int, int, int]] = []
    paths: dict[int, Ids] = {}
    path: Ids = np.empty(0, dtype=np.int64)
    before: Ids = path
    length = 0
    for index in order:
        sequence = arrays[index]
        shared = common_prefix(before, sequence)
        ends += _close(starts, shared, len(before), length)
        path = np.concatenate([path[:shared], np.arange(length, length + len(sequence) - shared)])
        starts.append((shared, length))
        pieces.append(sequence[shared:])
        depths.append(np.arange(shared, len(sequence)))
        paths[index] = path
        length += len(sequence) - shared
        before = sequence
    ends += _close(starts, 0, len(before), length)
    end = np.empty(length, dtype=np.int64)
    for begin, stop, value in ends:
        end[begin:stop] = value
    return Packed(
        np.concatenate(pieces), np.concatenate(depths), end, tuple(paths[index] for index in range(len(arrays)))
    )


def _close(starts: list[tuple[int, int]], shared: int, depth: int, length: int) -> list[tuple[int, int, int]]:
    """Leave the current path down to `shared` tokens: give the stretches of the row that end here."""
    closed = []
    while starts and depth > shared:
        begin, place = starts.pop()
        kept = max(begin, shared)
        closed.append((place + kept - begin, place + depth - begin, length))
        if kept > begin:
            starts.append((begin, place))
        depth = begin
    return closed


def group_by_prefix(
    sequences: Sequence[Sequence[int]], *, most: int = BRANCHES_AT_MOST, longest: int = sys.maxsize
) -> list[list[int]]:
    """Say which sequences are worth a common row: neighbours in sorted order that begin alike.

    Gives indices into `sequences`. What a row's sequences share is at least a third of each of them. `most`
    is the tokens that a row may hold beyond its first sequence; 0 puts every sequence in a row of its own, as does
    being longer than `longest`.
    """
    order = sorted(range(len(sequences)), key=lambda index: tuple(sequences[index]))
    groups: list[list[int]] = []
    before: Ids = np.empty(0, dtype=np.int64)
    added = trunk = first = 0
    for index in order:
        sequence = np.asarray(sequences[index], dtype=np.int64)
        shared = common_prefix(before, sequence)
        before = sequence
        own, trunk = len(sequence) - shared, min(trunk, shared)
        widest = max(first, len(sequence))
        alike = trunk >= WORTH_SHARING and 3 * trunk >= widest and widest <= longest
        if alike and most > 0 and added + own <= most:
            groups[-1].append(index)
            added += own
        else:
            groups.append([index])
            added, trunk, first = 0, len(sequence), len(sequence)
    return groups
