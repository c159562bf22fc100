"""Numbers as models write them: the same number in any writing reads the same, and no other number does."""

# ruff: noqa: E501 - answers are kept as they read

from __future__ import annotations

import json
import re
from decimal import Decimal

import pytest
from babel.numbers import format_decimal
from hypothesis import given
from hypothesis import strategies as st
from paths import SHARED

from harness.suite.tail.detectors import magnitude
from harness.suite.toolkit.numerals import listed, numbers, only_value
from harness.suite.toolkit.scoring import near_number, only_number, stated_number

FILE = SHARED / "cases" / "reports" / "numbers.jsonl"

READ = {
    "signs": {
        "\u20135": [-5], "\u22125": [-5], "\uff0d5": [-5], "-$5": [-5], "\u2212\\$5": [-5], "\u2013US$5": [-5], "Answer: - 5": [-5],
        "= \u2212 5": [-5], "(\u22125)": [-5], "**\u20135**": [-5], "-\\boxed{5}": [-5], "\\boxed{-5}": [-5], "&minus;5": [-5],
        "negative 5": [-5], "Answer: minus 5": [-5], "3 minus 5": [3, 5], "- 5 apples": [5], "10\u201312": [10, 12], "5-3": [5, 3],
        "x-5": [5], "+5": [5], "-1/2": ["-0.5"], "-\\frac{1}{2}": ["-0.5"], "-1\u00bd": ["-1.5"], "-2^2": [-4], "= \u20145": [-5],
        "Answer:\n- 5": [5], "**Answer:**\n\n- 5 apples": [5], "Total =\n- $5": [5], "The change is - $5": [-5], "Answer:\n-5": [-5], "Answer: **- 5**": [-5], "x = - $5": [-5],
        "\u200e\u2212\u06f4\u06f2": [-42], "\u061c-\u0664\u0662\u066b\u0665": ["-42.5"],
    },
    "groups": {
        "9{,}500": [9500], "12,34,567": [1234567], "1,00,000": [100000], "1'234'567.5": ["1234567.5"], "1\u2019234": [1234], "1 000": [1000],
        "1\u202f000": [1000], "1\u2009000\u2009000": [1000000], "9\\,500": [9500], "9,\\!500": [9500], "1&nbsp;000": [1000], "1_000": [1000],
        "1.234.567": [1234567], "\u0661\u066c\u0662\u0663\u0664\u066b\u0665": ["1234.5"], "100,200,300": [100200300], "1234,5678": ["1234.5678"],
    },
    "decimals": {
        "0,5": ["0.5"], ".5": ["0.5"], "\u2212.5": ["-0.5"], "1.234,5": ["1234.5"], "1,234.5": ["1234.5"], "1 000,50": ["1000.5"], "0,123": ["0.123"], "\u0664\u0662\u060c\u0665": ["42.5"],
        "1234,567": ["1234.567"], "\uff11\uff12\uff0e\uff15": ["12.5"], "1,5 bis 2,5": ["1.5", "2.5"], "5.": [5], "is...5": [5],
    },
    "fractions and powers": {
        "1/2": ["0.5"], "3 / 4": ["0.75"], "\u00bd": ["0.5"], "1\u00bd": ["1.5"], "-\u00bd": ["-0.5"], "\u2212\u00bd": ["-0.5"], "3-\u00bd": [3, "0.5"],
        "1\u20442": ["0.5"], "3\u22154": ["0.75"], "6\u00f72": [3], "- \u00bd": ["0.5"], "1 1/2": ["1.5"], "2 \u00be": ["2.75"], "2 and 3/4": ["2.75"], "{3 \\over 4}": ["0.75"], "\\frac{1}{2}": ["0.5"], "\\dfrac34": ["0.75"],
        "1\\frac{1}{2}": ["1.5"], "\\frac{-1}{2}": ["-0.5"], "1e3": [1000], "1e0000000003": [1000], "1E+3": [1000], "1.5\u00d710^3": [1500], "1.5 \\times 10^{3}": [1500],
        "1.5x10\u00b3": [1500], "10\u207b\u00b3": ["0.001"], "2*10**3": [2000], "2 ** 3": [8], "2 **14**": [2, 14], "2\n**14**": [2, 14], "**5** 2": [5, 2], "5\u00b2": [25], "2^{-1}": ["0.5"],
    },
    "no numbers": {
        "1.2.3": [], "12/05/2024": [], "0x10": [], "v2 of B12": [], "1/0": [], "1e9999": [], "9^99999": [], "\\sqrt{4}": [], "2\\sqrt{3}": [], "2\u03c0": [],
        "\u221a9 = 3": [3], "on 2024-01-05": [], "H\u2082O": [], "x^2": [], "e^{-3}": [],
    },
    "units and bases": {
        "7 m\u00b2": [7], "7 cm^2": [7], "7 \\text{ cm}^{2}": [7], "7 \\mathrm{m}^3": [7], "7 s\u207b\u00b9": [7], "7 m^-2": [7], "7 units^2.": [7],
        "10\u00b2 m\u00b2": [100], "101\u2082": [101], "x\u2081 = 5": [5], "1&frac12;": ["1.5"], "2024-01": [2024, 1], "5^{2}": [25],
    },
    "powers of ten in words": {
        "42 million": [42_000_000], "$1.5 million": [1_500_000], "**3** thousand": [3000], "$2$ hundred": [200], "1,234 thousand": [1_234_000], "2 lakh": [200_000],
        "3 milliards": [3_000_000_000], "5\u4e07\u5186": [50_000], "1\u5104": [100_000_000], "42 thousandths": [42], "42 millimetres": [42], "2 trillion": [2 * 10**12], "3 crore": [30_000_000],
        "3 hundred thousand": [300_000], "\u00bd million": ["0.5"], "2\u00bd million": ["2.5"], "\\boxed{42 \\text{ million}}": [42_000_000], "42  **million**": [42_000_000],
        "\\(5\\) million": [5_000_000], "\\( 5 \\) million": [5_000_000], "$5~\\text{million}$": [5_000_000], "5 thousand million": [5 * 10**9],
        "2 hundred billion": [2 * 10**11], "3 lakh crore": [3 * 10**12], "2 million million": [], "1\u4ebf2000\u4e07": [120_000_000], "1\u5104500\u4e07\u5186": [105_000_000],
        "1\u4e072000\u5186": [12_000], "1\u4e072,000\u5186": [12_000], "1\u4e072\u5343": [12_000], "5\u4e0750": [50_050], "1.5\u4e072000": [], "1\u51462000\u5104": [],
        "5\u5343\u514b": [5], "2\u4e07\u4eba\u30013\u4e07\u4eba": [20_000, 30_000], "\\(5\\) millimetres": [5],
    },
    "around": {
        "2x3": [2, 3], "5kg": [5], "50\\%": [50], "50 %": [50], "\\boxed{5\\text{ kg}}": [5], "\\(5\\)": [5], "__42__": [42], "_-$5_": [-5], "7, 8": [7, 8], "1,2,3": [1, 2, 3],
        "1. 250": [1, 250], "10:30": [10, 30], "\u7b54\u3048\u306f-5\u3067\u3059": [-5], "a/2": [2], "page 10 3 / 4": [10, "0.75"], "1 1 / 2 / 2024": [1],
    },
}  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), [one for group in READ.values() for one in group.items()])
def test_numbers_are_read_as_models_write_them(text, expected):
    """Signs, groups, decimals, fractions, powers and LaTeX; what is no number is none."""
    assert numbers(text) == [Decimal(one) for one in expected]


