"""One forward pass: how a causal language model of transformers is asked, and how its head is applied.

Knows model classes, attention masks and caches. Does not know items, texts, batches or sampling.
"""

from __future__ import annotations

import inspect
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import DynamicCache

from harness.errors import ModelError
from harness.hf_engine.head import Head

__all__ = ["CacheKind", "LanguageModel", "context_limit", "end_token_ids"]

CacheKind = Literal["plain", "window", "opaque"]

NO_LIMIT = 2**31 - 1

TRIAL_TOLERANCE = 0.03
"""How far two ways to the same numbers may part, as a share of the largest: about 8 roundings of bf16. A wrong
way (a forgotten scale, a mask that is not heeded) is off by far more."""


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


def _body(model: Any) -> Any:
    """Give the part of the model before its head."""
    return getattr(model, model.base_model_prefix, model)


class LanguageModel:
    """A causal language model in two steps: tokens to final hidden states, hidden states to logits.

    `kind` says how much freedom its cache leaves. ``plain``: keys and values of every token in every layer.
    ``window``: the same once the layers that would forget are made to keep everything, their attention mask
    still hiding what is out of the window. ``opaque``: anything else (recurrent states, compressed or shared
    layers), of which only whole rows without padding are ever used.
    """

    def __init__(self, model: Any, device: str) -> None:
        self.model = model.eval()
        self.device = torch.device(device)
        self._body = _body(model)
        self._takes = frozenset(inspect.signature(self._body.forward).parameters)
        layers = [type(layer).__name__ for layer in DynamicCache(config=model.config).layers]
        self.kind: CacheKind = self._cache_kind(set(layers))
        config = _text_config(model)
        self._mixed_layers = len(set(layers)) > 1
        self._window: int | None = config.sliding_window if self.kind == "window" else None
        self._attention = getattr(config, "_attn_implementation", None)
        softcap: float | None = getattr(config, "final_logit_softcapping", None)
        self._vocabulary = int(config.vocab_size)
        self.head = Head(model.get_output_embeddings(), softcap, self._vocabulary)
        self.split_head = self._head_agrees()
        if not self.split_head:
            self.head = Head(None, None, self._vocabulary)
        self.takes_trees = self.split_head and self.kind != "opaque" and self._trees_agree()

    @property
    def path_note(self) -> str:
        """Why sequences do not share rows, for the log; empty where they do."""
        if self.takes_trees:
            return ""
        if self.kind == "opaque":
            return "the model's cache is not one of keys and values for every token"
        if self._attention not in {"sdpa", "eager"}:
            return f"attention {self._attention!r} takes no mask of its own; sdpa and eager do"
        return "the model failed the trial of a row with branches"

    def _cache_kind(self, layers: set[str]) -> CacheKind:
        if "position_ids" not in self._takes or "past_key_values" not in self._takes:
            return "opaque"
        if layers <= {"DynamicLayer"}:
            return "plain"
        return "window" if layers <= {"DynamicLayer", "DynamicSlidingWindowLayer"} else "opaque"

    def new_cache(self) -> Any:
        """Give an empty cache: one that forgets nothing, except for models whose cache is opaque."""
        return DynamicCache(config=self.model.config) if self.kind == "opaque" else DynamicCache()

    def forward(self, ids: Tensor, *, mask: Any = None, positions: Tensor | None = None, cache: Any = None) -> Tensor:
        """Read tokens.

        ids [rows, tokens]; mask [rows, cached + tokens], 1 where a token counts, or what `attention` gave;
        positions [rows, tokens]; cache is filled in place. Gives final hidden states [rows, tokens, width],
        or logits [rows, tokens, vocabulary] where the head cannot be applied apart (`split_head` is false).
        """
        call: dict[str, Any] = {"input_ids": ids, "use_cache": cache is not None}
        if mask is not None:
            call["attention_mask"] = mask
        if positions is not None and "position_ids" in self._takes:
            call["position_ids"] = positions
        if cache is not None:
            call["past_key_values" if "past_key_values" in self._takes else "cache_params"] = cache
        with torch.inference_mode():
            out = self._body(**call) if self.split_head else self.model(**call)
        hidden: Tensor = out.last_hidden_state if self.split_head else out.logits
        return hidden

    def attention(self, visible: Tensor, queries: Tensor, keys: Tensor) -> Any:
        """Give the mask that lets each token see what `visible` says, and no further than the model's window.

        visible [rows, 1, queries, keys], true where a query sees a key; queries [rows, queries] and keys
        [rows, keys] are positions. Gives what `forward` takes: a mask, or one for each kind of layer.
        """
        if self._window is None:
            return self._as_taken(visible)
        near = (queries[:, None, :, None] - keys[:, None, None, :]) < self._window
        windowed = self._as_taken(visible & near)
        if not self._mixed_layers:
            return windowed
        return {"full_attention": self._as_taken(visible), "sliding_attention": windowed}

    def _as_taken(self, visible: Tensor) -> Tensor:
        """Give a mask as the attention implementation takes it: truth values, or numbers to add."""
        if self._attention == "sdpa":
            return visible
        hidden = torch.finfo(self.model.dtype).min
        return torch.zeros(visible.shape, dtype=self.model.dtype, device=visible.device).masked_fill(~visible, hidden)

    def tensor(self, rows: Any) -> Tensor:
        """Give integers as a tensor on the model's device."""
        return torch.as_tensor(rows, dtype=torch.long).to(self.device)

    def _trial(self, size: int) -> Tensor:
        """Give a few different tokens, [1, size]."""
        start = self._vocabulary // 2
        return torch.arange(start, start + size, device=self.device)[None]

    def _head_agrees(self) -> bool:
        """Try the head apart against the whole model on a few tokens.

        Models scale, cap or bias their logits in ways of their own; where this class does not know the way,
        the answers differ here and the whole model is asked instead.
        """
        if self.model.get_output_embeddings() is None or self._body is self.model:
            return False
        ids = self._trial(6)
        with torch.inference_mode():
            whole = self.model(input_ids=ids, use_cache=False).logits[0].float()
            out = self._body(input_ids=ids, use_cache=False)
        if not hasattr(out, "last_hidden_state"):
            return False
        with torch.inference_mode():
            apart = self.head.rounded(out.last_hidden_state[0])
        if whole.shape != apart.shape:
            raise ModelError(f"the head gives {tuple(apart.shape)} logits, the model {tuple(whole.shape)}")
        return _close(apart, whole)

    def _trees_agree(self) -> bool:
        """Try a row of two branches against the two sequences that it stands for.

        A model that does not heed the mask or the positions it is given answers otherwise, and then never
        gets more than one sequence in a row.
        """
        if self._attention not in {"sdpa", "eager"}:
            return False  # flash attention takes no mask of this kind
        ids = self._trial(8)[0]
        one, other = ids[:6], torch.cat([ids[:4], ids[6:8]])
        ends = self.tensor([8, 8, 8, 8, 6, 6, 8, 8])
        place = torch.arange(8, device=self.device)
        visible = (place[None, :] <= place[:, None]) & (place[:, None] < ends[None, :])
        positions = self.tensor([[0, 1, 2, 3, 4, 5, 4, 5]])
        mask = self.attention(visible[None, None], positions, positions)
        try:
            tree = self.forward(ids[None], mask=mask, positions=positions)[0].float()
        except (TypeError, ValueError, AttributeError, IndexError, RuntimeError):
            return False  # a model that cannot take such a mask says so in ways of its own
        apart = [self.forward(row[None])[0, 4:].float() for row in (one, other)]
        return _close(tree[4:], torch.cat(apart))


def _close(one: Tensor, other: Tensor) -> bool:
    """Say whether two ways gave the same numbers. True for NaN: that is reported with the item that meets it."""
    if not bool(torch.isfinite(other).all()):
        return True
    return float((one - other).abs().max()) <= TRIAL_TOLERANCE * float(other.abs().max())
