"""What the engine does at its edges: limits, memory, broken models, samples, batches that must not matter, 16 bits."""

from __future__ import annotations

import copy
import inspect
import math
from types import SimpleNamespace
from typing import Any

import engine_models as tiny
import pytest
from lazily import lazy

from harness.errors import ModelError, NonFinite, RunError
from harness.records import ChoiceLogprobs, Generation, Settings, Unanswered

torch = lazy("torch")
hf_model = lazy("harness.engines.transformers.model")
probe = lazy("harness.engines.transformers.probe")
sampling = lazy("harness.engines.transformers.decode")

pytestmark = pytest.mark.usefixtures("one_thread")

GREEDY = Settings()
engine = tiny.engine


def by_id(answers: Any) -> dict[tuple[str, int], Any]:
    """Answers by item and sample."""
    found = {(one.item_id, one.sample): one for one in answers}
    assert found
    return found


def prompt_of(tokens: int) -> str:
    """A text of exactly so many tokens."""
    ids = tiny.tokenizer().encode("The quick brown fox jumps over the lazy dog. " * 60)[:tokens]
    text: str = tiny.tokenizer().decode(ids)
    assert len(tiny.tokenizer().encode(text)) == tokens
    return text


# -- limits


@pytest.mark.parametrize("optimizations", [True, False])
def test_a_prompt_is_answered_at_the_limit_and_refused_beyond_it(optimizations):
    """Prompt plus answer at 256 tokens is answered; one more, or far more, is said, with its length."""
    room = 8
    items = [
        tiny.item("at", prompt_of(tiny.CONTEXT - room), max_tokens=room),
        tiny.item("over", prompt_of(tiny.CONTEXT - room + 1), max_tokens=room),
        tiny.item("far", prompt_of(tiny.CONTEXT + 300), max_tokens=room),
    ]
    answers = by_id(engine(optimizations=optimizations).answer(items, GREEDY))
    at = answers["t/at", 0]
    assert isinstance(at, Generation)
    assert len(at.token_ids) == room
    assert answers["t/over", 0] == Unanswered("t/over", "over_context", tiny.CONTEXT - room + 1)
    assert answers["t/far", 0] == Unanswered("t/far", "over_context", tiny.CONTEXT + 300)


def test_choices_are_weighed_at_the_limit_and_refused_beyond_it():
    """The last token of a choice is predicted, not read, so 257 tokens fit; lm_eval would cut one more silently."""
    choice = " lazy"
    own = len(tiny.tokenizer().encode(choice))
    items = [
        tiny.item(name, prompt_of(tiny.CONTEXT + 1 - own + beyond), choices=(choice,))
        for name, beyond in (("at", 0), ("over", 1), ("far", 200))
    ]
    answers = by_id(engine().answer(items, GREEDY))
    assert isinstance(answers["t/at", 0], ChoiceLogprobs)
    assert isinstance(answers["t/over", 0], Unanswered)
    assert answers["t/far", 0].prompt_tokens == tiny.CONTEXT + 201 - own


def test_the_context_limit_is_the_models():
    """From the config where it says, from the tokenizer for a model without positions."""
    assert engine().context_limit == tiny.CONTEXT
    assert engine("mamba").context_limit == tiny.tokenizer().model_max_length


@pytest.mark.parametrize("said", [None, 10**30, 1e30, float("inf")])
def test_a_tokenizer_that_names_no_limit_sets_none(said):
    """Nor does one that stands for infinity, in any spelling."""
    from harness.engines.transformers.engine import NO_LIMIT, _context_limit

    assert _context_limit(SimpleNamespace(config=None), SimpleNamespace(model_max_length=said)) == NO_LIMIT


# -- which path a model takes


@pytest.mark.parametrize(
    ("family", "state", "shares"),
    [
        ("llama", "keys", True),
        ("gpt2", "keys", True),
        ("mistral", "keys", True),
        ("gemma3_text", "keys", True),
        ("mamba", "own", False),
        ("falcon_h1", "own", False),
    ],
)
def test_a_cache_that_is_not_plain_is_noticed(family, state, shares):
    """Sliding windows are taken care of; recurrent and hybrid models go the plain way, and the log says so."""
    model = probe.probed(tiny.model(family), "cpu")
    assert (model.path.state, model.path.trees) == (state, shares)
    mine = engine(family)
    assert mine.context.share_prefixes is mine.context.continuous is shares
    assert bool(mine.usage().notes) is not shares


