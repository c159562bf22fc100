"""Strata whose baseline answers are nearly all empty, cut at the token limit, or of a form that cannot be read.

Such answers say how the model was asked, not what it can do: a base model in the form for chat models, a token limit
that is too low. All but the missing number is read from signs that were found when an answer was scored.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from harness.judge.comparison import Comparison, Comparisons
from harness.records import Generation, Item, Scored
from harness.suite.tail.detectors import number_of, unparsed

__all__ = ["noted", "unusable_strata"]

NEARLY_ALL = 0.8
"""Share of a stratum's answers from which on they are called unusable."""

LEAST = 5
"""Answers below which a share says little."""

_FORMS = {
    "empty": "empty",
    "truncated": "cut at the token limit",
    "invalid_json": "no JSON",
    "code_syntax": "code that does not parse",
    "unparsed": "without the number asked for",
}
"""Sign to what is said of such answers; an answer counts for the first that it shows."""

_ADVICE = {
    "empty": "check sampling.chat_template and the stop texts",
    "truncated": "check the task's token limit and sampling.chat_template",
}


def unusable_strata(items: Sequence[Item], answers: Iterable[Scored]) -> dict[tuple[str, str], str]:
    """Give (slice, stratum) to a sentence if nearly all the answers there are unusable, and score 0."""
    asked = {item.id: item for item in items}
    forms: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for one in answers:
        item = asked.get(one.item_id)
        if item is not None and one.signs is not None:
            forms[item.slice, item.stratum][_form(one, item)] += 1
    return {place: _sentence(counts) for place, counts in forms.items() if _unusable(counts)}


def noted(material: Comparisons, found: Mapping[tuple[str, str], str]) -> Comparisons:
    """Return the comparisons with the sentences in their strata."""

    def own(side: Comparison) -> Comparison:
        strata = (replace(one, unusable=found.get((one.slice, one.stratum), "")) for one in side.strata)
        return replace(side, strata=tuple(strata))

    return replace(material, candidates=tuple(map(own, material.candidates))) if found else material


def _form(one: Scored, item: Item) -> str:
    """Return the first form of `_FORMS` that an answer has; empty for a usable one, or a text that was not kept."""
    if one.score or one.signs is None:
        return ""
    text = one.response.text if isinstance(one.response, Generation) else ""
    unread = bool(text) and number_of(item.target) is not None and unparsed(text)
    signs = {**one.signs, "unparsed": unread}
    return next((form for form in _FORMS if signs.get(form)), "")


def _unusable(counts: Counter[str]) -> bool:
    return counts.total() >= LEAST and counts.total() - counts[""] >= NEARLY_ALL * counts.total()


def _sentence(counts: Counter[str]) -> str:
    shown = [(form, counts[form]) for form in sorted(_FORMS, key=lambda form: -counts[form]) if counts[form]]
    listed = ", ".join(f"{count} of {counts.total()} answers are {_FORMS[form]}" for form, count in shown)
    advice = _ADVICE.get(shown[0][0], "check the prompts and sampling.chat_template")
    return f"{listed}: they say nothing of what the model can do; {advice}"
