"""Plans with what divergence is measured: traces on disk, or the baseline loaded next to each candidate."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from harness.config.schema import Experiment
from harness.errors import ConfigError, Problem
from harness.records import Item
from harness.store.traces import Tracing

__all__ = ["plan_tracing"]


def plan_tracing(
    experiment: Experiment,
    items: Sequence[Item],
    width: int,
    vocabulary: int,
    source: str,
    *,
    both_fit: Callable[[], bool],
) -> Tracing:
    """Say what divergence is measured with, and on how many tokens of each answer: see `execution.divergence_with`.

    As many as `execution.divergence_tokens` says, fewer where a model of this width and vocabulary needs more than
    `execution.divergence_gib` for its traces and the baseline does not fit beside a candidate (`both_fit`). Raises
    ConfigError where not even the first token of each answer can be compared.
    """
    execution = experiment.execution
    if (
        not execution.divergence
        or execution.rehearsal is not None
        or any(one.engine.served for one in experiment.variants)
    ):
        return Tracing(0, 0)
    beside = Tracing(execution.divergence_tokens, 0, beside=True)
    if execution.divergence_with == "baseline":
        _need_texts(experiment, source)
        return beside
    number = 4 if experiment.compute_dtype(experiment.baseline) == "float32" else 2
    longest = [_longest(item) for item in items]
    room = int(execution.divergence_gib * 2**30)

    def needed(tokens: int) -> int:
        return number * width * (vocabulary + sum(min(one, tokens) for one in longest))

    too_much = needed(execution.divergence_tokens) > room
    if too_much and execution.divergence_with == "auto" and experiment.store_text == "full" and both_fit():
        return beside
    low, high = 0, execution.divergence_tokens
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if needed(middle) <= room else (low, middle - 1)
    if low == 0:
        text = (
            f"{execution.divergence_gib:g} GiB do not hold a token of each answer and the head "
            f"({needed(1) / 2**30:.1f} GiB): raise it, or set execution.divergence: false"
        )
        raise ConfigError(source, [Problem("execution.divergence_gib", text)])
    return Tracing(low, needed(low))


def _need_texts(experiment: Experiment, source: str) -> None:
    """Refuse a baseline beside its candidates where its answers are not kept: it would have nothing to read again."""
    if experiment.store_text != "full":
        kept = f"store_text: {experiment.store_text} keeps none of the baseline's answers to read again"
        text = f"{kept}; write auto or traces"
        raise ConfigError(source, [Problem("execution.divergence_with", text)])


def _longest(item: Item) -> int:
    """Give the most tokens that an answer can have: a token is a byte or more, and an end token comes last."""
    if item.kind == "choice":
        return sum(len(choice.encode()) + 1 for choice in item.choices)
    return item.max_tokens + 1
