"""A judgement as people and programs read it.

`blocks` fill every table and list once, from a judgement and its `evidence`; `terminal`, `html` and `markdown`
render them. `writer` writes these and the files for programs. `listings` prints what is read before a run.
"""

from harness.report.terminal import side_by_side, terminal
from harness.report.writer import remove, write

__all__ = ["remove", "side_by_side", "terminal", "write"]
