"""What NeMo Evaluator (`nel eval`) and lighteval (``--save-details``) stored of each item.

nel: ``eval-*.json`` with ``results.jsonl`` next to it; the reward is the score and repeats are averaged. lighteval:
``details_<task>_<date>.parquet``. A benchmark or task is a slice. It reads the files alone.
"""

from __future__ import annotations

import json
import math
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from harness.errors import NotComparable, UsageError
from harness.judge.importers.json_text import json_objects, parsed
from harness.judge.importers.lm_eval import PREFERRED
from harness.judge.importers.rows import ImportOptions, Rows, as_item, as_score, per_task
from harness.judge.outcomes import Outcomes, fingerprint

__all__ = ["detail_files", "details_answers", "load_lighteval", "load_nel", "nel_folders"]

_DETAILS = re.compile(r"details_(?P<task>.+)_(?P<date>\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d(?:\.\d+)?)\.parquet")
_LIGHTEVAL = ("extractive_match", "em", "loglikelihood_acc", "quasi_exact_match", *PREFERRED)
"""Which of lighteval's metrics is the score if none is named."""


def nel_folders(path: Path) -> dict[str, Path]:
    """Return each benchmark's folder of `nel` results below a path. Raises UsageError if one is there twice."""
    found: dict[str, Path] = {}
    for results in sorted(path.rglob("results.jsonl")):
        for bundle in sorted(results.parent.glob("eval-*.json")):
            data = parsed(bundle.read_bytes(), str(bundle))
            name = data.get("benchmark", {}).get("name") if isinstance(data, Mapping) else None
            if not isinstance(name, str):
                continue
            if name in found:
                raise UsageError(f"{path}: holds {name} twice ({found[name]}, {results.parent}): give one of them")
            found[name] = results.parent
    return found


def detail_files(path: Path) -> dict[str, Path]:
    """Return each task's newest file of lighteval's details: the path itself, or those below it."""
    files = [path] if path.is_file() else sorted(path.rglob("details_*.parquet"))
    named = sorted((found["date"], found["task"], file) for file in files if (found := _DETAILS.fullmatch(file.name)))
    return {task: file for _, task, file in named}


def load_nel(path: Path, options: ImportOptions, name: str) -> Outcomes:
    """Read `nel` results. Strata and clusters are fields of an item's metadata, such as ``category``."""
    rows = Rows(str(path), options)
    for task, folder in nel_folders(path).items():
        repeats: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
        for line in json_objects(folder / "results.jsonl"):
            repeats[as_item(line.get("problem_idx"), f"{folder / 'results.jsonl'}: a line")].append(line)
        for item, lines in repeats.items():
            where, first = f"{folder / 'results.jsonl'}: problem {item}", lines[0]
            scores = [as_score(line.get("reward"), where) for line in lines]
            document = first.get("metadata") or {}
            asked = fingerprint(str(first.get("prompt") or ""), str(first.get("expected_answer") or ""))
            mean = math.fsum(scores) / len(scores)
            rows.add(f"{task}/{item}", mean, document, where, task=task, asked=asked, chance=0.0)
        rows.measure[task] = "reward"
    return rows.outcomes(name)


def load_lighteval(path: Path, options: ImportOptions, name: str) -> Outcomes:
    """Read lighteval's details. Raises UsageError if a metric is not there, NotComparable if there are no scores."""
    rows = Rows(str(path), options)
    tasks = {task: list(_details(file)) for task, file in detail_files(path).items()}
    known = {task: sorted(found[0]["metric"]) if found else [] for task, found in tasks.items()}
    chosen = per_task(options.metric, known, "metric", str(path))
    for task, found in tasks.items():
        usable = [one for one in _LIGHTEVAL if one in known[task]] or known[task][:2]
        if task not in chosen and (not usable or (len(usable) > 1 and usable[0] not in _LIGHTEVAL)):
            listed = ", ".join(known[task]) or "none"
            raise UsageError(f"{path}: which metric is the score? Give --metric '{task}=NAME', one of {listed}")
        rows.measure[task] = metric = chosen.get(task) or usable[0]
        for at, one in enumerate(found):
            doc, where = one["doc"], f"{path}: {task}, item {at}"
            if metric not in one["metric"]:
                raise NotComparable(f"{where}: has no {metric}, other items of its task do")
            asked = fingerprint(str(doc.get("query") or doc.get("full_prompt") or ""))
            chance = 1.0 / len(doc["choices"]) if "acc" in metric and len(doc.get("choices") or ()) > 1 else 0.0
            item, score = as_item(doc.get("id") or at, where), as_score(one["metric"][metric], where)
            rows.add(f"{task}/{item}", score, doc, where, task=task, asked=asked, chance=chance)
    return rows.outcomes(name)


def _details(file: Path) -> Iterator[dict[str, Any]]:
    """Give each item as ``doc`` and ``metric``, whichever version wrote them. Raises NotComparable."""
    from pyarrow import lib, parquet

    try:
        lines = parquet.read_table(file).to_pylist()
    except lib.ArrowException as error:
        raise NotComparable(f"{file}: is not a Parquet file: {error}") from error
    for line in lines:
        metric, doc = line.get("metric", line.get("metrics")), line.get("doc")
        if not isinstance(metric, Mapping):
            raise NotComparable(f"{file}: holds no details of lighteval (metric or metrics is missing)")
        rest = {key: value for key, value in line.items() if key not in ("metric", "metrics", "doc")}
        yield {"doc": {**rest, **(doc if isinstance(doc, Mapping) else {})}, "metric": metric}


def details_answers(path: Path) -> list[str]:
    """Return each item with its answer, sorted; none if none is stored."""
    found = []
    for task, folder in nel_folders(path).items() if path.is_dir() else ():
        lines = json_objects(folder / "results.jsonl")
        found += [[task, line.get("problem_idx"), line.get("repeat"), line.get("model_response")] for line in lines]
    for task, file in detail_files(path).items():
        docs = enumerate(one["doc"] for one in _details(file))
        found += [[task, at, 0, doc.get("model_response", doc.get("predictions"))] for at, doc in docs]
    return sorted(json.dumps(one, default=str) for one in found) if any(one[3] for one in found) else []
