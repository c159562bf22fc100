"""Logs of Inspect (inspect_ai): ``.json``, and ``.eval``, which is a zip of the same JSON.

A log's task is a slice; fields of its samples' metadata make strata. Items are joined by task and sample id, and match
only where input, choices and target agree; epochs are repetitions, an item's score is their mean. It reads the files
alone: inspect_ai itself is not needed.
"""

from __future__ import annotations

import importlib
import json
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from harness.errors import NotComparable, UsageError
from harness.importers.rows import ImportOptions, Rows, as_level, as_score, dig
from harness.judge.outcomes import Outcomes, fingerprint
from harness.records import canonical_json

__all__ = ["is_log", "load_inspect", "log_files"]

GRADES = {"C": 1.0, "P": 0.5, "I": 0.0, "N": 0.0}
"""Inspect's letters: correct, partial, incorrect, no answer; the values that its own metrics give them."""
_WORDS = {"yes": 1.0, "no": 0.0}
_ZSTANDARD = 93
"""The zip method that recent versions of Inspect compress with (APPNOTE.TXT 4.4.5)."""


def is_log(data: object) -> bool:
    """Whether JSON data is a log of Inspect."""
    return isinstance(data, Mapping) and {"eval", "status"} <= data.keys()


def log_files(path: Path) -> list[Path]:
    """Find the logs at a path: itself, or all below it."""
    if path.is_file():
        return [path]
    return sorted(file for suffix in ("*.eval", "*.json") for file in path.rglob(suffix) if file.name != "logs.json")


def load_inspect(path: Path, options: ImportOptions, name: str) -> Outcomes:
    """Read a log or a directory of them.

    Raises UsageError where a scorer or field is not there, NotComparable where a log is not finished.
    """
    rows = Rows(str(path))
    logs: dict[str, tuple[str, Path, dict[str, Any]]] = {}
    for file in log_files(path):
        header = _header(file)
        task, created = str(header["eval"]["task"]), str(header["eval"].get("created", ""))
        if task in logs:
            rows.notes.append(f"{path}: {task} was run more than once; the newest log counts")
        logs[task] = max(logs.get(task, ("", file, header)), (created, file, header), key=lambda one: one[0])
    models = sorted({str(header["eval"].get("model")) for _, _, header in logs.values()})
    if len(models) > 1:
        raise UsageError(f"{path}: holds logs of several models ({', '.join(models)}): give one model's logs")
    for task, (_, file, header) in sorted(logs.items()):
        _check_finished(file, header)
        for sample in _samples(file):
            _add(sample, task, file, options, rows)
    return rows.outcomes(name, options, repeated=True)


def _check_finished(file: Path, header: Mapping[str, Any]) -> None:
    if header["status"] != "success":
        raise NotComparable(f"{file}: its status is {header['status']!r}: only a log that ended in success is judged")
    if header.get("invalidated"):
        raise NotComparable(f"{file}: the log was marked as invalid")


