"""A judgement as people and programs read it.

`writer` leaves every file of a report. `terminal`, `html`, `markdown`, `junit` and `tables` are the forms; `words` says
every sentence once for all of them; `plan`, `signals` and `slices` tell what is read before a run.
"""

from harness.report.side_by_side import side_by_side
from harness.report.terminal import terminal
from harness.report.writer import remove, write

__all__ = ["remove", "side_by_side", "terminal", "write"]
