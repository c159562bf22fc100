"""The probability of the right choice: what it is, what it sees before scores flip, and that it decides nothing."""

from __future__ import annotations

import dataclasses
import io

import numpy as np
import pytest
from lazily import lazy
from making import Cell, side
from rich.console import Console

from harness.judge import choice_probability, compare, gate
from harness.judge.rules import Rules
from harness.records import ChoiceLogprobs, Generation, Item
from harness.report.evidence import Evidence
from harness.report.markdown import markdown_report
from harness.report.tables import comparisons_csv
from harness.report.terminal import terminal

special = lazy("scipy.special")
report_html = lazy("harness.report.html")


def item(number: int, target: str = "B", **changes) -> Item:
    """A question with four choices."""
    base = Item(f"t/{number}", "s", "t", "choice", "?", {}, "a", f"t/{number}", choices=(" A", " B", " C", " D"))
    return dataclasses.replace(base, target=target, **changes)


def answer(number: int, logprobs: tuple[float, ...]) -> ChoiceLogprobs:
    """Weights of the choices."""
    return ChoiceLogprobs(f"t/{number}", logprobs, (1,) * len(logprobs), (False,) * len(logprobs), 10)


def test_it_is_the_softmax_over_the_choices_at_the_right_one():
    """scipy's softmax says the same, also for log-probabilities far below the smallest float."""
    for logprobs in ((-1.0, -2.0, -3.0, -4.0), (-900.0, -901.0, -905.0, -2000.0)):
        found = choice_probability.of_answer(item(1), answer(1, logprobs))
        assert found == pytest.approx(special.softmax(logprobs)[1])
    assert choice_probability.of_answer(item(1), answer(1, (-2.0,) * 4)) == 0.25


def test_where_no_choice_is_the_target_there_is_none():
    """Free text, a target that is no choice, and a target that is two: none of them has a right choice to weigh."""
    logprobs = (-1.0, -2.0, -3.0, -4.0)
    assert choice_probability.of_answer(item(1, target="E"), answer(1, logprobs)) is None
    assert choice_probability.of_answer(item(1, choices=("B", " B", "C", "D")), answer(1, logprobs)) is None
    assert choice_probability.of_answer(item(1), Generation("t/1", "B", (), "eos", 3)) is None


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
    same = gate.judge(compare.compare(side("bf16", cells, 0), [side("int4", cells, 1)], rules), rules)
    name = same.candidates[0].name
    return same, choice_probability.shown(same, {name: choice_probability.compared(items, before, after, 0.05)})


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
    heading, row = comparisons_csv(seen).splitlines()
    assert "choice_probability_delta" in heading
    assert repr(found.delta) in row
    console = Console(width=100, record=True, file=io.StringIO())
    terminal(seen, console, Evidence())
    for text in (
        console.export_text(),
        markdown_report(seen, Evidence()),
        report_html.html_report(seen, Evidence()).html,
    ):
        assert "robability of the right choice" in text
        assert f"{abs(100 * found.delta):.1f}" in text
