"""What a loaded model shows of itself: modules, kernels, bits and bytes, counted tensor by tensor.

`get_memory_footprint()` is never asked: it is wrong for several methods. Knows tensors and modules of any library by
what they hold, not by a list of class names; does not know what the config asked for.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from harness.errors import ModelError
from harness.models.formats import Header

__all__ = [
    "QuantizationAudit",
    "audit_files",
    "audit_gguf",
    "audit_model",
    "first_line",
    "linear_modules",
    "matrix_sizes",
    "run_once",
    "weight_bytes",
]

_STATE_KEEPERS = frozenset({"QuantState", "MatmulLtState"})  # bitsandbytes keeps scales in these, outside of parameters
_DISK_QUANTIZED = frozenset({"I8", "U8", "I32", "U32", "F8_E4M3", "F8_E5M2", "I4", "U4"})
_GGUF_PLAIN = frozenset({"F64", "F32", "F16", "BF16"})


@dataclass(frozen=True, slots=True)
class QuantizationAudit:
    """The linear modules of a model and how many are quantized."""

    linear: int
    """Modules that multiply by a weight matrix, the head included."""
    quantized: int
    """Those whose weights are stored in integers or 8-bit floats."""
    kernel: str
    """The class that does most of the work, with the class of its weight where that is a quantized tensor."""
    bits: float
    """Stored bits per weight of the quantized modules, scales and zeros included; of all where none is quantized."""
    share: float
    """Share of the weights in matrices that is quantized: linear modules and experts, without embeddings and head."""


def audit_model(model: Any) -> QuantizationAudit:
    """Count the linear modules of a model, and what the quantized ones store."""
    linear = dict(linear_modules(model))
    quantized = {name: module for name, module in linear.items() if _is_quantized(module)}
    counted = quantized or linear
    weights = sum(_weights(module) for module in counted.values())
    stored = sum(_stored_bytes(module) for module in counted.values())
    kernels = Counter(_kernel(module) for module in counted.values())
    body = [module for module in quantized.values() if module is not model.get_output_embeddings()]
    inside, elsewhere = sum(map(_weights, body)), _matrices(model, set(map(id, quantized.values())))
    codes = sum(_parameters(tensor) for tensor in elsewhere if _is_code(tensor.dtype))  # experts that are quantized
    whole = inside + sum(map(_parameters, elsewhere))
    return QuantizationAudit(
        linear=len(linear),
        quantized=len(quantized),
        kernel=kernels.most_common(1)[0][0] if kernels else "",
        bits=8 * stored / weights if weights else 0.0,
        share=(inside + codes) / whole if whole else 0.0,
    )


def linear_modules(model: Any) -> Iterator[tuple[str, Any]]:
    """Give the modules that multiply by a matrix, with their names."""
    for name, module in model.named_modules():
        if not any(module.children()) and matrix_sizes(module) and any(True for _ in _tensors(module)):
            yield name, module


def matrix_sizes(module: Any) -> tuple[int, int] | None:
    """Give the inputs and outputs of a module that multiplies by a matrix, None for any other."""
    sizes = getattr(module, "in_features", None), getattr(module, "out_features", None)
    if type(module).__name__ == "Conv1D":  # GPT-2's linear layer, stored transposed
        sizes = getattr(module, "nx", None), getattr(module, "nf", None)
    if isinstance(sizes[0], int) and isinstance(sizes[1], int):
        return sizes[0], sizes[1]
    return None


def _weights(module: Any) -> int:
    inputs, outputs = matrix_sizes(module) or (0, 0)
    return inputs * outputs


def _kernel(module: Any) -> str:
    name = type(module).__name__
    weight = getattr(module, "weight", None)
    if weight is not None and hasattr(weight, "__tensor_flatten__"):
        return f"{name}[{type(weight).__name__}]"
    return name


def _is_quantized(module: Any) -> bool:
    """Whether a module's weights lie in integers or 8-bit floats: at least one bit per weight of it."""
    if getattr(getattr(module, "weight", None), "quant_state", None) is not None:
        return True  # bitsandbytes, whose 4-bit codes may lie in a tensor of any dtype
    small = sum(_bytes(tensor) for tensor in _unique(_tensors(module)) if _is_code(tensor.dtype))
    return 8 * small >= _weights(module) > 0


def _is_code(dtype: torch.dtype) -> bool:
    return dtype != torch.bool and not dtype.is_complex and (not dtype.is_floating_point or dtype.itemsize == 1)


def _stored_bytes(module: Any) -> int:
    """Bytes of a module's weights with their scales and zeros; the bias stays out."""
    bias = getattr(module, "bias", None)
    return sum(_bytes(tensor) for tensor in _unique(_tensors(module)) if tensor is not bias)


def _tensors(module: Any) -> Iterator[torch.Tensor]:
    """All tensors that a module itself holds: parameters, buffers, and what libraries hang beside them."""
    for held in (module._parameters, module._buffers):  # noqa: SLF001 - one module's own, without its children's
        for tensor in held.values():
            if tensor is not None:
                yield from _leaves(tensor)
                yield from _inside(vars(tensor))
    for name, value in vars(module).items():
        if name not in {"_parameters", "_buffers", "_modules"}:
            yield from _inside(value)


