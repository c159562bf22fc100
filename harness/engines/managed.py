"""Servers that quantcliff starts: found, given the run's dtype and seed, waited for, and gone afterwards."""

import contextlib
import json
import os
import platform
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2

from harness.config.engines import EngineSpec
from harness.engines import guard
from harness.errors import BackendMissing, ModelError
from harness.models.devices import cpuinfo

SERVED_NAME = "quantcliff"
_FEATURES = ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16", "amx_int8")  # by which kernels are chosen


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a server is started."""

    program: Sequence[str]  # what is looked for in PATH, with its subcommand; of a Python server its package too
    module: Sequence[str] = ()  # what a Python interpreter runs in its place; empty if it is no Python program
    model: str = ""  # the flag of the model, empty if it is the first argument
    dtype: str = "--dtype"
    named: str = "--served-model-name"  # for the name that requests use; empty if they must name the model's path
    fixed: Mapping[str, Any] = field(default_factory=dict)  # so that answers depend on the request alone


_SERVERS = tomllib.loads(Path(__file__).with_name("servers.toml").read_text("utf-8"))
RECIPES = {name: Recipe(**told) for name, told in _SERVERS.items()}


def command_of(spec: EngineSpec, model: str, dtype: str, device: str) -> list[str]:
    """Return the command of a server, but for its address. Raises BackendMissing if its program is not there."""
    recipe = RECIPES[spec.name]
    command = [*_program(spec, recipe), *([recipe.model] if recipe.model else []), model]
    command += [recipe.dtype, dtype] if recipe.dtype else []
    command += [recipe.named, SERVED_NAME] if recipe.named else []
    if spec.name == "transformers-serve":
        command += ["--device", device]
    if spec.name == "llama-cpp" and "parallel" not in spec.args:
        command += ["--parallel", str(spec.concurrency)]
    for name, value in {**recipe.fixed, **spec.args}.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            command.append(f"--{flag}" if value else f"--no-{flag}")
        elif isinstance(value, list | tuple):
            command += [f"--{flag}", *map(str, value)]
        else:
            command += [f"--{flag}", json.dumps(value) if isinstance(value, Mapping) else str(value)]
    return command


def _program(spec: EngineSpec, recipe: Recipe) -> list[str]:
    name, *rest = recipe.program
    if spec.command:
        return [*spec.command, *(rest if len(spec.command) == 1 and spec.command[0].endswith(name) else [])]
    if spec.python:
        if not recipe.module:
            raise BackendMissing(f"{spec.name} is no Python program: name it with engine.command, not engine.python")
        return [spec.python, *recipe.module]
    if found := shutil.which(name):
        return [found, *rest]
    place = "python: /path/to/its/environment/bin/python" if recipe.module else "command: /path/to/" + name
    remedy = f"install it in an environment of its own, and name that with `engine: {{name: {spec.name}, {place}}}`"
    raise BackendMissing(f"{spec.name}: there is no program {name!r} in PATH: {remedy}")


@dataclass(frozen=True, slots=True)
class Server:
    """A server that is ready."""

    url: str
    process: subprocess.Popen[bytes]

    def gone(self) -> str:
        """Say that it has ended; empty while it runs."""
        code = self.process.poll()
        return "" if code is None else f"the server ended with exit code {code}; its last words are in the worker's log"


@contextlib.contextmanager
def started_server(command: list[str], log: Path, seconds: float) -> Iterator[Server]:
    """Start a server on a free port, its output in `log`, and end it with all that it started. Raises ModelError."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    whole = [*command, "--host", "127.0.0.1", "--port", str(port)]
    guarded, environment = [sys.executable, "-P", str(guard.__file__), *whole], {**os.environ, "PYTHONUNBUFFERED": "1"}
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        output.write(f"$ {shlex.join(whole)}\n".encode())
        output.flush()
        process = subprocess.Popen(guarded, stdin=subprocess.PIPE, stdout=output, stderr=output, env=environment)
    server = Server(f"http://127.0.0.1:{port}/v1", process)
    try:
        _wait(server, log, seconds)
        yield server
    finally:
        try:
            process.communicate(timeout=guard.GRACE_SECONDS + 20)  # closes its standard input, at which it ends
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait(server: Server, log: Path, seconds: float) -> None:
    """Wait for a server's health check. Raises ModelError."""
    limit = time.monotonic() + seconds
    with httpx2.Client(trust_env=False, timeout=5) as http:
        while time.monotonic() < limit:
            if (code := server.process.poll()) is not None:
                # 128 and a signal, by a shell's convention
                ended = next((f", {one.name}" for one in signal.Signals if one == code - 128), "")
                lines = [one for one in log.read_text(encoding="utf-8", errors="replace").splitlines() if one.strip()]
                errors = [one for one in lines if "Error" in one or "error" in one]
                said = (errors or lines or ["it says nothing"])[-1].strip()[:300]
                raise ModelError(f"the server does not start (exit code {code}{ended}): {said} (log: {log})")
            with contextlib.suppress(httpx2.HTTPError):
                if http.get(server.url.removesuffix("/v1") + "/health").is_success:
                    return
            time.sleep(0.2)
    raise ModelError(f"the server is not ready after {seconds:.0f} s (engine.start_seconds); its log: {log}")


def package_version(spec: EngineSpec) -> str:
    """Return the version of a server's package in its own environment; empty if that cannot be asked."""
    recipe = RECIPES[spec.name]
    package = recipe.program[0]
    if not recipe.module or spec.command:
        return ""
    with contextlib.suppress(OSError, UnicodeDecodeError, subprocess.SubprocessError):
        python = spec.python or sys.executable
        if not spec.python and (program := shutil.which(package)):
            with Path(program).open(encoding="utf-8") as file:  # its first line names its interpreter
                first = file.readline()
            python = first[2:].split()[0] if first.startswith("#!") else python
        code = f"import importlib.metadata as m; print(m.version({package!r}))"
        done = subprocess.run([python, "-c", code], capture_output=True, text=True, timeout=60, check=True)
        return done.stdout.strip()
    return ""


def hardware(device: str) -> str:
    """Name the processor with the instruction sets by which kernels are chosen, or the GPUs with their driver."""
    if device != "cpu":
        query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            done = subprocess.run(query, capture_output=True, text=True, timeout=30, check=True)
            return "; ".join(dict.fromkeys(done.stdout.strip().splitlines()))
        return device
    cpu = cpuinfo()
    has = [name for name in _FEATURES if name in cpu.get("flags", "").split()]
    return f"{cpu.get('model name', platform.machine())} ({', '.join(has) or 'no wide vectors known'})"
