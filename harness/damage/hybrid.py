"""A candidate with some of the baseline's modules in place of its own, asked the same items again and again.

Works on what is loaded, so a method that quantizes while loading and a checkpoint are the same to it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from harness.config.schema import Thinking
from harness.damage.groups import layer_of
from harness.damage.states import LayerStates
from harness.engines.transformers.continuous import Continuous, schedules
from harness.engines.transformers.decode import Request
from harness.engines.transformers.divergence import Trace, divergence
from harness.engines.transformers.engine import HFEngine
from harness.engines.transformers.head import Head
from harness.engines.transformers.items import as_draft, score_items
from harness.engines.transformers.text import StopDetector
from harness.models.audit import weight_bytes
from harness.models.devices import memory_bytes
from harness.models.loading import Loaded
from harness.records import Item, Response, Settings
from harness.suite.scorer import Scorer

__all__ = ["Hybrid", "Measured", "restorable", "unpacked"]

_TOKENS = 8
"""First tokens of an answer whose divergence is measured."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What came of asking the items with some modules restored."""

    scores: dict[str, float]
    """Item id to score, the mean over its samples; 0 if it went unanswered."""
    kl: float
    """Mean divergence per token from the baseline, on the baseline's own answers."""


def restorable(candidate: Loaded, baseline: Loaded) -> dict[str, int]:
    """Return the modules of the candidate that differ from the baseline's, with the bytes that restoring them costs.

    A module without children that has weights of its own: linear layers, experts in one tensor, embeddings, the head.
    """
    theirs = dict(baseline.model.named_modules())
    bits = candidate.proof.bits_per_weight / 8
    found = {}
    for name, module in candidate.model.named_modules():
        other = theirs.get(name)
        if other is not None and not any(module.children()) and any(True for _ in other.parameters()):
            weights = sum(one.numel() for one in other.parameters() if one.ndim > 1)
            if weights and not _same(module, other):
                found[name] = max(1, weight_bytes(other) - int(bits * weights))
    return found


