"""Which choice counted: the one that the metric behind the score prefers, as lm_eval weighs it."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter

import pytest

from harness.judge.picks import metric_behind, pick
from harness.records import ChoiceLogprobs, Item, Scored
from harness.report import answer_pairs

CHOICES = (" Rome", " the city of Paris", " Oslo", " 東京")
LOGPROBS = (-6.0, -8.0, -5.0, -4.9)


def item(choices=CHOICES):
    """A question with choices of unlike lengths; the long one is right."""
    fixed = {"levels": {}, "stratum": "all", "cluster": "c", "target": " the city of Paris"}
    return Item(id="t/1", slice="s", task="t", kind="choice", prompt="Capital?", choices=choices, **fixed)


def scored(score, **metrics):
    """An answer with a score and what the task's metrics said."""
    response = ChoiceLogprobs("t/1", LOGPROBS, (1, 5, 1, 2), (False,) * 4, 9)
    return Scored("t/1", "", 0, score, metrics, response)


@pytest.mark.parametrize(("metric", "best"), [("acc", 3), ("acc_norm", 1), ("acc_bytes", 1)])
def test_lengths_count_where_the_metric_says_so(metric, best):
    """Sums prefer 東京; per character and per byte the long right answer is ahead (-8 / 17 against -4.9 / 2)."""
    assert pick(item(), scored(1.0).response, metric) == best


def test_texts_that_are_not_stored_are_weighed_by_their_sums():
    """Without its text a choice has no length."""
    assert pick(item(("", "", "", "")), scored(1.0).response, "acc_norm") == 3
    assert pick(item(()), scored(1.0).response, "acc_norm") == 3


def test_the_metric_is_the_one_that_is_always_the_score():
    """One answer may fit several; together they tell. Unanswered items say nothing."""
    same, other = scored(1.0, acc=1.0, acc_norm=1.0), scored(0.0, acc=1.0, acc_norm=0.0)
    assert metric_behind([same]) == "acc"
    assert metric_behind([same, other, scored(None)]) == "acc_norm"
    assert metric_behind([scored(0.5, f1=0.5)]) == "acc"


def test_a_pair_shows_what_counted():
    """The flip of an item that is right per character shows the right choice on that side."""
    lost = Scored("t/1", "", 0, 0.0, {"acc": 0.0, "acc_norm": 0.0}, ChoiceLogprobs(
        "t/1", (-1.0, -90.0, -7.0, -8.0), (1, 5, 1, 2), (False,) * 4, 9
    ))  # fmt: skip
    (pair,) = answer_pairs.flips([item()], [scored(1.0, acc=0.0, acc_norm=1.0)], [lost], "int8")
    assert (pair.baseline_text, pair.candidate_text) == (" the city of Paris", " Rome")


def test_every_choice_of_the_committed_demo_is_the_one_that_was_scored(repository):
    """In the run under results/ the choice picked is the right one exactly where the score is 1."""
    run = repository / "results" / "demo-cpu"
    seen: Counter[str] = Counter()
    for path in sorted((run / "items").glob("*.jsonl")):
        items = {one["id"]: one for one in map(json.loads, path.read_text(encoding="utf-8").splitlines())}
        for answers in sorted(run.glob(f"*/{path.stem}-*.jsonl")):
            lines = [json.loads(line) for line in answers.read_text(encoding="utf-8").splitlines()]
            lines = [one for one in lines if one["response"]["type"] == "choice_logprobs"]
            known = {one.name for one in dataclasses.fields(Item)}
            asked = {name: Item(**{key: one[key] for key in one if key in known}) for name, one in items.items()}
            made = [_scored(one) for one in lines if one["item_id"] in asked]
            metric = metric_behind(made)
            for one in made:
                mine = asked[one.item_id]
                assert (mine.choices[pick(mine, one.response, metric)] == mine.target) is (one.score == 1.0)
                seen[metric] += 1
    assert seen["acc_norm"] > 100


def _scored(line):
    known = {key: value for key, value in line["response"].items() if key != "type"}
    response = ChoiceLogprobs(**{**known, "logprobs": tuple(known["logprobs"])})
    return Scored(line["item_id"], "", 0, line["score"], line["metrics"], response)
