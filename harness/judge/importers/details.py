"""What NeMo Evaluator (eval-*.json, results.jsonl) and lighteval (details_<task>_<date>.parquet) say of each item."""

import json
import math
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from harness.errors import NotComparable, UsageError
from harness.judge.importers import rows as read
from harness.judge.importers.json_text import below, inner, json_objects, parsed
from harness.judge.importers.lm_eval import PREFERRED
from harness.judge.importers.rows import ImportOptions, Rows, as_item, as_level
from harness.judge.outcomes import Outcomes, fingerprint, listed
from harness.records import canonical_json
from harness.suite.chance import guessing

_DETAILS = re.compile(r"details_(?P<task>.+)_(?P<date>\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d(?:\.\d+)?)\.parquet")
_LIGHTEVAL = ("extractive_match", "em", "loglikelihood_acc", "quasi_exact_match", *PREFERRED)  # if no metric is named
_PROMPT = ("query", "full_prompt", "instruction", "system_prompt", "fewshot_samples")  # of lighteval
_ASKED = (*_PROMPT, "generation_size", "stop_sequences", "num_samples")
_HOW = ("generation_parameters", "system_prompt", "max_length", "max_model_length", "override_chat_template")
_GENERAL = ("generation_parameters", "model_name", "model_sha", "model_dtype")  # in older results
_OPERATION = {"seed", "cache_implementation", "num_blocks", "block_size"}  # parameters that decide no greedy answer
_ASKED_BY_NEL = ("system_prompt", "temperature", "top_p", "max_tokens")  # what `nel`'s summary says of the questions
_NOT_THE_MODEL = ("infra_error", "system")  # errors of sandboxes, endpoints and graders, which `nel` gives the reward 0


def nel_bundles(path: Path) -> dict[str, tuple[Path, Mapping[str, Any]]]:
    """Return each benchmark's results and newest summary. Raises UsageError if one is there twice, or half."""
    found: dict[str, tuple[Path, Mapping[str, Any]]] = {}
    half: list[Path] = []
    for results in sorted({one.with_name("results.jsonl") for one in below(path, "*.json*")}):
        known = [parsed(one.read_bytes(), str(one)) for one in sorted(results.parent.glob("eval-*.json"))]
        known = [one for one in known if isinstance(inner(one).get("benchmark"), Mapping)]
        read.check_one_model(results.parent, ({"model": inner(one, "config").get("model", "")} for one in known))
        newest: Mapping[str, Any] = max(known, key=lambda one: str(one.get("timestamp") or ""), default={})
        name = inner(newest, "benchmark").get("name")
        if not isinstance(name, str) or not results.is_file():
            half += [results.parent] if results.is_file() or known else []
        elif name in found:
            raise UsageError(f"{path}: holds {name} twice ({found[name][0].parent}, {results.parent}): give one")
        else:
            found[name] = results, newest
    if found and half:
        raise UsageError(f"{half[0]}: lacks results.jsonl or its summary, eval-*.json: give a benchmark that ended")
    return found


def detail_files(path: Path) -> dict[str, list[Path]]:
    """Return each task's files of lighteval's details, the newest last."""
    files = [path] if path.is_file() else below(path, "details_*.parquet")
    named = sorted((found["date"], found["task"], file) for file in files if (found := _DETAILS.fullmatch(file.name)))
    return {task: [file for _, one, file in named if one == task] for _, task, _ in named}


