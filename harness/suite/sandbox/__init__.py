"""Runs generated code, shut away: what it defines is called by tests in another process, which alone can say "passes".

This module is the parent's side. Two processes (`child`, or child.js), each shut away as `confine` says: one holds the
untrusted code and answers calls, the other runs the tests on stand-ins and compares the values that come back (`values`
says which can) with its own operators. The code shares no memory, no interpreter and no pipe with the verdict, and
gives no name that the tests do not lack (`names`), so that no exit code, no printed line, no forged frame, no patched
``assert``, builtin or trace function and no class with special methods of its own makes a test pass. What remains
possible: to return the values that the tests expect (a table of answers learnt by heart passes, as it does under every
such grader); to say that it was defined without an exception when it was not (`Outcome.runs` of code that does not pass
rests on its own interpreter); to read world-readable files of the system and of Python; to use up its limits; and
whatever a flaw in the kernel allows.

Nothing here decides whether code may run: the callers do. Linux only.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from harness.errors import RunError
from harness.suite.sandbox.names import taken
from harness.suite.sandbox.values import Gone, receive

LANGUAGES = ("python", "javascript")
_HERE = Path(__file__).resolve().parent
_STARTING = 60.0
_SIGNALLED = 128


@dataclass(frozen=True, slots=True)
class Limits:
    """What each of the two processes may use."""

    wall_s: float = 10.0  # of wall time from the start of the code, for definition and all tests together
    cpu_s: int = 10  # of processor time
    memory_bytes: int = 512 << 20
    """Address space (Python), or writable memory (JavaScript, whose engine reserves far more than it uses)."""


@dataclass(frozen=True, slots=True)
class Program:
    """Generated code and how it is tested."""

    code: str  # the untrusted code, whole
    tests: tuple[str, ...]
    """Trusted code that raises (JavaScript: also ``console.assert``) where a test fails; run in this order."""
    setup: str = ""
    """Trusted code that runs before the tests, such as imports: what it defines stands before what the code does."""
    names: tuple[str, ...] | None = None
    """What the tests take from the code; None for what they read without defining it (`names`)."""
    language: str = "python"  # one of `LANGUAGES`


@dataclass(frozen=True, slots=True)
class Outcome:
    """How far the code came."""

    parses: bool  # whether it is a program of its language
    runs: bool  # whether it was defined without an exception
    passes: bool  # whether every test ran to its end
    reason: str
    """Why not: ``timeout``, ``cpu``, ``memory``, ``ended`` (its process left), ``signal 11``, an exception's name."""

    def metrics(self) -> dict[str, float]:
        """Give the three as lm_eval's metrics, 1.0 or 0.0."""
        return {"passes": float(self.passes), "runs": float(self.runs), "parses": float(self.parses)}


def missing(language: str) -> str:
    """Say what this machine lacks to run a language, and the remedy; empty where it lacks nothing.

    Raises ValueError for a language that is none of `LANGUAGES`.
    """
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
    """Find out, by shutting a trivial program away, what this machine's kernel grants: layers, network and files.

    Raises RunError where it is too little to run anything: seccomp, and a user namespace or Landlock, must be there.
    """
    code, test = {
        "python": ("def one(): return 1", "assert one() == 1"),
        "javascript": ("const one = () => 1", "console.assert(one() === 1)"),
    }[language]
    with _Pair(Program(code, (test,), language=language), Limits(wall_s=_STARTING)) as pair:
        outcome = pair.outcome()
    if not outcome.passes:
        raise RunError(f"the sandbox does not run a trivial {language} program here ({outcome.reason})")
    return _described(pair.layers)


def _described(layers: Sequence[str]) -> dict[str, Any]:
    network = "a namespace of its own, without any interface"
    if "network namespace" not in layers:
        network = "no network namespace here: every socket is refused by the system call filter"
    files = "an empty temporary file system of 16 MiB, all else read-only"
    if "read-only files but a small temporary directory" not in layers:
        files = "nowhere: nothing can be written"
    return {"layers": list(layers), "network": network, "files": files}


def execute(program: Program, limits: Limits | None = None) -> Outcome:
    """Run a program's code and tests, and give how far it came. Takes two fresh processes and leaves none.

    Raises RunError where the code cannot be shut away; what the code does is never an error here.
    """
    if lacking := missing(program.language):
        raise RunError(lacking)
    with _Pair(program, limits or Limits()) as pair:
        return pair.outcome()


