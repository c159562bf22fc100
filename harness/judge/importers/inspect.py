"""Logs of Inspect (inspect_ai): ``.json``, and ``.eval``, which is a zip of the same JSON.

Items are joined by task, arguments and sample id, and match only if input, choices, target and arguments agree.
"""

import math
import statistics
import zipfile
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from harness.errors import NotComparable, UsageError
from harness.judge.importers.json_text import below, inner, json_object, parsed
from harness.judge.importers.rows import ImportOptions, Rows, as_level, as_score, check_one_model, dig, per_task
from harness.judge.outcomes import Outcomes, fingerprint
from harness.records import canonical_json, stratum_name
from harness.suite.chance import guessing

GRADES = {"C": 1.0, "P": 0.5, "I": 0.0, "N": 0.0, "yes": 1.0, "no": 0.0}  # the values that Inspect's metrics give them
_UNGRADED = "Grade not found in model output"  # what Inspect's graders explain a wrong answer by if they gave no grade
_MODEL = ("model_args", "model_base_url")
_SETTINGS = ("task_version", "task_file", "dataset", "solver", "solver_args", "scorers", "model_roles", *_MODEL)
_LIMITS = ("message_limit", "token_limit", "turn_limit", "time_limit", "working_limit", "cost_limit")
_CUT = {"time", "working", "context", "model_length", "max_tokens", "cost", "content_filter"}  # a server may decide
_CONFIG = ("limit", "sample_id", "epochs", "epochs_reducer", *_LIMITS)
"""What makes two logs of a task two measurements, not a repetition: parts of ``eval`` and of ``eval.config``."""
# Parts of the generation's settings that decide no answer, and what may differ as samples are compared one by one.
_OPERATION = {"max_connections", "max_retries", "timeout", "attempt_timeout", "batch", "cache", "cache_prompt", "seed"}
_OF_ONE_SIDE = {"task_file", "dataset", *_MODEL, *(f"config.{key}" for key in _CONFIG[:4])}

MAX_MEMBERS = 500_000  # a small archive must not fill the memory
MAX_MEMBER = 256 << 20  # unpacked bytes of one member
MAX_TOTAL = 16 << 30  # unpacked bytes of all members
_ZSTANDARD = 93  # the zip method that recent versions of Inspect compress with (APPNOTE.TXT 4.4.5)


def is_log(data: object) -> bool:
    """Whether JSON data is a log of Inspect."""
    return isinstance(data, Mapping) and {"eval", "status"} <= data.keys()


def log_files(path: Path) -> list[Path]:
    """Find the logs at a path, among other JSON. Raises NotComparable if a file is no JSON: it could be half a log."""
    if path.is_file():
        return [path]
    told = ((file, inner(parsed(file.read_bytes(), str(file)))) for file in below(path, "*.json"))
    logs = [file for file, one in told if {"eval", "samples"} & one.keys() and isinstance(one.get("eval", {}), Mapping)]
    return sorted([*below(path, "*.eval"), *logs])


class _Log:
    """The header of a log, by the parts that are used here."""

    def __init__(self, file: Path) -> None:
        self.file, self.header = file, _header(file)
        self.run: Mapping[str, Any] = self.header["eval"]
        self.task, self.created = str(self.run["task"]), str(self.run.get("created", ""))
        with suppress(ValueError, OverflowError):  # in UTC, so that texts sort by time
            self.created = datetime.fromisoformat(self.created).astimezone(UTC).isoformat()
        self.arguments: Mapping[str, Any] = self.run.get("task_args") or {}
        self.config: Mapping[str, Any] = self.run.get("config") or {}
        how = {**inner(self.run, "model_generate_config"), **inner(self.header, "plan", "config")}
        how = {key: value for key, value in how.items() if value is not None and key not in _OPERATION}
        own = {"config.generation": how, "steps": inner(self.header, "plan").get("steps")}
        self.settings = own | {key: self.run.get(key) for key in _SETTINGS}
        self.settings |= {f"config.{key}": self.config.get(key) for key in _CONFIG}
        graders = [inner(one, "options") for one in self.run.get("scorers") or () if "model_graded" in str(one)]
        self.settings["model_roles"] = roles = inner(self.run, "model_roles")  # who grades, or else the model
        alone = any(not one.get("model") and one.get("model_role", "grader") not in roles for one in graders)
        self.grader = {"grader": f"the model itself ({file}): name one grader for both"} if alone else {}


