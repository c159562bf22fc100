"""Several looks: decided strata stop early, at error rates that allow for the looking."""

from __future__ import annotations

import dataclasses
from collections import Counter

import numpy as np
import pytest
from making import Cell, judged, stratum

from harness.judge import compare, gate
from harness.judge.outcomes import Outcomes, build
from harness.judge.rules import Rules
from harness.stats import sequential

LOOKS = 5


def _rules(plan: dict[tuple[str, str], int], **flags: object) -> Rules:
    return dataclasses.replace(Rules.from_flags(**{"margin": 0.1} | flags), looks=LOOKS, plan=plan)


def _sides(
    rng: np.random.Generator, deltas: dict[str, float], n: int = 200, discordance: float = 0.12
) -> list[Outcomes]:
    """Both sides of strata whose true delta is given; items are dealt to the looks in order."""
    rows = []
    for place, delta in deltas.items():
        gain = max((discordance + delta) / 2, 0.0)
        kind = rng.choice([-1, 0, 1], size=n, p=[gain - delta, 1 - 2 * gain + delta, gain])
        rows += [(f"{place}/{at}", place, one <= 0, one >= 0, at * LOOKS // n + 1) for at, one in enumerate(kind)]
    ids, strata, before, after, looks = zip(*rows, strict=True)
    names = {"slices": "s", "strata": strata, "looks": looks}
    return [build(name, ids, np.array(score, float), **names) for name, score in (("a", before), ("b", after))]


def _cut(outcomes: Outcomes, keep: np.ndarray) -> Outcomes:
    """The items that were really asked."""
    at = np.flatnonzero(keep)
    return build(
        outcomes.name,
        [outcomes.items[one] for one in at],
        outcomes.score[at],
        slices="s",
        strata=[outcomes.stratum[int(one)] for one in at],
        looks=outcomes.look[at],
    )


def _run(sides: list[Outcomes], rules: Rules) -> list[Outcomes]:
    """Ask as the runner does: after each look only what is not decided."""
    asked = sides[0].look == 1
    for look in range(1, LOOKS):
        so_far = [_cut(one, asked) for one in sides]
        needs = compare.undecided_strata(so_far[0], so_far[1], rules, look)
        needed = np.array([("s", sides[0].stratum[at]) in needs for at in range(len(sides[0]))])
        asked |= needed & (sides[0].look == look + 1)
        if not needs:
            break
    return [_cut(one, asked) for one in sides]


def _judge(sides: list[Outcomes], rules: Rules) -> gate.Judgement:
    return gate.judge(compare.compare(sides[0], sides[1:], rules), rules)


def test_one_look_spends_everything():
    """With one look the levels are alpha itself and the numbers those of no looks at all."""
    cells = {"s/a": Cell(200, lost=3)}
    one = stratum(judged(cells), "s/a")
    again = stratum(judged(cells, dataclasses.replace(Rules.from_flags(margin=0.05), plan={("s", "a"): 200})), "s/a")
    assert one == again
    assert one.looks == 1


def test_what_the_runner_stops_at_is_what_the_judge_decides():
    """Items asked under the stopping rule give the verdicts, limits and looks that all the items would have given."""
    rng = np.random.default_rng(0)
    stopped = 0
    for _ in range(12):
        sides = _sides(rng, {"fine": 0.0, "edge": -0.08, "bad": -0.35})
        rules = _rules({("s", name): 200 for name in ("fine", "edge", "bad")})
        spent = _run(sides, rules)
        full, short = _judge(sides, rules), _judge(spent, rules)
        assert [one.verdict for one in full.candidates[0].strata] == [one.verdict for one in short.candidates[0].strata]
        for one, other in zip(full.candidates[0].strata, short.candidates[0].strata, strict=True):
            assert (one.n, one.looks, one.low, one.high) == (other.n, other.looks, other.low, other.high)
        assert full.exit_code == short.exit_code
        stopped += len(spent[0]) < len(sides[0])
    assert stopped == 12  # the bad stratum stops early every time


def test_a_broken_stratum_stops_early_and_says_what_it_saved():
    """35 points down: decided before the last look; items asked stand beside items planned."""
    rules = _rules({("s", "bad"): 200, ("s", "fine"): 200})
    spent = _run(_sides(np.random.default_rng(1), {"bad": -0.35, "fine": -0.06}), rules)
    one = stratum(_judge(spent, rules), "s/bad")
    assert (one.verdict, one.items_planned) == ("fail", 200)
    assert one.n < 200
    assert one.looks == one.n // 40
    assert Counter(spent[0].stratum[at] for at in range(len(spent[0])))["bad"] == one.n


def test_early_looks_ask_for_more_than_the_last():
    """At the look that decides, the limits are drawn at what that look may spend, so low > -margin still means pass."""
    rules = _rules({("s", "a"): 2000})
    sides = _sides(np.random.default_rng(2), {"a": 0.0}, n=2000)
    one = stratum(_judge(sides, rules), "s/a")
    level = sequential.nominal_alpha([at / LOOKS for at in range(1, one.looks + 1)], 0.05)
    assert one.verdict == "pass"
    assert one.looks < LOOKS
    assert one.p_pass < level < 0.05
    assert one.low > -0.1


def test_the_first_crossing_stands():
    """A stratum that passed at an early look stays passed, whatever items came later for other candidates' sake."""
    sides = _sides(np.random.default_rng(3), {"a": 0.0}, n=2000)
    early = stratum(_judge(sides, _rules({("s", "a"): 2000})), "s/a").looks
    assert early < LOOKS
    worse = dataclasses.replace(sides[1], score=np.where(sides[1].look > early, 0.0, sides[1].score))
    one = stratum(_judge([sides[0], worse], _rules({("s", "a"): 2000})), "s/a")
    assert (one.verdict, one.looks, one.n) == ("pass", early, early * 400)


def test_looking_five_times_does_not_pass_more_often():
    """A candidate exactly at the margin, looked at five times: passes in at most 5 % (three standard errors)."""
    rng, rounds = np.random.default_rng(4), 150
    rules = _rules({("s", "a"): 150})
    passed = sum(_judge(_sides(rng, {"a": -0.1}, n=150), rules).verdict == "pass" for _ in range(rounds))
    assert passed <= rounds * 0.05 + 3 * np.sqrt(rounds * 0.05 * 0.95)


def test_looking_five_times_does_not_fail_more_often():
    """Four strata exactly at the margin, looked at five times: some fails in at most 5 % (three standard errors)."""
    rng, rounds = np.random.default_rng(5), 80
    rules = _rules({("s", name): 150 for name in "abcd"})
    failed = sum(
        _judge(_sides(rng, dict.fromkeys("abcd", -0.1), n=150), rules).verdict == "fail" for _ in range(rounds)
    )
    assert failed <= rounds * 0.05 + 3 * np.sqrt(rounds * 0.05 * 0.95)


def test_a_run_that_never_decides_uses_all_its_items():
    """A stratum near its margin goes to the last look and is inconclusive there."""
    rules = _rules({("s", "a"): 200})
    spent = _run(_sides(np.random.default_rng(6), {"a": -0.1}), rules)
    one = stratum(_judge(spent, rules), "s/a")
    assert (one.verdict, one.n, one.looks) == ("inconclusive", 200, LOOKS)


def test_advisory_strata_stop_when_the_gating_ones_are_decided():
    """The run ends when every gating stratum is decided: advisory ones alone ask for nothing more."""
    rules = _rules({("s", "bad"): 200, ("s", "edge"): 200}, advisory=("s/edge",))
    sides = _sides(np.random.default_rng(7), {"bad": -0.5, "edge": -0.1})
    needs = [compare.undecided_strata(*sides, rules, look) for look in range(1, LOOKS)]
    assert needs[0] == {("s", "bad"), ("s", "edge")}
    assert needs[-1] == set()


def test_a_planned_stratum_without_items_yet_is_undecided():
    """Nothing was asked of it so far, so it cannot have been decided."""
    rules = _rules({("s", "a"): 200, ("s", "later"): 50})
    sides = _sides(np.random.default_rng(8), {"a": -0.5})
    assert ("s", "later") in compare.undecided_strata(*sides, rules, 3)


def test_items_of_later_looks_are_not_seen():
    """What is undecided after a look does not depend on what comes after it."""
    rng = np.random.default_rng(9)
    rules = _rules({("s", "a"): 200, ("s", "b"): 200})
    for _ in range(10):
        sides = _sides(rng, {"a": -0.2, "b": 0.0})
        for look in (1, 2, 3):
            cut = [_cut(one, one.look <= look) for one in sides]
            assert compare.undecided_strata(*sides, rules, look) == compare.undecided_strata(*cut, rules, look)


def test_looks_without_a_plan_are_taken_as_equal():
    """Where nobody noted the plan, look k of five has spent what a fifth each allows."""
    sides = _sides(np.random.default_rng(10), {"a": -0.1})
    rules = dataclasses.replace(_rules({}), plan={})
    looks = compare.compare(sides[0], sides[1:], rules).candidates[0].strata[0].looks
    assert looks[-1].fractions == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])


def test_a_run_cut_short_has_not_spent_its_level():
    """Only three of five looks were taken: nothing is decided at the level of five."""
    sides = [_cut(one, one.look <= 3) for one in _sides(np.random.default_rng(11), {"a": -0.1})]
    looks = compare.compare(sides[0], sides[1:], _rules({("s", "a"): 200})).candidates[0].strata[0].looks
    assert looks[-1].fractions == pytest.approx([0.2, 0.4, 0.6])
    assert looks[-1].level < 0.02


def test_looks_in_the_data_count_even_where_the_rules_forget_them():
    """Rules that speak of one look over items of five: judged as five."""
    sides = _sides(np.random.default_rng(12), {"a": -0.1})
    looks = compare.compare(sides[0], sides[1:], Rules.from_flags(margin=0.1)).candidates[0].strata[0].looks
    assert [one.number for one in looks] == [1, 2, 3, 4, 5]
