"""Foreign text is made harmless and stays readable."""

from __future__ import annotations

import sys
import time
import unicodedata

import pytest
import report_data

from harness.report.answers import first_difference, split_at_difference
from harness.report.sanitize import clip, markdown, markdown_code, one_line, visible


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31mred", r"\x1b[31mred"),
        ("a\u202eb", r"a\u202eb"),
        ("\u2066\u2069\u200f\u061c", r"\u2066\u2069\u200f\u061c"),
        ("\x00\x07\x7f\x9b", r"\x00\x07\x7f\x9b"),
        ("\ud800", r"\ud800"),
        ("\U000e0041\ufeff\u2028", r"\U000e0041\ufeff\u2028"),
        ("one\r\ntwo\rthree\tfour", "one\ntwo\\x0dthree\tfour"),
    ],
)
def test_acting_characters_are_shown_as_escapes(text, shown):
    """Control characters, ANSI, bidi controls, surrogates, tags and odd line ends become escapes."""
    assert visible(text) == shown


@pytest.mark.parametrize(
    "text", ["باريس هي العاصمة", "می‌خواهم", "क्‍ष", "ፓሪስ", "パリ", "👨‍👩‍👧", "e\u0301", "a\u00a0b", "\u0600\u06dd"]
)
def test_letters_of_every_script_stay(text):
    """Arabic, Persian with its joiner, Hindi, Amharic, Japanese, emoji and accents are left as they are."""
    assert visible(text) == text


def test_no_acting_character_survives():
    """Over all of Unicode, what is left is printable, a space, a joiner, a drawn number sign, a new line or a tab."""
    some = (*range(0x41000), *range(0xDF000, sys.maxunicode + 1))  # no character is between them
    text = visible("".join(map(chr, some)))
    left = {char for char in text if unicodedata.category(char) in {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}}
    drawn = {chr(code) for code in (*range(0x600, 0x606), 0x6DD, 0x70F, 0x890, 0x891, 0x8E2, 0x110BD, 0x110CD)}
    assert left == {"\n", "\t", "\u200c", "\u200d"} | drawn


def test_one_line_stays_on_its_line():
    """New lines and tabs are escaped where text must stay on its line."""
    assert one_line("a\nb\tc\r\nd") == r"a\nb\tc\r\nd"


def test_clip_says_what_it_left_out_and_is_quick():
    """Five million characters are cut and counted, and made visible in far less than a second."""
    start = time.perf_counter()
    shown = visible(clip("\x1b" * 5_000_000, 1000))
    assert time.perf_counter() - start < 0.5
    assert shown == "\\x1b" * 1000 + "… (4,999,000 more characters)"


@pytest.mark.parametrize("make", [markdown, markdown_code])
def test_markdown_is_inert(make):
    """Rendered by a CommonMark parser, hostile text is text: no element, link, code span or table bar of its own."""
    from markdown_it import MarkdownIt

    rendered = MarkdownIt("gfm-like", {"linkify": False}).render(f"| a |\n| - |\n| {make(report_data.HOSTILE)} |")
    for tag in ("<script", "<em", "<strong", "<a ", "<img", "<del"):
        assert tag not in rendered
    assert rendered.count("<td>") == 1
    assert "\x1b" not in rendered
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in rendered


def test_markdown_mentions_nobody():
    """An at sign is cut from the name after it, links are not links, and plain names stay readable in the source."""
    assert markdown("ask @team") == "ask &#64;<!-- -->team"
    assert "https://" not in markdown("https://evil.example")
    assert "www." not in markdown("www.evil.example")
    assert markdown("long_context, context_tokens=8192,depth=0.5") == "long_context, context_tokens=8192,depth=0.5"


@pytest.mark.parametrize(
    ("one", "other", "index"),
    [
        ("same", "same", None),
        ("", "a", 0),
        ("abc", "abd", 2),
        ("abc", "ab", 2),
        ("e\u0301", "e\u0300", 0),
        ("कि", "की", 0),
        ("👨‍👩‍👧", "👨‍👩‍👦", 0),
    ],
)
def test_first_difference_is_at_a_whole_character(one, other, index):
    """The first difference never cuts an accent, a vowel sign or a joined emoji from its base."""
    assert first_difference(one, other) == index
    assert first_difference(other, one) == index


def test_split_gives_the_text_back():
    """The three parts make up the text, and the middle one is the word that differs."""
    parts = split_at_difference("the answer is 42 or so", "the answer is 47")
    assert parts == (("the answer is 4", "2", " or so"), ("the answer is 4", "7", ""))
    for cut, text in zip(parts, ("the answer is 42 or so", "the answer is 47"), strict=True):
        assert "".join(cut) == text


def test_first_difference_of_long_texts_is_quick():
    """Two answers of five million characters that part at their end are compared in far less than a second."""
    start = time.perf_counter()
    assert first_difference("a" * 5_000_000 + "b", "a" * 5_000_000 + "c") == 5_000_000
    assert time.perf_counter() - start < 0.5
