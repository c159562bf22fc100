"""The engine on a pretend GPU: the CPU's answers, no mixing of devices, few copies, few shapes of attention."""

from __future__ import annotations

import collections
import copy

import engine_models as tiny
import pytest
from lazily import lazy

from harness.errors import ModelError
from harness.records import Settings

torch = lazy("torch")
pretend = lazy("pretend_cuda")
continuous = lazy("harness.engines.transformers.continuous")
divergence = lazy("harness.engines.transformers.divergence")
head = lazy("harness.engines.transformers.head")
hf_engine = lazy("harness.engines.transformers.engine")
hf_model = lazy("harness.engines.transformers.model")

pytestmark = pytest.mark.usefixtures("one_thread")

WAYS = {"greedy": Settings(), "sampled": Settings(temperature=0.8, top_p=0.9, seed=3)}
SHAPES_A_UNIT = 8
"""Attention shapes that a unit's steps may have: a GPU prepares plans or graphs for each."""


def louder(model):
    """The same model with other answers."""
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(1.02)
    return model


def asked(model, other, device, settings):
    """A baseline's and a candidate's answers to items of every kind, and the divergence between them."""
    items = [*tiny.choice_items()[3:6], *tiny.text_items()[2:6]]
    options = {"batch_tokens": 2048, "max_batch": 3}
    engine, candidate = (
        hf_engine.HFEngine(one, tiny.tokenizer(), tiny.proof(), device=device, **options) for one in (model, other)
    )
    recorder = divergence.Recorder()
    first = {one.item_id: one for one in engine.answer(items, settings, observer=recorder)}
    comparer = divergence.Comparer(recorder.traces, engine.head, candidate.head)
    second = {one.item_id: one for one in candidate.answer(items, settings, observer=comparer)}
    return first, second, comparer.found, engine


def copies(family="llama"):
    """A model and one with other answers."""
    return copy.deepcopy(tiny.model(family)), louder(copy.deepcopy(tiny.model(family)))


@pytest.mark.parametrize("way", WAYS)
def test_the_whole_engine_answers_as_on_the_cpu(way):
    """Choices, shared texts, slots, drafts, sampling and divergence of two models: no device is mixed with another."""
    wanted = asked(*copies(), "cpu", WAYS[way])
    with pretend.pretend_cuda():
        found = asked(*(pretend.place(one, {"": "cuda:0"}) for one in copies()), "cuda:0", WAYS[way])
        assert found[3].context.continuous
    assert found[:2] == wanted[:2]
    assert found[2].keys() == wanted[2].keys()
    for name, one in wanted[2].items():
        assert found[2][name].kl == pytest.approx(one.kl, abs=1e-6)
        assert found[2][name].same_top == one.same_top
    assert wanted[0] != wanted[1]


def steps_counted(items, settings, monkeypatch):
    """Answer items on a pretend GPU: what each step copied, and the shapes of attention in all steps."""
    steps, shapes = [], set()

    def watched(step):
        def run(*given):
            devices.counts.clear()
            devices.attention.clear()
            ended = list(step(*given))
            steps.append(collections.Counter({name: n for name, n in devices.counts.items() if n}))
            shapes.update(devices.attention)
            yield from ended

        return run

    monkeypatch.setattr(continuous.Continuous, "_decode_step", watched(continuous.Continuous._decode_step))
    with pretend.pretend_cuda() as devices:
        model = pretend.place(copies()[0], {"": "cuda:0"})
        engine = hf_engine.HFEngine(model, tiny.tokenizer(), tiny.proof(), device="cuda:0", max_batch=8)
        assert len(list(engine.answer(items, settings))) == len(items)
    return steps, shapes


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", ["slots", "branches"])
def test_a_step_copies_once_to_the_device_and_once_back(kind, way, monkeypatch):
    """Its integers go down together, its tokens come back together, and nothing else is waited for."""
    if kind == "slots":
        items = [tiny.item(f"g{n}", "The special number " * (1 + n), max_tokens=4 + 3 * n) for n in range(8)]
    else:
        text = (tiny.STORY * 9)[:420]
        items = [tiny.item(f"q{n}", f"{text} What is {n}?", max_tokens=10) for n in range(3)]
        monkeypatch.setattr("harness.engines.transformers.continuous.SHARED_PREFIX_AT_LEAST", 32)
    steps, shapes = steps_counted(items, WAYS[way], monkeypatch)
    worst = {name: max(step[name] for step in steps) for name in ("h2d", "d2h", "d2d", "sync")}
    assert len(steps) > 8
    assert {queries[2] for queries, _ in shapes} == {2 if kind == "slots" else 6}  # two heads a group, three branches
    assert worst == {"h2d": 1, "d2h": 1, "d2d": 0, "sync": 0}
    assert len(shapes) <= SHAPES_A_UNIT


