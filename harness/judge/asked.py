"""Which items control and candidates are asked, when that is not all of them.

The control may be asked a share of the items (``execution.control: 0.25``), and strata in which the baseline shows no
signal may be left out for all but the baseline (``execution.skip_blind``). Pure functions of the config, the items and
the baseline's scores, so that the runner and the judge come to the same items, and a record can be checked by them.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from harness.config.fields import allowed
from harness.judge.rules import Place, Rules, by_stratum
from harness.records import Item
from harness.stats.chance_level import above_chance_p
from harness.suite.toolkit.seeded import hash_order

__all__ = ["blind_strata", "blind_to_cache", "control_items"]


def control_items(items: Sequence[Item], share: float) -> frozenset[str]:
    """The ids of the items that the control is asked: of each stratum the given share, rounded up.

    share: in (0, 1]. Items with a common prefix or cluster are taken together, in an order that depends on their names
    alone, so that a text is read for all of its questions and adding items keeps the choice.
    """
    chosen: set[str] = set()
    for members in by_stratum(items).values():
        groups: dict[str, list[str]] = defaultdict(list)
        for item in members:
            groups[item.prefix_group or item.cluster].append(item.id)
        wanted, taken = math.ceil(share * len(members)), 0
        for name in sorted(groups, key=lambda name: hash_order(name, "control")):
            if taken < wanted:
                chosen.update(groups[name])
                taken += len(groups[name])
    return frozenset(chosen)


def blind_strata(items: Sequence[Item], scores: Mapping[str, float], rules: Rules) -> frozenset[Place]:
    """The strata in which the baseline's own answers show no signal, by the test that the verdict uses.

    scores: item id to the baseline's mean score in [0, 1], NaN for unanswered items. Strata with a tolerance of tail
    events are never among them, and neither are those about which the test says nothing: no answer, a single source.
    """
    found = set()
    for place, members in by_stratum(items).items():
        answered = [item for item in members if math.isfinite(scores.get(item.id, math.nan))]
        if not answered or (rules.tolerances(*place) and any(item.kind == "generate" for item in members)):
            continue
        own = np.array([scores[item.id] for item in answered])
        clusters = np.unique([item.cluster for item in answered], return_inverse=True)[1].astype(np.int32)
        chance = float(np.mean([item.chance for item in members]))
        p = above_chance_p(own, clusters, chance + allowed(rules.margin(*place), float(own.mean())))
        if p is not None and p >= rules.policy.chance_alpha:
            found.add(place)
    return frozenset(found)


def blind_to_cache(items: Iterable[Item]) -> frozenset[Place]:
    """The strata whose scores come from reading the prompt once: choices, and answers of a single token.

    A KV cache is used from the second token of an answer on, so however it is damaged, they show nothing.
    """
    strata = by_stratum(items).items()
    return frozenset(place for place, own in strata if all(one.kind == "choice" or one.max_tokens <= 1 for one in own))
