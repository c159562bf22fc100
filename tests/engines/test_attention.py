"""Attention of grouped queries without copies of keys and values: the numbers of the plain way, and its answers."""

from __future__ import annotations

import contextlib
import copy
import math
from types import SimpleNamespace
from typing import Any

import engine_models as tiny
import pytest
from lazily import lazy

from harness.records import Settings

torch = lazy("torch")
attention = lazy("harness.engines.transformers.attention")

pytestmark = pytest.mark.usefixtures("one_thread")


def inputs(dtype: str, group: int, tokens: int, keys: int, mask: str, seed: int = 0) -> tuple[Any, ...]:
    """Query, keys and values of three rows with two key heads, and a mask of truth values or of numbers to add."""
    draw = torch.Generator().manual_seed(seed)
    kind = getattr(torch, dtype)
    query = torch.randn(3, tokens, 2 * group, 32, generator=draw).transpose(1, 2).to(kind)
    key, value = (torch.randn(3, 2, keys, 32, generator=draw).to(kind) for _ in range(2))
    visible = torch.rand(3, 1, tokens, keys, generator=draw) < 0.6
    visible[..., 0] = True
    added = torch.zeros(visible.shape, dtype=kind).masked_fill(~visible, torch.finfo(kind).min)
    return query, key, value, visible if mask == "truth values" else added


