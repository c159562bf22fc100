"""Modules that are imported when a test first uses them, so that collecting the suite loads no torch."""

from __future__ import annotations

import importlib
from typing import Any

__all__ = ["lazy"]


class _Lazy:
    """Stands for a module until an attribute of it is read."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        return getattr(importlib.import_module(self._name), attribute)


def lazy(name: str) -> Any:
    """Give what acts as the module of this name. What it has is read with `module.name`, never copied at the top."""
    return _Lazy(name)
