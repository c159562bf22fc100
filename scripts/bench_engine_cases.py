"""The questions of the engine's benchmark: made on the spot from a seed, or GSM8K where its file is at hand."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.records import Item

__all__ = ["Case", "cases"]

WORDS = [
    "harbour",
    "river",
    "winter",
    "garden",
    "letter",
    "captain",
    "window",
    "market",
    "candle",
    "mountain",
    "teacher",
    "engine",
    "silver",
    "bridge",
    "paper",
    "kitchen",
    "forest",
    "doctor",
    "island",
    "summer",
    "basket",
    "village",
    "morning",
    "lantern",
    "harvest",
    "compass",
    "feather",
    "orchard",
    "thunder",
    "blanket",
    "carpet",
    "bottle",
    "library",
    "station",
    "mirror",
    "pocket",
    "hammer",
    "ladder",
    "needle",
    "pepper",
    "rocket",
    "saddle",
    "tunnel",
    "valley",
]
SENTENCE = "The {0} near the {1} was {2} before the {3} came, and nobody in the {4} spoke of the {5} again. "

Case = dict[str, Any]


def text_of(tokens: int, tokenizer: Any, draw: random.Random) -> str:
    """Give plain sentences of about so many tokens."""
    text, adjectives = "", ("old", "quiet", "broken", "empty", "painted", "forgotten")
    while len(tokenizer.encode(text)) < tokens:
        words = draw.sample(WORDS, 5)
        text += SENTENCE.format(words[0], words[1], draw.choice(adjectives), *words[2:])
    return text


def item(name: str, prompt: str, **rest: Any) -> Item:
    """Give an item of the benchmark."""
    kind = "choice" if "choices" in rest else "generate"
    fixed = {"slice": "bench", "task": "bench", "levels": {}, "stratum": "all", "cluster": name}
    return Item(id=f"bench/{name}", kind=kind, prompt=prompt, **fixed, **rest)  # type: ignore[arg-type]


def choices(count: int, tokenizer: Any, tokens: int = 500) -> list[Item]:
    """Give items with a context of 500 tokens and four choices of a few words."""
    made = []
    for number in range(count):
        draw = random.Random(f"choices {number}")
        context = text_of(tokens, tokenizer, draw)
        wrong = [" the " + " ".join(draw.sample(WORDS, draw.randint(1, 4))) for _ in range(4)]
        made.append(item(f"choices-{number}", f"{context}\nNobody spoke again of", choices=tuple(wrong)))
    return made


def haystack(count: int, tokenizer: Any, tokens: int = 2000, questions: int = 8) -> list[Item]:
    """Give questions about numbers hidden in a text of 2,000 tokens, eight for each text."""
    made = []
    for number in range(count):
        draw = random.Random(f"haystack {number}")
        keys = draw.sample(WORDS, questions)
        facts = [f"The special number for {key} is {draw.randint(1000, 9999)}. " for key in keys]
        sentences = text_of(tokens - 12 * questions, tokenizer, draw).split(". ")
        for fact in facts:
            sentences.insert(draw.randrange(len(sentences)), fact.strip(" ."))
        text = ". ".join(sentences)
        for key in keys:
            prompt = f"{text}\nQuestion: What is the special number for {key}?\nAnswer: The special number for {key} is"
            group = {"prefix_group": f"haystack-{number}", "stop": ("\n", ".")}
            made.append(item(f"haystack-{number}-{key}", prompt, max_tokens=12, **group))
    return made


def generation(count: int, tokenizer: Any, data: Path | None, tokens: int) -> list[Item]:
    """Give word problems in the chat template: GSM8K's test questions, or made ones of the same length."""
    questions: Sequence[str] = [problem(number) for number in range(count)]
    if data is not None and (data / "gsm8k" / "test.jsonl").is_file():
        lines = (data / "gsm8k" / "test.jsonl").read_text(encoding="utf-8").splitlines()[:count]
        questions = [json.loads(line)["question"] for line in lines]
    made = []
    for number, question in enumerate(questions):
        messages = [{"role": "user", "content": f"{question}\nThink step by step, then give the answer after ####."}]
        prompt = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        made.append(item(f"generation-{number}", prompt, max_tokens=tokens, stop=("Question:", "<|im_end|>")))
    return made


def problem(number: int) -> str:
    """Give a word problem of several steps."""
    draw = random.Random(f"problem {number}")
    first, second, third = draw.randint(3, 40), draw.randint(2, 9), draw.randint(2, 30)
    things, place = draw.choice(WORDS), draw.choice(WORDS)
    return (
        f"Anna has {first} {things}s. Her brother brings {second} times as many from the {place}. On the way home they "
        f"lose {third} of them, and a friend gives each of the two {second} more. How many do they have together?"
    )


def cases(tokenizer: Any, data: Path | None, *, quick: bool) -> list[Case]:
    """Give the four cases: name, items, and how many models are asked."""
    few = {"choices": 4, "hay": 1, "texts": 8, "tokens": 64, "mixed": (2, 1, 4)}
    many = {"choices": 12, "hay": 2, "texts": 24, "tokens": 256, "mixed": (6, 1, 12)}
    size: dict[str, Any] = few if quick else many
    one, two, three = size["mixed"]
    texts = generation(size["texts"], tokenizer, data, size["tokens"])
    mixed = choices(one, tokenizer) + haystack(two, tokenizer) + texts[:three]
    return [
        {"name": "choices", "items": choices(size["choices"], tokenizer), "models": 1},
        {"name": "haystack", "items": haystack(size["hay"], tokenizer), "models": 1},
        {"name": "generation", "items": texts, "models": 1},
        {"name": "whole", "items": mixed, "models": 4},
    ]
