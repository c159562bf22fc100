"""Sequences that begin alike, laid out as one row of a tree so that what they share is read once.

Three prompts, "a b c d", "a b c e" and "a b f", become a row of six tokens, depth first::

    index      0  1  2  3  4  5
    token      a  b  c  d  e  f
    position   0  1  2  3  3  2     depth: the token's position in every sequence that holds it
    end        6  6  5  4  5  6     one past the last token that may attend to this one
    paths      [0 1 2 3], [0 1 2 4], [0 1 5]
    shared     the first 2 tokens are part of every sequence

Token q may attend to token k if ``k <= q < end[k]``, which is all of the mask. Knows nothing of models or texts.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

__all__ = ["PackedRequests", "PackedTree", "common_prefix", "group_by_prefix", "pack", "pack_requests"]

Ids = NDArray[np.int64]

WORTH_SHARING = 16
"""Tokens: a shared beginning shorter than this is read again instead."""

BRANCH_TOKENS_AT_MOST = 2048
"""Tokens beyond the part that all sequences of a row share: they are masked from each other, at a cost that grows
with their number's square."""


@dataclass(frozen=True, slots=True, eq=False)
class PackedTree:
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
    def shared_prefix(self) -> int:
        """Tokens before the first branch: all that follow may attend to them."""
        return len(self.tokens) if self.single else int((self.ends == len(self.tokens)).argmin())


class HasTokens(Protocol):
    """What can be packed."""

    @property
    def sequence(self) -> tuple[int, ...]:
        """The tokens that the model reads, at least one."""
        ...


R = TypeVar("R", bound=HasTokens)


@dataclass(frozen=True, slots=True, eq=False)
class PackedRequests(Generic[R]):
    """Requests that are read as one row."""

    requests: tuple[R, ...]
    """The requests, in the order of the tree's paths."""
    tree: PackedTree
    """Their sequences."""

    @classmethod
    def of(cls, requests: Sequence[R]) -> PackedRequests[R]:
        """Return requests as one row."""
        return cls(tuple(requests), pack([one.sequence for one in requests]))

    def halves(self) -> list[PackedRequests[R]]:
        """Return two rows with half of the requests each, or this row again if it holds one."""
        middle = len(self.requests) // 2
        return [PackedRequests.of(half) for half in (self.requests[:middle], self.requests[middle:]) if half]


def common_prefix(one: Ids, other: Ids) -> int:
    """Return the number of tokens that two sequences begin with alike."""
    length = min(len(one), len(other))
    differs = np.flatnonzero(one[:length] != other[:length])
    return int(differs[0]) if len(differs) else length


def pack(sequences: Sequence[Sequence[int]]) -> PackedTree:
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
    return PackedTree(
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
    sequences: Sequence[Sequence[int]], *, most: int = BRANCH_TOKENS_AT_MOST, longest: int = sys.maxsize
) -> list[list[int]]:
    """Return which sequences are worth a common row: neighbours in sorted order that begin alike.

    Gives indices into `sequences`. What a row's sequences share is at least a third of each of them. `most`
    is the tokens that a row may hold beyond its first sequence; 0 puts every sequence in a row of its own, as does
    being longer than `longest`.
    """
    order = sorted(range(len(sequences)), key=lambda index: tuple(sequences[index]))
    groups: list[list[int]] = []
    before: Ids = np.empty(0, dtype=np.int64)
    added = shared_by_all = first = 0
    for index in order:
        sequence = np.asarray(sequences[index], dtype=np.int64)
        shared = common_prefix(before, sequence)
        before = sequence
        own, shared_by_all = len(sequence) - shared, min(shared_by_all, shared)
        widest = max(first, len(sequence))
        alike = shared_by_all >= WORTH_SHARING and 3 * shared_by_all >= widest and widest <= longest
        if alike and most > 0 and added + own <= most:
            groups[-1].append(index)
            added += own
        else:
            groups.append([index])
            added, shared_by_all, first = 0, len(sequence), len(sequence)
    return groups


def pack_requests(
    requests: Sequence[R], *, most: int = BRANCH_TOKENS_AT_MOST, longest: int = sys.maxsize
) -> list[PackedRequests[R]]:
    """Return requests in rows; those worth a common row share one (`group_by_prefix`, which explains the limits)."""
    groups = group_by_prefix([one.sequence for one in requests], most=most, longest=longest)
    return [PackedRequests.of([requests[index] for index in group]) for group in groups]
