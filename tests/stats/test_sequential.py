"""Looks and boundaries: published tables, drawn Brownian paths, and what a sequential p-value promises."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lazily import lazy

from harness.errors import StatisticsError
from harness.stats.sequential import Spending, boundaries, look_p, look_sizes, looks_plan, nominal_alpha

scipy_stats = lazy("scipy.stats")


def sequential_p(p_by_look, fractions):
    """One p-value for all looks so far."""
    return min(look_p(p, tuple(fractions[: number + 1])) for number, p in enumerate(p_by_look))


FIVE = (0.2, 0.4, 0.6, 0.8, 1.0)

# As printed by the Lan-DeMets program (Reboussin, DeMets, Kim and Lan 2000, Controlled Clinical Trials 21:190-207) for
# five equal looks, one-sided 2.5 %, O'Brien-Fleming-type spending.
PUBLISHED = (4.8769, 3.3569, 2.6803, 2.2898, 2.0310)


def test_boundaries_are_the_published_ones():
    """Five equal looks at one-sided 2.5 %: 4.8769, 3.3569, 2.6803, 2.2898, 2.0310, to the printed digits."""
    found = boundaries(FIVE, 0.025)
    assert found == pytest.approx(PUBLISHED, abs=1.5e-4)
    assert nominal_alpha(FIVE, 0.025) == pytest.approx(scipy_stats.norm.sf(found[-1]), rel=1e-9)


@pytest.mark.parametrize("fractions", [FIVE, (0.1, 0.3, 0.35, 0.9, 1.0)])
def test_five_looks_agree_with_a_normal_law_in_five_dimensions(fractions: tuple[float, ...]):
    """scipy's quasi-Monte-Carlo integral over all looks at once gives alpha, where ours goes look by look."""
    early, late = np.minimum.outer(fractions, fractions), np.maximum.outer(fractions, fractions)
    law = scipy_stats.multivariate_normal
    z = np.minimum(boundaries(tuple(fractions), 0.05), 9.0)
    inside = law.cdf(z, np.zeros(5), np.sqrt(early / late), abseps=1e-6, maxpts=400_000, rng=np.random.default_rng(1))
    assert 1 - inside == pytest.approx(0.05, abs=2e-5)


def test_two_looks_agree_with_a_bivariate_normal():
    """The second boundary spends what is left, by scipy's own two-dimensional integral."""
    found = boundaries((0.5, 1.0), 0.05)
    law = scipy_stats.multivariate_normal([0, 0], [[1, math.sqrt(0.5)], [math.sqrt(0.5), 1]])
    assert 1 - law.cdf(list(found)) == pytest.approx(0.05, abs=1e-5)
    assert scipy_stats.norm.sf(found[0]) == pytest.approx(Spending().spent(0.5, 0.05), rel=1e-9)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(1, 99), min_size=1, max_size=7, unique=True), st.sampled_from([0.001, 0.025, 0.05, 0.1]))
def test_any_spacing_of_looks_spends_alpha_exactly(cuts: list[int], alpha: float):
    """Drawn Brownian motions cross one of the boundaries with chance alpha, however the looks lie."""
    fractions = [*(cut / 100 for cut in sorted(cuts)), 1.0]
    steps = np.diff([0.0, *fractions])
    paths = np.random.default_rng(5).normal(size=(100_000, len(steps))) * np.sqrt(steps)
    z = np.cumsum(paths, axis=1) / np.sqrt(fractions)
    found = boundaries(tuple(fractions), alpha)
    crossed = (z >= np.array(found)).any(axis=1).mean()
    assert crossed == pytest.approx(alpha, abs=4.5 * math.sqrt(alpha / 100_000))


def test_later_looks_do_not_move_earlier_boundaries():
    """What is spent by a look depends on that look alone, so looks may be planned as they come."""
    whole = boundaries(FIVE, 0.05)
    for looks in range(1, 6):
        assert boundaries(FIVE[:looks], 0.05) == whole[:looks]
        assert nominal_alpha(FIVE[:looks], 0.05) == scipy_stats.norm.sf(whole[looks - 1])


def test_looks_almost_at_the_same_time_cost_almost_nothing():
    """The integration stays exact where two looks are two items in ten thousand apart."""
    apart, close = boundaries((0.5, 1.0), 0.05), boundaries((0.5, 0.5002, 1.0), 0.05)
    assert close[-1] == pytest.approx(apart[-1], abs=1e-3)


def test_a_very_early_look_decides_nothing():
    """At one percent of the items there is nothing to spend yet: the boundary is infinite, its p-value 0."""
    found = boundaries((0.01, 1.0), 0.05)
    assert math.isinf(found[0])
    assert nominal_alpha((0.01,), 0.05) == 0.0
    assert nominal_alpha((0.01, 1.0), 0.05) == pytest.approx(0.05, rel=1e-9)


def test_one_look_is_no_change():
    """A single look at all items spends alpha, and its sequential p-value is the p-value."""
    assert nominal_alpha((1.0,), 0.05) == pytest.approx(0.05, rel=1e-9)
    assert sequential_p([0.031], [1.0]) == look_p(0.031, (1.0,)) == 0.031


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.floats(1e-6, 1.0), min_size=1, max_size=5),
    st.sampled_from([FIVE, (0.1, 0.5, 0.55, 0.9, 1.0)]),
    st.sampled_from([0.00125, 0.025, 0.05, 0.2]),
)
def test_a_sequential_p_value_is_below_alpha_where_a_boundary_was_crossed(
    p: list[float], fractions: tuple[float, ...], alpha: float
):
    """It is the smallest alpha at which some look so far was below its nominal level."""
    fractions = fractions[: len(p)]
    nominal = scipy_stats.norm.sf(boundaries(tuple(fractions), alpha))
    ratio = np.asarray(p) / np.maximum(nominal, 1e-300)
    if (abs(ratio - 1.0) > 1e-6).all():
        assert (sequential_p(p, fractions) < alpha) == bool((ratio < 1.0).any())


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(1e-8, 1.0), min_size=2, max_size=5))
def test_a_sequential_p_value_only_falls(p: list[float]):
    """A further look never takes a rejection back, so Holm may be applied at every look."""
    one_by_one = [sequential_p(p[:looks], FIVE[:looks]) for looks in range(1, len(p) + 1)]
    assert all(later <= earlier + 1e-9 for earlier, later in itertools.pairwise(one_by_one))


