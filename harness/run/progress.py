"""How far a run is, for the person who waits: a bar with an ETA on a terminal, a line now and then in a log.

Knows amounts and names only. Work is counted in tokens (prompt plus longest answer), because items differ in size.
"""

from __future__ import annotations

import time
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

__all__ = ["LogProgress", "QuietProgress", "Reporter", "TerminalProgress", "reporter"]


class Reporter(Protocol):
    """What the runner tells of its progress."""

    def __enter__(self) -> Self:
        """Start showing."""
        ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop showing."""
        ...

    def expect(self, tokens: int) -> None:
        """Say how much work the whole run has, or has now that some was skipped."""
        ...

    def doing(self, variant: str, what: str) -> None:
        """Say which variant is doing what."""
        ...

    def advance(self, tokens: int) -> None:
        """Say that work was done."""
        ...

    def note(self, text: str) -> None:
        """Say a sentence that stays."""
        ...


class QuietProgress:
    """Says nothing."""

    def __enter__(self) -> Self:
        """Start."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop."""

    def expect(self, tokens: int) -> None:
        """Take note of nothing."""

    def doing(self, variant: str, what: str) -> None:
        """Take note of nothing."""

    def advance(self, tokens: int) -> None:
        """Take note of nothing."""

    def note(self, text: str) -> None:
        """Take note of nothing."""


class TerminalProgress(QuietProgress):
    """A bar with an ETA."""

    def __init__(self, console: Console) -> None:
        self._bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=None),
            TextColumn("{task.percentage:>3.0f}%", markup=False),
            TimeElapsedColumn(),
            TextColumn("ETA", markup=False),
            TimeRemainingColumn(),
            console=console,
            speed_estimate_period=120,
        )
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        """Show the bar."""
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the bar as it stands."""
        self._bar.stop()

    def expect(self, tokens: int) -> None:
        """Set the length of the bar."""
        if self._task is None:
            self._task = self._bar.add_task("starting", total=tokens)
        self._bar.update(self._task, total=tokens)

    def doing(self, variant: str, what: str) -> None:
        """Set the text before the bar."""
        if self._task is not None:
            self._bar.update(self._task, description=f"{variant[:16]}: {what[:24]}", refresh=True)

    def advance(self, tokens: int) -> None:
        """Move the bar."""
        if self._task is not None:
            self._bar.update(self._task, advance=tokens)

    def note(self, text: str) -> None:
        """Print above the bar."""
        self._bar.console.print(text, markup=False, highlight=False)


class LogProgress(QuietProgress):
    """A line when something begins, and at most one every `every` seconds."""

    def __init__(self, console: Console, every: float = 10.0) -> None:
        self._console, self._every = console, every
        self._total = self._done = 0
        self._started = self._last = time.monotonic()
        self._now = ""

    def expect(self, tokens: int) -> None:
        """Remember the total."""
        self._total = tokens

    def doing(self, variant: str, what: str) -> None:
        """Remember what is done, and say it when the variant changes."""
        before, self._now = self._now, f"{variant}: {what}"
        if before.split(":")[0] != variant:
            self._say()

    def advance(self, tokens: int) -> None:
        """Count, and speak when it is time."""
        self._done += tokens
        if time.monotonic() - self._last >= self._every:
            self._say()

    def note(self, text: str) -> None:
        """Print a line."""
        self._console.print(text, markup=False, highlight=False)

    def _say(self) -> None:
        self._last = time.monotonic()
        share = self._done / self._total if self._total else 0.0
        spent = self._last - self._started
        eta = f"ETA {_clock(spent * (1 - share) / share)}" if share > 0 else "ETA unknown"
        self.note(f"{share:4.0%}  {self._now}  elapsed {_clock(spent)}  {eta}")


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def reporter(console: Console, *, quiet: bool) -> Reporter:
    """Choose the bar on a terminal, lines in a log, silence when asked for."""
    if quiet:
        return QuietProgress()
    return TerminalProgress(console) if console.is_terminal else LogProgress(console)
