"""Holds a file for one process, on whatever machine: by the file system's lock, or by a lease if there is none.

The lease is a second file, which its holder rewrites now and then as a sign of life. With a lock it only shows who
works; without, a process that finds one waits until it is rewritten, and takes it over if it is not.
"""

import _thread
import contextlib
import errno
import fcntl
import os
import secrets
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from harness.errors import StoreError
from harness.store.files import explained

BEAT_SECONDS = 5.0  # how often a lease is rewritten
LOST = 6  # a lease that is not rewritten for so many times that long is free
SKEW_SECONDS = 600.0  # one written further ahead of the clock was copied, or the clock is wrong: no sign of life
# What a file system says that has no locks, such as Lustre or NFS mounted without them.
_UNKNOWN = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL)
# Mount options of NFS and Lustre with which a lock is seen on one machine only.
_LOCAL = {"local_lock=flock", "local_lock=all", "nolock", "localflock"}


@contextlib.contextmanager
def held(path: Path, what: str) -> Iterator[str]:
    """Hold a file until the end; gives a note if without a lock. Raises StoreError, naming `what`, if it is taken."""
    with explained(path, "written"):
        path.parent.mkdir(parents=True, exist_ok=True)
        stream = path.open("a+b")
    lease, mine = path.with_suffix(".lease"), f"{socket.gethostname()} {os.getpid()} {secrets.token_hex(4)}"
    with stream:
        note = _lock(stream, path, what)
        if note:
            _take(lease, mine, what)
        with explained(lease, "written"):
            lease.write_text(f"{mine} 0\n", encoding="utf-8")
        over = threading.Event()
        beating = threading.Thread(target=_beat, args=(lease, mine, over), daemon=True)
        beating.start()
        try:
            yield note
        finally:
            over.set()
            beating.join()
            with contextlib.suppress(OSError):
                if _read(lease).startswith(mine):
                    lease.unlink()


def alive(lease: Path, now: float) -> str:
    """Return the machine that works with a lease; empty if none shows signs of life. now: see `file_clock`."""
    with contextlib.suppress(OSError):
        if -SKEW_SECONDS < now - lease.stat().st_mtime < LOST * BEAT_SECONDS:
            return _read(lease).partition(" ")[0]
    return ""


def file_clock(folder: Path) -> float:
    """Return the time by the clock that a folder's files get theirs from, or this machine's if it cannot be written."""
    try:
        with tempfile.TemporaryFile(dir=folder) as stream:
            stream.write(b"x")
            stream.flush()
            return os.fstat(stream.fileno()).st_mtime
    except OSError:
        return time.time()


def _lock(stream: BinaryIO, path: Path, what: str) -> str:
    """Lock a file. Gives a note if the file system has no locks. Raises StoreError if another process has it."""
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            raise _busy(path, what) from error
        if error.errno not in _UNKNOWN:
            raise StoreError(f"{path}: cannot be locked: {error.strerror}: give an --output on another disk") from error
        why = f"this file system has no locks ({error.strerror})"
    else:
        if not _local_locks(path.parent):
            return ""
        why = "this file system is mounted so that locks do not reach other machines"
    return f"{why}: {path.with_suffix('.lease').name} is used instead; mounting it with flock is safer"


def _local_locks(folder: Path) -> bool:
    """Whether a file system is mounted with locks that other machines do not see."""
    device = folder.stat().st_dev
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines():
            if line.split()[2] == f"{os.major(device)}:{os.minor(device)}":
                return bool(_LOCAL & set(line.split()[-1].split(",")))
    return False


def _busy(path: Path, what: str) -> StoreError:
    return StoreError(f"{path.parent.parent}: another process is working on {what}: wait, or give another --output")


def _take(lease: Path, mine: str, what: str) -> None:
    """Make the lease this process's. Raises StoreError if another one shows signs of life."""
    with explained(lease, "written"):
        try:
            lease.touch(exist_ok=False)
        except FileExistsError:
            before = _read(lease)
            time.sleep(LOST * BEAT_SECONDS)
            if _read(lease) != before:
                raise _busy(lease, what) from None
            # Two that wait for the same one both write, and the later one has it.
            lease.write_text(f"{mine} 0\n", encoding="utf-8")
            time.sleep(BEAT_SECONDS)
            if not _read(lease).startswith(mine):
                raise _busy(lease, what) from None


def _beat(lease: Path, mine: str, over: threading.Event) -> None:
    """Rewrite the lease until it is over; stop this process's work if another one has taken it, or if it is gone."""
    count = 0
    while not over.wait(BEAT_SECONDS):
        with contextlib.suppress(OSError):
            there = _read(lease)
            if (there and not there.startswith(mine)) or not lease.exists():  # or the folder was removed
                if callable(signal.getsignal(signal.SIGINT)):
                    _thread.interrupt_main()
                else:  # ignored, as by a job that a shell starts in the background
                    os.kill(os.getpid(), signal.SIGTERM)
                return
            count += 1
            lease.write_text(f"{mine} {count}\n", encoding="utf-8")


def _read(lease: Path) -> str:
    return lease.read_text(encoding="utf-8", errors="replace") if lease.exists() else ""
