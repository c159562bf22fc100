"""What a finished run knows of a variant that a server can be asked again: a few questions and their answers.

Asked are texts near ties (up to the token at which variants differ) and choices, with how much of that the A/A control
changed. The choice of questions depends on the variants' answers and never on the control's, whose changes are noise.
"""

import fcntl
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any, Literal

from harness.errors import StoreError
from harness.records import ChoiceLogprobs, Generation, Item, Response, digest, to_json
from harness.store.files import read_json, write_json
from harness.store.record import CONTROL, RunRecord

TOKENS = 300  # tokens of answers in text that are asked for, about
LONGEST = 16  # most tokens of one answer
CHOICE_ITEMS = 24  # items with choices
SMALLEST_DIFFERENCE = 0.05  # log-probabilities that differ by less are the same: kernels and the way through JSON round
Given = Mapping[str, Response]  # by item
Answers = Mapping[str, Given]  # by variant


@dataclass(frozen=True, slots=True)
class Question:
    """One item as it is asked again."""

    item: Item  # its longest answer is what is compared
    answers: Mapping[str, Response]  # what each variant of the run answered, the control left out


@dataclass(frozen=True, slots=True)
class Part:
    """The questions of one kind, and the noise of such questions."""

    kind: Literal["generate", "choice"]
    questions: tuple[Question, ...]
    flips: int  # of the control's items, those that it answered otherwise than the baseline
    control: int  # items of the control that were looked at
    tolerance: float = 0.0  # largest difference of log-probabilities that is none


@dataclass(frozen=True, slots=True)
class Certificate:
    """What is known of one variant."""

    variant: str
    parts: tuple[Part, ...]  # its questions by kind; empty if nothing can be compared
    missing: str = ""  # why there is no part

    def digest(self) -> str:
        """Identify the questions, what was answered and the noise: counts of another certificate are not added up."""
        return digest(to_json(self))


def certify(run: RunRecord, variant: str) -> Certificate:
    """Choose the questions of a variant. The same run gives the same ones."""
    answers = {name: {one.item_id: one.response for one in run.of(name)} for name in run.answers}
    control = answers.pop(CONTROL, {})
    usable = [item for item in run.items if item.prompt and not item.asked and item.id not in run.erased]
    usable.sort(key=lambda item: digest([run.experiment.seed, "verify", item.id]))
    kinds = [_texts, _choices] if run.experiment.sampling.temperature == 0 else [_choices]
    made = (part(usable, answers, control, run.experiment.baseline.name, variant) for part in kinds)
    found = tuple(part for part in made if part is not None)
    return Certificate(variant, found, "" if found else _missing(run, control))


def _missing(run: RunRecord, control: Mapping[str, Response]) -> str:
    if not control:
        return "the run has no A/A control, so its noise is not known (execution.control)"
    if (kept := run.experiment.store_text) != "full":
        return f"the run kept no questions and answers that can be asked again (store_text: {kept})"
    if run.experiment.sampling.temperature > 0:
        return "its answers in text were sampled, and the control has no items with choices"
    return "its control has no answers that can be compared"


def _texts(items: Sequence[Item], answers: Answers, control: Given, baseline: str, variant: str) -> Part | None:
    """Choose answers in text: each other variant in turn gets one that differs from its own, then any."""
    own, sides = answers[variant], (answers[variant], control, answers[baseline])
    known = [item for item in items if all(_tokens(side.get(item.id)) for side in sides)]
    others = [name for name in answers if name != variant]
    places = {one.id: {name: _differ_at(own[one.id], answers[name].get(one.id)) for name in others} for one in known}
    chosen: dict[str, Question] = {}
    spent, queues = 0, [[one for one in known if places[one.id][name] < LONGEST] for name in others]
    for item in (*(item for turn in zip_longest(*queues) for item in turn if item is not None), *known):
        if item.id not in chosen and spent < TOKENS:
            length = len(_tokens(own[item.id]))
            last = max((place for place in places[item.id].values() if place < LONGEST), default=length)
            cut = min(item.max_tokens, LONGEST, 1 + last)
            chosen[item.id] = _question(replace(item, max_tokens=cut), answers)
            spent += min(cut, length)
    asked = tuple(chosen.values())
    flips = sum(not agrees(one, answers[baseline][one.item.id], control[one.item.id]) for one in asked)
    return Part("generate", asked, flips, len(asked)) if asked else None


