"""Generated code that wants out: nothing survives its limits, and nothing outside is touched, read or reached."""

from __future__ import annotations

import json
import os
import re
import shlex
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import pytest
from paths import ROOT
from sandboxes import NEEDS_LINUX, RIGHT, SHORT, nothing_is_left, outcome  # noqa: F401 - the fixture is used by every test

from harness.suite.sandbox import Limits, confine, isolation

pytestmark = [NEEDS_LINUX, pytest.mark.slow]

# ----------------------------------------------------------------------------------- what uses up its limits ends

GREEDY = {
    "a loop while defining": ("while True: pass", {"timeout", "cpu"}),
    "a loop in the call": ("def f(x):\n    while True: pass", {"timeout", "cpu"}),
    "a sleep": ("import time\ndef f(x): time.sleep(1000)", {"timeout"}),
    "a fork bomb": ("import os\nwhile True: os.fork()", {"PermissionError"}),
    "a fork bomb that minds no error": (
        "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass",
        {"timeout", "cpu"},
    ),
    "a thread bomb": (
        "import threading, time\nwhile True: threading.Thread(target=time.sleep, args=(99,)).start()",
        {"RuntimeError", "MemoryError", "memory", "timeout", "cpu"},
    ),
    "subprocesses": ("import subprocess\nsubprocess.run(['/bin/sh', '-c', 'sleep 1000'])", {"PermissionError"}),
    "another program": ("import os\nos.execv('/bin/sleep', ['sleep', '1000'])", {"PermissionError"}),
    "a memory bomb": ("x = bytearray(1 << 20)\nwhile True: x = x + x", {"memory"}),
    "memory by mapping": ("import mmap\nkeep = [mmap.mmap(-1, 1 << 26) for _ in range(1000)]", {"OSError", "memory"}),
    "a list that grows": ("x = []\nwhile True: x.append('a' * 100_000 + str(len(x)))", {"memory", "timeout", "cpu"}),
    "an infinite output": ("while True: print('passed' * 10_000)", {"timeout", "cpu"}),
    "an infinite answer": ("def f(x):\n    while True: yield 1", {"memory", "timeout", "cpu"}),
    "an endless integer": ("def f(x): return 10 ** 10 ** 8", {"timeout", "cpu", "memory", "ended", "ValueError"}),
    "deep recursion": ("def f(x): return f(x + 1)", {"RecursionError"}),
    "deeper recursion": (
        "import sys\nsys.setrecursionlimit(10**9)\ndef f(x): return f(x + 1)",
        {"signal 11", "memory", "RecursionError", "timeout", "cpu"},
    ),
    "a deeply nested answer": (
        "def f(x):\n    v = []\n    for _ in range(100_000): v = [v]\n    return v",
        {"AssertionError", "RecursionError", "ended"},
    ),
    "a source that breaks compilers": ("(" * 5000, {"SyntaxError", "memory", "RecursionError"}),
    "a segmentation fault": ("import ctypes\nctypes.string_at(0)", {"signal 11"}),
    "an abort": ("import os\ndef f(x): os.abort()", {"signal 6", "signal 11"}),
}


@pytest.mark.parametrize("trick", GREEDY)
def test_what_is_greedy_ends(trick):
    """Bombs and loops end within their limits, for a reason that is named."""
    code, reasons = GREEDY[trick]
    started = time.monotonic()
    found = outcome(code, limits=SHORT if "timeout" in reasons else replace(SHORT, wall_s=6))
    assert not found.passes
    assert found.reason in reasons | {"ended"} if "memory" in reasons else found.reason in reasons
    assert time.monotonic() - started < 8


SIGNALS = """
import os, signal, time
for number in range(1, 65):
    try: signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError): pass
signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))
def f(x):
    while True: {wait}
"""


@pytest.mark.parametrize("wait", ["pass", "time.sleep(1)"])
def test_signals_that_are_ignored_keep_nothing_alive(wait):
    """Ignoring and blocking every signal (SIGTERM, SIGXCPU, SIGALRM ...) does not outlive the limits."""
    assert outcome(SIGNALS.format(wait=wait), limits=SHORT).reason in {"timeout", "cpu"}


KILLERS = """
import os, signal
def attempt(*targets):
    done = []
    for target in targets:
        for number in (signal.SIGKILL, signal.SIGSTOP, signal.SIGTERM, 0):
            try: os.kill(target, number); done.append((target, number))
            except OSError: pass
    try: os.killpg(os.getpgid(0), signal.SIGKILL); done.append("group")
    except OSError: pass
    return done
"""


