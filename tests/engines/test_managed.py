"""Servers that quantcliff starts: how they are called, and that they are gone afterwards, whatever happens."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import engine_models as tiny
import pytest
from paths import ROOT
from stub_server import Answers, settings_file

from harness.config.engines import EngineSpec
from harness.config.schema import Variant
from harness.engines import guard
from harness.engines.managed import command_of, hardware, package_version, started_server
from harness.engines.registry import ENGINES, EngineRequest
from harness.errors import BackendMissing, ModelError, NotComparable
from harness.records import Generation, Settings

STUB = [sys.executable, str(ROOT / "tests" / "stub_server.py"), "model"]


def wait_until_gone(processes: list[int], seconds: float = 10) -> list[int]:
    """The processes that are still there after a while."""
    limit = time.monotonic() + seconds
    while (left := [one for one in processes if Path(f"/proc/{one}").exists()]) and time.monotonic() < limit:
        time.sleep(0.05)
    return left


def processes_in(log: Path) -> list[int]:
    """The server's process and its child's, as the stub wrote them."""
    found = re.search(r"processes: (\d+) (\d+)", log.read_text())
    assert found, log.read_text()
    return [int(one) for one in found.groups()]


def test_each_server_is_called_in_its_own_way() -> None:
    """Dtype, seed and name are set, sampling defaults of the model's files are off, and arguments become flags."""
    args = {"kv_cache_dtype": "fp8", "enforce-eager": True, "prefix_caching": False, "rope": {"a": 1}, "lora": [1, 2]}
    vllm = command_of(EngineSpec(name="vllm", python="/v/bin/python", args=args), "/m", "bfloat16", "cuda")
    text = " ".join(vllm)
    assert text.startswith("/v/bin/python -m vllm.entrypoints.cli.main serve /m --dtype bfloat16 --served-model-name")
    assert "--seed 0 --generation-config vllm --kv-cache-dtype fp8 --enforce-eager --no-prefix-caching" in text
    assert text.endswith('--rope {"a": 1} --lora 1 2')
    sglang = command_of(EngineSpec(name="sglang", python="py"), "/m", "float16", "cuda")
    assert sglang[:5] == ["py", "-m", "sglang.launch_server", "--model-path", "/m"]
    llama = command_of(EngineSpec(name="llama-cpp", command=["/b/llama-server"]), "/m.gguf", "float32", "cpu")
    assert llama[:3] == ["/b/llama-server", "--model", "/m.gguf"]
    text = " ".join(llama)
    assert "--parallel 8 --seed 0 --samplers penalties;" in text
    assert "--top-k 0 --top-p 1.0 --min-p 0.0 --xtc-probability 0.0 --mirostat 0 --repeat-penalty 1.0" in text
    assert text.endswith("--presence-penalty 0.0 --frequency-penalty 0.0")
    told = command_of(EngineSpec(name="llama-cpp", command="x", args={"top_k": 40}), "/m.gguf", "float32", "cpu")
    assert told[told.index("--top-k") + 1] == "40"
    assert told.count("--top-k") == 1
    own = command_of(EngineSpec(name="vllm", command="docker run image vllm serve"), "/m", "float32", "cpu")
    assert own[:6] == ["docker", "run", "image", "vllm", "serve", "/m"]


