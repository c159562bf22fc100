"""What a loaded model shows of itself, of any library: modules, kernels, bits and bytes, counted tensor by tensor."""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from harness.errors import ModelError, one_line
from harness.models.formats import Header

_STATE_KEEPERS = frozenset({"QuantState", "MatmulLtState"})  # bitsandbytes keeps scales in these, outside of parameters
_DISK_QUANTIZED = frozenset({"I8", "U8", "I32", "U32", "F8_E4M3", "F8_E5M2", "I4", "U4"})
_GGUF_PLAIN = frozenset({"F64", "F32", "F16", "BF16"})
_CANNOT_RUN = (RuntimeError, ValueError, TypeError, AssertionError, AttributeError, LookupError, ImportError, OSError)


@dataclass(frozen=True, slots=True)
class QuantizationAudit:
    """The linear modules of a model and how many are quantized."""

    linear: int  # modules that multiply by a weight matrix, the head included
    quantized: int  # those whose weights are stored in integers or 8-bit floats
    kernel: str  # the class that does most of the work, with the class of its weight where that is a quantized tensor
    bits: float  # stored per weight of the quantized modules, scales and zeros included; of all if none is quantized
    share: float  # of the weights in matrices, linear modules and experts without embeddings and head, quantized


def audit_model(model: Any) -> QuantizationAudit:
    """Count the linear modules of a model, and what the quantized ones store."""
    linear = [module for _, module in linear_modules(model)]
    quantized = [module for module in linear if _is_quantized(module)]
    counted = quantized or linear
    weights = sum(map(_weights, counted))
    held = ((module, tensor) for module in counted for tensor in _unique(_tensors(module)))  # scales and zeros too
    stored = sum(tensor.nbytes for module, tensor in held if tensor is not getattr(module, "bias", None))
    kernels = Counter(map(_kernel, counted))
    inside = sum(_weights(module) for module in quantized if module is not model.get_output_embeddings())
    elsewhere = _matrices(model, frozenset(map(id, quantized)))
    codes = sum(_parameters(tensor) for tensor in elsewhere if _is_code(tensor.dtype))  # experts that are quantized
    whole, kernel = inside + sum(map(_parameters, elsewhere)), kernels.most_common(1)[0][0] if kernels else ""
    bits, share = 8 * stored / weights if weights else 0.0, (inside + codes) / whole if whole else 0.0
    return QuantizationAudit(len(linear), len(quantized), kernel, bits, share)


def linear_modules(model: Any) -> Iterator[tuple[str, Any]]:
    """Give the modules that multiply by a matrix, with their names."""
    for name, module in model.named_modules():
        if _weights(module) and not any(module.children()) and any(True for _ in _tensors(module)):
            yield name, module


def matrix_sizes(module: Any) -> tuple[int, int]:
    """Give the inputs and outputs of a module that multiplies by a matrix; zeros for any other."""
    is_conv1d = type(module).__name__ == "Conv1D"  # GPT-2's linear layer, stored transposed
    names = ("nx", "nf") if is_conv1d else ("in_features", "out_features")
    inputs, outputs = (getattr(module, name, None) for name in names)
    return (inputs, outputs) if isinstance(inputs, int) and isinstance(outputs, int) else (0, 0)


def _weights(module: Any) -> int:
    return math.prod(matrix_sizes(module))


def _kernel(module: Any) -> str:
    name, weight = type(module).__name__, getattr(module, "weight", None)
    return f"{name}[{type(weight).__name__}]" if hasattr(weight, "__tensor_flatten__") else name


def _is_quantized(module: Any) -> bool:
    """Whether a module's weights lie in integers or 8-bit floats: at least one bit per weight of it."""
    if getattr(getattr(module, "weight", None), "quant_state", None) is not None:
        return True  # bitsandbytes, whose 4-bit codes may lie in a tensor of any dtype
    small = sum(tensor.nbytes for tensor in _unique(_tensors(module)) if _is_code(tensor.dtype))
    return 8 * small >= _weights(module) > 0


def _is_code(dtype: torch.dtype) -> bool:
    return dtype != torch.bool and not dtype.is_complex and (not dtype.is_floating_point or dtype.itemsize == 1)


def _tensors(module: Any) -> Iterator[torch.Tensor]:
    """All tensors that a module itself holds: parameters, buffers, and what libraries hang beside them."""
    held = vars(module)
    for tensor in (*held["_parameters"].values(), *held["_buffers"].values()):
        if tensor is not None:
            yield from leaves(tensor)
            yield from _inside(vars(tensor))
    yield from _inside([value for name, value in held.items() if name not in {"_parameters", "_buffers", "_modules"}])


def _inside(value: Any) -> Iterator[torch.Tensor]:
    if type(value).__name__ in _STATE_KEEPERS:
        value = vars(value)
    if isinstance(value, torch.Tensor):
        yield from leaves(value)
    elif isinstance(value, (Mapping, list, tuple)):
        for entry in value.values() if isinstance(value, Mapping) else value:
            yield from _inside(entry)


