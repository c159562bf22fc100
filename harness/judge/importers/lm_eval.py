"""What lm_eval logged with --log_samples: ``samples_<task>_<date>.jsonl`` (or ``.json``) under an output directory.

A task is a slice; fields of its documents make strata. Items are joined by task and doc_id, and match only where
lm_eval's hashes of document, prompt and target agree; those that an older version did not write are computed.
"""

import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.errors import NotComparable, UsageError
from harness.judge.importers import rows as read
from harness.judge.importers.json_text import below, inner, json_objects, parsed
from harness.judge.importers.rows import ImportOptions, Rows
from harness.judge.outcomes import Outcomes, fingerprint, listed
from harness.records import canonical_json
from harness.suite.chance import guessing, right_share

_RULES = ("version", "metric_list", "filter_list")  # of a task in a summary: by what answers are scored
PREFERRED = ("acc", "exact_match", "pass@1", "pass_at_1", "prompt_level_strict_acc", "acc_norm", "contains", "em", "f1")
"""Which metric is the score where a task has several and none is named."""
_NAME = re.compile(r"samples_(?P<task>.+?)(?:_(?P<date>\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d(?:\.\d+)?))?\.jsonl?")
_SUMMARY = re.compile(r"(?!samples_)(?:results_.*|.*_\d{4}-\d\d-\d\dT[-\d.]+)\.json")  # --output_path may name it
_LIMITS = re.compile(r"(?:max_gen_toks|truncation|enable_thinking|think_end_token|add_bos_token)=[^,]*")  # of a model
_RUNNING = Path(__file__).with_name("operational.txt").read_text("utf-8").split()  # arguments that decide no answer
_DECIDING = re.compile(rf"(?:^|,)(?!\s*(?:{'|'.join(_RUNNING)})=)\s*([^,]+)")
_CHOICE = re.compile(r'(?i)\[+(-?[\d.]+|"-?[\d.]+"), "?(true|false)')  # how likely, and whether the likeliest
_OWN = frozenset({  # keys of a sample that are not metrics
    "arguments", "doc", "doc_hash", "doc_id", "filter", "filtered_resps", "metrics", "prompt_hash", "resps", "target",
    "target_hash",
})  # fmt: skip


def is_sample(line: Mapping[str, Any]) -> bool:
    """Whether a JSON line is one of lm_eval's samples."""
    return {"doc_id", "doc", "filtered_resps"} <= line.keys()


def sample_files(path: Path) -> list[Path]:
    """Find the sample files at a path: itself, or all below it."""
    return [path] if path.is_file() else [file for file in below(path, "samples_*") if _NAME.fullmatch(file.name)]


