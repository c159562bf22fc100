"""Takes an item's texts out of a run for good, and leaves everything that a verdict is computed from.

The erased ids are put down first: a run that goes on, or an erasure that was cut short, does not bring texts back.
"""

import contextlib
from collections.abc import Callable, Iterable, Sequence
from itertools import product
from pathlib import Path
from typing import Any

from harness.errors import StoreError, UsageError
from harness.records import Item, item_from_json, scored_from_json, to_json
from harness.store.files import atomic_write, read_lines, sealed, write_json
from harness.store.privacy import TextPolicy
from harness.store.rundir import ITEMS, RunDir, Shard, place_of


def select_items(directory: RunDir, ids: Sequence[str], clusters: Sequence[str]) -> list[Item]:
    """Return the items named by id or by source. Raises UsageError for a name that is not in the run, StoreError."""
    items = directory.items()
    asked = (("an item", ids, {one.id for one in items}), ("a cluster", clusters, {one.cluster for one in items}))
    for what, names, known in asked:
        if unknown := [name for name in names if name not in known]:
            text = f"{unknown[0]!r} is not {what} of this run, so nothing was erased"
            raise UsageError(f"{text}: see {directory.path / ITEMS} for their names")
    return [item for item in items if item.id in set(ids) or item.cluster in set(clusters)]


def erase(directory: RunDir, items: Sequence[Item]) -> list[str]:
    """Take the items' texts out of items, answers and logs; return what was removed, a sentence a line.

    Of the baseline's traces all go: a run that goes on makes those it needs. Raises StoreError, also while a process
    works on the run.
    """
    ids, shared = frozenset(item.id for item in items), {item.cluster for item in items}
    with contextlib.ExitStack() as stack:
        plan = directory.plan()
        for shard in Shard.all(plan["shards"]):
            stack.enter_context(directory.locked(shard))
        write_json(directory.path / "erased.json", {"items": sorted(ids | directory.erased())})
        everything, root, policy = directory.items(), directory.path, TextPolicy("full", ids)
        traces = _each(root.glob("*/traces-*/*"), Path.unlink)
        _each(root.glob("*/traces-*"), Path.rmdir)
        paths = map(directory.items_path, plan["slices"])
        stored = sum(_rewrite(path, ITEMS, item_from_json, policy.item) for path in paths)
        folders = [one.name for one in root.iterdir() if one.is_dir() and one.name not in {ITEMS, "shards"}]
        places = product(sorted(folders), plan["slices"], Shard.all(plan["shards"]))
        results = ((name, directory.results_path(name, *place)) for name, *place in places)
        answers = sum(_rewrite(one, name, scored_from_json, policy.scored) for name, one in results if one.is_file())
        logs = (path for path in root.glob("*/worker-*.log") if path.stat().st_size)
        emptied = _each(logs, lambda path: path.write_bytes(b""))
        halves = _each((path for path in (*root.glob(".*"), *root.glob("*/.*")) if path.is_file()), Path.unlink)
    shown = ", ".join((*(item.id for item in items[:10]), *(["..."] if items[10:] else [])))
    files = f"{emptied} log(s) emptied, {f'{traces} trace(s) deleted, ' if traces else ''}{halves} half-written"
    said = [
        f"erased {len(items)} item(s): {shown}",
        f"removed: the texts of {stored} item(s) and {answers} answer(s); {files} file(s) deleted",
        "kept: ids, digests, scores and log-probabilities; the verdict can be computed again as before",
        "not reached: copies outside of the run, such as a step summary or a comment that was posted",
    ]
    if relatives := sum(item.cluster in shared and item.id not in ids for item in everything):
        others = f"{relatives} item(s) that share a source with them, and perhaps some text"
        said.append(f"left alone: {others}: --cluster erases those too")
    return said


def _rewrite(path: Path, folder: str, read: Callable[[dict[str, Any]], Any], stored: Callable[[Any], Any]) -> int:
    """Replace the lines that change, and drop one cut short; count those changed. Others keep every byte."""
    before, changed = path.read_bytes(), 0
    lines = before.splitlines(keepends=True)
    for at, line in enumerate(read_lines(path, folder)):
        place, record = place_of(line) if folder == ITEMS else {}, read(line)
        if (kept := stored(record)) != record:
            lines[at] = sealed({**to_json(kept), **place}, folder).encode()
            changed += 1
    text = b"".join(line for line in lines if line.endswith(b"\n"))
    if text != before:
        atomic_write(path, text.decode())
    return changed


def _each(paths: Iterable[Path], do: Callable[[Path], object]) -> int:
    """Do something to every file, and count them. Raises StoreError."""
    found = list(paths)
    for path in found:
        try:
            do(path)
        except OSError as error:
            raise StoreError(f"{path}: cannot be erased: {error.strerror}; give the same command again") from error
    return len(found)
