"""Numbers as models write them (docs/slices.md), for scores and tail events: read one way, whatever the target."""

import functools
import html
import itertools
import re
import tomllib
import unicodedata
from collections.abc import Iterator
from decimal import Decimal, InvalidOperation, localcontext
from pathlib import Path
from typing import NamedTuple

_LARGEST = 400  # decimal digits of the largest power; beyond it a text is no number
DASHES = str.maketrans(
    dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2015\u2212\ufe58\ufe63\uff0d", "-")
    | dict.fromkeys("\u2044\u2215\u00f7", "/")
)
_LOWERED = str.maketrans({0x2080 + digit: f"_{digit}" for digit in range(10)})
_PART = "\ue000"  # before a fraction that is one sign, until it is known what stands before it
_RAISED = dict(zip("\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079\u207b", "0123456789-", strict=True))
_RAISED_RUN = re.compile(f"[{''.join(_RAISED)}]+")
_CURRENCY = r"[$\u20ac\u00a3\u00a5\u20b9\u20bd\u20a9\u20aa\u20ab\u20b4\u20a6\u0e3f\u20ba\u20b1]"
_BARE = r"-?[^\s{}]{1,60}"
# LaTeX and words, in the order of the table, to the plain signs that `number` reads.
_FOLDER = Path(__file__).parent
_TABLE = _FOLDER.joinpath("numerals.tsv").read_text("utf-8").replace("CURRENCY", _CURRENCY)
_ROWS = re.findall(r"^([^\t\n]*)\t(.+)$", _TABLE.replace("BARE", _BARE), re.MULTILINE)
_STEPS = [(re.compile(pattern, re.IGNORECASE | re.MULTILINE), to.replace("␣", " ")) for to, pattern in _ROWS]
RE = {name: re.compile(one) for name, one in tomllib.loads(_FOLDER.joinpath("stated.toml").read_text("utf-8")).items()}


class _Found(NamedTuple):
    value: Decimal | None  # None: a mark of digits that is no number, such as a version
    start: int
    end: int
    whole: bool  # written with digits alone


def _ascii_digits(text: str) -> str:
    """Write every Unicode decimal digit (Bengali, Thai, Arabic-Indic ...) as the ASCII digit of the same value."""
    if text.isascii():
        return text
    return "".join(str(unicodedata.decimal(sign)) if sign.isdecimal() else sign for sign in text)


def numbers(text: str, language: str = "") -> list[Decimal]:
    """The numbers in a text in their order; its language (BCP 47), or else English, decides what `1,234` is."""
    return [one.value for one in _joined(_plainer(text), language) if one.value is not None]


def decided(text: str, language: str = "", before: str = "", *, last: bool = False) -> Decimal | None:
    """The first number of a text, or the last; none for a bound, a part of a sum and one of two, also with `before`."""
    plain = (lead := _plainer(before)) + _plainer(text.replace(" \u2014 ", " : "))
    found = [one for one in _joined(plain, language) if one.value is not None]
    at = len(found) - 1 if last else sum(one.start < len(lead) for one in found)
    if not 0 <= at < len(found) or RE["beyond"].match(plain, found[at].end):
        return None
    marks = [b.start < a.end or _beside(plain, a.end, b.start) for a, b in itertools.pairwise(found)]
    first = next((low for low in range(at, 0, -1) if not marks[low - 1]), 0)
    end = next((high for high in range(at, len(marks)) if not marks[high]), len(marks))
    alone = len({one.value for one in found[first : end + 1]}) == 1
    return found[at].value if alone and not RE["bound"].search(plain[: found[at].start][-60:]) else None


def _beside(text: str, end: int, start: int) -> bool:
    """Whether neither of two numbers is stated; not if there are digits of no number between them, as of a version."""
    found = RE["beside"].match(text, end)
    return found is not None and not any(map(str.isdigit, text[found.end() : start]))


def listed(text: str) -> set[int]:
    """The whole numbers of a list; a comma without a space separates numbers of four digits and more."""
    return {int(one) for one in numbers(re.sub(r"(?<=\d{4}),(?=\d{4})", ", ", text)) if one == one.to_integral_value()}


def only_value(text: str, language: str = "") -> Decimal | None:
    """The number that a text is, such as a target; None if it says anything else, or several."""
    bare = _ascii_digits(text).strip()
    if _grouping(language) == "." and "." in bare and _groups(bare.lstrip("+-").split("."), "."):
        bare = bare.replace(".", "")
    try:
        number = Decimal(bare)
    except InvalidOperation:
        found = [] if any(sign.isalpha() for sign in bare) else numbers(bare, language)
        return found[0] if len(found) == 1 else None
    return number if number.is_finite() else None


def _plainer(text: str) -> str:
    """A text with ASCII digits, one kind of dash and space, and without LaTeX, raised digits and invisible signs."""
    if "&" in text:
        text = html.unescape(text)
    if not text.isascii():
        text = _RAISED_RUN.sub(lambda run: f"^{{{''.join(map(_RAISED.__getitem__, run.group()))}}}", text)
        text = "".join(_sign(sign) for sign in text.translate(DASHES | _LOWERED))
        text = _ascii_digits(unicodedata.normalize("NFKC", text).translate(DASHES))
        text = re.sub(f"(?<=[- ]){_PART}", "", text).replace(_PART, " ")
    for pattern, to in _STEPS:
        text = pattern.sub(to, text)
    return text


