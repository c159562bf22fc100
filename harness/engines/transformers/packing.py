"""What goes through the model together: sequences that begin alike as one row, rows as batches, as memory allows.

Three prompts, "a b c d", "a b c e" and "a b f", become a row of six tokens, depth first::

    index      0  1  2  3  4  5
    token      a  b  c  d  e  f
    position   0  1  2  3  3  2     depth: the token's position in every sequence that holds it
    end        6  6  5  4  5  6     one past the last token that may attend to this one
    paths      [0 1 2 3], [0 1 2 4], [0 1 5]
    shared     the first 2 tokens are part of every sequence

Token q may attend to token k if ``k <= q < end[k]``, which is all of the mask.
"""

import gc
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Generic, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from harness.errors import RunError

Ids = NDArray[np.int64]
WORTH_SHARING = 16  # tokens: a shared beginning shorter than this is read again instead
BRANCH_TOKENS_AT_MOST = 2048  # beyond what all sequences of a row share: masks cost the square of their number
PREFIX_ALONE = 1024  # tokens: a beginning of a whole row that is read before the branches, without a mask
OUT_OF_MEMORY = re.compile(Path(__file__).with_name("out_of_memory.txt").read_text("utf-8"))


@dataclass(frozen=True, slots=True, eq=False)
class PackedTree:
    """Several sequences as one row."""

    tokens: Ids  # [length] tokens in depth-first order
    positions: Ids  # [length] depth of each token: its position in every sequence that holds it
    ends: Ids  # [length] one past the last token that may attend to this one
    paths: tuple[Ids, ...]  # for each sequence, in the order given, where its tokens are in the row

    @property
    def single(self) -> bool:
        """Whether the row is one sequence and needs no mask beyond the causal one."""
        return bool((self.ends == len(self.tokens)).all())

    @property
    def shared_prefix(self) -> int:
        """Tokens before the first branch: all that follow may attend to them."""
        return len(self.tokens) if self.single else int((self.ends == len(self.tokens)).argmin())

    @property
    def prefix_first(self) -> bool:
        """Whether the row is read alone, and what its sequences share before the rest."""
        return not self.single and self.shared_prefix >= PREFIX_ALONE


def pack(sequences: Sequence[Sequence[int]]) -> PackedTree:
    """Lay sequences (each of at least one token) out as one row."""
    order, arrays, shared = _in_order(sequences)
    paths: dict[int, Ids] = {}
    path: Ids = np.empty(0, dtype=np.int64)
    length = 0
    for index, one, same in zip(order, arrays, shared, strict=True):
        path = np.concatenate([path[:same], np.arange(length, length + len(one) - same)])
        paths[index] = path
        length += len(one) - same
    ends = np.empty(length, dtype=np.int64)
    closed = np.full(max(map(len, arrays)), length)  # by depth: where a token stands that is not below this path
    stop = length
    for one, same in zip(reversed(arrays), reversed(shared), strict=True):
        start = stop - len(one) + same
        ends[start:stop] = closed[same : len(one)]
        closed[same:] = start
        stop = start
    tokens = np.concatenate([one[same:] for one, same in zip(arrays, shared, strict=True)])
    positions = np.concatenate([np.arange(same, len(one)) for one, same in zip(arrays, shared, strict=True)])
    return PackedTree(tokens, positions, ends, tuple(paths[index] for index in range(len(arrays))))


def _in_order(sequences: Sequence[Sequence[int]]) -> tuple[list[int], list[Ids], list[int]]:
    """Return the indices of sequences in sorted order, these, and how many tokens each shares with the one before."""
    order = sorted(range(len(sequences)), key=lambda index: tuple(sequences[index]))
    arrays = [np.asarray(sequences[index], dtype=np.int64) for index in order]
    shared = [0] * len(arrays)
    for at, (before, one) in enumerate(pairwise(arrays), 1):
        length = min(len(before), len(one))
        differs = np.flatnonzero(before[:length] != one[:length])
        shared[at] = int(differs[0]) if len(differs) else length
    return order, arrays, shared


def group_by_prefix(
    sequences: Sequence[Sequence[int]], *, most: int = BRANCH_TOKENS_AT_MOST, longest: int = sys.maxsize
) -> list[list[int]]:
    """Return which sequences, by index, are worth a common row: neighbours in sorted order that begin alike.

    They share at least a third of each and are no longer than `longest`. most: tokens of a row beyond its first one.
    """
    groups: list[list[int]] = []
    added = shared_by_all = first = 0
    for index, sequence, shared in zip(*_in_order(sequences), strict=True):
        own, shared_by_all, widest = len(sequence) - shared, min(shared_by_all, shared), max(first, len(sequence))
        alike = shared_by_all >= WORTH_SHARING and 3 * shared_by_all >= widest and widest <= longest
        if alike and most > 0 and added + own <= most:
            groups[-1].append(index)
            added += own
        else:
            groups.append([index])
            added, shared_by_all, first = 0, len(sequence), len(sequence)
    return groups


