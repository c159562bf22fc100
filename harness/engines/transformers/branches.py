"""Answers that grow on one copy of the text that they share: a row for each text, a branch for each answer.

A long text that many questions are asked about fills a cache once, not once a question. A row holds the tree in which
the text and its questions were read, and behind it, step after step, one token of every branch. What a token may look
at is kept as a table: its own path through the tree, and what its branch has written. Does not know requests.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from harness.engines.transformers.model import LanguageModel
from harness.engines.transformers.packing import Packed
from harness.engines.transformers.slots import Room

__all__ = ["Branches"]


@dataclass(slots=True, eq=False)
class _Tree:
    """What a row holds."""

    filled: int
    """Tokens so far, those of ended branches included."""
    paths: tuple[Tensor, ...]
    """For each branch, the places of its prompt (and draft) in the row."""
    known: list[int]
    """For each branch, how many of its first tokens it sees."""


class Branches(Room):
    """Room for texts of up to `capacity` tokens, all answers included, each with up to `branches` answers."""

    def __init__(self, model: LanguageModel, rows: int, branches: int, capacity: int) -> None:
        super().__init__(model, rows, capacity)
        self._branches = branches
        self._visible = torch.zeros((rows, branches, capacity), dtype=torch.bool, device=model.device)
        self._positions = torch.zeros((rows, capacity), dtype=torch.long, device=model.device)
        self._trees: list[_Tree] = []

    def insert(self, cache: Any, row: int, packed: Packed) -> None:
        """Put a tree that was read elsewhere, as a row of its cache, into the next row."""
        size = len(packed.tokens)
        mine = self.take(cache, row, np.arange(size))
        self._visible[mine] = False
        self._positions[mine, :size] = self.model.tensor(packed.positions)
        paths = tuple(self.model.tensor(path) for path in packed.paths)
        self._trees.append(_Tree(size, paths, [0] * len(paths)))

    def drop(self, row: int) -> None:
        """End a row: the last row takes its place."""
        super().drop(row)
        for table in (self._visible, self._positions):
            table[row] = table[self.used]
        self._trees[row] = self._trees[-1]
        self._trees.pop()

    def step(self, tokens: Sequence[Sequence[int | None]], lengths: Sequence[Sequence[int]], pad: int) -> Tensor:
        """Read one token of each branch, on top of its first `lengths` tokens: hidden states [rows, branches, width].

        tokens [rows, branches of the row], None where a branch has ended: what comes out there means nothing.
        """
        ids = torch.full((self.used, self._branches), pad, dtype=torch.long)
        positions = torch.zeros((self.used, self._branches), dtype=torch.long)
        for row, (mine, reach) in enumerate(zip(tokens, lengths, strict=True)):
            for branch, (token, length) in enumerate(zip(mine, reach, strict=True)):
                if token is not None:
                    ids[row, branch], positions[row, branch] = token, length
                    self._reveal(row, branch, length)
        filled = self.model.tensor([tree.filled for tree in self._trees])
        places = filled[:, None] + torch.arange(self._branches, device=self.model.device)
        rows = torch.arange(self.used, device=self.model.device)[:, None]
        branches = torch.arange(self._branches, device=self.model.device)[None]
        here = self.model.tensor(positions)
        self._visible[rows, branches, places] = True
        self._positions[rows, places] = here
        for tree in self._trees:
            tree.filled += self._branches
        width = self.rounded(max(tree.filled for tree in self._trees))
        visible, keys = self._visible[: self.used, :, :width], self._positions[: self.used, :width]
        return self.forward(self.model.tensor(ids), visible, here, keys, places)

    def _reveal(self, row: int, branch: int, length: int) -> None:
        """Show a branch what its tree holds of its first `length` tokens and it has not written itself."""
        tree = self._trees[row]
        if length > tree.known[branch]:
            self._visible[row, branch, tree.paths[branch][tree.known[branch] : length]] = True
        tree.known[branch] = length + 1
