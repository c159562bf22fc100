"""The run directory: what is in it, how it is written so that a kill at any instant loses at most one work unit.

::

    results/<run>/
        run.json                          the config and what it was planned into; written first
        items/<slice>.jsonl               every item, as asked
        <variant>/variant.json            which weights, which method, what the loaded model proved
        <variant>/<slice>-<i>of<n>.jsonl  one line per response, appended and flushed as it comes
        <variant>/timings-<i>of<n>.jsonl  what each work unit cost; kept apart so that answers compare byte by byte
        <variant>/failure-<i>of<n>.json   why the variant could not be judged, where it could not
        erased.json                       the items whose texts were taken out by `quantcliff erase`
        shards/<i>of<n>.json              written when a shard has all its answers
        manifest.json                     written last: the run is complete

A line belongs to a work unit. A unit counts only when all its responses are there; what a kill left of an unfinished
unit is dropped and answered again. This module knows nothing of models or statistics.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from harness.errors import StoreError
from harness.records import Item, Scored, Timing, canonical_json, item_from_json, scored_from_json, to_json

__all__ = ["Appender", "RunDir", "Shard", "atomic_write", "read_json", "read_lines"]


class Shard:
    """Part `index` (from 1) of `count` of a run's work units."""

    def __init__(self, index: int = 1, count: int = 1) -> None:
        if not 1 <= index <= count:
            msg = f"shard {index}/{count} does not exist: write i/n with i from 1 to n"
            raise ValueError(msg)
        self.index, self.count = index, count

    def __str__(self) -> str:
        """Give the form used in file names."""
        return f"{self.index}of{self.count}"

    def has(self, unit: int) -> bool:
        """Whether a work unit is this shard's."""
        return unit % self.count == self.index - 1


@contextlib.contextmanager
def _explained(path: Path, doing: str) -> Iterator[None]:
    """Turn an operating system error into a sentence with a remedy."""
    try:
        yield
    except OSError as error:
        remedy = {
            errno.ENOSPC: "the disk is full: free some space and give the same command again; finished work is kept",
            errno.EDQUOT: "your quota is used up: free some space and give the same command again; nothing is lost",
            errno.EROFS: "the file system is read-only: give another place with --output",
            errno.EACCES: "permission denied: give a directory you may write with --output",
            errno.EEXIST: "a part of the path is a file: give another place with --output",
            errno.ENOTDIR: "a part of the path is a file: give another place with --output",
        }.get(error.errno or 0, error.strerror or str(error))
        msg = f"{path}: cannot be {doing}: {remedy}"
        raise StoreError(msg) from error


def atomic_write(path: Path, text: str) -> None:
    """Write a whole file so that a reader sees the old one or the new one, never a part. Raises StoreError."""
    with _explained(path, "written"):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as stream:
                stream.write(text)
                stream.flush()
                os.fsync(stream.fileno())
            Path(name).chmod(0o644)
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object. Raises StoreError where it is missing or not one."""
    with _explained(path, "read"):
        text = path.read_text(encoding="utf-8")
    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        msg = f"{path}: is not JSON (line {error.lineno}): it was changed by hand; remove the run and start again"
        raise StoreError(msg) from error
    if not isinstance(data, dict):
        msg = f"{path}: holds a {type(data).__name__}, not an object"
        raise StoreError(msg)
    return data


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Read JSON lines; a last line without its newline (a write cut short) is left out. Raises StoreError."""
    with _explained(path, "read"):
        data = path.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    lines = []
    for number, line in enumerate(whole.split(b"\n")[:-1], start=1):
        try:
            lines.append(json.loads(line))
        except ValueError as error:
            msg = f"{path}: line {number} is damaged: remove it and give the same command again to answer it anew"
            raise StoreError(msg) from error
    return lines


