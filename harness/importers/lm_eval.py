"""What lm_eval logged with --log_samples: ``samples_<task>_<date>.jsonl`` under an output directory.

A task is a slice; fields of its documents make strata. Items are joined by task and doc_id, and match only where
lm_eval's hashes of document, prompt and target agree. It reads the files alone: lm_eval itself is not needed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.errors import NotComparable, UsageError
from harness.importers.rows import ImportOptions, Rows, as_level, as_score, dig
from harness.importers.tables import json_lines
from harness.judge.outcomes import Outcomes, fingerprint

__all__ = ["is_sample", "load_lm_eval", "sample_files"]

PREFERRED = ("acc", "exact_match", "pass@1", "pass_at_1", "prompt_level_strict_acc", "acc_norm", "contains", "em", "f1")
"""Which metric is the score where a task has several and none is named."""
LOWER_IS_BETTER = frozenset(
    {"bits_per_byte", "brier_score", "byte_perplexity", "perplexity", "ter", "wer", "word_perplexity"}
)
"""Metrics that are no score in [0, 1] of which more is better."""
_NAME = re.compile(r"samples_(?P<task>.+?)(?:_(?P<date>\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d(?:\.\d+)?))?\.jsonl")
_OWN = frozenset(
    {
        "arguments",
        "doc",
        "doc_hash",
        "doc_id",
        "filter",
        "filtered_resps",
        "metrics",
        "prompt_hash",
        "resps",
        "target",
        "target_hash",
    }
)


def is_sample(line: Mapping[str, Any]) -> bool:
    """Whether a JSON line is one of lm_eval's samples."""
    return {"doc_id", "doc", "filtered_resps"} <= line.keys()


def sample_files(path: Path) -> list[Path]:
    """Find the sample files at a path: itself, or all below it."""
    return [path] if path.is_file() else sorted(path.rglob("samples_*.jsonl"))


def load_lm_eval(path: Path, options: ImportOptions, name: str) -> Outcomes:
    """Read a sample file or a directory of them.

    Raises UsageError where a metric, filter or field is not there, NotComparable where the logs hold no scores.
    """
    rows = Rows(str(path))
    for task, file in _newest(path, rows).items():
        _read_task(task, file, options, rows)
    return rows.outcomes(name, options)


def _newest(path: Path, rows: Rows) -> dict[str, Path]:
    """Give each task's file; where a task was run several times, the newest, and say so."""
    files = sample_files(path)
    folders = sorted({str(file.parent) for file in files})
    if len(folders) > 1:
        raise UsageError(f"{path}: holds the samples of several models: give one of {', '.join(folders)}")
    dated: dict[str, list[tuple[str, Path]]] = {}
    for file in files:
        found = _NAME.fullmatch(file.name)
        task, date = (found["task"], found["date"] or "") if found else (file.stem, "")
        dated.setdefault(task, []).append((date, file))
    for task, runs in dated.items():
        if len(runs) > 1:
            rows.notes.append(f"{path}: {task} was run {len(runs)} times; the newest counts ({max(runs)[1].name})")
    return {task: max(runs)[1] for task, runs in sorted(dated.items())}


def _read_task(task: str, file: Path, options: ImportOptions, rows: Rows) -> None:
    lines = json_lines(file)
    if not lines or not is_sample(lines[0]):
        raise NotComparable(f"{file}: holds no samples of lm_eval (doc_id, doc, filtered_resps are missing)")
    chosen = _filter(lines, file, options, rows)
    lines = [line for line in lines if line.get("filter") == chosen]
    metric = _metric(lines[0], file, options)
    rows.measure[task] = metric if chosen in (None, "none") else f"{metric},{chosen}"
    for line in lines:
        where = f"{file}: doc {line['doc_id']}"
        rows.items.append(f"{task}/{line['doc_id']}")
        rows.scores.append(as_score(_value(line, metric, where), where))
        rows.prints.append(
            fingerprint(*(str(line.get(key) or "") for key in ("doc_hash", "prompt_hash", "target_hash")))
        )
        rows.slices.append(task)
        rows.levels.append(tuple(as_level(dig(line["doc"], one, where)) for one in options.strata))
        rows.chances.append(_chance(line, metric) if options.chance is None else options.chance)
        if options.cluster:
            rows.clusters.append(f"{task}/{as_level(dig(line['doc'], options.cluster, where))}")


def _filter(lines: Sequence[Mapping[str, Any]], file: Path, options: ImportOptions, rows: Rows) -> str | None:
    found = list(dict.fromkeys(line.get("filter") for line in lines))
    if options.filter is not None and len(found) > 1:
        if options.filter not in found:
            raise UsageError(f"{file}: there is no filter {options.filter!r}; there are: {', '.join(map(str, found))}")
        return options.filter
    if len(found) > 1:
        rows.notes.append(f"{file.name}: scored by filter {found[0]!r} of {', '.join(map(str, found))}")
    return found[0]


def _metric(line: Mapping[str, Any], file: Path, options: ImportOptions) -> str:
    known = [str(one) for one in line.get("metrics") or sorted(line.keys() - _OWN)]
    if options.metric is not None:
        if options.metric not in known:
            raise UsageError(f"{file}: there is no metric {options.metric!r}; there are: {', '.join(known)}")
        if options.metric in LOWER_IS_BETTER:
            raise UsageError(f"{file}: {options.metric} is not a score: less of it is better")
        return options.metric
    usable = [one for one in known if one not in LOWER_IS_BETTER]
    preferred = [one for one in PREFERRED if one in usable]
    if preferred or len(usable) == 1:
        return preferred[0] if preferred else usable[0]
    raise UsageError(f"{file}: which metric is the score? Give --metric, one of {', '.join(known) or 'none'}")


def _value(line: Mapping[str, Any], metric: str, where: str) -> Any:
    if metric not in line:
        raise NotComparable(f"{where}: has no {metric}, other items of its task do")
    if isinstance(line[metric], (list, dict)):
        raise NotComparable(f"{where}: {metric} is not one number per item: give another --metric")
    return line[metric]


def _chance(line: Mapping[str, Any], metric: str) -> float:
    """Give one over the number of choices where several were weighed and one of them had to be right."""
    choices = len(line.get("arguments") or ())
    if "acc_mutual_info" in (line.get("metrics") or ()):
        choices //= 2  # each choice was weighed with and without its question
    return 1.0 / choices if metric.startswith("acc") and choices > 1 else 0.0