def _json(text: str | bytes, where: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise NotComparable(f"{where}: is not JSON ({error})") from error
    if not isinstance(value, dict):
        raise NotComparable(f"{where}: holds a {type(value).__name__}, not an object")
    return value


def _header(file: Path) -> dict[str, Any]:
    if file.suffix == ".eval":
        with _opened(file) as archive:
            if "header.json" not in archive.namelist():
                raise NotComparable(f"{file}: has no header.json: the evaluation did not finish")
            header = _json(_member(archive, "header.json", file), f"{file}: header.json")
    else:
        header = _json(file.read_bytes(), str(file))
    if not is_log(header) or "task" not in header["eval"]:
        raise NotComparable(f"{file}: is not a log of Inspect (eval.task and status are missing)")
    return header


def _opened(file: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(file)
    except zipfile.BadZipFile as error:
        raise NotComparable(f"{file}: is not a whole .eval log: {error}") from error


def _samples(file: Path) -> Iterator[dict[str, Any]]:
    if file.suffix != ".eval":
        yield from _json(file.read_bytes(), str(file)).get("samples") or ()
        return
    with _opened(file) as archive:
        for member in sorted(archive.namelist()):
            if member.startswith("samples/") and member.endswith(".json"):
                yield _json(_member(archive, member, file), f"{file}: {member}")


def _member(archive: zipfile.ZipFile, name: str, file: Path) -> bytes:
    """Read one file of the zip, also where it is compressed by Zstandard, which zipfile reads from Python 3.14 on."""
    entry = archive.getinfo(name)
    if entry.compress_type != _ZSTANDARD:
        return archive.read(entry)
    with file.open("rb") as stream:
        stream.seek(entry.header_offset)
        local = stream.read(30)
        # The local header: 30 bytes, the last four the lengths of name and extra field (APPNOTE.TXT 4.3.7).
        skip = int.from_bytes(local[26:28], "little") + int.from_bytes(local[28:30], "little")
        stream.seek(skip, 1)
        packed = stream.read(entry.compress_size)
    return _unpacked(packed, entry.file_size, file)


def _unpacked(packed: bytes, size: int, file: Path) -> bytes:
    """Decompress Zstandard with whichever package is there. Raises UsageError naming what to install."""
    try:
        arrow = importlib.import_module("pyarrow")
    except ImportError as error:
        raise UsageError(
            f"{file}: is compressed by Zstandard, which pyarrow reads: pip install 'quantcliff[parquet]', or "
            "`inspect log convert --to json` first"
        ) from error
    try:
        return bytes(arrow.Codec("zstd").decompress(packed, decompressed_size=size, asbytes=True))
    except arrow.ArrowException as error:
        raise NotComparable(f"{file}: is damaged: {error}") from error


def _add(sample: object, task: str, file: Path, options: ImportOptions, rows: Rows) -> None:
    if not isinstance(sample, Mapping):
        raise NotComparable(f"{file}: a sample is no object")
    where = f"{file}: sample {sample.get('id')}"
    if "id" not in sample or "input" not in sample:
        raise NotComparable(f"{where}: has no id or no input")
    scored = sample.get("scores") or {}
    rows.items.append(f"{task}/{sample['id']}")
    rows.scores.append(_score(scored, task, where, options, rows) if scored else float("nan"))
    rows.prints.append(fingerprint(canonical_json(_asked(sample))))
    rows.slices.append(task)
    metadata = sample.get("metadata") or {}
    rows.levels.append(tuple(as_level(dig(metadata, one, where)) for one in options.strata))
    choices = len(sample.get("choices") or ())
    rows.chances.append((1.0 / choices if choices > 1 else 0.0) if options.chance is None else options.chance)
    if options.cluster:
        rows.clusters.append(f"{task}/{as_level(dig(metadata, options.cluster, where))}")


def _asked(sample: Mapping[str, Any]) -> list[Any]:
    """What was asked, without the ids that Inspect gives messages anew in every run."""
    asked = sample["input"]
    if isinstance(asked, list):
        asked = [[message.get("role"), message.get("content")] for message in asked]
    return [asked, sample.get("choices"), sample.get("target")]


def _score(scored: Mapping[str, Any], task: str, where: str, options: ImportOptions, rows: Rows) -> float:
    scorer, key = _scorer(scored, where, options)
    value = scored[scorer].get("value")
    if isinstance(value, Mapping):
        keys = list(value)
        if key is None and len(keys) == 1:
            key = keys[0]
        if key not in value:
            raise UsageError(f"{where}: {scorer} has several values: give --metric {scorer}.{'|'.join(keys)}")
        value = value[key]
    elif key is not None:
        raise UsageError(f"{where}: {scorer} has one value: give --metric {scorer}")
    rows.measure[task] = scorer if key is None else f"{scorer}.{key}"
    if isinstance(value, str):
        value = GRADES.get(value, _WORDS.get(value.lower(), value))
    return as_score(value, where)


def _scorer(scored: Mapping[str, Any], where: str, options: ImportOptions) -> tuple[str, str | None]:
    if options.metric is None:
        if len(scored) > 1:
            raise UsageError(f"{where}: which scorer is the score? Give --metric, one of {', '.join(scored)}")
        return next(iter(scored)), None
    if options.metric in scored:
        return options.metric, None
    scorer, _, key = options.metric.partition(".")
    if scorer not in scored:
        raise UsageError(f"{where}: there is no scorer {options.metric!r}; there are: {', '.join(scored)}")
    return scorer, key
