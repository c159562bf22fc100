"""Verdicts of candidates and of the whole run: which word is graver, what a control or a broken baseline changes."""

from __future__ import annotations

import dataclasses
import json
import re

import numpy as np
import pytest
from making import Cell, side, stratum

from harness.config import loading as config
from harness.config.schema import SliceSpec
from harness.errors import ConfigError
from harness.judge import compare, gate
from harness.judge.outcomes import build
from harness.judge.rules import Rules
from harness.judge.tail_counts import Cell as EventCell

RULES = Rules.from_flags(margin=0.05)
GOOD = {"s/a": Cell(400, lost=2, gained=2)}
BAD = {"s/a": Cell(400, lost=100)}
UNDECIDED = {"s/a": Cell(400, lost=15)}


def _named(name, cells):
    return dataclasses.replace(side(name, cells, 1), name=name)


def _baseline(cells):
    return side("bf16", {place: Cell(cell.n, wrong=cell.wrong) for place, cell in cells.items()}, 0)


def _candidate(name, lost=0, gained=0, n=400, wrong=0):
    """A candidate of `_baseline({'s/a': Cell(n, wrong=wrong)})` that loses and gains so many."""
    scores = np.r_[np.zeros(wrong), np.ones(n - wrong)]
    scores[:gained] = 1.0
    scores[n - lost :] = 0.0
    return build(name, [f"s/a/{at}" for at in range(n)], scores, slices="s", strata="a")


def _judged(*candidates, control=None, rules=RULES, n=400, wrong=0, **options):
    baseline = _baseline({"s/a": Cell(n, wrong=wrong)})
    return gate.judge(compare.compare(baseline, candidates, rules, control), rules, **options)


@pytest.mark.parametrize(
    ("lost", "not_judged", "word", "code"),
    [
        ([0, 0], [], "pass", 0),
        ([0, 15], [], "inconclusive", 3),
        ([0, 15], ["gptq"], "not_judged", 4),
        ([0, 100], ["gptq"], "fail", 1),
        ([15, 100], [], "fail", 1),
        ([], ["gptq"], "not_judged", 4),
    ],
)
def test_the_gravest_candidate_decides(lost, not_judged, word, code):
    """A fail stands whatever the others did; a candidate that was not judged is graver than an undecided one."""
    sides = [_candidate(f"c{at}", lost=count) for at, count in enumerate(lost)]
    found = _judged(*sides, not_judged=dict.fromkeys(not_judged, "gptqmodel is not installed"))
    assert (found.verdict, found.exit_code) == (word, code)


def test_a_candidate_that_could_not_run_is_named_with_its_reason_and_in_its_place():
    """It stands where the config has it, not judged, with the sentence that says what to install."""
    found = _judged(_candidate("int4"), not_judged={"gptq": "pip install quantcliff[gptq]"}, order=["gptq", "int4"])
    assert [one.name for one in found.candidates] == ["gptq", "int4"]
    assert found.candidates[0].verdict == "not_judged"
    assert found.candidates[0].reasons == ("pip install quantcliff[gptq]",)
    assert found.candidates[1].verdict == "pass"


def test_nothing_to_judge_is_no_pass():
    """No candidate at all: not judged, exit code 4."""
    assert (_judged().verdict, _judged().exit_code) == ("not_judged", 4)


def test_the_control_is_the_floor_beside_every_candidate():
    """The A/A pass' delta and flips stand in every stratum of every candidate."""
    found = _judged(_candidate("int4", lost=2), _candidate("int8"), control=_candidate("control", lost=3, gained=0))
    for at in range(2):
        one = stratum(found, "s/a", at)
        assert (one.floor_delta, one.floor_flips) == (-3 / 400, 3)
    assert found.control.strata[0].lost == 3
    assert found.verdict == "pass"


def test_without_a_control_there_is_no_floor():
    """No figure is made up where no control was run."""
    one = stratum(_judged(_candidate("int4")), "s/a")
    assert (one.floor_delta, one.floor_flips) == (None, None)


@pytest.mark.parametrize("lost", [0, 100])
def test_a_control_that_fails_makes_the_run_not_comparable(lost):
    """The baseline differs from itself by more than the margin: nothing passes and nothing fails, exit code 4."""
    found = _judged(_candidate("int4", lost=lost), control=_candidate("control", lost=100))
    assert (found.verdict, found.exit_code) == ("not_judged", 4)
    assert found.candidates[0].verdict == "not_judged"
    assert "s/a" in found.warnings[0]
    assert "itself" in found.warnings[0]
    assert found.control.verdict == "fail"