def load_inspect(path: Path, options: ImportOptions, name: str) -> Outcomes:
    """Read a log or a directory of them. Raises UsageError if a field is not there, NotComparable if a log is cut."""
    rows = Rows(str(path), options)
    logs = _newest([_Log(file) for file in log_files(path)], rows)
    for log in logs:
        if (status := log.header["status"]) != "success":
            raise NotComparable(f"{log.file}: its status is {status!r}: only a log that ended in success is judged")
        if log.header.get("invalidated"):
            raise NotComparable(f"{log.file}: the log was marked as invalid")
    known: dict[str, list[str]] = {}
    for log in logs if options.metric else ():  # the scorers of the first scored sample, and their keys
        values = list(next(filter(None, map(_values, _samples(log.file))), {}))
        known[log.task] = list(dict.fromkeys([*values, *(name.partition(".")[0] for name in values)]))
    chosen = per_task(options.metric, known, "scorer", str(path)) if options.metric else {}
    for log in logs:
        _add(log, _varying(log, logs), chosen.get(log.task), rows)
    rows.notes += [f"{task}: has no such --metric" for task in known if task not in chosen]
    return rows.outcomes(name)


def _newest(logs: Sequence[_Log], rows: Rows) -> list[_Log]:
    """Keep the newest log of each task with the same arguments and settings; a failed one does not count if retried."""
    runs: dict[tuple[str, str], list[_Log]] = defaultdict(list)
    for log in logs:
        runs[log.task, canonical_json(log.arguments)].append(log)
    for (task, _), same in runs.items():
        first = same[0].settings
        if differing := sorted({key for log in same for key, value in log.settings.items() if value != first[key]}):
            names = ", ".join(log.file.name for log in same)
            differ = f"{task} was run with different settings ({', '.join(differing)})"
            raise UsageError(f"{rows.source}: {differ}: give the log of one ({names})")
        done = max((log.created for log in same if log.header["status"] == "success"), default="")
        for log in [one for one in same if one.header["status"] != "success" and "" < one.created < done]:
            rows.notes.append(f"{log.file}: its status is {log.header['status']!r}, and a later log of {task} counts")
            same.remove(log)
        if len(same) > 1:
            dated = sorted(same, key=lambda log: log.created)
            rows.rerun(task, {log.file: {as_level(one.get("id")) for one in _samples(log.file)} for log in dated})
    check_one_model(rows.source, ({key: log.run.get(key) or {} for key in ("model", "model_args")} for log in logs))
    return [max(same, key=lambda log: log.created) for _, same in sorted(runs.items())]


def _varying(log: _Log, logs: Sequence[_Log]) -> dict[str, str]:
    """Return the log's arguments that differ from those of its task's other logs."""
    same = [one.arguments for one in logs if one.task == log.task]
    levels = {name: {as_level(one.get(name)) for one in same} for name in sorted(set[str]().union(*same))}
    return {name: as_level(log.arguments.get(name)) for name, found in levels.items() if len(found) > 1}