def spread(model):
    """A model on two devices as accelerate spreads one: the embedding and a layer here, the rest and the head there."""
    from accelerate.hooks import AlignDevicesHook, add_hook_to_module

    second = ("model.layers.1", "model.layers.2", "model.norm", "lm_head")
    pretend.place(model, {"": "cuda:0", **dict.fromkeys(second, "cuda:1")})
    first = ("model.embed_tokens", "model.rotary_emb", "model.layers.0")
    for names, device in ((first, "cuda:0"), (second, "cuda:1")):
        for name in names:
            hook = AlignDevicesHook(execution_device=device, skip_keys=model._skip_keys_device_placement)
            add_hook_to_module(model.get_submodule(name), hook)
    model.hf_device_map = dict.fromkeys(first, 0) | dict.fromkeys(second, 1)
    return model


def test_a_model_on_two_devices_answers_as_on_one():
    """Baseline and candidate, with traces: tokens go in at the embedding's device, states come out at the head's."""
    wanted = asked(*copies(), "cpu", WAYS["greedy"])
    with pretend.pretend_cuda() as devices:
        first, second, found, engine = asked(*map(spread, copies()), "cuda:0,cuda:1", WAYS["greedy"])
        assert engine.context.continuous
        assert str(engine.context.model.device) == "cuda:1"
        assert not engine.context.model.graphs
        assert devices.counts["d2d"] > 0
    assert (first, second) == wanted[:2]
    assert found.keys() == wanted[2].keys()
    for name, one in wanted[2].items():
        assert found[name].kl == pytest.approx(one.kl, abs=1e-6)


def test_a_model_whose_layers_are_elsewhere_answers_as_whole():
    """With accelerate's own hooks: layers on the CPU's side are fetched at every pass."""
    import accelerate

    wanted = asked(*copies(), "cpu", WAYS["greedy"])
    parts = [accelerate.cpu_offload(one, execution_device="cpu") for one in copies()]
    found = asked(*parts, "cpu", WAYS["greedy"])
    assert found[0] == wanted[0]
    assert found[1] == wanted[1]
    assert not found[3].head.linear  # its weights are not there to be read


def test_a_gpu_gets_larger_tiles_and_a_bound_on_what_it_reads_at_once(monkeypatch):
    """Tiles change no logit; a pass of more than 32k tokens gains nothing and takes memory."""
    with pretend.pretend_cuda():
        model = pretend.place(copies()[0], {"": "cuda:0"})
        engine = hf_engine.HFEngine(model, tiny.tokenizer(), tiny.proof(), device="cuda:0", batch_tokens=1 << 17)
        assert engine.context.prefill_budget().tokens == 1 << 15
        assert engine.context.budget.tokens == 1 << 17
    assert head.tile_elements(torch.device("cuda:0")) == 8 * head.tile_elements(torch.device("cpu"))
    own = tiny.engine().head
    hidden = torch.randn(40, 48, generator=torch.Generator().manual_seed(0))
    whole = torch.cat([logits for _, logits in own.tiles(hidden, precise=True)])
    monkeypatch.setattr(head.tile_elements, "__defaults__", (3 * own.vocabulary,))
    parts = [logits for _, logits in own.tiles(hidden, precise=True)]
    assert len(parts) == 14
    assert torch.allclose(torch.cat(parts), whole, atol=1e-5)


def test_a_device_that_fails_in_the_trial_is_an_error(monkeypatch):
    """Not a model that takes no masks: all answers of the run would come the slowest way, for no reason."""
    forward = hf_model.LanguageModel.forward

    def failing(self, ids, **more):
        if more.get("mask") is not None:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        return forward(self, ids, **more)

    monkeypatch.setattr(hf_model.LanguageModel, "forward", failing)
    with pytest.raises(ModelError, match=r"the device failed with a few tokens.*illegal memory access"):
        tiny.engine()
