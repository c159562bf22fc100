"""The engine without a model, and the engine round any lm_eval model."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import engine_models as tiny
import pytest
from lazily import lazy

from harness.engines.fake import FakeEngine
from harness.errors import NonFinite, UsageError
from harness.records import ChoiceLogprobs, Generation, Settings, Unanswered

lm_eval_engine = lazy("harness.engines.lm_eval")

GREEDY = Settings()


def many(count: int, **rest: Any) -> list[Any]:
    """So many items with the target ``yes``."""
    return [tiny.item(str(n), "a b c", target="yes", **({"max_tokens": 4} | rest)) for n in range(count)]


def test_the_fake_engine_is_right_as_often_as_told():
    """Accuracy and the lost share come out as given, on the same items every time, and nothing is gained."""
    items = many(4000)
    before, after = ([FakeEngine(0.7, lost=lost).right(item) for item in items] for lost in ({}, {"s": 0.1}))
    assert sum(before) / 4000 == pytest.approx(0.7, abs=0.03)
    pairs = list(zip(before, after, strict=True))
    assert sum(old and not new for old, new in pairs) / 4000 == pytest.approx(0.1, abs=0.02)
    assert not any(new and not old for old, new in pairs)
    assert [FakeEngine(0.7).right(item) for item in items] == before


def test_damage_is_by_stratum_before_slice_before_all():
    """The most particular damage counts."""
    items = many(500)
    place = f"s/{items[0].stratum}"
    table = {place: 1.0, "s": 0.0, "*": 1.0}
    assert not any(FakeEngine(1.0, lost=table).right(item) for item in items)
    del table[place]
    assert all(FakeEngine(1.0, lost=table).right(item) for item in items)
    assert not any(FakeEngine(1.0, lost={"*": 1.0}).right(item) for item in items)


def test_what_the_fake_engine_answers(monkeypatch):
    """A right answer is the target or the right choice, a wrong one is not; samples differ; too long is said."""
    choices = many(1, choices=(" no", " yes"), gold=1, max_tokens=0)
    (right,) = FakeEngine(1.0).answer(choices, GREEDY)
    (wrong,) = FakeEngine(0.0).answer(choices, GREEDY)
    assert isinstance(right, ChoiceLogprobs)
    assert right.logprobs[1] > right.logprobs[0]
    assert wrong.logprobs[1] < wrong.logprobs[0]
    (text,) = FakeEngine(1.0).answer(many(1), GREEDY)
    assert isinstance(text, Generation)
    assert text.text == "yes"
    (other,) = FakeEngine(0.0, wrong="not yes").answer(many(1), GREEDY)
    assert other.text == "not yes"
    samples = list(FakeEngine(0.5).answer(many(40), Settings(temperature=1.0, samples=3)))
    assert len(samples) == 120
    assert len({one.text for one in samples[:3] + samples[3:6]}) == 2
    monkeypatch.setattr(FakeEngine, "context_limit", 5)
    (long,) = FakeEngine(1.0).answer(many(1), GREEDY)
    assert long == Unanswered("t/0", "over_context", 3)


def test_an_item_without_a_right_choice_cannot_be_rehearsed():
    """It is a usage error."""
    with pytest.raises(UsageError, match="none of its choices"):
        list(FakeEngine(1.0).answer(many(1, choices=("a", "b")), GREEDY))


def test_another_fake_engine_has_another_version():
    """What decides the answers is in the version, which is part of every cache key."""
    assert len({one.version for one in (FakeEngine(0.7), FakeEngine(0.8), FakeEngine(0.7, lost={"s": 0.1}))}) == 3


def test_the_fake_engine_needs_no_torch():
    """It loads where only the judging half is installed."""
    code = "import sys, harness.engines.fake; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def hflm() -> Any:
    """lm_eval's own model round the tiny one."""
    from lm_eval.models.huggingface import HFLM

    return HFLM(pretrained=tiny.model("llama"), tokenizer=tiny.tokenizer(), batch_size=2)


def test_any_lm_eval_model_gives_our_records():
    """lm_eval's `hf` model behind our protocol answers as our own engine does."""
    lm = lm_eval_engine.LmEvalEngine(hflm(), tiny.proof(), name="hf")
    mine = tiny.engine()
    items = tiny.choice_items() + tiny.text_items() + [tiny.item("far", "fox " * 400, max_tokens=4)]
    theirs = {one.item_id: one for one in lm.answer(items, GREEDY)}
    assert lm.context_limit == mine.context_limit
    for one in mine.answer(items, GREEDY):
        other = theirs[one.item_id]
        assert type(other) is type(one)
        assert other.prompt_tokens == one.prompt_tokens or one.item_id == "t/empty"
        if isinstance(one, ChoiceLogprobs):
            assert other.logprobs == pytest.approx(one.logprobs, abs=1e-4)
            assert other.greedy == one.greedy
            assert other.token_counts == one.token_counts or one.item_id == "t/empty"
        elif isinstance(one, Generation):
            assert other.text == one.text
    assert lm.usage().output_tokens > 0


def test_log_likelihoods_are_asked_for_in_float32():
    """lm_eval's `hf` would round them to the model's type."""
    import torch

    lm = hflm()
    assert lm.softmax_dtype is None
    lm_eval_engine.LmEvalEngine(lm, tiny.proof(), name="hf")
    assert lm.softmax_dtype is torch.float32


class Remote:
    """A model that lm_eval reaches over a wire: no tokenizer here, no limits known."""

    def __init__(self, logprob: float = -1.0) -> None:
        self.logprob = logprob
        self.asked: list[Any] = []

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """The same number for every pair."""
        self.asked += requests
        return [(self.logprob, False) for _ in requests]

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        """The same text for every prompt."""
        self.asked += requests
        return ["an answer" for _ in requests]


def test_a_remote_model_without_a_tokenizer_works():
    """What it does not tell is left out; the arguments of generation reach it."""
    remote = Remote()
    engine = lm_eval_engine.LmEvalEngine(remote, tiny.proof(), name="endpoint")
    settings = Settings(temperature=0.5, top_p=0.9, samples=2)
    answers = list(engine.answer([*many(2, stop=("x",)), *many(1, choices=(" a", " b"), max_tokens=0)], settings))
    assert [one.sample for one in answers if isinstance(one, Generation)] == [0, 0, 1, 1]
    assert all(one.token_ids == () for one in answers if isinstance(one, Generation))
    assert remote.asked[-1].args == (
        "a b c",
        {"until": ["x"], "max_gen_toks": 4, "do_sample": True, "temperature": 0.5, "top_p": 0.9},
    )
    assert "endpoint" in engine.version
    assert "not paired" in engine.usage().notes[0]


def test_a_log_likelihood_that_is_no_number_names_its_item():
    """Nothing falls open."""
    with pytest.raises(NonFinite, match="t/0"):
        list(
            lm_eval_engine.LmEvalEngine(Remote(float("nan")), tiny.proof(), name="remote").answer(
                many(1, choices=("a", "b")), GREEDY
            )
        )
