"""The one way into the statistics, `paired_test`: what it says of a stratum never depends on how it was told."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from harness.errors import StatisticsError
from harness.stats import PairedResult, paired_counts_test, paired_test
from harness.stats.binary import score_limit


@st.composite
def strata(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray | None]:
    """Differences and sources: right or wrong or graded, on their own or in clusters, few or many."""
    n = draw(st.integers(1, 120))
    seed = draw(st.integers(0, 2**32))
    random = np.random.default_rng(seed)
    moving = draw(st.sampled_from([0.0, 0.05, 0.3, 1.0]))
    diffs = random.choice([-1.0, 1.0], size=n) * (random.random(n) < moving)
    if draw(st.booleans()):
        diffs = np.round(diffs * random.random(n), 3)
    size = draw(st.sampled_from([None, 2, 7, 200]))
    return diffs, None if size is None else random.integers(0, max(n // size, 1), size=n)


def verdict(result: PairedResult) -> str:
    """The word that DESIGN.md section 3 gives it."""
    if result.low > -result.margin:
        return "pass"
    return "fail" if result.high < -result.margin else "inconclusive"


@settings(max_examples=80, deadline=None)
@given(strata(), st.sampled_from([0.02, 0.1, 0.4]), st.sampled_from([0.002, 0.05, 0.2]))
def test_limits_and_p_values_say_the_same(stratum: tuple[np.ndarray, np.ndarray | None], margin: float, alpha: float):
    """Pass exactly where the lower limit is above -margin, fail exactly where the upper one is below it."""
    result = paired_test(*stratum, margin=margin, alpha=alpha)
    assume(abs(result.p_pass - alpha) > 1e-9 and abs(result.p_fail - alpha) > 1e-9)
    assert (result.p_pass < alpha) == (result.low > -margin)
    assert (result.p_fail < alpha) == (result.high < -margin)
    assert -1.0 <= result.low <= result.delta + 1e-12
    assert result.delta - 1e-12 <= result.high <= 1.0


@settings(max_examples=80, deadline=None)
@given(strata(), st.randoms())
def test_order_and_names_change_nothing(stratum: tuple[np.ndarray, np.ndarray | None], random):
    """Shuffled items with renamed sources give the same result, to the last bit."""
    diffs, codes = stratum
    order = list(range(diffs.size))
    random.shuffle(order)
    renamed = None if codes is None else np.array([f"source {500 - code}" for code in codes[order]])
    assert paired_test(diffs[order], renamed, margin=0.02) == paired_test(diffs, codes, margin=0.02)


@settings(max_examples=80, deadline=None)
@given(strata())
def test_swapping_the_sides_mirrors_limits(stratum: tuple[np.ndarray, np.ndarray | None]):
    """Baseline and candidate swapped: every limit changes its sign and nothing else."""
    diffs, codes = stratum
    one, other = paired_test(diffs, codes, margin=0.1), paired_test(-diffs, codes, margin=0.1)
    assert (one.low, one.high, one.delta) == (-other.high, -other.low, -other.delta)
    assert (one.lost, one.gained) == (other.gained, other.lost)
    assert one.design_effect == other.design_effect
    assert one.mid_p == pytest.approx(other.mid_p_better, abs=0.03)


@settings(max_examples=60, deadline=None)
@given(strata())
def test_no_interval_is_without_width(stratum: tuple[np.ndarray, np.ndarray | None]):
    """However equal the differences are, finitely many items leave something open."""
    result = paired_test(*stratum, margin=0.02)
    assert result.high - result.low > 0.2 / result.n


@given(st.integers(0, 30), st.integers(0, 30), st.integers(0, 400), st.integers(1, 300))
def test_items_that_agree_never_make_a_drop_more_likely(lost: int, gained: int, rest: int, more: int):
    """More concordant items never turn a pass into anything else, nor lower the lower limit below zero."""
    n = lost + gained + max(rest, 1)
    before = paired_counts_test(lost, gained, n, 0.05, 0.05)
    after = paired_counts_test(lost, gained, n + more, 0.05, 0.05)
    assert min(after.low, 0.0) >= min(before.low, 0.0) - 1e-12
    assert not (verdict(before) == "pass" and verdict(after) != "pass")


def test_right_or_wrong_items_are_judged_by_tangos_corrected_interval():
    """The limits are those of the two-sided interval at level 1 - 2 alpha."""
    diffs = np.repeat([-1.0, 1.0, 0.0], [12, 5, 283])
    result = paired_test(diffs, margin=0.02, alpha=0.05)
    limits = (score_limit(12, 5, 300, 0.05, "low"), score_limit(12, 5, 300, 0.05, "high"))
    assert (result.low, result.high) == pytest.approx(limits, abs=1e-12)
    assert (result.n, result.clusters, result.lost, result.gained) == (300, 300, 12, 5)
    assert result.design_effect is None
    assert result == paired_counts_test(12, 5, 300, 0.02, 0.05)


def test_clusters_widen():
    """Items that follow their source say less than items on their own, and the design effect is reported."""
    diffs = np.repeat(np.repeat([-1.0, 1.0, 0.0], [4, 4, 72]), 5)
    alone = paired_test(diffs, margin=0.05)
    together = paired_test(diffs, np.arange(400) // 5, margin=0.05)
    assert together.low < alone.low
    assert together.high > alone.high
    assert together.design_effect == pytest.approx(5.0, rel=0.02)
    assert (together.clusters, together.n) == (80, 400)


def test_few_clusters_never_claim_much():
    """Four sources cannot decide anything at 5 %: their sixteen sign patterns do not reach it."""
    for value in (0.0, 1.0):
        result = paired_test(np.full(400, value), np.arange(400) % 4, margin=0.1)
        assert result.p_pass >= 1 / 16
        assert verdict(result) == "inconclusive"


def test_graded_scores_are_not_cut_to_right_or_wrong():
    """Small drops everywhere count for what they are: twenty points on a margin of ten fail, two points pass."""
    random = np.random.default_rng(3)
    worse = paired_test(np.clip(random.normal(-0.2, 0.1, 200), -1, 1), margin=0.1)
    fine = paired_test(np.clip(random.normal(-0.02, 0.1, 200), -1, 1), margin=0.1)
    assert (verdict(worse), verdict(fine)) == ("fail", "pass")


def test_fifty_graded_items_cannot_exclude_a_catastrophe_in_fifty():
    """Tiny differences on 50 items prove nothing against one item in fifty breaking: (1 - 0.02)^50 = 36 %."""
    result = paired_test(np.random.default_rng(4).normal(0.0, 0.001, 50), margin=0.02)
    assert result.p_pass > 0.3
    assert verdict(result) == "inconclusive"


def test_one_item_is_an_honest_wide_interval():
    """A single item is judged, and nothing follows from it."""
    result = paired_test([0.0], margin=0.02)
    assert result.low < -0.9
    assert result.high > 0.9
    single = paired_test([0.5, 0.5], ["a", "a"], margin=0.02)
    assert (single.low, single.high) == (-1.0, 1.0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: paired_test([], margin=0.02), "no items"),
        (lambda: paired_test([0.0, np.nan], margin=0.02), "missing score"),
        (lambda: paired_test([0.0, 1.5], margin=0.02), "scores must lie"),
        (lambda: paired_test([[0.0, 1.0]], margin=0.02), "one difference per item"),
        (lambda: paired_test([0.0, 1.0], ["a"], margin=0.02), "one each"),
        (lambda: paired_test([0.0], margin=-0.1), "margin"),
        (lambda: paired_test([0.0], margin=0.02, alpha=0.5), "alpha"),
        (lambda: paired_test([0.0], margin=0.02, alpha=0.0), "alpha"),
        (lambda: paired_test([0.0], margin=0.02, alpha=np.nan), "alpha"),
        (lambda: paired_counts_test(3, 3, 5, 0.02, 0.05), "together"),
    ],
)
def test_bad_data_are_an_error_that_says_what_is_wrong(call, message: str):
    """NaN, scores outside [0, 1], nothing at all: refused, never judged."""
    with pytest.raises(StatisticsError, match=message):
        call()
