"""Script drift and language drift: the answer is written in another script, or another language, than was expected.

Letters' scripts are those of the Unicode Character Database (UAX #24; `fontTools`), languages' scripts those of CLDR
(`babel`); `py3langid` tells languages apart. Both look at the prose alone: "Moscow (Москва)" is good English.
"""

import re
import tomllib
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

from harness.suite.toolkit.datafiles import read_text

LATIN_SHARE = 1 / 2  # of letters; above it an answer in another script has drifted: names and units often stay Latin
FOREIGN_SHARE = 1 / 10  # of letters of any other foreign script; above it an answer has drifted
FEWEST_LETTERS = 2  # a single foreign letter is a symbol: the area is πr²
LEAST_BYTES = 60  # of letters in UTF-8 that an identifier needs: 60 Latin letters, 30 Cyrillic ones, 20 of Chinese
SURE = 0.9  # how sure the identifier must be of the other language
LONGEST_QUOTE = 60  # characters of a quotation or bracket that is taken out; a longer one is an answer of its own
LONGEST = 20_000  # characters of an answer that are looked at: of a longer one as many from its beginning as its end

_CODE = re.compile(r"```.*?(?:```|\Z)|`[^`\n]*`|\$\$.*?\$\$|\$[^$\n]{1,200}\$|\\[A-Za-z]+", re.DOTALL)
_ADDRESS = re.compile(r"\b(?:https?://|www\.)\S+|[^\s@]{1,64}@[^\s@]{1,255}|\b[Aa]nswer[*_]{0,2}:")  # and the asked cue
_TABLES: dict[str, Any] = tomllib.loads(read_text(Path(__file__).with_name("languages.toml")))
_EDGES = [(re.escape(begin), re.escape(end)) for begin, end in _TABLES["pairs"]]
_QUOTED = re.compile("|".join(f"{begin}[^{end}\\n]{{1,{LONGEST_QUOTE}}}{end}" for begin, end in _EDGES))


def _letters(text: str) -> str:
    return "".join(filter(str.isalpha, text))  # general categories L, without digits, marks and punctuation


def prose(text: str) -> str:
    """Give an answer without code, formulas, addresses, and quotations and brackets up to `LONGEST_QUOTE` characters.

    Where nothing but a quotation would be left out of (the whole answer is quoted), the quotation is the prose.
    """
    if len(text) > LONGEST:
        text = f"{text[: LONGEST // 2]}\n{text[-LONGEST // 2 :]}"
    bare = _ADDRESS.sub(" ", _CODE.sub(" ", text))
    outside = _QUOTED.sub(" ", bare)
    return outside if _letters(outside) else bare


@cache
def _language(tag: str) -> str:
    """Give the language of a tag (BCP 47 or FLORES) by its shortest code, empty where there is none."""
    from babel.core import get_global

    code = re.split(r"[-_]", tag.strip().lower())[0]
    code = _TABLES["macro"].get(code, code)
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
    if told is None and language in _TABLES["two_scripts"]:
        return frozenset(_TABLES["two_scripts"][language])
    likely = get_global("likely_subtags")
    region = next((part.upper() for part in parts[1:] if re.fullmatch(r"[A-Za-z]{2}|\d{3}", part)), "")
    full = likely.get(f"{language}_{region}") or likely.get(language) or likely.get(parts[0].lower(), "")
    script = told or next((part for part in full.split("_")[1:] if len(part) == len("Latn")), None)
    return frozenset(_TABLES["mixed"].get(script, (script,))) if script else frozenset()


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
    """
    expected = scripts_of(tag)
    total = latin = other = 0
    for letter, count in Counter(_letters(prose(text))).items():
        scripts = _scripts_of_letter(letter)
        foreign = bool(scripts) and not scripts & expected
        total += count if scripts else 0
        latin += count if foreign and "Latn" in scripts else 0
        other += count if foreign and "Latn" not in scripts else 0
    much_latin = latin >= FEWEST_LETTERS and latin > LATIN_SHARE * total
    return much_latin or (other >= FEWEST_LETTERS and other > FOREIGN_SHARE * total)


@cache
def _identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


def wrong_language(text: str, tag: str) -> bool:
    """Say whether an answer is written in another language than was expected.

    Definition: the prose has at least 60 bytes of letters in UTF-8, and the identifier is at least 90 % sure of a
    language that is neither the expected one nor so near that a few sentences do not tell them apart. Where it does
    not know the expected language, only a drift into English is looked for. Source: `py3langid` 0.4 (BSD, 4.6 MB, no
    network, 140 languages; Lui and Baldwin 2012, "langid.py", ACL system demonstrations).
    """
    plain = prose(text)
    if len(_letters(plain).encode("utf-8", "ignore")) < LEAST_BYTES:
        return False
    identifier, language = _identifier(), _language(tag)
    near = {language}.union(*(kin for kin in map(str.split, _TABLES["kin"]) if language in kin))
    found, sure = identifier.classify(" ".join(plain.split()))
    if sure < SURE or found == "zxx":
        return False
    return bool(found not in near if near & set(identifier.labels) else found == "en" and language != "en")