def test_a_baseline_worse_than_its_own_repetition_is_not_comparable_either():
    """A control far better than the baseline is the same instability, and would make candidates look good."""
    found = _judged(_candidate("int4", wrong=100), control=_candidate("control", wrong=0), wrong=100)
    assert (found.verdict, found.exit_code) == ("not_judged", 4)


@pytest.mark.parametrize(("unanswered", "word"), [(0, "pass"), (4, "pass"), (5, "not_judged"), (400, "not_judged")])
@pytest.mark.parametrize("gating", [True, False])
def test_a_control_that_did_not_answer_what_the_baseline_did_is_not_comparable(unanswered, word, gating):
    """Even a control without any answer left a pass; more than one item in a hundred says that no noise is known."""
    control = _candidate("control")
    scores = np.r_[np.full(unanswered, np.nan), np.ones(400 - unanswered)]
    events = [EventCell("s", "a", "empty", [str(at) for at in range(400)], [str(at) for at in range(400)])]
    events[0].events, events[0].baseline = [False] * 400, [False] * 400
    rules = dataclasses.replace(RULES, slices={"s": SliceSpec(name="s", gating=gating, tail_events={"empty": 0.05})})
    control = dataclasses.replace(control, score=scores)
    found = _judged(_candidate("int4"), control=control, rules=rules, events={"int4": events})
    assert (found.verdict, found.exit_code) == (word, 0 if word == "pass" else 4)
    assert ("did not answer the same items of s/a" in "".join(found.warnings)) is (word == "not_judged")


def test_a_noisy_control_within_the_margin_is_only_shown():
    """Flips both ways that cancel are a floor, not a failure."""
    found = _judged(_candidate("int4", wrong=50), control=_candidate("control", 10, 10, wrong=50), wrong=50)
    assert found.verdict == "pass"
    assert stratum(found, "s/a").floor_flips == 20


def test_a_control_that_cannot_be_joined_is_not_comparable():
    """A control over other items says nothing about the A/A noise, so nothing passes."""
    found = _judged(_candidate("int4"), control=_candidate("control", n=300))
    assert (found.verdict, found.exit_code) == ("not_judged", 4)


def test_a_baseline_gone_wrong_is_called_out_instead_of_passed():
    """Two candidates both 10 points better: not judged, exit code 4, and said. One alone may be better by that."""
    both = [_candidate("int8", gained=40, wrong=100), _candidate("int4", gained=44, wrong=100)]
    found = _judged(*both, wrong=100)
    assert (found.verdict, found.exit_code) == ("not_judged", 4)
    assert "+10.0 points to +11.0 points" in found.warnings[0]
    assert all(one.verdict == "not_judged" for one in found.candidates)
    assert _judged(both[0], wrong=100).verdict == "pass"


def test_one_candidate_better_by_more_than_quantization_gains_is_a_swapped_pair():
    """+30 points, over all or in one slice, is what a loss of 30 looks like if the sides are swapped."""
    found = _judged(_candidate("int4", gained=120, wrong=120), wrong=120)
    assert (found.verdict, found.exit_code) == ("not_judged", 4)
    assert "over all items, by +30.0 points: a baseline gone wrong" in found.warnings[0]
    cells = {"good/a": Cell(4000), "broken/a": Cell(200, gained=60)}
    found = gate.judge(compare.compare(side("bf16", cells, 0), [_named("int4", cells)], RULES), RULES)
    assert (found.exit_code, len(found.warnings)) == (4, 1)


@pytest.mark.parametrize(("count", "code"), [(1, 0), (2, 0), (9, 0), (10, 4)])
def test_a_few_items_that_were_all_gained_are_no_baseline_gone_wrong(count, code):
    """A slice of one item that the candidate alone gets right is chance; ten of ten are not."""
    cells = {"good/a": Cell(4000), "few/a": Cell(count, gained=count)}
    rules = Rules(RULES.policy, {"few": SliceSpec(name="few", gating=False)})
    found = gate.judge(compare.compare(side("bf16", cells, 0), [_named("int4", cells)], rules), rules)
    assert found.exit_code == code


