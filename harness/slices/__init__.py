"""Slices: from a config to the items to ask, and from an answer back to its score.

`suite` is the way in. `catalogue` reads what ships, `problems` checks a config against it, `build` makes a slice's
items from lm_eval tasks (`tasks`, `items`), and `code` asks whether generated code may run.
"""

from harness.slices.suite import AxisInfo, Scorer, SliceInfo, TaskInfo, catalogue, load_items

__all__ = ["AxisInfo", "Scorer", "SliceInfo", "TaskInfo", "catalogue", "load_items"]
