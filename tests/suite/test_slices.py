"""From a config to items: strata, counts, clusters, and every way in which a config's slices can be wrong."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import Counter

import conftest
import pytest
import yaml

from harness.config.loading import load, parse, with_overrides
from harness.config.resources import shipped
from harness.errors import ConfigError, UsageError
from harness.records import Generation
from harness.run.planning import check_power, power_table
from harness.suite.catalogue import DESCRIPTION, catalogue
from harness.suite.scorer import Scorer, load_items


def experiment(*slices, **sampling):
    """A config with these slices."""
    return parse(
        {
            "name": "test",
            "baseline": {"model": "m"},
            "candidates": [{"name": "c", "quantization": "bnb-nf4"}],
            "slices": list(slices),
            "sampling": sampling,
        }
    )


@pytest.fixture(scope="module")
def tokenizer():
    """The small tokenizer of the tests, with a chat template."""
    return conftest.make_tokenizer(100_000)


def problems(tokenizer, *slices, context_limit=None, **sampling) -> dict[str, str]:
    """Path to message of all that is wrong with these slices."""
    with pytest.raises(ConfigError) as caught:
        load_items(experiment(*slices, **sampling), tokenizer, context_limit=context_limit)
    return {problem.path: problem.message for problem in caught.value.problems}


LOOKUP = {"name": "long_context", "tasks": ["quantcliff_lookup"], "items": 4}


def test_who_always_abstains_guesses(tokenizer):
    """Where twins without an answer stand beside the others, `not listed` to all scores their share."""
    axes = {"keys": [20], "depth": ["start", "none"], "answer": ["present", "absent"]}
    for split_by, chances in ((["keys"], {0.5}), (["keys", "answer"], {0.05, 0.0})):
        items = load_items(experiment(LOOKUP | {"items": 40, "axes": axes, "split_by": split_by}), tokenizer)
        assert {item.chance for item in items} == chances


def test_strata_are_the_cells_of_the_axes_that_split(tokenizer):
    """Two list lengths by two answers are four strata of the items asked for, each named by its levels."""
    items = load_items(experiment({**LOOKUP, "axes": {"keys": [5, 12]}}), tokenizer)
    assert Counter(item.stratum for item in items) == {
        f"task=lookup,keys={keys},answer={answer}": 4 for keys in (5, 12) for answer in ("present", "absent")
    }
    assert all(item.levels["depth"] in ("start", "middle", "end", "none") for item in items)


def test_split_by_merges_and_splits(tokenizer):
    """An empty split_by makes one stratum; naming an axis splits by it alone."""
    whole = load_items(experiment({**LOOKUP, "split_by": []}), tokenizer)
    assert {item.stratum for item in whole} == {"all"}
    assert len(whole) == 4
    deep = load_items(experiment({**LOOKUP, "axes": {"answer": ["present"]}, "split_by": ["depth"]}), tokenizer)
    assert Counter(item.stratum for item in deep) == {f"depth={depth}": 4 for depth in ("start", "middle", "end")}


def test_axes_keep_only_the_tasks_that_have_them(tokenizer):
    """Asking for hops leaves out the retrieval tasks that know none, where no task is named."""
    items = load_items(experiment({"name": "long_context", "axes": {"hops": [2]}, "items": 2}), tokenizer)
    assert {item.task for item in items} == {"quantcliff_chain"}


def test_a_question_that_repeats_is_one_source(tokenizer):
    """There are a hundred sums of one digit, so three hundred items of them are a hundred sources at most."""
    spec = {"name": "typical", "tasks": ["quantcliff_additions"], "axes": {"size": ["one digit"]}, "items": 300}
    items = load_items(experiment(spec), tokenizer)
    assert len(items) == 300
    assert len({item.prompt for item in items}) <= 100
    pairs = {(item.prompt, item.cluster) for item in items}
    assert len(pairs) == len({item.prompt for item in items}) == len({item.cluster for item in items})


@pytest.mark.slow
@pytest.mark.parametrize("name", ["llama-8b", "rollout-gate"])
def test_every_gating_stratum_of_a_shipped_config_can_pass(tokenizer, name):
    """Shorter texts in place of theirs; `plan` would refuse a stratum that has too few different questions."""
    data = yaml.safe_load((shipped("configs") / f"{name}.yaml").read_text(encoding="utf-8"))
    for spec in data["slices"]:
        if "context_tokens" in spec.get("axes", {}):
            spec["axes"]["context_tokens"] = [1024]
    config = parse(data)
    check_power(config, power_table(config, load_items(config, tokenizer)), name)


def test_a_limit_keeps_the_first_of_each_stratum(tokenizer):
    """With a limit of two (`--limit`), each stratum has two items, and they are those of the whole run."""
    whole = {item.id: item for item in load_items(experiment(LOOKUP), tokenizer)}
    few = load_items(with_overrides(experiment(LOOKUP), "config", limit=2), tokenizer)
    assert set(Counter(item.stratum for item in few).values()) == {2}
    assert all(whole[item.id] == item for item in few)


def test_only_the_chosen_slices_are_made(tokenizer):
    """`--only` takes a slice by its key; what fits nothing is refused with a suggestion."""
    config = experiment(LOOKUP, {"name": "typical", "tasks": ["quantcliff_additions"], "items": 2})
    chosen = with_overrides(config, "config", only=("typical",))
    assert {item.slice for item in load_items(chosen, tokenizer)} == {"typical"}
    with pytest.raises(ConfigError, match="Did you mean 'typical'"):
        with_overrides(config, "config", only=("typicl",))


def test_items_are_ready_to_ask(tokenizer):
    """Every field that an engine needs is filled, the question is in the prompt, and no question is kept twice."""
    for item in load_items(experiment(LOOKUP, {"name": "low_resource_languages", "items": 2}), tokenizer):
        assert item.id.startswith(f"{item.task}/")
        assert item.prompt.startswith("<|user|>")
        assert item.prompt.endswith("<|assistant|>")
        assert item.prompt_tokens > 10
        assert item.target
        assert not item.doc["prompt"]
        assert (item.kind == "choice") == bool(item.choices) == (item.max_tokens == 0)
        assert json.loads(json.dumps(dict(item.doc))) == item.doc


def test_without_a_template_nothing_is_wrapped(tokenizer):
    """`chat_template: false` asks the bare question; `auto` does too where the tokenizer has no template."""
    bare = conftest.make_tokenizer(100_000)
    bare.chat_template = None
    plain = load_items(experiment(LOOKUP, chat_template=False), tokenizer)
    assert [item.prompt for item in plain] == [item.prompt for item in load_items(experiment(LOOKUP), bare)]
    assert not any("<|" in item.prompt for item in plain)


BAD = {
    "slices[0].tasks": ({**LOOKUP, "tasks": ["quantcliff_lookupp"]}, "Did you mean 'quantcliff_lookup'"),
    "slices[0].axes.key": ({**LOOKUP, "axes": {"key": [5]}}, "Did you mean 'keys'"),
    "slices[0].axes.answer": ({**LOOKUP, "axes": {"answer": ["presnt"]}}, "Did you mean 'present'"),
    "slices[0].axes.keys": ({**LOOKUP, "axes": {"keys": [0]}}, "'0' is no level of keys"),
    "slices[0].split_by": ({**LOOKUP, "split_by": ["key"]}, "Did you mean 'keys'"),
    "slices[0].options.temprature": ({**LOOKUP, "options": {"temprature": 1}}, "no option"),
    "slices[0].data_dir": ({**LOOKUP, "data_dir": "no/such/folder"}, "is not a folder"),
    "slices[0].items": ({"name": "typical", "tasks": ["quantcliff_facts"], "items": 5000}, "ask for at most 10"),
    "slices[0]": ({**LOOKUP, "axes": {"keys": [2]}}, "two have no middle"),
}


@pytest.mark.parametrize("path", BAD)
def test_what_is_wrong_is_named_with_its_place(path, tokenizer):
    """Each bad slice gives one problem at its path, with the rule and the way out."""
    bad, message = BAD[path]
    found = problems(tokenizer, bad)
    assert list(found) == [path]
    assert message in found[path]


def test_an_empty_axis_is_a_problem(tokenizer):
    """An axis without a level would ask for nothing."""
    assert "without a level" in problems(tokenizer, {**LOOKUP, "axes": {"keys": []}})["slices[0].axes.keys"]


def test_all_problems_come_together(tokenizer):
    """Two bad slices and a system message without a template are three problems in one error."""
    bad = {**LOOKUP, "axes": {"key": [5]}}, {**LOOKUP, "label": "second", "tasks": ["nothing"]}
    found = problems(tokenizer, *bad, system="Be brief.", chat_template=False)
    assert sorted(found) == ["sampling.system", "slices[0].axes.key", "slices[1].tasks"]


def test_a_missing_template_is_said(tokenizer):
    """`chat_template: true` with a tokenizer that has none is refused."""
    bare = conftest.make_tokenizer()
    bare.chat_template = None
    assert "has no chat template" in problems(bare, LOOKUP, chat_template=True)["sampling.chat_template"]


def test_texts_beyond_the_models_limit_are_refused(tokenizer):
    """A level above the limit is named; where it is the slice's own, the levels that fit are written out."""
    needle = {"name": "long_context", "tasks": ["quantcliff_needle"], "items": 1}
    path = "slices[0].axes.context_tokens"
    asked = problems(tokenizer, {**needle, "axes": {"context_tokens": [2048, 4096]}}, context_limit=2048)
    assert asked[path] == "4096 tokens are above the model's limit of 2048"
    assert "context_tokens: [1024]" in problems(tokenizer, needle, context_limit=2048)[path]
    fitting = experiment({**needle, "axes": {"context_tokens": [2048]}})
    items = load_items(fitting, tokenizer, context_limit=2048)
    assert all(item.prompt_tokens + item.max_tokens <= 2048 for item in items)