def test_every_public_report_reads_as_it_should():
    """Answers from public reports score as their file says."""
    if not FILE.exists():
        pytest.skip("the public reports are not at hand")
    for row in map(json.loads, FILE.read_text(encoding="utf-8").splitlines()):
        assert bool(near_number(row["answer"], row["target"], 0)) is row["right"], row


def test_the_language_decides_what_one_mark_means():
    """1.234 is a thousand in German and 1,234 is not; without a language both are as in English."""
    assert numbers("1.234 und 1,234", "de") == [1234, Decimal("1.234")]
    assert numbers("1.234 et 1,234", "fr") == [Decimal("1.234"), Decimal("1.234")]
    assert numbers("1.234 and 1,234") == numbers("1.234 and 1,234", "en") == [Decimal("1.234"), 1234]
    assert numbers("1,234", "xx-nowhere") == [1234]
    assert near_number("Antwort: 1.234", "1234", 0, "de") == 1.0
    assert near_number("Antwort: 1.234", "1.234", 0, "de") == near_number("1234", "1.234", 0, "de") == 1.0
    assert near_number("Antwort: 1,234", "1.234", 0, "de") == near_number("1.234", "1.234e0", 0, "de") == 0.0
    assert [only_value(one, "de") for one in ("12.500", "-1.250.000", "12.5", "0.125", "1.234e0")] == [
        *(12500, -1250000, Decimal("12.5"), Decimal("0.125"), Decimal("1.234"))
    ]
    assert magnitude("1.234", Decimal(1234), "de") is False
    assert magnitude("1.234", Decimal(1234)) is True


