"""Scores and prompts are lm_eval's own: the same model, asked by lm_eval and by us, side by side."""

from __future__ import annotations

import hashlib
import json
import math

import conftest
import pytest
from lazily import lazy
from paths import TASKS

from harness.config.loading import parse
from harness.records import ChoiceLogprobs, Generation, Unanswered
from harness.suite.scorer import Scorer, load_items

lm_eval_model = lazy("lm_eval.api.model")

ITEMS = 2

CASES = {
    "long_context": ("quantcliff_lookup", "quantcliff_chain"),
    "multi_hop_math": ("quantcliff_math_chains",),
    "low_resource_languages": ("quantcliff_cldr_choice", "quantcliff_cldr_write"),
    "typical": ("quantcliff_additions", "quantcliff_groups", "quantcliff_facts"),
}
SCORE = {"quantcliff_cldr_choice": "acc_bytes", "quantcliff_groups": "acc_norm", "quantcliff_facts": "acc_norm"}
NAMES = [name for names in CASES.values() for name in names]


def experiment(slices, **sampling):
    """A config with these slices."""
    return parse(
        {
            "name": "test",
            "baseline": {"model": "m"},
            "candidates": [{"name": "c", "quantization": "bnb-nf4"}],
            "slices": slices,
            "sampling": sampling,
        }
    )


def spec(count):
    """The slices of `CASES` with so many items per stratum."""
    return [{"name": name, "tasks": list(tasks), "items": count} for name, tasks in CASES.items()]


@pytest.fixture(scope="module")
def lm(tiny_llama):
    """lm_eval's own model class around the tiny model, asked one by one."""
    from lm_eval.models.huggingface import HFLM

    return HFLM(pretrained=str(tiny_llama), batch_size=1, device="cpu", dtype="float32", softmax_dtype="float32")


@pytest.fixture(scope="module", params=[True, False], ids=["chat", "plain"])
def asked(request, lm):
    """What lm_eval made of our tasks: results and samples, with and without the chat template."""
    from lm_eval.evaluator import simple_evaluate
    from lm_eval.tasks import TaskManager

    metadata = {"items": ITEMS, "tokenizer": lm.tokenizer, "chat_template": request.param}
    manager = TaskManager(include_path=str(TASKS), include_defaults=False, metadata=metadata)
    system = "Answer briefly." if request.param else None
    found = simple_evaluate(
        model=lm,
        tasks=NAMES,
        task_manager=manager,
        bootstrap_iters=0,
        apply_chat_template=request.param,
        fewshot_as_multiturn=request.param,
        system_instruction=system,
        log_samples=True,
    )
    items = load_items(experiment(spec(ITEMS), chat_template=request.param, system=system), lm.tokenizer)
    return found, items


def response_of(item, sample):
    """lm_eval's logged answer as one of our records."""
    if item.kind == "generate":
        return Generation(item.id, sample["resps"][0][0], (), "length", item.prompt_tokens)
    pairs = [one[0] for one in sample["resps"]]
    logprobs, greedy = tuple(float(pair[0]) for pair in pairs), tuple(bool(pair[1]) for pair in pairs)
    return ChoiceLogprobs(item.id, logprobs, (1,) * len(pairs), greedy, item.prompt_tokens)


def paired(asked):
    """Our items with lm_eval's sample of the same document."""
    found, items = asked
    samples = {(name, sample["doc"]["id"]): sample for name in NAMES for sample in found["samples"][name]}
    assert len(samples) == len(items) > 40
    return [(item, samples[item.task, item.doc["id"]]) for item in items]


def test_prompts_are_lm_evals_byte_for_byte(asked):
    """Every prompt, every choice and every generation setting is the one that lm_eval would send."""
    for item, sample in paired(asked):
        contexts = {argument[0] for argument in sample["arguments"]}
        assert contexts == {item.prompt}
        if item.kind == "choice":
            assert item.choices == tuple(argument[1] for argument in sample["arguments"])
        else:
            told = sample["arguments"][0][1]
            assert (list(item.stop), item.max_tokens) == (told["until"], told["max_gen_toks"])


def test_token_counts_are_those_of_lm_eval(asked, lm):
    """`prompt_tokens` is the length that lm_eval's model encodes: prompt, and for choices the longest continuation."""
    for item, _ in paired(asked):
        if item.kind == "generate":
            expected = lm.tok_batch_encode([item.prompt])[0].shape[1]
        else:
            expected = max(sum(map(len, lm._encode_pair(item.prompt, choice))) for choice in item.choices)
        assert item.prompt_tokens == expected


def test_scores_are_lm_evals(asked):
    """Each answer scores what lm_eval scored it, metric by metric, and the task's mean is the one it prints."""
    found, items = asked
    scorer = Scorer(items)
    means: dict[tuple[str, str], list[float]] = {}
    for item, sample in paired(asked):
        score, metrics, metric = scorer.score(item, response_of(item, sample))
        assert metrics == {name: float(sample[name]) for name in sample["metrics"]}
        assert (metric, score) == (SCORE.get(item.task, "exact_match"), metrics[metric])
        for name, value in metrics.items():
            means.setdefault((item.task, name), []).append(value)
    assert len(means) >= len(NAMES)
    for (task, name), values in means.items():
        assert math.fsum(values) / len(values) == pytest.approx(found["results"][task][f"{name},none"], abs=1e-12)


