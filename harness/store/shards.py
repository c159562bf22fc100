"""How far the shards of a run are, from its directory alone: no scheduler is asked."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from harness.errors import StoreError
from harness.records import Timing
from harness.store.files import MOST_SHARDS, read_lines
from harness.store.locks import alive, file_clock
from harness.store.record import recorded_experiment, variant_names
from harness.store.rundir import RunDir, Shard

__all__ = ["ShardStatus", "shard_status"]


@dataclass(frozen=True, slots=True)
class ShardStatus:
    """What is known of a shard."""

    shard: str
    """As in ``2/4``."""
    state: Literal["complete", "running", "waiting", "stopped", "not started"]
    """``waiting``: for other shards, between looks. ``stopped``: begun, and no process shows signs of life."""
    node: str
    """The machine that works on it; empty if none does."""
    done: float
    """Share of its planned tokens that is answered, over all variants."""
    items_per_second: float | None
    """While units were answered; None before the first."""
    eta_seconds: float | None
    """Time that the rest takes at this rate; None if that is not known."""
    log: str
    """Its log, if `quantcliff submit` started it, else the last that one of its models wrote."""
    last_line: str
    """The last line of the log."""


def shard_status(directory: RunDir) -> list[ShardStatus]:
    """Look at every shard of a run, also of one that was submitted and has not begun. Raises StoreError."""
    submitted = directory.path / "shards" / "submitted"
    if not directory.exists() and submitted.is_file():
        count, planned, names = _submitted(submitted), {}, []
    else:
        plan = directory.plan()
        count, planned = int(plan["shards"]), _planned(directory, plan)
        names = variant_names(recorded_experiment(directory, plan))
    now = file_clock(directory.path / "shards")
    shards = [Shard(index + 1, count) for index in range(count)]
    return [_status(directory, shard, planned.get(str(shard), {}), names, now) for shard in shards]


def _submitted(path: Path) -> int:
    """Read how many shards were submitted. Raises StoreError."""
    text = path.read_text(encoding="utf-8", errors="replace").strip()
    if not (text.isascii() and text.isdigit() and 1 <= int(text[:9]) <= MOST_SHARDS):
        raise StoreError(f"{path}: {text!r:.40} is no number of shards: give the `quantcliff submit` command again")
    return int(text)


def _planned(directory: RunDir, plan: dict[str, Any]) -> dict[str, dict[int, int]]:
    """Return the planned tokens of each unit, by shard."""
    samples = int(plan["config"].get("sampling", {}).get("samples", 1))
    found: dict[str, dict[int, int]] = defaultdict(lambda: defaultdict(int))
    for name in plan["slices"]:
        with contextlib.suppress(StoreError):  # not written yet
            for item, place in directory.placed_items(name):
                cost = item.prompt_tokens + item.max_tokens * samples
                found[str(Shard.of(place["unit"], plan))][place["unit"]] += cost
    return found


def _status(directory: RunDir, shard: Shard, tokens: dict[int, int], variants: list[str], now: float) -> ShardStatus:
    folder = directory.path / "shards"
    files = [directory.path / name / f"timings-{shard}.jsonl" for name in variants]
    every = [one for path in files for one in _timings(path).values()]
    answered = sum(tokens.get(one.unit, 0) for one in every)
    expected = sum(tokens.values()) * len(variants)
    seconds = sum(one.seconds for one in every)
    node, complete = alive(folder / f"{shard}.lease", now), (folder / f"{shard}.json").is_file()
    log = _log(directory, shard)
    state: Any = "stopped" if log or every or (folder / f"{shard}.lock").exists() else "not started"
    if node:
        state = "waiting" if (folder / f"{shard}.waiting").exists() else "running"
    return ShardStatus(
        shard=f"{shard.index}/{shard.count}",
        state="complete" if complete and not node else state,
        node=node,
        done=1.0 if complete else answered / expected if expected else 0.0,
        items_per_second=sum(one.items for one in every) / seconds if seconds else None,
        eta_seconds=0.0 if complete else (expected - answered) * seconds / answered if answered else None,
        log=str(log or ""),
        last_line=_last_line(log) if log else "",
    )


def _timings(path: Path) -> dict[int, Timing]:
    return {line["unit"]: Timing(**line) for line in read_lines(path)} if path.is_file() else {}


def _log(directory: RunDir, shard: Shard) -> Path | None:
    own = directory.path / "shards" / f"{shard}.log"
    if own.is_file():
        return own
    logs = [path for path in directory.path.glob(f"*/worker-{shard}.log") if path.stat().st_size]
    return max(logs, key=lambda path: path.stat().st_mtime, default=None)


def _last_line(path: Path) -> str:
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    return next((line.strip()[:300] for line in reversed(lines) if line.strip()), "")
