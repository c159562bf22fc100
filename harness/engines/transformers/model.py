"""One forward pass: how a causal language model of transformers is asked, for tokens or for packed rows of prompts."""

import functools
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils._pytree import tree_map
from transformers import DynamicCache

from harness.engines.transformers.attention import grouped_sdpa_in_use
from harness.engines.transformers.head import Head
from harness.engines.transformers.packing import PackedTree
from harness.errors import ModelError

TRIAL_TOLERANCE = 0.03
"""How far two ways to the same numbers may part, as a share of the largest: about 8 roundings of bf16. A wrong
way (a forgotten scale, a mask that is not heeded) is off by far more."""
FARTHEST = 1 << 22  # the largest position that is looked at: no model reads more tokens


@dataclass(frozen=True, slots=True)
class Path:
    """How a model is asked: the fastest way whose answers are those of reading everything again at every step."""

    trees: bool  # sequences that begin alike share a row, and answers grow in slots
    padded: bool  # rows of several lengths are read together
    batched: bool  # several rows are read together
    state: Literal["keys", "own", "none"]  # kept between steps: keys and values, the model's own state, or nothing
    note: str = ""


@dataclass(slots=True, eq=False)
class OwnState:
    """What a model itself keeps of the tokens that it has read: a cache class of its own, recurrent states."""

    trusted: bool = True  # False if every step has to read everything again
    ids: Tensor | None = None  # [rows, tokens] what was read
    name: str = ""  # the argument that takes the state, and the field of the output that holds it
    value: Any = None


class LanguageModel:
    """A causal language model in two steps: tokens to final hidden states, hidden states to logits.

    `path` says how it is asked; `probe.probed` sets it. Sequences longer than `longest_together` tokens are read and
    answered alone (`length_switch`). `few_shapes`: decode steps of other sizes cost preparation (kernels chosen, plans
    made, graphs); `no_graphs`: why they are not replayed as CUDA graphs. Of a model on several devices, tokens go in at
    the embedding's, and states come out at the head's, which is `device`.
    """

    def __init__(self, model: Any, device: str) -> None:
        self.model = model.eval()
        main, head = torch.device(device.partition(",")[0]), model.get_output_embeddings()
        self._entry, self.device = _place(model.get_input_embeddings(), main), _place(head, main)
        self._body = getattr(model, model.base_model_prefix, model)  # what comes before the head
        self._takes = frozenset(inspect.signature(self._body.forward).parameters)
        config = self._config = getattr(model.config, "text_config", None) or model.config
        self._layers = _layer_types(config)
        self.window: int | None = config.sliding_window if "sliding_attention" in self._layers else None
        self._attention = getattr(config, "_attn_implementation", None)
        vocabulary = int(config.vocab_size)
        self.head = Head(head, getattr(config, "final_logit_softcapping", None), vocabulary)
        self.split_head = self._head_agrees()
        if not self.split_head:
            self.head = Head(None, None, vocabulary)
        self.longest_together = length_switch(model)
        self.path = Path(trees=False, padded=False, batched=False, state="none")
        self.quantized_cache: Callable[[], Any] | None = None
        self.few_shapes, self.no_graphs = self.device.type != "cpu", ""
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

    def new_cache(self, length: int = 0, *, decoding: bool = False) -> Any:
        """Return an empty state for at most so many tokens; decoding: for answers to grow on, maybe quantized."""
        if decoding and self.quantized_cache is not None:
            return self.quantized_cache()
        if self.path.state != "keys" or length > self.longest_together:
            return OwnState(trusted=self.path.state != "none")
        return DynamicCache()

    def forward(self, ids: Tensor, *, mask: Any = None, positions: Tensor | None = None, cache: Any = None) -> Tensor:
        """Read tokens: final hidden states [rows, tokens, width], or logits [..., vocabulary] without a `split_head`.

        ids and positions [rows, tokens]; mask [rows, cached + tokens], 1 if a token counts, or what `attention` gave;
        cache is what `new_cache` gave, filled in place.
        """
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
        for name in {"attention_mask", "position_ids"} & more.keys():
            more[name] = tree_map(lambda one: one.to(self._entry), more[name])
        ids = ids.to(self._entry)
        with torch.inference_mode(), grouped_sdpa_in_use(self._config, more.get("attention_mask"), ids):
            out = self._body(input_ids=ids, **more) if self.split_head else self.model(input_ids=ids, **more)
        return (out.last_hidden_state if self.split_head else out.logits).to(self.device), out

    def _with_own_state(self, ids: Tensor, more: dict[str, Any], state: OwnState) -> Tensor:
        """Read tokens on top of what the model keeps in its own way: what it gives out is handed back to it."""
        before = 0 if state.ids is None else state.ids.shape[1]
        state.ids = ids if state.ids is None else torch.cat([state.ids, ids], dim=1)
        if not state.trusted:
            return self._call(state.ids, {"use_cache": False})[0][:, -ids.shape[1] :]
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
        """Return a mask, or one for each kind of layer, that lets each token see what `visible` says, in its window.

        visible [rows, 1, queries, keys]; queries [rows, queries] and keys [rows, keys] are positions.
        """
        if self.window is None:
            return self._as_taken(visible)
        windowed = self._as_taken(visible & ((queries[:, None, :, None] - keys[:, None, None, :]) < self.window))
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

    def _head_agrees(self) -> bool:
        """Try the head apart on a few tokens: models scale, cap or bias their logits in ways that it may not know."""
        if self.model.get_output_embeddings() is None or self._body is self.model:
            return False
        start = self.head.vocabulary // 2
        ids = torch.arange(start, start + 6, device=self._entry)[None]
        with torch.inference_mode():
            whole = self.model(input_ids=ids, use_cache=False).logits[0].float()
            out = self._body(input_ids=ids, use_cache=False)
        if not hasattr(out, "last_hidden_state"):
            return False
        apart = self.head.rounded(out.last_hidden_state[0].to(self.device)).to(whole.device)
        if whole.shape != apart.shape:
            raise ModelError(f"the head gives {tuple(apart.shape)} logits, the model {tuple(whole.shape)}")
        if not bool(torch.isfinite(whole).all()):
            return True  # NaN is reported with the item that meets it
        return float((apart - whole).abs().max()) <= TRIAL_TOLERANCE * float(whole.abs().max())


