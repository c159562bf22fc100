"""The examples of docs/verdict.md are what the gate says."""

from __future__ import annotations

import re

from making import Cell, judged, stratum

from harness.judge.rules import Rules


def test_the_examples_of_the_page_are_true(repository):
    """Every row of the table is judged again: change, limits, verdict and the items that would decide it."""
    text = (repository / "docs" / "verdict.md").read_text(encoding="utf-8")
    table = re.search(r"<!-- examples:begin -->\n(.*?)<!-- examples:end -->", text, flags=re.DOTALL).group(1)
    rows = [[cell.strip() for cell in line.strip("|\n").split("|")] for line in table.splitlines()[2:]]
    assert len(rows) == 6
    for n, lost, gained, margin, change, limits, verdict, more in rows:
        rules = Rules.from_flags(margin=float(margin) / 100)
        one = stratum(judged({"s/a": Cell(int(n), int(lost), int(gained))}, rules), "s/a")
        assert f"{100 * one.delta:+.1f}" == change
        assert f"{100 * one.low:+.1f} to {100 * one.high:+.1f}" == limits
        assert one.verdict == verdict
        assert one.items_to_decide == (int(more) if more else None)


def test_the_line_about_what_an_average_hides_is_a_real_one(repository):
    """The quoted line is what the counts behind it give."""
    cells = {f"s/{name}": Cell(300, gained=16, wrong=30) for name in "abc"} | {"s/d": Cell(300, lost=40)}
    line = judged(cells).candidates[0].hidden
    text = (repository / "docs" / "verdict.md").read_text(encoding="utf-8")
    assert f"`{line}`" in text
