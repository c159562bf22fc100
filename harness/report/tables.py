"""The judgement for programs: a CSV and a Parquet table of every comparison, and model-card metadata.

The tables hold one row per candidate and stratum, every figure unrounded, missing ones empty. The metadata is what
Hugging Face reads as ``model-index`` from a model card. This module rounds nothing and judges nothing.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import yaml

from harness.judge.summaries import ChoiceProbability, TailRate
from harness.judge.verdicts import FIGURES, CandidateVerdict, Judgement, StratumVerdict
from harness.records import digest
from harness.report.evidence import Evidence
from harness.report.sanitize import clip, one_line

__all__ = ["COLUMNS", "comparisons_csv", "comparisons_parquet", "file_name", "model_index", "tail_events_csv"]

_CHOICE_FIELDS = {f"choice_probability_{one.name}": one for one in dataclasses.fields(ChoiceProbability)}

COLUMNS = ("candidate", *FIGURES, *_CHOICE_FIELDS)
"""The tables' columns, in order."""


def _rows(judgement: Judgement) -> list[dict[str, Any]]:
    rows = []
    for candidate in judgement.candidates:
        for one in candidate.strata:
            figures = {name: figure.read(one) for name, figure in FIGURES.items()}
            levels = ",".join(f"{axis}={level}" for axis, level in one.levels.items())
            known = one.choice_probability
            choice = {name: known and getattr(known, field.name) for name, field in _CHOICE_FIELDS.items()}
            rows.append({"candidate": candidate.name, **figures, "levels": levels, **choice})
    return rows


def _csv(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    """Return rows as CSV (RFC 4180), with a quote before texts that a spreadsheet would compute."""

    def harmless(value: object) -> object:
        text = one_line(value) if isinstance(value, str) else value
        return f"'{text}" if isinstance(text, str) and text.startswith(("=", "+", "-", "@")) else text

    out = io.StringIO()
    writer = csv.DictWriter(out, columns, lineterminator="\r\n")
    writer.writeheader()
    writer.writerows({key: harmless(value) for key, value in row.items()} for row in rows)
    return out.getvalue()


def comparisons_csv(judgement: Judgement) -> str:
    """Return the comparisons as CSV: a heading, then a row per candidate and stratum."""
    return _csv(COLUMNS, _rows(judgement))


def tail_events_csv(judgement: Judgement) -> str:
    """Return the rates of tail events as CSV: a row per candidate, the A/A control among them, stratum and kind."""
    columns = ["candidate", *(one.name for one in dataclasses.fields(TailRate))]
    sides = [*judgement.candidates, *([judgement.control] if judgement.control else [])]
    return _csv(
        columns, ({"candidate": side.name} | dataclasses.asdict(one) for side in sides for one in side.tail_events)
    )


def comparisons_parquet(judgement: Judgement) -> bytes:
    """Return the same rows as Parquet, typed also where every value is missing."""
    import pyarrow as pa
    from pyarrow import parquet

    kinds = {"candidate": "string"} | {name: figure.kind for name, figure in FIGURES.items()}
    kinds |= {name: "int64" if one.name == "n" else "float64" for name, one in _CHOICE_FIELDS.items()}
    schema = pa.schema([(name, getattr(pa, kinds[name])()) for name in COLUMNS])
    rows = [{key: one_line(v) if isinstance(v, str) else v for key, v in row.items()} for row in _rows(judgement)]
    sink = io.BytesIO()
    parquet.write_table(pa.Table.from_pylist(rows, schema=schema), sink)
    return sink.getvalue()


def file_name(candidate: str) -> str:
    """Return the name of a candidate's metadata file.

    Letters that no file name should hold become ``_``, and then a digest keeps names apart.
    """
    safe = re.sub(r"[^A-Za-z0-9._-]", "_", candidate)[:80].lstrip(".")
    return f"model-index-{safe if safe and safe == candidate else f'{safe}-{digest(one_line(candidate))}'}.yaml"


def model_index(judgement: Judgement, candidate: CandidateVerdict, evidence: Evidence) -> str:
    """Return a candidate's results as the ``model-index`` of a Hugging Face model card, to be pasted into its head."""
    results = [_result(judgement, one) for one in candidate.strata if one.candidate_mean is not None]
    entry: dict[str, Any] = {"name": one_line(candidate.name), "results": results}
    run = one_line(clip(evidence.name, 200))
    head = f"# quantcliff {run}: {candidate.verdict} against {one_line(judgement.baseline)}\n"
    return head + yaml.safe_dump({"model-index": [entry]}, sort_keys=False, allow_unicode=True, width=120)


def _result(judgement: Judgement, one: StratumVerdict) -> dict[str, Any]:
    label, base = one_line(one.slice), one_line(judgement.baseline)
    figures = {
        f"score of {base}": one.baseline_mean,
        "change": one.delta,
        "change, lower limit": one.low,
        "change, upper limit": one.high,
    }
    known = ({"type": "accuracy", "name": name, "value": value} for name, value in figures.items() if value is not None)
    args = {"n": one.n, "margin": one.margin, "verdict": one.verdict}
    return {
        "task": {"type": "text-generation"},
        "dataset": {"type": f"quantcliff/{label}", "name": one_line(f"{one.slice}, {one.stratum}"), "args": args},
        "metrics": [{"type": "accuracy", "name": "score", "value": one.candidate_mean, "verified": False}, *known],
    }
