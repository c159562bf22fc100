"""Runs generated code, shut away: what it defines is called by tests in another process, which alone can say "passes".

Two processes, each shut away as `confine` says: one holds the untrusted code and answers calls, the
other runs the tests on stand-ins and compares the values that come back with its own operators. The code shares no
memory, no interpreter and no pipe with the verdict, and gives no name that the tests do not lack, so that no exit code,
no printed line, no forged frame, no patched ``assert``, builtin or trace function and no class with special methods of
its own makes a test pass. What remains possible: to
return the values that the tests expect (a table of answers learnt by heart passes, as it does under every such grader);
to say that it was defined without an exception when it was not (`Outcome.runs` of code that does not pass rests on its
own interpreter); to read world-readable files of the system and of Python; to use up its limits; and whatever a flaw in
the kernel allows.

Nothing here decides whether code may run: the callers do. Linux only. Knows nothing of tasks, models or runs.
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
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, Self

from harness.errors import RunError
from harness.suite.sandbox.names import taken
from harness.suite.sandbox.values import Gone, receive

__all__ = ["LANGUAGES", "Isolation", "Limits", "Outcome", "Program", "execute", "isolation", "missing"]

LANGUAGES = ("python", "javascript")
_HERE = Path(__file__).resolve().parent
_STARTING = 60.0
_SIGNALLED = 128


@dataclass(frozen=True, slots=True)
class Limits:
    """What each of the two processes may use."""

    wall_s: float = 10.0
    """Seconds of wall time from the start of the code, for definition and all tests together."""
    cpu_s: int = 10
    """Seconds of processor time."""
    memory_bytes: int = 512 << 20
    """Address space (Python), or writable memory (JavaScript, whose engine reserves far more than it uses)."""
    file_bytes: int = 8 << 20
    """The longest file; all files together have 16 MiB."""
    files: int = 64
    """Open files."""
    processes: int = 64
    """Threads; no second process may be started at all."""


@dataclass(frozen=True, slots=True)
class Program:
    """Generated code and how it is tested."""

    code: str
    """The untrusted code, whole."""
    tests: tuple[str, ...]
    """Trusted code that raises (JavaScript: also ``console.assert``) where a test fails; run in this order."""
    setup: str = ""
    """Trusted code that runs before the tests, such as imports: what it defines stands before what the code does."""
    names: tuple[str, ...] | None = None
    """What the tests take from the code; None for what they read without defining it (`names`)."""
    language: str = "python"
    """``python`` or ``javascript``."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How far the code came."""

    parses: bool
    """Whether it is a program of its language."""
    runs: bool
    """Whether it was defined without an exception."""
    passes: bool
    """Whether every test ran to its end."""
    reason: str
    """Why not: ``timeout``, ``cpu``, ``memory``, ``ended`` (its process left), ``signal 11``, an exception's name."""

    def metrics(self) -> dict[str, float]:
        """Give the three as lm_eval's metrics, 1.0 or 0.0."""
        return {"passes": float(self.passes), "runs": float(self.runs), "parses": float(self.parses)}


@dataclass(frozen=True, slots=True)
class Isolation:
    """What shut the code away on this machine."""

    layers: tuple[str, ...]
    """The layers in force, as the kernel granted them."""
    network: str
    """How the network was cut off."""
    files: str
    """Where code could write."""

    def record(self) -> dict[str, Any]:
        """Give it as plain JSON."""
        return asdict(self) | {"layers": list(self.layers)}

    def sentence(self) -> str:
        """Say it in one sentence."""
        return f"generated code ran shut away by {', '.join(self.layers)}; network: {self.network}; files: {self.files}"


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
def isolation(language: str = "python") -> Isolation:
    """Find out, by shutting a trivial program away, what this machine's kernel grants.

    Raises RunError where it is too little to run anything: seccomp, and a user namespace or Landlock, must be there.
    """
    test = {"python": "assert one() == 1", "javascript": "console.assert(one() === 1)"}[language]
    code = {"python": "def one(): return 1", "javascript": "const one = () => 1"}[language]
    with _Pair(Program(code, (test,), language=language), Limits(wall_s=_STARTING)) as pair:
        outcome = pair.outcome()
    if not outcome.passes:
        raise RunError(f"the sandbox does not run a trivial {language} program here ({outcome.reason})")
    return _described(pair.layers)


