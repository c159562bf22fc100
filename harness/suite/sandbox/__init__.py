"""Runs generated code, shut away: what it defines is called by tests in another process, which alone can say "passes".

This is the parent's side of two processes (`child`, or child.js), each shut away as `confine` says. docs/sandbox.md
says what is guaranteed, why, and what remains possible. Whether code may run at all, the callers decide. Linux only.
"""

import contextlib
import functools
import itertools
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import RunError
from harness.suite.sandbox.names import taken
from harness.suite.sandbox.values import Gone, receive

LANGUAGES = ("python", "javascript")
_HERE = Path(__file__).resolve().parent
_STARTING = 60.0
_SIGNALLED = 128
_FROM_OUTSIDE = {"cpu", "signal 1", "signal 2", "signal 15"}  # which a machine without memory, or its user, may send


@dataclass(frozen=True, slots=True)
class Limits:
    """What each of the two processes may use."""

    wall_s: float = 10.0  # of wall time from the start of the code, for definition and all tests together
    cpu_s: int = 10  # of processor time
    memory_bytes: int = 512 << 20  # address space (Python), or writable memory (node reserves far more than it uses)


@dataclass(frozen=True, slots=True)
class Program:
    """Generated code and how it is tested."""

    code: str  # the untrusted code, whole
    tests: tuple[str, ...]  # trusted code that raises (JavaScript: or ``console.assert``) if a test fails, in order
    setup: str = ""  # trusted code that runs before the tests: what it defines stands before what the code does
    names: tuple[str, ...] | None = None  # what the tests take from the code; None for what they read and do not define
    language: str = "python"  # one of `LANGUAGES`


@dataclass(frozen=True, slots=True)
class Outcome:
    """How far the code came."""

    parses: bool  # whether it is a program of its language
    runs: bool  # whether it was defined without an exception
    passes: bool  # whether every test ran to its end
    reason: str  # why not: timeout, cpu, memory, ended (its process left), signal 11, an exception's name

    def metrics(self) -> dict[str, float]:
        """Give the three as lm_eval's metrics, 1.0 or 0.0."""
        return {"passes": float(self.passes), "runs": float(self.runs), "parses": float(self.parses)}


def missing(language: str) -> str:
    """Say what this machine lacks to run a language, and the remedy; empty if nothing. ValueError: no such language."""
    if language not in LANGUAGES:
        raise ValueError(f"{language!r} is none of {', '.join(LANGUAGES)}")
    if not sys.platform.startswith("linux"):
        return f"generated code is shut away by the Linux kernel, and this is {sys.platform}: run on Linux"
    if language == "javascript" and _node() is None:
        return "JavaScript runs in node, which is not on the PATH: install Node.js 18 or newer, or leave the task out"
    return ""


def _node() -> str | None:
    found = shutil.which("node")
    return None if found is None else os.path.realpath(found)


@functools.cache
def isolation(language: str = "python") -> dict[str, Any]:
    """Shut a trivial program away, and give what the kernel grants: layers, network, files; RunError if too little."""
    python, js = ("def one(): return 1", "assert one() == 1"), ("const one = () => 1", "console.assert(one() === 1)")
    code, test = python if language == "python" else js
    outcome, layers = _run(Program(code, (test,), language=language), Limits(wall_s=_STARTING))
    if not outcome.passes:
        raise RunError(f"the sandbox does not run a trivial {language} program here ({outcome.reason})")
    return _described(layers)


def _described(layers: Sequence[str]) -> dict[str, Any]:
    away, own = "network namespace" in layers, "read-only files but a small temporary directory" in layers
    shared = "no network namespace here: every socket is refused by the system call filter"
    network = "a namespace of its own, without any interface" if away else shared
    files = "an empty temporary file system of 16 MiB, all else read-only" if own else "nowhere: nothing can be written"
    return {"layers": list(layers), "network": network, "files": files}


def execute(program: Program, limits: Limits | None = None) -> Outcome:
    """Run code and tests in two fresh processes, and give how far it came; RunError if it cannot be shut away."""
    if lacking := missing(program.language):
        raise RunError(lacking)
    began, outcome = time.monotonic(), _run(program, limits := limits or Limits())[0]
    if outcome.reason in _FROM_OUTSIDE and time.monotonic() - began < limits.cpu_s:  # killed, and not for its time
        outcome = _run(program, limits)[0]
    return outcome


