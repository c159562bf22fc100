"""Random choices that come out the same on every machine, every Python and in every order of asking.

Seeded by a path of names, so that what is made for one item does not depend on how many others are made. Of
`random.Random` only `getrandbits` is used: `choice`, `shuffle` and `sample` have changed between Python versions.
"""

import hashlib
import random
from collections.abc import Iterable, Sequence
from typing import TypeVar

T = TypeVar("T")


TRIES = 200  # draws of a question until one that was asked is taken again


class SeededRandom:
    """A source of random choices, the same wherever it is asked by the same path."""

    def __init__(self, *path: object) -> None:
        """Seed by the SHA-256 of the path's parts, written as text and kept apart by a zero byte."""
        seed = hashlib.sha256("\0".join(map(str, path)).encode()).digest()
        self._bits = random.Random(int.from_bytes(seed, "big")).getrandbits

    def below(self, end: int) -> int:
        """Give a whole number in [0, end), each equally likely. Raises ValueError where there is none."""
        if end < 1:
            raise ValueError(f"no number lies in [0, {end})")
        width = end.bit_length()
        while (value := self._bits(width)) >= end:  # rejection keeps all values equally likely
            pass
        return value

    def between(self, low: int, high: int) -> int:
        """Give a whole number in [low, high], both ends included."""
        return low + self.below(high - low + 1)

    def choice(self, items: Sequence[T]) -> T:
        """Give one of the items."""
        return items[self.below(len(items))]

    def sample(self, items: Sequence[T], count: int) -> list[T]:
        """Give `count` different items in random order (Fisher and Yates). Raises ValueError where there are fewer."""
        if count > len(items):
            raise ValueError(f"{count} of {len(items)} items cannot be drawn without repeating one")
        moved: dict[int, int] = {}  # place to the index that was swapped to it: a range of millions is never a list
        drawn = []
        for index in range(count):
            other = index + self.below(len(items) - index)
            drawn.append(items[moved.get(other, other)])
            moved[other] = moved.get(index, index)
        return drawn

    def shuffled(self, items: Sequence[T]) -> list[T]:
        """Give all items in random order."""
        return self.sample(items, len(items))


def unseen(draws: Iterable[T], seen: set[T]) -> T:
    """Give the first of some draws that was not given before, else the last, and remember it: no question twice."""
    for one in draws:
        if one not in seen:
            break
    seen.add(one)
    return one


def hash_order(name: str, *path: object) -> str:
    """Give a sort key that puts names in a random but lasting order: adding a name leaves the others' order alone."""
    return hashlib.sha256("\0".join([*map(str, path), name]).encode()).hexdigest()
