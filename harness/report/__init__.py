"""A judgement as people and programs read it.

`writer` leaves every file of a report. `terminal`, `html`, `markdown`, `junit` and `tables` are the forms; `words` says
every sentence once for all of them; `plan`, `signals` and `slices` tell what is read before a run.
"""

from harness.report.writer import (
    Divergence,
    Evidence,
    FlipPair,
    PowerRow,
    TailEvent,
    remove,
    side_by_side,
    terminal,
    write,
)

__all__ = ["Divergence", "Evidence", "FlipPair", "PowerRow", "TailEvent", "remove", "side_by_side", "terminal", "write"]