def test_a_missing_program_is_a_message_that_says_what_to_write(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is installed for the user."""
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(BackendMissing, match=r"no program 'vllm' in PATH: .*python: /path/to"):
        command_of(EngineSpec(name="vllm"), "/m", "float32", "cpu")
    with pytest.raises(BackendMissing, match=r"no Python program: name it with engine\.command"):
        command_of(EngineSpec(name="llama-cpp", python="py"), "/m.gguf", "float32", "cpu")


def test_versions_and_hardware_are_read_from_where_the_server_runs() -> None:
    """The package in the named environment, and the instruction sets of the processor."""
    import transformers

    spec = EngineSpec(name="transformers-serve", python=sys.executable)
    assert package_version(spec) == transformers.__version__
    assert package_version(EngineSpec(name="vllm", python="/nowhere/python")) == ""
    assert "(" in hardware("cpu")


def test_a_server_is_waited_for_and_gone_with_its_children(tmp_path: Path) -> None:
    """Its output is in the log; so is the command."""
    log = tmp_path / "worker.log"
    with started_server(STUB, log, 30) as server:
        assert server.gone() == ""
        processes = processes_in(log)
        assert all(Path(f"/proc/{one}").exists() for one in processes)
    assert wait_until_gone(processes) == []
    assert log.read_text().startswith("$ ")


def test_a_server_that_ends_says_so(tmp_path: Path) -> None:
    """`gone` is what tells a refused connection from an answer that is late."""
    log = tmp_path / "worker.log"
    with started_server(STUB, log, 30) as server:
        os.kill(processes_in(log)[0], signal.SIGKILL)
        server.process.wait(10)
        assert "exit code 137" in server.gone()
    assert wait_until_gone(processes_in(log)) == []


def test_a_server_that_does_not_start_is_a_message_with_its_last_error(
    tmp_path: Path,
) -> None:
    """And one that never becomes ready is given up."""
    broken = [*STUB, "--settings", str(settings_file(tmp_path / "settings.json", Answers(), "no_start"))]
    with pytest.raises(ModelError, match="Error: there is no such model"), started_server(broken, tmp_path / "l", 30):
        pass
    illegal = [sys.executable, "-c", "import os, signal; os.kill(os.getpid(), signal.SIGILL)"]
    with pytest.raises(ModelError, match="exit code 132, SIGILL"), started_server(illegal, tmp_path / "k", 30):
        pass
    sleeper = [sys.executable, "-c", "import time; time.sleep(60)"]
    with pytest.raises(ModelError, match="not ready after 1 s"), started_server(sleeper, tmp_path / "m", 1):
        pass


STARTS = """
import sys, time
from pathlib import Path
from harness.engines.managed import started_server
with started_server(sys.argv[2:], Path(sys.argv[1]), 30):
    print("ready", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_server_ends_with_the_process_that_started_it(tmp_path: Path, number: int) -> None:
    """SIGKILL leaves no time to clean up: the guard sees its standard input close."""
    log = tmp_path / "worker.log"
    parent = subprocess.Popen([sys.executable, "-c", STARTS, str(log), *STUB], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    assert parent.stdout.readline() == b"ready\n"
    parent.send_signal(number)
    parent.wait(10)
    parent.stdout.close()
    assert wait_until_gone(processes_in(log)) == []


def test_a_server_that_ignores_sigterm_is_killed(tmp_path: Path) -> None:
    """After a while, with what it started."""
    deaf = tmp_path / "deaf.py"
    deaf.write_text(
        "import signal, subprocess, os, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "child = subprocess.Popen(['sleep', '60'], start_new_session=True)\n"
        "print('processes:', os.getpid(), child.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    code = (
        f"import sys; sys.path.insert(0, {str(Path(guard.__file__).parent)!r}); import guard; guard.GRACE_SECONDS = 0.3"
        "; "
        f"sys.exit(guard.main([sys.executable, {str(deaf)!r}]))"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as guarded:
        assert guarded.stdout is not None
        assert guarded.stdin is not None
        said = guarded.stdout.readline().decode().split()
        guarded.stdin.close()
        guarded.wait(10)
    assert wait_until_gone([int(one) for one in said[1:]]) == []


def serving_python() -> str | None:
    """An interpreter that can run `transformers serve`: this one, or the one in QUANTCLIFF_SERVE_PYTHON."""
    found = all(importlib.util.find_spec(name) for name in ("fastapi", "uvicorn", "openai"))
    return sys.executable if found else os.environ.get("QUANTCLIFF_SERVE_PYTHON")


@pytest.mark.slow
@pytest.mark.model
@pytest.mark.skipif(serving_python() is None, reason="needs fastapi, uvicorn and openai, or QUANTCLIFF_SERVE_PYTHON")
def test_a_real_server_gives_the_answers_of_the_own_engine(tmp_path: Path) -> None:
    """`transformers serve` on a tiny model in float32: the same texts, prompts counted alike, choices refused."""
    items, settings = [item for item in tiny.text_items() if not item.stop][:3], Settings()
    folder = tmp_path / "model"
    tiny.model("llama").save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    variant = Variant(name="v", model=str(folder), engine={"name": "transformers-serve", "python": serving_python()})
    request = EngineRequest(variant, str(folder), str(folder), "float32", "cpu", 4, choices=False, log=tmp_path / "log")
    with ENGINES["transformers-serve"](request) as served:
        theirs = [one.text for one in served.answer(items, settings) if isinstance(one, Generation)]
        proof = served.proof().served or {}
        address = {"name": "openai", "url": served._client.url, "model": str(folder)}
        asked = variant.model_copy(update={"engine": EngineSpec(**address)})
        with (
            pytest.raises(NotComparable, match="cannot weigh choices"),
            ENGINES["openai"](dataclasses.replace(request, variant=asked, choices=True)),
        ):
            pass
    mine = {one.item_id: one.text for one in tiny.engine().answer(items, settings) if isinstance(one, Generation)}
    assert theirs == [mine[item.id] for item in items]
    assert (proof["kind"], proof["prompts"], proof["prompt_offset"]) == ("proven", "text", 0)
