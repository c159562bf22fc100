"""What each variant costs, next to its quality."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from harness.judge.verdicts import Judgement
from harness.report import words
from harness.report.costs import bytes_text, cost_of, cost_points, number_text, positive, variants
from harness.report.evidence import Evidence
from harness.report.section import Block, Chart, Line, Places, Row, Section, names, numbers, texts

__all__ = ["BLOCKS", "cost_section", "proof_section"]


def cost_section(judgement: Judgement, evidence: Evidence) -> Section:
    """Return a row per variant, the baseline first; empty if nothing was measured."""
    known = {name: cost_of(judgement, evidence, name) for name in variants(judgement)}
    base = positive(known[judgement.baseline].get("weight_bytes"))
    rows: list[Row] = []
    for name, cost in known.items():
        weight = positive(cost.get("weight_bytes"))
        share = words.percent(weight / base) if weight is not None and base is not None else "-"
        figures = number_text(cost.get("bits_per_weight"), 2), number_text(cost.get("tokens_per_second"))
        peak = bytes_text(cost.get("peak_bytes"))
        rows.append((name, number_text(cost.get("load_seconds")), bytes_text(weight), share, *figures, peak))
    charts = tuple(
        Chart(
            f"Average change by {one.measure}",
            one.measure,
            tuple(Line(name, ((cost, 100 * change),), hollow=not best) for name, cost, change, best in one.points),
            scatter=True,
        )
        for one in cost_points(judgement, evidence)
    )
    note = "Tokens per second: prompt and answer tokens over the time spent answering."
    if charts:
        note += " Filled marks are on the frontier: no other variant is both cheaper and better."
    return Section(
        "Cost",
        names("variant") + numbers("load s", "weights", "of baseline", "bits/weight", "tokens/s", "peak memory"),
        tuple(rows) if any(known.values()) else (),
        note=note if any(known.values()) else "",
        charts=charts,
        y="points",
    )


def proof_section(evidence: Evidence) -> Section:
    """Return what each loaded variant was measured to be."""

    def known(proof: Mapping[str, Any], key: str) -> str:
        return str(proof.get(key, "-"))

    rows = tuple(
        (
            name,
            *(known(proof, key) for key in ("method", "kernel")),
            f"{known(proof, 'quantized_modules')} of {known(proof, 'linear_modules')}",
            *(known(proof, key) for key in ("bits_per_weight", "compute_dtype")),
        )
        for name, proof in evidence.proofs.items()
    )
    columns = texts("method", "kernel") + numbers("quantized modules", "bits/weight") + texts("compute dtype")
    folded = "what each loaded model was measured to be"
    return Section("Loaded models", names("variant") + columns, rows, folded=folded, formats=("page",))


def _cost(judgement: Judgement, evidence: Evidence) -> Iterator[Section]:
    yield cost_section(judgement, evidence)
    yield proof_section(evidence)


_PLACES: Places = {"terminal": 70, "markdown": 70, "page": 100}

BLOCKS = (Block("cost", "Quality against cost", _cost, _PLACES, "Cost", "No cost was measured."),)
