"""Graders on answers as models write them: what counts, and what does not."""

from __future__ import annotations

from decimal import Decimal

import pytest

from harness.suite.toolkit import scoring
from harness.suite.toolkit.numerals import numbers

NUMBERS = [
    ("The answer is 42.", [42]),
    ("12 + 30 = 42", [12, 30, 42]),
    ("5-3 is 2", [5, 3, 2]),
    ("It is -7 or \u22127", [-7, -7]),
    ("1,234,567.5 and 1,2 or 1234,5678", ["1234567.5", "1.2", "1234.5678"]),
    ("v2 of B12", []),
    ("\u7b54\u3048\u306f1234\u3067\u3059", [1234]),  # Japanese, no spaces around the number
    ("\u09a8\u09ac\u09a8 \u09eb\u09ee\u09a8", [58]),  # Bengali digits
    ("\u0664\u0662", [42]),  # Arabic-Indic digits
    ("$18.00", [18]),
    ("", []),
]


@pytest.mark.parametrize(("text", "expected"), NUMBERS)
def test_numbers_are_read_as_people_write_them(text, expected):
    """Thousands, decimals, minus signs, currencies and digits of any script; no digits inside words."""
    assert numbers(text) == [Decimal(one) for one in expected]


def test_thousands_need_three_digits():
    """1,234 is one number; 1,2 is not 12, and the comma in a list separates."""
    assert numbers("1,234") == [1234]
    assert 12 not in numbers("1,2")
    assert numbers("7, 8") == [7, 8]


def test_only_number_allows_no_other():
    """The right number alone scores, even said twice; with another beside it, it does not."""
    assert scoring.only_number("The special number is 3740. Yes, 3740.", "3740") == 1.0
    assert scoring.only_number("3740 or 1114", "3740") == 0.0
    assert scoring.only_number("not listed", "3740") == 0.0
    assert scoring.only_number("more than 3740", "3740") == 0.0


@pytest.mark.parametrize(
    "text",
    [
        "not listed",
        "Not listed.",
        "The special number for saffron is not listed above.",
        "There is no special number for saffron.",
        "It isn\u2019t in the list.",
        "The text does not mention it.",
        "none",
        "It isn't on the list.",
        "It is not in my list",
        "It is not one of the keys",
        "There isn't one.",
        "There is not a special number for it.",
        "not-listed",
        "no entry",
        "I can't find it.",
        "The text does not specify it.",
        "It is missing.",
        "There is no saffron in the list.",
    ],
)
def test_ways_to_say_that_it_is_absent(text):
    """All of these say that what was asked for is not there."""
    assert scoring.abstained(text) == 1.0


@pytest.mark.parametrize(
    "text",
    [
        "",
        "The special number for saffron is 1114.",
        "not 1114, it is not listed",
        "I like saffron.",
        "It is not silver.",
        "I can't tell you the special number.",
        "I do not have access to the list.",
        "I can't give you the number.",
    ],
)
def test_ways_not_to(text):
    """An empty answer, a number, or talk is no abstention."""
    assert scoring.abstained(text) == 0.0


def mentions(text, target):
    """Whether a name stands in an answer."""
    return scoring.named(text, [target]) == {target}


def test_a_name_inside_another_is_not_named():
    """South Sudan is not Sudan, nor Indonesia India; of names that are listed, all are named."""
    assert scoring.named("It is South Sudan.", ["Sudan", "South Sudan"]) == {"South Sudan"}
    assert scoring.named(
        "\u30a4\u30f3\u30c9\u30cd\u30b7\u30a2", ["\u30a4\u30f3\u30c9", "\u30a4\u30f3\u30c9\u30cd\u30b7\u30a2"]
    ) == {"\u30a4\u30f3\u30c9\u30cd\u30b7\u30a2"}
    assert scoring.named("Sudan, South Sudan", ["Sudan", "South Sudan"]) == {"Sudan", "South Sudan"}


def test_names_are_whole_words():
    """Names count as whole words in any case and punctuation, in scripts without spaces anywhere, never as a part."""
    assert mentions("It is called \u201cUJERUMANI\u201d!", "Ujerumani")
    assert not mentions("Ujerumanini", "Ujerumani")
    assert (
        mentions(
            "\u0e1b\u0e23\u0e30\u0e40\u0e17\u0e28\u0e40\u0e22\u0e2d\u0e23\u0e21\u0e19\u0e35",
            "\u0e40\u0e22\u0e2d\u0e23\u0e21\u0e19\u0e35",
        )
        == 1.0
    )
    assert not mentions("anything", "...")


def test_vowel_signs_are_part_of_a_name():
    """In Indic scripts a different vowel sign is a different name."""
    assert not mentions("\u0c1c\u0c30\u0c4d\u0c2e\u0c28\u0c40", "\u0c1c\u0c30\u0c4d\u0c2e\u0c28\u0c3f")


def test_announced_number_wins():
    """After "Answer:" the first number counts; before it, none does."""
    assert scoring.near_number("2 + 2 = 4. Answer: 18 dollars for 3", "18") == 1.0
    assert scoring.near_number("It is 18. Answer: unknown", "18") == 0.0
    for said in (
        "**Answer**: 18 (3 steps)",
        '{"answer": 18, "steps": 3}',
        "The answer is: 18, in 3 steps",
        "Answer :\n18 of 3",
    ):
        assert scoring.near_number(said, "18") == 1.0
        assert scoring.near_number(said, "3") == 0.0
    assert scoring.near_number("first 3, then 18", "18") == 1.0
    assert [
        scoring.near_number(f"I rate it {one} 5 stars.", "4") for one in ("4 out of", "**4** out of a possible")
    ] == [1, 1]
    for said in ("Answer: - 18", "The answer is minus 18", "So x equals minus 18."):
        assert (scoring.near_number(said, "-18"), scoring.near_number(said, "18")) == (1.0, 0.0), said


def test_near_number_allows_the_tolerance():
    """Within the tolerance scores, beyond it does not; without one only the number itself does."""
    assert scoring.near_number("about 0.76", "0.75", 0.01) == 1.0
    assert scoring.near_number("about 0.77", "0.75", 0.01) == 0.0
    assert scoring.near_number("1,000", "1000", 0) == 1.0


def test_a_dash_is_a_dash_whichever_sign_a_model_writes():
    """gpt-oss writes hyphens that do not break a line."""
    assert scoring.contains_any("It is on 2024\u201105\u201101.", ["2024-05-01"]) == 1.0
    assert scoring.contains_any("pages 10\u201320", ["10-20"]) == 1.0
    assert scoring.contains_any("12024\u201105\u201101", ["2024-05-01"]) == 0.0