def load_nel(path: Path, options: ImportOptions, name: str) -> Outcomes:
    """Read `nel` results. Raises NotComparable if they are cut, or repeats disagree about what was asked."""
    rows, bundles = Rows(str(path), options), nel_bundles(path)
    read.check_one_model(path, ({"model": inner(one, "config").get("model", "")} for _, one in bundles.values()))
    for task, (file, bundle) in bundles.items():
        lines = json_objects(file)
        if (count := bundle.get("n_results", len(lines) or "its")) != len(lines):
            raise NotComparable(f"{file}: holds {len(lines)} of {count} results: copy the whole file")
        chance = guessing([str(one.get("expected_answer")) for one in lines])
        kept, found = any(one.get("model_response") for one in lines), _repeats(lines, file, rows.notes)
        expected = max([int(inner(bundle, "benchmark").get("repeats") or 1), *map(len, found.values())])
        for item, repeats in found.items():
            where, document = f"{file}: problem {item}", repeats[0].get("metadata") or {}
            asked = {_asked(one) for one in repeats}
            if len(asked) > 1 or not isinstance(document, Mapping):
                raise NotComparable(f"{where}: its repeats were asked differently, or its metadata is no object")
            scores = [one for one in (_reward(each, where) for each in repeats) if not math.isnan(one)]
            mean = math.fsum(scores) / len(scores) if len(scores) == expected else math.nan
            told = [one.get("model_response") for one in repeats]
            rows.said[f"{task}/{item}"] = {("" if one is None else str(one), False) for one in told} if kept else set()
            rows.add(f"{task}/{item}", mean, document, where, task=task, asked=asked.pop(), chance=chance)
        judges = {str(inner(one, "scoring_details", "judge").get("judge_model") or "") for one in lines} - {""}
        rows.measure[task] = ",".join(("reward", *sorted(judges)))
        config, written = inner(bundle, "config"), str(bundle.get("timestamp"))
        rows.sources[task] = str(file), written if "." in written else ""  # no other run ends in that microsecond
        rows.settings |= {f"{key} of {task}": str(config.get(key)) for key in _ASKED_BY_NEL if config}
    return rows.outcomes(name)


def _repeats(lines: list[dict[str, Any]], file: Path, notes: list[str]) -> dict[str, list[dict[str, Any]]]:
    """Return the answers to each item, each repeat once. Raises NotComparable if one was given two rewards."""
    found: dict[str, dict[str, dict[str, Any]]] = defaultdict(dict)
    for line in lines:
        item, repeat = as_item(line.get("problem_idx"), f"{file}: a line"), as_level(line.get("repeat") or 0)
        before = found[item].setdefault(repeat, line)
        if before is not line:
            if (_asked(before), str(before.get("reward"))) != (_asked(line), str(line.get("reward"))):
                raise NotComparable(f"{file}: problem {item}, repeat {repeat} is given twice, and differently")
            notes.append(f"{file}: problem {item}, repeat {repeat} is given more than once, and counted once")
    return {item: list(repeats.values()) for item, repeats in found.items()}


def _asked(line: Mapping[str, Any]) -> int:
    return fingerprint(str(line.get("prompt") or ""), str(line.get("expected_answer") or ""))


def _reward(line: Mapping[str, Any], where: str) -> float:
    """Return the reward of an answer; NaN if there is none because something else than the model failed."""
    details, judged = inner(line, "scoring_details"), inner(line, "scoring_details", "judge")
    unjudged = judged.get("error") or judged.get("parse_error") or judged.get("total", 0) is None
    failed = details.get("error_category") in _NOT_THE_MODEL or (details.get("needs_judge") and not judged)
    return math.nan if failed or unjudged else read.as_score(line.get("reward"), where)


