"""The judgement for programs: a CSV and a Parquet table of every comparison, and model-card metadata.

The tables hold one row per candidate and stratum, every figure unrounded, missing ones empty. The metadata is what
Hugging Face reads as ``model-index`` from a model card. This module rounds nothing and judges nothing.
"""

from __future__ import annotations

import csv
import dataclasses
import importlib.util
import io
import re
from collections.abc import Mapping
from typing import Any

import yaml

from harness.judge.summaries import ChoiceProbability, TailRate
from harness.judge.verdicts import FIGURES, CandidateVerdict, Judgement, StratumVerdict
from harness.records import digest
from harness.report.evidence import Evidence
from harness.report.sanitize import clip, one_line

__all__ = [
    "COLUMNS",
    "comparisons_csv",
    "comparisons_parquet",
    "file_name",
    "has_parquet",
    "model_index",
    "tail_events_csv",
]

_CHOICE_FIELDS = {f"choice_probability_{one.name}": one for one in dataclasses.fields(ChoiceProbability)}

COLUMNS = ("candidate", *FIGURES, *_CHOICE_FIELDS)
"""The tables' columns, in order."""

_FORMULA = ("=", "+", "-", "@")


def _rows(judgement: Judgement) -> list[dict[str, Any]]:
    rows = []
    for candidate in judgement.candidates:
        for one in candidate.strata:
            figures = {name: figure.read(one) for name, figure in FIGURES.items()}
            levels = ",".join(f"{axis}={level}" for axis, level in one.levels.items())
            choice = {
                name: None if one.choice_probability is None else getattr(one.choice_probability, field.name)
                for name, field in _CHOICE_FIELDS.items()
            }
            rows.append({"candidate": candidate.name, **figures, "levels": levels, **choice})
    return rows


def _cell(value: object) -> object:
    """Make a text harmless: a spreadsheet computes what begins like a formula, unless a quote stands before it."""
    if not isinstance(value, str):
        return value
    text = one_line(value)
    return f"'{text}" if text.startswith(_FORMULA) else text


def comparisons_csv(judgement: Judgement) -> str:
    """Return the comparisons as CSV (RFC 4180): a heading, then a row per candidate and stratum."""
    out = io.StringIO()
    writer = csv.DictWriter(out, COLUMNS, lineterminator="\r\n")
    writer.writeheader()
    writer.writerows({key: _cell(value) for key, value in row.items()} for row in _rows(judgement))
    return out.getvalue()


def tail_events_csv(judgement: Judgement) -> str:
    """Return the rates of tail events as CSV: a row per candidate, the A/A control among them, stratum and kind."""
    out = io.StringIO()
    columns = [one.name for one in dataclasses.fields(TailRate)]
    writer = csv.DictWriter(out, ["candidate", *columns], lineterminator="\r\n")
    writer.writeheader()
    for candidate in (*judgement.candidates, *([judgement.control] if judgement.control else [])):
        for one in candidate.tail_events:
            row = {"candidate": candidate.name, **dataclasses.asdict(one)}
            writer.writerow({key: _cell(value) for key, value in row.items()})
    return out.getvalue()


def has_parquet() -> bool:
    """Return whether pyarrow is installed."""
    return importlib.util.find_spec("pyarrow") is not None


def comparisons_parquet(judgement: Judgement) -> bytes:
    """Return the same rows as Parquet, typed also where every value is missing. Needs pyarrow."""
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
    head = (
        f"# quantcliff {one_line(clip(evidence.name, 200))}: {candidate.verdict} against {one_line(judgement.baseline)}"
    )
    return f"{head}\n" + yaml.safe_dump({"model-index": [entry]}, sort_keys=False, allow_unicode=True, width=120)


def _result(judgement: Judgement, one: StratumVerdict) -> dict[str, Any]:
    metrics: list[Mapping[str, Any]] = [
        {"type": "accuracy", "name": "score", "value": one.candidate_mean, "verified": False},
        {"type": "accuracy", "name": f"score of {one_line(judgement.baseline)}", "value": one.baseline_mean},
        {"type": "accuracy", "name": "change", "value": one.delta},
        {"type": "accuracy", "name": "change, lower limit", "value": one.low},
        {"type": "accuracy", "name": "change, upper limit", "value": one.high},
    ]
    return {
        "task": {"type": "text-generation"},
        "dataset": {
            "type": f"quantcliff/{one_line(one.slice)}",
            "name": one_line(f"{one.slice}, {one.stratum}"),
            "args": {"n": one.n, "margin": one.margin, "verdict": one.verdict},
        },
        "metrics": [metric for metric in metrics if metric["value"] is not None],
    }
