"""Holm, Benjamini-Hochberg and Tarone, against statsmodels and scipy and by what they promise."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lazily import lazy

from harness.errors import StatisticsError
from harness.stats import benjamini_hochberg, holm, smallest_fail_p, tarone_can_reject
from harness.stats.binary import score_p

scipy_stats = lazy("scipy.stats")

multitest = lazy("statsmodels.stats.multitest")

p_values = st.lists(st.floats(0.0, 1.0), min_size=1, max_size=60)


@settings(max_examples=25)
@given(p_values)
def test_holm_agrees_with_statsmodels(p: list[float]):
    """Plain Holm, which statsmodels gives only when asked by name: its default is Holm-Sidak."""
    assert holm(p) == pytest.approx(multitest.multipletests(p, method="holm")[1], abs=1e-12)


def test_holm_is_not_holm_sidak():
    """The two differ where it matters, so the test above tells them apart."""
    p = [0.012, 0.03, 0.04]
    assert abs(holm(p) - multitest.multipletests(p)[1]).max() > 1e-4


@given(p_values)
def test_benjamini_hochberg_agrees_with_scipy(p: list[float]):
    """Step-up adjusted p-values are scipy's false_discovery_control."""
    assert benjamini_hochberg(p) == pytest.approx(scipy_stats.false_discovery_control(p), abs=1e-12)


@given(p_values, st.randoms())
def test_order_does_not_matter(p: list[float], random):
    """Adjusted p-values belong to their tests, however these are listed."""
    order = list(range(len(p)))
    random.shuffle(order)
    for method in (holm, benjamini_hochberg):
        assert np.array_equal(method(p)[order], method([p[at] for at in order]))


def test_no_tests_are_no_error():
    """A candidate without gating strata has nothing to adjust."""
    assert holm([]).size == 0
    assert benjamini_hochberg([]).size == 0
    assert tarone_can_reject([], 0.05).size == 0


def test_tarone_leaves_out_what_cannot_reject():
    """Of four strata at alpha/2 only two could ever reject: the family is those two, Tarone 1990."""
    assert tarone_can_reject([0.001, 0.5, 0.02, 0.03], 0.05).tolist() == [True, False, True, False]
    assert tarone_can_reject([0.5, 0.6], 0.05).tolist() == [False, False]
    assert tarone_can_reject([0.01, 0.01], 0.05).tolist() == [True, True]


@given(p_values)
def test_tarones_family_is_no_larger_than_it_claims(smallest: list[float]):
    """There is a size K that holds the family and at whose level, alpha / K, each of its tests can reject."""
    kept = tarone_can_reject(smallest, 0.05)
    size = max(int(kept.sum()), 1)
    assert (np.asarray(smallest)[kept] <= 0.05 / size).all()


def test_tarone_drops_strata_of_few_discordant_items_from_mcnemar():
    """With 20 strata, fewer than 9 discordant items cannot reject at alpha / 20: 2^-8 > 0.0025."""
    discordant = np.array([3, 8, 9, *[30] * 17])
    kept = tarone_can_reject(0.5**discordant, 0.05)
    assert kept.tolist() == [False, False, True, *[True] * 17]


def test_smallest_fail_p_is_that_of_losing_everything():
    """No table of n items gives the fail test a smaller p-value than all items lost."""
    for n, margin in ((3, 0.02), (12, 0.1)):
        smallest = min(
            score_p(lost, gained, n, -margin, "less") for lost in range(n + 1) for gained in range(n + 1 - lost)
        )
        assert smallest_fail_p(n, margin) == pytest.approx(smallest)
    assert smallest_fail_p(0, 0.02) == 1.0


@pytest.mark.parametrize("bad", [[0.1, math.nan], [1.1], [-0.1], [[0.1, 0.2]]])
def test_what_is_no_p_value_is_refused(bad):
    """NaN, values outside [0, 1] and tables raise; a missing p-value is never a small or a large one."""
    for method in (holm, benjamini_hochberg, lambda p: tarone_can_reject(p, 0.05)):
        with pytest.raises(StatisticsError):
            method(bad)


def test_a_family_error_rate_needs_an_alpha():
    """An alpha outside (0, 0.5) is refused."""
    with pytest.raises(StatisticsError, match="alpha"):
        tarone_can_reject([0.1], 0.7)
