"""The engine gives what lm_eval's own `hf` model gives, for every family of models, in any batch composition."""

from __future__ import annotations

import functools
from typing import Any

import engine_models as tiny
import pytest

from harness.records import ChoiceLogprobs, Generation, Settings

pytestmark = pytest.mark.usefixtures("one_thread")

GREEDY = Settings()
engine = tiny.engine
BATCHES = {"wide": (4096, 64), "narrow": (300, 3), "alone": (1, 1)}
WAYS = ["on wide", "on narrow", "on alone", "off wide", "off narrow"]
# All ways for a plain family and for one with sliding windows; one way for the others.
CASES = [
    (family, way)
    for family in sorted(tiny.FAMILIES)
    for way in (WAYS if family in {"llama", "gemma2"} else ["on narrow"])
]
DRAFTS = ["right", "half right", "wrong", "cut"]
DRAFTED = [
    (family, drafts)
    for family in sorted(tiny.FAMILIES)
    for drafts in (DRAFTS if family in {"llama", "gemma2"} else DRAFTS[1:2])
]


def hflm(family: str, batch_size: int = 3) -> tuple[Any, list[list[int]]]:
    """lm_eval's own model round the same tiny model, and a list that gets the tokens it generates."""
    from lm_eval.models.huggingface import HFLM

    lm = HFLM(pretrained=tiny.model(family), tokenizer=tiny.tokenizer(), batch_size=batch_size)
    seen: list[list[int]] = []
    decode = lm.tok_decode

    def tok_decode(tokens: Any, **rest: Any) -> str:
        if isinstance(tokens, list):
            seen.append(tokens)
        return decode(tokens, **rest)

    lm.tok_decode = tok_decode
    return lm, seen


@functools.cache
def expected_choices(family: str) -> dict[str, list[tuple[float, bool]]]:
    """What lm_eval says of the choice items."""
    from lm_eval.api.instance import Instance

    items = tiny.choice_items()
    pairs = [(one.prompt, choice) for one in items for choice in one.choices]
    lm, _ = hflm(family)
    found = iter(lm.loglikelihood([Instance("loglikelihood", {}, pair, 0) for pair in pairs], disable_tqdm=True))
    return {one.id: [next(found) for _ in one.choices] for one in items}


@functools.cache
def expected_texts(family: str) -> dict[str, tuple[str, list[int]]]:
    """What lm_eval answers to the text items, one at a time, and the tokens it generated."""
    from lm_eval.api.instance import Instance

    items = tiny.text_items()
    lm, seen = hflm(family, batch_size=1)
    texts = []
    for one in items:
        arguments = {"until": list(one.stop), "max_gen_toks": one.max_tokens, "do_sample": False}
        texts += lm.generate_until([Instance("generate_until", {}, (one.prompt, arguments), 0)], disable_tqdm=True)
    return {one.id: (text, ids) for one, text, ids in zip(items, texts, seen, strict=True)}


def assert_same_choices(answers: list[Any], choices: dict[str, list[tuple[float, bool]]]) -> None:
    """The same within 1e-4 of the log-probability."""
    assert sorted(answer.item_id for answer in answers) == sorted(choices)
    for answer in answers:
        assert isinstance(answer, ChoiceLogprobs)
        wanted = choices[answer.item_id]
        assert answer.logprobs == pytest.approx([value for value, _ in wanted], abs=1e-4)
        assert answer.greedy == tuple(greedy for _, greedy in wanted)


def assert_same_texts(answers: list[Any], texts: dict[str, tuple[str, list[int]]]) -> None:
    """The same text and tokens."""
    assert sorted(answer.item_id for answer in answers) == sorted(texts)
    for answer in answers:
        assert isinstance(answer, Generation)
        text, ids = texts[answer.item_id]
        assert answer.text == text
        assert list(answer.token_ids) == ids[: len(answer.token_ids)]
        rest = ids[len(answer.token_ids) :]
        assert rest[:1] == ([tiny.tokenizer().eos_token_id] if answer.finish == "eos" else [])


@pytest.mark.parametrize(("family", "way"), CASES)
def test_choices_weigh_what_lm_eval_says(family, way):
    """Log-probabilities agree within 1e-4 with optimisations on and off, in any batch composition."""
    optimizations, batch = way.split()
    tokens, rows = BATCHES[batch]
    mine = engine(family, batch_tokens=tokens, max_batch=rows, optimizations=optimizations == "on")
    assert_same_choices(list(mine.answer(tiny.choice_items(), GREEDY)), expected_choices(family))


@pytest.mark.parametrize(("family", "way"), CASES)
def test_texts_are_those_of_lm_eval(family, way):
    """Generated tokens and texts are identical with optimisations on and off, in any batch composition."""
    optimizations, batch = way.split()
    tokens, rows = BATCHES[batch]
    mine = engine(family, batch_tokens=tokens, max_batch=rows, optimizations=optimizations == "on")
    assert_same_texts(list(mine.answer(tiny.text_items(), GREEDY)), expected_texts(family))


@pytest.mark.parametrize("family", sorted(tiny.FAMILIES))
def test_the_answers_are_worth_comparing(family):
    """The random model does not say one token for ever: the comparison above can fail."""
    spoken = [ids for _, ids in expected_texts(family).values()]
    assert sum(len(set(ids)) for ids in spoken) > 20
    assert len({tuple(ids[:3]) for ids in spoken}) > 3


@pytest.mark.parametrize(("family", "drafts"), DRAFTED)
def test_drafts_change_no_answer(family, drafts):
    """An answer checked against a draft is the answer without one, whatever the draft."""
    texts = expected_texts(family)
    ends = {tiny.tokenizer().eos_token_id}
    said = {name: [token for token in ids if token not in ends] for name, (_, ids) in texts.items()}
    wrong = {name: [(token + 7) % 256 + 6 for token in ids] for name, ids in said.items()}
    given = {
        "right": said,
        "half right": {name: ids[: len(ids) // 2] + wrong[name][len(ids) // 2 :] for name, ids in said.items()},
        "wrong": wrong,
        "cut": {name: ids[: len(ids) // 2] for name, ids in said.items()},
    }[drafts]
    mine = engine(family)
    assert_same_texts(list(mine.answer(tiny.text_items(), GREEDY, drafts=given)), texts)
