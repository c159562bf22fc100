"""KV caches and decode paths: a quantized cache is in use and smaller; every exact path gives the same answers."""

from __future__ import annotations

from typing import Any

import engine_models as tiny
import pytest
from lazily import lazy

from harness.config.schema import KVCache
from harness.errors import ModelError
from harness.records import Settings

torch = lazy("torch")
assisted = lazy("harness.engines.transformers.decode_paths")

pytestmark = pytest.mark.usefixtures("one_thread")

GREEDY = Settings()


def answers(engine: Any, items: Any = None) -> dict[str, Any]:
    """Item id to what was answered."""
    return {one.item_id: one for one in engine.answer(items or tiny.text_items(), GREEDY)}


def texts(engine: Any) -> dict[str, tuple[int, ...]]:
    """Item id to the tokens of its answer."""
    return {name: one.token_ids for name, one in answers(engine).items()}


@pytest.mark.parametrize(("backend", "bits"), [("quanto", 2), ("quanto", 4), ("hqq", 8)])
def test_a_quantized_cache_is_in_use_and_measured(backend, bits):
    """Its class, and fewer bytes per token than the model's own; fewer bits move the next state further."""
    engine = tiny.engine(decoding=KVCache(backend=backend, bits=bits, group_size=12))
    facts = engine.proof().kv_cache
    assert facts["class"] == "QuantizedCache"
    assert facts["layers"].lower().startswith(backend)
    assert 0 < facts["bytes_per_token"] < facts["plain_bytes_per_token"] == 3 * 2 * 2 * 12 * 4
    assert {2: 0.2, 4: 0.03, 8: 0.0001}[bits] < facts["moved"] < {2: 3.0, 4: 0.6, 8: 0.02}[bits]
    assert not engine.context.continuous
    assert any("quantized KV cache" in note for note in engine.usage().notes)


def test_two_bits_change_free_text_and_no_choice():
    """What is decoded passes through the cache; choices are scored by reading, to the last bit as without it."""
    plain, quantized = tiny.engine(), tiny.engine(decoding=KVCache(bits=2, group_size=12))
    assert texts(plain) != texts(quantized)
    choices = tiny.choice_items()
    assert answers(plain, choices) == answers(quantized, choices)


def test_an_answer_on_a_quantized_cache_does_not_depend_on_its_batch():
    """Groups are within one token's vector: padded rows of any batch give the same tokens as one row alone."""
    cache = KVCache(bits=4, group_size=12, residual=4)
    assert texts(tiny.engine(decoding=cache)) == texts(tiny.engine(decoding=cache, max_batch=1))


def test_a_model_without_keys_and_values_takes_no_quantized_cache():
    """A recurrent state is no cache of keys."""
    with pytest.raises(ModelError, match="does not keep plain keys and values"):
        tiny.engine("mamba", decoding=KVCache())


@pytest.mark.parametrize("family", ["llama", "gemma3_text"])
def test_every_decode_path_gives_the_same_answers_in_float32(family):
    """A draft model, prompt lookup, one row at a time, eager attention: zero flips against the engine's own path."""
    wanted = texts(tiny.engine(family))
    lookup = assisted.Assisted(prompt_lookup=3)
    drafting = assisted.Assisted(tiny.model(family, seed=0))
    eager = tiny.random_like(family, attention="eager")
    paths = {
        "draft": tiny.engine(family, decoding=drafting),
        "lookup": tiny.engine(family, decoding=lookup),
        "one row": tiny.engine(family, max_batch=1),
        "eager": tiny.engine(eager),
    }
    assert {name: texts(engine) for name, engine in paths.items()} == dict.fromkeys(paths, wanted)
    assert drafting.passes < drafting.tokens  # the model as its own draft: most proposals are right
    assert "proposed tokens" in paths["lookup"].usage().notes[-1]
