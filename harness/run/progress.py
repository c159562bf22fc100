"""How far a run is, for the person who waits: a bar on a terminal, a line now and then in a log.

Work is counted in tokens (prompt plus longest answer), because items differ in size. What an earlier process did, or
nobody needs any more, counts as done but not into the speed from which the ETA comes.
"""

from __future__ import annotations

import time
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

__all__ = ["LogProgress", "QuietProgress", "Reporter", "TerminalProgress", "clock", "reporter"]


class Reporter(Protocol):
    """What the runner reports its progress to."""

    def __enter__(self) -> Self:
        """Start showing."""
        ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop showing."""
        ...

    def expect(self, tokens: int) -> None:
        """Set how much work the whole run has."""
        ...

    def doing(self, variant: str, what: str) -> None:
        """Set which variant is doing what."""
        ...

    def skip(self, tokens: int) -> None:
        """Count work that this process need not do: done before, or decided."""
        ...

    def advance(self, tokens: int, items: int = 0) -> None:
        """Count work that was done now, and the items that were answered by it."""
        ...

    def note(self, text: str) -> None:
        """Print a sentence that stays."""
        ...


class QuietProgress:
    """Says nothing; the others count on it."""

    def __init__(self) -> None:
        self._total = self._skipped = self._done = self._items = 0
        self._started = time.monotonic()

    def __enter__(self) -> Self:
        """Start."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop."""

    def expect(self, tokens: int) -> None:
        """Set the total, and start the clock."""
        self._total = tokens
        self._started = time.monotonic()

    def doing(self, variant: str, what: str) -> None:
        """Do nothing."""

    def skip(self, tokens: int) -> None:
        """Count."""
        self._skipped += tokens

    def advance(self, tokens: int, items: int = 0) -> None:
        """Count."""
        self._done += tokens
        self._items += items

    def note(self, text: str) -> None:
        """Do nothing."""

    def _share(self) -> float:
        return (self._skipped + self._done) / self._total if self._total else 0.0

    def _pace(self) -> str:
        """The ETA from what this process did, and its items per second."""
        spent = time.monotonic() - self._started
        if not self._done or spent <= 0:
            return "ETA unknown"
        left = max(0, self._total - self._skipped - self._done)
        return f"ETA {clock(spent * left / self._done)}  {self._items / spent:.2g} items/s"


class TerminalProgress(QuietProgress):
    """A bar with an ETA."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=None),
            TextColumn("{task.percentage:>3.0f}%", markup=False),
            TimeElapsedColumn(),
            TextColumn("{task.fields[pace]}", markup=False),
            console=console,
        )
        self._task = self._bar.add_task("starting", total=None, pace="")

    def __enter__(self) -> Self:
        """Show the bar."""
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the bar as it is."""
        self._bar.stop()

    def expect(self, tokens: int) -> None:
        """Set the length of the bar."""
        super().expect(tokens)
        self._bar.update(self._task, total=tokens)

    def doing(self, variant: str, what: str) -> None:
        """Set the text before the bar."""
        self._bar.update(self._task, description=f"{variant[:16]}: {what[:24]}", refresh=True)

    def skip(self, tokens: int) -> None:
        """Move the bar."""
        super().skip(tokens)
        self._show()

    def advance(self, tokens: int, items: int = 0) -> None:
        """Move the bar."""
        super().advance(tokens, items)
        self._show()

    def _show(self) -> None:
        self._bar.update(self._task, completed=self._skipped + self._done, pace=self._pace())

    def note(self, text: str) -> None:
        """Print above the bar."""
        self._bar.console.print(text, markup=False, highlight=False)


class LogProgress(QuietProgress):
    """A line when a variant begins, and at most one every `every` seconds."""

    def __init__(self, console: Console, every: float = 10.0) -> None:
        super().__init__()
        self._console, self._every = console, every
        self._last = time.monotonic()
        self._now = ""

    def doing(self, variant: str, what: str) -> None:
        """Remember what is done, and print it when the variant changes."""
        before, self._now = self._now, f"{variant}: {what}"
        if before.split(":")[0] != variant:
            self._say()

    def advance(self, tokens: int, items: int = 0) -> None:
        """Count, and print when it is time."""
        super().advance(tokens, items)
        if time.monotonic() - self._last >= self._every:
            self._say()

    def note(self, text: str) -> None:
        """Print a line."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def _say(self) -> None:
        self._last = time.monotonic()
        self.note(f"{self._share():4.0%}  {self._now}  elapsed {clock(self._last - self._started)}  {self._pace()}")


def clock(seconds: float) -> str:
    """Return a time as in ``2:05:00``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def reporter(console: Console, *, quiet: bool) -> Reporter:
    """Choose the bar on a terminal, lines in a log, silence when asked for."""
    if quiet:
        return QuietProgress()
    return TerminalProgress(console) if console.is_terminal else LogProgress(console)
