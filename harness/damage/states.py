"""What layers gave when a prompt was last read, so that only the layers from the first changed one on run again.

Knows the decoder layers of a transformers model and its cache of keys and values. Does not know what was changed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

__all__ = ["LayerStates"]


class LayerStates:
    """Keeps the output, keys and values of every layer for every prompt that is read from its beginning.

    The same requests are read in the same passes, so a pass is known by its tokens and positions. `limit` is the most
    bytes that are kept; passes beyond it run whole.
    """

    def __init__(self, body: torch.nn.Module, layers: torch.nn.ModuleList, limit: int) -> None:
        self._kept: dict[tuple[bytes, int], tuple[Any, Any, Any]] = {}
        self._left = self._limit = limit
        self._pass: bytes | None = None
        self.first_changed = 0
        """The first layer that differs from those that were recorded; those before it are not run."""
        self.recording = False
        """Whether what is run now is kept."""
        self.skipped = 0
        """Layers that were not run."""
        body.register_forward_pre_hook(self._begin, with_kwargs=True)
        for index, layer in enumerate(layers):
            layer.forward = self._wrapped(index, layer.forward)

    def forget(self) -> None:
        """Drop everything that is kept."""
        self._kept.clear()
        self._left = self._limit

    def _begin(self, _module: Any, _arguments: tuple[Any, ...], given: dict[str, Any]) -> None:
        """Name the pass that begins; one that continues an earlier one has no name."""
        ids, past = given["input_ids"], given.get("past_key_values")
        fresh = past is None or past.get_seq_length() == 0
        self._pass = None
        if fresh and ids.shape[1] > 1:
            positions = given.get("position_ids")
            parts = [ids] if positions is None else [ids, positions]
            self._pass = b"".join(repr(tuple(one.shape)).encode() + one.cpu().numpy().tobytes() for one in parts)

    def _wrapped(self, index: int, forward: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any, **given: Any) -> Any:
            past = given.get("past_key_values")
            key = None if self._pass is None else (self._pass, index)
            kept = self._kept.get(key) if key is not None and index < self.first_changed else None
            if kept is not None and (past is None or kept[1] is not None):
                self.skipped += 1
                if past is not None:
                    past.update(kept[1], kept[2], index)
                return kept[0]
            out = forward(*arguments, **given)
            if key is not None and self.recording:
                self._keep(key, out, past, index)
            return out

        return run

    def _keep(self, key: tuple[bytes, int], out: Any, past: Any, index: int) -> None:
        layer = None if past is None else past.layers[index]
        entry = (out, None, None) if layer is None else (out, layer.keys, layer.values)
        size = sum(one.numel() * one.element_size() for one in entry if isinstance(one, torch.Tensor))
        if size <= self._left:
            self._kept[key] = entry
            self._left -= size
