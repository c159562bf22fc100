"""Runs generated code, shut away: tests in another process call what it defines, and alone can say "passes".

`execution` is the parent's side; `child` (and child.js) the side of the two processes, shut in by `confine`; `values`
is what may cross between them.
"""

from harness.suite.sandbox.execution import LANGUAGES, Isolation, Limits, Outcome, Program, execute, isolation, missing

__all__ = ["LANGUAGES", "Isolation", "Limits", "Outcome", "Program", "execute", "isolation", "missing"]