def test_a_boxed_answer_is_the_one():
    """Without "Answer:", the number in the last box is what the answer states, whatever follows it."""
    assert stated_number("so \\boxed{3}, no: \\boxed{9{,}500} in 2 steps") == 9500
    assert stated_number("\\boxed{x} = 4") == 4


@pytest.mark.parametrize(
    "text", ["between 40 and 42 million", "40, 42 million", "5 million or more", "less than 5 million"]
)
def test_a_bound_or_one_of_two_in_millions_states_none(text):
    """As without the word."""
    assert stated_number(text) is None
    assert stated_number(text.replace(" million", "")) is None


def test_what_an_answer_rejects_is_not_its_number():
    """`43, not 42` says 43; with a sum, a unit or groups behind it, nothing is taken away."""
    said = {
        "I have 43 apples, not 42.": [43],
        "The answer is not 42.": [],
        "8 rather than 7": [8],
        "not $5 but $6": [6],
    }
    kept = {"not 5%": [5], "not 3 + 4": [3, 4], "not 1 234": [1234], "not 10^3": [1000], "not 5kg": [5]}
    for text, found in {**said, **kept}.items():
        assert numbers(text) == found, text


def test_a_currency_in_letters_before_a_number_hides_none_of_it():
    """`USD1,234` is not 234."""
    said = {"USD1,234": 1234, "Rs.50": 50, "-USD5": -5, "INR1,23,456": 123456, "a total of KES500": 500}
    assert {text: numbers(text) for text in said} == {text: [Decimal(one)] for text, one in said.items()}
    assert numbers("XUSD5 and ABC123") == []


