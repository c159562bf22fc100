"""One forward pass: how a causal language model of transformers is asked, and how its head is applied.

Knows attention masks and what models keep of the tokens that they have read, in whatever form. Which of these a model
takes is found out by `probe`. Does not know items, texts, batches or sampling.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils._pytree import tree_map
from transformers import DynamicCache

from harness.engines.transformers.attention import grouped_sdpa_in_use
from harness.engines.transformers.head import Head
from harness.engines.transformers.rotary import length_switch
from harness.errors import ModelError

__all__ = ["LanguageModel", "OwnState", "Path", "context_limit"]

NO_LIMIT = 2**31 - 1

TRIAL_TOLERANCE = 0.03
"""How far two ways to the same numbers may part, as a share of the largest: about 8 roundings of bf16. A wrong
way (a forgotten scale, a mask that is not heeded) is off by far more."""


def _text_config(model: Any) -> Any:
    return getattr(model.config, "text_config", None) or model.config


def context_limit(model: Any, tokenizer: Any) -> int:
    """Return the longest sequence a model reads, in tokens: its config, else its tokenizer, else no limit.

    The same attributes in the same order as lm_eval's `resolve_max_length` (lm_eval/models/utils.py), which
    takes 2048 if neither does.
    """
    config = _text_config(model)
    for name in ("n_positions", "max_position_embeddings", "n_ctx"):
        if getattr(config, name, None) is not None:
            return int(getattr(config, name))
    said = getattr(tokenizer, "model_max_length", None)
    return int(said) if said is not None and said < NO_LIMIT else NO_LIMIT


def _layer_types(config: Any) -> set[str]:
    """Return the kinds of attention in a model's layers, in the words of transformers' configs."""
    said = getattr(config, "layer_types", None)
    if said:
        return set(said)
    kinds = {"sliding_window": "sliding_attention", "attention_chunk_size": "chunked_attention"}
    return {next((kind for name, kind in kinds.items() if getattr(config, name, None)), "full_attention")}


def _body(model: Any) -> Any:
    """Return the part of the model before its head."""
    return getattr(model, model.base_model_prefix, model)


def _place(module: Any, default: torch.device) -> torch.device:
    """Return where a module computes: where its weights are, or where a hook of accelerate takes its inputs to."""
    hook = getattr(getattr(module, "_hf_hook", None), "execution_device", None)
    if hook is not None:
        return torch.device(hook)
    weight = getattr(module, "weight", None)
    return weight.device if isinstance(weight, Tensor) else default


@dataclass(frozen=True, slots=True)
class Path:
    """How a model is asked: the fastest way whose answers are those of reading everything again at every step."""

    trees: bool
    """Sequences that begin alike share a row, and answers grow in slots."""
    padded: bool
    """Rows of several lengths are read together."""
    batched: bool
    """Several rows are read together."""
    state: Literal["keys", "own", "none"]
    """What is kept between steps: keys and values of every token, the model's own state, or nothing."""
    note: str = ""
    """Why it is not the fastest, for the log."""


@dataclass(slots=True, eq=False)
class OwnState:
    """What a model itself keeps of the tokens that it has read: a cache class of its own, recurrent states."""

    ids: Tensor | None = None
    """[rows, tokens] What it has read."""
    name: str = ""
    """The argument that takes it, which is also the field of the output that holds it."""
    value: Any = None
    """The state."""


@dataclass(slots=True, eq=False)
class NoState:
    """For a model that keeps nothing that can be trusted: every step reads everything again."""

    ids: Tensor | None = None
    """[rows, tokens] What was read."""


