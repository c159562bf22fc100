"""Tail events: catastrophic answers that a mean score does not show.

`detectors` looks at one answer through `language`, `refusals`, `text` and `values`; `pairs` counts what a candidate's
answers show and the baseline's to the same items do not.
"""

from harness.suite.tail.detectors import Seen, examine, possible

__all__ = ["Seen", "examine", "possible"]
