"""lm_eval's own tasks as slices, by name: prompts with examples, filters, axes over their documents, scores."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import conftest
import pytest
import yaml
from test_scores import experiment, response_of, scripted

from harness.errors import ConfigError, UsageError
from harness.records import Generation
from harness.suite import tasks as slices_tasks
from harness.suite.scorer import Scorer, load_items

SUMS = {
    "task": "local_sums",
    "tag": "local_exam",
    "dataset_path": "json",
    "output_type": "generate_until",
    "training_split": "train",
    "fewshot_split": "train",
    "test_split": "test",
    "doc_to_text": "Question: {{question}}\nAnswer:",
    "doc_to_target": "{{answer}}",
    "num_fewshot": 2,
    "generation_kwargs": {"until": ["Question:"], "max_gen_toks": 12, "do_sample": False},
    "filter_list": [
        {
            "name": "strict",
            "filter": [{"function": "regex", "regex_pattern": r"#### (\d+)"}, {"function": "take_first"}],
        },
        {
            "name": "last",
            "filter": [
                {"function": "regex", "regex_pattern": r"(\d+)", "group_select": -1},
                {"function": "take_first"},
            ],
        },
    ],
    "metric_list": [
        {
            "metric": "exact_match",
            "aggregation": "mean",
            "higher_is_better": True,
            "regexes_to_ignore": ["(?s).*#### "],
        }
    ],
}
WRONG_SUMS = {key: value for key, value in SUMS.items() if key not in {"tag", "filter_list"}} | {
    "task": "local_wrong_sums",
    "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": False}],
}
LETTERS = SUMS | {"task": "local_letters", "tag": [], "doc_to_target": "{{'ABCD'[gold]}}"}
CHOICES = {
    "task": "local_choices",
    "tag": "local_exam",
    "dataset_path": "json",
    "output_type": "multiple_choice",
    "training_split": "train",
    "fewshot_split": "train",
    "test_split": "test",
    "doc_to_text": "{{question}}\nIt is",
    "doc_to_choice": "{{options}}",
    "doc_to_target": "{{gold}}",
    "num_fewshot": 1,
    "metric_list": [
        {"metric": metric, "aggregation": "mean", "higher_is_better": True} for metric in ("acc", "acc_norm")
    ],
}
SEVERAL = CHOICES | {
    "task": "local_several",
    "tag": [],
    "num_fewshot": 0,
    "doc_to_target": "{{[gold, (gold + 1) % 4]}}",
}
ROWS = 14
ASKED = re.compile(r"What is (\d+) plus (\d+)\?")


def rows(start: int) -> list[dict]:
    """Sums, small and big by turns: each as a question to answer, with four numbers to choose from."""
    made = []
    for at in range(ROWS):
        one, other = (start + at, 3 + at) if at % 2 else (start + 100 * at, 170 + at)
        options = [str(one + other + off) for off in (0, 1, 10, 25)]
        made.append(
            {
                "question": f"What is {one} plus {other}?",
                "answer": f"{one} and {other} make #### {one + other}",
                "about": {"size": "small" if at % 2 else "big"},
                "options": options[at % 4 :] + options[: at % 4],
                "gold": -at % 4,
            }
        )
    return made


@pytest.fixture(scope="module", autouse=True)
def found(tmp_path_factory):
    """lm_eval finds two tasks on local files and its own GSM8K, whose download is those files too."""
    import datasets
    import lm_eval.tasks

    folder = tmp_path_factory.mktemp("foreign")
    files = {split: str(folder / f"{split}.jsonl") for split in ("train", "test")}
    for start, path in zip((11, 50), files.values(), strict=True):
        (folder / path).write_text("\n".join(map(json.dumps, rows(start))), encoding="utf-8")
    for config in (SUMS, CHOICES, WRONG_SUMS, LETTERS, SEVERAL):
        told = {**config, "dataset_kwargs": {"data_files": files}}
        (folder / f"{config['task']}.yaml").write_text(yaml.safe_dump(told), encoding="utf-8")
    shipped = [Path(lm_eval.tasks.__file__).parent / name for name in ("gsm8k", "humaneval", "mbpp")]
    whole, load = lm_eval.tasks.TaskManager, datasets.load_dataset

    class Manager(whole):
        """Looks into these folders instead of all that lm_eval ships, whose scan takes half a minute."""

        def __init__(self, *, include_path=None, include_defaults=True, **told):
            places = [*([include_path] if include_path else ()), *([folder, *shipped] if include_defaults else ())]
            super().__init__(include_path=places, include_defaults=False, **told)

    def downloaded(path, name=None, **told):
        return load("json", data_files=files) if path == "openai/gsm8k" else load(path, name=name, **told)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lm_eval.tasks, "TaskManager", Manager)
        patch.setattr(datasets, "load_dataset", downloaded)
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", folder / "cache")
        slices_tasks.index.cache_clear()
        yield
    slices_tasks.index.cache_clear()


def form(doc: dict) -> str:
    """A sum answered rightly, in two forms, wrongly or not at all."""
    total = sum(map(int, ASKED.findall(doc["question"])[-1]))
    return (f" That makes #### {total}", f" It is {total}.", f" #### {total + 1}", " Who knows?")[total // 4 % 4]


SLICES = [
    {"name": "local_sums", "axes": {"about.size": ["small"]}, "split_by": ["about.size"], "items": 6},
    {"name": "local_choices", "split_by": ["about.size"], "items": 3, "options": {"metric": "acc_norm"}},
    {"name": "gsm8k", "items": 9, "options": {"metric": "exact_match,flexible-extract"}},
]
METRIC = {"local_sums": "exact_match,strict", "local_choices": "acc_norm", "gsm8k": "exact_match,flexible-extract"}


@pytest.fixture(scope="module", params=[True, False], ids=["chat", "plain"])
def asked(request, found):
    """lm_eval's samples of all documents by task, number and filter, and our items of some of them."""
    from lm_eval.evaluator import simple_evaluate
    from lm_eval.tasks import TaskManager

    tokenizer = conftest.make_tokenizer(100_000)
    evaluated = simple_evaluate(
        model=scripted(tokenizer, form),
        tasks=list(METRIC),
        task_manager=TaskManager(),
        bootstrap_iters=0,
        apply_chat_template=request.param,
        fewshot_as_multiturn=request.param,
        log_samples=True,
    )
    samples: dict[str, dict[str, dict]] = {}
    for name, own in evaluated["samples"].items():
        for sample in own:
            samples.setdefault(f"{name}/{sample['doc_id']}", {})[sample["filter"]] = sample
    assert len(samples) == len(METRIC) * ROWS
    return samples, load_items(experiment(SLICES, chat_template=request.param), tokenizer)