def test_the_processor_limit_holds():
    """A loop ends by its processor time, long before the wall time."""
    assert outcome("while True: pass", limits=Limits(wall_s=20, cpu_s=1)).reason == "cpu"


def test_other_processes_are_not_signalled():
    """Neither the parent, nor everyone, nor a process known by its number can be killed or stopped."""
    mine = os.getpid()
    got = outcome(KILLERS, f"assert attempt(-1, 0, {mine}, {os.getppid()}) == []")
    assert got.reason == ""


def test_the_parent_is_not_killed():
    """os.kill(os.getppid()) does nothing, whatever the number is that the code sees."""
    got = outcome("import os\ndef f(x):\n    os.kill(os.getppid() or 2, 9)\n    return x + 1")
    assert got.reason in {"PermissionError", "ProcessLookupError"}


def test_a_daemon_does_not_survive():
    """A double fork with setsid leaves no process (the check is the fixture's)."""
    code = """
        import os, time
        def f(x):
            try:
                if os.fork() == 0:
                    os.setsid()
                    if os.fork() == 0: time.sleep(1000)
                    os._exit(0)
            except OSError: pass
            return x + 1
    """
    assert outcome(code).passes


# ------------------------------------------------------------------------------------- nothing outside is touched


def test_nothing_outside_is_written(tmp_path):
    """Files outside stay as they are: not written, not removed, not renamed, not given other rights, by any path."""
    victim = tmp_path / "victim"
    victim.write_text("whole")
    victim.chmod(0o666)
    tmp_path.chmod(0o777)
    code = f"""
        import os
        VICTIM = {str(victim)!r}
        def f(x):
            done = []
            for name, act in {{
                "write": lambda: open(VICTIM, "w"), "append": lambda: open(VICTIM, "a"),
                "update": lambda: open(VICTIM, "r+"), "new": lambda: open(VICTIM + ".new", "w"),
                "remove": lambda: os.remove(VICTIM), "rename": lambda: os.rename(VICTIM, VICTIM + ".old"),
                "chmod": lambda: os.chmod(VICTIM, 0), "truncate": lambda: os.truncate(VICTIM, 0),
                "utime": lambda: os.utime(VICTIM, (0, 0)), "mkdir": lambda: os.mkdir(VICTIM + ".d"),
                "home": lambda: open(os.path.expanduser("~/x"), "w") if "HOME" in os.environ else 1 / 0,
                "shm": lambda: open("/dev/shm/x", "w"), "tmp": lambda: open("/tmp/x", "w"),
                "symlink": lambda: (os.symlink(VICTIM, "link"), open("link", "w")),
                "hard link": lambda: os.link(VICTIM, "hard"),
                "dotdot": lambda: open("../" * 20 + VICTIM[1:], "w"),
                "proc": lambda: open("/proc/self/cwd/../x", "w"),
                "descriptor": lambda: open("/proc/1/root" + VICTIM, "w"),
            }}.items():
                try: act(); done.append(name)
                except Exception: pass
            return done
    """
    assert outcome(code, "assert f(1) == []", limits=None).reason == ""
    assert victim.read_text() == "whole"
    assert victim.stat().st_mtime > 0
    assert [one.name for one in tmp_path.iterdir()] == ["victim"]


def test_the_temporary_directory_is_empty_small_and_gone():
    """Code stands in an empty directory of its own: what it writes there is limited, and gone afterwards."""
    code = """
        import os
        def listed(): return sorted(os.listdir("."))
        def note(): open("note", "w").write("here"); return open("note").read()
        def fill():
            written = 0
            for n in range(10):
                try:
                    with open(f"big{n}", "wb") as file:
                        while True: written += file.write(bytes(1 << 20)); file.flush()
                except OSError: pass
            return written
    """
    if "read-only files but a small temporary directory" not in isolation()["layers"]:
        pytest.skip("this kernel grants no mount namespace: nothing can be written at all")
    assert outcome(code, "assert listed() == []", "assert note() == 'here'", "assert fill() <= 17 << 20").reason == ""


def test_a_huge_file_ends_at_the_limit():
    """One file stops at its limit, by an error or by the signal; a sparse one too."""
    code = 'def f(x):\n    with open("big", "wb") as file:\n        file.truncate(1 << 40)\n    return x + 1'
    assert outcome(code).reason in {"OSError", "signal 25", "PermissionError"}


