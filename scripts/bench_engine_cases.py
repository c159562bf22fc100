"""The questions of the engine's benchmark: made on the spot from a seed, or GSM8K where its file is at hand."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lm_eval
import yaml

from harness.records import Item

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
    """Return plain sentences of about so many tokens."""
    text, adjectives = "", ("old", "quiet", "broken", "empty", "painted", "forgotten")
    while len(tokenizer.encode(text)) < tokens:
        words = draw.sample(WORDS, 5)
        text += SENTENCE.format(words[0], words[1], draw.choice(adjectives), *words[2:])
    return text


def item(name: str, prompt: str, **rest: Any) -> Item:
    """Return an item of the benchmark; its slice is the case that it was made for."""
    kind = "choice" if "choices" in rest else "generate"
    fixed = {"slice": name.partition("-")[0], "task": "bench", "levels": {}, "stratum": "all", "cluster": name}
    return Item(id=f"bench/{name}", kind=kind, prompt=prompt, **fixed, **rest)  # type: ignore[arg-type]


def choices(count: int, tokenizer: Any, tokens: int = 500) -> list[Item]:
    """Return items with a context of 500 tokens and four choices of a few words."""
    made = []
    for number in range(count):
        draw = random.Random(f"choices {number}")
        context = text_of(tokens, tokenizer, draw)
        wrong = [" the " + " ".join(draw.sample(WORDS, draw.randint(1, 4))) for _ in range(4)]
        made.append(item(f"choices-{number}", f"{context}\nNobody spoke again of", choices=tuple(wrong)))
    return made


def haystack(count: int, tokenizer: Any, tokens: int = 2000, questions: int = 8) -> list[Item]:
    """Return questions about numbers hidden in a text of 2,000 tokens, eight for each text."""
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


def questions(count: int, data: Path | None) -> list[str]:
    """Return GSM8K's first test questions where its file is at hand, else made ones of the same length."""
    if data is not None and (data / "gsm8k" / "test.jsonl").is_file():
        lines = (data / "gsm8k" / "test.jsonl").read_text(encoding="utf-8").splitlines()[:count]
        return [json.loads(line)["question"] for line in lines]
    return [problem(number) for number in range(count)]


def generation(asked: Sequence[str], tokenizer: Any, tokens: int) -> list[Item]:
    """Return word problems in the chat template, without examples: what decoding alone costs."""
    made = []
    for number, question in enumerate(asked):
        messages = [{"role": "user", "content": f"{question}\nThink step by step, then give the answer after ####."}]
        prompt = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        made.append(item(f"generation-{number}", prompt, max_tokens=tokens, stop=("Question:", "<|im_end|>")))
    return made


def fewshot(asked: Sequence[str], tokens: int) -> list[Item]:
    """Return word problems as lm_eval's task `gsm8k_cot` asks them: after its eight worked examples, as plain text."""
    folder = Path(lm_eval.__file__).parent / "tasks" / "gsm8k"
    task = yaml.safe_load((folder / "gsm8k-cot.yaml").read_text(encoding="utf-8"))
    shots = task["fewshot_config"]["samples"]
    begin = "".join(f"Q: {one['question']}\nA: {one['target']}\n\n" for one in shots)
    stop = tuple(task["generation_kwargs"]["until"])
    return [
        item(f"fewshot-{number}", f"{begin}Q: {question}\nA:", max_tokens=tokens, stop=stop, prefix_group="cot")
        for number, question in enumerate(asked)
    ]


def problem(number: int) -> str:
    """Return a word problem of several steps."""
    draw = random.Random(f"problem {number}")
    first, second, third = draw.randint(3, 40), draw.randint(2, 9), draw.randint(2, 30)
    things, place = draw.choice(WORDS), draw.choice(WORDS)
    return (
        f"Anna has {first} {things}s. Her brother brings {second} times as many from the {place}. On the way home they "
        f"lose {third} of them, and a friend gives each of the two {second} more. How many do they have together?"
    )


SIZES: dict[str, dict[str, Any]] = {
    "quick": {"choices": 3, "hay": 1, "texts": 6, "tokens": 32, "shots": 4, "mixed": (2, 3)},
    "cpu": {"choices": 6, "hay": 1, "texts": 48, "tokens": 200, "shots": 24, "mixed": (3, 6)},
    "cuda": {"choices": 192, "hay": 24, "texts": 256, "tokens": 200, "shots": 128, "mixed": (48, 64)},
}
"""How much is asked: a GPU has to be kept busy for seconds, or making the engine is what is measured."""


def cases(tokenizer: Any, data: Path | None, size: dict[str, Any]) -> list[Case]:
    """Return the cases: name, items, and how many models are asked."""
    one, two = size["mixed"]
    asked = questions(max(size["texts"], size["shots"]), data)
    hay = haystack(size["hay"], tokenizer)
    mixed = choices(one, tokenizer) + hay + generation(asked[:two], tokenizer, min(128, size["tokens"]))
    return [
        {"name": "choices", "items": choices(size["choices"], tokenizer), "models": 1},
        {"name": "haystack", "items": hay, "models": 1},
        {"name": "generation", "items": generation(asked[: size["texts"]], tokenizer, size["tokens"]), "models": 1},
        {"name": "fewshot", "items": fewshot(asked[: size["shots"]], size["tokens"]), "models": 1},
        {"name": "whole", "items": mixed, "models": 4},
    ]