@pytest.mark.model
def test_strata_are_levels_of_the_documents_own_fields(asked):
    """An axis reaches into a document's field; each stratum has the items asked for, and none of another level."""
    _, items = asked
    assert Counter((item.slice, item.stratum) for item in items) == {
        ("local_sums", "about.size=small"): 6,
        ("local_choices", "about.size=small"): 3,
        ("local_choices", "about.size=big"): 3,
        ("gsm8k", "all"): 9,
    }
    assert all(item.levels.get("about.size", item.doc["about"]["size"]) == item.doc["about"]["size"] for item in items)
    assert len({item.cluster for item in items}) == len(items)


@pytest.mark.model
def test_prompts_with_their_examples_are_lm_evals(asked):
    """Though only some documents are asked, each has the examples that lm_eval drew for it among all."""
    samples, items = asked
    examples = {"local_sums": 2, "local_choices": 1, "gsm8k": 5}
    for item in items:
        for sample in samples[item.id].values():
            assert {argument[0] for argument in sample["arguments"]} == {item.prompt}
            if item.kind == "choice":
                assert item.choices == tuple(argument[1] for argument in sample["arguments"])
            else:
                told = sample["arguments"][0][1]
                assert list(item.stop) == told["until"]
                assert item.max_tokens == told.get("max_gen_toks", 256)
        assert len(ASKED.findall(item.prompt)) == examples[item.task] + 1
        assert item.prompt_tokens > 20


