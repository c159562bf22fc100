"""A candidate with some of the baseline's modules in place of its own, asked the same items again and again.

Works on what is loaded, so a method that quantizes while loading and a checkpoint are the same to it. What layers gave
when a prompt was last read is kept, so that only the layers from the first changed one on run again.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from harness.config.schema import Thinking
from harness.damage.search import Measured, layer_of
from harness.engines.transformers.continuous import Continuous, schedules
from harness.engines.transformers.decode import Request
from harness.engines.transformers.divergence import Recorder, Trace, divergence
from harness.engines.transformers.engine import HFEngine
from harness.engines.transformers.head import Head
from harness.engines.transformers.items import as_draft, score_items
from harness.engines.transformers.text import StopDetector
from harness.models.audit import weight_bytes
from harness.models.devices import memory_bytes
from harness.models.loading import Loaded
from harness.records import Item, Response, Settings
from harness.store.units import grouped
from harness.suite.scorer import Scorer

_TOKENS = 8  # first tokens of an answer whose divergence is measured


def restorable(candidate: Loaded, baseline: Loaded) -> dict[str, int]:
    """Return the modules of the candidate that differ from the baseline's, with the bytes that restoring them costs.

    A module without children that has weights of its own: linear layers, experts in one tensor, embeddings, the head.
    """
    theirs, found = dict(baseline.model.named_modules()), {}
    for name, module in candidate.model.named_modules():
        other = theirs.get(name)
        if other is not None and not any(module.children()):
            weights = sum(one.numel() for one in other.parameters() if one.ndim > 1)
            if weights and not _same(module, other):
                found[name] = max(1, weight_bytes(other) - int(candidate.proof.bits_per_weight / 8 * weights))
    return found


def _same(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    mine, theirs = dict(one.named_parameters()), dict(other.named_parameters())
    if type(one) is not type(other) or mine.keys() != theirs.keys():
        return False
    pairs = [(value, theirs[key]) for key, value in mine.items()]
    return all(type(a) is type(b) and a.shape == b.shape and torch.equal(a, b) for a, b in pairs)


class LayerStates:
    """Keeps the output, keys and values of every layer for every prompt that is read from its beginning.

    The same requests are read in the same passes, so a pass is known by its tokens and positions. limit: in bytes;
    passes beyond it run whole.
    """

    def __init__(self, body: torch.nn.Module, layers: torch.nn.ModuleList, limit: int) -> None:
        self._kept: dict[tuple[bytes, int], tuple[Any, Any, Any]] = {}
        self._left = self._limit = limit
        self._pass: bytes | None = None
        self.first_changed = 0  # the first layer that differs from those that were recorded: those before are not run
        self.recording = False  # whether what is run now is kept
        self.skipped = 0  # layers that were not run
        body.register_forward_pre_hook(self._begin, with_kwargs=True)
        for index, layer in enumerate(layers):
            layer.forward = self._wrapped(index, layer.forward)

    def forget(self, first: int) -> None:
        """Drop what is kept of the layers from `first` on."""
        self._kept = {key: entry for key, entry in self._kept.items() if key[1] < first}
        self._left = self._limit - sum(map(_held, self._kept.values()))

    def _begin(self, _module: Any, _arguments: tuple[Any, ...], given: dict[str, Any]) -> None:
        """Name the pass that begins; one that continues an earlier one has no name."""
        ids, past = given["input_ids"], given.get("past_key_values")
        fresh = past is None or past.get_seq_length() == 0
        self._pass = None
        if fresh and ids.shape[1] > 1:
            parts = [one for one in (ids, given.get("position_ids")) if one is not None]
            self._pass = b"".join(repr(tuple(one.shape)).encode() + one.cpu().numpy().tobytes() for one in parts)

    def _wrapped(self, index: int, forward: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any, **given: Any) -> Any:
            past, key = given.get("past_key_values"), None if self._pass is None else (self._pass, index)
            kept = self._kept.get(key) if key is not None and index < self.first_changed else None
            if kept is not None and (past is None or kept[1] is not None):
                self.skipped += 1
                if past is not None:
                    past.update(kept[1], kept[2], index)
                return kept[0]
            out = forward(*arguments, **given)
            if key is not None and self.recording:
                layer = None if past is None else past.layers[index]
                entry = (out, None, None) if layer is None else (out, layer.keys, layer.values)
                if (size := _held(entry)) <= self._left:
                    self._kept[key] = entry
                    self._left -= size
            return out

        return run


def _held(entry: tuple[Any, ...]) -> int:
    return sum(one.nbytes for one in entry if isinstance(one, torch.Tensor))


class Hybrid:
    """The candidate, its engine, and the baseline's modules.

    Items in text are not answered word by word: the baseline's right answer is read along with the prompt, and the item
    counts as right if each of its tokens is the most likely one. `word_by_word` answers them instead, and has the task
    score them: for answers so long that a right one is rarely the same one. Choices are always weighed and scored.
    """

    def __init__(
        self,
        candidate: Loaded,
        baseline: Loaded,
        items: Sequence[Item],
        references: Mapping[str, tuple[int, ...]],
        settings: Settings,
        *,
        thinking: Thinking,
        word_by_word: bool,
    ) -> None:
        self._items, self._model, self._word_by_word = {item.id: item for item in items}, candidate.model, word_by_word
        self._references, self._settings = dict(references), settings
        self._scorer, device = Scorer(items, thinking=thinking), str(candidate.model.device)
        engine = HFEngine(baseline.model, baseline.tokenizer, baseline.proof, device=device)
        self.baseline_scores, self._before = self._read(engine)
        self._head, self._modules = engine.head, dict(baseline.model.named_modules())
        self.sizes = restorable(candidate, baseline)
        self._engine = HFEngine(candidate.model, candidate.tokenizer, candidate.proof, device=device)
        if self._engine.head.digest() == self._head.digest():
            self._head = self._engine.head
        for name in self.sizes if device == "cpu" else ():  # the same answers, in less time
            if (plain := unpacked(self._model.get_submodule(name), self._modules[name])) is not None:
                self._put(name, plain)
        self._own = {name: self._model.get_submodule(name) for name in self.sizes}
        self._restored: frozenset[str] = frozenset()
        self._base: frozenset[str] | None = None  # the modules with which the kept states were made
        self._missed = 0  # layers that were run for want of the states of another base
        self._layers = self._model.config.get_text_config().num_hidden_layers
        lists = (one for one in self._model.modules() if isinstance(one, torch.nn.ModuleList))
        layers = next((one for one in lists if len(one) == self._layers), None)
        self.states: LayerStates | None = None  # of a model that has such layers, and no cache of its own
        if layers is not None and self._engine.context.model.path.state == "keys":
            body = getattr(self._model, self._model.base_model_prefix)
            self.states = LayerStates(body, layers, memory_bytes(device) // 8)

    def _put(self, name: str, module: torch.nn.Module) -> None:
        language_model = self._engine.context.model
        is_head = self._model.get_submodule(name) is self._model.get_output_embeddings()
        self._model.set_submodule(name, module)
        if is_head and language_model.split_head:
            language_model.head = Head(module, language_model.head.softcap, language_model.head.vocabulary)

    def ask(self, modules: Iterable[str], base: frozenset[str] = frozenset()) -> Measured:
        """Ask all items with these modules restored. base: those of most calls to come.

        The states of a base are recorded as soon as the lack of them has cost as many layers as a whole pass.
        """
        wanted, kept = frozenset(modules), self._base
        if self.states is not None:
            if kept is not None:
                self._missed += max(0, self._first(wanted ^ base) - self._first(wanted ^ kept))
            if kept is None or self._missed >= self._layers:
                recorded = self._run(base, record=True)
                if wanted == base:
                    return recorded
        return self._run(wanted, record=False)

    def _first(self, changed: Iterable[str]) -> int:
        """Return the first layer that gives something else if these modules change; one past the last for the head."""
        head, last = self._model.get_output_embeddings(), self._layers
        places = (last if self._model.get_submodule(name) is head else layer_of(name) or 0 for name in changed)
        return min(places, default=last)

    def _run(self, wanted: frozenset[str], *, record: bool) -> Measured:
        if self.states is not None:
            self.states.first_changed = 0 if self._base is None else self._first(wanted ^ self._base)
            self.states.recording = record
            if record:
                self._base, self._missed = None, 0
                self.states.forget(self.states.first_changed)
        for name in wanted ^ self._restored:
            self._put(name, self._modules[name] if name in wanted else self._own[name])
        self._restored = wanted
        scores, states = self._read(self._engine)
        if record:
            self._base = wanted
        return Measured(scores, self._divergence(states))

    def _read(self, engine: HFEngine) -> tuple[dict[str, float], dict[str, Trace]]:
        """Score all items, and return the states that predict the baseline's answers, or the choices of an item."""
        states = Recorder(references=self._references, own_tokens=0)
        choices = [item for item in self._items.values() if item.kind == "choice"]
        scores = self._scored(score_items(engine.context, choices, states))
        texts = [item for item in self._items.values() if item.kind == "generate"]
        _read_along(engine, texts, self._settings, states)
        if self._word_by_word:
            return scores | self._scored(engine.answer(texts, self._settings, self._references)), states.traces
        for item in texts:
            trace, likely = states.traces.get(item.id), ()
            if trace is not None:
                likely = tuple(engine.head.rounded(trace.hidden.to(self._model.device)).argmax(-1).tolist())
            scores[item.id] = float(trace is not None and likely == trace.tokens)
        return scores, states.traces

    def _scored(self, responses: Iterable[Response]) -> dict[str, float]:
        values = ((one.item_id, self._scorer.score(self._items[one.item_id], one).value) for one in responses)
        found = grouped((name, value or 0.0) for name, value in values)
        return {name: sum(scores) / len(scores) for name, scores in found.items()}

    def _divergence(self, traces: Mapping[str, Trace]) -> float:
        """Return the mean divergence per token from the baseline, all items in one product with the head."""
        pairs = [(self._before[name], after) for name, after in traces.items() if name in self._before]
        pairs = [(before, after) for before, after in pairs if before.tokens == after.tokens]
        tokens = tuple(token for _, after in pairs for token in after.tokens[:_TOKENS])
        before, after = (torch.cat([one.hidden[:_TOKENS] for one in side]) for side in zip(*pairs, strict=True))
        after = after.to(self._model.device)
        found = divergence(Trace("the items", tokens, before), after, baseline=self._head, candidate=self._engine.head)
        return sum(found.kl) / len(found.kl)