def test_the_same_items_in_two_slices_are_refused(tokenizer):
    """Answers are kept by item, so a slice that asks another's items again is refused."""
    found = problems(tokenizer, LOOKUP, {**LOOKUP, "label": "again"})
    assert "'long_context' and 'again' ask 32 of the same items" in found["slices"]


def test_an_axis_missing_from_a_named_task_is_refused(tokenizer):
    """A task that is named and lacks an axis that is asked for would give nothing: that is said."""
    bad = {
        "name": "long_context",
        "tasks": ["quantcliff_lookup", "quantcliff_chain"],
        "axes": {"hops": [1]},
        "items": 1,
    }
    assert "quantcliff_lookup" in problems(tokenizer, bad)["slices[0].axes"]


def test_the_catalogue_describes_what_is_there():
    """Each folder with a description is a slice; its tasks have files, axes have levels, and every task an example."""
    slices = {info.name: info for info in catalogue()}
    assert {"long_context", "multi_hop_math", "low_resource_languages", "typical"} <= set(slices)
    for info in slices.values():
        assert info.title
        assert info.why.endswith(".")
        assert info.source
        assert info.licence
        assert {axis for note in info.task_infos for axis in note.levels} == {axis.name for axis in info.axes}
        assert all(name in info.example for name in info.tasks)
        for note in info.task_infos:
            assert note.name.startswith("quantcliff_")
            assert set(note.split_by) <= set(note.levels)


