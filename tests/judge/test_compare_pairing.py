"""Joining two sides: what matches, what does not, and what is refused."""

from __future__ import annotations

import dataclasses
import random

import numpy as np
import pytest
from making import Cell, reordered, side

from harness.errors import NotComparable
from harness.judge import compare, gate
from harness.judge.outcomes import Labels, build, fingerprint, pair
from harness.judge.rules import Rules

RULES = Rules.from_flags(margin=0.05)


def _side(name, ids, *, prints=None, **columns):
    return build(name, ids, np.ones(len(ids)), fingerprints=prints, **columns)


def _ids(count, start=0):
    return [f"item-{at}" for at in range(start, start + count)]


def test_items_are_joined_by_id_whatever_their_order():
    """Every item meets its own partner."""
    rng = np.random.default_rng(0)
    before = _side("bf16", _ids(500))
    after = reordered(_side("int4", _ids(500)), rng.permutation(500))
    pairs = pair(before, after, 0.0)
    assert [before.items[at] for at in pairs.baseline] == [after.items[at] for at in pairs.candidate]
    assert pairs.baseline.tolist() == list(range(500))
    assert pairs.notes == ()


def test_a_join_under_99_percent_is_refused_and_counted_and_named():
    """10 of 510 items unmatched on each side: refused, with both counts and some names, unless allowed."""
    before, after = _side("bf16", _ids(500)), _side("int4", _ids(500, start=10))
    with pytest.raises(NotComparable) as caught:
        pair(before, after, 0.01)
    text = str(caught.value)
    assert "490 of 510 items match" in text
    assert "10 only in bf16 (item-0, item-1, item-2, item-3, item-4, ...)" in text
    assert "10 only in int4" in text
    assert "--allow-unmatched" in text
    assert caught.value.exit_code == 4
    pairs = pair(before, after, 0.05)
    assert pairs.baseline.size == 490
    assert "490 of 510 items match" in pairs.notes[0]


@pytest.mark.parametrize(("missing", "refused"), [(5, False), (6, True)])
def test_the_line_is_one_percent_exactly(missing, refused):
    """Of 500 items, 5 may go unmatched and 6 may not."""
    before, after = _side("bf16", _ids(500)), _side("int4", _ids(500 - missing))
    if refused:
        with pytest.raises(NotComparable):
            pair(before, after, 0.01)
    else:
        assert pair(before, after, 0.01).baseline_only.size == 5


def test_items_asked_differently_do_not_match():
    """The same ids over other prompts: refused; so are items of which one side alone says the prompt."""
    prints = np.array([fingerprint(f"prompt {at}") for at in range(500)], np.uint64)
    other = np.array([fingerprint(f"prompt  {at}") for at in range(500)], np.uint64)
    before = _side("bf16", _ids(500), prints=prints)
    with pytest.raises(NotComparable, match="500 asked differently"):
        pair(before, _side("int4", _ids(500), prints=other), 0.01)
    assert pair(before, _side("int4", _ids(500), prints=prints), 0.0).baseline.size == 500
    with pytest.raises(NotComparable, match="500 asked differently, or known on one side only"):
        pair(before, _side("int4", _ids(500)), 0.01)


def test_items_that_were_asked_the_same_are_one_source():
    """A log of traffic holds few questions often: one of twenty that is lost says little of a margin of ten points."""

    def judged(questions, customers=None):
        prints = [fingerprint(f"question {at % questions}") for at in range(400)]
        sides = [
            build(
                name,
                _ids(400),
                [float(at % 20 >= lost) for at in range(400)],
                fingerprints=prints,
                clusters=customers and [f"customer {at // 2 % customers}" for at in range(400)],
            )
            for name, lost in (("bf16", 0), ("int4", 1))
        ]
        rules = Rules.from_flags(margin=0.1)
        (one,) = gate.judge(compare.compare(sides[0], sides[1:], rules), rules).candidates
        return one.verdict, one.strata[0].clusters

    assert judged(400) == ("pass", 400)
    assert judged(20) == ("inconclusive", 20)
    assert judged(20, customers=200) == ("inconclusive", 20)  # who asks is no source of their own either
    assert judged(400, customers=20)[1] == 20


