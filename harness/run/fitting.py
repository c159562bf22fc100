"""Whether a plan fits: variants into the device's memory, by the headers of their files, and traces onto the disk."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.config.schema import Experiment, Variant
from harness.errors import ConfigError, ModelError, Problem
from harness.models.devices import memory_bytes
from harness.models.formats import Header, headers, stored, weight_files
from harness.records import Item

GIB, WIDTHS = 2**30, {"float32": 4, "bfloat16": 2, "float16": 2}
PLAIN = frozenset({"F32", "BF16", "F16", "F64"})
SCALES = 1.07  # what the scales of quantized weights add


def weight_bytes_of(variant: Variant, folder: Path, dtype: str) -> int:
    """Return the bytes of a variant's weights in memory, as its headers say; 0 if none does. Raises ModelError."""
    found, method = stored(folder, variant.quantization.gguf_file), variant.quantization.method
    number = re.search(r"(?:nf|fp|intx?|float)(\d)", method)  # as in bnb-nf4 and torchao-int8-dynamic
    # Embeddings and the head stay plain where the rest is quantized while loading; HQQ loads all plain.
    bits = int(number[1]) if number and found.method == "none" and method != "hqq" else None
    tensors = headers(weight_files(folder, found))
    return sum(_bytes(name, one, WIDTHS.get(dtype, 2), bits) for name, one in tensors.items())


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
    several, problems = "" if "," in device or device == "cpu" else "several GPUs (cuda:all), or ", []
    for variant in here:
        dtype = experiment.compute_dtype(variant)
        try:
            weights = weight_bytes_of(variant, Path(paths[variant.name]), dtype)
        except ModelError:
            continue  # said when it is loaded, with the file's name
        cache = cache_bytes(text_config, longest, dtype)
        if weights + cache > memory:
            sizes = [f"{one / GIB:.3g} GiB" for one in (weights, cache, memory)]
            takes = f"its weights take {sizes[0]} and the cache of the longest item ({longest:,} tokens) {sizes[1]}"
            text = f"{takes}, and the memory is {sizes[2]}; use {several}a smaller model"
            problems.append(Problem("execution.device", f"{variant.name} does not fit {device}: {text}"))
    if problems:
        raise ConfigError(source, problems)


@dataclass(frozen=True, slots=True)
class TracePlan:
    """What of the baseline's answers is kept until every candidate was compared with it."""

    tokens: int  # first tokens of each answer; 0 if divergence is off
    bytes: int  # most disk that traces and head take, over all shards


def plan_tracing(experiment: Experiment, items: Sequence[Item], width: int, vocabulary: int, source: str) -> TracePlan:
    """Return on how many tokens of each answer divergence is measured, and the disk that takes. Raises ConfigError."""
    execution, served = experiment.execution, any(variant.engine.served for variant in experiment.variants)
    if not execution.divergence or execution.rehearsal is not None or served:
        return TracePlan(0, 0)
    # Traces are a hidden state for each token, and the output head once.
    number = 4 if experiment.compute_dtype(experiment.baseline) == "float32" else 2
    # A token is a byte or more, and an end token comes last.
    longest = [sum(len(one.encode()) + 1 for one in item.choices) or item.max_tokens + 1 for item in items]

    def needed(tokens: int) -> int:
        return number * width * (vocabulary + sum(min(one, tokens) for one in longest))

    wanted, room = execution.divergence_tokens, execution.divergence_gib * GIB
    if needed(wanted) > room:
        fits = next((tokens for tokens in range(wanted - 1, 0, -1) if needed(tokens) <= room), 0)
        fewer = f"set execution.divergence_tokens to {fits} or less, " if fits else ""
        sizes = f"need {needed(wanted) / GIB:.3g} GiB, and {execution.divergence_gib:.3g} GiB are allowed"
        why = f"the baseline's traces do not fit: {wanted} tokens of each answer and the output head {sizes}"
        text = f"{why}; raise execution.divergence_gib, {fewer}or set execution.divergence: false"
        raise ConfigError(source, [Problem("execution.divergence_gib", text)])
    return TracePlan(wanted, needed(wanted))