def test_candidates_better_by_different_amounts_are_not_a_broken_baseline():
    """Gains of 5 and 12 points are not 'the same amount', nor is either shown to be above 10."""
    found = _judged(_candidate("int8", gained=20, wrong=100), _candidate("int4", gained=48, wrong=100), wrong=100)
    assert found.verdict == "pass"


def test_a_swapped_pair_is_seen_beside_a_candidate_that_gains_nothing():
    """A baseline that is an int4 build is as good as another one: that this passes says nothing of either."""
    found = _judged(_candidate("int4", wrong=100), _candidate("bf16", gained=100, wrong=100), wrong=100)
    assert (found.verdict, found.exit_code) == ("not_judged", 4)
    assert "the candidate bf16 is better than the baseline over all items, by +25.0 points" in found.warnings[0]


def test_a_baseline_gone_wrong_in_one_slice_is_seen():
    """The slice is named though the average over everything moves little."""
    cells = {"good/a": Cell(4000), "broken/a": Cell(200, gained=60)}
    sides = [_named(name, cells) for name in ("int8", "int4")]
    found = gate.judge(compare.compare(side("bf16", cells, 0), sides, RULES), RULES)
    assert found.exit_code == 4
    assert any("in broken" in one for one in found.warnings)


@pytest.mark.parametrize("first", ["int8", "bf16"])
def test_a_swapped_pair_is_seen_beside_a_candidate_without_any_change(first):
    """Whatever another candidate shows, and in whatever order they stand."""
    cells = {**{f"s/{name}": Cell(200) for name in "abc"}, "s/broken": Cell(200, gained=60)}
    sides = [_named("int8", {**cells, "s/broken": Cell(200, wrong=60)}), _named("bf16", cells)]
    sides.sort(key=lambda one: one.name != first)
    found = gate.judge(compare.compare(side("nf4", cells, 0), sides, RULES), RULES)
    assert (found.exit_code, len(found.warnings)) == (4, 1)


@pytest.mark.parametrize(("advisory", "gained", "code"), [((), 60, 4), (("broken",), 60, 0), ((), 30, 0)])
def test_a_swapped_pair_that_differs_in_one_gating_stratum_is_seen(advisory, gained, code):
    """+30 points in one stratum of four are what the damage of one stratum looks like from the other side."""
    cells = {**{f"s/{name}": Cell(200) for name in "abc"}, "s/broken": Cell(200, gained=gained)}
    rules = Rules(RULES.policy, {"s": SliceSpec(name="s", advisory=advisory)})
    found = gate.judge(compare.compare(side("bf16", cells, 0), [_named("int4", cells)], rules), rules)
    assert found.exit_code == code
    said = [
        "the candidate int4 is better than the baseline in s/broken, by +30.0 points" in one for one in found.warnings
    ]
    assert said == [True] * (code == 4)


def test_a_fail_stands_even_against_a_broken_baseline():
    """A broken baseline makes candidates look better, so it explains no fail."""
    cells = {"broken/a": Cell(400, gained=100), "s/b": Cell(400, lost=100)}
    sides = [_named(name, cells) for name in ("int8", "int4")]
    found = gate.judge(compare.compare(side("bf16", cells, 0), sides, RULES), RULES)
    assert found.warnings
    assert (found.verdict, found.exit_code) == ("fail", 1)


def test_a_baseline_below_the_public_range_is_called_out():
    """A baseline at 50 % where others report 60 to 70 %: not judged; inside the range or above it nothing is said."""
    for low, high, code in ((0.6, 0.7, 4), (0.45, 0.55, 0), (0.3, 0.4, 0)):
        rules = Rules(RULES.policy, {"s": SliceSpec(name="s", public_range=(low, high))})
        found = _judged(_candidate("int4", wrong=200), wrong=200, rules=rules)
        assert found.exit_code == code
        assert any("public range" in one for one in found.warnings) == (code == 4)


def test_averages_stand_beside_the_strata_and_say_what_they_hide():
    """The mean rises by a point while one stratum of four collapses: one line says so."""
    cells = {f"s/{name}": Cell(300, gained=16, wrong=30) for name in "abc"} | {"s/d": Cell(300, lost=40)}
    found = gate.judge(compare.compare(side("bf16", cells, 0), [_named("int4", cells)], RULES), RULES)
    one = found.candidates[0]
    assert one.averages[0].slice == "all"
    assert one.averages[0].delta == pytest.approx((3 * 16 - 40) / 1200)
    assert (one.averages[0].worst_stratum, one.averages[0].worst_delta) == ("s/d", -40 / 300)
    assert (one.worse, one.better) == (1, 3)
    assert one.hidden.startswith("mean +0.7 points hides 1 stratum significantly worse and 3 better of 4")


