"""How many items a verdict needs: against the design's figures, the tests themselves, and drawn data."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import StatisticsError
from harness.stats import (
    can_ever_pass,
    items_for_pass,
    items_to_decide,
    paired_counts_test,
    paired_test,
    pass_power,
    smallest_detectable_drop,
)
from harness.stats.binary import score_p


def test_two_points_at_ten_percent_discordance_take_about_1550_items():
    """(z_.05 + z_.20)^2 p_d / m^2 = 1,546; the correction and the null's own variance add five percent."""
    assert items_for_pass(0.02, 0.1) == pytest.approx(1550, rel=0.06)
    assert items_for_pass(0.05, 0.1) == pytest.approx(250, rel=0.2)


@pytest.mark.parametrize(
    ("n", "margin", "discordance", "delta"),
    [(1600, 0.02, 0.1, 0.0), (300, 0.05, 0.1, 0.0), (500, 0.05, 0.15, -0.01), (250, 0.05, 0.05, 0.0)],
)
def test_planned_power_is_what_drawn_strata_show(n: int, margin: float, discordance: float, delta: float):
    """The share of drawn strata that pass is the planned power, within three points."""
    lost, gained = (discordance - delta) / 2, (discordance + delta) / 2
    drawn = np.random.default_rng(11).multinomial(n, [lost, gained, 1 - discordance], size=4000)
    tables, times = np.unique(drawn[:, :2], axis=0, return_counts=True)
    passed = [paired_counts_test(int(b), int(c), n, margin, 0.05).p_pass < 0.05 for b, c in tables]
    assert pass_power(n, margin, discordance, true_delta=delta) == pytest.approx(times[passed].sum() / 4000, abs=0.03)


def test_the_smallest_detectable_drop_is_found_as_often_as_asked():
    """Of drawn strata with that drop, 80 % fail, within three points."""
    drop = smallest_detectable_drop(600, 0.1, margin=0.02)
    assert drop is not None
    discordance = max(0.1, drop)
    shares = [(discordance + drop) / 2, (discordance - drop) / 2, 1 - discordance]
    drawn = np.random.default_rng(12).multinomial(600, shares, size=4000)
    tables, times = np.unique(drawn[:, :2], axis=0, return_counts=True)
    failed = [paired_counts_test(int(b), int(c), 600, 0.02, 0.05).p_fail < 0.05 for b, c in tables]
    assert times[failed].sum() / 4000 == pytest.approx(0.8, abs=0.03)


@given(st.integers(20, 3000), st.floats(0.01, 0.5), st.floats(0.0, 0.2))
def test_more_items_detect_smaller_drops(n: int, discordance: float, margin: float):
    """Detectable drops lie beyond the margin and shrink with items."""
    few = smallest_detectable_drop(n, discordance, margin=margin)
    many = smallest_detectable_drop(4 * n, discordance, margin=margin)
    assert many is not None
    assert margin < many
    assert few is None or many <= few + 1e-6


def test_what_no_number_of_items_can_show_is_none():
    """Without a margin no number of items passes, and one item detects no drop."""
    assert items_for_pass(0.0, 0.1) is None
    assert smallest_detectable_drop(1, 0.1) is None
    assert smallest_detectable_drop(0, 0.1) is None


@given(st.integers(0, 60), st.integers(0, 60), st.integers(1, 900), st.sampled_from([0.02, 0.05]))
def test_items_to_decide_decide(lost: int, gained: int, rest: int, margin: float):
    """With that many more items at the same rates the stratum is decided, with one fewer it is not."""
    n = lost + gained + rest
    found = items_to_decide(lost, gained, n, margin)
    if found is None:
        assert (gained - lost) / n == pytest.approx(-margin, abs=1e-3)
        return

    def decided(items: int) -> bool:
        share = items / n
        sides = ("greater", "less")
        return min(score_p(lost * share, gained * share, items, -margin, side) for side in sides) < 0.05

    assert decided(n + found)
    assert found == 0 or not decided(n + found - 1)


def test_a_stratum_at_its_margin_is_never_decided_by_more_items():
    """10 lost of 500 is two points: None, not a number."""
    assert items_to_decide(10, 0, 500, 0.02) is None
    assert items_to_decide(0, 0, 156, 0.02) == 0
    assert items_to_decide(0, 0, 100, 0.02) == 55


def test_items_to_decide_of_clusters_count_items_not_sources():
    """Where five items say as much as one, five times as many are needed."""
    alone = items_to_decide(4, 3, 100, 0.02)
    together = items_to_decide(4, 3, 100, 0.02, unit=5.0)
    assert alone is not None
    assert together == pytest.approx(5 * alone, abs=5)


def test_a_results_own_count_allows_for_sources_that_break_unseen():
    """40 sources with nothing lost cannot pass two points; the items asked for would bring enough sources."""
    result = paired_test(np.zeros(200), np.arange(200) % 40, margin=0.02)
    more = result.items_to_decide
    assert more is not None
    sources = round(1.02 * (40 + more / 5))  # it says "about": Student's t asks for a little more
    assert not can_ever_pass(200, 0.02, clusters=40)
    assert can_ever_pass(5 * sources, 0.02, clusters=sources)


def test_the_smallest_stratum_that_can_pass():
    """155 independent items at two points; sources, not items, where a source gives several."""
    assert not can_ever_pass(154, 0.02)
    assert can_ever_pass(155, 0.02)
    assert not can_ever_pass(0, 0.02)
    assert not can_ever_pass(10_000, 0.02, clusters=1)
    assert not can_ever_pass(10_000, 0.05, clusters=20)
    assert can_ever_pass(155, 0.02, clusters=155)


@pytest.mark.parametrize(
    "call",
    [
        lambda: items_for_pass(0.02, 0.0),
        lambda: items_for_pass(1.5, 0.1),
        lambda: items_for_pass(0.02, 0.1, power=1.0),
        lambda: items_for_pass(0.02, 0.1, alpha=0.6),
        lambda: pass_power(100, 0.02, 0.01, true_delta=-0.015),
        lambda: items_to_decide(1, 1, 0, 0.02),
        lambda: can_ever_pass(100, -0.02),
        lambda: can_ever_pass(100, 0.02, 0.0),
    ],
)
def test_what_cannot_be_planned_is_refused(call):
    """Shares, levels and margins that make no sense are errors with a message."""
    with pytest.raises(StatisticsError):
        call()