def _question(item: Item, answers: Answers) -> Question:
    return Question(item, {name: given[item.id] for name, given in answers.items() if item.id in given})


def _tokens(given: Response | None) -> tuple[int, ...]:
    return given.token_ids if isinstance(given, Generation) else ()


def _differ_at(own: Response, other: Response | None) -> int:
    """Return the first token at which two answers differ, `LONGEST` if none does."""
    if not isinstance(other, Generation) or _tokens(own) == other.token_ids:
        return LONGEST
    return next(at for at, (one, two) in enumerate(zip_longest(_tokens(own), other.token_ids)) if one != two)


def _choices(items: Sequence[Item], answers: Answers, control: Given, baseline: str, variant: str) -> Part | None:
    """Choose items with choices, of slices that the control has; no difference of the control is beyond tolerance."""
    both = [one for one in items if isinstance(control.get(one.id), ChoiceLogprobs) and one.id in answers[baseline]]
    noise = [far for one in both if (far := _distance(answers[baseline][one.id], control[one.id])) < math.inf]
    slices = {one.slice for one in both}
    own = [one for one in items if one.slice in slices and isinstance(answers[variant].get(one.id), ChoiceLogprobs)]
    asked = tuple(_question(item, answers) for item in own[:CHOICE_ITEMS])
    return Part("choice", asked, 0, len(noise), max([SMALLEST_DIFFERENCE, *noise])) if asked and noise else None


def _distance(one: Response | None, other: Response | None) -> float:
    """Return the largest difference of the log-probabilities of a choice; infinite if one has none."""
    sides = [side.logprobs for side in (one, other) if isinstance(side, ChoiceLogprobs)]
    if len(sides) < 2 or len(sides[0]) != len(sides[1]):  # noqa: PLR2004 - both sides
        return math.inf
    return max(abs(a - b) for a, b in zip(sides[0], sides[1], strict=True))


def agrees(question: Question, expected: Response | None, given: Response | None, tolerance: float = 0.0) -> bool:
    """Whether an answer is the expected one, as far as it was asked for."""
    if question.item.kind == "choice":
        return _distance(expected, given) <= tolerance
    if not isinstance(expected, Generation) or not isinstance(given, Generation):
        return False
    cut = question.item.max_tokens
    if expected.token_ids[:cut] == given.token_ids[:cut] or expected.text == given.text:
        return True
    # The tokens of a part of a text may not be a part of its tokens, if the server gives text alone.
    part, whole = given.text.rstrip("\ufffd"), given.finish == "length" and cut / 2 <= len(given.token_ids) <= cut
    return whole and bool(part) and expected.text.startswith(part)


def calls_of(path: Path, certificate: Certificate, endpoint: str, *new: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the counts of the calls to an endpoint, a new one kept with them. Raises StoreError: other questions."""
    begun: dict[str, Any] = {"certificate": certificate.digest(), "endpoints": {}}
    with path.with_suffix(".lock").open("ab") as lock:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(lock, fcntl.LOCK_EX)  # of two calls that end at once, the other would be lost
        found = read_json(path) if path.is_file() else begun
        if found.get("certificate") != begun["certificate"]:
            why = "counts answers to other questions, as the run was changed"
            raise StoreError(f"{path}: {why}: remove it to begin again")
        calls = [*found["endpoints"].get(endpoint, []), *new]
        if new:
            write_json(path, {**found, "endpoints": {**found["endpoints"], endpoint: calls}})
    return calls
