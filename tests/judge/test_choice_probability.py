"""Which choice is preferred, and the probability of the right one: what it sees before scores flip."""

from __future__ import annotations

import dataclasses
import io
from collections import Counter

import numpy as np
import pytest
from lazily import lazy
from making import Cell, side
from rich.console import Console

from harness.judge import choice_probability, compare, gate
from harness.judge.rules import Rules
from harness.records import ChoiceLogprobs, Generation, Item, Scored
from harness.report import answers
from harness.report.blocks.programs import comparisons
from harness.report.evidence import Evidence
from harness.report.markdown import markdown_report
from harness.report.terminal import terminal
from harness.report.writer import csv_text
from harness.store.record import read_run
from harness.store.rundir import RunDir

special = lazy("scipy.special")
report_html = lazy("harness.report.html")


def item(number: int, gold: int | None = 1, **changes) -> Item:
    """A question with four choices."""
    base = Item(f"t/{number}", "s", "t", "choice", "?", {}, "a", f"t/{number}", choices=(" A", " B", " C", " D"))
    return dataclasses.replace(base, gold=gold, **changes)


def answer(number: int, logprobs: tuple[float, ...]) -> ChoiceLogprobs:
    """Weights of the choices."""
    return ChoiceLogprobs(f"t/{number}", logprobs, (1,) * len(logprobs), (False,) * len(logprobs), 10)


def test_it_is_the_softmax_over_the_choices_at_the_right_one():
    """scipy's softmax says the same, also for log-probabilities far below the smallest float."""
    for logprobs in ((-1.0, -2.0, -3.0, -4.0), (-900.0, -901.0, -905.0, -2000.0)):
        found = choice_probability.of_answer(item(1), answer(1, logprobs))
        assert found == pytest.approx(special.softmax(logprobs)[1])
    assert choice_probability.of_answer(item(1), answer(1, (-2.0,) * 4)) == 0.25


def test_without_a_right_choice_there_is_no_probability():
    """Free text has none, and neither has an item without exactly one right choice."""
    logprobs = (-1.0, -2.0, -3.0, -4.0)
    assert choice_probability.of_answer(item(1, gold=None), answer(1, logprobs)) is None
    assert choice_probability.of_answer(item(1), Generation("t/1", "B", (), "eos", 3)) is None


@pytest.mark.parametrize(
    ("metric", "best"), [("acc", 3), ("acc_norm", 1), ("acc_norm,strict", 1), ("acc_bytes", 1), ("", 3)]
)
def test_the_preferred_choice_depends_on_the_metric(metric, best):
    """Sums prefer the last one; per character and per byte the long right answer is ahead (-8 / 17, -4.9 / 2)."""
    choices = (" Rome", " the city of Paris", " Oslo", " 東京")
    given = answer(1, (-6.0, -8.0, -5.0, -4.9))
    assert choice_probability.preferred_choice(item(1, choices=choices), given, metric) == best
    for not_stored in (("", "", "", ""), ()):
        assert choice_probability.preferred_choice(item(1, choices=not_stored), given, metric) == 3


def test_a_pair_shows_the_preferred_choices():
    """The flip of an item that is right per character shows the right choice on that side."""
    question = item(1, choices=(" Rome", " the city of Paris", " Oslo", " 東京"))
    sides = [
        Scored("t/1", "", 0, score, {"acc": 0.0, "acc_norm": score}, answer(1, logprobs), metric="acc_norm")
        for score, logprobs in ((1.0, (-6.0, -8.0, -5.0, -4.9)), (0.0, (-1.0, -90.0, -7.0, -8.0)))
    ]
    (pair,) = answers.flips([question], sides[:1], sides[1:], "int8")
    assert (pair.baseline_text, pair.candidate_text) == (" the city of Paris", " Rome")