def _described(layers: Sequence[str]) -> Isolation:
    own_net = "network namespace" in layers
    own_files = "read-only files but a small temporary directory" in layers
    return Isolation(
        tuple(layers),
        "a namespace of its own, without any interface"
        if own_net
        else "no network namespace here: every socket is refused by the system call filter",
        "an empty temporary file system of 16 MiB, all else read-only"
        if own_files
        else "nowhere: nothing can be written",
    )


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
        with self._stack:
            to_code, from_code, verdict = (self._pipe() for _ in range(3))
            own = {"code": self.program.code, "names": self._names}
            tests = {"tests": self.program.tests, "setup": self.program.setup, "names": self._names}
            self._code = self._start("solution", own, {"inbox": to_code[0], "outbox": from_code[1]})
            ends = {"inbox": from_code[0], "outbox": to_code[1], "verdict": verdict[1]}
            self._tests = self._start("tests", tests, ends)
            for end in (*to_code, *from_code, verdict[1]):
                os.close(end)
            self._open.difference_update((*to_code, *from_code, verdict[1]))
            self._verdict = verdict[0]
            self._stack = self._stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @functools.cached_property
    def _open(self) -> set[int]:
        ends: set[int] = set()
        self._stack.callback(_close, ends)
        return ends

    def _pipe(self) -> tuple[int, int]:
        ends = os.pipe()
        self._open.update(ends)
        return ends

    @functools.cached_property
    def _names(self) -> tuple[str, ...]:
        one = self.program
        return taken(one.setup, one.tests, one.language) if one.names is None else one.names

    def _start(self, role: str, program: dict[str, Any], ends: dict[str, int]) -> subprocess.Popen[bytes]:
        folder = tempfile.mkdtemp(prefix="quantcliff-code-")
        self._stack.callback(shutil.rmtree, folder, ignore_errors=True)
        told = {**ends, **_told(self.program.language, self.limits), "folder": folder}
        command = [sys.executable, "-P", "-s", "-S", "-B", "-X", "utf8", str(_HERE / "child.py"), role]
        with _as_file(program) as source:
            process = subprocess.Popen(
                [*command, json.dumps(told)], stdin=source, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                env={"PYTHONHASHSEED": "0"}, cwd=folder, pass_fds=tuple(ends.values()), start_new_session=True,
            )  # fmt: skip
        self._stack.callback(_end, process)
        return process

    def outcome(self) -> Outcome:
        """Follow the tests' pipe to the verdict, or to the end of the time."""
        if not self._follow(("tests", "solution"), _STARTING):
            raise RunError("generated code could not be shut away: its process ended before any code was read")
        self._check()
        in_time = self._follow(("passes", "failed"), self.limits.wall_s)
        said = self._said
        parses, runs = said.get("parses") is True, said.get("runs") is True
        passes = parses and runs and said.get("passes") is True
        return Outcome(parses, runs, passes, "" if passes else self._reason(in_time=in_time))

    def _follow(self, until: Sequence[str], seconds: float) -> bool:
        """Read what the tests say until the last of `until` (or any, of a verdict) has come. False where time is up."""
        deadline = time.monotonic() + seconds
        while not (self._said.keys() >= set(until) if "tests" in until else self._said.keys() & set(until)):
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self._verdict], [], [], left)[0]:
                return False
            try:
                self._said.update(receive(self._verdict))
            except Gone:
                return "tests" not in until
        return True

    def _check(self) -> None:
        self.layers = tuple(one for one in self._said["solution"] if one in self._said["tests"])
        if "seccomp" not in self.layers or not {"user namespace", "landlock"} & set(self.layers):
            raise RunError(
                f"this kernel cannot shut generated code away (it grants {', '.join(self.layers) or 'nothing'}): "
                "needed are seccomp, and user namespaces or Landlock; run where they are, or leave the slice out"
            )

    def _reason(self, *, in_time: bool) -> str:
        said = str(self._said.get("failed", "ended"))
        if not in_time:
            return "timeout"
        if said == "MemoryError":
            return "memory"
        if said != "ended":
            return said
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._code.wait(timeout=1)
        code = self._code.returncode or 0
        number = -code if code < 0 else code - _SIGNALLED if code > _SIGNALLED else 0
        return "ended" if not number else "cpu" if number in {9, 24} else f"signal {number}"


def _told(language: str, limits: Limits) -> dict[str, Any]:
    """Give what a process must know to shut itself away."""
    own = {"cpu_s": limits.cpu_s, "file_bytes": limits.file_bytes, "files": limits.files, "processes": limits.processes}
    system = ["/usr", "/lib", "/lib64", "/etc/ld.so.cache", "/dev/urandom"]
    if language == "python":
        readable = [sys.base_prefix, sys.base_exec_prefix, *system]
        return {"limits": own | {"memory_bytes": limits.memory_bytes}, "readable": readable}
    script = str(_HERE / "child.js")
    return {
        "limits": own | {"data_bytes": limits.memory_bytes * 2},
        "readable": [str(_node()), script, *system],
        "node": _node(),
        "script": script,
        "heap_mib": limits.memory_bytes >> 20,
    }


def _close(ends: set[int]) -> None:
    for end in ends:
        os.close(end)


@contextlib.contextmanager
def _as_file(program: dict[str, Any]) -> Iterator[IO[bytes]]:
    with tempfile.TemporaryFile() as file:
        file.write(json.dumps(program).encode())
        file.seek(0)
        yield file


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process and its namespace: the outer one ends the inner one and reports it; if it does not, so do we."""
    process.terminate()
    try:
        process.wait(timeout=2)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
