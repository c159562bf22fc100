"""Ways to decode that a variant may be about, on the plain path: a quantized cache, and assisted generation."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves
from transformers import DynamicCache, GenerationConfig, QuantizedCache, StoppingCriteria

from harness.config.schema import KVCache
from harness.engines.transformers.decode import Answer, Request
from harness.engines.transformers.model import LanguageModel
from harness.engines.transformers.text import TextCodec
from harness.errors import BackendMissing, ModelError
from harness.models.audit import leaves
from harness.models.backends import release_quanto_lock

NOTE = (
    "answers grow on a quantized KV cache, in padded batches without slots, drafts or shared beginnings; choices are "
    "scored by reading and are blind to it"
)
TRIAL = 64  # tokens that are read into a cache to measure it
_AXIS = {"quanto": 0, "hqq": 1}  # groups are neighbours in one token's vector, so that no row depends on another


def quantized_cache(model: LanguageModel, spec: KVCache) -> tuple[Callable[[], Any], dict[str, Any]]:
    """Return what makes an empty cache, and what a trial with it showed. Raises ModelError, BackendMissing."""
    if model.path.state != "keys":
        raise ModelError("kv_cache: this model does not keep plain keys and values; leave kv_cache out")
    ids, plain = model.tensor([[(7919 * at + 1) % model.head.vocabulary for at in range(TRIAL + 1)]]), DynamicCache()
    wanted = _step(model, ids, plain)
    group = math.gcd(spec.group_size, *{one.shape[-1] for layer in plain.layers for one in (layer.keys, layer.values)})
    config, axis = model.model.config.get_text_config(), _AXIS[spec.backend]
    options = {"nbits": spec.bits, "axis_key": axis, "axis_value": axis, "q_group_size": group}

    def new() -> Any:
        return QuantizedCache(backend=spec.backend, config=config, residual_length=spec.residual, **options)

    if spec.backend == "quanto":
        release_quanto_lock()
    try:
        cache = new()
        got = _step(model, ids, cache)
    except ImportError as error:
        raise BackendMissing(f"kv_cache: {error}") from error
    held = _bytes([(layer._quantized_keys, layer._quantized_values) for layer in cache.layers])  # noqa: SLF001
    before = _bytes([(layer.keys[..., :TRIAL, :], layer.values[..., :TRIAL, :]) for layer in plain.layers])
    facts = {"class": type(cache).__name__, "layers": type(cache.layers[0]).__name__, **spec.model_dump()}
    facts |= {"group_size": group, "bytes_per_token": round(held / TRIAL, 1)}
    facts |= {"plain_bytes_per_token": round(before / TRIAL, 1)}
    facts |= {"moved": round(float((got - wanted).norm() / wanted.norm()), 6)}
    if not held or held >= before or not facts["moved"]:
        raise ModelError(f"kv_cache: the cache is not in use, or not smaller than the model's own: {facts}")
    return new, facts


def _step(model: LanguageModel, ids: Tensor, cache: Any) -> Tensor:
    """Return the hidden state of one token on top of a prompt that was read into a cache."""
    model.forward(ids[:, :-1], cache=cache)
    return model.forward(ids[:, -1:], cache=cache).float()


def _bytes(held: Any) -> int:
    """Count the bytes of all tensors in nested data; a quantized tensor counts as its codes, scales and shifts."""
    return sum(part.nbytes for one in tree_leaves(held) if isinstance(one, Tensor) for part in leaves(one))


class _Stops(StoppingCriteria):  # type: ignore[misc]
    """Ends an answer at its stop texts."""

    def __init__(self, request: Request) -> None:
        self._request = request

    def __call__(self, input_ids: Any, scores: Any, **_more: Any) -> Any:  # noqa: ARG002 - its signature
        """Return for each row whether it has ended."""
        answers = (row[len(self._request.prompt) :] for row in input_ids.tolist())
        return torch.tensor([self._request.stops.stopped(ids) for ids in answers], device=input_ids.device)


class Assisted:
    """Answers one request after another with proposals of a draft model or the prompt, and counts what they saved."""

    def __init__(self, draft: Any = None, prompt_lookup: int | None = None) -> None:
        self._options = {"assistant_model": draft} if draft is not None else {"prompt_lookup_num_tokens": prompt_lookup}
        self.tokens = self.passes = 0

    def answer(self, model: LanguageModel, request: Request, texts: TextCodec) -> Answer:
        """Return the greedy answer to a request."""
        ids, ends = model.tensor([request.prompt]), texts.end_ids
        model.model.generation_config = GenerationConfig(eos_token_id=sorted(ends) or None, pad_token_id=texts.pad_id)
        how = {"attention_mask": torch.ones_like(ids), "do_sample": False, "max_new_tokens": request.max_tokens}
        counting = model.model.register_forward_pre_hook(self._count)
        try:
            made = model.model.generate(ids, **how, stopping_criteria=[_Stops(request)], **self._options)
        finally:
            counting.remove()
        answer = Answer(request)
        for token in made[0, len(request.prompt) :].tolist():
            self.tokens += 1
            answer.append(token, ends)
            if answer.finish:
                break
        return answer

    def _count(self, *_arguments: Any) -> None:
        self.passes += 1

    def note(self) -> str:
        """Return how many passes of the model the tokens took; empty before any."""
        what = "a draft model" if "assistant_model" in self._options else "the prompt"
        return f"{what} proposed tokens: {self.tokens:,} tokens in {self.passes:,} passes" if self.tokens else ""
