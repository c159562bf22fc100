"""Along an ordered axis: the cliff with its interval, and effective levels."""

from __future__ import annotations

import numpy as np
import pytest

from harness.judge import compare
from harness.judge.outcomes import build
from harness.judge.rules import Rules

RULES = Rules.from_flags(margin=0.05)
TOKENS = (256, 1024, 4096, 16384, 65536)


def _curve(before, after, *, n=200, levels=TOKENS, axis="tokens", other=None, flips=0):
    """One slice whose sides score so much at each level; `flips` items besides go each way."""
    rows = []
    for level, top, bottom in zip(levels, before, after, strict=True):
        right, kept = round(top * n), round(bottom * n)
        first = np.r_[np.ones(right), np.zeros(n - right)]
        second = np.r_[np.ones(kept), np.zeros(n - kept)]
        second[:flips], second[n - flips :] = 0.0, 1.0
        rows += [(f"{level}/{at}", str(level), a, b) for at, (a, b) in enumerate(zip(first, second, strict=True))]
    ids, names, first, second = zip(*rows, strict=True)
    columns = {axis: list(names)} | ({"depth": [other(at) for at in range(len(ids))]} if other else {})
    strata = [",".join(f"{key}={value[at]}" for key, value in columns.items()) for at in range(len(ids))]
    sides = [
        build(name, ids, s, slices="long", strata=strata, levels=columns) for name, s in (("a", first), ("b", second))
    ]
    return compare.compare(sides[0], sides[1:], RULES).candidates[0].cliffs


def test_the_cliff_is_where_the_drop_first_exceeds_the_margin():
    """Equal to 4k, 30 points down at 16k, 90 at 64k: the cliff is at 16k, and the data allow no other level."""
    (cliff,) = _curve([0.95] * 5, [0.95, 0.95, 0.95, 0.65, 0.05])
    assert (cliff.slice, cliff.axis, cliff.group) == ("long", "tokens", "")
    assert cliff.levels == TOKENS
    assert (cliff.at_low, cliff.at, cliff.at_high) == (16384, 16384, 16384)
    assert cliff.candidate == (0.95, 0.95, 0.95, 0.65, 0.05)


def test_the_interval_is_wide_where_the_data_are_few():
    """With 30 items a level no level is shown to hold and only the last is shown to fall: 256 to 64k."""
    (cliff,) = _curve([1.0] * 5, [1.0, 1.0, 0.967, 0.9, 0.5], n=30)
    assert (cliff.at_low, cliff.at_high) == (256, 65536)
    assert cliff.at == 16384  # the estimate: from here on every drop is above the margin


def test_no_drop_no_cliff():
    """Equal everywhere with enough items: no cliff, and none allowed by the data."""
    (cliff,) = _curve([0.95] * 5, [0.95] * 5)
    assert (cliff.at_low, cliff.at, cliff.at_high) == (None, None, None)


def test_a_drop_that_is_not_significant_is_no_cliff_yet_but_allowed():
    """Down 6 points of 200 at the last level: no cliff is claimed, one there is not excluded."""
    (cliff,) = _curve([0.95] * 5, [0.95, 0.95, 0.95, 0.95, 0.89], n=200)
    assert (cliff.at_low, cliff.at, cliff.at_high) == (65536, None, None)


def test_levels_where_the_baseline_is_at_the_floor_prove_nothing():
    """Both sides at 0 from 16k on: equal there, but no damage could be seen, so a cliff is not excluded."""
    (cliff,) = _curve([0.95, 0.95, 0.95, 0.0, 0.0], [0.95, 0.95, 0.95, 0.0, 0.0])
    assert (cliff.at_low, cliff.at_high) == (16384, None)


def test_many_levels_do_not_make_cliffs():
    """Twenty levels with chance flips: fails are adjusted over the levels (Holm), so equal sides have no cliff."""
    rng = np.random.default_rng(3)
    claimed = 0
    for _ in range(40):
        drops = rng.binomial(60, 0.05, 20) / 60
        (cliff,) = _curve([1.0] * 20, list(1 - drops), n=60, levels=range(1, 21), axis="hops")
        claimed += cliff.at is not None
    assert claimed <= 40 * 0.05 + 3 * np.sqrt(40 * 0.05 * 0.95)


def test_the_effective_level_is_the_longest_at_which_a_score_is_kept():
    """RULER's notion, at 0.85 of the baseline's score at the shortest level unless a score is stated."""
    (cliff,) = _curve([1.0, 0.95, 0.9, 0.88, 0.5], [1.0, 0.9, 0.7, 0.9, 0.1])
    assert cliff.score == pytest.approx(0.85)
    assert (cliff.effective_baseline, cliff.effective_candidate) == (16384, 1024)


def test_a_stated_score_is_taken_as_it_is():
    """0.92 absolute: the baseline keeps it to 1k; a side that misses it at the first level has no effective level."""
    rules = Rules(RULES.policy.model_copy(update={"effective_score": 0.92}))
    ids = [f"{at}" for at in range(400)]
    levels = {"tokens": ["256"] * 200 + ["1024"] * 200}
    before = build("a", ids, np.r_[np.ones(200), np.ones(190), np.zeros(10)], levels=levels)
    after = build("b", ids, np.r_[np.ones(180), np.zeros(20), np.ones(200)], levels=levels)
    (cliff,) = compare.compare(before, [after], rules).candidates[0].cliffs
    assert (cliff.score, cliff.effective_baseline, cliff.effective_candidate) == (0.92, 1024, None)


def test_levels_are_ordered_as_numbers():
    """1024 comes after 256, not before it."""
    (cliff,) = _curve([1.0] * 3, [1.0] * 3, levels=(1024, 256, 4096))
    assert cliff.levels == (256, 1024, 4096)


def test_an_axis_of_names_has_no_order():
    """Languages have no cliff."""
    assert _curve([1.0, 1.0], [1.0, 1.0], levels=("de", "en"), axis="language") == ()


def test_the_other_axes_are_held_and_pooled():
    """Two depths: the pooled curve first, then one at each depth; depth, a number too, has its own curves."""
    found = _curve([1.0] * 3, [1.0, 1.0, 0.5], levels=(256, 1024, 4096), other=lambda at: str(at % 2))
    assert [one.group for one in found if one.axis == "tokens"] == ["", "depth=0", "depth=1"]
    assert [one.group for one in found if one.axis == "depth"] == ["", "tokens=1024", "tokens=256", "tokens=4096"]
    assert {one.at for one in found if one.axis == "tokens"} == {4096}