def prefill(model: LanguageModel, rows: Sequence[PackedTree], *, pad: int, keep: bool) -> tuple[Tensor, Any]:
    """Read rows together, filled up on the right: what `forward` gives [rows, longest, width], and the kept cache."""
    if len(rows) == 1 and rows[0].prefix_first:
        return _prefix_first(model, rows[0])
    longest = max(len(row.tokens) for row in rows)

    def filled(name: str, fill: int) -> Tensor:
        tensor = torch.full((len(rows), longest), fill, dtype=torch.long)
        for index, row in enumerate(rows):
            tensor[index, : len(row.tokens)] = torch.from_numpy(getattr(row, name))
        return model.tensor(tensor)

    ids, cache = filled("tokens", pad), model.new_cache() if keep else None
    if all(row.single for row in rows):
        return model.forward(ids, cache=cache), cache
    positions, place = filled("positions", 0), torch.arange(longest, device=model.device)
    mask = model.attention(_visible(filled("ends", 0), place), positions, positions)
    return model.forward(ids, mask=mask, positions=positions, cache=cache), cache


def _prefix_first(model: LanguageModel, row: PackedTree) -> tuple[Tensor, Any]:
    """Read what the row's sequences share first, causally, and then the branches on top of it."""
    cache, prefix = model.new_cache(), row.shared_prefix
    first = model.forward(model.tensor(row.tokens[None, :prefix]), cache=cache)
    positions, place = model.tensor(row.positions[None]), torch.arange(prefix, len(row.tokens), device=model.device)
    mask = model.attention(_visible(model.tensor(row.ends[None]), place), positions[:, prefix:], positions)
    ids = model.tensor(row.tokens[None, prefix:])
    return torch.cat([first, model.forward(ids, mask=mask, positions=positions[:, prefix:], cache=cache)], dim=1), cache


def _visible(ends: Tensor, queries: Tensor) -> Tensor:
    """Return which keys each query sees, [rows, 1, queries, keys]: see `packing`; what fills a row sees only itself."""
    keys = torch.arange(ends.shape[1], device=ends.device)
    behind, on_path = keys[None, None, :] <= queries[None, :, None], queries[None, :, None] < ends[:, None, :]
    return ((behind & on_path) | (keys[None, None, :] == queries[None, :, None]))[:, None]


def _layer_types(config: Any) -> set[str]:
    """Return the kinds of attention in a model's layers, in the words of transformers' configs."""
    if said := getattr(config, "layer_types", None):
        return set(said)
    kinds = {"sliding_window": "sliding_attention", "attention_chunk_size": "chunked_attention"}
    return {next((kind for name, kind in kinds.items() if getattr(config, name, None)), "full_attention")}


def _place(module: Any, default: torch.device) -> torch.device:
    """Return where a module computes: where its weights are, or where a hook of accelerate takes its inputs to."""
    hook = getattr(getattr(module, "_hf_hook", None), "execution_device", None)
    if hook is not None:
        return torch.device(hook)
    weight = getattr(module, "weight", None)
    return weight.device if isinstance(weight, Tensor) else default


def length_switch(model: Any) -> int:
    """Return the longest sequence, in tokens, in which the first positions are what they are in a short one.

    Some rotary embeddings (longrope, dynamic NTK) take other frequencies for a whole pass as soon as its largest
    position is behind some length: a token's numbers then depend on later tokens. FARTHEST if that is so at no length.
    """
    found = FARTHEST
    for module in model.modules():
        if not any(name.endswith("inv_freq") for name, _ in module.named_buffers(recurse=False)):
            continue
        takes = inspect.signature(module.forward).parameters
        if "position_ids" in takes:
            kinds = set(module.layer_types) if "layer_type" in takes and hasattr(module, "layer_types") else {None}
            for kind in kinds:
                more = {} if kind is None else {"layer_type": kind}
                found = min(found, _switch(functools.partial(_embedded, module, more)))
    return found


def _embedded(module: Any, more: dict[str, Any], length: int) -> Tensor:
    """Return what a rotary embedding gives for the first positions of a sequence of this length."""
    device = next(module.buffers()).device
    positions = torch.tensor([[0, 1, 2, 3, max(3, length - 1)]], device=device)
    with torch.inference_mode(mode=False), torch.no_grad():
        found = module(torch.ones(1, 5, 1, device=device), position_ids=positions, **more)
    first = found[0] if isinstance(found, tuple) else found
    return torch.view_as_real(first)[:, :4] if first.is_complex() else first[:, :4]


def _switch(embedded: Callable[[int], Tensor]) -> int:
    """Find the length by halving; the last call is a short one, so that nothing of the search is kept."""
    short, low, high = embedded(4).clone(), 4, FARTHEST
    if torch.equal(embedded(high), short):
        low = high
    while high - low > 1:
        middle = (low + high) // 2
        embedded(4)
        low, high = (middle, high) if torch.equal(embedded(middle), short) else (low, middle)
    embedded(4)
    return low