class HasTokens(Protocol):
    """What can be packed."""

    @property
    def sequence(self) -> tuple[int, ...]:
        """The tokens that the model reads, at least one."""


R = TypeVar("R", bound=HasTokens)
T = TypeVar("T")
A = TypeVar("A")


@dataclass(frozen=True, slots=True, eq=False)
class PackedRequests(Generic[R]):
    """Requests that are read as one row, in the order of the tree's paths."""

    requests: tuple[R, ...]
    tree: PackedTree

    @classmethod
    def of(cls, requests: Sequence[R]) -> "PackedRequests[R]":
        """Return requests as one row."""
        return cls(tuple(requests), pack([one.sequence for one in requests]))

    def halves(self) -> "list[PackedRequests[R]]":
        """Return two rows with half of the requests each, or this row again if it holds one."""
        middle = len(self.requests) // 2
        return [PackedRequests.of(half) for half in (self.requests[:middle], self.requests[middle:]) if half]


@dataclass(frozen=True, slots=True)
class Budget:
    """How large a batch may be."""

    tokens: int  # rows times the longest row's tokens, padding and room for the answer included
    rows: int
    equal: bool = False  # only rows of one length together: no padding at all
    together: int = sys.maxsize  # rows longer than this, in tokens, are alone
    prefix_alone: int = PREFIX_ALONE  # and so are rows with a shared beginning of at least so many


def plan(lengths: Sequence[int], budget: Budget) -> list[list[int]]:
    """Split rows into batches of similar length, longest first, as indices; a row over the budget is alone."""
    batches: list[list[int]] = []
    widest = 0
    for index in sorted(range(len(lengths)), key=lambda index: (-lengths[index], index)):
        rows = len(batches[-1]) + 1 if batches else 0
        fits = batches and rows <= budget.rows and rows * widest <= budget.tokens
        if fits and widest <= budget.together and not (budget.equal and lengths[index] != widest):
            batches[-1].append(index)
        else:
            batches.append([index])
            widest = lengths[index]
    return batches


def plan_rows(rows: Sequence[PackedRequests[R]], budget: Budget) -> list[list[PackedRequests[R]]]:
    """Split packed rows into batches: trees with a long shared prefix alone, other trees together, and so sequences."""

    def reads_alone(row: PackedRequests[R]) -> bool:
        return not row.tree.single and row.tree.shared_prefix >= budget.prefix_alone

    alone = [row for row in rows if reads_alone(row)]
    batches = [[row] for row in sorted(alone, key=lambda row: -len(row.tree.tokens))]
    for single in (False, True):
        kind = [row for row in rows if row.tree.single is single and not reads_alone(row)]
        batches += [[kind[index] for index in batch] for batch in plan([len(row.tree.tokens) for row in kind], budget)]
    return batches


def out_of_memory(error: BaseException) -> bool:
    """Return whether an error means that memory did not suffice, on CUDA or from the CPU allocator."""
    said = isinstance(error, RuntimeError) and OUT_OF_MEMORY.search(str(error))
    return bool(said) or isinstance(error, torch.OutOfMemoryError | MemoryError)


def device_failed(error: BaseException) -> bool:
    """Return whether an error is CUDA's or one of its libraries', and not a model's that cannot take its arguments."""
    return isinstance(error, RuntimeError) and bool(re.search("cuda error|cublas|cudnn", str(error), re.IGNORECASE))


def too_large(name: str) -> RunError:
    """Return the error for an item that does not fit memory even alone."""
    remedy = "use a device with more memory, or leave such long items out"
    return RunError(f"{name}: out of memory with this item alone in the batch; {remedy}")


def release_memory() -> None:
    """Return freed memory back to the device, after an exception that kept tensors alive is gone."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def run_batches(
    batches: Iterable[list[T]],
    run: Callable[[list[T]], list[A]],
    split: Callable[[T], list[T]],
    name: Callable[[T], str],
    notes: list[str],
) -> Iterator[A]:
    """Answer batches, and halve one that does not fit memory until it does. Raises RunError if one request does not.

    split: divides one request into smaller ones, or gives it again; name: for the message.
    """
    largest = sys.maxsize  # rows that fit after the last failure: later batches are not larger
    for batch in batches:
        waiting = [batch]
        while waiting:
            part = waiting.pop()
            if len(part) > largest:
                waiting += [part[largest:], part[:largest]]
                continue
            try:
                yield from run(part)
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error):
                    raise
            else:
                continue
            release_memory()
            if len(part) > 1:
                largest = len(part) // 2
                notes.append(f"out of memory with {len(part)} rows in a batch: went on with {largest}")
                waiting.append(part)
                continue
            pieces = split(part[0])
            if len(pieces) == 1:
                raise too_large(name(part[0]))
            notes.append("out of memory with one row: what it shared was read more than once")
            waiting += [[piece] for piece in reversed(pieces)]
