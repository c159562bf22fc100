"""What fits a device is known from the headers of the files, and what does not is refused before anything loads."""

from __future__ import annotations

import pytest
from commands import write
from lazily import lazy

from harness.config.loading import load
from harness.config.schema import Variant
from harness.errors import ConfigError
from harness.models.formats import headers
from harness.run import fitting

plan = lazy("harness.run.plan")
transformers = lazy("transformers")


def test_weights_are_counted_by_their_headers(tiny_llama):
    """In the compute dtype; a head that is tied is stored once; what is quantized while loading is smaller."""
    stored = sum(one.size for one in headers([tiny_llama / "model.safetensors"]).values())
    plain = Variant(name="a", model="x")
    assert fitting.weight_bytes_of(plain, tiny_llama, "bfloat16") == stored
    assert fitting.weight_bytes_of(plain, tiny_llama, "float32") == 2 * stored
    sizes = {
        method: fitting.weight_bytes_of(Variant(name="a", model="x", quantization=method), tiny_llama, "bfloat16")
        for method in ("bnb-int8", "bnb-nf4", "torchao-intx4", "quanto-int2", "hqq", "torchao-float8")
    }
    assert stored == sizes["hqq"] > sizes["bnb-int8"] == sizes["torchao-float8"]
    assert sizes["bnb-int8"] > sizes["bnb-nf4"] == sizes["torchao-intx4"] > sizes["quanto-int2"] > 0


def test_the_cache_is_that_of_the_model(tiny_llama):
    """As many numbers as the cache of a pass holds."""
    model = transformers.AutoModelForCausalLM.from_pretrained(tiny_llama)
    cache = model(input_ids=model.dummy_inputs["input_ids"][:1], use_cache=True).past_key_values
    held = sum(one.numel() * one.element_size() for layer in cache.layers for one in (layer.keys, layer.values))
    tokens = cache.get_seq_length()
    assert fitting.cache_bytes(model.config.get_text_config(), tokens, str(model.dtype).split(".")[1]) == held
    assert fitting.cache_bytes(transformers.MambaConfig(), tokens, "bfloat16") == 0


@pytest.mark.model
def test_a_plan_refuses_what_does_not_fit(tiny_llama, tmp_path, monkeypatch):
    """All variants that do not, with the sizes and what to do; those that fit are not named."""
    path = write(tmp_path, tiny_llama, execution={"device": "cpu", "dtype": "bfloat16", "control": False})
    experiment = load(path)
    memory = fitting.weight_bytes_of(experiment.baseline, tiny_llama, "bfloat16")
    monkeypatch.setattr(fitting, "memory_bytes", lambda _: memory)
    with pytest.raises(ConfigError, match=r"bf16 does not fit cpu: its weights take .* GiB and the cache of") as one:
        plan.make_plan(experiment, str(path), check=False)
    assert "use a smaller model" in str(one.value)
    assert "nf4" not in str(one.value)
    monkeypatch.setattr(fitting, "memory_bytes", lambda _: 100 * memory)
    assert plan.make_plan(experiment, str(path), check=False).items
