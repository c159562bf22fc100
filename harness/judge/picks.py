"""Which choice an answer to a choice item is: the one that the metric behind its score prefers.

Tasks weigh choices by their summed log-probability (lm_eval's ``acc``), by that per character (``acc_norm``) or per
byte (``acc_bytes``); the three may prefer different ones. Does not know what is right.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from harness.records import ChoiceLogprobs, Item, Scored

__all__ = ["metric_behind", "pick"]

_SIZES: dict[str, Callable[[str], int]] = {
    "acc": lambda _: 1,
    "acc_norm": len,
    "acc_bytes": lambda choice: len(choice.encode()),
}


def metric_behind(answers: Iterable[Scored]) -> str:
    """Give the metric whose value is the score of every one of a task's answers; ``acc`` where none is."""
    fitting = list(_SIZES)
    for one in answers:
        if one.score is not None:
            fitting = [name for name in fitting if one.metrics.get(name) == one.score]
    return fitting[0] if fitting else "acc"


def pick(item: Item, response: ChoiceLogprobs, metric: str) -> int:
    """Give the number of the choice that a metric prefers, the first of equals, as lm_eval does.

    Choices whose texts are not stored are weighed by their sums.
    """
    texts = [choice.strip() for choice in item.choices]
    if len(texts) != len(response.logprobs) or not all(texts):
        texts = ["-"] * len(response.logprobs)
    worth = [one / _SIZES[metric](text) for one, text in zip(response.logprobs, texts, strict=True)]
    return max(range(len(worth)), key=worth.__getitem__)
