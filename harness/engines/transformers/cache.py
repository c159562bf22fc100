"""Preallocated caches in which answers grow a token a step: a row is an answer, or a text with its tree of answers."""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

from harness.engines.transformers.attention import first_keys
from harness.engines.transformers.model import LanguageModel
from harness.engines.transformers.packing import PackedTree, out_of_memory

ROUNDED_TO = 32  # tokens: the width that a step attends to grows by this many at a time
ROUNDED_ELSEWHERE = 256  # the same if widths are to be few: at least so many, and at least a sixteenth of the width
Integers = NDArray[np.int64]
Finish = Callable[[Tensor, Tensor], Tensor]
"""What a step returns, of the last hidden states [n, width] and the integers [n, any] that came with them."""


class Graph:
    """The kernels of a call, captured to be launched again at once."""

    def __init__(self, run: Callable[[], Tensor], device: torch.device, pool: Any = None) -> None:
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.device(device):
            stream = torch.cuda.current_stream()
            try:
                with torch.cuda.graph(self._graph, pool, capture_error_mode="thread_local"):
                    self._out = run()
            finally:
                torch.cuda.set_stream(stream)  # which a capture that fails does not
        self.pool = self._graph.pool()

    def replay(self) -> Tensor:
        """Launch the kernels: the tensor that the call returned, with new content."""
        self._graph.replay()
        return self._out


@dataclass(slots=True, eq=False)
class _Buffers:
    """The inputs of the steps of one key, which are views of one tensor, and how these are run."""

    packed: Tensor
    inputs: list[Tensor]
    steps: int = 0
    graph: Graph | None = None
    checked: bool = False


class StaticStep:
    """Runs a function `compute(width, *inputs)`, always the same one, that takes its tensors from the same addresses.

    All integers that change from step to step are inputs, in buffers that keep their address; those that a kernel is
    launched with (the width, the shapes) are the step's key. On CUDA devices the first step of a key is run eagerly,
    the second is captured too, the third is replayed and held to an eager run of its inputs, and all later ones are
    replayed. Running it twice with the same inputs must change nothing. Its result is valid until the next call.
    """

    def __init__(self, model: LanguageModel) -> None:
        self._model = model
        self._buffers: dict[Any, _Buffers] = {}
        self._pool: Any = None

    def __call__(self, compute: Callable[..., Tensor], width: int, *values: Integers) -> Tensor:
        """Run a step with these inputs."""
        key = (width, *(one.shape for one in values))
        if key not in self._buffers:
            sizes = [one.size for one in values]
            packed = torch.empty(sum(sizes), dtype=torch.long, device=self._model.device)
            parts = zip(torch.split(packed, sizes), values, strict=True)
            self._buffers[key] = _Buffers(packed, [part.view(one.shape) for part, one in parts])
        mine = self._buffers[key]
        mine.packed.copy_(torch.from_numpy(np.concatenate([one.ravel() for one in values])))
        with torch.inference_mode():
            return self._run(mine, lambda: compute(width, *mine.inputs))

    def _run(self, mine: _Buffers, run: Callable[[], Tensor]) -> Tensor:
        mine.steps += 1
        if not self._model.graphs or mine.steps == 1:
            return run()
        if mine.graph is None:
            out = run()
            try:
                mine.graph = Graph(run, self._model.device, self._pool)
                self._pool = mine.graph.pool
            except RuntimeError as error:
                if out_of_memory(error):
                    raise
                why = str(error).partition("\n")[0]
                self._model.give_up_graphs(f"the decode step could not be captured ({why})")
            return out
        found = mine.graph.replay()
        if mine.checked:
            return found
        mine.checked, found = True, found.clone()
        wanted = run()
        if not torch.equal(found, wanted):
            self._model.give_up_graphs("a graph gave another result than its kernels launched one by one")
        return wanted


@dataclass(slots=True, eq=False)
class _Step:
    """Where the current step writes, and the width that it attends to."""

    rows: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.long))
    columns: Tensor = field(default_factory=lambda: torch.empty((0, 1), dtype=torch.long))
    width: int = 0


