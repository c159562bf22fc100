"""Which kinds of tail event an answer shows: asked when it is scored, because its text may not be kept.

An event is a sign that the candidate's answer shows and the baseline's to the same item does not. NaN and infinity are
no sign: the engine stops a model that gives them (`harness.errors.NonFinite`), and it is not judged at all.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal

from harness.records import Generation, Item, Response
from harness.suite.tail.language import scripts_of, wrong_language, wrong_script
from harness.suite.tail.text import empty, refusal, repetition, thought_signs
from harness.suite.toolkit.numerals import only_value
from harness.suite.toolkit.scoring import stated_number
from harness.suite.toolkit.scoring_json import NOT_JSON, json_of
from harness.suite.toolkit.tool_calls import FAILURES

Metrics = Mapping[str, float]
TIMES = 10  # an answer so many times too large or too small is of the wrong magnitude

_DECLINES = re.compile(r"\b(?:no|none|not|cannot|unknown|unable)\b|n['\u2019]t\b")


@dataclass(frozen=True, slots=True)
class Seen:
    """What one answer shows; both are None where the answer is no free text."""

    signs: Mapping[str, bool] | None = None  # kind to whether the answer shows it, for the kinds looked for
    length: int | None = None  # tokens of the answer


def examine(item: Item, response: Response, score: float | None, metrics: Metrics, thought: str = "") -> Seen:
    """Look at one answer for every kind of event that its item can have.

    score: in [0, 1], None where unanswered. metrics: what the task's scorer said. thought: what came before the answer
    and was taken out of it. Choices and items that could not be asked show nothing and count in no rate.
    """
    if not isinstance(response, Generation):
        return Seen()
    text, cut, wrong = response.text, response.finish == "length", score is not None and score < 1.0
    if item.doc.get("scorer") == "json_schema" and score is not None:  # a line of traffic: its score is that it fits
        metrics = {**metrics, "parses": float(json_of(text) is not NOT_JSON), "valid": score}
    signs = {"empty": empty(text), "truncated": cut, "repetition": repetition(text)}
    signs |= {"refusal": refusal(text) and (wrong or not item.doc.get("tool_schemas"))} | from_metrics(metrics)
    if item.language and scripts_of(item.language):
        signs["wrong_script"] = wrong_script(text, item.language)
        signs["wrong_language"] = not signs["wrong_script"] and wrong_language(text, item.language)
    language, target = _read_in(item), number_of(item.target, _read_in(item))
    if target is not None:
        signs["magnitude"] = wrong and magnitude(text, target, language)
    if thought:
        signs |= thought_signs(thought, text, cut=cut, wrong=wrong, target=item.target, number=target)
    return Seen(signs, len(response.token_ids))


def possible(item: Item) -> frozenset[str]:
    """Give the kinds that an item's answer may show, as far as the item tells before it is answered."""
    if item.kind != "generate":
        return frozenset()
    kinds = {"empty", "truncated", "repetition", "refusal", "blow_up"}
    kinds |= {"invalid_json", "invalid_schema"} if item.doc.get("schema") else set()  # one's own may be "{}"
    if item.doc.get("tool_schemas"):
        no_tool_fits = item.target == "[]"
        kinds |= {kind for kind in FAILURES if (kind == "tool_uncalled_for") == no_tool_fits}
    kinds |= {"code_syntax", "code_error"} if item.doc.get("tests") else set()
    kinds |= {"wrong_script", "wrong_language"} if item.language and scripts_of(item.language) else set()
    kinds |= {"magnitude"} if number_of(item.target, _read_in(item)) is not None else set()
    return frozenset(kinds)


def _read_in(item: Item) -> str:
    """The language in which the item's scorer reads numbers: that of a numeric line of traffic, else none."""
    return item.language if item.doc.get("scorer") == "numeric" else ""


def number_of(target: str, language: str = "") -> Decimal | None:
    """Give the number that a right answer is, None where it is none (or zero, which has no magnitude)."""
    return only_value(target, language) or None


def magnitude(text: str, target: Decimal, language: str = "") -> bool:
    """Say whether an answer is a number, but ten times or more too large or too small.

    Definition: the number that the answer states, as the graders read it (`scoring.stated_number`), is at least
    ten times the target or at most a tenth of it, signs aside. Source: own, for the "off by an order of magnitude" of
    arithmetic over several steps. language: how numbers are read, given for the user's own numeric lines.
    """
    stated = stated_number(text, language)
    return stated is not None and (abs(stated) >= TIMES * abs(target) or TIMES * abs(stated) <= abs(target))


def unparsed(text: str) -> bool:
    """Say whether an answer to a question for a number holds none, and does not decline in English either."""
    return stated_number(text) is None and not _DECLINES.search(text.casefold())


def from_metrics(metrics: Metrics) -> dict[str, bool]:
    """Read the signs of code, JSON and tool calls (docs/tail-events.md) out of what the task's scorer measured."""
    found = {kind: metrics[kind] > 0 for kind in FAILURES if kind in metrics}
    if "parses" in metrics:
        parses = metrics["parses"] > 0
        if "valid" in metrics and "runs" not in metrics:
            found |= {"invalid_json": not parses, "invalid_schema": parses and metrics["valid"] <= 0}
        else:
            found["code_syntax"] = not parses
            found |= {"code_error": parses and metrics["runs"] <= 0} if "runs" in metrics else {}
    return found
