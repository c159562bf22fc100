"""Exactness beyond the parity of tiny models: SmolLM2 itself, padding, chat templates, optimisations that run."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import engine_models as tiny
import pytest
from lazily import lazy

from harness.records import ChoiceLogprobs, Generation, Item, Settings

torch = lazy("torch")
hf_slots = lazy("harness.engines.transformers.cache")

pytestmark = pytest.mark.usefixtures("one_thread")

GREEDY = Settings()
engine = tiny.engine


def asked_of_lm_eval(model: Any, tokenizer: Any, items: list[Item], batch_size: int) -> dict[str, Any]:
    """What lm_eval's own model says: log-probabilities of the choices with greediness, or the text."""
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    lm = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch_size, softmax_dtype="float32")
    found: dict[str, Any] = {}
    for one in items:
        if one.kind == "choice":
            pairs = [Instance("loglikelihood", {}, (one.prompt, choice), 0) for choice in one.choices]
            found[one.id] = lm.loglikelihood(pairs, disable_tqdm=True)
        else:
            more = {"until": list(one.stop), "max_gen_toks": one.max_tokens, "do_sample": False}
            found[one.id] = lm.generate_until(
                [Instance("generate_until", {}, (one.prompt, more), 0)], disable_tqdm=True
            )[0]
    return found


def assert_as_said(answers: list[Any], said: dict[str, Any], gap: float = 1e-4) -> None:
    """Every answer is what lm_eval said."""
    assert sorted(one.item_id for one in answers) == sorted(said)
    for one in answers:
        if isinstance(one, ChoiceLogprobs):
            assert one.logprobs == pytest.approx([value for value, _ in said[one.item_id]], abs=gap)
            assert one.greedy == tuple(greedy for _, greedy in said[one.item_id])
        else:
            assert isinstance(one, Generation)
            # lm_eval also ends an answer at the white space that it begins with; see docs/decisions.md.
            expected = said[one.item_id]
            assert one.text == expected or (not expected.strip() and one.text.startswith(expected))


# -- the real model


@pytest.fixture(scope="module")
def smollm2(smollm2: Path) -> tuple[Any, Any]:
    """SmolLM2-135M-Instruct in float32, with its tokenizer."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = str(smollm2)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    return model, AutoTokenizer.from_pretrained(folder)


def real_items(tokenizer: Any) -> list[Item]:
    """Choices on a shared text, and questions with and without the chat template."""
    story = "The river ran past the mill, and the miller's daughter counted the boats. "
    question = [{"role": "user", "content": "Tom has 12 apples and eats 5. How many are left?"}]
    chat = tokenizer.apply_chat_template(question, tokenize=False, add_generation_prompt=True)
    choices = (" boats", " the miller", " 東京 tower")
    return [
        *(
            tiny.item(f"choice{n}", f"{story}Question {n}: what did she count?\nAnswer:", choices=choices)
            for n in (1, 2)
        ),
        tiny.item("choice-chat", chat, choices=("7", "Tom has 7 apples left.", "12")),
        tiny.item("plain", f"{story}\nQuestion: What did she count?\nAnswer:", max_tokens=8, stop=("\n",)),
        tiny.item("chat", chat, max_tokens=12),
    ]


@pytest.fixture(scope="module")
def said(smollm2):
    """What lm_eval's own model class answers to `real_items`, with the real model in float32."""
    model, tokenizer = smollm2
    return asked_of_lm_eval(model, tokenizer, real_items(tokenizer), 2)


@pytest.mark.slow
@pytest.mark.parametrize("optimizations", [True, False])
def test_smollm2_answers_as_with_lm_eval(smollm2, said, optimizations):
    """On the real model in float32: log-probabilities within 1e-4, texts identical, chat template on and off."""
    model, tokenizer = smollm2
    items = real_items(tokenizer)
    assert_as_said(list(engine(model, tokenizer, optimizations=optimizations).answer(items, GREEDY)), said)
    assert len({text for text in said.values() if isinstance(text, str)}) == 2


@pytest.mark.slow
def test_in_16_bits_the_differences_are_those_of_16_bits(smollm2, said):
    """In bf16 ours and lm_eval's differ as either differs from float32, and every choice made is the same."""
    model, tokenizer = smollm2
    items = [one for one in real_items(tokenizer) if one.kind == "choice"][2:]
    rounded = copy.deepcopy(model).bfloat16()
    sides = {
        name: {key: [value for value, _ in pairs] for key, pairs in found.items()}
        for name, found in (
            ("exact", {one.id: said[one.id] for one in items}),
            ("theirs", asked_of_lm_eval(rounded, tokenizer, items, 2)),
        )
    }
    answers = engine(rounded, tokenizer).answer(items, GREEDY)
    sides["ours"] = {one.item_id: list(one.logprobs) for one in answers if isinstance(one, ChoiceLogprobs)}
    made = {name: {key: max(values) == values[0] for key, values in side.items()} for name, side in sides.items()}
    assert made["ours"] == made["theirs"] == made["exact"]

    def apart(one: str, other: str) -> float:
        pairs = [(sides[one][key], sides[other][key]) for key in sides["exact"]]
        return max(abs(a - b) for mine, their in pairs for a, b in zip(mine, their, strict=True))

    assert 0 < apart("ours", "theirs") < 2 * max(apart("ours", "exact"), apart("theirs", "exact"))
    assert apart("ours", "exact") < 0.5