def test_task_files_open_with_what_they_are():
    """Every task file begins with a comment that names source, licence, grader and what it does not measure."""
    from harness.config.resources import shipped

    files = sorted(shipped("tasks").glob("*/*.yaml"))
    assert len(files) >= 10
    for file in files:
        head = file.read_text(encoding="utf-8").split("\ntask:")[0].split("\ninclude:")[0]
        assert all(line.startswith("#") for line in head.splitlines()), file
        assert all(word in head for word in ("A real item", "Source:", "icence:", "Grader:", "Does not measure:")), file


def test_lm_eval_does_not_take_descriptions_for_tasks():
    """lm_eval's scan of tasks/ finds our tasks and nothing else, because descriptions are not named *.yaml."""
    from lm_eval.tasks import TaskManager

    from harness.config.resources import shipped

    found = TaskManager(include_path=str(shipped("tasks")), include_defaults=False)
    assert sorted(found.all_subtasks) == sorted(name for info in catalogue() for name in info.tasks)
    assert list(shipped("tasks").glob(f"*/{DESCRIPTION}"))


def test_the_catalogue_is_quick_and_light():
    """Describing the slices loads neither torch nor lm_eval, in well under two seconds."""
    code = (
        "import sys; from harness.suite.catalogue import catalogue; assert len(catalogue()) >= 4;"
        "print({'torch', 'lm_eval', 'transformers', 'datasets'} & set(sys.modules))"
    )
    begin = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "set()"
    assert time.monotonic() - begin < 20


def test_a_scorer_knows_only_its_items(tokenizer):
    """An item whose task the scorer was not made for is refused, not guessed."""
    from harness.records import Generation

    items = load_items(experiment(LOOKUP), tokenizer)
    with pytest.raises(UsageError, match="no item"):
        Scorer([]).score(items[0], Generation(items[0].id, "1", (), "eos", 1))


@pytest.mark.parametrize("config", sorted(path.name for path in shipped("configs").glob("*.yaml")))
def test_shipped_configs_ask_for_what_is_there(config, tokenizer, tmp_path, monkeypatch, request):
    """Every config that ships names slices, tasks, axes and levels that exist: one item of each stratum is made."""
    experiment = load(shipped("configs") / config)
    (tmp_path / "configs").symlink_to(shipped("configs"))
    if any(spec.data_dir for spec in experiment.slices):
        (tmp_path / "data").symlink_to(request.getfixturevalue("shared_data"))
    monkeypatch.chdir(tmp_path)
    items = load_items(with_overrides(experiment, config, limit=1), tokenizer)
    assert {item.slice for item in items} == {spec.key for spec in experiment.slices}


