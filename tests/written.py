"""Writes what other tools would have written, for tests of how it is read, and compares it as a user would."""

from __future__ import annotations

import json
from pathlib import Path

from harness.cli import program as cli
from harness.judge import compare, gate
from harness.judge.importers import ImportOptions, load
from harness.judge.rules import Rules
from harness.judge.verdicts import Judgement

DATE = "2026-03-01T10-00-00.123456"


def compared(before: Path, after: Path, *more: str) -> int:
    """The exit code of `quantcliff compare` over two files or directories."""
    words = ["compare", "--baseline", before, "--candidate", f"c={after}", "--quiet", *more]
    words += [] if "--margin" in more else ["--margin", "0.05"]
    words += ["--allow-identical"] if before == after else []
    return cli._run([str(word) for word in words])


def jsonl(path: Path, rows) -> Path:
    """A file with a JSON line per row."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def csv_of(path: Path, header: str, rows) -> Path:
    """A table with these lines."""
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return path


def lm_eval_sample(at: int, score: float = 1.0, **changes) -> dict:
    """One of lm_eval's samples."""
    hashes = {"doc_hash": f"d{at}", "prompt_hash": f"p{at}", "target_hash": "t"}
    base = {"doc_id": at, "doc": {"q": f"jar {at}"}, "target": "x", "arguments": [[f"Q: jar {at}", {}]], "resps": []}
    scored = {"filtered_resps": [], "filter": "none", "metrics": ["exact_match"], "exact_match": score}
    return base | scored | hashes | changes


def samples_of(folder: Path, name: str, samples, suffix: str = "jsonl") -> Path:
    """A directory with the samples of a task."""
    jsonl(folder / f"samples_{name}_{DATE}.{suffix}", samples)
    return folder


def inspect_log(path: Path, scores, *, epochs=1, **header) -> Path:
    """An Inspect log. scores: per item, one value per epoch; None for an epoch that ended in an error."""
    samples = [
        {"id": at, "epoch": epoch, "input": f"jar {at}", "target": "x"}
        | ({"error": {"message": "x"}} if value is None else {"scores": {"match": {"value": value}}})
        for at, values in enumerate(scores)
        for epoch, value in enumerate(values, start=1)
    ]
    config = {"epochs": epochs} | header.pop("config", {})
    run = {"task": "jars", "model": "m", "created": "2026-03-01", "config": config} | header
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"status": "success", "eval": run, "samples": samples}))
    return path


def judged_pair(folder: Path, options: ImportOptions | None = None) -> Judgement:
    """The judgement of a folder's ``int4`` against its ``bf16``."""
    rules = Rules.from_flags(margin=0.4)
    base, side = (load(folder / name, options) for name in ("bf16", "int4"))
    return gate.judge(compare.compare(base, [side], rules), rules)