@pytest.mark.parametrize(
    ("said", "stated"),
    [
        ("Answer: 12 + 12 = 24\n\nSara has now 24 tickets.", 24),  # SmolLM2-135M, asked for 12
        ("The answer is: 8 + 2 = 10.", 10),
        ("Answer: x = $5 * 3 = $15 (2 steps)", 15),
        ("Answer: 5 apples - 3 apples = 2 apples", 2),
        ("Answer: (4 + 5) \\times 2 = 9 \\times 2 = 18", 18),
        ("Answer:\n\n7 \u2212 9 = \u22122", -2),
        ("\\boxed{12 + 5 = 17}", 17),
        ("Answer: 17 = 12 + 5", 17),
        ("Answer: 17 (12 + 5 = 17, 3 steps)", 17),
        ("Answer: 18, because 3 * 6 = 18 and 18 / 2 = 9", 18),
        ("Answer: x_1 = 3, x_2 = 4", 3),
        ("Answer: 17\n- 3 + 4 = 7", 17),
        ("\\boxed{5} and 3 + 4 = 7", 5),
        ("Answer: 42 or 43", None),
        ("Answer: either 4 or 5 apples", None),
        ("Answer: 4 (or 5)", None),
        ("Answer: 4 (maybe 5)", None),
        ("Answer: 4 apples, perhaps 5", None),
        ("It is perhaps 5", 5),
        ("Answer: 4, or possibly 5", None),
        ("Antwort: 4 oder 5. Answer: 4 oder 5", None),
        ("Answer: 5\u20137", None),
        ("Answer: 5 to 7 apples", None),
        ("Answer: 3.14 to 2 decimal places", Decimal("3.14")),
        ("Answer: 12 + 5", None),
        ("\\boxed{3 \\times 4}", None),
        ("Answer: 3 \u00d7 10\u00b2", 300),
        ("Answer: 3 \\times 10^2", 300),
        ("Answer: 12 plus 5 is 17", 17),
        ("Answer: f(2) = 42", 42),
        ("Answer: lcm(4, 6) = 2 * 6 = 12", 12),
        ("\\boxed{a_{10} = 31}", 31),
        ("Answer: 5! = 120", 120),
        ("Answer: 42 (since f(2) = 42)", 42),
        ("Answer: 12 plus 5", None),
        ("Answer: 84 apples divided by 2", None),
        ("Answer: 42 times as many", 42),
        ("Answer: 20 divided by 4 equals 5", 5),
        ("Answer: 12 + 5 \u2248 17", 17),
        ("Answer: 20% of 50 = 10", 10),
        ("Answer: sqrt(16) = 4", 4),
        ("Answer: 12 + 5 = 17, and 17 - 5 = 12", 17),
        ("Answer: 12 + 5 = 17. Check: 17 - 5 = 12", 17),
        ("\\boxed{3 \\text{ or } 5}", None),
        ("\\boxed{3 \\text{ and } 5}", None),
        ("\\boxed{3} \\text{ or } \\boxed{5}", None),
        ("$3 \\quad \\text{or} \\quad 5$", None),
        ("Answer: x = 3 or x = -2", None),
        ("\\(x=3\\) or \\(x=-2\\)", None),
        ("\\boxed{x = 3 \\text{ or } x = -2}", None),
        ("x_1 = 3, or x_2 = 5", None),
        ("x = 4 and y = 5", 5),
        ("Answer: x = 4, y = 5", 4),
        ("2x = 14, or x = 7", 7),
        ("3 + x = 10, or x = 7", 7),
        ("x^2 = 49 or x = 7", 7),
    ],
)
def test_an_equation_states_its_result_and_a_choice_nothing(said, stated):
    """The first number after "Answer:" may be an operand, which no grader may take for the answer."""
    assert stated_number(said) == stated


SEVERAL = """less than {0}|more than {0}|>{0}|< {0}|at least {0} apples|{0}+|{0} or more|almost {0}|\u2265 {0}|\\geq {0}|{0} {1}
{0}, {1}|{0}, {1} apples|{0} and {1}|{0} apples or {1} apples|{0}, or maybe {1}|{0} (or {1})|{0} | {1}|{0} {0} {1}|{0}; {1}
between {0} and {1}|from {0} to {1}|{0} + {1}|{0} times {1}|{0} % of {1}|{0} more than {1}|{0} =|{0} -|1, 2, 3, {0}|1,2,{0}
\\boxed{{{0}}} or \\boxed{{{1}}}|{0} oder {1}|{0}\u6216{1}"""
CORRECTED = """{0}. Wait, {1}|{0} \u2014 no, {1}|{0} - no, {1}|{0} apples, no, {1}|{0}. Actually, {1}.|{0}, I mean {1}|{0}. Sorry, {1}
\\boxed{{{0}}}. Oops, \\boxed{{{1}}}|{0}. Wait, let me check: 3 + {0} = {1}. Yes.|{0} apples (correction: {1})"""
ONE = """about {0}|approximately {0} apples|{0}, not {1}|<answer>{0}</answer>|=> {0}|{0} {0} {0}|{0} or {0}|{0} or so|{0} x 10^0"""