def _same(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    """Whether two modules are of one class and have equal weights."""
    mine, theirs = dict(one.named_parameters()), dict(other.named_parameters())
    if type(one) is not type(other) or mine.keys() != theirs.keys():
        return False
    return all(
        type(mine[key]) is type(value) and mine[key].shape == value.shape and torch.equal(mine[key], value)
        for key, value in theirs.items()
    )


@dataclass(slots=True)
class _States:
    """Keeps the hidden states that predict the baseline's answers, by item id."""

    references: Mapping[str, tuple[int, ...]]
    """The baseline's answers in text, by item id."""
    hidden: dict[str, Tensor] = field(default_factory=dict)
    """[tokens, width] by item id."""
    tokens: dict[str, tuple[int, ...]] = field(default_factory=dict)
    """What they predict: an answer, or the choices one after the other."""
    own_tokens: int = 0

    def observe(self, item_id: str, tokens: Sequence[int], hidden: Tensor) -> None:
        """Keep the states of one item."""
        self.tokens[item_id] = tuple(tokens)
        self.hidden[item_id] = hidden[: len(tokens)].clone()


class Hybrid:
    """The candidate, its engine, and the baseline's modules.

    Items in text are not answered word by word: the baseline's right answer is read along with the prompt, and the item
    counts as right if each of its tokens is the most likely one. `word_by_word` answers them instead, and has the task
    score them: for answers so long that a right one is rarely the same one. Choices are always weighed and scored.
    """

    def __init__(
        self, candidate: Loaded, baseline: Loaded, items: Sequence[Item], references: Mapping[str, tuple[int, ...]],
        settings: Settings, *, thinking: Thinking, word_by_word: bool,
    ) -> None:  # fmt: skip
        self._items = {item.id: item for item in items}
        self._word_by_word = word_by_word
        self._references, self._settings = dict(references), settings
        self._scorer = Scorer(items, thinking=thinking)
        device = str(candidate.model.device)
        engine = HFEngine(baseline.model, baseline.tokenizer, baseline.proof, device=device)
        self.baseline_scores, self._before = self._read(engine)
        self._head = engine.head
        self._modules = dict(baseline.model.named_modules())
        self.sizes = restorable(candidate, baseline)
        self._model = candidate.model
        self._engine = HFEngine(candidate.model, candidate.tokenizer, candidate.proof, device=device)
        if self._engine.head.digest() == self._head.digest():
            self._head = self._engine.head
        if device == "cpu":
            self._unpack()
        self._own = {name: self._model.get_submodule(name) for name in self.sizes}
        self._restored: frozenset[str] = frozenset()
        self._base: frozenset[str] | None = None
        self.states = self._layer_states(memory_bytes(device) // 8)

    def _layer_states(self, memory: int) -> LayerStates | None:
        """Return what keeps the states of layers; None if the model has no such layers or a cache of its own."""
        count = self._model.config.get_text_config().num_hidden_layers
        lists = (one for one in self._model.modules() if isinstance(one, torch.nn.ModuleList) and len(one) == count)
        layers = next(lists, None)
        if layers is None or self._engine.context.model.path.state != "keys":
            return None
        return LayerStates(getattr(self._model, self._model.base_model_prefix), layers, memory)

    def _unpack(self) -> None:
        """Put plain layers in the place of those that only unpack their weights: the same answers, in less time."""
        for name in self.sizes:
            module = self._model.get_submodule(name)
            if (plain := unpacked(module, self._modules[name])) is not None:
                self._put(name, plain)

    def _put(self, name: str, module: torch.nn.Module) -> None:
        language_model = self._engine.context.model
        is_head = self._model.get_submodule(name) is self._model.get_output_embeddings()
        self._model.set_submodule(name, module)
        if is_head and language_model.split_head:
            language_model.head = Head(module, language_model.head.softcap, language_model.head.vocabulary)

    def restore(self, modules: Iterable[str]) -> None:
        """Have exactly these modules be the baseline's."""
        wanted = frozenset(modules)
        for name in wanted ^ self._restored:
            self._put(name, self._modules[name] if name in wanted else self._own[name])
        self._restored = wanted

    def ask(self, modules: Iterable[str], *, base: frozenset[str] = frozenset()) -> Measured:
        """Ask all items with these modules restored.

        base: modules that are restored now and in most calls to come: what the layers gave with them is kept.
        """
        wanted = frozenset(modules)
        if self.states is not None:
            if self._base != base:
                self.states.forget()
                self._base = None
                if wanted != base:
                    self._run(base)
            self.states.first_changed = self._first(wanted ^ base) if self._base == base else 0
        return self._run(wanted, record=self._base is None and wanted == base)

    def _first(self, changed: Iterable[str]) -> int:
        """Return the first layer that is changed; the number of layers if only the head is."""
        count = self._model.config.get_text_config().num_hidden_layers
        head = self._model.get_output_embeddings()
        places = (count if self._model.get_submodule(name) is head else layer_of(name) or 0 for name in changed)
        return min(places, default=count)

    def _run(self, wanted: frozenset[str], *, record: bool = True) -> Measured:
        self.restore(wanted)
        if self.states is not None:
            self.states.recording = record
            if record:
                self.states.first_changed = 0
        scores, states = self._read(self._engine)
        if record:
            self._base = wanted
        return Measured(scores, self._divergence(states))

    def _read(self, engine: HFEngine) -> tuple[dict[str, float], _States]:
        """Score all items, and return the states that predict the baseline's answers."""
        states = _States(self._references)
        choices = [item for item in self._items.values() if item.kind == "choice"]
        scores = self._scored(score_items(engine.context, choices, states))
        texts = [item for item in self._items.values() if item.kind == "generate"]
        _read_along(engine, texts, self._settings, states)
        if self._word_by_word:
            return scores | self._scored(engine.answer(texts, self._settings, self._references)), states
        for item in texts:
            hidden = states.hidden.get(item.id)
            same = hidden is not None and engine.head.rounded(hidden).argmax(-1).tolist() == list(
                states.tokens[item.id]
            )
            scores[item.id] = float(same)
        return scores, states

    def _scored(self, responses: Iterable[Response]) -> dict[str, float]:
        found: dict[str, list[float]] = defaultdict(list)
        for one in responses:
            found[one.item_id].append(self._scorer.score(self._items[one.item_id], one).value or 0.0)
        return {name: sum(scores) / len(scores) for name, scores in found.items()}

    def _divergence(self, states: _States) -> float:
        """Return the mean divergence per token from the baseline, all items in one product with the head."""
        names = [name for name in states.hidden if states.tokens[name] == self._before.tokens.get(name)]
        tokens = tuple(token for name in names for token in states.tokens[name][:_TOKENS])
        before, after = (torch.cat([one.hidden[name][:_TOKENS] for name in names]) for one in (self._before, states))
        same = self._head is self._engine.head
        head = self._engine.head
        found = divergence(
            Trace("the items", tokens, before), after, baseline=head if same else self._head, candidate=head
        )
        return sum(found.kl) / len(found.kl)


def _read_along(engine: HFEngine, items: Sequence[Item], settings: Settings, states: _States) -> None:
    """Read each item's prompt with the baseline's answer, and show the states that predict the answer."""
    context = engine.context
    requests = [
        Request(
            item.id, 0, tuple(context.texts.prompt(item.prompt)), item.max_tokens, StopDetector(context.texts, ()),
            as_draft(context, states.references[item.id], item.max_tokens),
        )
        for item in items if states.references.get(item.id)
    ]  # fmt: skip

    def observe(request: Request, hidden: Tensor) -> None:
        states.observe(request.item_id, states.references[request.item_id], hidden)

    loop = Continuous(context, settings, observe)
    for schedule in schedules(context, requests, context.budget):
        for batch in schedule.batches:
            loop.read(batch, keep=False)


def unpacked(module: Any, like: Any) -> torch.nn.Linear | None:
    """Return a plain layer with the weights that a quantized one unpacks; None if it does more than that.

    The weights are what it answers to unit vectors; that it does no more is tried on random input.
    """
    if type(like) is not torch.nn.Linear or type(module) is torch.nn.Linear:
        return None
    with torch.inference_mode():
        rows = torch.eye(like.in_features, dtype=like.weight.dtype, device=like.weight.device)
        bias: Any = getattr(like, "bias", None)
        answers = module(rows) if bias is None else module(rows) - bias
        plain = torch.nn.Linear(like.in_features, like.out_features, bias=bias is not None, device="meta")
        plain.weight = torch.nn.Parameter(answers.T.contiguous().to(rows.dtype).clone(), requires_grad=False)
        plain.bias = bias
        generator = torch.Generator().manual_seed(0)
        trial = torch.randn((32, like.in_features), generator=generator).to(rows)
        return plain if torch.equal(plain(trial), module(trial)) else None
