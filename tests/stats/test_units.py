"""Design effect, bootstrap and sign-flips: against textbook formulas and other implementations."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from lazily import lazy

from harness.errors import StatisticsError
from harness.stats import paired_test
from harness.stats.units import (
    broken_limit,
    broken_p,
    effective_counts,
    make_units,
    mirrored,
    sign_flip_p,
    sign_flips,
    studentised,
    transformed,
)

scipy_stats = lazy("scipy.stats")

sm = lazy("statsmodels.api")


def rng(seed: int = 0) -> np.random.Generator:
    """A generator of its own for every use."""
    return np.random.default_rng(seed)


def clustered(sources: int, size: int, shared: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Right-or-wrong differences whose items follow their source with chance `shared`."""
    draw = rng(seed)
    of_source = np.repeat(draw.choice([-1.0, 0.0, 1.0], p=[0.15, 0.75, 0.1], size=sources), size)
    own = draw.choice([-1.0, 0.0, 1.0], p=[0.15, 0.75, 0.1], size=sources * size)
    return np.where(draw.random(own.size) < shared, of_source, own), np.repeat(np.arange(sources), size)


def test_the_standard_error_is_that_of_clustered_least_squares():
    """The ratio's variance by cluster sums is statsmodels' CR1 but for its factor (n - 1) / (n - 1)."""
    diffs, codes = clustered(40, 6, 0.6)
    diffs = diffs * rng(1).random(diffs.size)
    found = studentised(make_units(diffs, codes), rng())
    fit = sm.OLS(diffs, np.ones_like(diffs)).fit(cov_type="cluster", cov_kwds={"groups": codes})
    assert found is not None
    assert found.se == pytest.approx(float(fit.bse[0]), rel=1e-9)
    assert found.delta == pytest.approx(float(fit.params[0]))


def test_the_design_effect_is_kishs():
    """With every item following its source it is the cluster size; with items on their own about 1."""
    diffs, codes = clustered(300, 5, 1.0)
    assert effective_counts(make_units(diffs, codes)).design_effect == pytest.approx(5.0, rel=0.01)
    alone, codes = clustered(2000, 5, 0.0)
    assert effective_counts(make_units(alone, codes)).design_effect == pytest.approx(1.0, abs=0.08)
    diffs, codes = clustered(3000, 5, np.sqrt(0.3))
    assert effective_counts(make_units(diffs, codes)).design_effect == pytest.approx(1 + 4 * 0.3, rel=0.08)


def test_independent_right_or_wrong_items_count_as_they_are():
    """Without clusters the effective counts are the counts."""
    diffs = rng().choice([-1.0, 0.0, 1.0], p=[0.1, 0.8, 0.1], size=400)
    counts = effective_counts(make_units(diffs, None))
    assert (counts.lost, counts.gained, counts.n) == pytest.approx(((diffs < 0).sum(), (diffs > 0).sum(), 400))
    assert counts.unit == pytest.approx(1.0)


def test_small_graded_differences_count_as_more_items():
    """Differences of a tenth have a tenth of the unit's variance per mass, so an item says as much as ten."""
    diffs = rng().choice([-0.1, 0.1], size=4000)
    counts = effective_counts(make_units(diffs, None))
    assert counts.unit == pytest.approx(0.1, rel=0.02)
    assert (counts.gained - counts.lost) / counts.n == pytest.approx(diffs.mean())