def test_the_triage_list_is_benjamini_hochberg():
    """Ten of forty strata have lost 5, 6 or 7: two-sided mid-p of 1/32, 1/64, 1/128. Only the last are listed.

    >>> from scipy.stats import false_discovery_control
    >>> [sum(false_discovery_control([p] * 10 + [1.0] * 30) <= 0.05) for p in (1 / 32, 1 / 64, 1 / 128)]
    [0, 0, 10]
    """
    for lost, expected in ((5, 0), (6, 0), (7, 10)):
        cells = {f"s/a{at}": Cell(100, lost=lost) for at in range(10)} | {f"s/b{at}": Cell(100) for at in range(30)}
        found = gate.judge(compare.compare(side("bf16", cells, 0), [_named("int4", cells)], RULES), RULES)
        assert (found.candidates[0].worse, found.candidates[0].better) == (expected, 0)


def test_the_average_by_traffic_weighs_items():
    """An item that stands for nine times the traffic counts nine times, in a line of its own."""
    ids = [f"{at}" for at in range(200)]
    weight = np.r_[np.full(100, 9.0), np.ones(100)]
    strata = ["often"] * 100 + ["rare"] * 100
    before = build("bf16", ids, np.ones(200), strata=strata, weight=weight)
    after = build("int4", ids, np.r_[np.ones(100), np.zeros(100)], strata=strata, weight=weight)
    one = compare.compare(before, [after], RULES).candidates[0]
    assert [(average.slice, average.delta) for average in one.averages] == [
        ("all", -0.5),
        ("all, by traffic", pytest.approx(-0.1)),
    ]


def test_a_rule_that_fits_no_stratum_is_named():
    """Where an advisory pattern fits no stratum, a warning says so."""
    rules = Rules.from_flags(margin=0.05, advisory=("s/z*",))
    assert any("'s/z*'" in one for one in _judged(_candidate("int4"), rules=rules).warnings)


def test_the_last_margin_that_fits_holds():
    """Globs over slice/stratum override the slice's own margin, the last one first; the slice's the policy's."""
    policy = Rules.from_flags(margin=0.02, margins={"s/*": 0.1, "s/a": 0.2}).policy
    rules = Rules(policy, {"s": SliceSpec(name="s", margin=0.3), "t": SliceSpec(name="s", margin=0.4)})
    assert [rules.margin(*place) for place in (("s", "a"), ("s", "b"), ("t", "a"), ("u", "a"))] == [0.2, 0.1, 0.4, 0.02]


def test_a_judgement_is_plain_json():
    """Every name of the documented object is there."""
    found = _judged(_candidate("int4", lost=15), control=_candidate("control"))
    text = json.dumps(found.to_json(), allow_nan=False)
    data = json.loads(text)
    assert {"verdict", "exit_code", "policy", "candidates"} <= data.keys()
    names = (
        "slice stratum n clusters baseline_mean candidate_mean delta low high lost gained mid_p p_adjusted margin "
        "gating verdict items_to_decide"
    )
    assert set(names.split()) <= data["candidates"][0]["strata"][0].keys()
    assert {"name", "verdict", "reasons", "strata"} <= data["candidates"][0].keys()


def test_rules_come_from_the_config():
    """Margins, gating, the public range, looks and the effective score: what a config says is what is judged by."""
    experiment = config.parse(
        {
            "name": "x",
            "baseline": {"model": "somewhere"},
            "candidates": [{"name": "int4", "quantization": "bnb-nf4"}],
            "slices": [
                {"name": "math", "margin": 0.1, "advisory": ["hops=12*"], "public_range": [0.4, 0.6]},
                {"name": "shown", "gating": False},
            ],
            "policy": {"alpha": 0.01, "margin": 0.03, "margins": {"math/hops=1": 0.2}, "effective_score": 0.9},
            "execution": {"looks": 4},
        }
    )
    rules = Rules.from_experiment(experiment)
    assert [rules.margin("math", one) for one in ("hops=1", "hops=2")] == [0.2, 0.1]
    assert rules.margin("shown", "all") == 0.03
    assert [rules.gating("math", one) for one in ("hops=1", "hops=12")] == [True, False]
    assert not rules.gating("shown", "all")
    assert rules.slices["math"].public_range == (0.4, 0.6)
    assert (rules.looks, rules.policy.alpha, rules.policy.effective_score) == (4, 0.01, 0.9)


