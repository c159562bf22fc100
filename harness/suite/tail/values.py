"""Signs in an answer whose form is checked: a number off by a power of ten, code, JSON.

Whether code parses and runs, and whether JSON parses and fits, was found by the task's own scorer; these functions read
its metrics. They know no engine and run nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal

from harness.suite.toolkit.numerals import only_value
from harness.suite.toolkit.scoring import stated_number
from harness.suite.toolkit.tool_calls import FAILURES

__all__ = ["from_metrics", "magnitude", "number_of", "unparsed"]

_DECLINES = re.compile(r"\b(?:no|none|not|cannot|unknown|unable)\b|n['\u2019]t\b")

TIMES = 10
"""An answer so many times too large or too small is of the wrong magnitude."""


def number_of(target: str, language: str = "") -> Decimal | None:
    """Give the number that a right answer is, None where it is none (or zero, which has no magnitude)."""
    number = only_value(target, language)
    return number or None


def magnitude(text: str, target: Decimal, language: str = "") -> bool:
    """Say whether an answer is a number, but ten times or more too large or too small.

    Definition: the number that the answer states, as the graders read it (`scoring.stated_number`), is at least
    ten times the target or at most a tenth of it, signs aside. Digits of every script count. Source: own, for the
    "off by an order of magnitude" of arithmetic over several steps.

    Limits: the stated number is found by position, so a remark at the end that holds a number ("in 2 steps") misleads
    it, and 1.234 is a decimal number unless `language`, given for the user's own numeric lines, groups so. Answers that
    scored full marks are never looked at; an answer without any number is wrong, not of the wrong magnitude.
    """
    stated = stated_number(text, language)
    if stated is None:
        return False
    return abs(stated) >= TIMES * abs(target) or TIMES * abs(stated) <= abs(target)


def unparsed(text: str) -> bool:
    """Say whether an answer to a question for a number holds none, and does not decline in English either."""
    return stated_number(text) is None and not _DECLINES.search(text.casefold())


def from_metrics(metrics: Mapping[str, float]) -> dict[str, bool]:
    """Read the signs of code, JSON and tool calls out of what the task's scorer measured; only those that it measured.

    Definitions: ``code_syntax``: the code does not parse (`parses` is 0, beside `runs`). ``code_error``: it parses, and
    running it raises or ends otherwise than it should (`runs` is 0). ``invalid_json``: the answer is no JSON (`parses`
    is 0, beside `valid`). ``invalid_schema``: it is JSON that the given schema forbids (`valid` is 0). Source: the
    parsers of each language; JSON Schema draft 2020-12 by the package jsonschema.

    Each class of a failed tool call is a sign: `harness.suite.toolkit.tool_calls.failure` defines them.

    Limits: code is run only under ``--allow-code-execution``; what was not run is not looked at, and counts in no rate.
    """
    found = {kind: metrics[kind] > 0 for kind in FAILURES if kind in metrics}
    parses = metrics.get("parses")
    if parses is None:
        return found
    if "runs" in metrics:
        found |= {"code_syntax": parses <= 0, "code_error": parses > 0 and metrics["runs"] <= 0}
    elif "valid" in metrics:
        found |= {"invalid_json": parses <= 0, "invalid_schema": parses > 0 and metrics["valid"] <= 0}
    else:
        found["code_syntax"] = parses <= 0
    return found
