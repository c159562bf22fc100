"""What a verdict must not depend on, and how it answers to a change of the data."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from making import Cell, judged, reordered, side, stratum

from harness.judge import compare, gate
from harness.judge.outcomes import Outcomes, build
from harness.judge.rules import Rules

RULES = Rules.from_flags(margin=0.05)
NUMBERS = ("n", "clusters", "delta", "low", "high", "lost", "gained", "mid_p", "p_pass", "p_fail", "verdict")


@st.composite
def cells(draw: st.DrawFn, least: int = 1) -> Cell:
    """Any counts of a stratum of at most 300 items."""
    n = draw(st.integers(least, 300))
    lost = draw(st.integers(0, n))
    gained = draw(st.integers(0, n - lost))
    return Cell(n, lost, gained, wrong=draw(st.integers(0, n - lost - gained)))


@st.composite
def sides(draw: st.DrawFn) -> tuple[Outcomes, Outcomes]:
    """Two sides of one or two strata: right or wrong or graded, each its own source or in clusters."""
    seed = draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    n, kinds = draw(st.integers(6, 60)), draw(st.sampled_from(["binary", "graded"]))
    before, after = rng.random((2, n)) * draw(st.sampled_from([0.5, 1.0]))
    if kinds == "binary":
        before, after = before.round(), after.round()
    size = draw(st.sampled_from([1, 3]))
    columns = {
        "slices": "s",
        "strata": [f"k={at % draw_count}" for at in range(n)] if (draw_count := draw(st.sampled_from([1, 2]))) else "",
        "clusters": [f"source {at // size}" for at in range(n)] if size > 1 else None,
    }
    ids = [f"i{at}" for at in range(n)]
    return build("a", ids, before, **columns), build("b", ids, after, **columns)


def _numbers(before: Outcomes, after: Outcomes, rules: Rules = RULES) -> list[dict[str, object]]:
    (candidate,) = gate.judge(compare.compare(before, [after], rules), rules).candidates
    return [{name: getattr(one, name) for name in NUMBERS} for one in candidate.strata]


@settings(max_examples=30, deadline=None)
@given(sides())
def test_swapping_the_sides_mirrors_every_interval(pair):
    """Baseline and candidate exchanged: delta, limits, and lost and gained change places, to the last bit."""
    before, after = pair
    for one, other in zip(_numbers(before, after), _numbers(after, before), strict=True):
        assert (one["delta"], one["low"], one["high"]) == (-other["delta"], -other["high"], -other["low"])
        assert (one["lost"], one["gained"]) == (other["gained"], other["lost"])


@settings(max_examples=30, deadline=None)
@given(sides())
def test_swapping_the_sides_mirrors_the_verdict(pair):
    """A side that fails against the other cannot be failed by it; it passes against it where it has signal."""
    before, after = pair
    rules = Rules.from_flags(margin=0.05, inconclusive="hold")
    for one, other in zip(_numbers(before, after, rules), _numbers(after, before, rules), strict=True):
        if one["verdict"] == "fail":
            assert other["verdict"] in ("pass", "no_signal", "inconclusive")
            assert other["low"] > 0.05


@settings(max_examples=20, deadline=None)
@given(sides(), st.integers(0, 2**32 - 1))
def test_the_order_of_items_does_not_matter(pair, seed):
    """Each side in an order of its own, as shards or other tools would give them: the same numbers, bit for bit."""
    rng = np.random.default_rng(seed)
    before, after = pair
    shuffled = [reordered(one, rng.permutation(len(one))) for one in pair]
    assert _numbers(*shuffled) == _numbers(before, after)


@settings(max_examples=20, deadline=None)
@given(sides())
def test_names_do_not_matter(pair):
    """Strata, sources and items under other names: the same numbers, bit for bit."""
    before, after = pair

    def renamed(one: Outcomes) -> Outcomes:
        return build(
            one.name,
            [f"{item[::-1]}?" for item in one.items],
            one.score,
            slices="other",
            strata=[f"name {one.stratum[at]}" for at in range(len(one))],
            clusters=[f"{hash(one.cluster[at])}" for at in range(len(one))],
        )

    assert _numbers(renamed(before), renamed(after)) == _numbers(before, after)


@settings(max_examples=30, deadline=None)
@given(cells(least=20), st.integers(1, 200))
def test_concordant_items_never_widen_the_claim(cell, more):
    """More items on which both sides agree: neither limit moves away from no change, and a pass stays a pass."""
    one = stratum(judged({"s/a": cell}), "s/a")
    more_cell = cell._replace(n=cell.n + more)
    other = stratum(judged({"s/a": more_cell}), "s/a")
    assert one.low > 0 or other.low >= one.low - 1e-12
    assert one.high < 0 or other.high <= one.high + 1e-12
    if one.verdict == "pass":
        assert other.verdict == "pass"


@settings(max_examples=30, deadline=None)
@given(cells(least=20))
def test_a_lost_item_never_helps(cell):
    """Turning an item that both got right into one that only the baseline got right lowers both limits."""
    if cell.lost + cell.gained + cell.wrong == cell.n:
        return
    one = stratum(judged({"s/a": cell}), "s/a")
    other = stratum(judged({"s/a": cell._replace(lost=cell.lost + 1)}), "s/a")
    assert other.low <= one.low + 1e-12
    assert other.high <= one.high + 1e-12
    assert not (one.verdict == "fail" and other.verdict != "fail")


@settings(max_examples=20, deadline=None)
@given(st.dictionaries(st.sampled_from("abcde"), cells(), min_size=2, max_size=5))
def test_a_pass_of_the_whole_is_a_pass_of_every_part(found):
    """The candidate passes exactly where every gating stratum does, and fails exactly where one does."""
    judgement = judged({f"s/{name}": cell for name, cell in found.items()})
    words = [one.verdict for one in judgement.candidates[0].strata]
    broken = any("gone wrong" in one for one in judgement.warnings)  # the baseline, if the candidate gains very much
    assert (judgement.exit_code == 0) == (set(words) == {"pass"} and not broken)
    assert (judgement.exit_code == 1) == ("fail" in words)
    for one in judgement.candidates[0].strata:
        assert one.verdict != "pass" or one.low > -one.margin
        assert one.verdict != "fail" or one.high < -one.margin


@settings(max_examples=20, deadline=None)
@given(st.lists(cells(least=50), min_size=2, max_size=3))
def test_a_candidate_does_not_depend_on_the_others(found):
    """Judged alone or beside others, a candidate gets the same numbers and words."""
    n = min(cell.n for cell in found)
    base = side("bf16", {"s/a": Cell(n, wrong=n // 5)}, 0)
    rng = np.random.default_rng(n)
    others = [
        dataclasses.replace(base, name=f"c{at}", score=np.where(rng.random(n) < 0.1, 0.0, base.score))
        for at in range(len(found))
    ]
    together = compare.compare(base, others, RULES)
    for at, one in enumerate(others):
        (alone,) = gate.judge(compare.compare(base, [one], RULES), RULES).candidates
        assert gate.judge(together, RULES).candidates[at].strata == alone.strata


def test_every_interval_has_width():
    """No interval is a point, not even where nothing flips or one item was asked."""
    for cell in (Cell(1), Cell(5), Cell(5000), Cell(3, lost=3), Cell(40, gained=40)):
        one = stratum(judged({"s/a": cell}), "s/a")
        assert one.high > one.low


def test_candidates_keep_their_order():
    """The table has the candidates as the config or the command line names them."""
    base = side("bf16", {"s/a": Cell(50)}, 0)
    sides_ = [dataclasses.replace(base, name=name) for name in ("z", "a", "m")]
    found = gate.judge(compare.compare(base, sides_, RULES), RULES, order=["m", "z", "a"])
    assert [one.name for one in found.candidates] == ["m", "z", "a"]


@pytest.mark.parametrize("names", [["hops=12", "hops=3", "hops=1"], ["b", "a"], ["x=2,y=10", "x=2,y=9"]])
def test_strata_stand_in_the_order_of_their_numbers(names):
    """hops=3 comes before hops=12, whatever order the items come in."""
    found = judged({f"s/{name}": Cell(10) for name in names})
    assert [one.stratum for one in found.candidates[0].strata] == list(reversed(names))
