"""Answers that grow on one copy of the text they share: the same answers, one row for a text, and rows taken again."""

from __future__ import annotations

from typing import Any

import engine_models as tiny
import pytest
from lazily import lazy

from harness.records import Generation, Settings

torch = lazy("torch")
hf_branches = lazy("harness.engines.transformers.cache")

pytestmark = pytest.mark.usefixtures("one_thread")

GREEDY = Settings()
engine = tiny.engine
BUDGETS = [({}, 3), ({"batch_tokens": 450}, 2), ({"max_batch": 4}, 1)]
CASES = [
    (family, *budget)
    for family in sorted(set(tiny.FAMILIES) - {"mamba", "falcon_h1"})
    for budget in (BUDGETS if family in {"llama", "gemma2"} else BUDGETS[1:2])
]
WORDS = "The quick brown fox jumps over the lazy dog and runs on to the river. "


def items(texts: int = 3, questions: int = 4) -> list[Any]:
    """Texts with questions, some texts with fewer, answers of unlike lengths, and a question on no text."""
    made = [tiny.item("alone", "La capitale est", max_tokens=9)]
    for text in range(texts):
        for number in range(questions - text % 2):
            prompt = f"{text} {WORDS * 5}" + f"{number}?"
            made.append(tiny.item(f"t{text}q{number}", prompt, max_tokens=3 + 4 * number, stop=("zz",)))
    return made


def by_key(answers: Any) -> dict[tuple[str, int], Generation]:
    """Answers by item and sample."""
    return {(one.item_id, one.sample): one for one in answers}


@pytest.fixture
def sizes(monkeypatch):
    """Texts count as such from 64 tokens on; gives the sizes of the steps taken on them: [texts, branches]."""
    seen: list[tuple[int, ...]] = []
    step = hf_branches.PrefixTreeCache.step
    monkeypatch.setattr("harness.engines.transformers.continuous.SHARED_PREFIX_AT_LEAST", 64)
    monkeypatch.setattr(
        hf_branches.PrefixTreeCache,
        "step",
        lambda self, *args: seen.append((self.used, self._branches)) or step(self, *args),
    )
    return seen


@pytest.mark.parametrize(("family", "budget", "most"), CASES)
def test_the_answers_are_those_of_rows_of_their_own(family, budget, most, sizes):
    """Token for token, with room for every text at once, for two, and for one after the other."""
    plain = by_key(engine(family, optimizations=False).answer(items(), GREEDY))
    assert not sizes
    assert by_key(engine(family, **budget).answer(items(), GREEDY)) == plain
    assert max(texts for texts, _ in sizes) == most
    assert {branches for _, branches in sizes} == {4}


@pytest.mark.parametrize("drafts", ["right", "half right", "wrong"])
@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_drafts_on_a_text_change_no_answer(family, drafts, sizes):
    """A draft is checked in the pass that reads the text, and its answer grows on from where they part."""
    plain = by_key(engine(family, optimizations=False).answer(items(), GREEDY))
    list(engine(family).answer(items(), GREEDY))
    steps = len(sizes)
    sizes.clear()
    given = {}
    for (name, _), one in plain.items():
        kept = {"right": len(one.token_ids), "half right": len(one.token_ids) // 2, "wrong": 0}[drafts]
        given[name] = (*one.token_ids[:kept], *[7] * (len(one.token_ids) - kept))
    assert by_key(engine(family).answer(items(), GREEDY, drafts=given)) == plain
    assert len(sizes) < steps / 4 if drafts == "right" else sizes


@pytest.mark.parametrize("family", ["llama", "mistral"])
def test_ties_on_a_text_are_decided_by_decoding(family, sizes, monkeypatch):
    """Where noise could have turned every token, each is decoded again on top of its path, and the draft goes on."""
    monkeypatch.setitem(
        __import__("harness.engines.transformers.continuous", fromlist=["NOISE"]).NOISE, torch.float32, 1e9
    )
    plain = by_key(engine(family, optimizations=False).answer(items(), GREEDY))
    given = {name: one.token_ids for (name, _), one in plain.items()}
    assert by_key(engine(family).answer(items(), GREEDY, drafts=given)) == plain
    assert sizes


def test_samples_on_a_text_are_those_of_rows_of_their_own(sizes):
    """Random numbers belong to item, sample and position, whatever grows beside them."""
    settings = Settings(temperature=0.8, samples=2, seed=5)
    plain = by_key(engine("llama", optimizations=False).answer(items(2), settings))
    assert by_key(engine("llama").answer(items(2), settings)) == plain
    assert sizes


def test_a_text_is_held_once(sizes, monkeypatch):
    """The cache of four questions on a text has one row, where slots take four."""
    rooms: list[int] = []
    took = hf_branches.PrefixTreeCache.copy_prompt
    monkeypatch.setattr(
        hf_branches.PrefixTreeCache,
        "copy_prompt",
        lambda self, *args: took(self, *args) + 0 * len(rooms.append(self._cache.layers[0].keys.shape[0]) or []),
    )
    list(engine("llama").answer(items(1)[1:], GREEDY))
    assert rooms == [1]
    assert sizes


def test_long_answers_keep_rows_of_their_own(sizes):
    """Where what grows is longer than the text, every step would look at too much: slots are used."""
    asked = [tiny.item(f"q{n}", WORDS * 5 + f"{n}?", max_tokens=40) for n in range(4)]
    list(engine("llama").answer(asked, GREEDY))
    assert not sizes


def test_memory_that_does_not_suffice_halves_the_texts(sizes):
    """A pass that is too large is tried again smaller, and no answer is lost or given twice."""
    plain = by_key(engine("llama", optimizations=False).answer(items(), GREEDY))
    mine = engine("llama")
    model = mine.context.model
    forward = model.forward

    def tight(ids: torch.Tensor, **rest: Any) -> torch.Tensor:
        if rest.get("cache") is not None and ids.shape[0] > 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return forward(ids, **rest)

    model.forward = tight
    answers = list(mine.answer(items(), GREEDY))
    assert len(answers) == len(plain)
    assert by_key(answers) == plain
    assert any("out of memory" in note for note in mine.usage().notes)