def _add(log: _Log, varying: Mapping[str, str], metric: str | None, rows: Rows) -> None:
    """Add the items of a log. varying: see `_varying`."""
    rows.common, place = varying, f"{log.task}/{stratum_name(varying)}" if varying else log.task
    rows.sources[place] = str(log.file), str(log.run.get("eval_id") or "")
    shared = {key: one for key, one in log.settings.items() if key not in _OF_ONE_SIDE}
    known = {key: canonical_json(one) for key, one in shared.items() if one is not None or key.startswith("config.")}
    rows.settings |= {f"{key} of {place}": one for key, one in {**known, **log.grader}.items()}
    epochs: dict[str, dict[Any, float]] = defaultdict(dict)
    first: dict[str, tuple[list[Any], dict[str, Any], str]] = {}
    answers: list[tuple[str, Any, list[Any]]] = []
    partial = edited = 0
    for sample in _samples(log.file):
        where = f"{log.file}: sample {sample.get('id')}"
        if "id" not in sample or "input" not in sample:
            raise NotComparable(f"{where}: has no id or no input")
        item = f"{place}/{as_level(sample['id'])}"
        asked, metadata = sample["input"], {**varying, **(sample.get("metadata") or {})}
        if isinstance(asked, list):  # without the ids of messages, which Inspect makes again in every run
            asked = [[message.get("role"), message.get("content")] for message in asked]
        fields = [as_level(dig(metadata, one, where)) for one in rows.options.fields]
        key = [asked, sample.get("choices"), sample.get("target"), *fields]
        if first.setdefault(item, (key, metadata, where))[0] != key:
            raise NotComparable(f"{where}: names different items: ids must be unique")
        epoch = sample.get("epoch", len(epochs[item]) + 1)
        if epoch in epochs[item]:
            raise NotComparable(f"{where}: has epoch {epoch} twice")
        answers.append((item, epoch, _told(sample)))
        epochs[item][epoch] = _score(sample, log.task, where, metric, rows)
        edited += any(inner(one).get("history") for one in inner(sample, "scores").values())
    for item, epoch, told in answers if any(told for *_, told in answers) else ():
        rows.said[item].add((canonical_json({str(epoch): told or [""]}), False))
    stored, said = sum(map(len, epochs.values())), inner(log.header, "results")
    counts = (said.get(key) for key in ("completed_samples", "total_samples"))
    count = max((one for one in counts if isinstance(one, int)), default=0)
    if stored < max(count, 1):
        raise NotComparable(f"{log.file}: holds {stored} of {count or 'its'} samples: copy the whole log")
    expected = max([int(log.config.get("epochs") or 1), *map(len, epochs.values())])
    reducer, reduce = _reducer(log)
    if reducer != "mean" and log.task in rows.measure:
        rows.measure[log.task] += f",{reducer}" + ("" if reducer.startswith("pass_at") else f" of {expected}")
    guess = guessing([str(key[1:3] if key[1] else key[2]) for key, *_ in first.values()])  # choices and target
    for item, scores in epochs.items():
        counted = [one for one in scores.values() if not math.isnan(one)]
        partial += len(counted) < expected and expected > 1
        score = reduce(counted) if len(counted) == expected else math.nan
        (question, offered, target, *_), metadata, where = first[item]
        asked = fingerprint(*map(canonical_json, filter(None, ([question, offered, target], log.arguments))))
        chance = max(guess, 1.0 / len(offered) if offered and len(offered) > 1 else 0.0)
        rows.add(item, score, metadata, where, task=log.task, asked=asked, chance=chance)
    missing = f"{partial} items have no score in some of their {expected} epochs, and count as unanswered"
    seen = {missing: partial, f"{edited} samples have scores that were edited after the run": edited}
    rows.notes += [f"{log.file}: {text}" for text, count in seen.items() if count]


def _reducer(log: _Log) -> tuple[str, Callable[[Sequence[float]], float]]:
    """Return the log's own way from epochs to a score, by name. Raises UsageError if it is not known here."""
    results = inner(log.header, "results").get("scores") or []
    named = log.config.get("epochs_reducer") or [one.get("reducer") for one in results if one.get("reducer")]
    name = str(([named] if isinstance(named, str) else named or ["mean"])[0])
    kind, _, count = name.rpartition("_")
    if name in _REDUCERS:
        return name, _REDUCERS[name]
    if kind == "at_least" and count.isdecimal() and int(count):
        return name, lambda scores: float(sum(one >= 1.0 for one in scores) >= int(count))
    if kind == "pass_at" and count.isdecimal():
        return name, lambda scores: _pass_at(scores, int(count))
    raise UsageError(f"{log.file}: reduces epochs by {name!r}: known are {', '.join(_REDUCERS)}, at_least_k, pass_at_k")


def _pass_at(scores: Sequence[float], count: int) -> float:
    """Estimate the chance that one of `count` answers is right (Chen et al. 2021, arXiv:2107.03374, equation 1)."""
    wrong = sum(one < 1.0 for one in scores)
    return 1.0 - math.comb(wrong, count) / math.comb(len(scores), count) if len(scores) >= count else math.nan


_REDUCERS: dict[str, Callable[[Sequence[float]], float]] = {
    one.__name__: one for one in (statistics.mean, statistics.median, statistics.mode, max)
}  # Inspect's reducers of epochs, by name (inspect_ai/scorer/_reducer)


def _values(sample: Mapping[str, Any]) -> dict[str, Any]:
    """Return a sample's values by scorer, or by ``scorer.key`` if the scorer gives several."""
    found: dict[str, Any] = {}
    for scorer, score in (sample.get("scores") or {}).items():
        value = None if str(score.get("explanation")).startswith(_UNGRADED) else score.get("value")
        several = inner(value)
        found |= {f"{scorer}.{key}": one for key, one in several.items()} if several else {scorer: value}
    return found


