"""Lets the shards of a run wait for each other, through files on their shared file system."""

from __future__ import annotations

import time

from harness.errors import Incomplete
from harness.run.progress import Reporter
from harness.store.files import atomic_write
from harness.store.locks import alive, file_clock
from harness.store.rundir import RunDir, Shard

__all__ = ["Stages"]

POLL_SECONDS = 1.0
PATIENCE_SECONDS = 600.0
"""How long to wait for shards on which no process works, which may yet be started."""


class Stages:
    """What one shard has done of the stages that all have to reach; a run of one shard waits for nothing."""

    def __init__(self, directory: RunDir, shard: Shard, progress: Reporter) -> None:
        self._folder, self._shard, self._progress = directory.path / "shards", shard, progress
        self._waiting = self._folder / f"{shard}.waiting"

    def restart(self) -> None:
        """Take back what was done: an earlier process may have left answers that are asked again."""
        for path in self._folder.glob(f"{self._shard}.*"):
            if path.suffix not in (".json", ".lock", ".lease", ".log"):
                path.unlink(missing_ok=True)

    def done(self, stage: str) -> None:
        """Say that this shard has all its answers of a stage. Raises StoreError."""
        if self._shard.count > 1:
            atomic_write(self._folder / f"{self._shard}.{stage}", "")

    def wait(self, stage: str) -> None:
        """Wait until all shards have done a stage. Raises Incomplete if nobody works on those that have not."""
        seen = time.monotonic()
        while missing := self._missing(stage):
            names = ", ".join(f"{one.index}/{one.count}" for one in missing)
            if not self._waiting.exists():
                atomic_write(self._waiting, "")
                self._progress.note(f"waiting for {stage} of shard(s) {names}")
            now = file_clock(self._folder)
            if any(alive(self._folder / f"{one}.lease", now) for one in missing):
                seen = time.monotonic()
            elif time.monotonic() - seen > PATIENCE_SECONDS:
                msg = f"{self._folder.parent}: no process works on shard(s) {names}, which have not done {stage}"
                raise Incomplete(f"{msg}: run them, and give the same command again")
            time.sleep(POLL_SECONDS)
        self._waiting.unlink(missing_ok=True)

    def _missing(self, stage: str) -> list[Shard]:
        if self._shard.count == 1:
            return []
        there = {path.name for path in self._folder.iterdir()}
        shards = [Shard(index + 1, self._shard.count) for index in range(self._shard.count)]
        return [one for one in shards if f"{one}.{stage}" not in there]
