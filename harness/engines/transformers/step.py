"""A decode step of fixed shapes: integers go down in one copy, and CUDA devices replay the step as a graph.

All integers that change from step to step are inputs, in buffers that keep their address; those that a kernel is
launched with (the width, the number of rows) are the step's key. Steps of one key are therefore the same kernels on the
same addresses: the first is run eagerly, the second is captured too, the third is replayed and held to an eager run of
its inputs, and all later ones are replayed. On other devices every step runs eagerly, by the same code. Does not know
what a step computes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from harness.engines.transformers.batches import out_of_memory
from harness.engines.transformers.model import LanguageModel

__all__ = ["Graph", "StaticStep"]

Integers = NDArray[np.int64]
Compute = Callable[..., Tensor]


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
    """The inputs of the steps of one key, and how these are run."""

    packed: Tensor
    inputs: list[Tensor]
    """Views of `packed`."""
    steps: int = 0
    graph: Graph | None = None
    checked: bool = False


class StaticStep:
    """Runs a function `compute(width, *inputs)`, always the same one, that takes its tensors from the same addresses.

    Running it twice with the same inputs must change nothing. Its result is valid until the next call.
    """

    def __init__(self, model: LanguageModel) -> None:
        self._model = model
        self._buffers: dict[Any, _Buffers] = {}
        self._pool: Any = None

    def __call__(self, compute: Compute, width: int, *values: Integers) -> Tensor:
        """Run a step with these inputs."""
        shapes = [one.shape for one in values]
        key = (width, *shapes)
        if key not in self._buffers:
            self._buffers[key] = self._allocated(shapes)
        mine = self._buffers[key]
        mine.packed.copy_(torch.from_numpy(np.concatenate([one.ravel() for one in values])))
        with torch.inference_mode():
            return self._run(mine, lambda: compute(width, *mine.inputs))

    def _allocated(self, shapes: Sequence[tuple[int, ...]]) -> _Buffers:
        sizes = [int(np.prod(shape)) for shape in shapes]
        packed = torch.empty(sum(sizes), dtype=torch.long, device=self._model.device)
        parts = torch.split(packed, sizes)
        return _Buffers(packed, [part.view(shape) for part, shape in zip(parts, shapes, strict=True)])

    def _run(self, mine: _Buffers, run: Callable[[], Tensor]) -> Tensor:
        mine.steps += 1
        if not self._model.graphs or mine.steps == 1:
            return run()
        if mine.graph is None:
            out = run()
            self._capture(mine, run)
            return out
        found = mine.graph.replay()
        if not mine.checked:
            mine.checked, found = True, found.clone()
            wanted = run()
            if not torch.equal(found, wanted):
                self._model.give_up_graphs("a graph gave another result than its kernels launched one by one")
            return wanted
        return found

    def _capture(self, mine: _Buffers, run: Callable[[], Tensor]) -> None:
        try:
            mine.graph = Graph(run, self._model.device, self._pool)
            self._pool = mine.graph.pool
        except RuntimeError as error:
            if out_of_memory(error):
                raise
            self._model.give_up_graphs(f"the decode step could not be captured ({str(error).partition(chr(10))[0]})")
