"""The probability of the right choice: a second, more sensitive quantity beside the score of choices.

A score says which choice is the most likely; this says how likely the right one is, the softmax over the choices of
their summed log-probabilities. It moves long before the most likely choice changes, so it sees damage in strata where
no score has flipped yet. It is information: another quantity than the score, with no margin, and never part of a
verdict. It does not know who answered, nor whether a score is length-normalised.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from harness import stats
from harness.judge.summaries import ChoiceProbability
from harness.judge.verdicts import Judgement
from harness.records import ChoiceLogprobs, Item, Response

__all__ = ["Places", "compared", "of_answer", "shown"]

Places = Mapping[tuple[str, str], ChoiceProbability]
"""Slice and stratum to the comparison."""


def of_answer(item: Item, response: Response) -> float | None:
    """Give the probability of the right choice, in [0, 1]; None where there are no choices or none is the target."""
    if not isinstance(response, ChoiceLogprobs):
        return None
    right = [at for at, choice in enumerate(item.choices) if choice.strip() == item.target.strip()]
    if len(right) != 1:
        return None
    top = max(response.logprobs)
    weights = [math.exp(one - top) for one in response.logprobs]
    return weights[right[0]] / math.fsum(weights)


def compared(
    items: Sequence[Item], baseline: Mapping[str, float], candidate: Mapping[str, float], alpha: float
) -> Places:
    """Compare two sides stratum by stratum, over the items that both have.

    baseline, candidate: item id to probability. alpha: error rate of each limit. Items that share a source are judged
    as whole sources, as scores are.
    """
    places: dict[tuple[str, str], list[Item]] = defaultdict(list)
    for item in items:
        if item.id in baseline and item.id in candidate:
            places[item.slice, item.stratum].append(item)
    found = {}
    for place, members in places.items():
        before = np.array([baseline[item.id] for item in members])
        after = np.array([candidate[item.id] for item in members])
        clusters = np.unique([item.cluster for item in members], return_inverse=True)[1]
        result = stats.paired_test(after - before, clusters, margin=0.0, alpha=alpha, binary=False)
        found[place] = ChoiceProbability(
            n=len(members),
            baseline_mean=float(before.mean()),
            candidate_mean=float(after.mean()),
            delta=result.delta,
            low=result.low,
            high=result.high,
        )
    return found


def shown(judgement: Judgement, by_candidate: Mapping[str, Places]) -> Judgement:
    """Give the judgement with the probabilities beside its strata; no verdict changes."""
    candidates = []
    for one in judgement.candidates:
        places = by_candidate.get(one.name, {})
        strata = (replace(each, choice_probability=places.get((each.slice, each.stratum))) for each in one.strata)
        candidates.append(replace(one, strata=tuple(strata)))
    return replace(judgement, candidates=tuple(candidates))
