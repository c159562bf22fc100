"""What the tests of the sandbox share: a way to run some code, and the check that nothing is left of it."""

from __future__ import annotations

import shutil
import tempfile
import textwrap
import time

import psutil
import pytest

from harness.suite.sandbox import Limits, Program, execute, missing

NEEDS_LINUX = pytest.mark.skipif(bool(missing("python")), reason=missing("python") or "-")
NODE = pytest.mark.skipif(shutil.which("node") is None, reason="node is not on the PATH")
SHORT = Limits(wall_s=0.4, cpu_s=1, memory_bytes=128 << 20)
TESTS = ("assert f(1) == 2", "assert f(-1) == 0")
RIGHT = "def f(x):\n    return x + 1\n"


def outcome(code, *tests, limits=None, **more):
    """What becomes of dedented code under the tests."""
    return execute(Program(textwrap.dedent(code), tests or TESTS, **more), limits)


@pytest.fixture(autouse=True)
def nothing_is_left(monkeypatch, tmp_path_factory):
    """After every test no process and no directory of a sandbox is there, and this process stands as before."""
    folder = tmp_path_factory.mktemp("sandboxes")
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    before = set(psutil.Process().children(recursive=True))
    handles = psutil.Process().num_fds()
    yield
    deadline = time.monotonic() + 3
    while (left := survivors(folder) | (set(psutil.Process().children(recursive=True)) - before)) and (
        time.monotonic() < deadline
    ):
        time.sleep(0.02)
    assert not left
    assert not list(folder.iterdir())
    assert psutil.Process().num_fds() == handles


def survivors(folder):
    """Every process on the machine that an execution in this folder started and that is still there."""
    found = set()
    for process in psutil.process_iter(["cmdline", "cwd"]):
        told = " ".join(process.info["cmdline"] or ())
        if str(folder) in told or str(folder) in str(process.info["cwd"] or ""):
            found.add(process)
    return found
