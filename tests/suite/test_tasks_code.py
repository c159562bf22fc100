"""Code slices: every reference solution passes, answers of every form are understood, and nothing runs unasked."""

from __future__ import annotations

import functools
import json
import shutil
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unittest import mock

import conftest
import pytest
from commands import call, write
from test_slices import experiment

from harness.errors import ConfigError, ExitCode, UsageError
from harness.records import Generation
from harness.suite import sandbox
from harness.suite.code import check_consent
from harness.suite.sandbox import missing
from harness.suite.scorer import Scorer, load_items
from harness.suite.toolkit.generated_code import Asked, program_of

pytestmark = pytest.mark.skipif(bool(missing("python")), reason=missing("python") or "-")
NODE = pytest.mark.skipif(shutil.which("node") is None, reason="node is not on the PATH")
JS = pytest.param("quantcliff_humaneval_js", marks=NODE)
UPSTREAM_WRONG = {"quantcliff_humaneval_js/112", "quantcliff_humaneval_js/155"}
"""Reference solutions of HumanEval-X that fail their own tests in bare node too ("Assertion failed")."""


@pytest.fixture(scope="module")
def tokenizer():
    """The small tokenizer of the tests, with a chat template."""
    return conftest.make_tokenizer(100_000)


def code(data: Path, task: str, **more: Any) -> dict[str, Any]:
    """A code slice of one task, from local files."""
    return {"name": "code", "tasks": [task], "data_dir": str(data), "items": 30, **more}


def said(item, text):
    """An answer to an item."""
    return Generation(item.id, text, (), "eos", 1)


def failing(items, answer):
    """The items whose answers do not pass, with their metrics; several at once.

    Their 10 seconds are of processor time: one solution takes 3, which a busy machine makes more than 10 of the clock.
    """
    patient = functools.partial(sandbox.Limits, wall_s=100)
    patch = mock.patch.object(sandbox, "Limits", patient)
    with patch, Scorer(items, allow_code=True) as scorer, ThreadPoolExecutor(2) as pool:
        found = pool.map(lambda item: scorer.score(item, said(item, answer(item))), items)
        return {item.id: metrics for item, (score, metrics, _) in zip(items, found, strict=True) if score != 1.0}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "items"),
    [("quantcliff_humaneval", 8), ("quantcliff_mbpp", 6), pytest.param("quantcliff_humaneval_js", 4, marks=NODE)],
)
def test_reference_solutions_pass(task, items, tokenizer, shared_data):
    """A sample of them, each given as an answer that goes on after its end (all 421 pass: docs/sandbox.md)."""
    found = load_items(experiment(code(shared_data, task, items=items)), tokenizer)
    assert len(found) == 3 * items
    assert set(failing(found, lambda item: item.target + "\n```\nThis works (because.")) <= UPSTREAM_WRONG


@pytest.mark.parametrize("task", ["quantcliff_humaneval", "quantcliff_mbpp", JS])
def test_wrong_answers_do_not_pass(task, tokenizer, shared_data):
    """Nothing, prose, a body without effect and a success that is only printed score 0, with parses and runs beside."""
    items = load_items(experiment(code(shared_data, task, items=1)), tokenizer)
    scorer = Scorer(items, allow_code=True)
    for text in ("", "I am not sure; what do you mean?", "    pass\n", "    print('passed'); import os; os._exit(0)\n"):
        for item in items:
            score, metrics, _ = scorer.score(item, said(item, text))
            assert score == 0.0, text
            assert metrics["passes"] == 0.0
            assert set(metrics) == {"passes", "runs", "parses"}
    prose = scorer.score(items[0], said(items[0], "I am not sure; what do you mean?"))[1]
    assert prose["parses"] == 0.0


def test_strata_are_lengths_of_the_reference_and_twins_are_clusters(tokenizer, shared_data):
    """Each stratum holds what it says; a problem in Python and in JavaScript is one cluster."""
    items = load_items(experiment(code(shared_data, "quantcliff_humaneval")), tokenizer)
    assert Counter(item.levels["solution_lines"] for item in items) == {"1-3": 30, "4-7": 30, "8+": 30}
    for item in items:
        lines = len([line for line in item.target.split("\n") if line.strip()])
        assert item.levels["solution_lines"] == ("1-3" if lines <= 3 else "4-7" if lines <= 7 else "8+")
        assert item.cluster == f"humaneval/{item.id.split('/')[1]}"
        assert item.levels["code_language"] == "python"


def test_the_answer_is_begun_with_a_fence(tokenizer, shared_data):
    """A chat model finds the function in the question and an open fence in its own turn; the fence's end stops it."""
    spec = code(shared_data, "quantcliff_humaneval", items=1)
    chat = load_items(experiment(spec), tokenizer)[0]
    plain = load_items(experiment(spec, chat_template=False), tokenizer)[0]
    assert chat.doc["begun"].strip() in chat.prompt
    assert chat.prompt.endswith("\n```<eos><|assistant|>```python\n")
    assert plain.prompt.endswith("\n```\n\n```python\n")
    assert "\n```" in chat.stop


