"""Script drift and language drift: the answer is written in another script, or another language, than was expected.

Which script a letter belongs to is the Unicode Character Database's word (Scripts.txt, UAX #24), as `fontTools`
carries it; which script a language is written in is CLDR's (likely subtags), as `babel` carries it. Languages are told
apart by `py3langid`, which is loaded when first needed. Both look at the prose of the answer alone
(`harness.suite.tail.prose`).
"""

from __future__ import annotations

import re
from collections import Counter
from functools import cache
from typing import Any

from harness.suite.tail.prose import letters, prose

__all__ = ["knows_script", "scripts_of", "wrong_language", "wrong_script"]

LATIN_SHARE = 1 / 2
"""Share of Latin letters above which an answer in another script has drifted: names and units often stay Latin."""
FOREIGN_SHARE = 1 / 10
"""Share of letters of any other foreign script above which an answer has drifted."""
FEWEST_LETTERS = 2
"""A single foreign letter is a symbol: the area is πr²."""
LEAST_BYTES = 60
"""An identifier needs this many bytes of letters in UTF-8: 60 Latin letters, 30 Cyrillic ones, 20 of Chinese."""
SURE = 0.9
"""How sure the identifier must be of the other language."""

_MIXED = {
    "Jpan": ("Hani", "Hira", "Kana"),
    "Hrkt": ("Hira", "Kana"),
    "Kore": ("Hang", "Hani"),
    "Hans": ("Hani", "Bopo"),
    "Hant": ("Hani", "Bopo"),
}
"""ISO 15924 codes that stand for several scripts of the UCD, or for a style of one (UAX #24, section 3.3)."""

_TWO_SCRIPTS = {
    "sr": ("Cyrl", "Latn"),
    "bs": ("Latn", "Cyrl"),
    "uz": ("Latn", "Cyrl"),
    "ku": ("Latn", "Arab"),
    "iu": ("Cans", "Latn"),
    "shi": ("Tfng", "Latn"),
    "tzm": ("Tfng", "Latn"),
}
"""Languages in everyday use in two scripts (CLDR's languageData), where the item does not say which."""

_KIN = tuple(
    map(
        frozenset,
        (
            ("no", "nb", "nn", "da", "sv"),
            ("hr", "bs", "sr"),
            ("id", "ms", "jv"),
            ("zh", "yue", "wuu"),
            ("ar", "ary", "arz"),
            ("ku", "ckb", "sdh"),
            ("gn", "gug", "guw"),
            ("uz", "uzs"),
            ("cs", "sk"),
            ("pt", "gl"),
            ("zu", "xh"),
            ("qu", "ay"),
        ),
    )
)
"""Languages so near that one is no drift from the other in a few sentences, and codes for parts of one language."""

_MACRO = {"arb": "ar", "swh": "sw", "pbt": "ps", "quy": "qu", "als": "sq", "npi": "ne", "zlm": "ms", "khk": "mn"}
"""ISO 639-3 codes of the usual variety of a language, as FLORES-200 writes them."""


@cache
def _language(tag: str) -> str:
    """Give the language of a tag (BCP 47 or FLORES) by its shortest code, empty where there is none."""
    from babel.core import get_global

    code = re.split(r"[-_]", tag.strip().lower())[0]
    code = _MACRO.get(code, code)
    return str(get_global("language_aliases").get(code, code)).split("_")[0]


@cache
def scripts_of(tag: str) -> frozenset[str]:
    """Give the scripts (UCD, by ISO 15924 code) that a language is written in; empty where CLDR does not say.

    tag: BCP 47 or FLORES (``am``, ``sr-Latn``, ``zho_Hans``); a script in it counts alone.
    """
    from babel.core import get_global

    parts = re.split(r"[-_]", tag.strip())
    told = next((part.title() for part in parts[1:] if re.fullmatch(r"[A-Za-z]{4}", part)), None)
    language = _language(tag)
    if told is None and language in _TWO_SCRIPTS:
        return frozenset(_TWO_SCRIPTS[language])
    likely = get_global("likely_subtags")
    region = next((part.upper() for part in parts[1:] if re.fullmatch(r"[A-Za-z]{2}|\d{3}", part)), "")
    full = likely.get(f"{language}_{region}") or likely.get(language) or likely.get(parts[0].lower(), "")
    script = told or next((part for part in full.split("_")[1:] if len(part) == len("Latn")), None)
    return frozenset(_MIXED.get(script, (script,))) if script else frozenset()


def knows_script(tag: str) -> bool:
    """Whether it is known which script a language is written in."""
    return bool(tag) and bool(scripts_of(tag))


@cache
def _scripts_of_letter(letter: str) -> frozenset[str]:
    """Give the scripts that use a letter; empty for letters that no script owns (Common, Inherited, unassigned)."""
    from fontTools import unicodedata

    if unicodedata.script(letter) in {"Zyyy", "Zinh", "Zzzz"}:
        return frozenset()
    return frozenset(unicodedata.script_extension(letter))


def wrong_script(text: str, tag: str) -> bool:
    """Say whether an answer has drifted into another script than its language's.

    Definition: of the letters of its prose that belong to a script at all, more than half are Latin, or more than a
    tenth of any other script, that the language is not written in (and at least two letters are). Digits, punctuation,
    marks, code, formulas, addresses and short quotations or brackets do not count. Source: Unicode's Script and
    Script_Extensions properties (UAX #24); expected scripts from CLDR.

    Limits: a drift of less than a tenth of a long answer is not seen, nor one between languages of one script; a
    right answer that consists of foreign names alone ("Python, NumPy") is taken for a drift.
    """
    expected = scripts_of(tag)
    counts = Counter(letters(prose(text)))
    total = latin = other = 0
    for letter, count in counts.items():
        scripts = _scripts_of_letter(letter)
        total += count if scripts else 0
        if scripts and not scripts & expected:
            latin, other = (latin + count, other) if "Latn" in scripts else (latin, other + count)
    much_latin = latin >= FEWEST_LETTERS and latin > LATIN_SHARE * total
    return much_latin or (other >= FEWEST_LETTERS and other > FOREIGN_SHARE * total)


@cache
def _identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


@cache
def _near(language: str) -> frozenset[str]:
    return frozenset({language}).union(*(kin for kin in _KIN if language in kin))


def wrong_language(text: str, tag: str) -> bool:
    """Say whether an answer is written in another language than was expected.

    Definition: the prose has at least 60 bytes of letters in UTF-8, and the identifier is at least 90 % sure of a
    language that is neither the expected one nor so near that a few sentences do not tell them apart. Where it does
    not know the expected language, only a drift into English is looked for. Source: `py3langid` 0.4 (BSD, 4.6 MB, no
    network, 140 languages; Lui and Baldwin 2012, "langid.py", ACL system demonstrations).

    Limits: short answers are never judged; dialects and near languages are taken for one; an answer that is half in
    another language counts as whichever half weighs more; a language in a script of its own is told by its script.
    """
    plain = prose(text)
    if len(letters(plain).encode("utf-8", "ignore")) < LEAST_BYTES:
        return False
    identifier, language = _identifier(), _language(tag)
    found, sure = identifier.classify(" ".join(plain.split()))
    if sure < SURE or found == "zxx":
        return False
    if not _near(language) & set(identifier.labels):
        return bool(found == "en" and language != "en")
    return found not in _near(language)
