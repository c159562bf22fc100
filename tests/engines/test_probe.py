"""Which way a model is asked is found out on the model itself, and that way answers as `generate()` does."""

from __future__ import annotations

from typing import Any

import pytest
from random_models import make

pytestmark = pytest.mark.usefixtures("one_thread")

SIZES = {
    "hidden_size": 48,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 12,
    "max_position_embeddings": 256,
    "initializer_range": 0.3,
    "tie_word_embeddings": False,
}
CHUNKED = {
    "num_local_experts": 2,
    "intermediate_size_mlp": 64,
    "attention_chunk_size": 24,
    "no_rope_layers": [1, 1, 0],
    "layer_types": ["chunked_attention", "chunked_attention", "full_attention"],
}
LONGROPE = {
    "pad_token_id": 1,
    "original_max_position_embeddings": 48,
    "rope_parameters": {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "short_factor": [1.0] * 6,
        "long_factor": [4.0 + at for at in range(6)],
        "original_max_position_embeddings": 48,
    },
}
LINEAR = {"num_local_experts": 2, "layer_types": ["linear_attention", "full_attention", "linear_attention"]}
FAMILIES: dict[str, dict[str, Any]] = {
    "rwkv": {"hidden_size": 48, "attention_hidden_size": 48, "num_hidden_layers": 3, "initializer_range": 0.3},
    "llama4_text": {**SIZES, **CHUNKED},
    "minimax": {**SIZES, **LINEAR, "block_size": 16},
    "xlstm": {"hidden_size": 64, "num_blocks": 2, "num_hidden_layers": 2, "num_heads": 4, "initializer_range": 0.3},
    "recurrent_gemma": {**SIZES, "attention_window_size": 24, "lru_width": 48},
    "mpt": {"d_model": 48, "n_heads": 4, "n_layers": 3, "initializer_range": 0.3},
    "phi3": {**SIZES, **LONGROPE},
}


def engine(model: Any, **options: Any) -> Any:
    """An engine round a model."""
    import engine_models as tiny

    from harness.engines.transformers.engine import HFEngine

    return HFEngine(model, tiny.tokenizer(), tiny.proof(), device="cpu", **options)


def generated(model: Any, prompt: str, most: int, **options: Any) -> list[int]:
    """What `generate()` answers greedily, without the end token."""
    import engine_models as tiny
    import torch

    ids = torch.tensor([tiny.tokenizer().encode(prompt)])
    end = tiny.tokenizer().eos_token_id
    out = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=most,
        do_sample=False,
        eos_token_id=end,
        pad_token_id=1,
        **options,
    )
    return [token for token in out[0, ids.shape[1] :].tolist() if token != end]


def texts(count: int = 20) -> list[Any]:
    """Prompts of several lengths, some of which begin alike."""
    import engine_models as tiny

    story = "The special number is 7381. The special number "
    prompts = ["The", story, story + "is", story + "for the key is", "La capitale de la France est Paris. Die"]
    return [tiny.item(f"t{at}", prompt, max_tokens=count) for at, prompt in enumerate(prompts)]


@pytest.fixture(scope="module", params=sorted(FAMILIES))
def model(request: pytest.FixtureRequest) -> Any:
    """A random model of each family."""
    return make(request.param, FAMILIES[request.param])


@pytest.mark.parametrize("batch", [(200, 3), (1, 1)], ids=["narrow", "alone"])
def test_texts_are_those_of_generate(model, batch):
    """Token by token, in any batch; for models that forget in their own cache, those of `generate(use_cache=False)`."""
    from harness.records import Settings

    tokens, rows = batch
    mine = engine(model, batch_tokens=tokens, max_batch=rows)
    answers = {one.item_id: list(one.token_ids) for one in mine.answer(texts(), Settings())}
    kept = mine.context.model.path.state != "none"
    wanted = {one.id: generated(model, one.prompt, one.max_tokens, use_cache=kept) for one in texts()}
    assert answers == wanted
    assert len({tuple(ids) for ids in wanted.values()}) > 3


def test_choices_weigh_what_the_model_says_alone(model):
    """Log-probabilities are those of one reading of each choice with its prompt, whatever else is in the batch."""
    import engine_models as tiny
    import torch

    from harness.records import Settings

    items = tiny.choice_items()
    encode = tiny.tokenizer().encode
    noise = 2e-2 if model.config.model_type == "xlstm" else 2e-4  # its kernels compute in bf16 inside
    answers = {one.item_id: one for one in engine(model).answer(items, Settings())}
    for item in items:
        if not item.prompt or item.prompt != item.prompt.rstrip():
            continue
        start = len(encode(item.prompt))
        for choice, got in zip(item.choices, answers[item.id].logprobs, strict=True):
            ids = torch.tensor([encode(item.prompt + choice)])
            with torch.inference_mode():
                rows = model(ids[:, :-1], use_cache=False).logits[0, start - 1 :].float().log_softmax(-1)
            wanted = rows.gather(1, ids[0, start:, None]).sum()
            assert got == pytest.approx(float(wanted), abs=noise)