def _score(sample: Mapping[str, Any], task: str, where: str, metric: str | None, rows: Rows) -> float:
    values = _values(sample)
    # Inspect may have been told to score what was there when the sample or its server failed, or a person ended it.
    failed = sample.get("error") or inner(sample, "output").get("error")
    if not values or failed or inner(sample, "limit").get("type") == "operator":
        return math.nan
    named = [one for one in values if metric in (None, one)] or [one for one in values if one.startswith(f"{metric}.")]
    if len(named) != 1:
        raise UsageError(f"{where}: which scorer is the score? Give --metric, one of {', '.join(named or values)}")
    if (before := rows.measure.get(task, named[0]).partition(",")[0]) != named[0]:
        text = f"is scored by {named[0]}, others of its task by {before}"
        raise NotComparable(f"{where}: {text}: give logs of one scorer, or name one with --metric")
    rows.measure[task], value = named[0], values[named[0]]
    return as_score(GRADES.get(value, GRADES.get(value.lower(), value)) if isinstance(value, str) else value, where)


def _told(sample: Mapping[str, Any]) -> list[Any]:
    """Return a sample's answers, or the limit that cut it."""
    choices = inner(sample, "output").get("choices") or ()
    limits = _CUT.intersection([inner(sample, "limit").get("type"), *(one.get("stop_reason") for one in choices)])
    cut = [f"(cut by a limit: {one})" for one in sorted(limits)]
    return cut or [inner(one, "message").get("content") for one in choices]


def _header(file: Path) -> dict[str, Any]:
    if file.suffix == ".eval":
        with _opened(file) as archive:
            if "header.json" not in archive.namelist():
                raise NotComparable(f"{file}: has no header.json: the evaluation did not finish")
            header = json_object(_member(archive, "header.json", file), f"{file}: header.json")
    else:
        header = json_object(file.read_bytes(), str(file))
    if not is_log(header) or not isinstance(header["eval"], Mapping) or "task" not in header["eval"]:
        raise NotComparable(f"{file}: is not a log of Inspect (eval.task and status are missing)")
    return header


def _samples(file: Path) -> Iterator[Mapping[str, Any]]:
    if file.suffix != ".eval":
        for sample in json_object(file.read_bytes(), str(file)).get("samples") or ():
            if not isinstance(sample, Mapping):
                raise NotComparable(f"{file}: a sample is not an object")
            yield sample
        return
    with _opened(file) as archive:
        for name in sorted(archive.namelist()):
            if name.startswith("samples/") and name.endswith(".json"):
                yield json_object(_member(archive, name, file), f"{file}: {name}")


@contextmanager
def _opened(file: Path) -> Iterator[zipfile.ZipFile]:
    """Open an archive. Raises NotComparable if it is damaged, has a member twice, or exceeds a limit."""
    try:
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
            size, name = max(((one.file_size, one.filename) for one in entries), default=(0, ""))
            for what, found, limit in (
                ("members", len(entries), MAX_MEMBERS),
                (f"MiB in {name}", size >> 20, MAX_MEMBER >> 20),
                ("MiB unpacked", sum(one.file_size for one in entries) >> 20, MAX_TOTAL >> 20),
            ):
                if found > limit:
                    raise NotComparable(f"{file}: holds {found:,} {what}, and at most {limit:,} are read")
            if len(set(archive.namelist())) < len(entries):
                raise NotComparable(f"{file}: holds a member twice")
            yield archive
    except zipfile.BadZipFile as error:
        raise NotComparable(f"{file}: is not a whole .eval log: {error}") from error


def _member(archive: zipfile.ZipFile, name: str, file: Path) -> bytes:
    """Read one member: Python's zipfile reads Zstandard from 3.14 on, before that pyarrow does."""
    entry = archive.getinfo(name)
    if entry.compress_type == _ZSTANDARD:
        return _zstandard(entry, file)
    try:
        return archive.read(entry)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise NotComparable(f"{file}: {name} is damaged: {error}") from error


def _zstandard(entry: zipfile.ZipInfo, file: Path) -> bytes:
    from pyarrow import lib

    with file.open("rb") as stream:
        stream.seek(entry.header_offset)
        local = stream.read(30)
        # The local header: 30 bytes, the last four the lengths of name and extra field (APPNOTE.TXT 4.3.7).
        stream.seek(int.from_bytes(local[26:28], "little") + int.from_bytes(local[28:30], "little"), 1)
        packed = stream.read(entry.compress_size)
    try:
        found = bytes(lib.Codec("zstd").decompress(packed, decompressed_size=entry.file_size, asbytes=True))
    except lib.ArrowException as error:
        raise NotComparable(f"{file}: {entry.filename} is damaged: {error}") from error
    if zlib.crc32(found) != entry.CRC:
        raise NotComparable(f"{file}: {entry.filename} is damaged: its checksum differs")
    return found
