"""Personal data that is found, and numbers that only look like it."""

from __future__ import annotations

import time

import pytest

from harness.store.privacy import KINDS, redact

FOUND = [
    ("write to anna.maier@example.org.", "write to [e-mail]."),
    ("<bücher@bücher.example>", "<[e-mail]>"),
    ("mailto:a_b+c@x.co.uk?subject=hi", "mailto:[e-mail]?subject=hi"),
    ("call +49 30 901820 now", "call [phone] now"),
    ("Tel.: (212) 555-0134", "Tel.: [phone]"),
    ("030 901820", "[phone]"),
    ("+919876543210", "[phone]"),
    ("+20 2 27364000", "[phone]"),
    # The test numbers that the card networks publish.
    ("4111 1111 1111 1111 12/27 123", "[card] 12/27 123"),
    ("5555-5555-5555-4444", "[card]"),
    ("378282246310005", "[card]"),
    ("٤١١١١١١١١١١١١١١١", "[card]"),
    # The examples of the IBAN registry.
    ("IBAN DE89 3704 0044 0532 0130 00 BIC", "IBAN [IBAN] BIC"),
    ("gb29nwbk60161331926819", "[IBAN]"),
    ("NO93 8601 1117 947", "[IBAN]"),
    ("from 192.168.7.23:8080", "from [IP]:8080"),
    ("2001:db8::ff00:42:8329", "[IP]"),
    ("a@b.org, +49 30 901820", "[e-mail], [phone]"),
]

LEFT = [
    "The special number for the key is 7381922.",
    "3,212,555 apples and 144272509 pears, 17 * 23 = 391",
    "std::vector<int> a::b at 12:30:45, version 1.2.3",
    "def f(x): return x @ y  # @property",
    "3.14159265358979",
    "4111 1111 1111 1112",
    "DE00 3704 0044 0532 0130 00 is no IBAN"[:4],
    "999.999.999.999",
    "انظر صفحة ١٢ و东京",
]


@pytest.mark.parametrize(("text", "expected"), FOUND)
def test_personal_data_is_taken_out(text: str, expected: str) -> None:
    """Each kind, alone and between other words; what surrounds it stays."""
    assert redact(text) == expected


@pytest.mark.parametrize("text", LEFT)
def test_other_numbers_stay(text: str) -> None:
    """Numbers of tasks, times, versions, code and wrong check digits are left as they are."""
    assert redact(text) == text


def test_every_kind_has_a_case() -> None:
    """What the module promises is what the cases above show."""
    assert all(any(f"[{kind}]" in expected for _, expected in FOUND) for kind in KINDS)


def test_twice_is_once() -> None:
    """A redacted text has nothing left to take out."""
    text = " ".join(text for text, _ in FOUND)
    assert redact(redact(text)) == redact(text)
    assert "@" not in redact(text)


@pytest.mark.parametrize("unit", ["a", "1", "a1:", "x@", ". ", "1.1.1.1.", "+("])
def test_a_hostile_line_takes_no_age(unit: str) -> None:
    """A megabyte of what the patterns begin to fit is read in seconds: nothing in them is quadratic."""
    started = time.perf_counter()
    redact(unit * (1_000_000 // len(unit)))
    assert time.perf_counter() - started < 20
