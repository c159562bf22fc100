"""`scripts/lm_eval_model.py`: lm_eval's own tasks and command line, with our engine underneath."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path
from typing import Any

import engine_models as tiny
import pytest
from paths import SCRIPTS, TASKS

sys.path.insert(0, str(SCRIPTS))

DOCUMENTS = [
    {"question": f"{tiny.STORY}What is {n} plus 3?", "choices": [" 4", " Paris is", " 7381"], "answer": n % 3}
    for n in range(5)
]
CHOICE_TASK = """
task: tiny_choice
custom_dataset: !function data.load
test_split: test
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: "{{choices}}"
doc_to_target: answer
metric_list: [{metric: acc}]
"""
TEXT_TASK = """
task: tiny_text
custom_dataset: !function data.load
test_split: test
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "4"
generation_kwargs: {until: ["e"], max_gen_toks: 12, do_sample: false}
metric_list: [{metric: exact_match}]
"""
ROLLING_TASK = """
task: tiny_rolling
custom_dataset: !function data.load
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{question}}{{question}}{{question}}{{question}}{{question}}{{question}}"
metric_list: [{metric: bits_per_byte}]
"""


@pytest.fixture
def tasks(tmp_path: Path) -> Path:
    """A folder of three small lm_eval tasks."""
    folder = tmp_path / "tasks"
    folder.mkdir()
    loader = "import datasets\n\n\ndef load(**_):\n    return {'test': datasets.Dataset.from_list(%r)}\n"
    (folder / "data.py").write_text(loader % DOCUMENTS)
    for name, text in (("choice", CHOICE_TASK), ("text", TEXT_TASK), ("rolling", ROLLING_TASK)):
        (folder / f"{name}.yaml").write_text(text)
    return folder


def evaluated(lm: Any, tasks: Path) -> dict[str, Any]:
    """What lm_eval says of a model: every metric, and every response."""
    import lm_eval
    from lm_eval.tasks import TaskManager

    names = ["tiny_choice", "tiny_text", "tiny_rolling"]
    manager = TaskManager(include_path=str(tasks), include_defaults=False)
    found = lm_eval.simple_evaluate(lm, tasks=names, task_manager=manager, bootstrap_iters=0)
    samples = {
        name: [one["resps"] for one in sorted(found["samples"][name], key=lambda one: one["doc_id"])] for name in names
    }
    numbers = {
        name: {key: value for key, value in found["results"][name].items() if isinstance(value, float)}
        for name in names
    }
    return {"samples": samples, "numbers": numbers}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("family", ["llama", "mamba"])
def test_every_kind_of_task_scores_as_with_hf(family, tasks):
    """Choices, free text and rolling log-likelihood give lm_eval's `hf` numbers and responses."""
    from lm_eval.models.huggingface import HFLM
    from lm_eval_model import QuantcliffLM

    both = [
        evaluated(kind(pretrained=tiny.model(family), tokenizer=tiny.tokenizer(), batch_size=2), tasks)
        for kind in (QuantcliffLM, HFLM)
    ]
    mine, theirs = both
    assert mine["samples"]["tiny_text"] == theirs["samples"]["tiny_text"]
    for name in ("tiny_choice", "tiny_rolling"):
        for one, other in zip(mine["samples"][name], theirs["samples"][name], strict=True):
            assert str(one).count("True") == str(other).count("True")
    for name, numbers in theirs["numbers"].items():
        assert numbers
        assert mine["numbers"][name] == pytest.approx(numbers, rel=1e-5)


def test_what_the_engine_does_not_know_goes_lm_evals_way():
    """A repetition penalty is answered by lm_eval's own loop, with its own answer."""
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM
    from lm_eval_model import QuantcliffLM

    arguments = {"until": ["zz"], "max_gen_toks": 10, "do_sample": False, "repetition_penalty": 3.0}
    asked = [Instance("generate_until", {}, (tiny.STORY, dict(arguments)), 0)]
    answers = [
        kind(pretrained=tiny.model("llama"), tokenizer=tiny.tokenizer()).generate_until(asked, disable_tqdm=True)
        for kind in (QuantcliffLM, HFLM)
    ]
    assert answers[0] == answers[1]


@pytest.mark.slow
def test_the_command_line_knows_the_model(tiny_llama, tmp_path, monkeypatch):
    """`python scripts/lm_eval_model.py` is lm_eval's command line with `--model quantcliff`.

    Given a task of ours with `--include_path`, it prints the score of lm_eval's own `hf` model.
    """
    import lm_eval
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    arguments = ["--model", "quantcliff", "--model_args", f"pretrained={tiny_llama},dtype=float32", "--device", "cpu"]
    arguments += ["--include_path", str(TASKS), "--tasks", "quantcliff_cldr_choice", "--metadata", '{"items": 2}']
    arguments += ["--apply_chat_template", "--output_path", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", ["lm_eval_model", *arguments])
    runpy.run_path(str(SCRIPTS / "lm_eval_model.py"), run_name="__main__")
    (written,) = (tmp_path / "out").rglob("results_*.json")
    results = json.loads(written.read_text())
    assert results["config"]["model"] == "quantcliff"
    expected = lm_eval.simple_evaluate(
        HFLM(pretrained=str(tiny_llama), batch_size=1, device="cpu", dtype="float32", softmax_dtype="float32"),
        tasks=["quantcliff_cldr_choice"],
        task_manager=TaskManager(include_path=str(TASKS), include_defaults=False, metadata={"items": 2}),
        apply_chat_template=True,
        bootstrap_iters=0,
    )["results"]["quantcliff_cldr_choice"]
    printed = results["results"]["quantcliff_cldr_choice"]
    assert printed["sample_len"] == 12
    assert printed["acc_bytes,none"] == pytest.approx(expected["acc_bytes,none"], abs=1e-12)
