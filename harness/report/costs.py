"""What each variant costs: the figures that a report can stand on, and the table of them.

Knows a `harness.judge.verdicts.Judgement` and its `harness.report.evidence.Evidence`. Measures nothing.
"""

from __future__ import annotations

import math
from typing import Any

from harness.judge.verdicts import Judgement
from harness.report import words
from harness.report.evidence import Evidence

__all__ = ["HEADINGS", "beside", "bytes_text", "cost_of", "positive", "rows_of"]

_COMPARED = (("weight_bytes", "weights"), ("tokens_per_second", "tokens per second"), ("peak_bytes", "peak memory"))


def positive(value: object) -> float | None:
    """Give a figure as it is if it is a finite number above zero, else None: what a ratio can stand on."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return float(value) if value > 0 else None


_STEP = 1024


def bytes_text(value: object) -> str:
    """Give a number of bytes for reading, as in ``4.5 GiB``; ``-`` where there is none."""
    size = positive(value)
    if size is None:
        return "-"
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < _STEP:
            return f"{size:.0f} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= _STEP
    return f"{size:.1f} TiB"


def _number(value: object, digits: int = 1) -> str:
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not math.isfinite(value):
        return "-"
    return f"{value:,.{digits}f}"


def cost_of(judgement: Judgement, evidence: Evidence, variant: str) -> dict[str, Any]:
    """Merge what judgement and evidence know of a variant's cost, the evidence last."""
    merged: dict[str, Any] = {}
    for candidate in judgement.candidates:
        if candidate.name == variant:
            merged |= {k: candidate.proof[k] for k in ("weight_bytes", "bits_per_weight") if k in candidate.proof}
            merged |= candidate.cost
    proof = evidence.proofs.get(variant, {})
    merged |= {key: proof[key] for key in ("weight_bytes", "bits_per_weight") if key in proof}
    return merged | dict(evidence.cost(variant))


def beside(judgement: Judgement, evidence: Evidence, variant: str) -> str:
    """Say what a variant costs beside the baseline, as far as both were measured: ``60.8 % of its weights, ...``."""
    mine, base = (cost_of(judgement, evidence, name) for name in (variant, judgement.baseline))
    shares = [(label, positive(mine.get(key)), positive(base.get(key))) for key, label in _COMPARED]
    return ", ".join(f"{words.percent(one / other)} of its {label}" for label, one, other in shares if one and other)


HEADINGS = ("variant", "load s", "weights", "of baseline", "bits/weight", "tokens/s", "peak memory")
"""The columns of `rows_of`."""


def rows_of(judgement: Judgement, evidence: Evidence) -> list[tuple[str, ...]]:
    """Give a row per variant for `HEADINGS`, the baseline first; empty where nothing was measured."""
    names = (judgement.baseline, *(candidate.name for candidate in judgement.candidates))
    costs = {name: cost_of(judgement, evidence, name) for name in names}
    if not any(costs.values()):
        return []
    base = positive(costs[judgement.baseline].get("weight_bytes"))
    rows: list[tuple[str, ...]] = []
    for name, cost in costs.items():
        weight = positive(cost.get("weight_bytes"))
        share = words.percent(weight / base) if weight is not None and base is not None else "-"
        rows.append((
            name,
            _number(cost.get("load_seconds")),
            bytes_text(weight),
            share,
            _number(cost.get("bits_per_weight"), 2),
            _number(cost.get("tokens_per_second")),
            bytes_text(cost.get("peak_bytes")),
        ))  # fmt: skip
    return rows