def test_no_environment_and_no_handles_are_inherited(monkeypatch):
    """Neither variables nor open files of this process are there, in the code or in any process it can look at."""
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    code = f"""
        import os
        def names(): return sorted(os.environ)
        def handles():
            found = 0
            for n in range(3, 64):
                try: os.fstat(n); found += 1
                except OSError: pass
            return found
        def environs():
            found = b""
            for n in [*range(1, 50), {os.getpid()}, "self"]:
                try: found += open(f"/proc/{{n}}/environ", "rb").read()
                except OSError: pass
            return b"hf_secret" in found
    """
    tests = ("assert not set(names()) - {'LC_CTYPE'}", "assert handles() == 2", "assert environs() is False")
    with tempfile.TemporaryFile():
        assert outcome(code, *tests).reason == ""


def test_there_is_no_network():
    """No socket of any family can be opened, so neither a server here nor a name can be reached."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        code = f"""
            import socket
            def reached():
                found = []
                for family in range(50):
                    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_RAW):
                        try: socket.socket(family, kind); found.append((family, kind))
                        except OSError: pass
                try: socket.create_connection(("127.0.0.1", {server.getsockname()[1]}), 1); found.append("server")
                except OSError: pass
                try: socket.getaddrinfo("example.org", 80); found.append("name")
                except OSError: pass
                return found
        """
        assert outcome(code, "assert reached() == []").reason == ""


def test_private_files_are_not_read(tmp_path):
    """Files that are neither the system's nor Python's cannot be read."""
    if "landlock" not in isolation()["layers"]:
        pytest.skip("this kernel has no Landlock")
    (tmp_path / "token").write_text("secret")
    code = f"def f(x): return open({str(tmp_path / 'token')!r}).read()"
    assert outcome(code).reason == "PermissionError"


def test_the_table_of_system_calls_is_the_kernels():
    """Names and numbers agree with the C headers; a table that was cut has no special calls, and confines nothing."""
    calls = confine._CALLS
    assert {"socket", "ptrace", "mount", "fork", "bpf"} <= calls["never"].keys()
    assert {"unlink", "rename", "mkdir", "creat"} <= calls["writing"].keys()
    assert list(calls)[-1] == "special"
    header = Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h")
    if not header.exists():
        pytest.skip("the kernel's headers are not installed")
    known = dict(re.findall(r"#define __NR_(\w+) (\d+)", header.read_text()))
    ours = {name: str(numbers[0]) for section in calls.values() for name, numbers in section.items()}
    assert {name: number for name, number in ours.items() if number != known.get(name, number)} == {}
    assert len(known.keys() & ours) > 100


# ------------------------------------------------------------------------------- a kernel that grants no namespaces

BARE = """
import json, sys
from harness.suite.sandbox import Limits, Program, execute, isolation
print(json.dumps(isolation()))
for code in json.loads(sys.argv[1]):
    got = execute(Program(code, ("assert f(1) == 2",)), Limits(wall_s=30, cpu_s=1))
    print(json.dumps([got.passes, got.reason]))
"""
NO_NAMESPACES = "for k in user mnt pid net ipc uts; do echo 0 > /proc/sys/user/max_${k}_namespaces; done && exec "
ATTACKS = {
    RIGHT: "",
    "open('x', 'w')": "PermissionError",
    "import os\nos.mkdir('/tmp/quantcliff-forged')": "PermissionError",
    "import os\nos.fork()": "PermissionError",
    "import socket\nsocket.socket()": "PermissionError",
    "import os\nos.kill(os.getppid(), 9)": "PermissionError",
    "import os\nopen(f'/proc/{os.getppid()}/environ')": "PermissionError",
    "import os\nos._exit(0)": "ended",
    "while True: pass": "cpu",
}


@pytest.mark.slow
def test_without_namespaces_the_filter_and_landlock_hold():
    """Where the kernel grants no namespace the record says so, nothing can be written, and the attacks fail alike."""
    command = ["unshare", "--user", "--map-root-user", "bash", "-c"]
    if subprocess.run([*command, NO_NAMESPACES + "true"], capture_output=True, check=False).returncode:
        pytest.skip("this kernel grants no user namespaces to begin with: the other tests ran like this")
    inner = shlex.join([sys.executable, "-c", BARE, json.dumps(list(ATTACKS))])
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*command, NO_NAMESPACES + inner], env=env, capture_output=True, text=True, check=False, timeout=120
    )
    if "needed are" in done.stderr:
        pytest.skip("this kernel has no Landlock: nothing is run without namespaces")
    assert done.returncode == 0, done.stderr
    record, *found = map(json.loads, done.stdout.splitlines())
    assert record["layers"] == ["resource limits", "landlock", "seccomp"]
    assert "every socket is refused" in record["network"]
    assert found == [[reason == "", reason] for reason in ATTACKS.values()]
