"""Whether a loaded model answers as it did before it was saved, module by module.

Reads the record that `harness.models.checkpoints_worker` makes of a quantized model in memory.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch

from harness.models.audit import linear_modules

__all__ = ["compare_answers"]

_ROUNDING = 2.0**-9
"""Relative rounding of a bfloat16 number."""
_MODULE_ROUNDINGS = 3
"""Roundings in a linear module: of the scales, of the weights they give, and of the answer."""
_LAYER_ROUNDINGS = 12
"""Roundings one after another in a layer: two norms, four matrices, attention, activation, product, residuals."""
_MARGIN = 4
"""Roundings are not quite independent: so many times their expected size is allowed."""


def compare_answers(model: Any, recorded: Path) -> str:
    """Say which module of `model` answers differently from the record, and by how much; empty if none does.

    A recorded module that the model does not have is a difference too. A module is given the input that it received
    before saving, so an error in one is not seen in the next ones. The logits also depend on what is in no linear
    module: embeddings and norms.
    """
    from safetensors.torch import load_file

    tensors = load_file(recorded)
    modules = dict(linear_modules(model))
    names = [key.removesuffix(":in") for key in tensors if key.endswith(":in")]
    if absent := [name for name in names if name not in modules]:
        return f"{absent[0]} is not there any more"
    with torch.no_grad():
        for name in names:
            output = modules[name](tensors[f"{name}:in"].to(model.device, model.dtype))
            if found := _difference(name, output, tensors[f"{name}:out"], _MODULE_ROUNDINGS):
                return found
        logits = model(tensors["tokens"].to(model.device), use_cache=False).logits
    layers = model.config.get_text_config().num_hidden_layers
    return _difference("the model's logits", logits, tensors["logits"], _LAYER_ROUNDINGS * layers)


def _difference(what: str, answer: torch.Tensor, expected: torch.Tensor, roundings: int) -> str:
    """Compare by the norm of the difference; both sides round, so their errors add up as squares."""
    expected = expected.float()
    distance = float((answer.cpu().float() - expected).norm() / expected.norm().clamp(min=1e-9))
    bound = _MARGIN * _ROUNDING * math.sqrt(2 * roundings)
    if distance <= bound:
        return ""
    return f"{what} is {distance:.3g} away from what it was before saving; rounding explains {bound:.2g} at most"
