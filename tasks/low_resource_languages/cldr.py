"""Facts with one right answer in many languages, out of the Unicode CLDR as Babel carries it.

Names of countries, languages, months and weekdays, and how numbers are written. A fact is left out where the language's
name is missing, is the English one, or stands for two things. Documents are functions of (seed, fact, language) and of
Babel's CLDR. lm_eval calls the functions named in the YAML files.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from decimal import Decimal
from functools import cache
from typing import Any

import datasets
from babel import Locale, localedata
from babel.numbers import format_decimal

from harness.suite.toolkit.scoring import named, plain
from harness.suite.toolkit.seeded import SeededRandom
from harness.suite.toolkit.strata import sample_documents, wanted, with_cue

LANGUAGES = {
    "fr": ("Latn", 5), "de": ("Latn", 5), "es": ("Latn", 5), "ar": ("Arab", 5), "ja": ("Jpan", 5), "zh": ("Hans", 5),
    "ru": ("Cyrl", 4), "hi": ("Deva", 4), "ko": ("Kore", 4), "tr": ("Latn", 4), "vi": ("Latn", 4), "fa": ("Arab", 4),
    "fi": ("Latn", 4), "eu": ("Latn", 4), "uk": ("Cyrl", 3), "el": ("Grek", 3), "he": ("Hebr", 3), "th": ("Thai", 3),
    "bn": ("Beng", 3), "ta": ("Taml", 3), "ka": ("Geor", 3), "kk": ("Cyrl", 3), "ur": ("Arab", 3), "id": ("Latn", 3),
    "af": ("Latn", 3), "sw": ("Latn", 2), "yo": ("Latn", 2), "ha": ("Latn", 2), "am": ("Ethi", 2), "zu": ("Latn", 2),
    "mr": ("Deva", 2), "pa": ("Guru", 2), "lo": ("Laoo", 2), "ga": ("Latn", 2), "mt": ("Latn", 2), "ti": ("Ethi", 2),
    "te": ("Telu", 1), "kn": ("Knda", 1), "ml": ("Mlym", 1), "gu": ("Gujr", 1), "my": ("Mymr", 1), "km": ("Khmr", 1),
    "hy": ("Armn", 1), "ne": ("Deva", 1), "mn": ("Cyrl", 1), "so": ("Latn", 1), "cy": ("Latn", 1), "or": ("Orya", 1),
    "as": ("Beng", 1), "ug": ("Arab", 1), "qu": ("Latn", 1), "si": ("Sinh", 0), "nqo": ("Nkoo", 0),
    "kea": ("Latn", 0), "kam": ("Latn", 0),
}  # fmt: skip
"""Language to its script (ISO 15924) and its resource class.

