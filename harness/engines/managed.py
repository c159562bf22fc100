"""Servers that quantcliff starts: found, given the run's dtype and seed, waited for, and gone afterwards.

Knows how each server is called on the command line. Does not ask it anything but whether it is ready.
"""

from __future__ import annotations

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
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2

from harness.config.engines import EngineSpec
from harness.engines import guard
from harness.errors import BackendMissing, ModelError

__all__ = ["SERVED_NAME", "Server", "command_of", "hardware", "package_version", "started_server"]

SERVED_NAME = "quantcliff"
"""What a managed server calls its model."""

_FEATURES = ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16", "amx_int8")
"""Instruction sets by which servers choose their kernels."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a server is started."""

    program: tuple[str, ...]
    """What is looked for in PATH, with its subcommand."""
    module: tuple[str, ...] = ()
    """What a Python interpreter runs in its place; empty if the server is not written in Python."""
    package: str = ""
    """The package whose version is the server's."""
    model: str = ""
    """The flag of the model, empty if it is the first argument."""
    dtype: str = ""
    """The flag of the compute dtype."""
    named: str = ""
    """The flag of the name that requests use; empty if they must name the model's path."""
    fixed: Mapping[str, Any] = field(default_factory=dict)
    """Arguments that make answers depend on the request alone: no sampling defaults from the model's files."""


RECIPES = {
    "vllm": Recipe(
        program=("vllm", "serve"),
        module=("-m", "vllm.entrypoints.cli.main", "serve"),
        package="vllm",
        dtype="--dtype",
        named="--served-model-name",
        fixed={"seed": 0, "generation_config": "vllm"},
    ),
    "sglang": Recipe(
        program=("sglang", "serve"),
        module=("-m", "sglang.launch_server"),
        package="sglang",
        model="--model-path",
        dtype="--dtype",
        named="--served-model-name",
        fixed={"random_seed": 0, "sampling_defaults": "openai"},
    ),
    "llama-cpp": Recipe(program=("llama-server",), model="--model", named="--alias", fixed={"seed": 0}),
    "transformers-serve": Recipe(
        program=("transformers", "serve"),
        module=("-m", "transformers.cli.transformers", "serve"),
        package="transformers",
        dtype="--dtype",
    ),
}


def command_of(spec: EngineSpec, model: str, dtype: str, device: str) -> list[str]:
    """Give the command of a server without its address. Raises BackendMissing if its program is not there."""
    recipe = RECIPES[spec.name]
    command = [*_program(spec, recipe), *([recipe.model] if recipe.model else []), model]
    command += [recipe.dtype, dtype] if recipe.dtype else []
    command += [recipe.named, SERVED_NAME] if recipe.named else []
    if spec.name == "transformers-serve":
        command += ["--device", device]
    if spec.name == "llama-cpp" and "parallel" not in spec.args:
        command += ["--parallel", str(spec.concurrency)]
    return [*command, *_flags({**recipe.fixed, **spec.args})]


def _program(spec: EngineSpec, recipe: Recipe) -> list[str]:
    name, *rest = recipe.program
    if spec.command:
        return [*spec.command, *(rest if len(spec.command) == 1 and spec.command[0].endswith(name) else [])]
    if spec.python:
        if not recipe.module:
            raise BackendMissing(f"{spec.name} is no Python program: name it with engine.command, not engine.python")
        return [spec.python, *recipe.module]
    found = shutil.which(name)
    if found is None:
        place = "python: /path/to/its/environment/bin/python" if recipe.module else "command: /path/to/" + name
        raise BackendMissing(
            f"{spec.name}: there is no program {name!r} in PATH: install it in an environment of its own, and name that"
            f" with `engine: {{name: {spec.name}, {place}}}`"
        )
    return [found, *rest]


def _flags(arguments: Mapping[str, Any]) -> list[str]:
    """Write arguments as flags: ``true`` is a bare flag, ``false`` its ``--no-`` form, a mapping JSON."""
    words: list[str] = []
    for name, value in arguments.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        elif isinstance(value, list | tuple):
            words += [f"--{flag}", *map(str, value)]
        else:
            words += [f"--{flag}", json.dumps(value) if isinstance(value, Mapping) else str(value)]
    return words