# -- padding and templates


@pytest.mark.parametrize("family", ["llama", "gemma2", "mamba"])
def test_the_side_that_a_tokenizer_pads_on_changes_nothing(family):
    """Left or right, in mixed batches: the same answers, and those of lm_eval, which pads on the left."""
    items = tiny.text_items()[:5] + tiny.choice_items()[:5]
    said = asked_of_lm_eval(tiny.model(family), tiny.tokenizer(), items, 1)
    for side in ("left", "right"):
        tokenizer = copy.deepcopy(tiny.tokenizer())
        tokenizer.padding_side = side
        for optimizations in (True, False):
            mine = engine(tiny.model(family), tokenizer, optimizations=optimizations)
            assert_as_said(list(mine.answer(items, GREEDY)), said)


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma3_text", "mamba"])
def test_choices_after_a_chat_template_weigh_what_lm_eval_says(family):
    """A prompt that ends in the template's own tokens, and the same question without the template."""
    question = "What is 12 plus 30?"
    items = [
        tiny.item(name, prompt, choices=("42", " 42", "none of these"))
        for name, prompt in (("with", tiny.chat(question)), ("without", question))
    ]
    said = asked_of_lm_eval(tiny.model(family), tiny.tokenizer(), items, 2)
    for optimizations in (True, False):
        assert_as_said(
            list(engine(tiny.model(family), tiny.tokenizer(), optimizations=optimizations).answer(items, GREEDY)), said
        )


# -- optimisations that really run


@pytest.mark.parametrize("family", ["llama", "gemma2", "mamba"])
def test_every_optimization_really_runs_if_the_model_allows_it(family, monkeypatch):
    """Sharing reads fewer tokens, slots are used, right drafts save steps; models of another kind use none of them."""
    steps: list[int] = []
    step = hf_slots.SlotCache.step
    monkeypatch.setattr(hf_slots.SlotCache, "step", lambda self, *args: steps.append(1) or step(self, *args))
    items = tiny.text_items() + tiny.choice_items()
    read: dict[str, int] = {}
    taken: dict[str, int] = {}
    answers: dict[str, dict[str, Any]] = {}
    for name in ("off", "on", "drafts"):
        mine = engine(family, optimizations=name != "off")
        steps.clear()  # without those of the probe
        known = answers["off"].items() if name == "drafts" else ()
        drafts = {key: one.token_ids for key, one in known if isinstance(one, Generation)}
        answers[name] = {one.item_id: one for one in mine.answer(items, GREEDY, drafts=drafts)}
        read[name], taken[name] = mine.usage().prompt_tokens, len(steps)
    assert taken["off"] == 0
    if family == "mamba":
        assert set(taken.values()) == {0}
        assert len(set(read.values())) == 1
        return
    assert read["on"] < read["off"]
    assert taken["drafts"] < taken["on"] / 2
    texts = {way: [one for one in found.values() if isinstance(one, Generation)] for way, found in answers.items()}
    assert sorted(texts["drafts"], key=str) == sorted(texts["on"], key=str) == sorted(texts["off"], key=str)


def test_of_equally_likely_tokens_every_way_takes_the_same():
    """Where each token has a twin with the same logit, the first token of an answer is chosen as all later ones are."""
    model = copy.deepcopy(tiny.model("llama"))
    weight = model.get_output_embeddings().weight.data
    weight[1::2] = weight[0::2][: len(weight[1::2])]
    items = [tiny.item(f"q{number}", "The quick brown fox " * 3 + f"{number}?", max_tokens=12) for number in range(24)]
    answers = {}
    for optimizations in (True, False):
        mine = engine(model, tiny.tokenizer(), optimizations=optimizations)
        answers[optimizations] = {one.item_id: one.token_ids for one in mine.answer(items, GREEDY)}
    assert answers[True] == answers[False]
    assert len({ids[0] for ids in answers[False].values()}) > 1


@pytest.mark.parametrize(("room", "used"), [(10, 12), (9, 9), (12, 12), (5, 6), (4, 4), (3, 3)])
def test_a_round_of_few_answers_is_spared(room, used, monkeypatch):
    """Of twelve answers, up to a quarter more than the budget's grow at a time if that makes a round fewer."""
    rows: list[int] = []
    step = hf_slots.SlotCache.step
    monkeypatch.setattr(hf_slots.SlotCache, "step", lambda self, *args: rows.append(len(args[0])) or step(self, *args))
    items = [tiny.item(f"q{number:02}", f"The quick fox {number:02}?", max_tokens=8) for number in range(12)]
    longest = max(len(tiny.tokenizer()(item.prompt)["input_ids"]) for item in items) + 8
    whole = list(engine("llama").answer(items, GREEDY))
    mine = engine("llama", batch_tokens=room * longest + 1)
    rows.clear()
    assert sorted(mine.answer(items, GREEDY), key=str) == sorted(whole, key=str)
    assert max(rows) == used