class _Layer(DynamicLayer):  # type: ignore[misc]  # transformers' classes come untyped
    """Keys and values of all rows in one layer."""

    def __init__(self, like: Any, rows: int, capacity: int, step: _Step) -> None:
        super().__init__()
        self.dtype, self.device = like.keys.dtype, like.keys.device
        held = (like.keys, like.values)
        self.keys, self.values = (one.new_zeros((rows, one.shape[1], capacity, one.shape[3])) for one in held)
        self.is_initialized, self._step = True, step

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Write the tokens of each active row, and return what the step attends to."""
        step, active = self._step, len(self._step.rows)
        rows, columns = step.rows.to(self.device)[:, None], step.columns.to(self.device)
        self.keys[rows, :, columns] = key_states.transpose(1, 2)
        self.values[rows, :, columns] = value_states.transpose(1, 2)
        return self.keys[:active, :, : step.width], self.values[:active, :, : step.width]

    def get_seq_length(self, *_: Any) -> int:
        """Return the width that the step attends to."""
        return self._step.width


class KVCachePool:
    """Rows of up to `capacity` tokens, of which the first `used` are taken.

    If shapes are to be few, a step also computes unused rows, whose one token at position 0 the next prompt overwrites.
    """

    def __init__(self, model: LanguageModel, rows: int, capacity: int, finish: Finish | None = None) -> None:
        self.model, self.rows, self.used = model, rows, 0
        self.capacity = self._rounded_up(capacity)
        self.finish: Finish = finish or (lambda hidden, _: hidden)
        self._step, self._static = _Step(), StaticStep(model)
        self._cache: Cache | None = None

    def copy_prompt(self, cache: Any, row: int, path: Integers) -> int:
        """Copy what a prefill read, the columns `path` of one of its rows, into the next row, and return its index."""
        mine = self.used
        with torch.inference_mode():
            if self._cache is None:
                layers = [_Layer(layer, self.rows, self.capacity, self._step) for layer in cache.layers]
                self._cache = Cache(layers=layers)
            known = self.model.tensor(path)
            for own, other in zip(self._cache.layers, cache.layers, strict=True):
                columns = known.to(own.device)
                own.keys[mine, :, : len(path)] = other.keys[row].index_select(1, columns)
                own.values[mine, :, : len(path)] = other.values[row].index_select(1, columns)
        self.used += 1
        return mine

    def drop(self, row: int) -> None:
        """End a row: the last row takes its place."""
        self.used -= 1
        if row == self.used or self._cache is None:
            return
        with torch.inference_mode():
            for layer in self._cache.layers:
                layer.keys[row], layer.values[row] = layer.keys[self.used], layer.values[self.used]

    def forward(self, ids: Tensor, visible: Tensor, positions: Tensor, keys: Tensor, columns: Tensor) -> Tensor:
        """Read tokens [rows, tokens] of the rows in use: final hidden states [rows, tokens, width].

        visible [rows, tokens, keys] and the positions of the keys [rows, keys] say what the step attends to.
        """
        step = self._step
        step.rows = torch.arange(len(ids), device=self.model.device)
        step.columns, step.width = columns, visible.shape[-1]
        mask = self.model.attention(visible[:, None], positions, keys)
        return self.model.forward(ids, mask=mask, positions=positions, cache=self._cache)

    def padded_width(self, width: int) -> int:
        """Return the width that a step attends to for this many tokens."""
        return min(self.capacity, self._rounded_up(width))

    def _rounded_up(self, width: int) -> int:
        to = max(ROUNDED_ELSEWHERE, (1 << width.bit_length()) // 32) if self.model.few_shapes else ROUNDED_TO
        return -(-width // to) * to

    def padded_rows(self, rows: int) -> int:
        """Return the number of rows that a step computes for so many in use."""
        if not self.model.few_shapes:
            return rows
        return min(self.rows, 1 << (max(rows, self.rows // 16) - 1).bit_length())


def _filled(values: ArrayLike, rows: int) -> Integers:
    """Return integers as [rows, ...], with zeros for the rows that are missing."""
    given = np.asarray(values, dtype=np.int64)
    out = np.zeros((rows, *given.shape[1:]), dtype=np.int64)
    out[: len(given)] = given
    return out


class SlotCache(KVCachePool):
    """A cache for answers of up to `capacity` tokens, prompt included, each in its own row."""

    def step(self, tokens: list[int], lengths: list[int], keys: ArrayLike | None = None) -> Tensor:
        """Read a token of each row on top of its first `lengths`; `finish` takes the states and keys [rows, any]."""
        used, rows = len(tokens), self.padded_rows(len(tokens))
        given = (tokens, lengths, np.empty((used, 0)) if keys is None else keys)
        width = self.padded_width(max(lengths) + 1)
        return self._static(self._compute, width, *(_filled(values, rows) for values in given))[:used]

    def _compute(self, width: int, ids: Tensor, lengths: Tensor, keys: Tensor) -> Tensor:
        columns, places = lengths[:, None], torch.arange(width, device=self.model.device)[None]
        with first_keys(lengths + 1) if self.model.window is None else contextlib.nullcontext():
            hidden = self.forward(ids[:, None], (places <= columns)[:, None], columns, places, columns)
        return self.finish(hidden[:, -1], keys)


@dataclass(slots=True, eq=False)
class _Tree:
    """What a row holds."""

    filled: int  # tokens so far, those of ended branches included
    paths: tuple[Tensor, ...]  # for each branch, the columns of its prompt (and draft) in the row
    known: list[int]  # for each branch, how many of its first tokens it sees


class PrefixTreeCache(KVCachePool):
    """A cache for texts of up to `capacity` tokens, all answers included, each with up to `branches` answers."""

    def __init__(self, model: LanguageModel, rows: int, branches: int, size: int, finish: Finish | None = None) -> None:
        super().__init__(model, rows, size, finish)
        self._branches = branches
        self._visible = torch.zeros((rows, branches, self.capacity), dtype=torch.bool, device=model.device)
        self._positions = torch.zeros((rows, self.capacity), dtype=torch.long, device=model.device)
        self._trees: list[_Tree] = []

    def insert(self, cache: Any, row: int, packed: PackedTree) -> None:
        """Copy a tree that a prefill read as one row into the next row."""
        size = len(packed.tokens)
        mine = self.copy_prompt(cache, row, np.arange(size))
        self._visible[mine], self._positions[mine, :size] = False, self.model.tensor(packed.positions)
        paths = tuple(self.model.tensor(path) for path in packed.paths)
        self._trees.append(_Tree(size, paths, [0] * len(paths)))

    def drop(self, row: int) -> None:
        """End a row: the last row takes its place."""
        super().drop(row)
        for table in (self._visible, self._positions):
            table[row] = table[self.used]
        self._trees[row] = self._trees[-1]
        self._trees.pop()

    def step(self, tokens: list[list[int | None]], lengths: list[list[int]], keys: ArrayLike, pad: int) -> list[int]:
        """Read one token of each branch, on top of its first `lengths` tokens: what `finish` makes of the states.

        tokens [rows, branches of the row], None if a branch has ended: it has no keys, and nothing in the result.
        """
        rows, growing = self.padded_rows(self.used), []
        ids = np.full((rows, self._branches), pad, dtype=np.int64)
        positions = np.zeros_like(ids)
        for row, (mine, reach) in enumerate(zip(tokens, lengths, strict=True)):
            for branch, (token, length) in enumerate(zip(mine, reach, strict=True)):
                if token is not None:
                    ids[row, branch], positions[row, branch] = token, length
                    tree = self._trees[row]
                    if length > tree.known[branch]:  # it sees those that came with the prompt (or draft)
                        self._visible[row, branch, tree.paths[branch][tree.known[branch] : length]] = True
                    tree.known[branch] = length + 1
                    growing.append(row * self._branches + branch)
        filled = _filled([tree.filled for tree in self._trees], rows)
        for tree in self._trees:
            tree.filled += self._branches
        width = self.padded_width(max(tree.filled for tree in self._trees))
        given = np.zeros((ids.size, *np.shape(keys)[1:]), dtype=np.int64)
        given[growing] = keys
        chosen = np.arange(ids.size) if self.model.few_shapes else np.asarray(growing)
        found = self._static(self._compute, width, ids, positions, filled, chosen, given[chosen]).tolist()
        return [found[at] for at in growing] if self.model.few_shapes else found

    def _compute(self, width: int, ids: Tensor, here: Tensor, filled: Tensor, chosen: Tensor, keys: Tensor) -> Tensor:
        rows, columns = len(ids), filled[:, None] + torch.arange(self._branches, device=self.model.device)
        self._visible[:rows].scatter_(2, columns[:, :, None], True)  # noqa: FBT003  # a branch sees its own token
        self._positions[:rows].scatter_(1, columns, here)
        visible, places = self._visible[:rows, :, :width], self._positions[:rows, :width]
        return self.finish(self.forward(ids, visible, here, places, columns).flatten(0, 1)[chosen], keys)