@pytest.mark.model
def test_scores_are_lm_evals_filter_by_filter(asked):
    """Each answer has lm_eval's metric under each of the task's filters; the score is the one that is chosen."""
    samples, items = asked
    scorer = Scorer(items)
    scores: dict[str, set[float]] = {}
    told_apart = 0
    for item in items:
        by_filter = samples[item.id]
        score, metrics, _ = scorer.score(item, response_of(item, next(iter(by_filter.values()))))
        assert metrics == {
            name if filtered == "none" else f"{name},{filtered}": float(sample[name])
            for filtered, sample in by_filter.items()
            for name in sample["metrics"]
        }
        assert score == metrics[METRIC[item.task]]
        scores.setdefault(item.task, set()).add(score)
        told_apart += len(by_filter) == 2 and len(set(metrics.values())) == 2
    assert scores == {name: {0.0, 1.0} for name in METRIC}
    assert told_apart >= 2


@pytest.mark.model
def test_a_metric_of_which_less_is_better_is_no_score():
    """As the task says: a worse candidate would gain by it, and pass."""
    items = load_items(experiment([{"name": "local_wrong_sums", "items": 1}]), conftest.make_tokenizer(100_000))
    with pytest.raises(UsageError, match="of exact_match less is better"):
        Scorer(items).score(items[0], Generation(items[0].id, "5", (), "eos", 3))


@pytest.mark.model
def test_targets_say_what_guessing_scores():
    """A letter in text can be guessed as well as one of four choices can; a sum cannot. Two of four may be right."""
    known = {"local_letters": 0.25, "local_sums": 0.0, "local_choices": 0.25, "local_several": 0.5}
    for task, chance in known.items():
        items = load_items(experiment([{"name": task, "items": 8}]), conftest.make_tokenizer(100_000))
        assert {item.chance for item in items} == {chance}


UNCONFINED = "runs generated code in lm_eval's own process, with all its rights: use the slice 'code' instead"


def test_a_tag_is_a_slice_of_its_tasks():
    """A tag's tasks are the strata of one slice; some of them can be named, and a wrong name is answered."""
    tokenizer = conftest.make_tokenizer(100_000)
    items = load_items(experiment([{"name": "local_exam", "items": 5}]), tokenizer)
    assert Counter(item.stratum for item in items) == {"task=local_sums": 5, "task=local_choices": 5}
    some = load_items(experiment([{"name": "local_exam", "tasks": ["local_sums"], "items": 5}]), tokenizer)
    assert some == [
        item
        for item in load_items(experiment([{"name": "local_exam", "items": 5, "split_by": []}]), tokenizer)
        if item.task == "local_sums"
    ]


@pytest.mark.parametrize(
    ("bad", "path", "message"),
    [
        ({"name": "local_sums", "axes": {"abuot": [1]}}, "slices[0].axes.abuot", "Did you mean 'about'"),
        ({"name": "local_sums", "items": 99}, "slices[0].items", "ask for at most 14"),
        ({"name": "local_sums", "axes": {"about.size": ["huge"]}}, "slices[0].axes.about.size", "no item has the"),
        (
            {"name": "local_sums", "items": 5, "axes": {"about.size": ["huge", "small"]}},
            "slices[0].axes.about.size",
            "level 'huge'",
        ),
        ({"name": "local_exam", "tasks": ["local_sum"]}, "slices[0].tasks", "Did you mean 'local_sums'"),
        ({"name": "local_summs"}, "slices[0].name", "Did you mean 'local_sums'"),
        ({"name": "long_contxt"}, "slices[0].name", "Did you mean 'long_context'"),
        ({"name": "humaneval"}, "slices[0].name", f"humaneval {UNCONFINED}"),
        ({"name": "mbpp_instruct"}, "slices[0].name", f"mbpp_instruct {UNCONFINED}"),
    ],
)
def test_what_a_task_of_lm_evals_lacks_is_named(bad, path, message):
    """A field, a level, a number of items or a task that is not there: one problem, at its place.

    Tasks that run answers in lm_eval's process are refused before their code is imported.
    """
    with pytest.raises(ConfigError) as caught:
        load_items(experiment([bad]), conftest.make_tokenizer(100_000))
    problems = {problem.path: problem.message for problem in caught.value.problems}
    assert list(problems) == [path]
    assert message in problems[path]
