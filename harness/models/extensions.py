"""Extensions that torch compiles at first use: the lock of a killed process would be waited for without end."""

from __future__ import annotations

import importlib.util
from pathlib import Path

__all__ = ["release_abandoned_lock", "release_quanto_lock"]


def release_quanto_lock() -> None:
    """Remove the lock of quanto's C++ extension if no process holds it."""
    found = importlib.util.find_spec("optimum.quanto")
    if found is not None and found.origin is not None:
        release_abandoned_lock(Path(found.origin).parent / "library" / "extensions" / "cpp" / "build" / "lock")


def release_abandoned_lock(lock: Path) -> None:
    """Remove a lock of `torch.utils.file_baton.FileBaton` if no process of this user has it open.

    The process that compiles keeps the file open, and a killed one leaves it closed.
    """
    import psutil

    if not lock.exists():
        return
    wanted = str(lock.resolve())
    for process in psutil.process_iter():
        try:
            if any(file.path == wanted for file in process.open_files()):
                return
        except psutil.Error:  # it ended, or belongs to another user
            continue
    lock.unlink(missing_ok=True)