The classes, 0 (left behind) to 5 (winners), are those of Joshi et al. 2020, "The State and Fate of Linguistic Diversity
and Inclusion in the NLP World", ACL 2020, and its list of languages (lang2tax.txt).
"""

TERRITORIES = (
    "AF", "AR", "AT", "AU", "BD", "BE", "BR", "CA", "CH", "CL", "CN", "CO", "CU", "CZ", "DE", "DK", "EG", "ES",
    "ET", "FI", "FR", "GB", "GH", "GR", "HU", "ID", "IE", "IL", "IN", "IQ", "IR", "IS", "IT", "JM", "JP", "KE",
    "KR", "LB", "LK", "MA", "MG", "MM", "MN", "MX", "MY", "NG", "NL", "NO", "NP", "NZ", "PE", "PH", "PK", "PL",
    "PT", "RO", "RU", "RW", "SA", "SE", "SN", "SO", "SY", "TH", "TN", "TR", "TZ", "UA", "UG", "US", "VE", "VN",
    "YE", "ZA", "ZM", "ZW",
)  # fmt: skip
TONGUES = (
    "ar", "bg", "bn", "cs", "da", "de", "el", "en", "es", "et", "fa", "fi", "fr", "ga", "gu", "he", "hi", "hr",
    "hu", "hy", "id", "is", "it", "ja", "ka", "km", "ko", "ku", "lo", "lt", "lv", "mn", "mr", "ms", "my", "ne",
    "nl", "no", "pa", "pl", "pt", "ro", "ru", "sk", "sl", "so", "sq", "sr", "sv", "sw", "ta", "te", "th", "tr",
    "uk", "ur", "uz", "vi", "yo", "zh", "zu",
)  # fmt: skip
NO_TERRITORY = ("AC", "CP", "CQ", "DG", "EA", "EU", "EZ", "IC", "QO", "TA", "UN", "XA", "XB", "XK", "ZZ")
"""Codes of CLDR that are no country or territory of ISO 3166, or are reserved there."""
CODE = 2
NUMBERS = 8
ZERO = {"beng": 0x09E6, "deva": 0x0966, "mymr": 0x1040, "arab": 0x0660, "arabext": 0x06F0, "nkoo": 0x07C0}
"""The sign for zero in the numbering systems of these languages (Babel sets separators but leaves ASCII digits)."""

ASK = {
    ("country", "into"): "What is the {tongue} name of the country {english}?",
    ("country", "from"): 'Which country is called "{native}" in {tongue}?',
    ("language", "into"): "What is the {tongue} name of the {english} language?",
    ("language", "from"): 'Which language is called "{native}" in {tongue}?',
    ("month", "into"): "What is the {tongue} name of the month of {english}?",
    ("month", "from"): 'Which month is called "{native}" in {tongue}?',
    ("weekday", "into"): "What is the {tongue} name of the weekday {english}?",
    ("weekday", "from"): 'Which weekday is called "{native}" in {tongue}?',
    ("number", "into"): "How is the number {english} usually written in {tongue}?",
}


def choose(**metadata: Any) -> dict[str, datasets.Dataset]:
    """Make questions with four answers, into the language and from it."""
    want = wanted(metadata)
    asked = [
        (_base(fact, direction), fact)
        for language in want.axes["language"]
        for fact in facts(_known(language))
        for direction in ("into", "from")
        if (fact["fact"], direction) in ASK
    ]
    known = {base["id"]: fact for base, fact in asked}
    kept = sample_documents((base for base, _ in asked), want, "choose", _rank)
    docs = [_choice_doc(want.seed, known[base["id"]], base["direction"]) for base in kept]
    return {"test": datasets.Dataset.from_list(with_cue(docs, metadata))}


def write(**metadata: Any) -> dict[str, datasets.Dataset]:
    """Make questions to be answered in writing, in the language."""
    want = wanted(metadata)
    docs = [_written_doc(fact) for language in want.axes["language"] for fact in facts(_known(language))]
    return {"test": datasets.Dataset.from_list(with_cue(sample_documents(docs, want, "write", _rank), metadata))}


def score_written(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """Score 1 where the answer has the right name, or the number as it is written, and none of another such thing."""
    if doc["fact"] == "number":
        once = re.escape(_spaces(doc["target"]))
        number = rf"(?<![\d.,\u2212-])(?<!\d ){once}(?: {once})*(?![.,]?\d)"
        rest, count = re.subn(number, " ", _spaces(results[0]))
        others = re.findall(r"\d[\d.,'\u2019\u066b\u066c ]{5,}\d", rest)  # the question's own may be told, too
        return {"exact_match": float(count > 0 and all(_is_in_english(one, doc["target"]) for one in others))}
    kind, language = doc["fact"], doc["language"]  # an answer may say in which language it names another
    like = [fact for fact in facts(language) if fact["fact"] == kind and (kind, fact["key"]) != ("language", language)]
    said = named(results[0], [*doc["accepted"], *(name for fact in like for name in fact["accepted"])])
    return {"exact_match": float(bool(said) and said <= {*doc["accepted"]})}


def _rank(doc: Mapping[str, Any]) -> int:
    """Ask the well-known facts first."""
    _, kind, key, *_ = doc["id"].split("/")
    return int(not _is_well_known(kind, key))


def _is_well_known(kind: str, key: str) -> bool:
    if kind == "number":
        return int(key) < NUMBERS
    return kind in ("month", "weekday") or key in (TERRITORIES if kind == "country" else TONGUES)


def _known(language: str) -> str:
    if language not in LANGUAGES:
        raise ValueError(f"language={language}: not among {', '.join(LANGUAGES)}")
    return language


@cache
def facts(language: str) -> list[dict[str, Any]]:
    """Give all facts of a language whose native name is there, differs from the English one, and is no other's.

    The well-known ones come first, and are the same whatever stands among the others.
    """
    well_known = _distinct(_found(language, _well_known()), frozenset())
    taken = frozenset((fact["fact"], plain(fact["accepted"][0])) for fact in well_known)
    return [*well_known, *_distinct(_found(language, _others()), taken)]


def _found(language: str, sources: Iterable[tuple[str, str]]) -> list[dict[str, Any]]:
    """Give the facts that Babel has of a language, each with its place."""
    native, english = Locale.parse(language), Locale.parse("en")
    script, resource = LANGUAGES[language]
    place = {"language": language, "script": script, "resource": str(resource), "tongue": english.languages[language]}
    found = []
    for kind, key in sources:
        if kind == "number":
            found.append(_number(native, int(key)) | place)
            continue
        names, said = _names(native, kind, key), _names(english, kind, key)
        if names and said:
            found.append({"fact": kind, "key": key, "accepted": names, "english": said[0]} | place)
    return found


def _distinct(found: list[dict[str, Any]], taken: frozenset[tuple[str, str]]) -> list[dict[str, Any]]:
    """Leave out the English name, a name for two things, and a name that is taken; numbers always stay."""
    names = [(fact["fact"], plain(fact["accepted"][0])) for fact in found]
    seen = Counter(names)
    return [
        fact
        for fact, name in zip(found, names, strict=True)
        if fact["fact"] == "number"
        or (name[1] and name[1] != plain(fact["english"]) and seen[name] == 1 and name not in taken)
    ]


def _well_known() -> Iterator[tuple[str, str]]:
    """Name the facts that most people would look for first: kind and CLDR's key."""
    yield from (("country", key) for key in TERRITORIES)
    yield from (("language", key) for key in TONGUES)
    yield from (("month", str(month)) for month in range(1, 13))
    yield from (("weekday", str(day)) for day in range(7))
    yield from (("number", str(index)) for index in range(NUMBERS))


