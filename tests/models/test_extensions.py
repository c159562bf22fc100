"""Locks of compiled extensions: one that is held stays, one that was left behind goes."""

from __future__ import annotations

import os
from pathlib import Path

from harness.models.backends import release_quanto_lock


def test_a_lock_goes_only_if_no_process_holds_it(tmp_path: Path) -> None:
    """torch's FileBaton creates the file and keeps it open while it compiles."""
    lock = tmp_path / "lock"
    release_quanto_lock(lock)  # none there
    held = os.open(lock, os.O_CREAT | os.O_EXCL)
    release_quanto_lock(lock)
    assert lock.exists()
    os.close(held)
    release_quanto_lock(lock)
    assert not lock.exists()
