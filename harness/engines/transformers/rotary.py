"""From which length on a model's positions depend on more than themselves.

Rotary embeddings of some kinds (longrope, dynamic NTK) take other frequencies for all tokens of a pass as soon as the
largest position in it is behind some length: a token's numbers then depend on the tokens that come after it, and on
the other rows. Found by asking the embedding itself, not by its name.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

__all__ = ["length_switch"]

FARTHEST = 1 << 22
"""The largest position that is looked at: no model reads more tokens."""

Embed = Callable[[int], Tensor]


def length_switch(model: Any) -> int:
    """Return the longest sequence, in tokens, in which the first positions are what they are in a short one.

    FARTHEST if that is so at any length. Costs some dozens of calls of each rotary embedding, and none of the model.
    """
    return min((_switch(embed) for embed in _embeddings(model)), default=FARTHEST)


def _embeddings(model: Any) -> Iterator[Embed]:
    """The rotary embeddings of a model, each as a function from a length to what it gives for the first positions."""
    for module in model.modules():
        if not any(name.endswith("inv_freq") for name, _ in module.named_buffers(recurse=False)):
            continue
        takes = inspect.signature(module.forward).parameters
        if "position_ids" not in takes:
            continue
        kinds = set(module.layer_types) if "layer_type" in takes and hasattr(module, "layer_types") else {None}
        for kind in kinds:
            yield functools.partial(_embed, module, {"layer_type": kind} if kind is not None else {})


def _embed(module: Any, more: dict[str, Any], length: int) -> Tensor:
    device = next(module.buffers()).device
    positions = torch.tensor([[0, 1, 2, 3, max(3, length - 1)]], device=device)
    with torch.inference_mode(mode=False), torch.no_grad():
        found = module(torch.ones(1, 5, 1, device=device), position_ids=positions, **more)
    first = found[0] if isinstance(found, tuple) else found
    return torch.view_as_real(first)[:, :4] if first.is_complex() else first[:, :4]


def _switch(embed: Embed) -> int:
    """Find the length by halving; the last call is a short one, so that nothing of the search is kept."""
    short = embed(4).clone()
    low, high = 4, FARTHEST
    if torch.equal(embed(high), short):
        low = high
    while high - low > 1:
        middle = (low + high) // 2
        embed(4)
        low, high = (middle, high) if torch.equal(embed(middle), short) else (low, middle)
    embed(4)
    return low
