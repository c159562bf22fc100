"""The stratified score test: one stratum is the plain test, limits mirror p-values, and an adversary gains nothing."""

from __future__ import annotations

import math

import numpy as np
import pytest

from harness.errors import StatisticsError
from harness.stats import paired_counts_test, paired_test
from harness.stats.binary import score_limit, score_p
from harness.stats.pooled import pooled_test, stratified_p
from harness.stats.units import shared_sources


@pytest.mark.parametrize("counts", [(0, 0, 200), (7, 3, 150), (20, 31, 400), (30, 0, 60)])
@pytest.mark.parametrize("alternative", ["greater", "less"])
def test_one_stratum_is_the_plain_score_test(counts, alternative):
    """The stratified test of a single stratum is Tango's corrected test, to rounding."""
    found = float(stratified_p(*([one] for one in counts), [1.0], -0.05, alternative))
    assert found == pytest.approx(score_p(*counts, -0.05, alternative), rel=1e-9)
    result = pooled_test([paired_counts_test(*counts, 0.05, 0.05)], [3.0], 0.05, 0.05)
    assert result.low == pytest.approx(score_limit(*counts, 0.05, "low"), abs=1e-9)
    assert result.high == pytest.approx(score_limit(*counts, 0.05, "high"), abs=1e-9)


def test_limits_and_p_values_say_the_same():
    """low > -margin where p_pass < alpha, high < -margin where p_fail < alpha, for unequal weights and sizes."""
    rng = np.random.default_rng(3)
    seen = set()
    for _ in range(60):
        strata = []
        for n in rng.integers(40, 400, 4):
            gain = rng.uniform(0.0, 0.14)
            lost, gained, _ = rng.multinomial(n, [0.07, gain, 0.93 - gain])
            strata.append(paired_counts_test(int(lost), int(gained), int(n), 0.1, 0.05))
        one = pooled_test(strata, rng.uniform(0.5, 3.0, 4).tolist(), 0.03, 0.05)
        assert (one.low > -0.03) == (one.p_pass < 0.05)
        assert (one.high < -0.03) == (one.p_fail < 0.05)
        assert one.low <= one.delta <= one.high
        seen.add((one.p_pass < 0.05, one.p_fail < 0.05))
    assert len(seen) == 3


@pytest.mark.parametrize(
    ("sizes", "weights", "margin", "own"),
    [
        ([65, 500, 500, 500, 500, 130, 130, 260, 2000, 500], [16, 2, 23, 3, 4, 13, 5, 27, 5, 2], 0.005, 0.05),
        ([33, 132, 500, 132, 66], [18.7, 22, 37.4, 7.5, 14.4], 0.01, 0.1),
        ([500, 34], [48.1, 51.9], 0.04, 0.2),
    ],
)
def test_a_drop_where_few_items_weigh_much_passes_no_more_often(sizes, weights, margin, own):
    """All of a drop of exactly the margin in the stratum with the fewest items for its weight: 7 to 10 % passed."""
    rng, n, shares = np.random.default_rng(8), np.array(sizes, float), np.array(weights) / sum(weights)
    heavy = int((shares / n).argmax())
    drops = np.where(np.arange(n.size) == heavy, margin / shares[heavy], 0.0)
    lost = rng.binomial(sizes, drops, size=(4000, n.size)).astype(float)
    zero = np.zeros_like(lost)
    passed = stratified_p(lost, zero, n, shares, -margin, "greater", most=own) < 0.05
    own_p = [stratified_p(lost[:, [at]], zero[:, [at]], n[[at]], [1.0], -own, "greater") for at in range(n.size)]
    assert (passed & (np.array(own_p) < 0.05).all(0)).mean() < 0.055


def test_ten_strata_need_a_sixth_of_the_items():
    """At 2 and 5 points, 531 items in each of ten strata pass together where 2 points each would take 3,163."""
    strata = [paired_counts_test(27, 27, 531, 0.05, 0.05)] * 10
    assert pooled_test(strata, [1.0] * 10, 0.02, 0.05).p_pass < 0.001
    assert strata[0].p_pass < 0.01
    assert paired_counts_test(27, 27, 531, 0.02, 0.05).p_pass > 0.05


def test_sources_in_several_strata_make_the_answer_less_sure():
    """The same damaged sources in every stratum: the variance grows by about the number of strata they are in."""
    rng = np.random.default_rng(1)
    source = np.tile(np.arange(200), 4)
    place = np.repeat(np.arange(4), 200)
    shared = np.tile(rng.normal(size=200), 4) / 800
    inflation, count = shared_sources(shared, place, source)
    assert count == 200
    assert inflation == pytest.approx(4.0, rel=0.02)
    assert shared_sources(shared, place, np.arange(800)) is None
    strata = [paired_counts_test(10, 10, 200, 0.05, 0.05)] * 4
    plain, wide = (pooled_test(strata, [1.0] * 4, 0.03, 0.05, shared=one) for one in (None, (inflation, count)))
    assert wide.low < plain.low
    assert wide.p_pass > plain.p_pass


def test_few_broken_sources_are_not_ruled_out_by_not_seeing_them():
    """Graded strata without any change: pooled, a share of items that no one saw break bounds what is shown."""
    graded = [paired_test(np.full(40, 1e-4), margin=0.3, graded=True)] * 3
    found = pooled_test(graded, [1.0] * 3, 0.02, 0.05)
    assert found.p_pass > math.pow(1.0 - 0.021, 120) * 0.9


def test_pooling_nothing_or_with_weights_of_zero_is_refused():
    """No strata, and a stratum that would not count, are errors."""
    one = paired_counts_test(1, 1, 100, 0.05, 0.05)
    for results, weights in (([], []), ([one, one], [1.0, 0.0])):
        with pytest.raises(StatisticsError, match="weights above 0"):
            pooled_test(results, weights, 0.02, 0.05)
