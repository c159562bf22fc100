"""Worded arithmetic: a chain of dependent steps in plain sentences, with facts between that do not matter.

Every document is a function of (seed, task, cell, number). The text can be read back: each step's sentence holds its
one number, and the tests do the sum again from the words. lm_eval calls `load` and `score`, named in the YAML files.
"""

from __future__ import annotations

from typing import Any

import datasets

from harness.suite.toolkit.scoring import near_number
from harness.suite.toolkit.seeded import SeededRandom
from harness.suite.toolkit.strata import cells, draw_plan, wanted, with_cue

PEOPLE = ("Tom", "Anna", "Ben", "Maria", "Omar", "Lucy", "Ivan", "Nina", "Paul", "Sara", "Leo", "Emma")
OTHERS = ("Peter", "Julia", "Karim", "Olga", "Frank", "Rosa", "Henry", "Clara")
THINGS = (
    "apples",
    "marbles",
    "stamps",
    "coins",
    "cards",
    "shells",
    "books",
    "pencils",
    "stickers",
    "buttons",
    "eggs",
    "tickets",
)
OTHER_THINGS = ("pears", "kites", "balloons", "hats", "spoons", "lamps", "chairs", "ribbons")

GAINS = (
    "{who} gets {n} more {what}.",
    "A friend gives {who} {n} {what}.",
    "{who} finds {n} {what}.",
    "{who} buys {n} more {what}.",
)
LOSSES = ("{who} gives away {n} {what}.", "{who} loses {n} {what}.", "{who} sells {n} {what}.")
TIMES = "Then {who} ends up with {n} times as many {what} as before."
SHARE = "{who} splits the {what} into {n} equal parts and keeps one part."
ASIDES = (
    "{other} has {n} {else_}.", "{other} is {n} years old.", "The shop nearby sells {n} kinds of {else_}.",
    "{other} once owned {n} {else_}.", "There are {n} {else_} on {other}'s table.",
)  # fmt: skip

RANGES = {"small": (2, 9, 99), "medium": (10, 99, 999), "large": (100, 999, 99999)}
"""Magnitude to the least and greatest number in a step, and the greatest number that a chain may reach."""


def load(**metadata: Any) -> dict[str, datasets.Dataset]:
    """Make the documents: what lm_eval's `custom_dataset` asks for."""
    want = wanted(metadata)
    worked = bool(metadata.get("worked"))
    docs = [
        document(want.seed, cell, number, worked=worked)
        for cell, number in draw_plan(cells(want.axes), want.split_by, want.items)
    ]
    return {"test": datasets.Dataset.from_list(with_cue(docs, metadata))}


def score(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """Score 1 where the last number is the right one; where an answer is announced, the number after it."""
    return {"exact_match": near_number(results[0], doc["target"])}


def document(seed: int, cell: dict[str, str], number: int, *, worked: bool) -> dict[str, Any]:
    """Make one problem: a start, `hops` steps that each change the count, asides between, a question."""
    place = ",".join(f"{axis}={level}" for axis, level in cell.items())
    draw = SeededRandom(seed, "chains", place, number)
    who, what = draw.choice(PEOPLE), draw.choice(THINGS)
    count, steps = _steps(draw, int(cell["hops"]), cell["magnitude"])
    sentences = [f"{who} has {steps[0][1]} {what}."]
    for pattern, operand in steps[1:]:
        if draw.below(2):
            sentences.append(_aside(draw, cell["magnitude"]))
        sentences.append(pattern.format(who=who, what=what, n=operand))
    question = f"How many {what} does {who} have now?"
    ending = "Work it out step by step, then write the result after 'Answer:'." if worked else "Answer with the number."
    return {
        "id": f"{place}/{number}",
        **cell,
        "cluster": f"{place}/{number}",
        "prompt": f"{' '.join(sentences)} {question} {ending}",
        "target": str(count),
        "chance": 0.0,
        "language": "en",
    }


def _steps(draw: SeededRandom, hops: int, magnitude: str) -> tuple[int, list[tuple[str, int]]]:
    """Draw the start and the steps, each possible where the count stands, so that it stays a whole number in range."""
    low, high, limit = RANGES[magnitude]
    count = draw.between(low, high)
    steps = [("", count)]
    for _ in range(hops):
        pattern, operand, count = _step(draw, count, low, high, limit)
        steps.append((pattern, operand))
    return count, steps


def _step(draw: SeededRandom, count: int, low: int, high: int, limit: int) -> tuple[str, int, int]:
    kinds = []
    if count + high <= limit:
        kinds += ["gain", "gain"]
    if count > low + 1:
        kinds += ["loss", "loss"]
    if count * 4 <= limit:
        kinds.append("times")
    shares = [n for n in (2, 3, 4, 5) if count % n == 0 and count // n > 1]
    if shares:
        kinds.append("share")
    kind = draw.choice(kinds)
    if kind == "gain":
        operand = draw.between(low, high)
        return draw.choice(GAINS), operand, count + operand
    if kind == "loss":
        operand = draw.between(low, min(high, count - 1))
        return draw.choice(LOSSES), operand, count - operand
    if kind == "times":
        operand = draw.between(2, 4)
        return TIMES, operand, count * operand
    operand = draw.choice(shares)
    return SHARE, operand, count // operand


def _aside(draw: SeededRandom, magnitude: str) -> str:
    low, high, _ = RANGES[magnitude]
    return draw.choice(ASIDES).format(
        other=draw.choice(OTHERS), else_=draw.choice(OTHER_THINGS), n=draw.between(low, high)
    )