@pytest.mark.parametrize(
    "task", ["quantcliff_humaneval_begun", pytest.param("quantcliff_humaneval_js_begun", marks=NODE)]
)
def test_a_base_model_continues_the_function(task, tokenizer, shared_data):
    """The function's beginning is the whole prompt, what continues it is scored; a chat template is refused."""
    spec = code(shared_data, task, items=1)
    items = load_items(experiment(spec, chat_template=False), tokenizer)
    assert all(item.prompt == item.doc["begun"] for item in items)
    assert failing(items, lambda item: item.target) == {}
    with pytest.raises(ConfigError, match="chat_template: false"):
        load_items(experiment(spec), tokenizer)


# --------------------------------------------------------------------------------------- the program that is meant

ASKED = Asked("python", "f", "import math\n", "import math\ndef f(x):\n    'doc'\n")
UNDERSTOOD = [
    ("    return 1\n", "import math\ndef f(x):\n    'doc'\n    return 1\n"),
    ("    return 1\n```\nThis is it.", "import math\ndef f(x):\n    'doc'\n    return 1"),
    ("def f(x):\n    return 1", "import math\n\ndef f(x):\n    return 1"),
    ("Sure:\n```python\ndef f(x):\n    return 1\n```\nDone.", "import math\n\ndef f(x):\n    return 1\n"),
    ("```py\nprint(1)\n```\nor\n```\nf = lambda x: 1\n```", "import math\n\nf = lambda x: 1\n"),
    ("```python\ndef f(x):\n    return 1", "import math\n\ndef f(x):\n    return 1"),
    ("```\n\nThis returns nothing.", "import math\ndef f(x):\n    'doc'\n"),
    ("```", "import math\ndef f(x):\n    'doc'\n"),
    ("```\ndef f(x):\n    return 1\n```", "import math\n\ndef f(x):\n    return 1"),
    ("```\nOr:\n```python\ndef f(x): return 2\n```", "import math\n\ndef f(x): return 2\n"),
    ("```python\n    return 1\n```", "import math\ndef f(x):\n    'doc'\n    return 1\n"),
]


@pytest.mark.parametrize(("answer", "program"), UNDERSTOOD)
def test_python_is_found_in_every_form_of_answer(answer, program):
    """Continued, started over, fenced, fenced after prose, fence never closed: the same function is meant."""
    assert program_of(answer, ASKED) == program


def test_javascript_ends_at_its_brace():
    """A continued JavaScript function ends where its closing brace stands alone; helpers are declared once."""
    asked = Asked("javascript", "f", "const g = 1;\n", "const g = 1;\nconst f = (x) => {\n")
    assert program_of("  return x;\n}\n\nf(2", asked) == "const g = 1;\nconst f = (x) => {\n  return x;\n}"
    assert program_of("```js\nconst g = 2;\nfunction f(x) { return x; }\n```", asked).count("const g") == 1
    assert program_of("```js\nfunction f(x) { return x; }\n```", asked).startswith("const g = 1;")


def test_without_a_beginning_all_blocks_count():
    """Where any program will do, all fenced blocks are it, else the answer."""
    assert program_of("a\n```python\nx = 1\n```\nb\n```\ny = 2\n```", Asked("python")) == "x = 1\n\ny = 2\n"
    assert program_of("x = 1\n", Asked("python")) == "x = 1\n"


# ------------------------------------------------------------------------------------------------------- consent


def test_nothing_is_run_without_the_flag(tmp_path, shared_data, capsys):
    """`quantcliff run` ends with 2 before it looks for the model, naming the slice and the flag."""
    path = write(tmp_path, tmp_path / "no-such-model", slices=[code(shared_data, "quantcliff_humaneval", label="py")])
    assert call("run", path, "--output", tmp_path) == ExitCode.USAGE
    shown = capsys.readouterr().err
    assert "slices[0]: 'py' is scored by running what the models write" in shown
    assert "--allow-code-execution" in shown
    assert "no-such-model" not in shown
    assert call("slices", "--check", path, "--output", tmp_path) == ExitCode.USAGE


def test_a_config_cannot_allow_it(tmp_path, tiny_llama, shared_data, capsys):
    """A config from elsewhere must not run code: the key is refused, and the message says what to give instead."""
    execution = {"device": "cpu", "allow_code_execution": True}
    path = write(tmp_path, tiny_llama, slices=[code(shared_data, "quantcliff_mbpp")], execution=execution)
    assert call("run", path, "--output", tmp_path) == ExitCode.USAGE
    shown = capsys.readouterr().err
    assert "execution.allow_code_execution: a config, which may come from elsewhere, cannot allow this" in shown


def test_the_scorer_refuses_by_itself(tokenizer, shared_data):
    """Whoever makes a scorer must say that code may run: forgetting it is an error, not an execution."""
    items = load_items(experiment(code(shared_data, "quantcliff_mbpp", items=1)), tokenizer)
    with pytest.raises(UsageError, match="--allow-code-execution"):
        Scorer(items)


