"""Graders: whether an answer's text says what was asked for. Pure functions on text, each giving 0.0 or 1.0.

An answer that takes too long or too deep scores 0, and the item says so. The alarm needs the main thread.
"""

import contextlib
import re
import signal
import threading
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextvars import ContextVar
from decimal import Decimal

from harness.suite.toolkit.numerals import DASHES, RE, decided, numbers, only_value

SECONDS, WAITS = 5.0, 20  # the longest that one answer may keep a scorer busy, and how many times that it may wait
_SIGNS = DASHES | {ord(one): ord(sign) for one, sign in zip("\u2018\u2019\u201c\u201d", "''\"\"", strict=True)}
# Thai, Lao, Burmese, Khmer, kana, Han
UNSPACED = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff]")


def only_number(text: str, target: str) -> float:
    """Score 1 where the answer names the target number, not as a bound, and no other."""
    return float({*numbers(text)} == {decided(text.casefold())} == {only_value(target)})


def near_number(text: str, target: str, tolerance: float = 0, language: str = "") -> float:
    """Score 1 where the answer's `stated_number` is within `tolerance` of the target."""
    found, wanted = stated_number(text, language), only_value(target, language)
    return float(found is not None and wanted is not None and abs(found - wanted) <= Decimal(str(tolerance)))


def stated_number(text: str, language: str = "") -> Decimal | None:
    r"""The number after the last "Answer:", of an equation its result; else in the last ``\boxed{}``, else the last.

    A correction counts. None for a bound (`>5`), a sum that is not worked out, and one of two (`5 or 6`).
    """
    *told, rest = RE["announced"].split(text.casefold())
    before, boxed, within = ("", "", "") if told else rest.rpartition("\\boxed{")
    if not told and not (boxed and numbers(within, language)):
        return decided(rest, language, last=True)
    rest = RE["retracted"].split(within if boxed else rest)[-1]
    rest = rest[begun.end() :] if (begun := RE["equation"].match(rest)) else rest
    lead = before if boxed in before else re.sub(r"\d", "#", before)  # `3 + 4, or \boxed{7}` is no choice of two boxes
    return decided(rest if boxed else f":{rest}", language, lead)


def abstained(text: str) -> float:
    """Score 1 where the answer says in English that what was asked for is not there, and names no number."""
    return float(bool(RE["absent"].search(text.casefold().replace("\u2019", "'"))) and not re.search(r"\d", text))


def plain(text: str) -> str:
    """Give a text as answers are compared: NFKC, casefolded, words of letters, marks (many are vowels) and digits."""
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold()).replace("i\u0307", "i")
    return " ".join("".join(sign if unicodedata.category(sign)[0] in "LMN" else " " for sign in folded).split())


def named(text: str, names: Iterable[str]) -> set[str]:
    """Return the names that stand in an answer as whole words (without spaces: anywhere), not as a part of another."""
    answer, found = f" {plain(text)} ", set[str]()
    for name, wanted in sorted(((one, plain(one)) for one in names), key=lambda both: -len(both[1])):
        whole = rf"(?<= ){wanted}(?= )" if not UNSPACED.search(wanted) else " ?".join(wanted.replace(" ", ""))
        if wanted and wanted.replace(" ", "") in answer.replace(" ", ""):
            answer, count = re.subn(whole, "|", answer)
            found |= {name} if count else set()
    return found


def contains_any(text: str, targets: Sequence[str]) -> float:
    """Score 1 where a target stands in the answer, whatever case, width, dash, quote and space.

    Not within a longer number. Markdown's backslashes and bold marks do not count, unless a target has some.
    """
    wanted = [_compared(one) for one in targets]
    given = _compared(text if any("\\" in one for one in wanted) else re.sub(r"\\(?=[_\W])(?=\S)", "", text))
    forms = [given] if "**" in "".join(wanted) else [given, given.replace("**", "")]
    found = (RE["before"].pattern + re.escape(one) + RE["behind"].pattern for one in wanted)
    return float(any(re.search(one, form) for one in found for form in forms))


def _compared(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text.translate(_SIGNS)).casefold().replace("i\u0307", "i").split())


def matches_any(text: str, patterns: Sequence[str]) -> float:
    """Score 1 where one of the regular expressions (Python's) is found in the answer."""
    return scored(lambda: float(any(re.search(one, text) for one in patterns)))


class OverLimit(Exception):
    """Something took too long, such as a scorer over an answer."""


# What an answer may cause in a scorer that is right.
BEYOND = (OverLimit, RecursionError, ArithmeticError, MemoryError, re.error)
_notes: ContextVar[list[str] | None] = ContextVar("notes", default=None)


@contextlib.contextmanager
def noted() -> Iterator[list[str]]:
    """Collect the limits that are reached inside."""
    found: list[str] = []
    token = _notes.set(found)
    try:
        yield found
    finally:
        _notes.reset(token)


def note(limit: str) -> None:
    """Put down that a limit was reached, where someone collects it."""
    if (found := _notes.get()) is not None:
        found.append(limit)


@contextlib.contextmanager
def limited(seconds: float | None = None, what: str = "scoring") -> Iterator[None]:
    """Raise OverLimit after `seconds` of processor time, or `WAITS` times as long in all. An outer limit goes on."""
    longest, clocks = SECONDS if seconds is None else seconds, (signal.ITIMER_PROF, signal.ITIMER_REAL)
    if threading.current_thread() is not threading.main_thread() or any(signal.getitimer(one)[0] for one in clocks):
        yield  # someone's alarm is set already: the outer limit's
        return

    def late(*_: object) -> None:
        raise OverLimit(f"{what} took longer than {longest:g} s")

    timers = ((clocks[0], signal.SIGPROF, longest), (clocks[1], signal.SIGALRM, WAITS * longest))
    before = [signal.signal(sign, late) for _, sign, _ in timers]
    for timer, _, most in timers:
        signal.setitimer(timer, most, 0.5)  # again and again, in case a scorer swallows the first
    try:
        yield
    finally:
        for (timer, sign, _), was in zip(timers, before, strict=True):
            signal.setitimer(timer, 0)
            signal.signal(sign, was)


def scored(score: Callable[[], float]) -> float:
    """What `score` gives, or 0 with a note if an answer takes it beyond a limit."""
    try:
        with limited():
            return score()
    except BEYOND as error:
        note(str(error) or type(error).__name__)
        return 0.0
