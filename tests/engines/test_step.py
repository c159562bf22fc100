"""Decode steps of few shapes that are captured and replayed: the answers of eager steps, or a note and eager steps."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import engine_models as tiny
import numpy as np
import pytest
from lazily import lazy

from harness.records import Settings

torch = lazy("torch")
step = lazy("harness.engines.transformers.cache")
hf_model = lazy("harness.engines.transformers.model")
dispatch = lazy("torch.utils._python_dispatch")

pytestmark = pytest.mark.usefixtures("one_thread")

GREEDY = Settings()
SAMPLED = Settings(temperature=0.8, top_p=0.9, samples=2, seed=5)


def tensors(value: Any) -> list[Any]:
    """The tensors that an operation returned."""
    if isinstance(value, torch.Tensor):
        return [value]
    return [one for part in value for one in tensors(part)] if isinstance(value, tuple | list) else []


def recorder(calls: list[Any]) -> Any:
    """A mode that notes each operation with its tensors, and refuses those that need the host, as a capture does."""

    class Recorder(dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func.overloadpacket.__name__ in {"item", "_local_scalar_dense", "nonzero"}:
                raise RuntimeError("operation not permitted when stream is capturing")
            out = func(*args, **(kwargs or {}))
            calls.append((func, args, kwargs or {}, tensors(out)))
            return out

    return Recorder()


class RecordedGraph:
    """What a CUDA graph is, on a CPU: the operations of a call, repeated on the very tensors of the recording."""

    made: list[RecordedGraph] = []  # noqa: RUF012  # cleared by the fixture

    def __init__(self, run: Callable[[], Any], *_: Any) -> None:
        self.calls: list[Any] = []
        self.pool, self.replays = None, 0
        with recorder(self.calls):
            self.out = run()
        RecordedGraph.made.append(self)

    def replay(self) -> Any:
        """Repeat the operations."""
        self.replays += 1
        with torch.inference_mode():
            for func, args, kwargs, before in self.calls:
                for old, new in zip(before, tensors(func(*args, **kwargs)), strict=True):
                    if old.data_ptr() != new.data_ptr():  # neither a view nor in place
                        old.copy_(new)
        return self.out


@pytest.fixture
def graphs(monkeypatch) -> Iterator[list[RecordedGraph]]:
    """Steps are captured as recordings; gives those made. A shared text counts as such from 64 tokens on."""
    monkeypatch.setattr("harness.engines.transformers.cache.Graph", RecordedGraph)
    monkeypatch.setattr("harness.engines.transformers.continuous.SHARED_PREFIX_AT_LEAST", 64)
    RecordedGraph.made.clear()
    yield RecordedGraph.made
    RecordedGraph.made.clear()


def items() -> list[Any]:
    """Prompts of their own, and questions on two texts, with answers of unlike lengths."""
    texts = [
        tiny.item(f"t{text}q{n}", f"{text} " + "The quick brown fox jumps. " * 9 + f"{n}?", max_tokens=3 + 4 * n)
        for text in range(2)
        for n in range(4)
    ]
    return [*tiny.text_items(), *texts]


def graphed(mine: Any) -> Any:
    """Let an engine on a CPU take steps as on a CUDA device."""
    mine.context.model.few_shapes = mine.context.model.graphs = True
    return mine


def by_key(answers: Any) -> dict[Any, Any]:
    """Answers by item and sample."""
    return {(one.item_id, one.sample): one for one in answers}


@pytest.mark.parametrize(("family", "settings"), [("llama", GREEDY), ("llama", SAMPLED), ("gemma2", GREEDY)])
def test_replayed_steps_give_the_answers_of_eager_ones(family, settings, graphs):
    """In slots and on shared texts, with and without windows: steps of few shapes, most of them replayed."""
    plain = by_key(tiny.engine(family).answer(items(), settings))
    assert not graphs
    mine = graphed(tiny.engine(family))
    assert by_key(mine.answer(items(), settings)) == plain
    assert mine.usage().notes == []
    assert 2 <= len(graphs) <= 12
    assert sum(one.replays for one in graphs) > 3 * len(graphs)


def test_a_call_that_hides_an_integer_is_noticed(graphs):
    """A number that is no input is frozen by the capture: the first replay is held to an eager run, which is used."""
    model = hf_model.LanguageModel(tiny.model("llama"), "cpu")
    model.graphs = True
    run, count = step.StaticStep(model), iter(range(100))
    found = [int(run(lambda width, one: one + width + next(count), 4, np.array([10]))) for _ in range(5)]
    assert found == [14, 15, 17, 18, 19]
    assert "another result" in model.no_graphs
    assert graphs[0].replays == 1


def test_every_integer_of_a_step_is_an_input_or_part_of_its_key(graphs):
    """Other widths and other numbers of rows are other graphs; other values are the same graph."""
    model = hf_model.LanguageModel(tiny.model("llama"), "cpu")
    model.graphs = True
    run = step.StaticStep(model)
    for number in range(6):
        for width in (4, 8):
            for rows in (1, 3):
                found = run(lambda width, one: one * width, width, np.full(rows, number))
                assert found.tolist() == [number * width] * rows
    assert len(graphs) == 4
    assert [one.replays for one in graphs] == [4] * 4
    assert model.graphs


def test_a_step_that_cannot_be_captured_is_run_eagerly_and_said(graphs):
    """A layer that asks the host for a number answers as before, and the variant's notes say why it is slower."""
    model = copy.deepcopy(tiny.model("llama"))
    model.model.layers[1].mlp.register_forward_pre_hook(lambda _, given: float(given[0].amax()) and None)
    plain = by_key(tiny.engine(model).answer(items(), GREEDY))
    mine = graphed(tiny.engine(model))
    assert by_key(mine.answer(items(), GREEDY)) == plain
    assert not graphs
    (note,) = mine.usage().notes
    assert "one by one" in note
    assert "not permitted when stream is capturing" in note


def test_memory_that_does_not_suffice_for_a_capture_halves_the_rows(graphs, monkeypatch):
    """As for any other pass: fewer rows, and no answer lost."""
    plain = by_key(tiny.engine("llama").answer(items(), GREEDY))
    full = [True]

    def capture(*args: Any) -> RecordedGraph:
        if full and full.pop():
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return RecordedGraph(*args)

    monkeypatch.setattr("harness.engines.transformers.cache.Graph", capture)
    mine = graphed(tiny.engine("llama"))
    assert by_key(mine.answer(items(), GREEDY)) == plain
    assert any("out of memory" in note for note in mine.usage().notes)
    assert graphs


@pytest.mark.gpu
@pytest.mark.parametrize("settings", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_graphs_on_a_gpu_give_the_answers_of_eager_steps(family, settings, monkeypatch):
    """A/A: the same model, items and device, with CUDA graphs and without, in slots and on shared texts."""
    monkeypatch.setattr("harness.engines.transformers.continuous.SHARED_PREFIX_AT_LEAST", 64)
    model = copy.deepcopy(tiny.model(family)).cuda()
    found = {}
    for captured in (True, False):
        mine = tiny.engine(model, device="cuda")
        mine.context.model.graphs = captured
        found[captured] = by_key(mine.answer(items(), settings))
        assert mine.context.model.no_graphs == ""
    assert found[True] == found[False]