def _others() -> Iterator[tuple[str, str]]:
    """Name all further countries, territories and languages that CLDR has a two-letter code for, and more numbers."""
    english = Locale.parse("en")
    known, spoken = {*TERRITORIES, *NO_TERRITORY}, set(TONGUES)
    yield from (("country", key) for key in sorted(english.territories) if len(key) == CODE and key not in known)
    yield from (("language", key) for key in sorted(english.languages) if len(key) == CODE and key not in spoken)
    yield from (("number", str(index)) for index in range(NUMBERS, 2 * NUMBERS))


def _names(locale: Locale, kind: str, key: str) -> list[str]:
    """Give the names of a thing in a language, the plain one first; empty where there is none."""
    if kind in ("month", "weekday"):
        return _calendar(locale, "months" if kind == "month" else "days", int(key))
    name = (locale.territories if kind == "country" else locale.languages).get(key)
    return [name] if name else []


def _calendar(locale: Locale, names: str, key: int) -> list[str]:
    """Give a name alone and, where it differs, as it stands in a date (the genitive of Slavic languages).

    Read from Babel's raw data: resolving CLDR's aliases through `Locale.months` writes one language's names into tables
    that others share, and the answer then depends on which language was asked first (seen with Babel 2.18).
    """
    raw = localedata.load(str(locale))[names]
    found = []
    for form in ("stand-alone", "format"):
        table = raw[form].get("wide") if isinstance(raw[form], dict) else None
        if isinstance(table, tuple):  # an alias, and what the language has of its own beside it
            table = table[1]
        if isinstance(table, dict) and isinstance(table.get(key), str):
            found.append(table[key])
    return list(dict.fromkeys(found))