def test_no_data_give_the_worst_design_effect():
    """Where nothing moved, each source is taken to move as one."""
    counts = effective_counts(make_units(np.zeros(100), np.arange(100) // 5))
    assert counts.n == pytest.approx(20.0)


@pytest.mark.parametrize(("sizes", "top"), [([5] * 40, 40), ([50] * 8 + [1] * 400, 8), ([200] + [1] * 200, 1)])
def test_sources_count_by_the_damage_that_the_largest_can_hide(sizes: list[int], top: int):
    """Damage of which the largest show nothing with chance 5 % goes unseen in as many equal sources as often."""
    units = make_units(np.zeros(sum(sizes)), np.repeat(np.arange(len(sizes)), sizes))
    share = 1.0 - 0.05 ** (1.0 / top)  # of the largest that break
    damage = share * sum(sorted(sizes)[-top:]) / sum(sizes)
    assert (1.0 - damage) ** units.sources == pytest.approx(0.05)
    assert units.sources <= len(sizes) * (1 + 1e-12)


def test_sources_that_move_as_one_keep_the_error_rate():
    """At its margin of five points 18 % passed: 30 sources of ten items beside 300 of one, each right or lost whole."""
    codes, random = np.repeat(np.arange(330), [10] * 30 + [1] * 300), rng(11)
    found = [paired_test(-1.0 * (random.random(330) < 0.05)[codes], codes, margin=0.05) for _ in range(200)]
    assert sum(one.p_pass < 0.05 for one in found) <= 15


@pytest.mark.parametrize(
    ("sources", "size", "margin", "worst", "gain"),
    [(50, 5, 0.05, 1.0, 0.2), (20, 5, 0.05, 1.0, 0.4), (36, 1, 0.3, 1.0, 0.2), (36, 1, 0.1, 0.8, 0.4)],
)
def test_many_gains_do_not_hide_a_few_that_break(sources: int, size: int, margin: float, worst: float, gain: float):
    """All units gain alike, but those that break: exactly at the margin 6 to 8 % passed, by the binomial law."""
    share, passed = (margin + gain) / (worst + gain), 0.0
    for broken in range(math.ceil(share * sources)):
        diffs = np.repeat(np.where(np.arange(sources) < broken, -worst, gain), size)
        if paired_test(diffs, np.repeat(np.arange(sources), size), margin=margin).p_pass < 0.05:
            passed += float(scipy_stats.binom.pmf(broken, sources, share))
    assert passed < 0.05


@given(st.lists(st.floats(-1, 1), min_size=2, max_size=40), st.integers(1, 4), st.sampled_from([0.01, 0.05, 0.2]))
@example(values=[-1.0, -1.0], size=1, alpha=0.01)
def test_broken_units_have_a_limit_where_their_p_is_alpha(values: list[float], size: int, alpha: float):
    """The limit turns the test round, also where all is lost, and where nothing varies."""
    units = make_units(np.repeat(values, size), np.repeat(np.arange(len(values)), size))
    low = broken_limit(units, alpha)
    assert low <= units.delta
    assert broken_p(units, units.delta) == 1.0
    assert low < -1.0 + 1e-6 or broken_p(units, low - 1e-6) < alpha + 1e-9  # no difference is below -1
    assert units.delta - low < 1e-6 or broken_p(units, low + 1e-6) > alpha - 1e-9


@pytest.mark.parametrize("lost", [3, 5, 6, 7, 8, 12, 20])
def test_a_few_total_losses_among_small_gains_are_judged_as_poisson(lost: int):
    """Of 3,000 graded items at a margin of 0.2 points, 12 losses are expected: p is that of so few, or more."""
    diffs = np.full(3000, 0.002)
    diffs[:lost] = -1.0
    fewer, exact = (float(scipy_stats.poisson.cdf(count, 12.0)) for count in (lost - 1, lost))
    law = transformed(make_units(diffs, None), math.inf)
    assert law is not None
    assert fewer < law.p_value(-0.002) < (1.1 * exact + 0.002 if lost > 5 else 0.06)
    found = paired_test(diffs, margin=0.002)
    assert found.method.endswith("t without skewness")
    assert (found.p_pass < 0.05) <= (exact < 0.05)


def test_unequal_sources_have_fewer_degrees_of_freedom():
    """Equal ones have one fewer than they are; one that holds nearly all leaves next to none, and nothing passes."""
    assert effective_counts(make_units(np.zeros(200), np.arange(200) // 5)).df == 39.0
    codes = np.repeat(np.arange(101), [2000] + [1] * 100)
    assert effective_counts(make_units(np.zeros(2100), codes)).df < 0.01
    result = paired_test(np.where(np.arange(2100) % 50 == 7, -1.0, 0.0), codes, margin=0.2)
    assert (result.low, result.high) == (-1.0, 1.0)


def test_clusters_that_never_repeat_are_no_clusters():
    """A label per item changes nothing."""
    diffs = rng().choice([-1.0, 0.0, 1.0], size=50)
    one, other = make_units(diffs, None), make_units(diffs, rng().permutation(50))
    assert not other.clustered
    assert np.array_equal(one.sums, other.sums)


def test_labels_must_fit():
    """A label short is an error."""
    with pytest.raises(StatisticsError, match="one each"):
        make_units(np.zeros(5), np.arange(4))


@given(st.lists(st.tuples(st.floats(-1, 1), st.integers(0, 6)), min_size=1, max_size=60), st.randoms())
def test_units_depend_on_nothing_but_the_values(rows: list[tuple[float, int]], random):
    """Order of items, names of clusters and the direction of the difference leave the units as they are, bit by bit."""
    diffs, codes = (np.array(column) for column in zip(*rows, strict=True))
    units, _ = mirrored(make_units(diffs, codes))
    random.shuffle(rows)
    diffs, codes = (np.array(column) for column in zip(*rows, strict=True))
    for sign in (1.0, -1.0):
        other, _ = mirrored(make_units(sign * diffs, np.array([f"s{99 - code}" for code in codes])))
        assert np.array_equal(units.sums, other.sums)
        assert np.array_equal(units.masses, other.masses)
        assert units.squares == other.squares


def test_the_bootstrap_agrees_with_scipys():
    """Studentised limits of a plain sample lie where scipy's BCa limits lie, to a tenth of the width."""
    diffs = np.clip(rng(3).normal(0.01, 0.2, 300), -1, 1)
    law = studentised(make_units(diffs, None), rng(4))
    assert law is not None
    other = scipy_stats.bootstrap((diffs,), np.mean, confidence_level=0.9, method="BCa", random_state=rng(5))
    low, high = law.limit(0.05), -law.mirrored().limit(0.05)
    width = high - low
    assert low == pytest.approx(other.confidence_interval.low, abs=0.1 * width)
    assert high == pytest.approx(other.confidence_interval.high, abs=0.1 * width)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(-1, 1).map(lambda value: round(value, 2)), min_size=2, max_size=40),
    st.floats(-0.9, 0.9),
    st.sampled_from([0.0001, 0.004, 0.006, 0.0125, 0.05, 0.2]),
    st.booleans(),
)
def test_resampled_limits_and_tests_are_dual(diffs: list[float], null: float, alpha: float, grouped: bool):
    """The p-value is below alpha exactly where the limit lies beyond the null, in the far tail too."""
    units = make_units(np.array(diffs), np.arange(len(diffs)) // 2 if grouped else None)
    laws = [studentised(units, rng(1), draws=999), sign_flips(units, rng(2), flips=399), transformed(units, math.inf)]
    for law in laws:
        if law is None:
            continue
        low, high = law.limit(alpha), -law.mirrored().limit(alpha)
        above, below = law.p_value(null), law.mirrored().p_value(-null)
        if abs(low - null) > 1e-9 and abs(above / alpha - 1.0) > 1e-9:
            assert (above < alpha) == (low > null)
        if abs(high - null) > 1e-9 and abs(below / alpha - 1.0) > 1e-9:
            assert (below < alpha) == (high < null)


def test_a_resampled_tail_reaches_further_than_its_draws():
    """Seven standard errors away the p-value is far below one over the draws, and still falls."""
    law = studentised(make_units(rng(6).normal(0, 0.1, 400), None), rng(7))
    assert law is not None
    near, far = (law.p_value(law.delta - reach * law.se) for reach in (5.0, 7.0))
    assert 0.0 < far < near < 1e-5


def test_units_without_spread_have_no_bootstrap():
    """Equal differences leave nothing to studentise."""
    assert studentised(make_units(np.full(30, 0.2), None), rng()) is None
    assert studentised(make_units(np.full(30, 0.2), np.zeros(30)), rng()) is None


SESSION = """
>>> import numpy as np
>>> from scipy import stats                                              # scipy 1.17.1
>>> d = np.array([-1, -1, -.5, 0, .25, -.75, 1, -.5])
>>> stats.permutation_test((d,), np.sum, permutation_type="samples", alternative="less", n_resamples=np.inf).pvalue
0.140625
"""


def test_sign_flips_agree_with_scipys_permutation_test():
    """All patterns of eight units, scipy's answer pasted above."""
    diffs = np.array([-1, -1, -0.5, 0, 0.25, -0.75, 1, -0.5])
    worse, better = sign_flip_p(make_units(diffs, None), rng())
    assert worse == float(SESSION.rsplit(maxsplit=1)[-1])
    assert better == 1 - worse + (np.abs(sum_of_signs(diffs) - diffs.sum()) < 1e-9).mean()


def sum_of_signs(diffs: np.ndarray) -> np.ndarray:
    """Every sum that flipping signs can give."""
    bits = (np.arange(2**diffs.size)[:, None] >> np.arange(diffs.size)) & 1
    return (2.0 * bits - 1.0) @ np.abs(diffs)


def test_whole_cluster_flips_are_exact():
    """The convolved law of cluster sums is that of all their sign patterns."""
    diffs, codes = clustered(14, 4, 0.7, seed=2)
    units = make_units(diffs, codes)
    sums = sum_of_signs(units.sums)
    worse, better = sign_flip_p(units, rng())
    assert worse == pytest.approx((sums <= units.sums.sum()).mean(), abs=1e-12)
    assert better == pytest.approx((sums >= units.sums.sum()).mean(), abs=1e-12)


def test_flips_of_single_items_are_mcnemars_exact_test():
    """Where every item is its own source, flipping signs is McNemar."""
    diffs = np.repeat([-1.0, 1.0, 0.0], [27, 19, 453])
    worse, better = sign_flip_p(make_units(diffs, None), rng())
    assert worse == pytest.approx(scipy_stats.binomtest(27, 46, alternative="greater").pvalue, abs=1e-12)
    assert better == pytest.approx(scipy_stats.binomtest(27, 46, alternative="less").pvalue, abs=1e-12)


def test_sampled_and_normal_sign_flips_agree_with_the_exact_ones():
    """200 moving units of half a point are sampled, 201 are not; all say nearly what McNemar says."""
    diffs = np.concatenate([np.full(120, -0.5), np.full(80, 0.5)])
    exact = scipy_stats.binomtest(120, 200, alternative="greater").pvalue
    assert sign_flip_p(make_units(diffs, None), rng())[0] == pytest.approx(exact, abs=0.002)
    assert sign_flip_p(make_units(np.append(diffs, 1e-9), None), rng())[0] == pytest.approx(exact, abs=0.002)
    assert sign_flip_p(make_units(np.zeros(5), None), rng()) == (1.0, 1.0)


def test_typical_values_are_the_sign_flip_test_of_every_null():
    """p-values read off subset means are those of flipping signs about the null, one null at a time (Hartigan 1969)."""
    diffs, codes = clustered(9, 4, 0.5, seed=8)
    units = make_units(diffs, codes)
    law = sign_flips(units, rng())
    for null in (-0.4, -0.11, 0.0, 0.07):
        residual = make_units(diffs, codes).sums - null * units.sizes
        bits = ((np.arange(2**9)[:, None] >> np.arange(9)) & 1) * -2.0 + 1.0
        beyond = (bits @ residual >= residual.sum() - 1e-12).mean()
        assert law.p_value(null) == pytest.approx(beyond, abs=1e-12)


def test_equal_sizes_of_either_sign_sum_alike_in_any_order():
    """Differences of one size and both signs, in every order: not a bit of the rounded sums changes."""
    rng = np.random.default_rng(3)
    sizes = np.repeat(rng.uniform(0.0, 1.0, 40), 2)
    diffs = sizes * np.tile([1.0, -1.0], 40)
    codes = np.repeat([0, 1], 40)
    first = make_units(diffs, codes)
    for _ in range(50):
        order = rng.permutation(80)
        assert np.array_equal(make_units(diffs[order], codes[order]).sums, first.sums)
        assert np.array_equal(np.sort(make_units(-diffs[order], codes[order]).sums), np.sort(-first.sums))
