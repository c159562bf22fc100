"""A judgement as people and programs read it.

`blocks` fill every table and list once, from a judgement and its `evidence`; `terminal`, `html` and `markdown`
render them; `junit` and `tables` are for programs. `writer` writes all files of a report. `listings` prints
what is read before a run.
"""

from harness.report.side_by_side import side_by_side
from harness.report.terminal import terminal
from harness.report.writer import remove, write

__all__ = ["remove", "side_by_side", "terminal", "write"]
