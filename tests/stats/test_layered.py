"""Layers that were asked at different rates: who knows them gains nothing, and the plan's power is what draws show."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import special

from harness.errors import StatisticsError
from harness.stats import paired_counts_test, pass_power
from harness.stats.pooled import layered_p, layered_power, pooled_test, stratified_p

POOL = (540, 1260)  # of which the first layer is asked in full
DRAWN = (540, 140)
LIMIT = 0.05 + 3 * math.sqrt(0.05 * 0.95 / 4000)


def cut_and_drawn(rng, deltas, flips, pool=POOL, drawn=DRAWN, rollouts=4000):
    """Lost and gained items by layer, of pools with two kinds of items that are cut by rank and drawn from.

    deltas, flips: of an item of each kind, the unsure kind first; the kinds have the layers' shares on average.
    """
    total = sum(pool)
    kinds = rng.binomial(total, pool[0] / total, rollouts)  # of the unsure kind, which rank first
    unsure = np.stack([np.minimum(kinds, pool[0]), np.maximum(kinds - pool[0], 0)], axis=1)
    unsure[:, 1] = rng.hypergeometric(unsure[:, 1], pool[1] - unsure[:, 1], drawn[1])
    counts = np.stack([unsure, np.array(drawn) - unsure], axis=2)  # rollouts, layers, kinds
    shares = [[(flip - delta) / 2, (flip + delta) / 2, 1 - flip] for delta, flip in zip(deltas, flips, strict=True)]
    tables = sum(rng.multinomial(counts[..., kind], shares[kind])[..., :2] for kind in (0, 1))
    return tables[..., 0], tables[..., 1]


def naive_p(lost, gained, n, pool, null):
    """The plug-in form: each layer's variance as it was seen."""
    weights, n, delta = np.array(pool) / sum(pool), np.array(n), (gained - lost) / np.array(n)
    variance = (weights**2 * ((lost + gained) / n - delta**2) / n).sum(-1)
    return special.ndtr(-((weights * delta).sum(-1) - null) / np.sqrt(variance))


def test_an_adversary_in_the_sure_layer_beats_the_naive_form_and_not_ours():
    """All of a 2-point drop where a ninth is drawn: the plug-in variance passes it too often, ours does not."""
    tables = cut_and_drawn(np.random.default_rng(1), (0.0, -0.02 / 0.7), (0.1, 0.02 / 0.7))
    assert (naive_p(*tables, DRAWN, POOL, -0.02) < 0.05).mean() > LIMIT
    assert (layered_p(*tables, DRAWN, POOL, -0.02) < 0.05).mean() <= LIMIT


@pytest.mark.parametrize("margin", [0.02, 0.05])
@pytest.mark.parametrize(("pool", "drawn"), [(POOL, (540, 454)), ((300, 2700), (300, 2400)), ((900, 100), (900, 40))])
@pytest.mark.parametrize("unsure", [0.0, 0.5, 1.0])
def test_wherever_the_damage_is_it_passes_in_five_percent(pool, drawn, margin, unsure):
    """A drop of exactly the margin, with this share of it among the unsure items, in pools that are cut by rank."""
    shares = np.array(pool) / sum(pool)
    deltas = -margin * np.array([unsure, 1 - unsure]) / shares
    if (np.abs(deltas) > 1).any():
        pytest.skip("the layer cannot lose so much")
    flips = np.maximum(np.abs(deltas), (0.1, 0.0))
    lost, gained = cut_and_drawn(np.random.default_rng(2), deltas, flips, pool, drawn)
    assert (layered_p(lost, gained, drawn, pool, -margin) < 0.05).mean() <= LIMIT
    # and the other way round: gains of the margin, read as a fail
    assert (layered_p(gained, lost, drawn, pool, margin, "less") < 0.05).mean() <= LIMIT


