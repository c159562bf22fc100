"""Reads what other tools ran: lm_eval samples, Inspect logs, plain tables. Each becomes `Outcomes`.

`reading` is the way in and knows one format from another; `rows` is what they have in common.
"""

from harness.judge.importers.reading import Format, check_options, format_of, load
from harness.judge.importers.rows import ImportOptions

__all__ = ["Format", "ImportOptions", "check_options", "format_of", "load"]