@pytest.mark.parametrize(
    ("family", "batched", "state"),
    [
        ("llama4_text", True, "keys"),
        ("rwkv", False, "own"),  # transformers' code mixes the rows of a batch
        ("minimax", True, "own"),
        ("recurrent_gemma", True, "none"),  # keeps its state in its modules, not in what it gives out
        ("mpt", True, "keys"),  # its positions are places in the row: no branches
    ],
)
def test_the_way_is_the_fastest_that_agrees(family, batched, state):
    """And a model that does not take the fastest says why in the notes."""
    mine = engine(make(family, FAMILIES[family]))
    path = mine.context.model.path
    assert (path.trees, path.batched, path.state) == (False, batched, state)
    assert "no beginnings were shared" in mine.usage().notes[0]


def test_a_state_that_is_not_heeded_is_not_used():
    """A model that drops what it is handed back writes other text: it is read again at every step instead."""
    from harness.records import Settings

    forgetful = make("rwkv", FAMILIES["rwkv"])
    listening = forgetful.rwkv.forward

    def forward(input_ids: Any = None, state: Any = None, use_cache: Any = None, **rest: Any) -> Any:
        return listening(input_ids=input_ids, use_cache=use_cache, **rest)

    forgetful.rwkv.forward = forward
    mine = engine(forgetful)
    assert mine.context.model.path.state == "none"
    assert "reads everything again" in mine.usage().notes[0]
    answers = {one.item_id: list(one.token_ids) for one in mine.answer(texts(8), Settings())}
    assert answers == {one.id: generated(forgetful, one.prompt, 8, use_cache=False) for one in texts()}


def test_a_model_that_never_says_the_same_twice_is_refused():
    """Noise in the forward pass leaves nothing to compare."""
    import torch

    from harness.errors import ModelError

    noisy = make("llama", SIZES)
    noisy.model.norm.register_forward_hook(lambda _module, _inputs, out: out + torch.randn_like(out))
    with pytest.raises(ModelError, match="other numbers when it reads the same tokens again"):
        engine(noisy)


def test_a_model_that_cannot_read_is_refused_in_a_sentence():
    """What a model raises becomes a message."""
    from harness.errors import ModelError

    broken = make("llama", SIZES)

    def forward(*_inputs: Any, **_options: Any) -> Any:
        raise RuntimeError("expected m1 and m2 to have the same dtype")

    broken.model.layers[1].forward = forward
    with pytest.raises(ModelError, match="cannot read a few tokens: expected m1"):
        engine(broken)


# -- positions that depend on lengths


@pytest.mark.parametrize(
    ("more", "switch"),
    [
        ({}, None),
        ({"rope_parameters": {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}}, 256),
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 2.0}}, None),
        (LONGROPE, 48),
    ],
)
def test_the_length_at_which_positions_change_is_found(more, switch):
    """Asked of the embedding: dynamic and longrope change for all tokens of a pass, yarn for none."""
    from harness.engines.transformers.model import FARTHEST, length_switch

    assert length_switch(make("llama", {**SIZES, **more})) == (switch or FARTHEST)


def test_answers_across_the_switch_are_the_same_in_any_company():
    """Prompts before, across and behind the length are answered and weighed as alone, and the notes say so."""
    import engine_models as tiny

    from harness.records import Settings

    model = make("phi3", FAMILIES["phi3"])
    items = [*texts(48), *tiny.choice_items(), *tiny.text_items()]
    together = engine(model)
    assert together.context.model.path.trees
    assert any("positions change from token 48 on" in note for note in together.usage().notes)
    found = {one.item_id: one for one in together.answer(items, Settings())}
    for item in items:
        (alone,) = engine(model, max_batch=1).answer([item], Settings())
        if item.kind == "choice":
            assert found[item.id].logprobs == pytest.approx(alone.logprobs, abs=1e-4)
        else:
            assert found[item.id].token_ids == alone.token_ids


def test_a_longrope_model_without_a_rule_of_its_own_answers_as_generate():
    """Phi-3 reads everything again at the switch; a Llama with longrope goes on with the keys that it has."""
    from harness.records import Settings

    model = make("llama", {**SIZES, **LONGROPE})
    answers = {one.item_id: list(one.token_ids) for one in engine(model).answer(texts(48), Settings())}
    assert answers == {one.id: generated(model, one.prompt, 48) for one in texts()}


def test_a_divergence_is_measured_across_the_switch():
    """A model compared with itself has a divergence of 0 for every item, long ones too."""
    from harness.engines.transformers.divergence import Comparer, Recorder
    from harness.records import Settings

    mine = engine(make("phi3", FAMILIES["phi3"]))
    recorder = Recorder(64)
    list(mine.answer(texts(48), Settings(), observer=recorder))
    comparer = Comparer(recorder.traces, mine.head, mine.head)
    list(mine.answer(texts(48), Settings(), observer=comparer))
    assert sorted(comparer.found) == sorted(one.id for one in texts())
    assert all(max(one.kl) < 1e-9 for one in comparer.found.values())


@pytest.mark.slow
def test_llm_int8_keeps_the_way_of_its_model(smollm2):
    """Its numbers depend on the pass by more than any rounding: that is the method, and no reason for a slower way."""
    from harness.config.schema import Variant
    from harness.engines.transformers.engine import HFEngine
    from harness.models.loading import load

    made = load(Variant(name="x", quantization="bnb-int8"), smollm2, device="cpu", dtype="bfloat16")
    mine = HFEngine(made.model, made.tokenizer, made.proof, device="cpu")
    assert mine.context.model.path.trees
    assert not mine.context.continuous
