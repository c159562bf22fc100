"""Answers to choices: which choice is preferred, and the probability of the right one.

Tasks weigh choices by their summed log-probability (lm_eval's ``acc``), by that per character (``acc_norm``) or per
byte (``acc_bytes``). The probability is the softmax over the sums, and moves long before the preferred choice does.
"""

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from harness import stats
from harness.judge.rules import Place, by_stratum
from harness.judge.summaries import ChoiceProbability
from harness.records import ChoiceLogprobs, Item, Response


def of_answer(item: Item, response: Response) -> float | None:
    """Return the probability of the right choice, in [0, 1]; None for free text or if no single choice is right."""
    if not isinstance(response, ChoiceLogprobs) or item.gold is None:
        return None
    top = max(response.logprobs)
    weights = [math.exp(one - top) for one in response.logprobs]
    return weights[item.gold] / math.fsum(weights)


_SIZES: dict[str, Callable[[str], int]] = {"acc_norm": len, "acc_bytes": lambda choice: len(choice.encode())}


CONFIDENCE = "confidence"  # the key in `Scored.metrics` of the lead of a choice, recorded with `execution.layers`


def confidence(item: Item, response: Response, metric: str) -> float | None:
    """Return how far the choice that a metric prefers is ahead of the second; None for fewer than two choices."""
    worth = sorted(_worth(item, response, metric)) if isinstance(response, ChoiceLogprobs) else []
    lead = worth[-1] - worth[-2] if len(worth) > 1 else math.nan
    return lead if math.isfinite(lead) else None


def preferred_choice(item: Item, response: ChoiceLogprobs, metric: str) -> int:
    """Return the index of the choice that a metric prefers, as lm_eval does; by the sums if texts are not stored."""
    worth = _worth(item, response, metric)
    return max(range(len(worth)), key=worth.__getitem__)


def _worth(item: Item, response: ChoiceLogprobs, metric: str) -> list[float]:
    texts, size = [choice.strip() for choice in item.choices], _SIZES.get(metric.partition(",")[0])
    if size is None or len(texts) != len(response.logprobs) or not all(texts):
        size, texts = (lambda _: 1), ["-"] * len(response.logprobs)
    return [logprob / size(text) for logprob, text in zip(response.logprobs, texts, strict=True)]


def compared(
    items: Sequence[Item], baseline: Mapping[str, float], candidate: Mapping[str, float], alpha: float
) -> dict[Place, ChoiceProbability]:
    """Compare two sides (item id to probability) by stratum, with one-sided limits at level 1 - `alpha`."""
    found = {}
    for place, members in by_stratum(one for one in items if one.id in baseline and one.id in candidate).items():
        before, after = (np.array([side[item.id] for item in members]) for side in (baseline, candidate))
        clusters = np.unique([item.cluster for item in members], return_inverse=True)[1]
        result = stats.paired_test(after - before, clusters, margin=0.0, alpha=alpha, graded=True)
        means = float(before.mean()), float(after.mean())
        found[place] = ChoiceProbability(len(members), *means, result.delta, result.low, result.high)
    return found
