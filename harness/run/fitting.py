"""Whether every variant fits its device's memory: estimated from the headers of its files before anything loads."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.config.schema import Experiment, Variant
from harness.errors import ConfigError, ModelError, Problem
from harness.models.devices import memory_bytes
from harness.models.formats import Header, headers, stored, weight_files
from harness.records import Item

__all__ = ["cache_bytes", "check_fit", "weight_bytes_of"]

GIB = 2**30
WIDTHS = {"float32": 4, "bfloat16": 2, "float16": 2}
PLAIN = frozenset({"F32", "BF16", "F16", "F64"})
SCALES = 1.07
"""What the scales of quantized weights add."""


def weight_bytes_of(variant: Variant, folder: Path, dtype: str) -> int:
    """Return the bytes that a variant's weights take in memory; 0 if no header says. Raises ModelError.

    Weights that are quantized while loading count as such, but for embeddings and the head; HQQ loads them plain.
    """
    found = stored(folder, variant.quantization.gguf_file)
    tensors = headers(weight_files(folder, found))
    method = variant.quantization.method
    bits = None if found.method != "none" or method == "hqq" else _bits(method)
    return sum(_bytes(name, one, WIDTHS.get(dtype, 2), bits) for name, one in tensors.items())


def _bits(method: str) -> int | None:
    """Return the bits of a weight by a method's name, as in bnb-nf4 and torchao-int8-dynamic; None for none."""
    number = re.search(r"(?:nf|fp|intx?|float)(\d)", method)
    return int(number[1]) if number else None


def _bytes(name: str, header: Header, width: int, bits: int | None) -> int:
    numbers = math.prod(header.shape)
    if header.dtype not in PLAIN:
        return header.size
    if bits is None or len(header.shape) != 2 or "embed" in name or "lm_head" in name:  # noqa: PLR2004 - a matrix
        return numbers * width
    return int(numbers * bits / 8 * SCALES)


def cache_bytes(text_config: Any, tokens: int, dtype: str) -> int:
    """Return the bytes of keys and values of so many tokens; 0 for a model whose config names no such layers."""
    layers, heads = (getattr(text_config, name, None) for name in ("num_hidden_layers", "num_attention_heads"))
    if not layers or not heads:
        return 0
    key_heads = getattr(text_config, "num_key_value_heads", None) or heads
    size = getattr(text_config, "head_dim", None) or text_config.hidden_size // heads
    return int(2 * layers * key_heads * size * tokens * WIDTHS.get(dtype, 2))


def check_fit(
    experiment: Experiment, paths: Mapping[str, str], device: str, text_config: Any, items: Sequence[Item], source: str
) -> None:
    """Refuse variants whose weights and longest item do not fit the device. Raises ConfigError with all of them."""
    here = [one for one in experiment.variants if one.engine.here and one.name in paths]
    memory = memory_bytes(device) if here and experiment.execution.rehearsal is None else 0
    if not memory:
        return
    longest = max((item.prompt_tokens + item.max_tokens for item in items), default=0)
    problems = []
    for variant in here:
        dtype = experiment.compute_dtype(variant)
        try:
            weights = weight_bytes_of(variant, Path(paths[variant.name]), dtype)
        except ModelError:
            continue  # said when it is loaded, with the file's name
        cache = cache_bytes(text_config, longest, dtype)
        if weights + cache > memory:
            refusal = _refusal(variant.name, device, weights, cache, longest, memory)
            problems.append(Problem("execution.device", refusal))
    if problems:
        raise ConfigError(source, problems)


def _refusal(name: str, device: str, weights: int, cache: int, longest: int, memory: int) -> str:
    several = "a smaller model" if "," in device or device == "cpu" else "several GPUs (cuda:all), or a smaller model"
    return (
        f"{name} does not fit {device}: its weights take {weights / GIB:.3g} GiB and the cache of the longest item "
        f"({longest:,} tokens) {cache / GIB:.3g} GiB, and the memory is {memory / GIB:.3g} GiB; use {several}"
    )