class _Pair:
    """The process with the code and the process with the tests, while they live."""

    def __init__(self, program: Program, limits: Limits) -> None:
        self.program, self.limits = program, limits
        self.layers: tuple[str, ...] = ()
        self._said: dict[str, Any] = {}
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        one = self.program
        names = taken(one.setup, one.tests, one.language) if one.names is None else one.names
        with self._stack, contextlib.ExitStack() as handed:  # what the two processes hold is closed here
            to_code, from_code, verdict = (_pipe(handed) for _ in range(3))
            self._verdict = os.dup(verdict[0])
            self._stack.callback(os.close, self._verdict)
            own = {"code": one.code, "names": names}
            self._code = self._start("solution", own, inbox=to_code[0], outbox=from_code[1])
            own = {"tests": one.tests, "setup": one.setup, "names": names}
            self._start("tests", own, inbox=from_code[0], outbox=to_code[1], verdict=verdict[1])
            self._stack = self._stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _start(self, role: str, program: dict[str, Any], **ends: int) -> subprocess.Popen[bytes]:
        folder = tempfile.mkdtemp(prefix="quantcliff-code-")
        self._stack.callback(shutil.rmtree, folder, ignore_errors=True)
        told = {**ends, **_told(self.program.language, self.limits), "folder": folder}
        command = [sys.executable, "-P", "-s", "-S", "-B", "-X", "utf8", str(_HERE / "child.py"), role]
        with tempfile.TemporaryFile() as source:
            source.write(json.dumps(program).encode())
            source.seek(0)
            process = subprocess.Popen(
                [*command, json.dumps(told)],
                stdin=source,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={"PYTHONHASHSEED": "0"},
                cwd=folder,
                pass_fds=tuple(ends.values()),
                start_new_session=True,
            )
        self._stack.callback(_end, process)
        return process

    def outcome(self) -> Outcome:
        """Follow the tests' pipe to the verdict, or to the end of the time."""
        self._follow({"solution"}, _STARTING)
        if "solution" not in self._said:
            raise RunError("generated code could not be shut away: its process ended before any code was read")
        self._check()
        in_time = self._follow({"passes", "failed"}, self.limits.wall_s)
        parses, runs = self._said.get("parses") is True, self._said.get("runs") is True
        passes = parses and runs and self._said.get("passes") is True
        return Outcome(parses, runs, passes, "" if passes else self._reason() if in_time else "timeout")

    def _follow(self, until: set[str], seconds: float) -> bool:
        """Read what the tests say until one of `until` has come, or they end. False where time is up."""
        deadline = time.monotonic() + seconds
        with contextlib.suppress(Gone):
            while not self._said.keys() & until:
                left = deadline - time.monotonic()
                if left <= 0 or not select.select([self._verdict], [], [], left)[0]:
                    return False
                self._said.update(receive(self._verdict))
        return True

    def _check(self) -> None:
        self.layers = tuple(one for one in self._said["solution"] if one in self._said["tests"])
        if "seccomp" not in self.layers or not {"user namespace", "landlock"} & set(self.layers):
            raise RunError(
                f"this kernel cannot shut generated code away (it grants {', '.join(self.layers) or 'nothing'}): "
                "needed are seccomp, and user namespaces or Landlock; run where they are, or leave the slice out"
            )

    def _reason(self) -> str:
        said = str(self._said.get("failed", "ended"))
        if said != "ended":
            return "memory" if said == "MemoryError" else said
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._code.wait(timeout=1)
        code = self._code.returncode or 0
        number = -code if code < 0 else code - _SIGNALLED if code > _SIGNALLED else 0
        return "ended" if not number else "cpu" if number in {9, 24} else f"signal {number}"


def _pipe(stack: contextlib.ExitStack) -> tuple[int, int]:
    ends = os.pipe()
    for end in ends:
        stack.callback(os.close, end)
    return ends


def _told(language: str, limits: Limits) -> dict[str, Any]:
    """Give what a process must know to shut itself away: files have 8 MiB, all together 16; 64 threads are the most."""
    own = {"CPU": limits.cpu_s, "FSIZE": 8 << 20, "NOFILE": 64, "NPROC": 64}
    system = ["/usr", "/lib", "/lib64", "/etc/ld.so.cache", "/dev/urandom"]
    if language == "python":
        readable = [sys.base_prefix, sys.base_exec_prefix, *system]
        return {"limits": own | {"AS": limits.memory_bytes}, "readable": readable}
    node, script = _node(), str(_HERE / "child.js")
    return {
        "limits": own | {"DATA": limits.memory_bytes * 2},
        "readable": [str(node), script, *system],
        "node": node,
        "script": script,
        "heap_mib": limits.memory_bytes >> 20,
    }


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process and its namespace: the outer one ends the inner one and reports it; if it does not, so do we."""
    process.terminate()
    try:
        process.wait(timeout=2)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