def _inside(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield from _leaves(value)
    elif isinstance(value, Mapping):
        for entry in value.values():
            yield from _inside(entry)
    elif isinstance(value, (list, tuple)):
        for entry in value:
            yield from _inside(entry)
    elif type(value).__name__ in _STATE_KEEPERS:
        yield from _inside(vars(value))


def _leaves(tensor: torch.Tensor) -> Iterator[torch.Tensor]:
    """The plain tensors of which a tensor subclass is made."""
    if hasattr(tensor, "__tensor_flatten__"):
        for name in tensor.__tensor_flatten__()[0]:
            yield from _leaves(getattr(tensor, name))
    else:
        yield tensor


def _bytes(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _unique(tensors: Iterable[torch.Tensor]) -> Iterator[torch.Tensor]:
    seen: set[tuple[str, int, int]] = set()
    for tensor in tensors:
        key = (str(tensor.device), tensor.data_ptr(), _bytes(tensor))
        if key not in seen:
            seen.add(key)
            yield tensor


def weight_bytes(model: Any) -> int:
    """Bytes of all that a model holds, tied weights once."""
    return sum(_bytes(tensor) for tensor in _unique(t for module in model.modules() for t in _tensors(module)))


def _matrices(model: Any, without: set[int]) -> list[torch.Tensor]:
    """The parameters of two and more dimensions, those of experts too; embeddings and head stay out."""
    out = {id(one) for one in model.modules() if isinstance(one, torch.nn.Embedding)} | without
    out.add(id(model.get_output_embeddings()))
    found = (_parameters_of(module) for module in model.modules() if id(module) not in out)
    return list(_unique(tensor for held in found for tensor in held if tensor.ndim > 1))


def _parameters_of(module: Any) -> Iterator[torch.Tensor]:
    for parameter in module.parameters(recurse=False):
        yield from _leaves(parameter)


def _parameters(tensor: torch.Tensor) -> int:
    """Weights in a tensor: bytes without a sign hold two of 4 bits."""
    return tensor.numel() * (2 if tensor.dtype == torch.uint8 else 1)


def audit_files(model: Any, tensors: Mapping[str, Header]) -> QuantizationAudit:
    """`audit_model` of a model that was decompressed while loading, from the headers of its files.

    A module counts as quantized where a tensor under its name is stored in integers or 8-bit floats.
    """
    by_module: dict[str, list[Header]] = {}
    for name, header in tensors.items():
        module_name, _, own = name.rpartition(".")
        if own != "bias":
            by_module.setdefault(module_name, []).append(header)
    linear = {name: _weights(module) for name, module in linear_modules(model)}
    quantized = {
        name: weights
        for name, weights in linear.items()
        if any(header.dtype in _DISK_QUANTIZED and 8 * header.size >= weights for header in by_module.get(name, ()))
    }
    stored = sum(header.size for name in quantized for header in by_module[name])
    others = (held for name, held in by_module.items() if name not in linear)  # experts that are put together
    more = sum(one.size for held in others if any(two.dtype in _DISK_QUANTIZED for two in held) for one in held)
    weights = sum(quantized.values())
    return _decompressed(model, len(linear), len(quantized), weights, stored, more * weights // max(stored, 1))


def audit_gguf(model: Any, file: Path) -> QuantizationAudit:
    """`audit_model` of a model that was read from a GGUF file and decompressed."""
    from gguf import GGUFReader

    quantized = weights = stored = 0
    for tensor in GGUFReader(str(file)).tensors:
        matrix = len(tensor.shape) > 1 and not tensor.name.startswith("token_embd")
        if matrix and tensor.tensor_type.name not in _GGUF_PLAIN:
            quantized += 1
            weights += int(tensor.n_elements)
            stored += int(tensor.n_bytes)
    return _decompressed(model, len(dict(linear_modules(model))), quantized, weights, stored)


def _decompressed(
    model: Any, linear: int, quantized: int, weights: int, stored: int, more: int = 0
) -> QuantizationAudit:
    """`more`: quantized weights that lie in no linear module."""
    whole = sum(map(_parameters, _matrices(model, set())))
    return QuantizationAudit(
        linear=linear,
        quantized=quantized,
        kernel="Linear (decompressed)",
        bits=8 * stored / weights if weights else 0.0,
        share=min(1.0, (weights + more) / whole) if whole else 0.0,
    )


def run_once(model: Any, what: str) -> tuple[str, int]:
    """Ask a model for the answer to one token; give the dtype that it computed in and the rows of its head.

    The dtype is that of the activations that enter its linear modules, as seen. Raises `ModelError` where the model
    cannot run or its answer is not finite: better now than hours into a run.
    """
    seen: set[str] = set()

    def look(_module: Any, arguments: tuple[Any, ...]) -> None:
        if arguments and isinstance(arguments[0], torch.Tensor) and arguments[0].is_floating_point():
            seen.add(str(arguments[0].dtype).removeprefix("torch."))

    hooks = [module.register_forward_pre_hook(look) for _, module in linear_modules(model)]
    try:
        with torch.no_grad():
            token = torch.ones((1, 1), dtype=torch.long, device=model.device)
            logits = model(input_ids=token, use_cache=False).logits
    except (
        RuntimeError,
        ValueError,
        TypeError,
        AssertionError,
        AttributeError,
        LookupError,
        ImportError,
        OSError,
    ) as error:
        raise ModelError(f"{what}: loaded, but cannot answer: {first_line(error)}") from error
    finally:
        for hook in hooks:
            hook.remove()
    if not bool(torch.isfinite(logits).all()):
        raise ModelError(f"{what}: answers NaN or infinity to a single token; its weights are damaged")
    return "+".join(sorted(seen)), int(logits.shape[-1])


def first_line(error: BaseException) -> str:
    """Return the first line of what an exception says, or its class."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]