class LanguageModel:
    """A causal language model in two steps: tokens to final hidden states, hidden states to logits.

    `path` says which ways of asking it are sound; `probe.probed` sets it. `longest_together` is the longest
    sequence, in tokens, whose numbers depend on nothing but its own tokens: some rotary embeddings change for all
    tokens of a pass as soon as one is behind that position, so longer sequences are read and answered alone.
    `few_shapes` says whether decode steps of other sizes cost preparation (kernels chosen, plans made, graphs),
    `graphs` whether decode steps are replayed as CUDA graphs, `no_graphs` why they no longer are. Of a model on several
    devices, tokens go in at the embedding's, and states come out at the head's, which is `device`.
    """

    def __init__(self, model: Any, device: str) -> None:
        self.model = model.eval()
        main = torch.device(device.partition(",")[0])
        self._entry = _place(model.get_input_embeddings(), main)
        self.device = _place(model.get_output_embeddings(), main)
        self._body = _body(model)
        self._takes = frozenset(inspect.signature(self._body.forward).parameters)
        config = self._config = _text_config(model)
        self._layers = _layer_types(config)
        self._window: int | None = config.sliding_window if "sliding_attention" in self._layers else None
        self._attention = getattr(config, "_attn_implementation", None)
        softcap: float | None = getattr(config, "final_logit_softcapping", None)
        self._vocabulary = int(config.vocab_size)
        self.head = Head(model.get_output_embeddings(), softcap, self._vocabulary)
        self.split_head = self._head_agrees()
        if not self.split_head:
            self.head = Head(None, None, self._vocabulary)
        self.longest_together = min(length_switch(model), NO_LIMIT)
        self.path = Path(trees=False, padded=False, batched=False, state="none")
        self.few_shapes = self.device.type != "cpu"
        self.no_graphs = ""
        self.graphs = self.device.type == "cuda"
        if self.graphs and len(set(getattr(model, "hf_device_map", {}).values())) > 1:
            self.give_up_graphs("the model is on several devices")

    def give_up_graphs(self, why: str) -> None:
        """Launch the kernels of all further decode steps one by one."""
        self.graphs, self.no_graphs = False, why

    @property
    def no_trees(self) -> str:
        """Why sequences cannot share rows, known without trying; empty if they may."""
        if not self.split_head:
            return "the model's logits are not those of its head alone"
        if not self._layers <= {"full_attention", "sliding_attention"}:
            return "the model's cache is not one of keys and values for every token"
        if self._attention not in {"sdpa", "eager"}:
            return f"attention {self._attention!r} takes no mask of its own; sdpa and eager do"
        return ""

    def new_cache(self, length: int = 0) -> Any:
        """Return an empty state for sequences of at most so many tokens; one of keys and values forgets nothing."""
        if self.path.state == "none":
            return NoState()
        if self.path.state == "own" or length > self.longest_together:
            return OwnState()
        return DynamicCache()

    def forward(self, ids: Tensor, *, mask: Any = None, positions: Tensor | None = None, cache: Any = None) -> Tensor:
        """Read tokens.

        ids [rows, tokens]; mask [rows, cached + tokens], 1 where a token counts, or what `attention` gave;
        positions [rows, tokens]; cache is what `new_cache` gave, filled in place. Gives final hidden states [rows,
        tokens, width], or logits [rows, tokens, vocabulary] unless the head can be applied apart (`split_head`).
        """
        if isinstance(cache, NoState):
            cache.ids = ids if cache.ids is None else torch.cat([cache.ids, ids], dim=1)
            return self._call(cache.ids, {"use_cache": False})[0][:, -ids.shape[1] :]
        more: dict[str, Any] = {"use_cache": cache is not None}
        if mask is not None:
            more["attention_mask"] = mask
        if positions is not None and "position_ids" in self._takes:
            more["position_ids"] = positions
        if isinstance(cache, OwnState):
            return self._with_own_state(ids, more, cache)
        if cache is not None:
            more["past_key_values"] = cache
        return self._call(ids, more)[0]

    def _call(self, ids: Tensor, more: dict[str, Any]) -> tuple[Tensor, Any]:
        for name in ("attention_mask", "position_ids"):
            if name in more:
                more[name] = tree_map(lambda one: one.to(self._entry), more[name])
        ids = ids.to(self._entry)
        with torch.inference_mode(), grouped_sdpa_in_use(self._config, more.get("attention_mask")):
            out = self._body(input_ids=ids, **more) if self.split_head else self.model(input_ids=ids, **more)
        return (out.last_hidden_state if self.split_head else out.logits).to(self.device), out

    def _with_own_state(self, ids: Tensor, more: dict[str, Any], state: OwnState) -> Tensor:
        """Read tokens on top of what the model keeps in its own way: what it gives out is handed back to it."""
        before = 0 if state.ids is None else state.ids.shape[1]
        state.ids = ids if state.ids is None else torch.cat([state.ids, ids], dim=1)
        reading = ids
        if before and self._starts_over(state, before):
            reading, state.value = state.ids, None
            more.pop("position_ids", None)
        if state.value is not None:
            more[state.name] = state.value
        hidden, out = self._call(reading, more)
        state.name, state.value = next((name, one) for name, one in out.items() if name in self._takes)
        return hidden[:, -ids.shape[1] :]

    def _starts_over(self, state: OwnState, before: int) -> bool:
        """Whether the model's own generation would read everything again here: some do as their positions change."""
        if state.ids is None or not before <= self.longest_together < state.ids.shape[1]:
            return False
        kept = {state.name: state.value, "attention_mask": torch.ones_like(state.ids), "use_cache": True}
        inputs = self.model.prepare_inputs_for_generation(state.ids, next_sequence_length=1, **kept)
        return inputs.get(state.name) is None

    def attention(self, visible: Tensor, queries: Tensor, keys: Tensor) -> Any:
        """Return the mask that lets each token see what `visible` says, and no further than the model's window.

        visible [rows, 1, queries, keys], true where a query sees a key; queries [rows, queries] and keys
        [rows, keys] are positions. Gives what `forward` takes: a mask, or one for each kind of layer.
        """
        if self._window is None:
            return self._as_taken(visible)
        near = (queries[:, None, :, None] - keys[:, None, None, :]) < self._window
        windowed = self._as_taken(visible & near)
        if len(self._layers) == 1:
            return windowed
        return {"full_attention": self._as_taken(visible), "sliding_attention": windowed}

    def _as_taken(self, visible: Tensor) -> Tensor:
        """Return a mask as the attention implementation takes it: truth values, or numbers to add."""
        if self._attention == "sdpa":
            return visible
        hidden = torch.finfo(self.model.dtype).min
        return torch.zeros(visible.shape, dtype=self.model.dtype, device=visible.device).masked_fill(~visible, hidden)

    def tensor(self, rows: Any) -> Tensor:
        """Return integers as a tensor on the model's device."""
        return torch.as_tensor(rows, dtype=torch.long).to(self.device)

    def _trial(self, size: int) -> Tensor:
        """Return a few different tokens, [1, size]."""
        start = self._vocabulary // 2
        return torch.arange(start, start + size, device=self.device)[None]

    def _head_agrees(self) -> bool:
        """Try the head apart against the whole model on a few tokens.

        Models scale, cap or bias their logits in different ways; if this class does not know the way,
        the answers differ here and the whole model is asked instead.
        """
        if self.model.get_output_embeddings() is None or self._body is self.model:
            return False
        ids = self._trial(6).to(self._entry)
        with torch.inference_mode():
            whole = self.model(input_ids=ids, use_cache=False).logits[0].float()
            out = self._body(input_ids=ids, use_cache=False)
        if not hasattr(out, "last_hidden_state"):
            return False
        with torch.inference_mode():
            apart = self.head.rounded(out.last_hidden_state[0].to(self.device)).to(whole.device)
        if whole.shape != apart.shape:
            raise ModelError(f"the head gives {tuple(apart.shape)} logits, the model {tuple(whole.shape)}")
        return _close(apart, whole)


def _close(one: Tensor, other: Tensor) -> bool:
    """Return whether two ways gave the same numbers. True for NaN: that is reported with the item that meets it."""
    if not bool(torch.isfinite(other).all()):
        return True
    return float((one - other).abs().max()) <= TRIAL_TOLERANCE * float(other.abs().max())