class Appender:
    """Appends JSON lines to one file, each flushed to the operating system as it comes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with _explained(path, "written"):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._stream = path.open("ab", buffering=0)

    def append(self, record: Mapping[str, Any]) -> None:
        """Write one line whole. Raises StoreError, after taking back a part of a line."""
        line = (canonical_json(record) + "\n").encode()
        with _explained(self.path, "written"):
            start = self._stream.seek(0, os.SEEK_END)
            try:
                done = 0
                while done < len(line):
                    done += self._stream.write(line[done:])
            except OSError:
                with contextlib.suppress(OSError):
                    self._stream.truncate(start)
                raise

    def sync(self) -> None:
        """Have the disk hold what was appended. Raises StoreError."""
        with _explained(self.path, "written"):
            os.fsync(self._stream.fileno())

    def close(self) -> None:
        """Close the file."""
        self._stream.close()


class RunDir:
    """One run's directory; every path and every read and write of it is here."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def exists(self) -> bool:
        """Whether a run was planned here."""
        return (self.path / "run.json").is_file()

    def begin(self, plan: Mapping[str, Any], items: Iterable[Item], shard: Shard) -> None:
        """Write the plan, or find the same plan there. Raises StoreError where another config's results lie there."""
        recorded = {**plan, "shards": shard.count}
        if self.exists():
            self._same_plan(recorded)
            return
        if self.path.is_dir() and any(self.path.iterdir()):
            self._only_locks()
        by_slice: dict[str, list[str]] = {}
        for item in items:
            by_slice.setdefault(item.slice, []).append(canonical_json(to_json(item)))
        for name, lines in by_slice.items():
            atomic_write(self.path / "items" / f"{name}.jsonl", "\n".join(lines) + "\n")
        atomic_write(self.path / "run.json", json.dumps(recorded, indent=1, sort_keys=True, ensure_ascii=False) + "\n")

    def _only_locks(self) -> None:
        strangers = sorted(p.name for p in self.path.iterdir() if p.name not in {"shards", "items"})
        if strangers:
            msg = (
                f"{self.path}: holds {', '.join(strangers[:3])} but no run.json: it is not a run; give another --output"
            )
            raise StoreError(msg)

    def _same_plan(self, plan: Mapping[str, Any]) -> None:
        there = read_json(self.path / "run.json")
        if there.get("shards") != plan["shards"]:
            msg = (
                f"{self.path}: its work is split into {there.get('shards')} shard(s), not {plan['shards']}: "
                f"use --shard i/{there.get('shards')}, or another --output"
            )
            raise StoreError(msg)
        changed = sorted(key for key in plan if canonical_json(there.get(key)) != canonical_json(plan[key]))
        if changed:
            what = _difference(there, plan, changed)
            msg = (
                f"{self.path}: holds the results of another config ({what}): give another --output or name, "
                "or remove that directory"
            )
            raise StoreError(msg)

    def plan(self) -> dict[str, Any]:
        """Read what was planned. Raises StoreError where nothing was."""
        if not self.exists():
            hint = "it is not a run directory" if self.path.is_dir() else "there is no such directory"
            msg = f"{self.path}: {hint}: give the directory that `quantcliff run` printed"
            raise StoreError(msg)
        return read_json(self.path / "run.json")

    def items(self) -> list[Item]:
        """Read every item, slice by slice in the config's order. Raises StoreError."""
        names = self.plan()["slices"]
        found: list[Item] = []
        for name in names:
            path = self.path / "items" / f"{name}.jsonl"
            found += [_parsed(item_from_json, line, path) for line in read_lines(path)]
        return found

    def erased(self) -> frozenset[str]:
        """Read which items' texts were erased, by id. Raises StoreError."""
        path = self.path / "erased.json"
        return frozenset(read_json(path)["items"]) if path.is_file() else frozenset()

    def results_path(self, variant: str, slice_name: str, shard: Shard) -> Path:
        """Where a variant's answers to a slice lie."""
        return self.path / variant / f"{slice_name}-{shard}.jsonl"

    def results(self, variant: str, slice_name: str, shard: Shard) -> list[Scored]:
        """Read a variant's answers to a slice; none where the file is not there. Raises StoreError."""
        path = self.results_path(variant, slice_name, shard)
        return [_parsed(scored_from_json, line, path) for line in read_lines(path)] if path.is_file() else []

    def all_results(self, variant: str) -> list[Scored]:
        """Read a variant's answers from every shard. Raises StoreError."""
        plan = self.plan()
        shards = [Shard(i + 1, plan["shards"]) for i in range(plan["shards"])]
        return [one for name in plan["slices"] for shard in shards for one in self.results(variant, name, shard)]

    def keep_units(
        self, variant: str, slice_name: str, shard: Shard, complete: Callable[[Scored], bool]
    ) -> list[Scored]:
        """Drop from a results file what an unfinished unit left, and a line cut short; give what stays."""
        path = self.results_path(variant, slice_name, shard)
        if not path.is_file():
            return []
        kept = [one for one in self.results(variant, slice_name, shard) if complete(one)]
        text = "".join(canonical_json(to_json(one)) + "\n" for one in kept)
        if text.encode() != path.read_bytes():
            atomic_write(path, text)
        return kept

    def timings(self, variant: str) -> list[Timing]:
        """Read what each unit cost, the last measurement of each."""
        latest: dict[int, Timing] = {}
        for path in sorted((self.path / variant).glob("timings-*.jsonl")):
            for line in read_lines(path):
                latest[line["unit"]] = Timing(**line)
        return [latest[unit] for unit in sorted(latest)]

    def record(self, variant: str, name: str, data: Mapping[str, Any]) -> None:
        """Write one of a variant's small JSON files."""
        atomic_write(self.path / variant / name, json.dumps(data, indent=1, sort_keys=True, ensure_ascii=False) + "\n")

    def recorded(self, variant: str, name: str) -> dict[str, Any] | None:
        """Read one of a variant's small JSON files; None where it is not there."""
        path = self.path / variant / name
        return read_json(path) if path.is_file() else None

    def failures(self, variant: str) -> list[str]:
        """Read why a variant could not be judged; empty where it could."""
        return [str(read_json(path)["message"]) for path in sorted((self.path / variant).glob("failure-*.json"))]

    @contextlib.contextmanager
    def locked(self, shard: Shard) -> Iterator[None]:
        """Hold a shard of the run for this process. Raises StoreError where another process holds it."""
        path = self.path / "shards" / f"{shard}.lock"
        with _explained(path, "written"):
            path.parent.mkdir(parents=True, exist_ok=True)
            stream = path.open("a+")
        with stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                msg = (
                    f"{self.path}: another process is working on shard {shard} of this run: wait for it, "
                    "or give another --output"
                )
                raise StoreError(msg) from error
            yield


def _parsed(reader: Callable[[Mapping[str, Any]], Any], line: Mapping[str, Any], path: Path) -> Any:
    try:
        return reader(line)
    except (KeyError, TypeError) as error:
        msg = f"{path}: a line is not one of quantcliff {'items' if 'items' in path.parts else 'results'}: {error}"
        raise StoreError(msg) from error


def _difference(there: Mapping[str, Any], now: Mapping[str, Any], changed: list[str]) -> str:
    """Name what differs between two plans, down to the config's key where it is the config."""
    if "config" not in changed:
        return f"{', '.join(changed)} changed"
    before, after = dict(there.get("config") or {}), dict(now["config"])
    keys = sorted(key for key in {*before, *after} if before.get(key) != after.get(key))
    return f"{', '.join(keys)} changed"