def test_right_answers_score_one_and_wrong_ones_nothing(lm):
    """The target itself scores 1 on every task, and an answer to nothing scores 0."""
    items = load_items(experiment(spec(2)), lm.tokenizer)
    scorer = Scorer(items)
    for item in items:
        if item.kind == "generate":
            right = Generation(item.id, f" {item.target}.", (), "eos", 1)
            wrong = Generation(item.id, "I would rather talk about the weather", (), "eos", 1)
        else:
            at = item.gold
            assert item.choices[at].strip() == item.target
            values = tuple(-1.0 if place == at else -900.0 for place in range(len(item.choices)))
            right = ChoiceLogprobs(item.id, values, (1,) * 4, (False,) * 4, 1)
            wrong = ChoiceLogprobs(item.id, tuple(-900.0 - value for value in values), (1,) * 4, (False,) * 4, 1)
        assert scorer.score(item, right)[0] == 1.0, item.id
        assert scorer.score(item, wrong)[0] == 0.0, item.id
        assert scorer.score(item, Unanswered(item.id, "over_context", 9)) == (None, {}, "")


def test_items_survive_the_disk_and_score_the_same(lm):
    """An item written as JSON and read back has the same digest and gives the same score."""
    from harness.records import item_from_json, to_json

    items = load_items(experiment(spec(2)), lm.tokenizer)
    back = [item_from_json(json.loads(json.dumps(to_json(item)))) for item in items]
    assert [item.digest() for item in back] == [item.digest() for item in items]
    item = next(item for item in back if item.kind == "generate")
    assert Scorer(back).score(item, Generation(item.id, item.target, (), "eos", 1))[0] == 1.0


def scripted(tokenizer, answer):
    """An `LM` of lm_eval: `Scripted` with what lm_eval's base class brings."""
    return type("ScriptedLM", (Scripted, lm_eval_model.LM), {})(tokenizer, answer)


class Scripted:
    """Answers a document as it is told to, and likes choices by a hash of what it reads."""

    def __init__(self, tokenizer, answer):
        super().__init__()
        self.tokenizer, self.answer = tokenizer, answer

    def generate_until(self, requests, **_):
        """What `answer` says to each document."""
        return [self.answer(request.doc) for request in requests]

    def loglikelihood(self, requests, **_):
        """The same for the same text."""
        values = [int(hashlib.sha256("".join(one.args).encode()).hexdigest()[:6], 16) for one in requests]
        return [(-value / 1e6, value % 2 == 0) for value in values]

    def loglikelihood_rolling(self, requests, **_):
        """Nobody asks."""
        raise NotImplementedError

    def apply_chat_template(self, chat_history, add_generation_prompt=True):
        """By the tokenizer's template."""
        return self.tokenizer.apply_chat_template(
            chat_history, tokenize=False, add_generation_prompt=add_generation_prompt
        )

    def chat_template(self, chat_template=False):
        """The template itself, for lm_eval's records."""
        return self.tokenizer.chat_template

    @property
    def tokenizer_name(self):
        """A name, for lm_eval's records."""
        return "small"


DATA = {
    "quantcliff_gsm8k": ("multi_hop_math", {"steps": ["2", "7+"]}, "exact_match"),
    "quantcliff_mgsm": ("multi_hop_math", {"language": ["bn", "sw"]}, "exact_match"),
    "quantcliff_belebele": ("low_resource_languages", {"language": ["am", "zu"]}, "acc"),
    "quantcliff_xcopa": ("low_resource_languages", {"language": ["qu", "th"]}, "acc_bytes"),
    "quantcliff_sib200": ("low_resource_languages", {"language": ["ta", "yo"]}, "acc_bytes"),
}


def half_right(doc):
    """The number that is asked for, among words and with a comma, or one more."""
    number = int(doc["target"])
    return f"Some steps.\nAnswer: {number + int(hashlib.sha256(doc['id'].encode()).hexdigest(), 16) % 2:,}"


@pytest.mark.model
@pytest.mark.parametrize("chat", [True, False], ids=["chat", "plain"])
@pytest.mark.parametrize("task", DATA)
def test_scores_of_public_data_are_lm_evals(task, chat, shared_data):
    """GSM8K, MGSM, Belebele, XCOPA and SIB-200 from files: the same questions, choices, metrics and mean."""
    from lm_eval.evaluator import simple_evaluate
    from lm_eval.tasks import TaskManager

    slice_name, axes, metric = DATA[task]
    tokenizer = conftest.make_tokenizer(100_000)
    metadata = {"items": 6, "tokenizer": tokenizer, "axes": axes, "data_dir": str(shared_data), "chat_template": chat}
    manager = TaskManager(include_path=str(TASKS), include_defaults=False, metadata=metadata)
    found = simple_evaluate(
        model=scripted(tokenizer, half_right),
        tasks=[task],
        task_manager=manager,
        bootstrap_iters=0,
        apply_chat_template=chat,
        fewshot_as_multiturn=chat,
        log_samples=True,
    )
    samples = {sample["doc"]["id"]: sample for sample in found["samples"][task]}
    told = {"name": slice_name, "tasks": [task], "axes": axes, "items": 6, "data_dir": str(shared_data)}
    items = load_items(experiment([told], chat_template=chat), tokenizer)
    assert {item.doc["id"] for item in items} == set(samples)
    scorer, scores = Scorer(items), []
    for item in items:
        sample = samples[item.doc["id"]]
        assert {argument[0] for argument in sample["arguments"]} == {item.prompt}
        assert item.kind == "generate" or item.choices == tuple(argument[1] for argument in sample["arguments"])
        score, metrics, metric = scorer.score(item, response_of(item, sample))
        assert metrics == {name: float(sample[name]) for name in sample["metrics"]}
        assert score == metrics[metric]
        scores.append(score)
    assert set(scores) == {0.0, 1.0}
    assert sum(scores) / len(scores) == pytest.approx(found["results"][task][f"{metric},none"], abs=1e-12)
