"""Layers by the baseline's own confidence (`execution.layers`): who is asked what, and how such a stratum is judged.

The baseline answers every item. Candidates are asked all items of a stratum on which it was unsure and a random part of
the others, the same for all of them. The runner and the judge both work out from the baseline's answers which these
are. Only choices have a confidence, recorded with the answer; a stratum with anything else is asked in full.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from harness import stats
from harness.config.fields import Layers
from harness.config.schema import Policy
from harness.judge.choice_probability import CONFIDENCE
from harness.judge.outcomes import Columns, Floats
from harness.judge.rules import by_stratum
from harness.judge.summaries import LayerCounts, Look
from harness.records import Item, Scored
from harness.stats.pooled import pooled_test
from harness.stats.units import above_chance_p
from harness.suite.toolkit.seeded import hash_order

UNSURE, SURE, LEFT_OUT, WHOLE = 0, 1, 2, -1  # left out: sure and not drawn; whole: of a stratum asked in full

Layering = Mapping[str, int]  # item id to UNSURE, SURE or LEFT_OUT; without items of strata that are asked in full


def part(count: int, layers: Layers) -> tuple[int, int, int]:
    """Return how many of a stratum's items are unsure, how many sure ones are drawn, and how many are left out."""
    unsure = math.ceil(layers.unsure * count - 1e-9)  # 7 % of 100 are 7
    sure = math.ceil(layers.sure_share * (count - unsure) - 1e-9)
    return unsure, sure, count - unsure - sure


def layering(items: Sequence[Item], answers: Iterable[Scored], layers: Layers | None, seed: int) -> Layering:
    """Cut every stratum into layers by the baseline's answers, and draw from the sure one, by hashes of seed and id."""
    found: dict[str, int] = {}
    if layers is None:
        return found
    known = {one.item_id: one for one in answers if one.score is not None}
    for members in by_stratum(items).values():
        sure = {item.id: known[item.id].metrics.get(CONFIDENCE) for item in members if item.id in known}
        ranked = [(gap, hash_order(name, seed, "layers"), name) for name, gap in sure.items() if gap is not None]
        unsure, drawn, _ = part(len(sure), layers)
        if len(ranked) < len(sure) or not unsure or not drawn:
            continue
        rest = sorted((name for *_, name in sorted(ranked)[unsure:]), key=lambda name: hash_order(name, seed, "draw"))
        found |= {item.id: UNSURE for item in members}  # also what the baseline could not be asked, nor can the others
        found |= {name: SURE if at < drawn else LEFT_OUT for at, name in enumerate(rest)}
    return found


def sentences(items: Sequence[Item], found: Layering, layers: Layers | None) -> list[str]:
    """Say for each slice how many items are asked of how many in each layer, and which strata are asked in full."""
    said = []
    for name in dict.fromkeys(item.slice for item in items):
        own = Counter(found.get(item.id) for item in items if item.slice == name)
        if own[SURE]:
            count, rest = own[UNSURE], own[SURE] + own[LEFT_OUT]
            text = f"the {count} on which it is least sure and {own[SURE]} drawn of the other {rest}"
            said.append(
                f"{name}: of the {count + rest} items in layers that the baseline answers, all others are asked {text}"
            )
    if whole := dict.fromkeys(f"{item.slice}/{item.stratum}" for item in items if layers and item.id not in found):
        said.append(f"asked in full, as not all of the baseline's answers have a confidence: {', '.join(whole)}")
    return said


def counted(rows: Columns) -> tuple[LayerCounts, ...]:
    """Count a stratum's items layer by layer, without those that neither side answered; empty if it has no layers."""
    if rows.layer is None or WHOLE in rows.layer[:1]:
        return ()
    there, found = ~(np.isnan(rows.before) & np.isnan(rows.after)), []
    for layer, name in enumerate(("unsure", "sure")):
        own = there & (rows.layer == layer)
        diffs = (rows.after - rows.before)[own & rows.answered]
        pool = own | (there & (rows.layer == LEFT_OUT)) if layer == SURE else own
        counts = [int(np.count_nonzero(one)) for one in (pool, own, diffs < 0, diffs > 0)]
        found.append(LayerCounts(name, counts[0], counts[1], diffs.size, counts[2], counts[3]))
    return tuple(found)


def missing(layers: Sequence[LayerCounts]) -> float:
    """Return the share of the pool that the items with an answer on one side only stand for."""
    lost = math.fsum(one.pool * (1.0 - one.n / one.asked) for one in layers if one.asked)
    return lost / max(sum(one.pool for one in layers), 1)


def layered_looks(
    rows: Columns, layers: Sequence[LayerCounts], margin: float, chance: float, policy: Policy
) -> tuple[Look, ...]:
    """Judge a layered stratum by all rows of its pool; nothing to judge if a layer has no answers."""
    if rows.layer is None or not all(one.n for one in layers):
        return ()
    taken = rows.where(rows.answered)
    diffs, own = taken.after - taken.before, taken.layer
    parts = [diffs[own == at] for at in range(len(layers))]
    lost = [np.append(parts[at], np.full(one.asked - one.n, -1.0)) for at, one in enumerate(layers)]
    tests = ([stats.paired_test(part, margin=margin, alpha=policy.alpha) for part in side] for side in (parts, lost))
    pools = [one.pool for one in layers]
    result, worst = (pooled_test(one, pools, margin, policy.alpha, layers=True) for one in tests)
    before = rows.before[~np.isnan(rows.before)]
    above, weights = above_chance_p(before, None, chance + margin), stands(taken, layers)
    means = [float(np.average(side, weights=weights)) for side in (taken.before, taken.after)]
    return (Look(1, (1.0,), policy.alpha, policy.chance_alpha, result, means[0], means[1], above, worst=worst),)


def stands(rows: Columns, layers: Sequence[LayerCounts]) -> Floats:
    """Return how many items of the pool each answered one stands for; 1 without layers."""
    each = [*(one.pool / max(one.n, 1) for one in layers), 0.0]  # nothing for what is left out
    return np.ones(rows.place.size) if rows.layer is None or not layers else np.array(each)[rows.layer]
