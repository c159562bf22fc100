"""Modules that are imported when a test first uses them, so that collecting the suite loads no torch."""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any

HELPERS = ("engine_models",)
WITHOUT_TORCH = ("pyarrow", "statsmodels", "lm_eval", "scipy", "harness.report")


class _Lazy:
    """Stands for a module until an attribute of it is read."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        if attribute.startswith("_"):  # pytest and its plugins ask every global of a test module for such names
            raise AttributeError(attribute)
        return getattr(importlib.import_module(self._name), attribute)

    def __setattr__(self, attribute: str, value: Any) -> None:
        if attribute == "_name":
            super().__setattr__(attribute, value)
        else:  # a patch of the module, not of what stands for it
            setattr(importlib.import_module(self._name), attribute, value)


def lazy(name: str) -> Any:
    """Give what acts as the module of this name. Its public names are read as `module.name`, never at a file's top."""
    return _Lazy(name)


def loads_torch(module: ModuleType) -> bool:
    """Say whether a test module has a lazy module that is torch or imports it, or uses the engine's helpers."""
    values = vars(module).values()
    if any(isinstance(value, _Lazy) and not value._name.startswith(WITHOUT_TORCH) for value in values):
        return True
    return any(isinstance(value, ModuleType) and value.__name__ in HELPERS for value in values)
