"""Runs a command and ends it, with all that it started, when its own standard input closes or the command ends.

A program of its own (``python guard.py COMMAND ...``) that needs the standard library alone. Whoever starts it holds
the other end of its standard input: if that process ends, even by SIGKILL, the server and its children end too.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
GRACE_SECONDS = 10.0  # time that a server has to end by itself


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value)


def _descendants() -> set[int]:
    """Return all processes that descend from this one; an orphan of theirs becomes a child of it, see `main`."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            parents[int(entry.parent.name)] = int(entry.read_text().rpartition(")")[2].split()[1])
    found, fresh = set[int](), {os.getpid()}
    while fresh:
        fresh = {process for process, parent in parents.items() if parent in fresh} - found
        found |= fresh
    return found


def _end(server: subprocess.Popen[bytes]) -> None:
    """Ask the server to end, and after a while make it and all that it started."""
    server.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        server.wait(GRACE_SECONDS)
    for _ in range(50):
        if not (left := _descendants()):
            return
        for process in left:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(process, signal.SIGKILL)
        time.sleep(0.05)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass


def main(command: list[str]) -> int:
    """Run the command until it ends or standard input closes, and return its exit code."""
    _prctl(PR_SET_CHILD_SUBREAPER, 1)
    closed = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: closed.set())
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        while os.read(0, 4096):
            pass
        closed.set()

    server = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=lambda: _prctl(PR_SET_PDEATHSIG, signal.SIGKILL),  # noqa: PLW1509 - no threads yet
    )
    threading.Thread(target=watch, daemon=True).start()
    while server.poll() is None and not closed.wait(0.2):
        pass
    _end(server)
    return server.returncode or 0


if __name__ == "__main__":
    code = main(sys.argv[1:])
    os._exit(code if code >= 0 else 128 - code)
