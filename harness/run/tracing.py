"""Plans how much disk the baseline's traces take, and refuses a plan that does not fit."""

from __future__ import annotations

from collections.abc import Sequence

from harness.config.schema import Experiment
from harness.errors import ConfigError, Problem
from harness.records import Item
from harness.store.divergence import TracePlan

__all__ = ["plan_tracing"]

GIB = 2**30


def plan_tracing(experiment: Experiment, items: Sequence[Item], width: int, vocabulary: int, source: str) -> TracePlan:
    """Return on how many tokens of each answer divergence is measured, and the disk that this takes at most.

    The traces of a model of this width and vocabulary are a hidden state for each token, and the output head once.
    Raises ConfigError if they need more than `execution.divergence_gib`.
    """
    execution = experiment.execution
    served = any(variant.engine.served for variant in experiment.variants)
    if not execution.divergence or execution.rehearsal is not None or served:
        return TracePlan(0, 0)
    number = 4 if experiment.compute_dtype(experiment.baseline) == "float32" else 2
    longest = [_longest(item) for item in items]

    def needed(tokens: int) -> int:
        return number * width * (vocabulary + sum(min(one, tokens) for one in longest))

    wanted, room = execution.divergence_tokens, execution.divergence_gib * GIB
    if needed(wanted) > room:
        fits = next((tokens for tokens in range(wanted - 1, 0, -1) if needed(tokens) <= room), 0)
        fewer = f"set execution.divergence_tokens to {fits} or less, " if fits else ""
        text = (
            f"the baseline's traces do not fit: {wanted} tokens of each answer and the output head need "
            f"{needed(wanted) / GIB:.3g} GiB, and {execution.divergence_gib:.3g} GiB are allowed; "
            f"raise execution.divergence_gib, {fewer}or set execution.divergence: false"
        )
        raise ConfigError(source, [Problem("execution.divergence_gib", text)])
    return TracePlan(wanted, needed(wanted))


def _longest(item: Item) -> int:
    """Return the most tokens that an answer can have: a token is a byte or more, and an end token comes last."""
    if item.kind == "choice":
        return sum(len(choice.encode()) + 1 for choice in item.choices)
    return item.max_tokens + 1
