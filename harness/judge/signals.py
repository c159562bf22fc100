"""What a baseline's own answers say of a stratum: whether damage could be seen there at all.

There are three reasons for no signal, each found from the baseline alone, before any candidate is asked; if nearly all
answers are unusable, that is reported instead. Chance level: it does not score more than guessing plus the margin, so
it has nothing to lose. Too few items that the baseline gets right: even if all of them were lost, the loss would not be
shown. Ceiling without margin: every choice is right and certain, so only gross damage would flip one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from harness import stats
from harness.config.fields import allowed
from harness.judge.rules import Rules
from harness.records import Item
from harness.stats.ratio import above_chance_p

__all__ = ["CERTAIN", "Signal", "signals"]

CERTAIN = 0.99
"""Probability of the right choice from which on an answer is taken as certain."""


@dataclass(frozen=True, slots=True)
class Signal:
    """One stratum as the baseline answered it."""

    slice: str
    """The slice's label."""
    stratum: str
    """The cell of its axes."""
    items: int
    """Items answered."""
    sources: int
    """Independent sources that they come from."""
    gating: bool
    """Whether it decides."""
    baseline_mean: float | None
    """Mean score; None if nothing was answered."""
    chance: float
    """The score that guessing would give."""
    right: int
    """Items that the baseline gets right, with a score above 0, which a candidate can lose."""
    choice_probability: float | None
    """Mean probability of the right choice; None if there are no choices."""
    blind: tuple[str, ...]
    """Why damage could not be seen there, a sentence each; empty if it could."""
    notes: tuple[str, ...] = ()
    """What else a reader should know of it, a sentence each."""


def signals(
    items: Sequence[Item],
    scores: Mapping[str, float],
    probabilities: Mapping[str, float],
    rules: Rules,
    unusable: Mapping[tuple[str, str], str] | None = None,
) -> list[Signal]:
    """Look at every stratum, in the order of the items.

    scores: item id to mean score in [0, 1], NaN if unanswered. probabilities: item id to the probability of its
    right choice. unusable: what `harness.judge.unusable` found. Raises StatisticsError.
    """
    places: dict[tuple[str, str], list[Item]] = defaultdict(list)
    for item in items:
        places[item.slice, item.stratum].append(item)
    found = [_signal(place, members, scores, probabilities, rules) for place, members in places.items()]
    why = unusable or {}
    return [
        replace(one, blind=(f"not measured: {why[one.slice, one.stratum]}",))
        if one.blind and (one.slice, one.stratum) in why
        else one
        for one in found
    ]


def _signal(
    place: tuple[str, str],
    members: Sequence[Item],
    scores: Mapping[str, float],
    probabilities: Mapping[str, float],
    rules: Rules,
) -> Signal:
    answered = [item for item in members if np.isfinite(scores.get(item.id, np.nan))]
    own = np.array([scores[item.id] for item in answered])
    sources = np.unique([item.cluster for item in answered], return_inverse=True)[1]
    weighed = np.array([probabilities[item.id] for item in answered if item.id in probabilities])
    chance = float(np.mean([item.chance for item in members]))
    margin = allowed(rules.margin(*place), float(own.mean()) if own.size else 0.0)
    blind, notes = _findings(own, sources, weighed, chance, margin, rules)
    return Signal(
        slice=place[0],
        stratum=place[1],
        items=own.size,
        sources=int(sources.max()) + 1 if own.size else 0,
        gating=rules.gating(*place),
        baseline_mean=float(own.mean()) if own.size else None,
        chance=chance,
        right=int(np.count_nonzero(own > 0)),
        choice_probability=float(weighed.mean()) if weighed.size else None,
        blind=tuple(blind),
        notes=tuple(notes),
    )


def _findings(
    own: NDArray[np.float64],
    sources: NDArray[np.int64],
    weighed: NDArray[np.float64],
    chance: float,
    margin: float,
    rules: Rules,
) -> tuple[list[str], list[str]]:
    """Return why damage could not be seen, and what else is to be known."""
    if not own.size:
        return ["nothing was answered"], []
    blind, notes = [], []
    policy = rules.policy
    above = above_chance_p(own, sources.astype(np.int32), chance + margin)
    if above is None or above >= policy.chance_alpha:
        blind.append(
            f"chance level: {own.mean():.1%} is not shown to be above guessing ({chance:.1%}) plus the margin "
            f"({margin:.1%})"
        )
    losing = stats.paired_test(-own, sources, margin=margin, alpha=policy.alpha)
    if losing.p_fail >= policy.alpha:
        right = int(np.count_nonzero(own > 0))
        blind.append(f"too few items that the baseline gets right: losing all {right} would not show a fail")
    if not stats.can_ever_pass(own.size, margin, policy.alpha, clusters=sources):
        notes.append("too few items: it cannot pass even if no answer changes")
    if own.min() == 1.0 and weighed.size == own.size and weighed.min() >= CERTAIN:
        blind.append("ceiling without margin: every choice is right and certain, so only gross damage would show")
    elif own.min() == 1.0:
        notes.append("ceiling: every answer is right; damage too small to flip one does not show")
    return blind, notes
