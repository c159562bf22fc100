"""What each route takes: the plan's numbers are what drawn candidates show."""

from __future__ import annotations

import numpy as np
import pytest

from harness.stats import items_for_pass, paired_counts_test
from harness.stats.plan import RECOMMENDED, Design, route, routes
from harness.stats.pooled import stratified_p
from harness.stats.sequential import nominal_alpha


def test_one_stratum_and_one_look_is_the_plan_that_there_was():
    """The fixed route of a single stratum takes what `items_for_pass` says."""
    assert route(Design((0.02,))).largest == items_for_pass(0.02, 0.1)
    assert route(Design((1e-9,))) is None


def test_ten_strata_by_each_route():
    """Looks take half of the fixed plan, a pooled margin a sixth, both together a tenth; each keeps its power."""
    fixed, looks, pooled, both = routes(Design((0.02,) * 10))
    assert fixed.expected == fixed.largest
    assert looks.expected < 0.52 * fixed.largest < looks.largest
    assert pooled.largest < 0.18 * fixed.largest
    assert both.expected < 0.1 * fixed.largest
    assert all(0.8 <= one.power < 0.82 for one in (fixed, looks, pooled, both))
    assert (pooled.design.pooled, pooled.design.margins[0], both.design.spending) == (0.02, 0.05, RECOMMENDED)


def test_a_config_with_a_pooled_margin_is_measured_against_its_own():
    """The strict routes are at the pooled margin, the pooled ones at the margins that the config has."""
    strict, _, pooled, _ = routes(Design((0.1, 0.05), pooled=0.03, looks=5, spending=RECOMMENDED))
    assert strict.design.margins == (0.03, 0.03)
    assert (pooled.design.margins, pooled.design.pooled) == ((0.1, 0.05), 0.03)


def test_the_pooled_plan_passes_as_often_as_it_says():
    """Drawn unchanged candidates of ten strata pass the pooled margin and each stratum's in about 80 %."""
    found = route(Design((0.05,) * 10, 0.02))
    n, rng = found.largest // 10, np.random.default_rng(4)
    tables = rng.multinomial(n, [0.05, 0.05, 0.9], size=(400, 10))
    lost, gained = tables[..., 0], tables[..., 1]
    together = stratified_p(lost, gained, np.full((400, 10), n), [0.1] * 10, -0.02, "greater") < 0.05
    own = [
        all(paired_counts_test(int(a), int(b), n, 0.05, 0.05).p_pass < 0.05 for a, b in zip(*row, strict=True))
        for row in zip(lost, gained, strict=True)
    ]
    assert (together & np.array(own)).mean() == pytest.approx(found.power, abs=0.06)


def test_expected_items_are_those_of_drawn_candidates():
    """With looks and a pooled margin: the mean number of items until both are decided."""
    found = route(Design((0.05,) * 10, 0.02, 10, RECOMMENDED))
    n = found.largest // 10
    steps = np.diff([0, *(n * np.arange(1, 11) // 10)])
    tables = np.random.default_rng(9).multinomial(steps, [0.05, 0.05, 0.9], size=(300, 10, 10)).cumsum(axis=2)
    sizes = np.cumsum(steps)
    levels = np.array([nominal_alpha(tuple(np.arange(1, at + 1) / 10), 0.05, RECOMMENDED) for at in range(1, 11)])
    lost, gained = (np.moveaxis(tables[..., at], 2, 1) for at in (0, 1))
    pooled = stratified_p(
        lost, gained, np.broadcast_to(sizes[:, None], (10, 10)), [0.1] * 10, -0.02, "greater", most=0.05
    )
    own = stratified_p(tables[..., 0][..., None], tables[..., 1][..., None], sizes[:, None], [1.0], -0.05, "greater")
    first = [np.where((p < levels).any(-1), (p < levels).argmax(-1), 9) for p in (pooled, own)]
    asked = sizes[np.maximum(first[0][:, None], first[1])].sum(axis=1).mean()
    assert asked == pytest.approx(found.expected, rel=0.06)