def load_lighteval(path: Path, options: ImportOptions, name: str) -> Outcomes:
    """Read lighteval's details. Raises UsageError if a metric is not there, NotComparable if there are no scores."""
    rows, files = Rows(str(path), options), detail_files(path)
    said = {file: _summary(file) for own in files.values() for file in own}
    named = all(model.get("model_name") for model, *_ in said.values())  # or else a folder may be another's
    folders = ({"folder" + named * f" of {task}": one.parent.parent} for task, own in files.items() for one in own)
    read.check_one_model(path, (*folders, *(model for model, *_ in said.values())))
    lacking = {task for *_, named in said.values() for task in named} - {re.sub(r"\W", "_", task) for task in files}
    if lacking and path.is_dir():
        raise NotComparable(f"{path}: its results name {listed(lacking)}, of which there are no details: copy them all")
    tasks = {task: list(_details(own[-1])) for task, own in files.items()}
    for task, own in files.items():
        if len(own) > 1:
            told = {file: {f"{at} {one['doc'].get('query')}" for at, one in enumerate(_details(file))} for file in own}
            rows.rerun(task, told)
    known = {task: sorted(found[0]["metric"]) if found else [] for task, found in tasks.items()}
    chosen = read.per_task(options.metric, known, "metric", str(path))
    bare = list[str]()  # items of an empty answer, which says nothing if all are
    for task, found in tasks.items():
        rows.settings |= {f"{key} of {task}": told for key, told in said[files[task][-1]][1].items()}
        rows.sources[task] = str(files[task][-1]), ""
        rows.measure[task] = metric = chosen.get(task) or read.best_metric(task, known[task], _LIGHTEVAL, path)
        guess = guessing([str([*map(one["doc"].get, ("choices", "gold_index"))]) for one in found])
        for at, one in enumerate(found):
            doc, where = one["doc"], f"{path}: {task}, item {at}"
            choices, gold = doc.get("choices"), doc.get("gold_index")
            given = (inner(doc, "model_response").get("input"), choices, gold, *map(doc.get, _ASKED))
            asked = fingerprint(*("" if part is None else str(part) for part in given))
            item = as_item(at if doc.get("id") in (None, "") else doc["id"], where)
            answer = doc.get("model_response", doc.get("predictions"))
            if any(parts := [*map(answer.get, ("text", "logprobs"))] if isinstance(answer, Mapping) else [answer]):
                rows.said[f"{task}/{item}"].add((json.dumps(parts[0] or parts, default=str), not parts[0]))
            elif answer is not None:
                bare.append(f"{task}/{item}")
            score = read.score_of(one["metric"], metric, where)
            right, count = len(gold) if isinstance(gold, list) else 1, len(choices) if isinstance(choices, list) else 0
            chance = right / count if right < count else 0.0  # if all are right, they are ways to write one answer
            rows.add(f"{task}/{item}", score, doc, where, task=task, asked=asked, chance=max(chance, guess))
    for empty in bare if rows.said else ():
        rows.said[empty].add(("", False))
    return rows.outcomes(name)


def _summary(file: Path) -> tuple[dict[str, Any], dict[str, str], set[str]]:
    """Return what lighteval's results beside details say of model, settings and tasks; empty if they are not there."""
    folders = (one.with_name("results") for one in file.absolute().parents if one.name == "details")
    found = [one for root in folders for one in root.rglob(f"results_{file.stem.rpartition('_')[2]}.json")]
    data = parsed(found[0].read_bytes(), str(found[0])) if found else {}
    said, scored = inner(data, "config_general"), [one for one in inner(data, "results") if "_average" not in one]
    config = {**{key: said[key] for key in _GENERAL if key in said}, **inner(said, "model_config")}
    asked = {key: config.pop(key) for key in _HOW if key in config}
    how = [one for one in inner(asked, _HOW[0]).items() if one[1] is not None and one[0] not in _OPERATION]
    told = {key: canonical_json(sorted(how) if key == _HOW[0] else one) for key, one in asked.items()}
    return config, told, {re.sub(r"\W", "_", one) for one in scored if one != "all"}


def _details(file: Path) -> Iterator[dict[str, Any]]:
    """Give each item as ``doc`` and ``metric``, whichever version wrote them. Raises NotComparable."""
    from pyarrow import lib, parquet

    try:
        lines = parquet.read_table(file, partitioning=None).to_pylist()
    except (lib.ArrowException, ValueError) as error:
        raise NotComparable(f"{file}: is not a Parquet file: {error}") from error
    for line in lines:
        metric, doc = line.get("metric", line.get("metrics")), line.get("doc")
        if not isinstance(metric, Mapping):
            raise NotComparable(f"{file}: holds no details of lighteval (metric or metrics is missing)")
        yield {"doc": {**line, **(doc if isinstance(doc, Mapping) else {})}, "metric": metric}
