"""The control: short English questions of the kind that every usual eval holds.

One-step additions, odd-one-in questions over word lists, and common facts. Every generated document is a function of
(seed, task, cell, number); the facts are the list in facts.tsv. lm_eval calls the functions named in the YAML files.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets

from harness.suite.toolkit.scoring import near_number
from harness.suite.toolkit.seeded import TRIES, SeededRandom, unseen
from harness.suite.toolkit.strata import cells, draw_plan, sample_documents, wanted, with_cue

SIZES = {"one digit": (1, 9), "two digits": (10, 99), "three digits": (100, 999)}

GROUPS = {
    "animal": "dog cat horse cow sheep goat lion tiger rabbit mouse elephant bear wolf monkey donkey fox".split(),  # noqa: SIM905
    "fruit": "apple banana orange grape peach pear mango cherry lemon melon plum strawberry".split(),  # noqa: SIM905
    "color": "red blue green yellow black white purple pink brown gray".split(),  # noqa: SIM905
    "tool": "hammer screwdriver saw wrench drill shovel axe rake chisel pliers".split(),  # noqa: SIM905
    "vehicle": "car bus train truck bicycle motorcycle airplane boat ship tram".split(),  # noqa: SIM905
    "musical instrument": "piano guitar violin drum flute trumpet harp cello clarinet saxophone".split(),  # noqa: SIM905
    "piece of clothing": "shirt jacket trousers skirt dress coat sweater scarf socks gloves".split(),  # noqa: SIM905
    "part of the body": "hand foot head arm leg knee shoulder ear nose finger".split(),  # noqa: SIM905
    "vegetable": "carrot potato onion cabbage spinach broccoli lettuce cucumber celery cauliflower".split(),  # noqa: SIM905
    "sport": "football tennis basketball hockey swimming boxing golf baseball volleyball rugby".split(),  # noqa: SIM905
    "piece of furniture": "table chair bed sofa wardrobe desk shelf bench cupboard stool".split(),  # noqa: SIM905
    "profession": "teacher doctor nurse lawyer farmer engineer pilot carpenter baker plumber".split(),  # noqa: SIM905
}
"""Groups whose words belong to no other group here."""


def additions(**metadata: Any) -> dict[str, datasets.Dataset]:
    """Make one-step additions of two numbers of a size."""
    want = wanted(metadata)
    docs: list[dict[str, Any]] = []
    seen: set[tuple[int, int]] = set()
    for cell, number in draw_plan(cells(want.axes), want.split_by, want.items):
        draw = SeededRandom(want.seed, "additions", cell["size"], number)
        low, high = SIZES[cell["size"]]
        first, second = unseen(((draw.between(low, high), draw.between(low, high)) for _ in range(TRIES)), seen)
        docs.append(
            {
                "id": f"size={cell['size']}/{number}",
                "size": cell["size"],
                "cluster": f"size={cell['size']}/{number}",
                "prompt": f"Calculate {first} + {second}. Reply with the result only.",
                "target": str(first + second),
                "chance": 0.0,
                "language": "en",
            }
        )
    return {"test": datasets.Dataset.from_list(with_cue(docs, metadata))}


def score_addition(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """Score 1 where the number that the answer states is the sum."""
    return {"exact_match": near_number(results[0], doc["target"])}


def groups(**metadata: Any) -> dict[str, datasets.Dataset]:
    """Make questions for the one word of four that belongs to a group."""
    want = wanted(metadata)
    docs = []
    for cell, number in draw_plan(cells(want.axes), want.split_by, want.items):
        draw = SeededRandom(want.seed, "groups", number)
        names = draw.sample(list(GROUPS), 4)
        choices = [draw.choice(GROUPS[name]) for name in names]
        gold = draw.below(4)
        article = "an" if names[gold][0] in "aeiou" else "a"
        docs.append(_choice_doc(f"{number}", cell, f"Which of these is {article} {names[gold]}?", choices, gold))
    return {"test": datasets.Dataset.from_list(with_cue(docs, metadata))}


def facts(**metadata: Any) -> dict[str, datasets.Dataset]:
    """Give the common facts, right answer and three wrong ones, in the order that the seed says."""
    want = wanted(metadata)
    lines = (Path(__file__).parent / "facts.tsv").read_text(encoding="utf-8").splitlines()[1:]
    docs = []
    for topic, question, *answers in (line.split("\t") for line in lines):
        shuffled = SeededRandom(want.seed, "facts", question).shuffled(answers)
        choices = [answer[0].upper() + answer[1:] for answer in shuffled]
        gold = choices.index(answers[0][0].upper() + answers[0][1:])
        doc = _choice_doc(question, {"topic": topic}, question, choices, gold)
        # Not listed in the prompt: a small model knows the answer better than it follows a list.
        docs.append({**doc, "prompt": f"{question} Answer in a few words."})
    return {"test": datasets.Dataset.from_list(with_cue(sample_documents(docs, want, "facts"), metadata))}


def _choice_doc(name: str, cell: dict[str, str], question: str, choices: list[str], gold: int) -> dict[str, Any]:
    listed = ", ".join(choices[:-1]) + f" or {choices[-1]}"
    return {
        "id": name,
        **cell,
        "cluster": name,
        "prompt": f"{question} Choose from: {listed}.",
        "choices": choices,
        "gold": gold,
        "target": choices[gold],
        "chance": 1 / len(choices),
        "language": "en",
    }
