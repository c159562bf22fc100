"""What the baseline's answers say of each stratum, as a person or a program reads it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness.judge.signals import Signal
from harness.report.sanitize import one_line
from harness.report.words import percent, score, short_name

__all__ = ["blind_gating", "print_signals", "signals_json"]


def signals_json(found: Sequence[Signal]) -> dict[str, Any]:
    """Give one JSON object: every stratum, and whether each gating one can show damage."""
    return {"signal": not blind_gating(found), "strata": [dataclasses.asdict(one) for one in found]}


def blind_gating(found: Sequence[Signal]) -> list[Signal]:
    """Give the gating strata in which damage could not be seen."""
    return [one for one in found if one.gating and one.blind]


def print_signals(found: Sequence[Signal], console: Console, *, name: str, baseline: str) -> None:
    """Print a row per stratum, then why some are blind."""
    console.print(one_line(f"{name}: what {baseline} alone shows"), style="bold", markup=False, soft_wrap=True)
    table = Table(box=None, pad_edge=False)
    table.add_column("stratum", overflow="fold")
    for heading in ("items", "score", "guessing", "P(right)", "right"):
        table.add_column(heading, justify="right")
    table.add_column("signal")
    for one in found:
        probability = "-" if one.choice_probability is None else percent(one.choice_probability)
        word = "none" if one.blind else "yes"
        table.add_row(
            Text(one_line(f"{one.slice}/{short_name(one.stratum)}")),
            str(one.items),
            score(one.baseline_mean),
            score(one.chance),
            probability,
            str(one.right),
            Text(word if one.gating else f"{word}, advisory", style="bold red" if one.blind else ""),
        )
    console.print(table)
    for one in found:
        for sentence in (*one.blind, *one.notes):
            console.print(one_line(f"{one.slice}/{one.stratum}: {sentence}"), markup=False, soft_wrap=True)
    blind = blind_gating(found)
    last = f"{len(blind)} gating strata cannot show damage" if blind else "every gating stratum can show damage"
    console.print(one_line(f"{last} (of {sum(one.gating for one in found)})"), style="bold", markup=False)