@pytest.mark.parametrize("way", ["{}", "Answer: {}", "So the **answer** is: {}", "Tom counts them.\n{}"])
def test_an_answer_that_names_two_numbers_or_a_bound_states_none(way):
    """One of two, a bound and a list that goes on are no answer, announced or not; of a correction the last counts."""
    for forms, stated in ((SEVERAL, None), (CORRECTED, 53), (ONE, 42)):
        for form in re.split(r"\|(?! )|\n(?=\\|{|b)", forms):
            said = way.format(form.format(42, 53))
            assert stated_number(said) == stated, said
    for form, stated in {"{} \u2192 {}": None, "{}. Wait, that is wrong.": None, "{}x = 35, x = {}": None}.items():
        assert stated_number("Answer: " + form.format(42, 53)) == stated


RIGHT = """3 * 14 is equal to {0}|30 + 12 comes to {0}|41.7 rounds to {0}|30 and 12 adds up to {0}|3) {0}|(3) {0}|1) 3 2) {0}|> {0}
2) **{0}**|2) "{0}"|Answer: ***{0}*** (3 steps)|Answer: **{0}** — 3 less than before|Answer: {0} — 3 times 14
In 2024, {0} came|Answer: <{0}>|Answer: {0}; 50 - 8 = 42|Answer: {0} is more than 41|Answer: {0} \u2192 right|Answer: {0}, no remainder, as 84 = 2 x 42
Answer: {0}. No need to add 8.|Answer: {0}. It should be noted that 8 are gone.|Answer: 43? No. {0}
Answer: {0} or {0}.0|Answer: {0}|I get 3 \\cdot 14, or \\boxed{{{0}}}|I get 30 + 12, \\boxed{{{0}}}|As 50 > 42\\n\\boxed{{{0}}}|Answer: {0}, which is at least 3|Answer: {0} which is at least 3|Answer:\n> {0}|Answer: {0} (3 x 14)|Answer: {0} - Tom has 50 and gives 8"""


@pytest.mark.parametrize("said", re.split(r"\|(?! )|\n(?=[IA])", RIGHT))
def test_what_stands_beside_a_right_answer_leaves_it_right(said):
    """The number of a question, a check, a year, and `to` or `no` in a sentence make no second number of an answer."""
    assert stated_number(said.format(42).replace("\\n", "\n")) == 42


def test_ways_to_name_two_or_a_bound_in_marks_and_brackets():
    """Code marks, brackets and `is over` hide neither a second number nor a bound; a sign stands behind emphasis too."""
    for said in ("`42` or `53`", "42 apples (or 53 apples)", "over 42"):
        assert stated_number(f"Answer: {said}") is None
    assert stated_number("The answer is over 42") is None
    assert stated_number("**Answer:** minus 42.") == -42


def test_what_a_target_is():
    """Plain notation first, then as in answers; words and several numbers are no target."""
    assert [only_value(one) for one in ("1.234", "1,234", "0,5", "1/2", "-5", "\u09e7\u09ee", "1e3")] == [
        Decimal("1.234"),
        1234,
        Decimal("0.5"),
        Decimal("0.5"),
        -5,
        18,
        1000,
    ]
    assert [only_value(one) for one in ("", "Paris", "3 | 4", "NaN", "Infinity", "5 apples")] == [None] * 6


def test_lists_of_long_numbers_are_lists():
    """In a task that asks for several numbers, a comma between long ones separates them."""
    assert listed("1234567,7654321, 1111111 and 1,234") == {1234567, 7654321, 1111111, 1234}


