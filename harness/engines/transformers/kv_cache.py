"""A quantized cache of keys and values: made for a model, and measured on it before anything is asked.

Answers that grow on it take the plain path, padded batches: slots, drafts and shared beginnings need a cache whose rows
can be copied. Choices are scored by reading, so no cache of a step takes part in their scores.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, QuantizedCache

from harness.config.decoding import KVCache
from harness.engines.transformers.model import LanguageModel
from harness.errors import BackendMissing, ModelError
from harness.models.backends import release_quanto_lock

__all__ = ["NOTE", "quantized_cache"]

NOTE = (
    "answers grow on a quantized KV cache, in padded batches without slots, drafts or shared beginnings; choices are "
    "scored by reading and are blind to it"
)
TRIAL = 64
"""Tokens that are read into a cache to measure it."""
_AXIS = {"quanto": 0, "hqq": 1}
"""The axis on which each backend groups neighbours of one token's vector, so that no row depends on another."""


def quantized_cache(model: LanguageModel, spec: KVCache) -> tuple[Callable[[], Any], dict[str, Any]]:
    """Return what makes an empty cache, and what a trial with it showed.

    Raises ModelError if the model does not keep plain keys and values, BackendMissing without the backend's package.
    """
    if model.path.state != "keys":
        raise ModelError("kv_cache: this model does not keep plain keys and values; leave kv_cache out")
    ids = model.tensor([[(7919 * at + 1) % model.head.vocabulary for at in range(TRIAL + 1)]])
    plain = DynamicCache()
    wanted = _step(model, ids, plain)
    sizes = {one.shape[-1] for layer in plain.layers for one in (layer.keys, layer.values)}
    group = math.gcd(spec.group_size, *sizes)
    axis = _AXIS[spec.backend]

    def new() -> Any:
        return QuantizedCache(
            backend=spec.backend,
            config=model.model.config.get_text_config(),
            nbits=spec.bits,
            axis_key=axis,
            axis_value=axis,
            q_group_size=group,
            residual_length=spec.residual,
        )

    if spec.backend == "quanto":
        release_quanto_lock()
    try:
        cache = new()
        got = _step(model, ids, cache)
    except ImportError as error:
        raise BackendMissing(f"kv_cache: {error}") from error
    held = _bytes((layer._quantized_keys, layer._quantized_values) for layer in cache.layers)  # noqa: SLF001
    before = _bytes((layer.keys[..., :TRIAL, :], layer.values[..., :TRIAL, :]) for layer in plain.layers)
    facts = {
        "class": type(cache).__name__,
        "layers": type(cache.layers[0]).__name__,
        **spec.model_dump(),
        "group_size": group,
        "bytes_per_token": round(held / TRIAL, 1),
        "plain_bytes_per_token": round(before / TRIAL, 1),
        "moved": round(float((got - wanted).norm() / wanted.norm()), 6),
    }
    if not held or held >= before or not facts["moved"]:
        raise ModelError(f"kv_cache: the cache is not in use, or not smaller than the model's own: {facts}")
    return new, facts


def _step(model: LanguageModel, ids: Tensor, cache: Any) -> Tensor:
    """Return the hidden state of one token on top of a prompt that was read into a cache."""
    model.forward(ids[:, :-1], cache=cache)
    return model.forward(ids[:, -1:], cache=cache).float()


def _bytes(held: Any) -> int:
    """Count the bytes of all tensors in nested data; a quantized tensor counts as its codes, scales and shifts."""
    if isinstance(held, Tensor):
        inner = getattr(held, "__tensor_flatten__", None)
        if type(held) is Tensor or inner is None:
            return held.numel() * held.element_size()
        return sum(_bytes(getattr(held, name)) for name in inner()[0])
    if isinstance(held, dict):
        return _bytes(held.values())
    return sum(map(_bytes, held)) if isinstance(held, Iterable) and not isinstance(held, (str, torch.Size)) else 0
