"""Whatever a checkpoint's own files or code raise is one message, and costs that candidate only."""

from __future__ import annotations

import json
import multiprocessing
import shutil
from pathlib import Path

import pytest
from commands import call, write

from harness.config.schema import Variant
from harness.errors import ExitCode, Incomplete, NonFinite
from harness.run.worker import Job, Refused
from harness.run.worker_process import WorkerHandle
from harness.store.rundir import RunDir, Shard

ODD = """
from transformers import LlamaForCausalLM

class Bug(Exception):
    pass

class Odd(LlamaForCausalLM):
    def forward(self, *args, **kwargs):
        raise Bug("a bug of its own")
"""


def copy_of(model: Path, folder: Path) -> Path:
    """Copy a checkpoint."""
    return Path(shutil.copytree(model, folder))


@pytest.mark.slow
def test_an_exception_of_a_models_own_code_costs_that_candidate(tiny_llama: Path, tmp_path: Path) -> None:
    """The other candidate is judged, and the reason names the exception and the log with its traceback."""
    odd = copy_of(tiny_llama, tmp_path / "odd")
    config = json.loads((odd / "config.json").read_text(encoding="utf-8"))
    config["auto_map"] = {"AutoModelForCausalLM": "modeling_odd.Odd"}
    (odd / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (odd / "modeling_odd.py").write_text(ODD, encoding="utf-8")
    candidates = [
        {"name": "odd", "model": str(odd), "quantization": "bnb-nf4", "trust_remote_code": True},
        {"name": "nf4", "quantization": "bnb-nf4"},
    ]
    slices = [{"name": "typical", "tasks": ["quantcliff_facts"], "items": 4, "margin": 0.5, "gating": False}]
    path = write(
        tmp_path, tiny_llama, candidates=candidates, slices=slices, execution={"device": "cpu", "control": False}
    )
    assert call("run", path, "--output", tmp_path, "--quiet") == ExitCode.NOT_COMPARABLE
    run = RunDir(tmp_path / "trial")
    failure = run.recorded("odd", "failure-1of1.json")
    assert failure is not None
    assert "Bug: a bug of its own" in failure["message"]
    assert "Traceback" in (run.path / "odd" / "worker-1of1.log").read_text(encoding="utf-8")
    assert len(list(run.results("nf4", "typical", Shard()))) == 4


@pytest.mark.model
@pytest.mark.parametrize("damage", ["{", '{"model": 3}', ""], ids=["cut", "wrong", "empty"])
def test_a_damaged_tokenizer_is_one_message(
    damage: str, tiny_llama: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The libraries raise exceptions of many classes; a person reads which folder it is."""
    broken = copy_of(tiny_llama, tmp_path / "broken")
    (broken / "tokenizer.json").write_text(damage, encoding="utf-8")
    assert call("run", write(tmp_path, broken), "--output", tmp_path, "--quiet") == ExitCode.NOT_COMPARABLE
    error = capsys.readouterr().err
    assert f"{broken}: its tokenizer or config does not load" in error
    assert "Traceback" not in error


def test_what_a_worker_said_before_it_went_is_not_lost(tmp_path: Path) -> None:
    """It refuses while its parent is about to ask for the next unit: the reason is read, and then that it is gone."""
    here, there = multiprocessing.Pipe()
    there.send(Refused("NonFinite", "NaN in item t/1"))
    there.close()
    job = Job(
        variant=Variant(name="nf4", model="m"),
        path="",
        prompts="",
        dtype="float32",
        device="cpu",
        concurrency=1,
        choices=False,
        log=tmp_path / "log",
        attention="auto",
        batch_tokens=1,
        threads=None,
    )
    (tmp_path / "log").write_text("loading\nCUDA error\n\n", encoding="utf-8")
    handle = WorkerHandle(here, job, lambda: -9)
    handle.send(None)
    with pytest.raises(NonFinite, match="NaN in item t/1"):
        handle.receive()
    with pytest.raises(Incomplete, match=r"nf4: .* ended with signal 9 \(9 is often .* ends with: CUDA error"):
        handle.receive()
