"""The engine without a model, and the engine round any lm_eval model."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import engine_models as tiny
import pytest
from lazily import lazy

from harness.engines.fake import Damage, FakeEngine, fake_proof
from harness.errors import NonFinite, UsageError
from harness.records import ChoiceLogprobs, Generation, Settings, Unanswered

lm_eval_engine = lazy("harness.engines.lm_eval")

GREEDY = Settings()


def many(count: int, **rest: Any) -> list[Any]:
    """So many items with the target ``yes``."""
    return [tiny.item(str(n), "a b c", target="yes", **({"max_tokens": 4} | rest)) for n in range(count)]


def share(values: list[bool]) -> float:
    """The share of true values."""
    return sum(values) / len(values)


def test_the_fake_engine_is_right_as_often_as_told():
    """Accuracy, lost and gained shares come out as given, on the same items for the same seed."""
    items = many(4000)
    baseline = FakeEngine(0.7)
    candidate = FakeEngine(0.7, damage={"s": Damage(lost=0.1, gained=0.04)})
    before, after = [baseline.right(item) for item in items], [candidate.right(item) for item in items]
    assert share(before) == pytest.approx(0.7, abs=0.03)
    pairs = list(zip(before, after, strict=True))
    assert share([old and not new for old, new in pairs]) == pytest.approx(0.1, abs=0.02)
    assert share([new and not old for old, new in pairs]) == pytest.approx(0.04, abs=0.015)
    assert [FakeEngine(0.7).right(item) for item in items] == before


def test_damage_is_by_stratum_before_slice_before_all():
    """The most particular damage counts."""
    items = many(500)
    place = f"s/{items[0].stratum}"
    table = {place: Damage(lost=1.0), "s": Damage(), "*": Damage()}
    assert not any(FakeEngine(1.0, damage=table).right(item) for item in items)
    del table[place]
    assert all(FakeEngine(1.0, damage=table).right(item) for item in items)
    assert not any(FakeEngine(1.0, damage={"*": Damage(lost=1.0)}).right(item) for item in items)


def test_what_the_fake_engine_answers():
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
    (other,) = FakeEngine(0.0, wrong=lambda item: f"not {item.target}").answer(many(1), GREEDY)
    assert other.text == "not yes"
    samples = list(FakeEngine(0.5).answer(many(40), Settings(temperature=1.0, samples=3)))
    assert len(samples) == 120
    assert len({one.text for one in samples[:3] + samples[3:6]}) == 2
    (long,) = FakeEngine(1.0, context_limit=5).answer(many(1), GREEDY)
    assert long == Unanswered("t/0", "over_context", 3)


def test_a_broken_item_and_a_missing_accuracy_are_errors():
    """NonFinite names the item; a table without the item is a usage error, as is an item without a right choice."""
    with pytest.raises(NonFinite, match="t/1"):
        list(FakeEngine(1.0, broken=["t/1"]).answer(many(3), GREEDY))
    with pytest.raises(UsageError, match="t/1: the fake engine was given no accuracy"):
        list(FakeEngine({"t/0": 1.0}).answer(many(2), GREEDY))
    with pytest.raises(UsageError, match="none of its choices"):
        list(FakeEngine(1.0).answer(many(1, choices=("a", "b")), GREEDY))


def test_another_fake_engine_has_another_version():
    """What decides the answers is in the version, which is part of every cache key."""
    versions = [FakeEngine(0.7), FakeEngine(0.8), FakeEngine(0.7, seed=1), FakeEngine(0.7, damage={"s": Damage(0.1)})]
    assert len({one.version for one in versions}) == 4
    assert fake_proof("fake", 4).quantized_modules == 10


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
    lm = lm_eval_engine.LmEvalEngine(hflm(), tiny.proof())
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
    lm_eval_engine.LmEvalEngine(lm, tiny.proof())
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
            lm_eval_engine.LmEvalEngine(Remote(float("nan")), tiny.proof()).answer(many(1, choices=("a", "b")), GREEDY)
        )
