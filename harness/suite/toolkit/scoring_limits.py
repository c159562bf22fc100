"""Limits of scoring: an answer that takes a scorer too long or too deep scores 0, and the item says so.

The time limit is an alarm of the process, which interrupts regular expressions too; it needs the main thread, and
elsewhere there is none. Knows no scorer.
"""

from __future__ import annotations

import contextlib
import re
import signal
import threading
from collections.abc import Callable, Iterator
from contextvars import ContextVar

__all__ = ["BEYOND", "OverLimit", "limited", "note", "noted", "scored"]

SECONDS = 5.0
"""The longest that one answer may keep a scorer busy."""


class OverLimit(Exception):
    """A scorer took too long over an answer."""


BEYOND = (OverLimit, RecursionError, ArithmeticError, MemoryError, re.error)
"""What an answer may cause in a scorer that is right."""
_notes: ContextVar[list[str] | None] = ContextVar("notes", default=None)


@contextlib.contextmanager
def noted() -> Iterator[list[str]]:
    """Collect the limits that are reached inside."""
    found: list[str] = []
    token = _notes.set(found)
    try:
        yield found
    finally:
        _notes.reset(token)


def note(limit: str) -> None:
    """Put down that a limit was reached, where someone collects it."""
    if (found := _notes.get()) is not None:
        found.append(limit)


@contextlib.contextmanager
def limited() -> Iterator[None]:
    """Raise OverLimit if what is inside takes longer than `SECONDS`. An outer limit goes on counting."""
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        yield
        return
    left, _ = signal.getitimer(signal.ITIMER_REAL)
    if left:  # someone's alarm is set already: the outer limit's
        yield
        return
    before = signal.signal(signal.SIGALRM, _late)
    signal.setitimer(signal.ITIMER_REAL, SECONDS, 0.5)  # again and again, in case a scorer swallows the first
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _late(*_: object) -> None:
    raise OverLimit(f"scoring took longer than {SECONDS:g} s")


def scored(score: Callable[[], float]) -> float:
    """What `score` gives, or 0 with a note if an answer takes it beyond a limit."""
    try:
        with limited():
            return score()
    except BEYOND as error:
        note(str(error) or type(error).__name__)
        return 0.0