def test_questions_of_which_one_is_asked_most_often_are_few():
    """120 questions and 100 customers are many, but half of all lines ask one: it is lost for all who ask it."""
    questions = [at // 2 if at % 2 else 0 for at in range(240)]
    told = {"fingerprints": [fingerprint(f"question {one}") for one in questions]}
    told["clusters"] = [f"customer {at % 100}" for at in range(240)]
    sides = [build(name, _ids(240), [1.0] * 240, **told) for name in ("bf16", "int4")]
    (found,) = compare.compare(sides[0], sides[1:], Rules.from_flags(margin=0.05)).candidates
    assert found.strata[0].looks[0].result.clusters == 120


def test_the_grouping_counts_in_which_changes_vary_more():
    """140 questions are worth more than 100 customers; what is lost may be lost for all who ask it, or by one."""
    chance = random.Random(3)
    asked = [(chance.randrange(140), chance.randrange(100)) for _ in range(400)]
    told = {"fingerprints": [fingerprint(f"question {one}") for one, _ in asked]}
    told["clusters"] = [f"customer {two}" for _, two in asked]
    for by in (0, 1):
        lost = set(random.Random(4).sample(range(140 if by == 0 else 100), 14))
        scores = [[1.0] * 400, [float(one[by] not in lost) for one in asked]]
        sides = [build(name, _ids(400), own, **told) for name, own in zip(("bf16", "int4"), scores, strict=True)]
        (found,) = compare.compare(sides[0], sides[1:], Rules.from_flags(margin=0.1)).candidates
        assert found.strata[0].looks[0].result.clusters == len({one[by] for one in asked})


def _crossed(asked, lost, margin, policy=None, strata=None):
    """One candidate by the questions and customers of its items. lost: whether each item is."""
    told = {"fingerprints": [fingerprint(f"question {one}") for one, _ in asked]}
    told |= {"clusters": [f"customer {two}" for _, two in asked]} | ({"strata": strata} if strata else {})
    scores = [[1.0] * len(asked), [float(not one) for one in lost]]
    sides = [build(name, _ids(len(asked)), own, **told) for name, own in zip(("bf16", "int4"), scores, strict=True)]
    rules = Rules.from_flags(margin=margin, **(policy or {}))
    compared = compare.compare(sides[0], sides[1:], rules)
    return compared.candidates[0], gate.judge(compared, rules).candidates[0].verdict


def test_one_question_that_is_asked_twice_does_not_undo_the_clusters():
    """500 items of ten documents are ten sources, however few items change; one repeated prompt made them 499."""
    for flips in ((), (7,), (7, 155, 401)):
        asked = [(0 if at == 499 else at, at // 50) for at in range(500)]
        found, verdict = _crossed(asked, [at in flips for at in range(500)], 0.03)
        assert (found.strata[0].looks[0].result.clusters, verdict) == (10, "inconclusive")


def test_customers_and_questions_that_both_break_count_by_both():
    """With a tenth of each on the margin, the variance is that of both: by one kind alone a tenth of them pass."""
    passed = 0
    for seed in range(60):
        chance = random.Random(seed)
        odd = [{one for one in range(80) if chance.random() < 0.3} for _ in range(2)]
        asked = [(one, two) for one in range(80) for two in range(80)]
        lost = [(one in odd[0] or two in odd[1]) and chance.random() < 0.4 for one, two in asked]
        passed += _crossed(asked, lost, 0.4 * 0.51)[1] == "pass"
    assert passed <= 6


def test_customers_that_ask_in_several_strata_are_shared_there_though_a_question_repeats():
    """A pooled margin heeds them: each stratum has every customer once, and one question twice."""
    asked = [(0 if at % 100 == 99 else at, at % 100) for at in range(500)]
    strata = [str(at // 100) for at in range(500)]
    lost = [customer < 8 for _, customer in asked]
    some = [(at if at // 100 % 2 else one, two) for at, (one, two) in enumerate(asked)]  # in every second stratum
    found, _ = _crossed(asked, lost, 0.3, {"pooled_margin": 0.1}, strata)
    mixed, _ = _crossed(some, lost, 0.3, {"pooled_margin": 0.1}, strata)
    apart, _ = _crossed([(one, at) for at, (one, _) in enumerate(asked)], lost, 0.3, {"pooled_margin": 0.1}, strata)
    results = [one.pooled.looks[0].result for one in (found, mixed, apart)]
    widths = [one.delta - one.low for one in results]
    assert min(widths[:2]) > 1.5 * widths[2]


def test_which_source_counts_is_decided_in_each_stratum():
    """Few questions of many customers in one stratum, and few texts of many questions in the other."""

    def sources(customers):
        asked = [("text", at, at // 20) for at in range(200)]
        asked += [("traffic", 1000 + at % 120, 1000 + at // customers) for at in range(400)]
        strata, questions, clusters = zip(*asked, strict=True)
        prints = [fingerprint(f"question {one}") for one in questions]
        told = {"strata": strata, "fingerprints": prints, "clusters": [str(one) for one in clusters]}
        sides = [build(name, _ids(600), [1.0] * 600, **told) for name in ("bf16", "int4")]
        (found,) = compare.compare(sides[0], sides[1:], Rules.from_flags(margin=0.05)).candidates
        return [one.looks[0].result.clusters for one in found.strata]

    assert sources(1) == [10, 120]  # though all clusters together are more than all questions
    assert sources(2) == [10, 120]  # though they are fewer


def test_an_item_in_another_stratum_is_refused():
    """A stratum is a property of the item, so both sides must say the same."""
    before = _side("bf16", _ids(4), strata=["a", "a", "b", "b"])
    after = _side("int4", _ids(4), strata=["a", "b", "b", "b"])
    with pytest.raises(NotComparable, match="'item-1' in 'b' instead of 'a'"):
        pair(before, after, 0.01)


def test_scores_of_different_metrics_are_refused():
    """acc on one side and acc_norm on the other are two measurements."""
    before = _side("bf16", _ids(4), measure={"all": "acc"})
    after = _side("int4", _ids(4), measure={"all": "acc_norm"})
    with pytest.raises(NotComparable, match="--metric"):
        pair(before, after, 0.01)


def test_a_refused_candidate_is_not_judged_and_the_others_are():
    """One candidate's file fits nothing: it is not judged, with the reason; the other keeps its verdict."""
    before = _side("bf16", _ids(500))
    compared = compare.compare(before, [_side("other", _ids(500, 1000)), _side("int4", _ids(500))], RULES)
    found = gate.judge(compared, RULES)
    assert [one.verdict for one in found.candidates] == ["not_judged", "pass"]
    assert "0 of 1000 items match" in found.candidates[0].reasons[0]
    assert found.exit_code == 4


def test_unmatched_items_of_one_stratum_cannot_hide_in_the_whole():
    """5 of 1000 items are missing, all of one stratum of 20: the join stands, that stratum is not judged."""
    cells = {"s/a": Cell(980), "s/b": Cell(20)}
    before, after = side("bf16", cells, 0), side("int4", cells, 1)
    cut = reordered(after, np.arange(995))
    found = gate.judge(compare.compare(before, [cut], RULES), RULES)
    assert [one.verdict for one in found.candidates[0].strata] == ["pass", "not_judged"]
    assert found.exit_code == 4


def test_an_unmatched_item_is_said_in_the_warnings():
    """What does not match is counted and named also where it is allowed."""
    before, after = _side("bf16", _ids(500)), _side("int4", _ids(499))
    found = gate.judge(compare.compare(before, [after], RULES), RULES)
    assert found.exit_code == 0
    assert any("1 only in bf16 (item-499)" in one for one in found.warnings)


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        ({"items": ["a", "b", "a"]}, "1 item ids are duplicated ('a')"),
        ({"scores": [0.5, 1.5, 0.0]}, "item 'b' has score 1.5"),
        ({"scores": [0.5, -0.1, 0.0]}, "item 'b' has score -0.1"),
        ({"scores": [0.5, np.inf, 0.0]}, "item 'b' has score inf"),
        ({"scores": [0.5, 1.0]}, "2 entries in 'score' for 3 items"),
        ({"scores": ["x", "y", "z"]}, "not all numbers"),
        ({"strata": ["a"]}, "1 entries in 'stratum' for 3 items"),
        ({"chance": [0.1, np.nan, 0.2]}, "item 'b' has chance nan"),
        ({"weight": -1.0}, "item 'a' has weight -1"),
        ({"looks": [1, 0, 1]}, "item 'b' has look 0"),
        ({"fingerprints": [1, 2]}, "2 fingerprints for 3 items"),
        ({"items": [], "scores": []}, "there are no items"),
    ],
)
def test_outcomes_that_no_comparison_could_trust_are_refused(columns, says):
    """Each with the variant, the item and the rule."""
    given = {"items": ["a", "b", "c"], "scores": [0.0, 0.5, 1.0]} | columns
    with pytest.raises(NotComparable) as caught:
        build("int4", **given)
    assert str(caught.value).startswith("int4: ")
    assert says in str(caught.value)


def test_a_missing_score_is_unanswered_not_wrong():
    """NaN passes `build`: it means that the item went unanswered."""
    assert np.isnan(build("int4", ["a"], [np.nan]).score[0])


def test_items_without_an_answer_are_counted_in_a_warning():
    """What no side answered is not judged, so a reader must know how much that is."""
    scores = [np.nan if at % 3 == 0 else float(at % 2) for at in range(60)]
    base, int4 = (build(name, [f"q{at}" for at in range(60)], scores) for name in ("base", "int4"))
    judged = gate.judge(compare.compare(base, [int4], RULES), RULES)
    assert judged.warnings == ("int4: 20 of 60 items lack an answer on one side or both",)


def test_labels_are_codes_and_names():
    """A column of a million names holds each name once."""
    labels = Labels.of(["b", "a", "b"])
    assert (labels.codes.tolist(), labels.names, labels[2]) == ([0, 1, 0], ("b", "a"), "b")
    assert labels.codes.dtype == np.int32


def test_items_that_a_decided_stratum_was_spared_are_not_missing():
    """A candidate that stopped after look 1 in one stratum lacks nothing there; one that stopped midway does."""
    ids = _ids(400)
    looks = [1 + at // 100 for at in range(400)]
    before = _side("bf16", ids, looks=looks)
    stopped = _side("int4", ids[:200], looks=looks[:200])
    assert pair(before, stopped, 0.0).baseline_only.size == 0
    torn = _side("int4", ids[:250], looks=looks[:250])
    assert pair(before, torn, 0.2).baseline_only.size == 50
    plain = dataclasses.replace(before, look=np.ones(400, np.int32))
    with pytest.raises(NotComparable):
        pair(plain, _side("int4", ids[:200]), 0.01)