def load_lm_eval(path: Path, options: ImportOptions, name: str) -> Outcomes:
    """Read a sample file or a directory of them. Raises UsageError if a metric or field is not there, NotComparable."""
    rows, sources = Rows(str(path), options), list[str]()
    files = _newest(path, rows)
    tasks = {task: _lines(file) for task, file in files.items()}
    known = {task: list(dict.fromkeys(str(line.get("filter")) for line in lines)) for task, lines in tasks.items()}
    filters = read.per_task(options.filter, known, "filter", str(path))
    for task, names in known.items():
        if len(names) > 1 and task not in filters:
            rows.notes.append(f"{files[task].name}: scored by filter {names[0]!r} of {', '.join(names)}")
        tasks[task] = [line for line in tasks[task] if str(line.get("filter")) == filters.get(task, names[0])]
    metrics = _metrics({task: lines[0] for task, lines in tasks.items()}, files, options, rows)
    for task, metric in sorted(metrics.items()):
        lines, chosen = tasks[task], tasks[task][0].get("filter")
        rows.measure[task] = metric if chosen in (None, "none") else f"{metric},{chosen}"
        made, _, counts = _model(files[task])
        rows.sources[task] = str(files[task]), canonical_json(made) if made["model_sha"] else ""
        held, said = len({str(line["doc_id"]) for line in lines}), counts.get(re.sub(r"\W", "_", task))
        if isinstance(said, int) and held < said:
            raise NotComparable(f"{files[task]}: holds {held} of the {said} documents in its summary: copy all of them")
        offered = {str([one[1:2] for one in _requests(line)]) for line in lines}  # choices, or how text is generated
        guess = guessing([str(line.get("target")) for line in lines]) if len(offered) == 1 else 0.0
        twice = "acc_mutual_info" in (lines[0].get("metrics") or ())  # each choice is weighed without its question, too
        kept = any(line.get("resps") or line["filtered_resps"] for line in lines)
        for line in lines:
            item, where = f"{task}/{read.as_level(line['doc_id'])}", f"{files[task]}: doc {line['doc_id']}"
            score, asked = read.score_of(line, metric, where), fingerprint(*_hashes(line))
            if told := line.get("resps") or line["filtered_resps"]:
                told = told[0] if isinstance(told, list) and len(told) == 1 else told  # all answers to the one request
                rows.said[item].add((text := json.dumps(told, ensure_ascii=False), _CHOICE.match(text) is not None))
            elif kept:
                rows.said[item].add(("", False))
            share = right_share(line, len(_requests(line)) // (1 + twice))
            part = f"{task} {line['length']}" if line.get("metrics") == ["score"] and "length" in line else task
            rows.add(item, score, line["doc"], where, task=part, asked=asked, chance=max(share, guess))
            texts = [part for one in _requests(line) if isinstance(one, list) for part in one if isinstance(part, str)]
            sources.append(f"{task}/{fingerprint(*texts, str(line.get('target')))}" if texts else item)
    rows.clusters = rows.clusters or sources  # what was asked alike is one source, whatever else documents hold
    return rows.outcomes(name)


def _newest(path: Path, rows: Rows) -> dict[str, Path]:
    """Return each task's file; the newest if a task was run several times, with a note."""
    dated: dict[str, list[tuple[str, Path]]] = defaultdict(list)
    for file in sample_files(path):
        found = _NAME.fullmatch(file.name)
        dated[found["task"] if found else file.stem].append(((found["date"] if found else None) or "", file))
    made = [_model(file) for file in {(day, one.parent): one for runs in dated.values() for day, one in runs}.values()]
    for model, *_ in made:  # arguments in any order, without those that decide no answer
        model["model_args"] = ",".join(sorted(_DECIDING.findall(model["model_args"])))
    told = all(model["model_args"] for model, *_ in made)  # if not, another folder may be of another model
    folders = ({"folder" + told * f" of {task}": file.parent} for task, runs in dated.items() for _, file in runs)
    read.check_one_model(path, (*folders, *(model for model, *_ in made)))
    lacking = {task for *_, tasks in made for task in tasks} - {re.sub(r"\W", "_", task) for task in dated}
    if lacking and path.is_dir():
        raise NotComparable(f"{path}: its summary names {listed(lacking)}, of which there are no samples: copy all")
    for task, runs in dated.items():
        if len(runs) > 1:
            rows.rerun(task, {file: {str(_hashes(line)) for line in json_objects(file)} for _, file in sorted(runs)})
    return {task: max(runs)[1] for task, runs in sorted(dated.items())}


def _lines(file: Path) -> list[dict[str, Any]]:
    lines = json_objects(file)
    for number, line in enumerate(lines, start=1):
        if not is_sample(line) or not isinstance(line["doc"], Mapping):
            raise NotComparable(f"{file}: entry {number} has no doc_id, doc, filtered_resps: it is no lm_eval sample")
    if not lines:
        raise NotComparable(f"{file}: holds no samples of lm_eval")
    return [*map(_by_length, lines)]


def _by_length(line: dict[str, Any]) -> dict[str, Any]:
    """Give a sample of RULER its one score: that under its own length, where those of other lengths are -1."""
    names = [*map(str, line.get("metrics") or sorted(line.keys() - _OWN))]
    own = [one for one in names if line.get(one) != -1]
    if len(own) != 1 or not all(map(str.isdigit, names)):
        return line
    return {**line, "metrics": ["score"], "score": line[own[0]], "length": own[0]}


def _metrics(
    first: Mapping[str, Mapping[str, Any]], files: Mapping[str, Path], options: ImportOptions, rows: Rows
) -> dict[str, str]:
    """Return the metric that is the score of each task that has one. first: a sample per task."""
    known = {task: [*map(str, line.get("metrics") or sorted(line.keys() - _OWN))] for task, line in first.items()}
    found = read.per_task(options.metric, known, "metric", rows.source)
    for task, names in known.items():
        own, *dates = [re.findall(r"[-\d]+T[-\d.]+json", one.name) for one in (files[task], *_summaries(files[task]))]
        if own and any(dates) and own not in dates:
            raise NotComparable(f"{files[task]}: its own summary is missing, those beside it are others': copy it too")
        summaries = [parsed(one.read_bytes(), str(one)) for one in _summaries(files[task])]
        told = [one for data in summaries for one in inner(data, "higher_is_better", task).items()]
        lower, asked = {*filter(read.less_is_better, names), *(one for one, up in told if up is False)}, found.get(task)
        if asked in lower:
            raise UsageError(f"{files[task]}: {asked} is not a score: less of it is better")
        if asked is None:
            usable = [one for one in names if one not in lower]
            if names and not usable:
                rows.notes.append(f"{files[task]}: not judged: less is better of all its metrics: {', '.join(names)}")
                perplexities = all(one.endswith(("perplexity", "bits_per_byte")) for one in names)
                if not perplexities or (not found and task == max(known)):  # there is nothing else
                    raise UsageError(rows.notes[-1])
                continue
            found[task] = read.best_metric(task, usable, PREFERRED, files[task])
            if options.metric:
                rows.notes.append(f"{task}: has no such --metric, and is judged by {found[task]}")
        rows.settings |= _settings(first[task], files[task], task, summaries)
    return found


def _settings(line: Mapping[str, Any], file: Path, task: str, summaries: list[Any]) -> dict[str, str]:
    """Return what decides an answer or its score beside the prompt: how texts are generated, limits, the version."""
    asked = (_requests(line) or [None])[0]
    how = asked[1] if isinstance(asked, list) and len(asked) > 1 else None
    made = [{**inner(data, "configs", task), "version": inner(data, "versions").get(task)} for data in summaries]
    known = {key: canonical_json(own[key]) for own in made for key in _RULES if own.get(key) is not None}
    found = _model(file)[1] | {key: re.sub(r" at 0x\w+", "", one) for key, one in known.items()}  # where a function was
    found |= {"generation": canonical_json(how) if isinstance(how, Mapping) and how else ""}
    if found["generation"] and isinstance(said := next(iter(line.get("resps") or ()), None), list):
        found["number of answers"] = str(len(said))  # a vote of many is no match for one answer
    return {f"the {what} of {task}": told for what, told in found.items() if told}


def _model(file: Path) -> tuple[dict[str, str], dict[str, str], dict[str, int | None]]:
    """Return what a sample file's model is, its limits, and the documents of each task, by the summary of its run."""
    beside = [one for one in _summaries(file) if one.stem.rpartition("_")[2] == file.stem.rpartition("_")[2]]
    data = inner(parsed(beside[0].read_bytes(), str(beside[0]))) if beside else {}
    config, counts = inner(data, "config"), inner(data, "n-samples") or inner(data, "configs")
    tasks = {re.sub(r"\W", "_", task): inner(counts, task).get("effective") for task in counts}
    given = config.get("model_args") or ""
    made = ",".join(f"{key}={one}" for key, one in given.items()) if isinstance(given, Mapping) else str(given)
    limits = " ".join(sorted(_LIMITS.findall(made))) or "none"
    model = {key: str(config.get(key) or "") for key in ("model", "model_dtype", "model_sha")} | {"model_args": made}
    had = {"model's arguments": limits if made else "", "longest prompt": str(data.get("max_length") or "")}
    return model, had, tasks


def _summaries(file: Path) -> list[Path]:
    """Find the summary of a sample file's run, or else all beside it, the newest last."""
    found = [one for one in file.parent.glob("*.json") if _SUMMARY.fullmatch(one.name)]
    own = [one for one in found if one.stem.rpartition("_")[2] == file.stem.rpartition("_")[2]]
    return own or sorted(found, key=lambda one: one.stem.rpartition("_")[2])


def _requests(line: Mapping[str, Any]) -> list[Any]:
    """What the model was asked, one entry per choice; newer versions number the entries in an object."""
    asked = line.get("arguments") or []
    entries = asked.values() if isinstance(asked, Mapping) else asked if isinstance(asked, list) else [asked]
    return [list(one.values()) if isinstance(one, Mapping) else one for one in entries]


def _hashes(line: Mapping[str, Any]) -> list[str]:
    """Return the hashes of document, prompt and target; computed as lm_eval does (evaluator.py) if missing."""
    first = (_requests(line) or [""])[0]
    prompt = first[0] if isinstance(first, list) and first else first

    def computed(text: str) -> str:
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()

    return [
        str(line.get("doc_hash") or computed(json.dumps(line["doc"], indent=2, ensure_ascii=False))),
        str(line.get("prompt_hash") or computed(str(prompt))),
        str(line.get("target_hash") or computed(str(line.get("target")))),
    ]
