"""Personal data found in a text and taken out: e-mail, telephone, payment card, IBAN and IP address.

Patterns here only propose; what is a number of that kind is decided by maintained libraries (`phonenumbers`,
`python-stdnum`) and by `ipaddress`. In doubt a text loses a word: a false alarm costs a reader, a miss costs somebody
else. Names of persons are not recognised: that takes a language model. Needs the extra ``privacy``.
"""

from __future__ import annotations

import importlib.util
import ipaddress
import re
import unicodedata
from collections.abc import Callable, Iterator
from functools import lru_cache

__all__ = ["KINDS", "installed", "redact"]

KINDS = ("e-mail", "card", "IBAN", "IP", "phone")
"""What a redacted text says in place of the data, in brackets: ``[e-mail]``."""

REGIONS = ("US", "GB", "DE", "FR", "ES", "IT", "PL", "IN", "BR", "MX", "JP", "KR", "CN", "AU", "ZA")
"""Where a telephone number without its country is looked for. With ``+`` and the country, every country is known."""

_EMAIL = re.compile(r"[^\s@<>()\[\]{},;:\"'|=/\\]{1,64}@[^\W_][\w-]*(?:\.[\w-]+)*")
_CARD = re.compile(r"(?<!\d)\d(?:[ \-]?\d){12,24}(?!\d)")
_CARD_DIGITS = range(13, 20)
_CARD_STARTS = frozenset("23456")
_IBAN = re.compile(r"(?<![A-Za-z0-9])[A-Za-z]{2}\d{2}(?:[ \-]?[A-Za-z0-9]){11,40}")
_SHORTEST_IBAN = 15
_IP4 = re.compile(r"(?<![\d.])\d{1,3}(?:\.\d{1,3}){3}(?![\d]|\.\d)")
_IP6 = re.compile(r"(?<![\w:])(?=[0-9A-Fa-f:]*\d)(?:[0-9A-Fa-f]{0,4}:){2,7}[0-9A-Fa-f]{0,4}(?![\w:])")
_SHORTEST_PLAIN = 10
_PHONE = re.compile(r"(?<!\w)[+(\uff08]{0,2}\d(?:[ \t().\-/\u2013\u00a0]{0,3}\d){6,40}(?!\w)")

_Spans = Iterator[tuple[int, int]]


def installed() -> bool:
    """Return whether the extra's packages are there."""
    return all(importlib.util.find_spec(name) is not None for name in ("phonenumbers", "stdnum"))


def redact(text: str) -> str:
    """Return the text with every piece of personal data replaced by its kind in brackets."""
    while (less := _once(text)) != text:  # what one find hid in its neighbour shows in the next pass
        text = less
    return text


def _once(text: str) -> str:
    finders: dict[str, Callable[[str], _Spans]] = {
        "e-mail": _emails,
        "card": _cards,
        "IBAN": _ibans,
        "IP": _addresses,
        "phone": _phones,
    }
    found = [(start, end, kind) for kind in KINDS for start, end in finders[kind](text)]
    parts, at = [], 0
    for start, end, kind in _merged(found):
        parts += [text[at:start], f"[{kind}]"]
        at = end
    return "".join([*parts, text[at:]])


def _merged(found: list[tuple[int, int, str]]) -> list[tuple[int, int, str]]:
    """Join what overlaps, under the name of the longest."""
    whole: list[tuple[int, int, str]] = []
    longest = 0
    for start, end, kind in sorted(found, key=lambda one: (one[0], -one[1])):
        if not whole or start >= whole[-1][1]:
            whole.append((start, end, kind))
            longest = end - start
            continue
        before = whole[-1]
        whole[-1] = (before[0], max(before[1], end), kind if end - start > longest else before[2])
        longest = max(longest, end - start)
    return whole


def _digits(text: str) -> str:
    """Return the digits of any script as ASCII, and nothing else."""
    return "".join(str(unicodedata.decimal(sign)) for sign in text if sign.isdecimal())


def _emails(text: str) -> _Spans:
    return (match.span() for match in _EMAIL.finditer(text)) if "@" in text else iter(())


def _cards(text: str) -> _Spans:
    """Return runs of digit groups that pass Luhn's check, wherever in a longer run of groups they stand."""
    for match in _CARD.finditer(text):
        groups = [group.span() for group in re.finditer(r"\d+", match[0])]
        for first, (start, _) in enumerate(groups):
            for _, end in groups[first:]:
                if _is_card(_digits(match[0][start:end])):
                    yield match.start() + start, match.start() + end


def _is_card(digits: str) -> bool:
    from stdnum import luhn

    return len(digits) in _CARD_DIGITS and digits[0] in _CARD_STARTS and bool(luhn.is_valid(digits))


def _ibans(text: str) -> _Spans:
    from stdnum import iban

    for match in _IBAN.finditer(text):
        run = match[0]
        solid = run.isalnum()
        for end in range(len(run), _SHORTEST_IBAN - 1, -1):
            whole_group = solid or (run[end - 1].isalnum() and (end == len(run) or not run[end].isalnum()))
            if whole_group and iban.is_valid(run[:end]):
                yield match.start(), match.start() + end
                break


def _addresses(text: str) -> _Spans:
    for pattern in (_IP4, _IP6):
        for match in pattern.finditer(text):
            try:
                ipaddress.ip_address(match[0])
            except ValueError:
                continue
            yield match.span()


def _phones(text: str) -> _Spans:
    for match in _PHONE.finditer(text):
        for start, end in _numbers(match[0]):
            yield match.start() + start, match.start() + end


def _plain(number: str) -> bool:
    """Return whether it is a short number without any sign of being dialled: no group, no country, no leading zero."""
    return number.isdecimal() and len(number) < _SHORTEST_PLAIN and not _digits(number).startswith("0")


@lru_cache(maxsize=65536)
def _numbers(window: str) -> tuple[tuple[int, int], ...]:
    """Return the telephone numbers in a run of digits and separators."""
    import phonenumbers

    spans = set()
    for region in (None, *REGIONS):
        for found in phonenumbers.PhoneNumberMatcher(window, region, leniency=phonenumbers.Leniency.VALID):
            if not _plain(window[found.start : found.end]):
                spans.add((found.start, found.end))
    return tuple(sorted(spans))