def test_a_model_that_heeds_no_mask_gets_one_sequence_a_row():
    """A model that ignores the mask it is given fails the trial, and its answers are those of the plain way."""
    deaf = copy.deepcopy(tiny.model("llama"))
    listening = deaf.model.forward

    def forward(input_ids: Any = None, attention_mask: Any = None, position_ids: Any = None, **rest: Any) -> Any:
        if attention_mask is not None and attention_mask.ndim == 4:
            attention_mask = None
        return listening(input_ids=input_ids, attention_mask=attention_mask, position_ids=position_ids, **rest)

    forward.__signature__ = inspect.signature(listening)
    deaf.model.forward = forward
    mine = engine(deaf)
    assert not mine.context.share_prefixes
    assert not mine.context.continuous
    assert "failed the trial" in mine.usage().notes[0]
    assert by_id(mine.answer(tiny.text_items(), GREEDY)) == by_id(
        engine(optimizations=False).answer(tiny.text_items(), GREEDY)
    )


def test_a_head_with_a_scale_of_its_own_is_not_applied_apart():
    """A model that scales its logits in a way we do not know is asked whole, and gets its own log-probabilities."""
    scaled = copy.deepcopy(tiny.model("llama"))
    plain = scaled.forward

    def forward(*args: Any, **rest: Any) -> Any:
        out = plain(*args, **rest)
        out.logits = out.logits / 3
        return out

    scaled.forward = forward
    assert not hf_model.LanguageModel(scaled, "cpu").split_head
    items = tiny.choice_items()
    answers = by_id(engine(scaled).answer(items, GREEDY))
    one = items[1]
    ids = tiny.tokenizer().encode(one.prompt + one.choices[0])
    with torch.inference_mode():
        rows = scaled(torch.tensor([ids])).logits[0].log_softmax(-1)
    begin = len(tiny.tokenizer().encode(one.prompt))
    total = sum(float(rows[at - 1, ids[at]]) for at in range(begin, len(ids)))
    assert answers[one.id, 0].logprobs[0] == pytest.approx(total, abs=1e-4)


# -- shared work


def test_what_is_shared_is_read_once():
    """Tokens read: with sharing, a context once for all its choices; without, once for each."""
    items = [tiny.item("one", prompt_of(100), choices=(" a", " b", " c", " d"))]
    shared, apart = engine(), engine(optimizations=False)
    one, other = list(shared.answer(items, GREEDY)), list(apart.answer(items, GREEDY))
    assert one[0].logprobs == pytest.approx(other[0].logprobs, abs=1e-4)
    assert shared.usage().prompt_tokens < 110
    assert apart.usage().prompt_tokens >= 400


def test_a_long_shared_beginning_is_read_before_its_branches(monkeypatch):
    """Prefixes beyond the threshold are read in a pass of their own, and the answers stay the same."""
    monkeypatch.setattr("harness.engines.transformers.packing.PREFIX_ALONE", 64)
    for family in ("llama", "gemma2", "mistral"):
        items = [tiny.item(f"n{n}", prompt_of(150) + f" {n}?", max_tokens=12) for n in range(3)]
        items += [tiny.item(f"c{n}", prompt_of(140) + f" {n}?", choices=tiny.CHOICES) for n in range(3)]
        fast, plain = (
            by_id(engine(family).answer(items, GREEDY)),
            by_id(engine(family, optimizations=False).answer(items, GREEDY)),
        )
        for key, answer in fast.items():
            if isinstance(answer, Generation):
                assert answer == plain[key]
            else:
                assert answer.logprobs == pytest.approx(plain[key].logprobs, abs=1e-4)


def test_answers_do_not_depend_on_what_was_asked_before():
    """A unit asked again, after another, gives the same bytes: the contract that resuming rests on."""
    mine = engine(batch_tokens=500, max_batch=4)
    first = list(mine.answer(tiny.text_items() + tiny.choice_items(), GREEDY))
    list(mine.answer(tiny.text_items()[:3], GREEDY))
    assert list(mine.answer(tiny.text_items() + tiny.choice_items(), GREEDY)) == first


