"""How far the shards of a run are, and how they wait for each other: by its directory alone, no scheduler is asked."""

import contextlib
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from harness.errors import Incomplete, StoreError
from harness.store.files import MOST_SHARDS, atomic_write, read_json, remedy
from harness.store.locks import alive, file_clock
from harness.store.record import recorded_experiment, variant_names
from harness.store.rundir import RunDir, Shard, timings_in

POLL_SECONDS = 1.0
PATIENCE_SECONDS = 600.0  # how long to wait for shards on which no process works, which may yet be started


class ShardStatus(NamedTuple):
    """What is known of a shard."""

    shard: str  # as in 2/4
    # Waiting for other shards, between looks; stopped: begun, and no process shows signs of life; damaged: its record
    # cannot be read, or is that of another run
    state: Literal["complete", "running", "waiting", "stopped", "damaged", "not started"]
    node: str  # the machine that works on it; empty if none does
    done: float  # share of its planned tokens that is answered, over all variants
    items_per_second: float | None  # while units were answered; None before the first
    eta_seconds: float | None  # time that the rest takes at this rate; None if that is not known
    log: str  # its log, if `quantcliff submit` started it, else the last that one of its models wrote
    last_line: str  # of the log; what is wrong and what to do, if the shard is damaged


def shard_status(directory: RunDir) -> list[ShardStatus]:
    """Look at every shard of a run, also of one that was submitted and has not begun. Raises StoreError."""
    submitted, now = directory.path / "shards" / "submitted", file_clock(directory.path / "shards")
    if not directory.exists() and submitted.is_file():
        text = submitted.read_text(encoding="utf-8", errors="replace").strip()
        if not (text.isascii() and text.isdigit() and 1 <= int(text[:9]) <= MOST_SHARDS):
            again = "is no number of shards: give the `quantcliff submit` command again"
            raise StoreError(f"{submitted}: {text!r:.40} {again}")
        return [_status(directory, one, {}, [], now, {}) for one in Shard.all(int(text))]
    plan = directory.plan()
    planned, names = _planned(directory, plan), variant_names(recorded_experiment(directory, plan))
    return [_status(directory, one, planned.get(str(one), {}), names, now, plan) for one in Shard.all(plan["shards"])]


def _planned(directory: RunDir, plan: dict[str, Any]) -> dict[str, dict[int, int]]:
    """Return the planned tokens of each unit, by shard."""
    samples = int(plan["config"].get("sampling", {}).get("samples", 1))
    found: dict[str, dict[int, int]] = defaultdict(lambda: defaultdict(int))
    for name in plan["slices"]:
        # Not written yet, or not of this plan, which judging refuses.
        with contextlib.suppress(StoreError, IndexError, TypeError, ValueError):
            for item, place in directory.placed_items(name):
                if (unit := place.get("unit")) is not None:  # an older run has none
                    found[str(Shard.of(unit, plan))][unit] += item.prompt_tokens + item.max_tokens * samples
    return found


def _status(
    directory: RunDir, shard: Shard, tokens: dict[int, int], names: list[str], now: float, plan: dict[str, Any]
) -> ShardStatus:
    folder, files = directory.path / "shards", [directory.path / name / f"timings-{shard}.jsonl" for name in names]
    every = [one for path in files if path.is_file() for one in timings_in(path).values()]
    answered, expected = sum(tokens.get(one.unit, 0) for one in every), sum(tokens.values()) * len(names)
    seconds = sum(one.seconds for one in every)
    node, log = alive(folder / f"{shard}.lease", now), _log(directory, shard)
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log else []
    damage = damage_of(folder / f"{shard}.json", plan)
    state: Any = "stopped" if log or every or (folder / f"{shard}.lock").exists() else "not started"
    if node:
        state = "waiting" if (folder / f"{shard}.waiting").exists() else "running"
    elif damage is not None:
        state = "damaged" if damage else "complete"
    done = 1.0 if damage == "" else answered / expected if expected else 0.0
    rate = sum(one.items for one in every) / seconds if seconds else None
    eta = 0.0 if damage == "" else (expected - answered) * seconds / answered if answered else None
    last = damage or next((line.strip()[:300] for line in reversed(lines) if line.strip()), "")
    return ShardStatus(shard.label, state, node, done, rate, eta, str(log or ""), last)


def damage_of(path: Path, plan: Mapping[str, Any]) -> str | None:
    """Say what is wrong with the record of a complete shard; empty if nothing is, None if there is no record."""
    if not path.is_file():
        return None
    try:
        if read_json(path).get("config_digest") == plan.get("config_digest"):
            return ""
    except StoreError as error:
        return str(error)
    return f"{path}: is not the record of a shard of this run: {remedy(path)}"


def _log(directory: RunDir, shard: Shard) -> Path | None:
    own = directory.path / "shards" / f"{shard}.log"
    if own.is_file():
        return own
    logs = [path for path in directory.path.glob(f"*/worker-{shard}.log") if path.stat().st_size]
    return max(logs, key=lambda path: path.stat().st_mtime, default=None)


class Stages:
    """What one shard has done of the stages that all have to reach. note: gets a sentence for the person who waits."""

    def __init__(self, directory: RunDir, shard: Shard, note: Callable[[str], None]) -> None:
        self._directory, self._folder, self._shard, self._note = directory, directory.path / "shards", shard, note
        self._waiting = self._folder / f"{shard}.waiting"

    def restart(self) -> None:
        """Take back what was done and what failed: an earlier process may have left answers that are asked again."""
        kept, own = (".json", ".lock", ".lease", ".log"), self._folder.glob(f"{self._shard}.*")
        failed = self._directory.path.glob(f"*/failure-{self._shard}.json")
        for path in (*(one for one in own if one.suffix not in kept), *failed):
            path.unlink(missing_ok=True)

    def done(self, stage: str) -> None:
        """Say that this shard has all its answers of a stage. Raises StoreError."""
        if self._shard.count > 1:
            atomic_write(self._folder / f"{self._shard}.{stage}", "")

    def wait(self, stage: str) -> None:
        """Wait until all shards have done a stage. Raises Incomplete if nobody works on those that have not."""
        seen = time.monotonic()
        while missing := self._directory.shards_without(stage, self._shard.count) if self._shard.count > 1 else []:
            names = ", ".join(one.label for one in missing)
            if not self._waiting.exists():
                atomic_write(self._waiting, "")
                self._note(f"waiting for {stage} of shard(s) {names}")
            now = file_clock(self._folder)
            if any(alive(self._folder / f"{one}.lease", now) for one in missing):
                seen = time.monotonic()
            elif time.monotonic() - seen > PATIENCE_SECONDS:
                text = f"no process works on shard(s) {names}, which have not done {stage}"
                raise Incomplete(f"{self._folder.parent}: {text}: run them, and give the same command again")
            time.sleep(POLL_SECONDS)
        self._waiting.unlink(missing_ok=True)
