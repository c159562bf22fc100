"""Takes an item's texts out of a run for good, and leaves everything that a verdict is computed from.

Prompt, choices, target and document of the item, every answer to it with its token ids, and the workers' logs. What
stays: its id, digest, place, scores and log-probabilities, so comparing again gives the same bytes. The reports still
show the texts until they are written again, which is the caller's to do. The erased ids are put down first: a run that
goes on, or an erasure that was cut short and is given again, does not bring the texts back.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.errors import StoreError, UsageError
from harness.records import Item, Scored, canonical_json, to_json
from harness.store.privacy import Keeper
from harness.store.rundir import RunDir, Shard, atomic_write
from harness.store.traces import remove_traces

__all__ = ["Erased", "chosen", "erase", "told"]


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


def chosen(directory: RunDir, ids: Sequence[str], clusters: Sequence[str]) -> list[Item]:
    """Give the items named by id or by source. Raises UsageError for a name that is not in the run, StoreError."""
    items = directory.items()
    for what, names, known in (
        ("item", ids, {item.id for item in items}),
        ("cluster", clusters, {item.cluster for item in items}),
    ):
        unknown = [name for name in names if name not in known]
        if unknown:
            place = directory.path / "items"
            raise UsageError(
                f"{unknown[0]!r} is no {what} of this run, nothing was erased: their names stand in {place}"
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
        keeper = Keeper("full", ids)
        shared = {item.cluster for item in items}
        everything = directory.items()
        return Erased(
            items=tuple(item.id for item in items),
            stored_items=_rewrite_items(directory, everything, keeper),
            answers=sum(_rewrite_answers(directory, name, keeper) for name in _variants(directory)),
            logs=_empty_logs(directory),
            traces=remove_traces(directory),
            left_overs=_remove_left_overs(directory),
            relatives=sum(item.cluster in shared and item.id not in ids for item in everything),
        )


def told(done: Erased) -> list[str]:
    """Say what was removed, a sentence a line."""
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
    """Give every folder of answers, whatever variant it is."""
    others = {"items", "shards"}
    return sorted(path.name for path in directory.path.iterdir() if path.is_dir() and path.name not in others)


def _rewrite_items(directory: RunDir, items: Collection[Item], keeper: Keeper) -> int:
    changed = 0
    for name in directory.plan()["slices"]:
        own = [item for item in items if item.slice == name]
        kept = [keeper.item(item) if item.id in keeper.erased else item for item in own]
        changed += _replace(directory.path / "items" / f"{name}.jsonl", own, kept)
    return changed


def _rewrite_answers(directory: RunDir, variant: str, keeper: Keeper) -> int:
    changed = 0
    for name in directory.plan()["slices"]:
        for shard in _shards(directory):
            own = directory.results(variant, name, shard)
            path = directory.results_path(variant, name, shard)
            changed += _replace(path, own, [keeper.scored(one) for one in own])
    return changed


def _replace(path: Path, before: Sequence[Item | Scored], after: Sequence[Item | Scored]) -> int:
    """Write a file of lines anew where anything in it is to go, a line cut short included; count the changed lines."""
    text = "".join(canonical_json(to_json(one)) + "\n" for one in after)
    if path.is_file() and path.read_bytes() != text.encode():
        atomic_write(path, text)
    return sum(one != other for one, other in zip(before, after, strict=True))


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
