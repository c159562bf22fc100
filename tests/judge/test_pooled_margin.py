"""A pooled margin beside each stratum's own: both must hold, and the report says what may still be hidden."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from making import Cell, judged, side

from harness.config.schema import Policy
from harness.judge import compare, gate
from harness.judge.outcomes import build
from harness.judge.rules import Rules
from harness.report.words import headline, promises

STRATA = [f"s/{name}" for name in "abcdefghij"]


def _rules(**policy: object) -> Rules:
    return Rules(Policy.model_validate({"margin": 0.05, "pooled_margin": 0.02} | policy))


def test_ten_strata_of_531_items_pass_at_two_and_five_points():
    """None of them could pass two points alone; together they do, and none drops by five."""
    found = judged(dict.fromkeys(STRATA, Cell(531, 27, 27)), _rules())
    (one,) = found.candidates
    assert (found.verdict, one.pooled.verdict, one.pooled.n) == ("pass", "pass", 5310)
    assert one.pooled.low > -0.02
    first, second = promises(one)
    assert "over 10 gating strata together, by traffic: +0.0 [-0.7, +0.7] points, margin 2.0: pass" in first
    assert "10 of 10 gating strata pass their own margin; one of them may still hide a drop of 2.4 points" in second
    assert one.to_json()["pooled"]["stratum"] == "pooled"


def test_damage_spread_thin_passes_every_stratum_and_fails_together():
    """Three points everywhere: each stratum is within five, the ten together are not within two."""
    found = judged(dict.fromkeys(STRATA, Cell(1000, 40, 10)), _rules())
    (one,) = found.candidates
    assert {each.verdict for each in one.strata} == {"pass"}
    assert (one.pooled.verdict, found.verdict, found.exit_code) == ("fail", "fail", 1)
    assert headline(one).startswith("all/pooled fails: -3.0 points against a margin of 2: 400 lost, 100 gained")


def test_damage_in_one_stratum_is_caught_by_its_own_margin():
    """Sixteen points in one of ten: the mean drops by less than two, and the stratum fails."""
    found = judged(dict.fromkeys(STRATA, Cell(531, 27, 27)) | {"s/c": Cell(531, 110, 26)}, _rules())
    (one,) = found.candidates
    assert [f"s/{each.stratum}" for each in one.strata if each.verdict == "fail"] == ["s/c"]
    assert found.verdict == "fail"
    assert one.pooled.verdict == "inconclusive"  # what remains open decides nothing any more


def test_without_a_pooled_margin_nothing_is_new():
    """The same data under the old policy: no new key, no promise."""
    one = judged({"s/a": Cell(200, 3)}).candidates[0]
    assert one.pooled is None
    assert "pooled" not in one.to_json()
    assert promises(one) == []
    assert not {"pooled_margin", "spending", "advisory"} & Policy().model_dump().keys()


def test_advisory_strata_do_not_enter_the_pooled_difference():
    """A glob of the policy takes a stratum out of the decision and out of the mean."""
    cells = dict.fromkeys(STRATA, Cell(531, 27, 27)) | {"s/c": Cell(531, 200, 0)}
    found = judged(cells, _rules(advisory=["s/c"]))
    assert found.verdict == "pass"
    assert found.candidates[0].pooled.n == 9 * 531


def test_weights_are_the_planned_traffic():
    """A stratum with nine tenths of the traffic has nine tenths of the weight, however many items it has."""
    cells = {"s/big": Cell(400, 8, 8), "s/small": Cell(400, 40, 0)}
    sides = [side(name, cells, at) for at, name in enumerate(("a", "b"))]
    heavy = np.where([one.startswith("s/big") for one in sides[0].items], 9.0, 1.0)
    sides = [dataclasses.replace(one, weight=heavy) for one in sides]
    one = gate.judge(compare.compare(sides[0], sides[1:], _rules(margin=0.2)), _rules(margin=0.2)).candidates[0]
    assert one.pooled.delta == pytest.approx(-0.01)


def test_sources_shared_by_the_strata_widen_the_limits():
    """The same 100 questions in four languages are not 400 independent items."""
    rng = np.random.default_rng(5)
    broken = rng.random(100) < 0.06
    names = [f"{at}/{language}" for language in "abcd" for at in range(100)]
    more = {"slices": "s", "strata": [one[-1] for one in names]}
    limits = []
    for clusters in (None, [one.split("/")[0] for one in names]):
        before, after = (
            build(n, names, s, clusters=clusters, **more)
            for n, s in (("a", np.ones(400)), ("b", 1.0 - np.tile(broken, 4)))
        )
        compared = compare.compare(before, [after], _rules(margin=0.2)).candidates[0]
        limits.append(compared.pooled.looks[-1].result.low)
    assert limits[1] < limits[0] - 0.01


def test_the_runner_feeds_all_strata_until_the_pooled_difference_is_decided():
    """Early on each stratum passes five points, but the two points together are open: all need more items."""
    plan = {("s", name): 1000 for name in "ab"}
    rules = dataclasses.replace(_rules(margin=0.1), looks=5, plan=plan)
    names = [f"{place}/{at}" for place in "ab" for at in range(400)]
    kinds = np.tile(np.where(np.arange(400) % 20 == 0, np.where(np.arange(400) % 40 == 0, -1, 1), 0), 2)
    looks = np.tile(np.arange(400) // 200 + 1, 2)
    more = {"slices": "s", "strata": [one[0] for one in names], "looks": looks}
    sides = [build(n, names, s, **more) for n, s in (("a", (kinds <= 0) * 1.0), ("b", (kinds >= 0) * 1.0))]
    needs = compare.undecided_strata(*sides, rules, 2)
    assert needs == {("s", "a"), ("s", "b")}
    without = dataclasses.replace(rules, policy=Policy(margin=0.1))
    assert compare.undecided_strata(*sides, without, 2) == set()


@pytest.mark.parametrize("weights", [(0.0, 1.0), (0.0, 0.0)])
def test_a_stratum_without_traffic_does_not_switch_the_pooled_margin_off(weights):
    """The others are pooled; if none has traffic, all are, alike."""
    cells = {"s/a": Cell(2000, 85, 15), "s/b": Cell(2000, 85, 15)}
    rules = dataclasses.replace(_rules(), traffic=dict(zip([("s", "a"), ("s", "b")], weights, strict=True)))
    (one,) = judged(cells, rules).candidates
    assert {each.verdict for each in one.strata} == {"pass"}
    assert (one.pooled.verdict, one.verdict) == ("fail", "fail")


def test_a_relative_margin_of_a_baseline_without_a_right_answer_can_be_pooled():
    """Its margin is 0: the pooled limits are numbers all the same, and nothing passes."""
    found = judged({"s/a": Cell(60, wrong=60), "s/b": Cell(60, wrong=60)}, _rules(margin="5%"))
    assert -1.0 <= found.candidates[0].pooled.low <= found.candidates[0].pooled.high <= 1.0
    assert found.exit_code == 3


def test_items_missing_in_a_heavy_stratum_count_by_its_weight():
    """One of a hundred missing is a hundredth of nine tenths of the traffic, not one of ten thousand items."""
    cells = {"s/heavy": Cell(100, 0, 0), "s/light": Cell(9_900, 0, 0)}
    rules = dataclasses.replace(_rules(margin=0.2), traffic={("s", "heavy"): 9.0, ("s", "light"): 1.0})
    before, after = side("bf16", cells, 0), side("int4", cells, 1)
    scores = after.score.copy()
    scores[:1] = np.nan
    lost = dataclasses.replace(after, score=scores)
    pooled = compare.compare(before, [lost], rules).candidates[0].pooled
    assert pooled.looks[-1].worst.delta == pytest.approx(-0.009, abs=1e-4)