def test_a_method_whose_batches_matter_keeps_its_batches_to_the_end(monkeypatch):
    """No slot is filled again, so the batches of LLM.int8 depend on the unit alone; its answers are still right."""
    monkeypatch.setattr("harness.engines.transformers.continuous.Continuous.__call__", None)
    mine = engine(method="bnb-int8")
    assert (mine.context.share_prefixes, mine.context.continuous) == (True, False)
    answers = by_id(mine.answer(tiny.text_items() + tiny.choice_items(), GREEDY))
    for key, answer in by_id(
        engine(optimizations=False).answer(tiny.text_items() + tiny.choice_items(), GREEDY)
    ).items():
        if isinstance(answer, Generation):
            assert answers[key] == answer
        else:
            assert answers[key].logprobs == pytest.approx(answer.logprobs, abs=1e-4)


# -- memory


@pytest.mark.parametrize("options", [{}, {"method": "bnb-int8"}, {"optimizations": False}], ids=str)
def test_out_of_memory_halves_and_goes_on(options):
    """With room for little in a pass, every item is still answered as before, and the log tells."""
    items = tiny.text_items()[3:8] + tiny.choice_items()[3:8]
    expected = by_id(engine(**options).answer(items, GREEDY))
    mine = engine(**options)
    model = mine.context.model
    forward = model.forward

    def tight(ids: torch.Tensor, **rest: Any) -> torch.Tensor:
        if ids.numel() > 100:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return forward(ids, **rest)

    model.forward = tight
    answers = by_id(mine.answer(items, GREEDY))
    assert answers.keys() == expected.keys()
    for key, answer in answers.items():
        if isinstance(answer, Generation):
            assert answer == expected[key]
        else:
            assert answer.logprobs == pytest.approx(expected[key].logprobs, abs=1e-4)
    assert any("out of memory" in note for note in mine.usage().notes)


@pytest.mark.parametrize("items", [tiny.text_items, tiny.choice_items])
def test_one_item_that_does_not_fit_is_named(items):
    """The run stops with the item's id rather than for ever trying."""
    mine = engine()

    def none(ids: torch.Tensor, **rest: Any) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    mine.context.model.forward = none
    with pytest.raises(RunError, match=r"t/\w+: out of memory with this item alone"):
        list(mine.answer(items()[:2], GREEDY))


def test_a_full_device_is_a_reason_and_not_a_slower_way():
    """Memory that does not suffice for the trial of the fastest way stops the variant instead of slowing it down."""
    model = copy.deepcopy(tiny.model("llama"))
    listening = model.model.forward

    def forward(*args: Any, attention_mask: Any = None, **rest: Any) -> Any:
        if attention_mask is not None:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return listening(*args, attention_mask=attention_mask, **rest)

    forward.__signature__ = inspect.signature(listening)
    model.model.forward = forward
    with pytest.raises(ModelError, match=r"out of memory with a few tokens.* use a device with more"):
        engine(model)


# -- broken models


@pytest.mark.parametrize("optimizations", [True, False])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("kind", ["choice", "generate"])
def test_a_logit_that_is_no_number_names_its_item(optimizations, value, kind):
    """Only the item whose prompt holds the poisoned token is named."""
    poisoned = copy.deepcopy(tiny.model("llama"))
    token = tiny.tokenizer().encode("The 東 fox")[1]
    with torch.no_grad():
        poisoned.model.embed_tokens.weight[token] = value
    rest = {"choices": (" yes", " no")} if kind == "choice" else {"max_tokens": 3}
    items = [tiny.item(name, text, **rest) for name, text in (("good", "The fox"), ("bad", "The 東 fox"))]
    with pytest.raises(NonFinite, match="t/bad") as caught:
        list(engine(poisoned, optimizations=optimizations).answer(items, GREEDY))
    assert caught.value.item_id == "t/bad"


# -- samples


def test_samples_are_the_items_own():
    """A sample is a function of seed, item and number: not of batch, of optimisations or of other items."""
    settings = Settings(temperature=1.0, samples=3, seed=7)
    items = tiny.text_items()
    everything = by_id(engine().answer(items, settings))
    assert by_id(engine(batch_tokens=300, max_batch=2, optimizations=False).answer(items, settings)) == everything
    alone = by_id(engine().answer(items[3:4], settings))
    assert all(everything[key] == answer for key, answer in alone.items())
    assert len({answer.token_ids for answer in everything.values()}) > len(items)
    other = by_id(engine().answer(items, Settings(temperature=1.0, samples=3, seed=8)))
    assert other != everything


def keys(*items: str, sample: int = 0, position: int = 0) -> Any:
    """Which random numbers the answers to these items are drawn with."""
    return torch.tensor([[*sampling.noise_key(0, name, sample), position] for name in items])


