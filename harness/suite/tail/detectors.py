"""Tail events: catastrophic answers that a mean score does not show, looked for in one answer at a time.

`signs` names, for the kinds of event that an item can have, whether its answer shows them; it is called when an answer
is scored, because its text may not be kept. An event is a sign of the candidate's answer that the baseline's answer to
the same item does not show: `harness.judge.tail_counts` counts those. NaN and infinity are no sign: a model that
gives them is stopped by the engine with the item's id (`harness.errors.NonFinite`), and is not judged at all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from harness.records import Generation, Item, Response
from harness.suite.tail.language import knows_script, wrong_language, wrong_script
from harness.suite.tail.refusals import refusal
from harness.suite.tail.text import empty, repetition
from harness.suite.tail.thought import thought_signs
from harness.suite.tail.values import from_metrics, magnitude, number_of
from harness.suite.toolkit.scoring_json import NOT_JSON, json_of
from harness.suite.toolkit.tool_calls import FAILURES

__all__ = ["Seen", "examine", "possible"]

_JSON = ("invalid_json", "invalid_schema")
_CODE = ("code_syntax", "code_error")


@dataclass(frozen=True, slots=True)
class Seen:
    """What one answer shows."""

    signs: Mapping[str, bool] | None = None
    """Kind to whether the answer shows it, for the kinds looked for; None where the answer is no free text."""
    length: int | None = None
    """Tokens of the answer; None where it is no free text."""


def examine(
    item: Item, response: Response, score: float | None, metrics: Mapping[str, float], thought: str = ""
) -> Seen:
    """Look at one answer for every kind of event that its item can have.

    thought: what came before the answer and was taken out of the response's text.
    score: in [0, 1], None where unanswered. metrics: what the task's scorer said. Choices and items that could not be
    asked show nothing and count in no rate.
    """
    if not isinstance(response, Generation):
        return Seen()
    text = response.text
    signs = {
        "empty": empty(text),
        "truncated": response.finish == "length",
        "repetition": repetition(text),
        "refusal": refusal(text),
        **from_metrics(_with_json(item, text, score, metrics)),
    }
    if knows_script(item.language):
        signs["wrong_script"] = wrong_script(text, item.language)
        signs["wrong_language"] = not signs["wrong_script"] and wrong_language(text, item.language)
    language = _read_in(item)
    target = number_of(item.target, language)
    if target is not None:
        signs["magnitude"] = score is not None and score < 1.0 and magnitude(text, target, language)
    if thought:
        wrong, cut = score is not None and score < 1.0, response.finish == "length"
        signs |= thought_signs(thought, text, cut=cut, wrong=wrong, target=item.target, number=target)
    return Seen(signs, len(response.token_ids))


def _with_json(item: Item, text: str, score: float | None, metrics: Mapping[str, float]) -> Mapping[str, float]:
    """Add what a line of the user's own traffic does not measure: that it is JSON; its score is that it fits."""
    if item.doc.get("scorer") != "json_schema" or score is None:
        return metrics
    return {**metrics, "parses": float(json_of(text) is not NOT_JSON), "valid": score}


def _read_in(item: Item) -> str:
    """The language in which the item's scorer reads numbers: that of a numeric line of traffic, else none."""
    return item.language if item.doc.get("scorer") == "numeric" else ""


def possible(item: Item) -> frozenset[str]:
    """Give the kinds that an item's answer may show, as far as the item tells before it is answered."""
    if item.kind != "generate":
        return frozenset()
    kinds = {"empty", "truncated", "repetition", "refusal", "blow_up"}
    kinds |= set(_JSON) if item.doc.get("schema") else set()  # a line of one's own traffic may have an empty one
    if item.doc.get("tool_schemas"):
        no_tool_fits = item.target == "[]"
        kinds |= {kind for kind in FAILURES if (kind == "tool_uncalled_for") == no_tool_fits}
    kinds |= set(_CODE) if item.doc.get("tests") else set()
    kinds |= {"wrong_script", "wrong_language"} if knows_script(item.language) else set()
    kinds |= {"magnitude"} if number_of(item.target, _read_in(item)) is not None else set()
    return frozenset(kinds)