def test_everything_asked_in_both_layers_has_the_variance_of_no_layers():
    """Within and between layers add up to the variance of all items: the statistic's scale is the plain test's."""
    pool, lost, gained = np.array([300.0, 700.0]), np.array([40.0, 7.0]), np.array([30.0, 3.0])
    weights, delta = pool / 1000, (gained - lost) / pool
    within = weights**2 * ((lost + gained) / pool - delta**2) / pool
    between = weights * (delta - (weights * delta).sum()) ** 2 / 1000
    everything = ((lost + gained).sum() / 1000 - ((gained - lost).sum() / 1000) ** 2) / 1000
    assert within.sum() + between.sum() == pytest.approx(everything, rel=1e-12)
    plain = stratified_p(lost.sum(), gained.sum(), [1000.0], [1.0], -0.05, "greater")
    assert float(plain) <= float(layered_p(lost, gained, pool, pool, -0.05)) < 0.05


def test_limits_and_p_values_say_the_same():
    """low > -margin where p_pass < alpha, high < -margin where p_fail < alpha, whatever was drawn."""
    rng, seen = np.random.default_rng(3), set()
    for _ in range(60):
        pool = rng.integers(100, 1500, 2).tolist()
        drawn = [pool[0], max(int(pool[1] * rng.uniform(0.1, 0.9)), 10)]
        gain = rng.uniform(0.0, 0.14)
        tables = [rng.multinomial(n, [0.07, gain, 0.93 - gain])[:2] for n in drawn]
        layers = [paired_counts_test(int(a), int(b), n, 0.03, 0.05) for (a, b), n in zip(tables, drawn, strict=True)]
        one = pooled_test(layers, pool, 0.03, 0.05, layers=True)
        assert (one.low > -0.03) == (one.p_pass < 0.05)
        assert (one.high < -0.03) == (one.p_fail < 0.05)
        assert one.low <= one.delta <= one.high
        assert (one.items_to_decide == 0) == (one.p_pass < 0.05 or one.p_fail < 0.05)
        seen.add((one.p_pass < 0.05, one.p_fail < 0.05))
    assert len(seen) == 3


def test_the_estimate_is_the_layers_at_their_shares():
    """A tenth of the sure items stands for all of them: 3 lost of 140 drawn weigh as 27 of 1,260."""
    layers = [paired_counts_test(30, 12, 540, 0.05, 0.05), paired_counts_test(3, 0, 140, 0.05, 0.05)]
    one = pooled_test(layers, POOL, 0.05, 0.05, layers=True)
    assert one.delta == pytest.approx(0.3 * -18 / 540 + 0.7 * -3 / 140)
    assert (one.n, one.lost, one.gained, one.method) == (680, 33, 12, "layered Tango score, corrected")
    with pytest.raises(StatisticsError, match="weights above 0"):
        pooled_test(layers, (540, 0), 0.05, 0.05, layers=True)


def test_more_items_in_the_same_parts_decide_when_it_says_so():
    """What is missing to a verdict, at the same rates, decides it; a quarter less does not."""
    layers = [paired_counts_test(120, 120, 540, 0.02, 0.05), paired_counts_test(2, 2, 454, 0.02, 0.05)]
    one = pooled_test(layers, POOL, 0.02, 0.05, layers=True)
    more = 1 + one.items_to_decide / one.n
    counts = [np.array([120, 2]), np.array([120, 2]), np.array([540, 454]), np.array(POOL)]
    assert float(layered_p(*(each * more * 1.03 for each in counts), -0.02)) < 0.05
    assert float(layered_p(*(each * more * 0.75 for each in counts), -0.02)) > 0.05


def test_the_plan_passes_as_often_as_it_says():
    """Drawn unchanged candidates with all flips among the unsure: more pass than with as many items asked evenly."""
    pool, drawn, flips = (800, 1867), (800, 450), (0.3, 0.0)
    lost, gained = cut_and_drawn(np.random.default_rng(5), (0.0, 0.0), flips, pool, drawn)
    passed = (layered_p(lost, gained, drawn, pool, -0.02) < 0.05).mean()
    assert passed == pytest.approx(layered_power(pool, drawn, flips, 0.02, 0.05), abs=0.03)
    assert passed > pass_power(1250, 0.02, 0.09) + 0.1
    assert layered_power((50, 100), (50, 30), (0.1, 0.0), 0.02, 0.05) == 0.0  # not even without a flip
    assert layered_power((50, 0), (50, 0), (0.1, 0.0), 0.02, 0.05) == 0.0