def _sign(sign: str) -> str:
    kind = unicodedata.category(sign)
    if kind == "Cf":
        return ""
    if kind == "No" and not unicodedata.numeric(sign, 0.0).is_integer():
        return _PART + unicodedata.normalize("NFKC", sign).replace("\u2044", "/")
    return sign


def _found(text: str, language: str) -> Iterator[_Found]:
    for match in RE["number"].finditer(text):
        values, whole = _values(match["core"], language), match["core"].isdigit() and match.end() == match.end("core")
        if match["sign"] == "-" and values[0] is not None:
            values[0] = values[0].copy_negate()
        if len(values) == 1:
            values = [_scaled(values[0], match["e"] or match["ten"], match["power"])]
        for value in values:
            yield _Found(value, match.start(), match.end(), whole)


def _values(core: str, language: str) -> list[Decimal | None]:
    """What digits with separators are: one number, several in a list, or none."""
    core = core.replace("\u066b", ".").replace("\u066c", "'")
    if grouped := re.search(r"[ '\u2019_]", core):
        return [Decimal(core.replace(grouped.group(), "").replace(",", "."))]
    marks, parts = re.findall(r"[.,]", core), re.split(r"[.,]", core)
    if len(set(marks)) > 1:
        *first, last = marks
        good = len(set(first)) == 1 and last not in first and _groups(parts[:-1], first[0])
        return [Decimal(f"{''.join(parts[:-1])}.{parts[-1]}") if good else None]
    if marks and _groups(parts, marks[0]) and (len(marks) > 1 or marks[0] == _grouping(language)):
        return [Decimal("".join(parts))]
    if len(marks) > 1:
        return [Decimal(one) for one in parts] if marks[0] == "," else [None]
    return [Decimal(core.replace(",", "."))]


def _groups(parts: list[str], mark: str) -> bool:
    """Whether digits are grouped by threes, or, with commas, as in India."""
    lakhs = r"|[1-9]\d?(?:,\d\d)+,\d{3}" if mark == "," else ""
    return re.fullmatch(rf"[1-9]\d{{0,2}}(?:,\d{{3}})+{lakhs}", ",".join(parts)) is not None


@functools.cache
def _grouping(language: str) -> str:
    """The mark, `,` or `.`, that groups thousands where one mark could do either; empty if neither does."""
    if not language:
        return ","
    from babel import Locale, UnknownLocaleError
    from babel.numbers import get_decimal_symbol, get_group_symbol

    try:
        locale = Locale.parse(language.replace("_", "-"), sep="-")
        group, decimal = get_group_symbol(locale), get_decimal_symbol(locale)
    except (UnknownLocaleError, ValueError, TypeError):
        return ","
    return "." if group == "." else "" if decimal == "," else ","


def _scaled(value: Decimal | None, ten: str | None, power: str | None) -> Decimal | None:
    """A number times a power of ten, or raised to a power; None if it is too large to be meant."""
    if value is None or not (ten or power):
        return value
    exponent = int(re.sub(r"^([+-]?)0+(?=\d)", r"\1", ten or power or "0")[:9])
    _, digits, place = value.as_tuple()
    if abs(exponent) > _LARGEST or (power and abs(exponent) * (len(digits) + abs(int(place))) > _LARGEST):
        return None
    with localcontext(prec=2 * _LARGEST + len(digits)):
        if ten:
            return value.scaleb(exponent)
        raised = abs(value) ** exponent if value or exponent > 0 else None
        return raised.copy_negate() if raised is not None and value.is_signed() else raised


def _joined(text: str, language: str) -> Iterator[_Found]:
    """Put fractions (`1/2`) and mixed numbers (`1 1/2`) together; a date (`1/2/2024`) is no number."""
    found = list(_found(text, language))
    between, at = [text[one.end : other.start] for one, other in itertools.pairwise(found)] + ["", ""], 0
    while at < len(found):
        run = 1
        while between[at + run - 1].strip() == "/":
            run += 1
        one = found[at]
        mixed = run == 1 and one.whole and between[at : at + 2] == [" ", "/"]
        part = _fraction(found[at + 1], found[at + 2]) if mixed else None
        if part is not None and 0 < part < 1 and found[at + 2].whole and one.value is not None:
            with localcontext(prec=_LARGEST):
                value = one.value - part if text[one.start] == "-" else one.value + part
            yield one._replace(value=value, end=found[at + 2].end)
            at += 3
            continue
        if run <= 2:  # noqa: PLR2004 - a fraction has two parts
            yield one if run == 1 else one._replace(value=_fraction(one, found[at + 1]), end=found[at + 1].end)
        at += run


def _fraction(above: _Found, below: _Found) -> Decimal | None:
    if above.value is None or not below.value:
        return None
    with localcontext(prec=_LARGEST):
        return above.value / below.value