def leaves(tensor: torch.Tensor) -> Iterator[torch.Tensor]:
    """Yield the plain tensors of which a tensor is made: itself, or a quantized one's codes and scales."""
    if hasattr(tensor, "__tensor_flatten__"):
        for name in tensor.__tensor_flatten__()[0]:
            yield from leaves(getattr(tensor, name))
    else:
        yield tensor


def _unique(tensors: Iterable[torch.Tensor]) -> Iterable[torch.Tensor]:
    found: dict[tuple[str, int, int], torch.Tensor] = {}
    for tensor in tensors:
        found.setdefault((str(tensor.device), tensor.data_ptr(), tensor.nbytes), tensor)
    return found.values()


def weight_bytes(model: Any) -> int:
    """Bytes of all that a model holds, tied weights once."""
    return sum(tensor.nbytes for tensor in _unique(t for module in model.modules() for t in _tensors(module)))


def _matrices(model: Any, without: frozenset[int] = frozenset()) -> list[torch.Tensor]:
    """The parameters of two and more dimensions, those of experts too; embeddings and head stay out."""
    out = {*without, id(model.get_output_embeddings())}
    modules = (one for one in model.modules() if id(one) not in out and not isinstance(one, torch.nn.Embedding))
    found = (leaf for one in modules for parameter in one.parameters(recurse=False) for leaf in leaves(parameter))
    return [tensor for tensor in _unique(found) if tensor.ndim > 1]


def _parameters(tensor: torch.Tensor) -> int:
    """Weights in a tensor: bytes without a sign hold two of 4 bits."""
    return tensor.numel() * (2 if tensor.dtype == torch.uint8 else 1)


def audit_files(model: Any, tensors: Mapping[str, Header]) -> QuantizationAudit:
    """`audit_model` of a model that was decompressed while loading, from the headers of its files."""
    by_module: dict[str, list[Header]] = defaultdict(list)
    for name, header in tensors.items():
        module_name, _, own = name.rpartition(".")
        if own != "bias":
            by_module[module_name].append(header)
    linear = {name: _weights(module) for name, module in linear_modules(model)}
    codes = {name: [one for one in held if one.dtype in _DISK_QUANTIZED] for name, held in by_module.items()}
    large = ((name, size) for name, size in linear.items() if any(8 * one.size >= size for one in codes.get(name, ())))
    quantized = dict(large)
    stored = sum(header.size for name in quantized for header in by_module[name])
    others = (held for name, held in by_module.items() if name not in linear)  # experts that are put together
    more = sum(one.size for held in others if any(two.dtype in _DISK_QUANTIZED for two in held) for one in held)
    weights = sum(quantized.values())
    return _decompressed(model, len(quantized), weights, stored, more * weights // max(stored, 1))


def audit_gguf(model: Any, file: Path) -> QuantizationAudit:
    """`audit_model` of a model that was read from a GGUF file and decompressed."""
    from gguf import GGUFReader

    matrices = (one for one in GGUFReader(str(file)).tensors if len(one.shape) > 1)
    inside = (one for one in matrices if not one.name.startswith("token_embd"))
    quantized = [one for one in inside if one.tensor_type.name not in _GGUF_PLAIN]
    weights, stored = (sum(int(getattr(one, name)) for one in quantized) for name in ("n_elements", "n_bytes"))
    return _decompressed(model, len(quantized), weights, stored)


def _decompressed(model: Any, quantized: int, weights: int, stored: int, more: int = 0) -> QuantizationAudit:
    """`more`: quantized weights that lie in no linear module."""
    whole = sum(map(_parameters, _matrices(model)))
    bits, share = 8 * stored / weights if weights else 0.0, min(1.0, (weights + more) / whole) if whole else 0.0
    return QuantizationAudit(len([*linear_modules(model)]), quantized, "Linear (decompressed)", bits, share)


def run_once(model: Any, what: str) -> tuple[str, int]:
    """Ask a model for one answer; give the dtype that enters its linear modules, and its head's rows."""
    seen: set[str] = set()

    def look(_module: Any, arguments: tuple[Any, ...]) -> None:
        if arguments and isinstance(arguments[0], torch.Tensor) and arguments[0].is_floating_point():
            seen.add(str(arguments[0].dtype).removeprefix("torch."))

    hooks = [module.register_forward_pre_hook(look) for _, module in linear_modules(model)]
    try:
        with torch.no_grad():
            tokens = torch.tensor([[1, 2, 3]], device=model.device)  # one alone may be padding, whose vector is 0
            logits = model(input_ids=tokens, use_cache=False).logits
    except _CANNOT_RUN as error:
        raise ModelError(f"{what}: loaded, but cannot answer: {one_line(error)}") from error
    finally:
        for hook in hooks:
            hook.remove()
    if not bool(torch.isfinite(logits).all()) or bool((logits == logits.flatten()[0]).all()):
        raise ModelError(f"{what}: answers NaN, infinity or every token alike to a few tokens; its weights are damaged")
    return "+".join(sorted(seen)), int(logits.shape[-1])
