"""What each variant costs, next to its quality. Costs are as judgement and evidence give them, as far as measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from harness.judge.verdicts import Judgement
from harness.report.evidence import Evidence
from harness.report.section import Block, Chart, Format, Line, Row, Section, names, numbers, texts
from harness.report.words import bytes_text, number_text, percent, positive

__all__ = ["BLOCKS", "cost_charts", "cost_of", "cost_section", "proof_section", "relative_cost", "variants"]

_COMPARED = (("weight_bytes", "weights"), ("tokens_per_second", "tokens per second"), ("peak_bytes", "peak memory"))
_AXES: tuple[tuple[str, str, Callable[[float], float]], ...] = (
    ("weights, MiB", "weight_bytes", lambda value: value / 1024**2),
    ("time, ms per token", "tokens_per_second", lambda value: 1000 / value),
    ("peak memory, MiB", "peak_bytes", lambda value: value / 1024**2),
)


def variants(judgement: Judgement) -> tuple[str, ...]:
    """Return the names of the baseline and of the candidates."""
    return judgement.baseline, *(candidate.name for candidate in judgement.candidates)


def cost_of(judgement: Judgement, evidence: Evidence, variant: str) -> dict[str, Any]:
    """Merge what judgement and evidence know of a variant's cost, the evidence last."""

    def proven(proof: Mapping[str, Any]) -> dict[str, Any]:
        return {key: proof[key] for key in ("weight_bytes", "bits_per_weight") if key in proof}

    merged: dict[str, Any] = {}
    for candidate in judgement.candidates:
        if candidate.name == variant:
            merged |= proven(candidate.proof) | dict(candidate.cost)
    return merged | proven(evidence.proofs.get(variant, {})) | dict(evidence.costs.get(variant, {}))


def relative_cost(judgement: Judgement, evidence: Evidence, variant: str) -> str:
    """Return a variant's cost as shares of the baseline's, as far as both were measured: ``60.8 % of its weights``."""
    own, base = (cost_of(judgement, evidence, name) for name in (variant, judgement.baseline))
    shares = [(label, positive(own.get(key)), positive(base.get(key))) for key, label in _COMPARED]
    return ", ".join(f"{percent(one / other)} of its {label}" for label, one, other in shares if one and other)


def cost_section(judgement: Judgement, evidence: Evidence) -> Section:
    """Return a row per variant, the baseline first; empty if nothing was measured."""
    known = {name: cost_of(judgement, evidence, name) for name in variants(judgement)}
    base = positive(known[judgement.baseline].get("weight_bytes"))
    rows: list[Row] = []
    for name, cost in known.items():
        weight = positive(cost.get("weight_bytes"))
        share = percent(weight / base if weight and base else None)
        bits, speed = number_text(cost.get("bits_per_weight"), ",.2f"), number_text(cost.get("tokens_per_second"))
        load, peak = number_text(cost.get("load_seconds")), bytes_text(cost.get("peak_bytes"))
        rows.append((name, load, bytes_text(weight), share, bits, speed, peak))
    charts, measured = cost_charts(judgement, evidence), any(known.values())
    note = "Tokens per second: prompt and answer tokens over the time spent answering."
    if charts:
        note += " Filled marks are on the frontier: no other variant is both cheaper and better."
    columns = names("variant")
    columns += numbers("load s", "weights", "of baseline", "bits/weight", "tokens/s", "peak memory")
    shown = tuple(rows) if measured else ()
    return Section("Cost", columns, shown, note=note if measured else "", charts=charts, y="points")


def cost_charts(judgement: Judgement, evidence: Evidence) -> tuple[Chart, ...]:
    """Return quality against each measure of cost that the baseline, at a change of 0, and a candidate have.

    Marks are hollow if another variant is both cheaper and better.
    """
    changes = {judgement.baseline: 0.0}
    for candidate in judgement.candidates:
        if candidate.averages and (delta := candidate.averages[0].delta) is not None:
            changes[candidate.name] = delta
    made = []
    for measure, key, convert in _AXES:
        values = {name: positive(cost_of(judgement, evidence, name).get(key)) for name in changes}
        known = {name: (convert(value), changes[name]) for name, value in values.items() if value is not None}
        if judgement.baseline in known and len(known) > 1:
            lines = tuple(
                Line(
                    name, ((cost, 100 * change),), hollow=any(_beats(other, (cost, change)) for other in known.values())
                )
                for name, (cost, change) in known.items()
            )
            made.append(Chart(f"Average change by {measure}", measure, lines, scatter=True))
    return tuple(made)


def _beats(other: tuple[float, float], one: tuple[float, float]) -> bool:
    """Return whether a cost and change are no worse than another's, and one of them better."""
    return other != one and other[0] <= one[0] and other[1] >= one[1]


def proof_section(evidence: Evidence) -> Section:
    """Return what each loaded variant was measured to be."""

    def row(name: str, proof: Mapping[str, Any]) -> Row:
        keys = ("method", "kernel", "quantized_modules", "linear_modules", "bits_per_weight", "compute_dtype")
        method, kernel, quantized, linear, bits, dtype = (str(proof.get(key, "-")) for key in keys)
        return name, method, kernel, f"{quantized} of {linear}", bits, dtype

    rows = tuple(row(*one) for one in evidence.proofs.items())
    columns = texts("method", "kernel") + numbers("quantized modules", "bits/weight") + texts("compute dtype")
    folded = "what each loaded model was measured to be"
    return Section("Loaded models", names("variant") + columns, rows, folded=folded, formats=("page",))


def _cost(judgement: Judgement, evidence: Evidence) -> list[Section]:
    return [cost_section(judgement, evidence), proof_section(evidence)]


_PLACES: Mapping[Format, int] = {"terminal": 70, "markdown": 70, "page": 100}
BLOCKS = (Block("cost", "Quality against cost", _cost, _PLACES, "Cost", "No cost was measured."),)