def test_boundaries_of_a_larger_alpha_are_easier_at_every_look():
    """Without this the smallest alpha that was crossed would not be one number."""
    levels = np.geomspace(1e-6, 0.5, 40)
    nominal = scipy_stats.norm.sf([boundaries(FIVE, float(level)) for level in levels])
    assert (np.diff(nominal, axis=0) >= 0.0).all()


def test_peeking_without_boundaries_is_what_they_are_for():
    """Ten looks at plain 5 % find something in far more than 5 % of nothing; with boundaries in 5 %."""
    fractions = np.arange(1, 11) / 10
    paths = np.random.default_rng(6).normal(size=(40_000, 10)) * math.sqrt(0.1)
    p = scipy_stats.norm.sf(np.cumsum(paths, axis=1) / np.sqrt(fractions))
    assert (p < 0.05).any(axis=1).mean() > 0.15
    assert (p < scipy_stats.norm.sf(boundaries(tuple(fractions), 0.05))).any(axis=1).mean() == pytest.approx(
        0.05, abs=0.004
    )


def test_look_sizes_are_even_and_end_at_all_items():
    """Cumulative items, each look at least one more than the last."""
    assert look_sizes(500, 5) == (100, 200, 300, 400, 500)
    assert look_sizes(7, 3) == (3, 5, 7)
    assert look_sizes(2, 5) == (1, 2)
    assert look_sizes(9, 1) == (9,)


@pytest.mark.parametrize(
    "call",
    [
        lambda: boundaries((), 0.05),
        lambda: boundaries((0.5, 0.5), 0.05),
        lambda: boundaries((0.5, 0.4), 0.05),
        lambda: boundaries((0.5, 1.2), 0.05),
        lambda: boundaries((math.nan, 1.0), 0.05),
        lambda: boundaries((0.5, 1.0), 0.0),
        lambda: look_p(math.nan, (0.5, 1.0)),
        lambda: look_p(0.1, (0.5, 0.4)),
        lambda: look_p(1.1, (0.5, 1.0)),
    ],
)
def test_looks_that_cannot_be_are_refused(call):
    """Looks out of order, beyond all items or without p-values are errors with a message."""
    with pytest.raises(StatisticsError):
        call()


FAMILIES = ("hwang-shih-decani:-4", "hwang-shih-decani:0", "hwang-shih-decani:1", "power:1", "power:3")


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_spends_alpha_and_no_more(family: str):
    """Drawn Brownian motions cross with chance alpha; a look's p-value is the alpha that just rejects."""
    spending = Spending.of(family)
    assert str(spending) == family
    found = boundaries(FIVE, 0.05, spending)
    assert spending.spent(1.0, 0.05) == pytest.approx(0.05, rel=1e-12)
    paths = np.random.default_rng(8).normal(size=(200_000, 5)).cumsum(axis=1) / np.sqrt(np.arange(1, 6))
    assert (paths >= np.array(found)).any(axis=1).mean() == pytest.approx(0.05, abs=4.5 * math.sqrt(0.05 / 200_000))
    for look in range(1, 6):
        level = nominal_alpha(FIVE[:look], 0.05, spending)
        assert look_p(level, FIVE[:look], spending) == pytest.approx(0.05, rel=1e-6)
        assert look_p(level * 0.9, FIVE[:look], spending) < 0.05


def test_two_families_meet_where_they_should():
    """Gamma of 0 and rho of 1 are the straight line; gamma of 1 is near Pocock's boundaries, equal at every look."""
    straight, line = Spending.of("hwang-shih-decani:0"), Spending.of("power:1")
    assert boundaries(FIVE, 0.05, straight) == pytest.approx(boundaries(FIVE, 0.05, line))
    assert boundaries(FIVE, 0.05, Spending.of("hwang-shih-decani:1")) == pytest.approx([2.12] * 5, abs=0.07)


@pytest.mark.parametrize(
    ("family", "power", "expected"),
    [("obrien-fleming", 0.783, 0.751), ("hwang-shih-decani:1", 0.709, 0.666)],
)
def test_what_ten_looks_cost_and_save(family: str, power: float, expected: float):
    """Ten looks at a test of 80 % power: the power kept and the items expected, as drawn paths have them."""
    spending, shares = Spending.of(family), np.arange(1, 11) / 10
    found = looks_plan(0.8, 0.05, 10, spending)
    assert (found.power, found.expected) == (pytest.approx(power, abs=0.001), pytest.approx(expected, abs=0.001))
    drift = scipy_stats.norm.ppf(0.95) + scipy_stats.norm.ppf(0.8)
    paths = np.random.default_rng(2).normal(size=(100_000, 10)).cumsum(axis=1) * math.sqrt(0.1) + drift * shares
    crossed = paths / np.sqrt(shares) >= np.array(boundaries(tuple(shares), 0.05, spending))
    stop = np.where(crossed.any(1), shares[crossed.argmax(1)], 1.0)
    assert crossed.any(1).mean() == pytest.approx(found.power, abs=0.006)
    assert stop.mean() == pytest.approx(found.expected, abs=0.005)
