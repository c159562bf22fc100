"""Takes an item's texts out of a run for good, and leaves everything that a verdict is computed from.

Prompt, choices, target and document of the item, every answer to it with its token ids, and the workers' logs. What
stays: its id, digest, place, scores and log-probabilities, so comparing again gives the same bytes. The reports still
show the texts until they are written again, which is the caller's to do. The erased ids are put down first: a run that
goes on, or an erasure that was cut short and is given again, does not bring the texts back.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from harness.errors import StoreError, UsageError
from harness.records import Item, canonical_json, item_from_json, scored_from_json, to_json
from harness.store.divergence import remove_traces
from harness.store.files import atomic_write, read_lines, sealed
from harness.store.privacy import TextPolicy
from harness.store.rundir import ITEMS, RunDir, Shard, place_of

__all__ = ["Erased", "describe_erasure", "erase", "select_items"]


_SHOWN = 10


@dataclass(frozen=True, slots=True)
class Erased:
    """What an erasure removed."""

    items: tuple[str, ...]
    """Ids of the items whose texts are gone."""
    stored_items: int
    """Of these, items whose own texts had been there until now."""
    answers: int
    """Answers, over all variants, whose text or token ids had been there until now."""
    logs: int
    """Workers' logs that were emptied."""
    traces: int
    """Files of the baseline's traces that were deleted: all there were, a run that goes on makes those it needs."""
    left_overs: int
    """Files that a killed process had left half written, removed."""
    relatives: int
    """Items left alone that share a source with an erased one, and so perhaps a part of its text."""


def select_items(directory: RunDir, ids: Sequence[str], clusters: Sequence[str]) -> list[Item]:
    """Return the items named by id or by source. Raises UsageError for a name that is not in the run, StoreError."""
    items = directory.items()
    for what, names, known in (
        ("an item", ids, {item.id for item in items}),
        ("a cluster", clusters, {item.cluster for item in items}),
    ):
        unknown = [name for name in names if name not in known]
        if unknown:
            place = directory.path / "items"
            raise UsageError(
                f"{unknown[0]!r} is not {what} of this run, so nothing was erased: see {place} for their names"
            )
    return [item for item in items if item.id in set(ids) or item.cluster in set(clusters)]


def erase(directory: RunDir, items: Sequence[Item]) -> Erased:
    """Take the items' texts out of items, answers and logs. Raises StoreError, also while a process runs it."""
    ids = frozenset(item.id for item in items)
    with contextlib.ExitStack() as stack:
        for shard in _shards(directory):
            stack.enter_context(directory.locked(shard))
        every = sorted(ids | directory.erased())
        atomic_write(directory.path / "erased.json", json.dumps({"items": every}, indent=1, ensure_ascii=False) + "\n")
        text_policy = TextPolicy("full", ids)
        shared = {item.cluster for item in items}
        everything = directory.items()
        return Erased(
            items=tuple(item.id for item in items),
            stored_items=_rewrite_items(directory, text_policy),
            answers=sum(_rewrite_answers(directory, name, text_policy) for name in _variants(directory)),
            logs=_empty_logs(directory),
            traces=remove_traces(directory),
            left_overs=_remove_left_overs(directory),
            relatives=sum(item.cluster in shared and item.id not in ids for item in everything),
        )


def describe_erasure(done: Erased) -> list[str]:
    """Return what was removed, a sentence a line."""
    shown = ", ".join(done.items[:_SHOWN]) + (", ..." if len(done.items) > _SHOWN else "")
    traces = f"{done.traces} trace(s) deleted, " if done.traces else ""
    files = f"{done.logs} log(s) emptied, {traces}{done.left_overs} half-written file(s) deleted"
    lines = [
        f"erased {len(done.items)} item(s): {shown}",
        f"removed: the texts of {done.stored_items} item(s) and {done.answers} answer(s); {files}",
        "kept: ids, digests, scores and log-probabilities; the verdict can be computed again as before",
    ]
    lines.append("not reached: copies outside of the run, such as a step summary or a comment that was posted")
    if done.relatives:
        lines.append(
            f"left alone: {done.relatives} item(s) that share a source with them, and perhaps some text: "
            "--cluster erases those too"
        )
    return lines


def _shards(directory: RunDir) -> list[Shard]:
    count = int(directory.plan()["shards"])
    return [Shard(index + 1, count) for index in range(count)]


def _variants(directory: RunDir) -> list[str]:
    """Return every folder of answers, whatever variant it is."""
    others = {"items", "shards"}
    return sorted(path.name for path in directory.path.iterdir() if path.is_dir() and path.name not in others)


def _rewrite_items(directory: RunDir, text_policy: TextPolicy) -> int:
    """Take texts out of the items files; what was asked, and each item's place, stay."""

    def stored(line: dict[str, Any]) -> dict[str, Any]:
        place = place_of(line)
        item = item_from_json(line)
        kept = text_policy.item(item) if item.id in text_policy.erased else item
        return {**(line if kept == item else to_json(kept)), **place}

    return sum(_rewrite(directory.items_path(name), ITEMS, stored) for name in directory.plan()["slices"])


def _rewrite_answers(directory: RunDir, variant: str, text_policy: TextPolicy) -> int:
    def stored(line: dict[str, Any]) -> dict[str, Any]:
        answer = scored_from_json(line)
        kept = text_policy.scored(answer)
        return line if kept == answer else to_json(kept)

    paths = [directory.results_path(variant, *one) for one in product(directory.plan()["slices"], _shards(directory))]
    return sum(_rewrite(path, variant, stored) for path in paths if path.is_file())


def _rewrite(path: Path, folder: str, stored: Callable[[dict[str, Any]], dict[str, Any]]) -> int:
    """Replace the lines of a file from which something is to go, and drop a line cut short; count the lines changed.

    Every other line stays as it is, byte for byte.
    """
    before = path.read_bytes()
    lines = before.splitlines(keepends=True)
    changed = 0
    for at, line in enumerate(read_lines(path, folder)):
        after = stored(dict(line))
        if canonical_json(after) != canonical_json(line):
            lines[at] = sealed(after, folder).encode()
            changed += 1
    text = b"".join(line for line in lines if line.endswith(b"\n"))
    if text != before:
        atomic_write(path, text.decode())
    return changed


def _empty_logs(directory: RunDir) -> int:
    def empty(path: Path) -> None:
        path.write_bytes(b"")

    return _each((path for path in directory.path.glob("*/worker-*.log") if path.stat().st_size), empty)


def _remove_left_overs(directory: RunDir) -> int:
    found = [*directory.path.glob(".*"), *directory.path.glob("*/.*")]
    return _each((path for path in found if path.is_file()), Path.unlink)


def _each(paths: Iterable[Path], do: Callable[[Path], object]) -> int:
    count = 0
    for path in list(paths):
        try:
            do(path)
        except OSError as error:
            raise StoreError(f"{path}: cannot be erased: {error.strerror}; give the same command again") from error
        count += 1
    return count
