"""One forward pass: how a causal language model of transformers is asked, and how its head is applied.

Knows model classes, attention masks and caches. Does not know items, texts, batches or sampling.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import DynamicCache

from harness.errors import ModelError

__all__ = ["CacheKind", "LanguageModel", "context_limit", "end_token_ids"]

CacheKind = Literal["plain", "window", "opaque"]

TILE_ELEMENTS = 1 << 24
"""Logits in memory at once: 64 MiB of float32."""

NO_LIMIT = 2**31 - 1


def _text_config(model: Any) -> Any:
    return getattr(model.config, "text_config", None) or model.config


def context_limit(model: Any, tokenizer: Any) -> int:
    """Give the longest sequence a model reads, in tokens: its config, else its tokenizer, else no limit.

    The same attributes in the same order as lm_eval's `resolve_max_length` (lm_eval/models/utils.py), which
    takes 2048 where neither says anything.
    """
    config = _text_config(model)
    for name in ("n_positions", "max_position_embeddings", "n_ctx"):
        if getattr(config, name, None) is not None:
            return int(getattr(config, name))
    said = getattr(tokenizer, "model_max_length", None)
    return int(said) if said is not None and said < NO_LIMIT else NO_LIMIT


def end_token_ids(model: Any) -> tuple[int, ...]:
    """Give the tokens at which the model's own generation ends."""
    said = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    if said is None:
        said = getattr(_text_config(model), "eos_token_id", None)
    if said is None:
        return ()
    return tuple(int(one) for one in said) if isinstance(said, list | tuple) else (int(said),)


def _cache_kind(model: Any) -> CacheKind:
    """Say how much freedom a model's cache leaves.

    ``plain``: keys and values of every token in every layer. ``window``: the same once the layers that would
    forget are made to keep everything, their attention mask still hiding what is out of the window.
    ``opaque``: anything else (recurrent states, compressed or shared layers), of which only whole rows are
    ever used.
    """
    names = {type(layer).__name__ for layer in DynamicCache(config=model.config).layers}
    if "position_ids" not in inspect.signature(_body(model).forward).parameters:
        return "opaque"
    if names <= {"DynamicLayer"}:
        return "plain"
    return "window" if names <= {"DynamicLayer", "DynamicSlidingWindowLayer"} else "opaque"


def _body(model: Any) -> Any:
    """Give the part of the model before its head."""
    return getattr(model, model.base_model_prefix, model)


class LanguageModel:
    """A causal language model in two steps: tokens to final hidden states, hidden states to logits."""

    def __init__(self, model: Any, device: str) -> None:
        self.model = model.eval()
        self.device = torch.device(device)
        self.kind: CacheKind = _cache_kind(model)
        self._body = _body(model)
        self._takes = frozenset(inspect.signature(self._body.forward).parameters)
        config = _text_config(model)
        self._softcap: float | None = getattr(config, "final_logit_softcapping", None)
        self._head = model.get_output_embeddings()
        self.split_head = self._head is not None and self._body is not model and self._head_agrees()

    @property
    def cache_name(self) -> str:
        """The argument that carries the cache."""
        return "past_key_values" if "past_key_values" in self._takes else "cache_params"

    def new_cache(self) -> Any:
        """Give an empty cache: one that forgets nothing, except for models whose cache is opaque."""
        return DynamicCache(config=self.model.config) if self.kind == "opaque" else DynamicCache()

    def forward(
        self, ids: Tensor, *, mask: Tensor | None = None, positions: Tensor | None = None, cache: Any = None
    ) -> Tensor:
        """Read tokens.

        ids [rows, tokens]; mask [rows, cached + tokens], 1 where a token counts; positions [rows, tokens];
        cache is filled in place. Gives final hidden states [rows, tokens, width], or logits [rows, tokens,
        vocabulary] where the head cannot be applied apart (`split_head` is false).
        """
        call: dict[str, Any] = {"input_ids": ids, "use_cache": cache is not None}
        if mask is not None:
            call["attention_mask"] = mask
        if positions is not None and "position_ids" in self._takes:
            call["position_ids"] = positions
        if cache is not None:
            call[self.cache_name] = cache
        with torch.inference_mode():
            out = self._body(**call) if self.split_head else self.model(**call)
        hidden: Tensor = out.last_hidden_state if self.split_head else out.logits
        return hidden

    def logits(self, hidden: Tensor) -> Tensor:
        """Give float32 logits [n, vocabulary] of what `forward` gave at n positions."""
        with torch.inference_mode():
            return self._apply_head(hidden).float() if self.split_head else hidden.float()

    def tiles(self, hidden: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """Give the logits of n positions a few rows at a time, so that [n, vocabulary] never exists."""
        vocabulary = self._head.weight.shape[0] if self.split_head else hidden.shape[-1]
        step = max(1, TILE_ELEMENTS // int(vocabulary))
        for start in range(0, hidden.shape[0], step):
            rows = slice(start, min(start + step, hidden.shape[0]))
            yield rows, self.logits(hidden[rows])

    def tensor(self, rows: Sequence[Sequence[int]]) -> Tensor:
        """Give rows of equal length as a tensor of integers on the model's device."""
        return torch.tensor(rows, dtype=torch.long, device=self.device)

    def _apply_head(self, hidden: Tensor) -> Tensor:
        logits: Tensor = self._head(hidden)
        if self._softcap is not None:
            logits = torch.tanh(logits.float() / self._softcap) * self._softcap
        return logits

    def _head_agrees(self) -> bool:
        """Try the head apart against the whole model on a few tokens.

        Models scale, cap or bias their logits in ways of their own; where this class does not know the way,
        the answers differ here and the whole model is asked instead.
        """
        vocabulary = int(_text_config(self.model).vocab_size)
        ids = torch.arange(1, 7, device=self.device).remainder(vocabulary)[None]
        with torch.inference_mode():
            whole = self.model(input_ids=ids, use_cache=False).logits[0].float()
            hidden = self._body(input_ids=ids, use_cache=False)
            if not hasattr(hidden, "last_hidden_state"):
                return False
            apart = self._apply_head(hidden.last_hidden_state[0]).float()
        if whole.shape != apart.shape:
            raise ModelError(f"the head gives {tuple(apart.shape)} logits, the model {tuple(whole.shape)}")
        if not bool(torch.isfinite(whole).all()):
            return True  # a broken model is named with the item that shows it
        scale = float(whole.abs().max())
        return float((whole - apart).abs().max()) <= 0.02 * scale
