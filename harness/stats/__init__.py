"""The statistics of a verdict, as pure functions on arrays: no files, no config, no words. The way in is `stratum`."""

from harness.stats.many import benjamini_hochberg, holm, smallest_fail_p, tarone_can_reject
from harness.stats.plan import items_for_pass, items_to_decide, pass_power, smallest_detectable_drop
from harness.stats.stratum import PairedResult, can_ever_pass, paired_counts_test, paired_test, smallest_that_can_pass
from harness.stats.units import EffectiveCounts

__all__ = [
    "EffectiveCounts", "PairedResult", "benjamini_hochberg", "can_ever_pass", "holm", "items_for_pass",
    "items_to_decide", "paired_counts_test", "paired_test", "pass_power", "smallest_detectable_drop",
    "smallest_fail_p", "smallest_that_can_pass", "tarone_can_reject",
]  # fmt: skip