@pytest.mark.parametrize("mask", ["truth values", "numbers"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("group", "tokens", "keys"), [(2, 1, 33), (3, 8, 700), (4, 5, 96), (8, 64, 130), (3, 65, 96)])
def test_the_numbers_are_those_of_repeated_keys_and_values(group, tokens, keys, dtype, mask):
    """For one query token and several, in both dtypes and with both kinds of masks: equal but for a last rounding."""
    query, key, value, seen = inputs(dtype, group, tokens, keys, mask)
    module = SimpleNamespace(num_key_value_groups=group, is_causal=True)
    found, _ = attention.grouped_sdpa(module, query, key, value, seen, scaling=0.2)
    wide = [one.repeat_interleave(group, dim=1) for one in (key, value)]
    plain = torch.nn.functional.scaled_dot_product_attention(query, *wide, attn_mask=seen, scale=0.2).transpose(1, 2)
    assert float((found - plain).abs().max()) <= 8 * torch.finfo(found.dtype).eps
    if tokens in (8, 64):  # products of these heights are cut into the same blocks
        assert torch.equal(found, plain)
    if tokens == 1:
        theirs, _ = attention.sdpa_attention_forward(module, query, key, value, seen, scaling=0.2)
        assert torch.equal(found, theirs)


@pytest.mark.parametrize("said", [0, 1, 3, 32])
def test_the_heads_of_the_keys_say_the_group_whatever_the_config_says(said):
    """A model with latent keys (MLA) has as many key heads as query heads, and a config that may say anything."""
    query, key, value, seen = inputs("float32", 4, 8, 90, "truth values")
    expected, _ = attention.grouped_sdpa(SimpleNamespace(num_key_value_groups=4), query, key, value, seen)
    found, _ = attention.grouped_sdpa(SimpleNamespace(num_key_value_groups=said), query, key, value, seen)
    assert torch.equal(found, expected)


@pytest.mark.parametrize("tokens", [8, 64])
def test_keys_and_values_are_read_once_a_group(tokens, monkeypatch):
    """The product sees the key heads that the cache holds, and as many query rows as the group has heads."""
    shapes = []
    product = torch.nn.functional.scaled_dot_product_attention
    monkeypatch.setattr(
        torch.nn.functional,
        "scaled_dot_product_attention",
        lambda query, key, *rest, **more: shapes.append((query.shape, key.shape)) or product(query, key, *rest, **more),
    )
    query, key, value, seen = inputs("float32", 4, tokens, 90, "truth values")
    attention.grouped_sdpa(SimpleNamespace(num_key_value_groups=4), query, key, value, seen)
    assert shapes == [((3, 2, 4 * tokens, 32), (3, 2, 90, 32))]


@pytest.mark.parametrize("mask", ["truth values", "numbers"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("group", "tokens"), [(1, 1), (4, 1), (2, 8)])
def test_parts_of_the_keys_merge_to_the_whole(group, tokens, dtype, mask, monkeypatch):
    """Attending to parts and weighing them by their sums, one part being masked out, adds a few roundings at most.

    Each part's share is the exponential of a difference of sums, so it is off by at most the roundings of the two sums,
    and a result by that times the largest value; and each part's result is rounded to the dtype once.
    """
    query, key, value, seen = inputs(dtype, group, tokens, 96, mask)
    hidden = False if mask == "truth values" else torch.finfo(query.dtype).min
    seen[..., 32:64] = hidden
    seen[1, ..., :64] = hidden  # and two in another row
    seen[1, ..., 64] = True if mask == "truth values" else 0.0
    module = SimpleNamespace(num_key_value_groups=group, is_causal=True)
    wide = [one.double().repeat_interleave(group, dim=1) for one in (key, value)]
    mine = seen if mask == "truth values" else seen.double()
    product = torch.nn.functional.scaled_dot_product_attention
    exact = product(query.double(), *wide, attn_mask=mine, scale=0.2).transpose(1, 2)
    plain, _ = attention.grouped_sdpa(module, query, key, value, seen, scaling=0.2)
    monkeypatch.setattr("harness.engines.transformers.attention.KEYS_PER_SPLIT", 32)
    split, _ = attention.grouped_sdpa(module, query, key, value, seen, scaling=0.2)
    assert not torch.equal(split, plain)
    scores = 0.2 * query.double() @ wide[0].transpose(-1, -2)
    sums = float(scores.abs().max()) + math.log(96)
    own, wide_eps = torch.finfo(query.dtype).eps, torch.finfo(torch.float32).eps
    bound = float(value.abs().max()) * (own + 2 * (sums + 1) * wide_eps)
    assert float((split - exact).abs().max()) <= float((plain - exact).abs().max()) + bound


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_parts_of_the_keys_merge_on_a_gpu(dtype, monkeypatch):
    """The kernel that returns sums there gives the numbers of a whole attention."""
    query, key, value, seen = (one.cuda() for one in inputs(dtype, 4, 8, 512, "truth values"))
    module = SimpleNamespace(num_key_value_groups=4, is_causal=True)
    plain, _ = attention.grouped_sdpa(module, query, key, value, seen, scaling=0.2)
    monkeypatch.setattr("harness.engines.transformers.attention.KEYS_PER_SPLIT", 64)
    split, _ = attention.grouped_sdpa(module, query, key, value, seen, scaling=0.2)
    assert float((split - plain).abs().max()) <= 8 * torch.finfo(query.dtype).eps * float(value.abs().max())


def cache(rows: int, device: str, dtype: str = "bfloat16") -> tuple[Any, ...]:
    """Queries of a group of 4 [rows, 2, 4, 64], the first 300 columns of a longer cache, lengths, and their mask."""
    draw, kind = torch.Generator().manual_seed(1), getattr(torch, dtype)
    query = torch.randn(rows, 2, 4, 64, generator=draw).to(device, kind)
    keys, values = (torch.randn(rows + 2, 2, 512, 64, generator=draw).to(device, kind) for _ in range(2))
    lengths = torch.tensor([1, 300, 7, 128, 129, 299][:rows], device=device)
    seen = torch.arange(300, device=device)[None] < lengths[:, None]
    return query, keys[:rows, :, :300], values[:rows, :, :300], lengths, seen[:, None, None]


def varlen(query, key, value, begins_q, begins_k, *, scale, seqused_k, **_: Any) -> tuple[Any]:
    """What torch's operation of that name computes, written down from its description: a sequence after the other."""
    out = torch.empty_like(query)
    for at, used in enumerate(seqused_k.tolist()):
        mine, first = slice(int(begins_q[at]), int(begins_q[at + 1])), int(begins_k[at])
        assert first + used <= int(begins_k[at + 1])
        keys, values = (one[first : first + used].transpose(0, 1).double() for one in (key, value))
        scores = query[mine].transpose(0, 1).double() @ keys.transpose(-1, -2) * (scale or query.shape[-1] ** -0.5)
        out[mine] = (scores.softmax(-1) @ values).transpose(0, 1).to(out.dtype)
    return (out,)


@pytest.mark.parametrize("rows", [1, 6])
def test_lengths_say_what_the_mask_says(rows, monkeypatch):
    """Rows that are the beginning of a cache are found in it, key head after key head, and nothing behind their end."""
    monkeypatch.setattr(torch.ops.aten, "_flash_attention_forward", varlen)
    query, key, value, lengths, seen = cache(rows, "cpu")
    found = attention.flash_by_length(query, key, value, lengths, 0.2).reshape(query.shape)
    product = torch.nn.functional.scaled_dot_product_attention
    wanted = product(query.double(), key.double(), value.double(), attn_mask=seen, scale=0.2)
    assert float((found - wanted).abs().max()) <= 2 * torch.finfo(query.dtype).eps * float(value.abs().max())


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("rows", [1, 6])
def test_lengths_say_what_the_mask_says_on_a_gpu(rows, dtype, monkeypatch):
    """The kernel that reads the first keys of each row gives the masked kernel's numbers."""
    query, key, value, lengths, seen = cache(rows, "cuda", dtype)
    module, asked = SimpleNamespace(num_key_value_groups=4, is_causal=True), query.reshape(rows, 8, 1, 64)
    masked, _ = attention.grouped_sdpa(module, asked, key, value, seen, scaling=0.2)
    used = []
    flash = attention.flash_by_length
    monkeypatch.setattr(attention, "flash_by_length", lambda *given: used.append(1) or flash(*given))
    with attention.first_keys(lengths):
        found, _ = attention.grouped_sdpa(module, asked, key, value, seen, scaling=0.2)
    assert used
    assert found.shape == masked.shape
    assert float((found - masked).abs().max()) <= 4 * torch.finfo(query.dtype).eps * float(value.abs().max())


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_a_model_answers_as_if_keys_were_not_split(family, monkeypatch):
    """Token for token, on shared texts and in slots, with and without windows (softcapped models are left alone)."""
    monkeypatch.setattr("harness.engines.transformers.continuous.SHARED_PREFIX_AT_LEAST", 64)
    items = tiny.text_items()
    items += [tiny.item(f"t{n}", "The quick brown fox jumps. " * 7 + f"{n}?", max_tokens=5) for n in range(4)]
    plain = {one.item_id: one for one in tiny.engine(family).answer(items, Settings())}
    used = []
    merged = attention.split_over_keys
    monkeypatch.setattr(
        "harness.engines.transformers.attention.split_over_keys",
        lambda *args: used.append(args[-1]) or merged(*args),
    )
    monkeypatch.setattr("harness.engines.transformers.attention.KEYS_PER_SPLIT", 16)
    assert {one.item_id: one for one in tiny.engine(family).answer(items, Settings())} == plain
    assert bool(used) is (family == "llama")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", ["llama", "qwen3", "mistral"])
def test_a_model_answers_as_without_it(family, dtype, monkeypatch):
    """Token for token, on a shared text and in slots; and the model keeps the attention that it came with."""
    monkeypatch.setattr("harness.engines.transformers.continuous.SHARED_PREFIX_AT_LEAST", 64)
    items = tiny.text_items()
    items += [tiny.item(f"t{n}", "The quick brown fox jumps. " * 14 + f"{n}?", max_tokens=5) for n in range(4)]
    model = copy.deepcopy(tiny.model(family, dtype=dtype))
    used = []
    grouped = attention.grouped_sdpa
    monkeypatch.setitem(
        attention.AttentionInterface._global_mapping,
        attention.NAME,
        lambda *args, **more: used.append(args[1].shape[2]) or grouped(*args, **more),
    )
    found = list(tiny.engine(model).answer(items, Settings()))
    assert {1, 4} <= set(used)
    assert model.config._attn_implementation == "sdpa"
    used.clear()
    monkeypatch.setattr("harness.engines.transformers.model.grouped_sdpa_in_use", lambda *_: contextlib.nullcontext())
    assert list(tiny.engine(model).answer(items, Settings())) == found
    assert used == []


@pytest.mark.parametrize("allowed", [True, False])
def test_cudnn_is_allowed_for_a_while(allowed):
    """Afterwards it is as allowed as before, whatever ends the pass."""
    before = torch.backends.cuda.cudnn_sdp_enabled()
    torch.backends.cuda.enable_cudnn_sdp(enabled=allowed)
    try:
        with contextlib.suppress(RuntimeError), attention.cudnn_attention():
            assert torch.backends.cuda.cudnn_sdp_enabled()
            raise RuntimeError
        assert torch.backends.cuda.cudnn_sdp_enabled() is allowed
    finally:
        torch.backends.cuda.enable_cudnn_sdp(enabled=before)
