"""Tail events: catastrophic answers that a mean score does not show, looked for in one answer at a time."""

from harness.suite.tail.detectors import examine, possible

__all__ = ["examine", "possible"]
