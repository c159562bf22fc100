"""How far a run is, in tokens, for the person who waits: a bar on a terminal, a line now and then in a log."""

import time
from datetime import timedelta
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn


class Reporter:
    """Counts what is done and shows it on a console: by a bar on a terminal, else by a line `every` so many seconds."""

    def __init__(self, console: Console | None = None, every: float = 10.0) -> None:
        self._console, self._every = console, every
        self._total = self._skipped = self._done = self._items = 0
        self._started = self._last = time.monotonic()
        self._now = ""
        texts = ("{task.description}", "{task.percentage:>3.0f}%", "{task.fields[pace]}")
        what, share, pace = (TextColumn(one, markup=False) for one in texts)
        columns = (what, BarColumn(bar_width=None), share, TimeElapsedColumn(), pace)
        self._bar = Progress(*columns, console=console, disable=console is None or not console.is_terminal)
        self._task = self._bar.add_task("starting", total=None, pace="")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def expect(self, tokens: int) -> None:
        """Set how much work the whole run has, and start the clock."""
        self._total, self._started = tokens, time.monotonic()
        self._bar.update(self._task, total=tokens)

    def doing(self, variant: str, what: str) -> None:
        """Set which variant is doing what."""
        before, self._now = self._now, f"{variant}: {what}"
        self._bar.update(self._task, description=f"{variant[:16]}: {what[:24]}", refresh=True)
        if before.split(":")[0] != variant:
            self._log()

    def skip(self, tokens: int) -> None:
        """Count work that this process need not do, done before or decided; the ETA does not come from it."""
        self._skipped += tokens
        self._show()

    def advance(self, tokens: int, items: int = 0) -> None:
        """Count work that was done now, and the items that were answered by it."""
        self._done += tokens
        self._items += items
        self._show()

    def note(self, text: str) -> None:
        """Print a sentence that stays."""
        if self._console is not None:
            self._console.print(text, markup=False, highlight=False, soft_wrap=not self._console.is_terminal)

    def _show(self) -> None:
        self._bar.update(self._task, completed=self._skipped + self._done, pace=self._pace())
        if time.monotonic() - self._last >= self._every:
            self._log()

    def _pace(self) -> str:
        """The ETA from what this process did, and its items per second."""
        spent = time.monotonic() - self._started
        if not self._done or spent <= 0:
            return "ETA unknown"
        left = max(0, self._total - self._skipped - self._done)
        return f"ETA {timedelta(seconds=round(spent * left / self._done))}  {self._items / spent:.2g} items/s"

    def _log(self) -> None:
        self._last = time.monotonic()
        if self._bar.disable:
            share = (self._skipped + self._done) / self._total if self._total else 0.0
            elapsed = timedelta(seconds=round(self._last - self._started))
            self.note(f"{share:4.0%}  {self._now}  elapsed {elapsed}  {self._pace()}")