def _number(locale: Locale, index: int) -> dict[str, Any]:
    draw = SeededRandom("cldr number", index)
    value = Decimal(draw.between(1_000_000, 9_999_999)) + Decimal(draw.between(11, 99)) / 100
    name = _formatted(value, locale)
    return {"fact": "number", "key": f"{index}", "accepted": [name], "english": f"{value:,.2f}", "value": str(value)}


def _formatted(value: Decimal, locale: Locale) -> str:
    """Write a number as the language does, in its own digits where CLDR says that they are usual."""
    text = format_decimal(value, locale=locale, numbering_system="default")
    zero = ZERO.get(locale.default_numbering_system)
    return text if zero is None else "".join(chr(zero + int(sign)) if sign in "0123456789" else sign for sign in text)


def _spaces(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).split())


def _is_in_english(text: str, number: str) -> bool:
    digits, wanted = ("".join(str(int(sign)) for sign in one if sign.isdecimal()) for one in (text, number))
    return re.fullmatch(r"\d{1,3}(?:,\d{3})+\.\d\d", text) is not None and digits.rstrip("0") == wanted.rstrip("0")


def _question(fact: dict[str, Any], direction: str) -> str:
    return ASK[fact["fact"], direction].format(
        tongue=fact["tongue"], english=fact["english"], native=fact["accepted"][0]
    )


def _base(fact: dict[str, Any], direction: str) -> dict[str, Any]:
    name = f"{fact['language']}/{fact['fact']}/{fact['key']}/{direction}"
    return {
        "id": name,
        "cluster": name,
        **{axis: fact[axis] for axis in ("language", "script", "resource", "fact")},
        "direction": direction,
    }


def _choice_doc(seed: int, fact: dict[str, Any], direction: str) -> dict[str, Any]:
    draw = SeededRandom(seed, "choices", fact["language"], fact["fact"], fact["key"], direction)
    right = fact["accepted"][0] if direction == "into" else fact["english"]
    if fact["fact"] == "number":
        wrong = draw.sample(_misspelt(Decimal(fact["value"]), right), 3)
    else:
        near = _is_well_known(fact["fact"], fact["key"])  # a well-known thing stands among well-known ones
        others = [
            one
            for one in facts(fact["language"])
            if one["fact"] == fact["fact"] and one["key"] != fact["key"]
            if not near or _is_well_known(one["fact"], one["key"])
        ]
        wrong = [one["accepted"][0] if direction == "into" else one["english"] for one in draw.sample(others, 3)]
    choices = draw.shuffled([right, *wrong])
    return _base(fact, direction) | {
        "prompt": _question(fact, direction),
        "choices": choices,
        "gold": choices.index(right),
        "target": right,
        "chance": 0.25,
    }


def _misspelt(value: Decimal, right: str) -> list[str]:
    """Write a number in the ways of other languages: other separators, groups and digits."""
    ways = [_formatted(value, Locale.parse(other)) for other in ("en", "de", "fr", "hi", "de_CH", "ne", "fa")]
    bare = f"{value}"
    return [way for way in dict.fromkeys([*ways, bare, bare.replace(".", ",")]) if _spaces(way) != _spaces(right)]


def _written_doc(fact: dict[str, Any]) -> dict[str, Any]:
    what = "number" if fact["fact"] == "number" else "name"
    return _base(fact, "into") | {
        "prompt": f"{_question(fact, 'into')} Answer with the {what} only, in {fact['tongue']}.",
        "accepted": fact["accepted"],
        "target": fact["accepted"][0],
        "chance": 0.0,
    }