def _run(program: Program, limits: Limits) -> tuple[Outcome, list[str]]:
    """Start both processes, follow the tests to their verdict or the end of the time, and end both; with the layers."""
    names = taken(program.setup, program.tests, program.language) if program.names is None else program.names
    tests = {"tests": program.tests, "setup": program.setup, "names": names}
    said: dict[str, Any] = {}
    with contextlib.ExitStack() as stack:
        start = functools.partial(_start, stack, _told(program.language, limits))
        with contextlib.ExitStack() as handed:  # what the two processes hold is closed here
            to_code, from_code, verdict = pipes = [os.pipe() for _ in range(3)]
            for end in itertools.chain(*pipes):
                handed.callback(os.close, end)
            pipe = os.dup(verdict[0])
            stack.callback(os.close, pipe)
            both = [start("solution", {"code": program.code, "names": names}, inbox=to_code[0], outbox=from_code[1])]
            both.append(start("tests", tests, inbox=from_code[0], outbox=to_code[1], verdict=verdict[1]))
        _follow(pipe, said, {"solution"}, _STARTING)
        layers = _granted(said)
        in_time = _follow(pipe, said, {"passes", "failed"}, limits.wall_s)
        parses, runs = said.get("parses") is True, said.get("runs") is True
        passes = parses and runs and said.get("passes") is True
        reason = "" if passes else _reason(said, both) if in_time else "timeout"
    return Outcome(parses, runs, passes, reason), layers


def _start(
    stack: contextlib.ExitStack, told: Mapping[str, Any], role: str, program: Mapping[str, Any], **ends: int
) -> subprocess.Popen[bytes]:
    folder = tempfile.mkdtemp(prefix="quantcliff-code-")
    stack.callback(shutil.rmtree, folder, ignore_errors=True)
    command = [sys.executable, "-P", "-s", "-S", "-B", "-X", "utf8", str(_HERE / "child.py"), role]
    with tempfile.TemporaryFile() as source:
        source.write(json.dumps(program).encode())
        source.seek(0)
        own: dict[str, Any] = {"env": {"PYTHONHASHSEED": "0"}, "cwd": folder, "pass_fds": tuple(ends.values())}
        own |= {"stdin": source, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "start_new_session": True}
        process = subprocess.Popen([*command, json.dumps({**ends, **told, "folder": folder})], **own)
    stack.callback(_end, process)
    return process


def _follow(pipe: int, said: dict[str, Any], until: set[str], seconds: float) -> bool:
    """Read what the tests say until one of `until` has come, or they end. False where time is up."""
    with contextlib.suppress(Gone):
        while seconds > 0 and not said.keys() & until:
            began, step = time.monotonic(), min(seconds, 0.5)
            if select.select([pipe], [], [], step)[0]:
                said.update(receive(pipe))
            seconds -= min(time.monotonic() - began, step)  # not all of what a job that is suspended stands still
    return seconds > 0 or bool(said.keys() & until)


def _granted(said: Mapping[str, Any]) -> list[str]:
    """Give the layers that both processes have. Raises RunError where they are too few to run anything."""
    if "solution" not in said:
        raise RunError("generated code could not be shut away: its process ended before any code was read")
    layers = [one for one in said["solution"] if one in said["tests"]]
    if "seccomp" not in layers or not {"user namespace", "landlock"} & set(layers):
        text = f"this kernel cannot shut generated code away (it grants {', '.join(layers) or 'nothing'}): needed are"
        raise RunError(f"{text} seccomp, and user namespaces or Landlock; run where they are, or leave the slice out")
    return layers


def _reason(said: Mapping[str, Any], both: Sequence[subprocess.Popen[bytes]]) -> str:
    failed = str(said.get("failed", "ended"))
    if failed != "ended":
        return "memory" if failed == "MemoryError" else failed
    for process in both:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=1)
    ended = [process.returncode or 0 for process in both]
    number = max(-status if status < 0 else status - _SIGNALLED for status in ended)
    return "ended" if number <= 0 else "cpu" if number in {9, 24} else f"signal {number}"


def _told(language: str, limits: Limits) -> dict[str, Any]:
    """Give what a process must know to shut itself away: files have 8 MiB, all together 16; 64 threads are the most."""
    own = {"CPU": limits.cpu_s, "FSIZE": 8 << 20, "NOFILE": 64, "NPROC": 64}
    system = ["/usr", "/lib", "/lib64", "/etc/ld.so.cache", "/dev/urandom"]
    if language == "python":
        readable = [sys.base_prefix, sys.base_exec_prefix, *system]
        return {"limits": own | {"AS": limits.memory_bytes}, "readable": readable}
    node, script, most = _node(), str(_HERE / "child.js"), {"DATA": limits.memory_bytes * 2}
    told = {"node": node, "script": script, "heap_mib": limits.memory_bytes >> 20}
    return {"limits": own | most, "readable": [str(node), script, *system], **told}


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process and its namespace: the outer one ends the inner one and reports it; if it does not, so do we."""
    process.terminate()
    try:
        process.wait(timeout=2)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