@pytest.mark.parametrize("value", [[0.6, 0.4], [0.4], 0.5, [40, 60], ["a", "b"]])
def test_a_public_range_that_is_none(value):
    """A pair of scores in order, or a message that says so."""
    with pytest.raises(ConfigError, match=r"slices\[0\]\.public_range.*\[low, high\]"):
        config.parse(
            {
                "name": "x",
                "baseline": {"model": "somewhere"},
                "candidates": [{"name": "int4", "quantization": "bnb-nf4"}],
                "slices": [{"name": "math", "public_range": value}],
            }
        )


def test_answers_that_are_all_missing():
    """Nobody answered anything: not judged, and no figure is made up, not in the averages either."""
    blank = build("int4", [f"s/a/{at}" for at in range(400)], np.full(400, np.nan), slices="s", strata="a")
    found = _judged(blank)
    one = found.candidates[0]
    assert (found.verdict, found.exit_code) == ("not_judged", 4)
    assert one.averages[0].delta is None
    assert one.hidden == "nothing to average"
    assert (one.worse, one.better, one.cliffs) == (0, 0, ())


def test_a_stratum_of_one_source_is_never_passed():
    """500 items from one haystack are one source: inconclusive, and it says what is needed."""
    ids, ones = [f"{at}" for at in range(500)], np.ones(500)
    sides = [build(name, ids, ones, clusters=["haystack"] * 500) for name in ("bf16", "int4")]
    found = gate.judge(compare.compare(sides[0], sides[1:], RULES), RULES)
    assert found.verdict == "inconclusive"
    assert "more sources" in found.candidates[0].reasons[0]


def test_gains_without_any_exception_are_a_baseline_gone_wrong():
    """Both candidates are right where the baseline is wrong, which is everywhere: no spread, and still called out."""
    found = _judged(*(_candidate(name, gained=0, wrong=0) for name in ("a", "b")), wrong=400)
    assert found.exit_code == 4
    assert "+100.0 points" in found.warnings[0]


def test_a_stratum_that_only_one_side_has_is_not_judged_however_small():
    """A subject of 100 of 14,000 items whose baseline was lost is within the 1 % of the whole, and all of its own."""
    few = {"s/a": Cell(400)}
    more = few | {"s/new": Cell(2)}
    for own, other, says in ((few, more, r"bf16 has nothing in .* \(s/new\)"), (more, few, "s/new was not judged")):
        found = gate.judge(compare.compare(side("bf16", own, 0), [side("int4", other, 1)], RULES), RULES)
        assert found.verdict == "not_judged"
        assert re.search(says, found.candidates[0].reasons[0])


@pytest.mark.parametrize(("events", "word"), [(0, "pass"), (60, "not_judged")])
def test_a_control_with_tail_events_beyond_their_tolerance_is_not_comparable(events, word):
    """The baseline against itself shows 15 % of a kind of which 5 % are tolerated: nothing is judged."""

    def counted(shown: int) -> list[EventCell]:
        names = [f"s/a/{at}" for at in range(400)]
        shows = [at < shown for at in range(400)]
        return [EventCell("s", "a", "empty", items=names, clusters=names, events=shows, baseline=[False] * 400)]

    rules = dataclasses.replace(RULES, policy=RULES.policy.model_copy(update={"tail_events": {"empty": 0.05}}))
    found = _judged(
        _candidate("int4"),
        control=_candidate("control"),
        rules=rules,
        events={"int4": counted(0), "control": counted(events)},
    )
    assert (found.verdict, found.exit_code) == (word, 4 if events else 0)
    assert any("empty in s/a; A/A control" in one for one in found.warnings) is bool(events)


def test_a_difference_either_way_is_shared_out_over_the_control():
    """The control looks both ways with half of alpha each: a drop that just fails a candidate is no unrest yet."""
    lost = next(n for n in range(20, 60) if _judged(_candidate("int4", lost=n)).verdict == "fail")
    assert _judged(_candidate("int4"), control=_candidate("control", lost=lost)).verdict == "pass"
    found = _judged(_candidate("int4"), control=_candidate("control", lost=lost + 6))
    assert (found.verdict, found.control.verdict) == ("not_judged", "fail")
