"""The table of how likely the right choices are, for every report: rows of words, in the order of the verdicts.

Another quantity than the score, so it has a table of its own. It knows no format.
"""

from __future__ import annotations

from harness.judge.verdicts import Judgement
from harness.report import words

__all__ = ["CHOICE_HEADINGS", "CHOICE_NOTE", "CHOICE_TITLE", "choice_rows"]

CHOICE_TITLE = "Probability of the right choice (points)"
CHOICE_NOTE = (
    "Another quantity than the score: how likely the right choice is among the choices. It moves before a choice "
    "flips; it has no margin and is no part of a verdict."
)
CHOICE_HEADINGS = ("candidate", "stratum", "n", "baseline", "candidate's", "change", "limits")
"""The columns of `choice_rows`; the first two are names."""


def choice_rows(judgement: Judgement) -> list[tuple[str, ...]]:
    """Give a row per candidate and stratum of choices; empty where there are none."""
    rows: list[tuple[str, ...]] = []
    for candidate in judgement.candidates:
        for stratum in candidate.strata:
            one = stratum.choice_probability
            if one is not None:
                limits = f"{words.points(one.low)} to {words.points(one.high)}"
                means = words.score(one.baseline_mean), words.score(one.candidate_mean)
                rows.append((candidate.name, words.place(stratum), str(one.n), *means, words.points(one.delta), limits))
    return rows
