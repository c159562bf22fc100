"""A program of its own that runs a command, and ends all that it started when its standard input closes."""

import contextlib
import ctypes
import functools
import os
import select
import signal
import subprocess
import sys

import psutil

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
GRACE_SECONDS = 10.0  # time that a server has to end by itself


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value)


def _end(server: subprocess.Popen[bytes]) -> None:
    """Ask the server to end, and after a while make it and all that it started: orphans become children, see `main`."""
    server.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        server.wait(GRACE_SECONDS)
    for _ in range(50):
        if not (left := psutil.Process().children(recursive=True)):
            return
        for process in left:
            with contextlib.suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(left, timeout=0.05)


def main(command: list[str]) -> int:
    """Run the command until it ends or standard input closes, and return its exit code."""
    _prctl(PR_SET_CHILD_SUBREAPER, 1)
    ended: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: ended.append(number))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    dies_with_it = functools.partial(_prctl, PR_SET_PDEATHSIG, signal.SIGKILL)
    server = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True, preexec_fn=dies_with_it)  # noqa: PLW1509
    while server.poll() is None and not ended:
        if select.select([0], [], [], 0.2)[0] and not os.read(0, 4096):
            break
    _end(server)
    return server.returncode or 0


if __name__ == "__main__":
    code = main(sys.argv[1:])
    os._exit(code if code >= 0 else 128 - code)
