"""Who holds a shard: by a lock, and by a lease on a file system that has no locks."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harness.errors import StoreError
from harness.store import locks
from harness.store.locks import alive, file_clock, held


@pytest.fixture
def no_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system that does not know flock, as Lustre mounted without it; signs of life every 100 ms."""

    def unknown(*_: object) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", unknown)
    monkeypatch.setattr(locks, "BEAT_SECONDS", 0.1)


def test_a_lease_takes_the_place_of_a_lock(no_locks: None, tmp_path: Path) -> None:
    """The first process has it while it shows signs of life, and says so; the second is refused; then it is free."""
    path = tmp_path / "shards" / "1of2.lock"
    with held(path, "shard 1of2 of this run") as note:
        assert note.startswith("this file system has no locks (Function not implemented): 1of2.lease is used instead")
        with pytest.raises(StoreError, match="another process is working on shard 1of2"), held(path, "shard 1of2"):
            pass
        # A busy machine may be late with a sign, and another one follows.
        assert any(alive(path.with_suffix(".lease"), file_clock(tmp_path)) or time.sleep(0.05) for _ in range(200))
    with held(path, "shard 1of2"):
        pass
    assert not path.with_suffix(".lease").exists()


def test_the_lease_of_a_killed_process_is_taken_over(no_locks: None, tmp_path: Path) -> None:
    """A process on a node that went away left its lease: without a sign of life it is nobody's."""
    path = tmp_path / "shards" / "1of2.lock"
    path.parent.mkdir()
    path.with_suffix(".lease").write_text("node7 4711 abcd 12\n")
    with held(path, "shard 1of2"):
        assert f" {os.getpid()} " in path.with_suffix(".lease").read_text()


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Ctrl-C as in a terminal: a job that a shell starts in the background ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def take_over(tmp_path: Path, until: Callable[[], object] = lambda: False) -> None:
    """Write the lease as another process that shows signs of life, for at most 20 seconds."""
    for count in range(1000):
        if until():
            return
        (tmp_path / "shards" / "1of2.lease").write_text(f"node7 4711 abcd {count}\n")
        time.sleep(0.02)


def replace(folder: Path) -> None:
    """Remove a folder and begin another one in its place; then wait for at most 20 seconds."""
    shutil.rmtree(folder)
    folder.mkdir()
    time.sleep(20)


def test_a_process_whose_lease_was_taken_stops(no_locks: None, interruptible: None, tmp_path: Path) -> None:
    """It was stopped for so long that another one has begun: both would write the same files."""
    with pytest.raises(KeyboardInterrupt), held(tmp_path / "shards" / "1of2.lock", "shard 1of2"):
        take_over(tmp_path)


def test_a_process_whose_folder_was_removed_stops(
    interruptible: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would write its answers into the run that is begun there next, which would keep them as its own."""
    monkeypatch.setattr(locks, "BEAT_SECONDS", 0.1)
    with pytest.raises(KeyboardInterrupt), held(tmp_path / "shards" / "1of2.lock", "shard 1of2"):
        replace(tmp_path / "shards")
    assert not list((tmp_path / "shards").iterdir())


def test_a_process_in_the_background_is_stopped_too(
    no_locks: None, interruptible: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A shell starts it with SIGINT ignored, so that the interruption would be lost: it gets SIGTERM."""
    sent: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "kill", lambda *how: sent.append(how))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with held(tmp_path / "shards" / "1of2.lock", "shard 1of2"):
        take_over(tmp_path, until=lambda: sent)
    assert sent == [(os.getpid(), signal.SIGTERM)]


def test_another_error_of_a_lock_is_not_taken_for_a_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A broken disk is named as such."""

    def broken(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(fcntl, "flock", broken)
    with pytest.raises(StoreError, match="cannot be locked: Input/output error"), held(tmp_path / "a.lock", "a shard"):
        pass


def test_locks_that_other_machines_do_not_see_are_not_trusted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """NFS mounted with local_lock=flock gives a lock to each machine."""
    device = tmp_path.stat().st_dev
    line = f"36 35 {os.major(device)}:{os.minor(device)} / /mnt rw - nfs a:/b rw,local_lock=flock,addr=1.2.3.4\n"
    read = Path.read_text
    monkeypatch.setattr(Path, "read_text", lambda path, **how: line if path.name == "mountinfo" else read(path, **how))
    with held(tmp_path / "shards" / "1of2.lock", "shard 1of2") as note:
        assert "locks do not reach other machines" in note
