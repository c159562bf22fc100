"""Graders: whether an answer's text says what was asked for. Pure functions on text, each giving 0.0 or 1.0.

The tasks under tasks/ call them from their `process_results`, so lm_eval prints the same scores. A grader reads the
answer, never a reference model; each says what it accepts. Knows nothing of models, tasks or files.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from decimal import Decimal

from harness.suite.toolkit.numerals import ascii_digits, numbers, only_value
from harness.suite.toolkit.scoring_limits import scored

__all__ = [
    "abstained",
    "announced_number",
    "ascii_digits",
    "contains_any",
    "exactly_any",
    "last_number",
    "matches_any",
    "mentions",
    "near_number",
    "numbers",
    "only_number",
    "overlap",
    "plain",
    "says_number",
    "stated_number",
]

_ABSENT = re.compile(
    r"\bnot (?:\w+ )?(?:listed|given|mentioned|present|specified|provided|included|found|there|in the (?:list|text))\b"
    r"|\b(?:isn't|is not|no such|unlisted|unknown|none)\b"
    r"|\bno (?:special )?number\b|\bdoes ?n[o']t (?:have|appear|contain|mention|list)\b",
)

_UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff]",  # Thai, Lao, Burmese, Khmer, kana, Han
)


def only_number(text: str, target: str) -> float:
    """Score 1 where the answer names the target number and no other."""
    return float(set(numbers(text)) == {only_value(target)})


def last_number(text: str, language: str = "") -> Decimal | None:
    """Give the last number of a text, None where there is none."""
    found = numbers(text, language)
    return found[-1] if found else None


def says_number(text: str, target: str) -> float:
    """Score 1 where the last number of the answer is the target: what stands before is the way to it."""
    return float(_same(last_number(text), target))


def announced_number(text: str, target: str) -> float:
    """Score 1 where the answer's `stated_number` is the target."""
    return float(_same(stated_number(text), target))


def _same(found: Decimal | None, target: str) -> bool:
    return found is not None and found == only_value(target)


def stated_number(text: str, language: str = "") -> Decimal | None:
    r"""The first number after the last "Answer:"; without one, in the last ``\boxed{}``, else the last; or None."""
    _, announced, rest = text.casefold().rpartition("answer:")
    if announced:
        return next(iter(numbers(rest, language)), None)
    boxed = numbers(text.rpartition("\\boxed")[2], language) if "\\boxed{" in text else []
    return boxed[0] if boxed else last_number(text, language)


def abstained(text: str) -> float:
    """Score 1 where the answer says in English that what was asked for is not there, and names no number."""
    return float(bool(_ABSENT.search(text.casefold().replace("\u2019", "'"))) and not numbers(text))


def plain(text: str) -> str:
    """Give a text in the form in which answers are compared: NFKC, casefolded, only letters, marks and digits.

    Words are separated by one space. Marks stay: in many scripts they are the vowels.
    """
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    kept = "".join(sign if unicodedata.category(sign)[0] in "LMN" else " " for sign in folded)
    return " ".join(kept.split())


def mentions(text: str, target: str) -> float:
    """Score 1 where the target stands in the answer as whole words, whatever the case and the punctuation around it.

    In a script that sets no spaces between words (Thai, Lao, Khmer, Burmese, Chinese, Japanese) any place counts.
    """
    answer, wanted = plain(text), plain(target)
    if not wanted:
        return 0.0
    if _UNSPACED.search(wanted):
        return float(wanted.replace(" ", "") in answer.replace(" ", ""))
    return float(f" {wanted} " in f" {answer} ")


def _lenient(text: str) -> str:
    """Give a text without regard to case, width and runs of white space."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def exactly_any(text: str, targets: Sequence[str]) -> float:
    """Score 1 where the answer is one of the targets, but for white space around it and Unicode composition."""
    given = unicodedata.normalize("NFC", text).strip()
    return float(any(given == unicodedata.normalize("NFC", one).strip() for one in targets))


def contains_any(text: str, targets: Sequence[str]) -> float:
    """Score 1 where one of the targets stands somewhere in the answer, whatever its case, width and white space."""
    given = _lenient(text)
    return float(any(_lenient(one) in given for one in targets))


def matches_any(text: str, patterns: Sequence[str]) -> float:
    """Score 1 where one of the regular expressions (Python's) is found in the answer."""
    return scored(lambda: float(any(re.search(one, text) for one in patterns)))


def near_number(text: str, target: str, tolerance: float, language: str = "") -> float:
    """Score 1 where the answer's `stated_number` is within `tolerance` of the target."""
    found, wanted = stated_number(text, language), only_value(target, language)
    return float(found is not None and wanted is not None and abs(found - wanted) <= Decimal(str(tolerance)))


def overlap(text: str, targets: Sequence[str]) -> float:
    """Score in [0, 1] by the best chrF against the targets.

    Popovic 2015, "chrF: character n-gram F-score for automatic MT evaluation", WMT; sacrebleu's implementation and
    defaults (character order 6, beta 2), divided by 100.
    """
    from sacrebleu.metrics.chrf import CHRF

    return scored(lambda: float(CHRF().sentence_score(text, list(targets)).score) / 100)
