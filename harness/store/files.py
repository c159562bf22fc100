"""The results files of one variant while they are written: answers by slice, and what each unit cost."""

from __future__ import annotations

from harness.records import Scored, Timing, to_json
from harness.store.rundir import Appender, RunDir, Shard

__all__ = ["AnswerFiles"]


class AnswerFiles:
    """The open results files of one variant."""

    def __init__(self, directory: RunDir, variant: str, shard: Shard) -> None:
        self._directory, self._variant, self._shard = directory, variant, shard
        self._answers: dict[str, Appender] = {}
        self._timings = Appender(directory.path / variant / f"timings-{shard}.jsonl")

    def append(self, slice_name: str, scored: Scored) -> None:
        """Write one answer."""
        if slice_name not in self._answers:
            path = self._directory.results_path(self._variant, slice_name, self._shard)
            self._answers[slice_name] = Appender(path)
        self._answers[slice_name].append(to_json(scored))

    def finish(self, slice_name: str, timing: Timing) -> None:
        """Have the disk hold a unit's answers."""
        if slice_name in self._answers:
            self._answers[slice_name].sync()
        self._timings.append(to_json(timing))

    def close(self) -> None:
        """Close them all."""
        for appender in (*self._answers.values(), self._timings):
            appender.close()