# One of two, and one of a list, is no choice; an initial, a unit or a name of one letter in the choice's own text is.
UNDECIDED = [
    "({0}) or ({1})",
    "({0}), ({1})",
    "**{0}** or **{1}**",
    "{0}; {1}",
    "{0} (or {1})",
    "{0}, maybe {1}",
    "{0}/{1}",
]
UNDECIDED += [
    "{0}\n{1}\n{0}\n{1}",
    "{0} {1} {0} {1}",
    "{0}. one\n{1}. two",
    "({0}) one\n({1}) two",
    "Option {0} is wrong",
]
UNDECIDED += ["{0}. No, {1}", "{0}, no, {1}", "{0}. Wait, {1}", "{0} — no, it's {1}", "{0}. Sorry, the answer is {1}"]
UNDECIDED += [
    "{0} - {1}",
    "{0} → {1}",
    "{0} -> {1}",
    "{0} {1}",
    "{0}\n{1}",
    "{0}) {1})",
    "{0} vs {1}",
    "{0} and/or {1}",
    "{0}? No.",
    "{0}, no {1}",
    "Option {0} or option {1}",
    "Antwort: {1}",
    "{1}{0}: {0}",
    "${0}$ or ${1}$",
    "\\boxed{{{0}}} or \\boxed{{{1}}}",
    "\\boxed{{\\text{{{0}}}}} or \\boxed{{\\text{{{1}}}}}",
    "I choose {0} or {1}",
    "The letter of the wrong choice is {0}",
]
DECIDED = [
    "{0}. {1}. coli",
    "{0}: {1} vitamins",
    "{0}. A Tale",
    "{0}. I think",
    "{0}. No",
    "{0} - Paris",
    "{0}. No one did, I think",
    "{0}. There is no {1} in it",
    "{0}. That is not {1}.",
    "{0}? No doubt.",
    "{0}. The mean is {1}",
    "{0}, I think",
    "{0} (not {1})",
    "{0} {0} {0}",
]
LETTERS = ["The final answer is {}", "So the best answer is ({}).", "Option {}", "\\boxed{{{}}}", "{} because it is"]
LETTERS += ["\\boxed{{\\text{{{}}}}}", "The answer is $\\boxed{{\\textbf{{({})}}}}$", "I would choose {}."]
LETTERS += ["The letter of the right choice is {}", "The answer to this question is {}"]
LETTERS += ["It is {}.", "Sure! The answer is {}.", "\u7b54\u6848\uff1a{}", "Antwort: {}"]


def test_choices_are_asked_as_letters_in_text(tokenizer):
    """For servers that cannot weigh choices: the letter is where the right choice is, and is what is scored."""
    spec = {"name": "typical", "tasks": ["quantcliff_facts"], "items": 12}
    weighed = {item.id: item for item in load_items(experiment(spec), tokenizer)}
    items = load_items(experiment({**spec, "options": {"as_text": True}}), tokenizer)
    assert [item.id for item in items] == list(weighed)
    assert len({item.target for item in items}) > 2
    scorer = Scorer(items)
    for item in items:
        before = weighed[item.id]
        assert (item.kind, item.choices, item.chance, item.stratum) == ("generate", (), before.chance, before.stratum)
        assert f"\n{item.target}. {before.choices[before.gold].strip()}\n" in item.prompt
        wrong = "ABCD"[("ABCD".index(item.target) + 1) % 4]
        said = {one.format(item.target): 1 for one in LETTERS} | {f"{wrong} good answer is {item.target}": 0}
        said |= {one.format(item.target, wrong): 0 for one in UNDECIDED}
        said |= {one.format(item.target, wrong): 1 for one in DECIDED}
        said |= {f"{item.target} or {wrong}": 0, f"{item.target}, {wrong}": 0, f"{item.target} is wrong, {wrong}": 0}
        said |= {f" {item.target}.": 1, f"The answer is {item.target}": 1, f"**{item.target}**": 1, f"{wrong}. So": 0}
        said |= {"": 0, " " * 30_000: 0, "I know": 0, f"{item.target}bc": 0}
        for text, score in said.items():
            assert scorer.score(item, Generation(item.id, text, (1,), "eos", 9)).value == score, text
    found = problems(tokenizer, {"name": "multi_hop_math", "items": 2, "options": {"as_txt": True}})
    assert "Did you mean 'as_text'" in str(found)