def _read_along(engine: HFEngine, items: Sequence[Item], settings: Settings, states: Recorder) -> None:
    """Read each item's prompt with the baseline's answer, and show the states that predict the answer."""
    context, requests = engine.context, list[Request]()
    for item in items:
        if answer := states.references.get(item.id):
            prompt, draft = tuple(context.texts.prompt(item.prompt)), as_draft(context, answer, item.max_tokens)
            requests.append(Request(item.id, 0, prompt, item.max_tokens, StopDetector(context.texts, ()), draft))

    def observe(request: Request, hidden: Tensor) -> None:
        states.observe(request.item_id, states.references[request.item_id], hidden)

    loop = Continuous(context, settings, observe)
    for schedule in schedules(context, requests, context.budget):
        for batch in schedule.batches:
            loop.read(batch, keep=False)


def unpacked(module: Any, like: Any) -> torch.nn.Linear | None:
    """Return a plain layer with the weights that a quantized one unpacks; None if it does more than that."""
    if type(like) is not torch.nn.Linear or type(module) is torch.nn.Linear:
        return None
    with torch.inference_mode():
        rows = torch.eye(like.in_features, dtype=like.weight.dtype, device=like.weight.device)
        bias: Any = getattr(like, "bias", None)
        answers = module(rows) if bias is None else module(rows) - bias
        plain = torch.nn.Linear(like.in_features, like.out_features, bias=bias is not None, device="meta")
        plain.weight = torch.nn.Parameter(answers.T.contiguous().to(rows.dtype).clone(), requires_grad=False)
        plain.bias = bias
        trial = torch.randn((32, like.in_features), generator=torch.Generator().manual_seed(0)).to(rows)
        return plain if torch.equal(plain(trial), module(trial)) else None