@dataclass(frozen=True, slots=True)
class Server:
    """A server that is ready."""

    url: str
    """The base URL of its API."""
    process: subprocess.Popen[bytes]
    """What guards it."""

    def gone(self) -> str:
        """Say that it has ended; empty while it runs."""
        code = self.process.poll()
        return "" if code is None else f"the server ended with exit code {code}; its last words are in the worker's log"


@contextlib.contextmanager
def started_server(command: list[str], log: Path, seconds: float) -> Iterator[Server]:
    """Start a server on a free port, wait until it is ready, and end it with all that it started.

    Its output goes to `log`. Raises ModelError if it ends or is not ready in time.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    whole = [*command, "--host", "127.0.0.1", "--port", str(port)]
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        output.write(f"$ {shlex.join(whole)}\n".encode())
        output.flush()
        process = subprocess.Popen(
            [sys.executable, "-S", "-E", str(guard.__file__), *whole],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
    server = Server(f"http://127.0.0.1:{port}/v1", process)
    try:
        _wait(server, log, seconds)
        yield server
    finally:
        if process.stdin is not None:
            process.stdin.close()
        try:
            process.wait(guard.GRACE_SECONDS + 20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _ending(code: int) -> str:
    """Return an exit code in words, with the signal that a shell's convention says it stands for."""
    names = {int(one): one.name for one in signal.Signals}
    return f"exit code {code}" + (f", {names[code - 128]}" if code - 128 in names else "")


def _wait(server: Server, log: Path, seconds: float) -> None:
    """Wait for a server's health check. Raises ModelError."""
    limit = time.monotonic() + seconds
    with httpx2.Client(trust_env=False, timeout=5) as http:
        while time.monotonic() < limit:
            if (code := server.process.poll()) is not None:
                raise ModelError(f"the server does not start ({_ending(code)}): {_last_error(log)} (log: {log})")
            with contextlib.suppress(httpx2.HTTPError):
                if http.get(server.url.removesuffix("/v1") + "/health").status_code == 200:  # noqa: PLR2004 - OK
                    return
            time.sleep(0.2)
    raise ModelError(f"the server is not ready after {seconds:.0f} s (engine.start_seconds); its log: {log}")


def _last_error(log: Path) -> str:
    lines = [one.strip() for one in log.read_text(encoding="utf-8", errors="replace").splitlines() if one.strip()]
    errors = [one for one in lines if "Error" in one or "error" in one]
    return (errors or lines or ["it says nothing"])[-1][:300]


def package_version(spec: EngineSpec) -> str:
    """Give the version of a server's package in its own environment; empty if that cannot be asked."""
    package = RECIPES[spec.name].package
    if not package or spec.command:
        return ""
    python = spec.python or _interpreter(shutil.which(RECIPES[spec.name].program[0]))
    code = f"import importlib.metadata as m; print(m.version({package!r}))"
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run([python, "-c", code], capture_output=True, text=True, timeout=60, check=True)
        return done.stdout.strip()
    return ""


def _interpreter(program: str | None) -> str:
    """Give the interpreter in the first line of an installed program."""
    with contextlib.suppress(OSError, UnicodeDecodeError):
        with Path(program or "").open(encoding="utf-8") as file:
            first = file.readline()
        if first.startswith("#!"):
            return first[2:].split()[0]
    return sys.executable


def hardware(device: str) -> str:
    """Name the processor with the instruction sets by which kernels are chosen, or the GPUs with their driver."""
    if device != "cpu":
        query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            done = subprocess.run(query, capture_output=True, text=True, timeout=30, check=True)
            return "; ".join(dict.fromkeys(done.stdout.strip().splitlines()))
        return device
    facts = Path("/proc/cpuinfo").read_text(encoding="utf-8") if Path("/proc/cpuinfo").is_file() else ""
    lines = dict(line.partition(":")[::2] for line in facts.partition("\n\n")[0].splitlines())
    values = {name.strip(): value.strip() for name, value in lines.items()}
    has = [name for name in _FEATURES if name in values.get("flags", "").split()]
    return f"{values.get('model name', platform.machine())} ({', '.join(has) or 'no wide vectors known'})"
