"""Reads what other tools ran: lm_eval samples, Inspect logs, plain tables. Each becomes `Outcomes`.

`reading` is the way in and knows one format from another; `rows` is what they have in common.
"""

from harness.importers.reading import Format, ImportOptions, check_options, format_of, load

__all__ = ["Format", "ImportOptions", "check_options", "format_of", "load"]