def test_traffic_without_tests_to_run_needs_no_flag(tmp_path):
    """A traffic slice asks for the flag only where a line of its file has tests."""
    file = tmp_path / "t.jsonl"
    spec = {"name": "traffic", "options": {"file": str(file)}}
    file.write_text('{"prompt": "x", "scorer": "exact", "target": "y"}\n')
    check_consent(experiment(spec), "x.yaml", allowed=False)
    file.write_text('{"prompt": "x", "scorer": "code_tests", "tests": ["assert f()"]}\n')
    with pytest.raises(ConfigError, match=r"slices\[0\]: 'traffic'.*--allow-code-execution"):
        check_consent(experiment(spec), "x.yaml", allowed=False)


def test_javascript_without_node_is_refused_at_plan_time(tokenizer, shared_data, monkeypatch):
    """Where node is missing the plan says so and what to do, with the flag and without."""
    monkeypatch.setenv("PATH", "")
    trial = experiment(code(shared_data, "quantcliff_humaneval_js"))
    for attempt in (lambda: load_items(trial, tokenizer), lambda: check_consent(trial, "x.yaml", allowed=True)):
        with pytest.raises(ConfigError, match=r"node, which is not on the PATH: install Node\.js"):
            attempt()


@pytest.mark.model
def test_lm_eval_asks_for_its_own_consent(shared_data):
    """lm_eval's command line runs these tasks only with --confirm_run_unsafe_code, and then scores as here."""
    from lm_eval.evaluator import simple_evaluate
    from lm_eval.tasks import TaskManager

    from harness.config.resources import shipped

    metadata = {"data_dir": str(shared_data), "items": 1}
    manager = TaskManager(include_path=str(shipped("tasks")), include_defaults=False, metadata=metadata)
    ask = {"model": "dummy", "tasks": ["quantcliff_mbpp"], "task_manager": manager, "limit": 2, "bootstrap_iters": 0}
    with pytest.raises(ValueError, match="marked as unsafe"):
        simple_evaluate(**ask)
    found = simple_evaluate(**ask, confirm_run_unsafe_code=True)["results"]["quantcliff_mbpp"]
    assert (found["passes,none"], found["runs,none"], found["parses,none"]) == (0.0, 0.0, 1.0)  # it answers "lol"


# --------------------------------------------------------------------------------------------------- a whole run


@pytest.fixture(scope="module")
def finished(tiny_llama, shared_data, tmp_path_factory):
    """A rehearsed run over MBPP in which nf4 loses two thirds."""
    folder = tmp_path_factory.mktemp("code")
    rehearsal = {"lost": {"nf4/code": 0.66}}
    path = write(
        folder,
        tiny_llama,
        slices=[code(shared_data, "quantcliff_mbpp", items=24, split_by=[], margin=0.2)],
        execution={"device": "cpu", "rehearsal": rehearsal, "control": False},
    )
    assert call("run", path, "--output", folder, "--allow-code-execution", "--quiet") == ExitCode.FAIL
    return folder / "trial"


def test_a_run_scores_by_execution_and_keeps_how_far_code_came(finished):
    """Answers stand in the order of their units, each with parses, runs and passes; the wrong ones do not pass."""
    scores = {}
    for name in ("bf16", "nf4"):
        files = sorted((finished / name).glob("code-*.jsonl"))
        lines = [json.loads(line) for file in files for line in file.read_text(encoding="utf-8").splitlines()]
        assert len(lines) == 24
        assert all(set(one["metrics"]) == {"passes", "runs", "parses"} for one in lines)
        assert [one["unit"] for one in lines] == sorted(one["unit"] for one in lines)
        scores[name] = sum(one["score"] for one in lines)
    assert scores["bf16"] > 15
    assert scores["nf4"] < scores["bf16"] / 2


def test_a_run_records_the_isolation_in_force(finished):
    """The shard's record and the report say what shut the code away."""
    shard = json.loads(next((finished / "shards").glob("*.json")).read_text(encoding="utf-8"))
    layers = shard["generated_code"]["python"]["layers"]
    assert "seccomp" in layers
    assert all(layer in (finished / "report.html").read_text(encoding="utf-8") for layer in layers)


def test_the_plan_says_that_answers_will_be_run(tmp_path, tiny_llama, shared_data, capsys):
    """`quantcliff plan` runs nothing, needs no flag, and names the flag and the isolation."""
    path = write(tmp_path, tiny_llama, slices=[code(shared_data, "quantcliff_mbpp", margin=0.2)])
    call("plan", path)
    shown = capsys.readouterr().out
    assert "the answers to 90 items will be executed, which needs `quantcliff run --allow-code-execution`" in shown
    assert "seccomp" in shown
    call("plan", path, "--json")
    assert "seccomp" in json.loads(capsys.readouterr().out)["generated_code"]["python"]["layers"]
