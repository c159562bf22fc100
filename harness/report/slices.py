"""The slices as a person or a program reads them: what each measures, its axes, a real item.

Reads the description files only: no task is loaded and no model is needed.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from rich.console import Console

from harness.config.schema import suggestion
from harness.errors import UsageError
from harness.report.sanitize import visible
from harness.suite.catalogue import SliceInfo, catalogue

__all__ = ["print_slices", "slices_json"]


def _chosen(name: str | None) -> list[SliceInfo]:
    """Return the slices asked for. Raises UsageError if there is no such slice."""
    known = {info.name: info for info in catalogue()}
    if name is None:
        return list(known.values())
    if name not in known:
        raise UsageError(f"{name!r} is not a slice that ships.{suggestion(name, frozenset(known))}")
    return [known[name]]


def slices_json(name: str | None) -> dict[str, Any]:
    """Return one JSON object with everything the descriptions say."""
    return {"slices": [dataclasses.asdict(info) for info in _chosen(name)]}


def print_slices(name: str | None, console: Console) -> None:
    """Print every slice, or one."""
    for info in _chosen(name):
        console.print(f"{info.name}: {info.title}", style="bold", markup=False, soft_wrap=True)
        console.print(f"  {visible(info.why)}", markup=False, soft_wrap=True)
        for axis in info.axes:
            splits = ", splits into strata" if axis.name in info.split_by else ""
            ordered = ", ordered" if axis.ordered else ""
            levels = ", ".join(str(level) for level in axis.levels)
            console.print(f"  axis {axis.name}{ordered}{splits}: {levels}", markup=False, soft_wrap=True)
        console.print(f"  tasks: {', '.join(info.tasks)}", markup=False, soft_wrap=True)
        console.print("  a real item of each task:", markup=False)
        for line in info.example.splitlines():
            console.print(f"    {visible(line)}", markup=False, soft_wrap=True)
        console.print()