@pytest.mark.parametrize(("name", "metrics"), [("demo-cpu", {"acc_norm": 100}), ("tail-cpu", {})])
def test_older_runs_are_filled_in(repository, name, metrics):
    """The metric is the score of every answer, and the preferred choice is the right one exactly if the score is 1."""
    run = read_run(RunDir(repository / "results" / name))
    items, seen = {one.id: one for one in run.items}, Counter()
    for one in (one for variant in run.answers for one in run.of(variant) if one.score is not None):
        assert one.metrics[one.metric] == one.score
        asked = items[one.item_id]
        if isinstance(one.response, ChoiceLogprobs) and asked.gold is not None:
            best = choice_probability.preferred_choice(asked, one.response, one.metric)
            assert (best == asked.gold) is (one.score == 1.0)
            assert choice_probability.of_answer(asked, one.response) == pytest.approx(one.choice_probability)
            seen[one.metric] += 1
    assert all(seen[metric] > number for metric, number in metrics.items())


def _judged(shift: float):
    """A candidate whose right choices all lose `shift` nats and no choice flips."""
    rng = np.random.default_rng(5)
    items = [item(number) for number in range(300)]
    margins = rng.uniform(0.5, 3.0, 300)
    before, after = (
        {
            one.id: choice_probability.of_answer(one, answer(at, (-2.0, margins[at] - 2.0 - lost, -2.0, -2.0)))
            for at, one in enumerate(items)
        }
        for lost in (0.0, shift)
    )
    rules = Rules.from_flags(margin=0.05)
    cells = {"s/a": Cell(300)}
    material = compare.compare(side("bf16", cells, 0), [side("int4", cells, 1)], rules)
    ((candidate,), likely) = material.candidates, choice_probability.compared(items, before, after, 0.05)
    strata = tuple(dataclasses.replace(one, choice_probability=likely[one.place]) for one in candidate.strata)
    seen = dataclasses.replace(material, candidates=(dataclasses.replace(candidate, strata=strata),))
    return gate.judge(material, rules), gate.judge(seen, rules)


def test_it_sees_what_no_score_shows_and_decides_nothing():
    """Every right choice a little less likely, none flipped: scores and verdicts stay, the limits do not."""
    same, seen = _judged(0.3)
    (stratum,) = seen.candidates[0].strata
    assert (stratum.delta, stratum.verdict, seen.exit_code) == (
        0.0,
        same.candidates[0].strata[0].verdict,
        same.exit_code,
    )
    found = stratum.choice_probability
    assert found is not None
    assert found.n == 300
    assert found.low < found.delta < found.high < 0.0
    assert found.delta == pytest.approx(found.candidate_mean - found.baseline_mean)


def test_equal_sides_are_equal():
    """No shift: zero, and yet an interval with width."""
    found = _judged(0.0)[1].candidates[0].strata[0].choice_probability
    assert found is not None
    assert found.delta == 0.0
    assert found.low < 0.0 < found.high


def test_questions_on_one_text_are_judged_as_one_source():
    """Ten questions per text that move together: wider limits than 300 questions of their own."""
    rng = np.random.default_rng(1)
    moved = np.repeat(rng.normal(0.0, 0.2, 30), 10)
    before = {f"t/{at}": 0.5 for at in range(300)}
    after = {f"t/{at}": float(np.clip(0.5 + moved[at], 0, 1)) for at in range(300)}
    alone = choice_probability.compared([item(at) for at in range(300)], before, after, 0.05)["s", "a"]
    shared = [item(at, cluster=f"text {at // 10}") for at in range(300)]
    together = choice_probability.compared(shared, before, after, 0.05)["s", "a"]
    assert together.high - together.low > 1.5 * (alone.high - alone.low)


def test_reports_and_files_hold_it():
    """CSV has its columns; terminal, markdown and page have its table."""
    _, seen = _judged(0.3)
    found = seen.candidates[0].strata[0].choice_probability
    assert found is not None
    heading, row = csv_text(comparisons(seen)).splitlines()
    assert "choice_probability_delta" in heading
    assert repr(found.delta) in row
    console = Console(width=100, record=True, file=io.StringIO())
    terminal(seen, console, Evidence())
    for text in (
        console.export_text(),
        markdown_report(seen, Evidence()),
        report_html.html_report(seen, Evidence()),
    ):
        assert "robability of the right choice" in text
        assert f"{abs(100 * found.delta):.1f}" in text
