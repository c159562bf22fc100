"""The user's cache directory, and folders that appear there (or anywhere) whole or not at all.

Knows where the cache is and how to publish a folder atomically; does not know what lies in it.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

from harness.errors import StoreError

__all__ = ["cache_dir", "published"]

_PARTIAL = re.compile(r"\..+\.partial-(?P<host>.+)-(?P<pid>\d+)")


def cache_dir() -> Path:
    """The user's cache: ``$QUANTCLIFF_CACHE``, else ``quantcliff`` under ``$XDG_CACHE_HOME`` or ``~/.cache``."""
    own = os.environ.get("QUANTCLIFF_CACHE")
    if own:
        return Path(own).expanduser().absolute()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base).expanduser() if base else Path.home() / ".cache").absolute() / "quantcliff"


@contextlib.contextmanager
def published(target: Path) -> Iterator[Path]:
    """Give an empty folder beside `target` to fill; rename it to `target` at the end.

    Whatever stops the filling (an error, Ctrl-C) removes it, so `target` is never half there. What a killed process
    left is removed by the next one. Where another process published `target` meanwhile, its folder stays and ours goes.
    Raises `StoreError` where the place cannot be written.
    """
    partial = target.parent / f".{target.name}.partial-{_host()}-{os.getpid()}"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _sweep(target.parent)
        partial.mkdir()
    except OSError as error:
        raise StoreError(_unwritable(target.parent, error)) from error
    try:
        yield partial
        _rename(partial, target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _rename(partial: Path, target: Path) -> None:
    try:
        partial.rename(target)
    except OSError as error:
        if target.is_dir():  # another process was faster; both made the same
            return
        raise StoreError(_unwritable(target.parent, error)) from error


def _unwritable(folder: Path, error: OSError) -> str:
    reason = error.strerror or str(error)
    return (
        f"{folder} cannot be written ({reason}): free it, or name another place in the environment variable"
        " QUANTCLIFF_CACHE"
    )


def _host() -> str:
    return re.sub(r"[^A-Za-z0-9]", "_", socket.gethostname())


def _sweep(folder: Path) -> None:
    """Remove what processes of this machine that are no longer alive left half made."""
    for entry in folder.iterdir():
        named = _PARTIAL.fullmatch(entry.name)
        if named and named["host"] == _host() and not _alive(int(named["pid"])):
            shutil.rmtree(entry, ignore_errors=True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
