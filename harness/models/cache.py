"""The user's cache directory, and folders that appear there (or anywhere) whole or not at all."""

import contextlib
import os
import re
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

from harness.errors import StoreError


def cache_dir() -> Path:
    """The user's cache: ``$QUANTCLIFF_CACHE``, else ``quantcliff`` under ``$XDG_CACHE_HOME`` or ``~/.cache``."""
    if own := os.environ.get("QUANTCLIFF_CACHE"):
        return Path(own).expanduser().absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser().absolute() / "quantcliff"


@contextlib.contextmanager
def published(target: Path) -> Iterator[Path]:
    """Give an empty folder beside `target` to fill; rename it to `target` at the end, or remove it on any error.

    If another process was faster, its folder stays. Raises `StoreError` if the place cannot be written.
    """
    import psutil

    host = re.sub(r"[^A-Za-z0-9]", "_", socket.gethostname())
    partial = target.parent / f".{target.name}.partial-{host}-{os.getpid()}"
    with _explained(target.parent):
        target.parent.mkdir(parents=True, exist_ok=True)
        for entry in target.parent.iterdir():
            left = re.fullmatch(rf"\..+\.partial-{host}-(\d+)", entry.name)
            if left and not psutil.pid_exists(int(left[1])):
                shutil.rmtree(entry, ignore_errors=True)
        partial.mkdir()
    try:
        yield partial
        with _explained(target.parent):
            try:
                partial.rename(target)
            except OSError:
                if not target.is_dir():  # else another process was faster; both made the same
                    raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextlib.contextmanager
def _explained(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        remedy = "free it, or name another place in the environment variable QUANTCLIFF_CACHE"
        raise StoreError(f"{folder} cannot be written ({error.strerror or error}): {remedy}") from error