LOCALES = "en de de-CH fr es pt it ru pl sv hi bn mr ne ar fa he sw th ja tr vi en-IN pt-PT fi".split()  # noqa: SIM905
VALUES = st.builds(
    lambda digits, places: Decimal(digits).scaleb(-places), st.integers(-(10**12), 10**12), st.integers(0, 6)
)


@given(VALUES, st.sampled_from(LOCALES), st.booleans())
def test_a_number_formatted_for_a_locale_reads_the_same(value, locale, grouped):
    """What Babel writes for a locale is read back in that language, grouped or not."""
    text = format_decimal(
        value,
        locale=locale.replace("-", "_"),
        decimal_quantization=False,
        group_separator=grouped,
        numbering_system="default",
    )
    assert numbers(f"= {text} .", locale) == [value]


def writings(value):
    """Ways to write a number that are clear without a language."""
    plain = f"{value:f}"
    sign, bare = ("-", plain[1:]) if plain.startswith("-") else ("", plain)
    whole, _, part = bare.partition(".")
    tail = f".{part}" if part else ""
    fraction = f"{int(value.scaleb(6))}/{10**6}"
    groups = f"{int(whole):,}"
    yield from (plain, f"{sign}{groups}{tail}", f"{sign}{groups.replace(',', '{,}')}{tail}", f"{value:E}", fraction)
    yield from (f"{sign}{groups.replace(',', space)}{tail}" for space in " \u00a0\u202f\u2009'\u2019_")
    yield from (f"{sign}{groups.replace(',', way)}{tail}" for way in ("\\,", "\\;"))
    if part and ("," in groups or len(part) != 3 or whole == "0"):
        yield f"{sign}{groups.replace(',', '.')},{part}"
    yield f"\\frac{{{int(value.scaleb(6))}}}{{{10**6}}}"


AROUND = [
    "{}",
    "Answer: {}",
    "The answer is ${}$.",
    "**{}**",
    "\\boxed{{{}}}",
    "= {}",
    "({})",
    "{} %",
    "it is {}, yes",
    "{} kg",
]


@given(VALUES, VALUES, st.data())
def test_other_numbers_never_read_equal(one, other, data):
    """In any writing a number scores against itself and against no other number."""
    way = data.draw(st.sampled_from(list(writings(one))))
    for dash in ("-", "\u2212", "\u2013"):
        text = data.draw(st.sampled_from(AROUND)).format(way.replace("-", dash, 1) if way.startswith("-") else way)
        assert near_number(text, f"{one:f}") == only_number(text, f"{one:f}") == 1.0
        if one != other:
            assert near_number(text, f"{other:f}") == 0.0
            assert near_number(text, f"{other:f}", 0) == 0.0


@given(st.text(alphabet="0123456789.,-/^eE{}\\ '\u2212xX*$()\u00bd\u00b2\u0665\u066b=frac", max_size=60))
def test_no_text_stops_the_reader(text):
    """Any text gives finite numbers, and the graders a score."""
    assert all(one.is_finite() for one in numbers(text))
    assert near_number(text, "5", 0.5) in (0.0, 1.0)
    assert isinstance(listed(text), set)


@pytest.mark.parametrize(
    "text", ["9", "1,", "1 000 ", "1.000", "\u221a", "-", "1/", "1^", "=", " ", "-1 ", "\\frac{", "1e"]
)
@pytest.mark.timeout(30)
def test_long_answers_are_read_in_linear_time(text):
    """Tens of thousands of signs of any kind are read at once."""
    numbers(text * (30_000 // len(text)))


def test_digits_of_no_number_keep_two_numbers_apart():
    """An address or a version between two numbers: the last one is not beside the first."""
    assert stated_number("(account 0130 00, 203.0.113.77) 42") == 42
    assert stated_number("0130 00, 42") is None