@pytest.mark.parametrize(
    ("counter", "key", "words"),
    [
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_random_words_are_the_published_ones(counter, key, words):
    """The known answers of philox4x32-10 in Random123's kat_vectors (D. E. Shaw Research, 2011)."""
    counters, keys_ = ([torch.tensor([3, word]) for word in given] for given in (counter, key))
    assert tuple(int(word[1]) for word in sampling.philox(counters, keys_)) == words


def test_noise_is_standard_gumbel_and_a_function_of_its_key_alone():
    """Mean and variance are right; other items, samples and positions get other numbers, other batches the same."""
    noise = sampling.gumbel(keys("a", "b"), 40_001)
    assert noise.shape == (2, 40_001)
    assert float(noise.mean()) == pytest.approx(0.5772, abs=0.02)
    assert float(noise.var()) == pytest.approx(math.pi**2 / 6, abs=0.05)
    assert torch.equal(sampling.gumbel(keys("b"), 40_001), noise[1:])
    assert torch.equal(sampling.gumbel(keys("b"), 100), noise[1:, :100])
    others = [keys("b", sample=1), keys("b", position=1), keys("c")]
    assert not any((sampling.gumbel(one, 100) == noise[1, :100]).any() for one in others)


@pytest.mark.gpu
def test_noise_is_the_same_on_a_gpu():
    """Every number, to the bit."""
    here = sampling.gumbel(keys("a", "b"), 128_256)
    assert torch.equal(sampling.gumbel(keys("a", "b").cuda(), 128_256).cpu(), here)


def test_draws_follow_the_softmax():
    """Among 4,000 draws, each token's share is its probability, with and without a nucleus."""
    logits = torch.log(torch.tensor([[0.5, 0.3, 0.15, 0.05]])).expand(4000, -1)
    every = torch.cat([keys("t/1", sample=sample) for sample in range(4000)])
    for top_p, shares in ((1.0, [0.5, 0.3, 0.15, 0.05]), (0.75, [0.625, 0.375, 0.0, 0.0])):
        drawn = sampling.choose(logits, Settings(temperature=1.0, top_p=top_p), every)
        assert torch.bincount(drawn, minlength=4).div(4000).tolist() == pytest.approx(shares, abs=0.03)


def test_variants_that_agree_draw_the_same():
    """Two models whose logits differ a little draw the same token nearly always: noise is common to them."""
    draw = torch.Generator().manual_seed(0)
    logits = torch.randn(300, 50, generator=draw)
    other = logits + 0.02 * torch.randn(300, 50, generator=draw)
    settings = Settings(temperature=1.0)
    common = keys(*(f"t/{n}" for n in range(300)))
    one, two = (sampling.choose(each, settings, common) for each in (logits, other))
    assert (one == two).float().mean() > 0.97
    assert len(set(one.tolist())) > 30


def test_nothing_random_is_left_behind():
    """The global generators are as they were."""
    before = torch.get_rng_state()
    list(engine().answer(tiny.text_items(), Settings(temperature=1.0, samples=2)))
    assert torch.equal(torch.get_rng_state(), before)


# -- 16 bits


def test_log_probabilities_of_a_16_bit_model_are_not_rounded():
    """Within 1e-4 of float32 sums of the same bf16 states: HFLM's own would be rounded to 1/8 and more."""
    model = tiny.model("llama", dtype="bfloat16")
    mine = engine(model, optimizations=False, max_batch=1)
    items = tiny.choice_items()[:6]
    for answer in mine.answer(items, GREEDY):
        one = next(one for one in items if one.id == answer.item_id)
        for choice, logprob in zip(one.choices, answer.logprobs, strict=True):
            begin, rest = mine.context.texts.pairs(one.prompt, [choice], one.id)[0]
            with torch.inference_mode():
                hidden = model.model(torch.tensor([begin + rest[:-1]])).last_hidden_state[0, -len(rest) :]
                logits = hidden.double() @ model.lm_head.weight.double().T
            total = float(logits.log_softmax(-1).gather(1, torch.tensor(rest)[:, None]).sum())
            assert logprob == pytest.approx(total, abs=1e-3)


def test_usage_counts_tokens_and_memory():
    """Tokens written are those of the answers; memory is more than nothing."""
    mine = engine()
    answers = list(mine.answer(tiny.text_items(), GREEDY))
    usage = mine.usage()
    assert usage.output_tokens == sum(len(answer.token_ids) for answer in answers)
    assert 0 < usage.prompt_tokens < sum(answer.prompt_tokens for answer in answers)
    assert usage.peak_bytes > 1_000_000
