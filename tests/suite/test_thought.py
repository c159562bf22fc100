"""Thoughts in each family's format: reached and left, loops, cut, no answer after; and none of these in a sound one."""

from __future__ import annotations

import pytest

from harness.records import Generation, Item
from harness.suite.tail.detectors import examine
from harness.suite.tail.text import THOUGHTS
from harness.suite.toolkit.thinking import split

SOUND = "First 17 + 25 = 42. Then I check: 42 - 25 = 17. Good."
LOOP = "Wait, let me check the sum once more. " * 6 + "17 + 25 = 42."
FAMILIES = {
    "qwen": "<think>\n{}\n</think>\n\n{}",
    "magistral": "[THINK]{}[/THINK]{}",
    "seed": "<seed:think>{}</seed:think>{}",
    "kimi": "\u25c1think\u25b7{}\u25c1/think\u25b7{}",
    "command a": "<|START_THINKING|>{}<|END_THINKING|>{}",
    "gpt-oss": "<|channel|>analysis<|message|>{}<|end|><|start|>assistant<|channel|>final<|message|>{}",
}
CASES = {
    (SOUND, "Answer: 42"): set(),
    ("I add 17 and 25 by parts: 30 and 12.", "Answer: 41"): set(),
    (SOUND, "Answer: 41"): {"thought_left"},
    (LOOP, "Answer: 42"): {"thought_loop"},
    (SOUND, ""): {"thought_only"},
}


def signs(text: str, finish: str = "eos") -> set[str]:
    """What an answer's thought shows, of an item whose answer is 42."""
    answer, thought = split(text)
    item = Item("t/1", "s", "t", "generate", "?", {}, "a", "c", target="42")
    score = float("42" in answer)
    response = Generation("t/1", answer, (1, 2, 3), finish, 4)
    found = examine(item, response, score, {"score": score}, thought).signs
    assert set(THOUGHTS) <= set(found)
    return {kind for kind in THOUGHTS if found[kind]}


@pytest.mark.parametrize("family", FAMILIES)
def test_each_sign_is_seen_in_each_familys_format(family):
    """Positive and negative examples of every sign that ends by itself."""
    for (thought, answer), expected in CASES.items():
        assert signs(FAMILIES[family].format(thought, answer)) == expected, (thought, answer)


def test_a_thought_that_the_limit_cut_is_cut_and_not_only():
    """No answer came because there was no room for one."""
    assert signs("<think>\nFirst 17 and", finish="length") == {"thought_cut"}
    assert signs("<think>\n" + "again and again " * 20, finish="length") == {"thought_cut", "thought_loop"}
    assert signs("<think>\nShort.</think>Answer: 42", finish="length") == set()


def test_an_answer_without_a_thought_is_not_looked_at():
    """It counts in no rate of thoughts."""
    item = Item("t/1", "s", "t", "generate", "?", {}, "a", "c", target="42")
    found = examine(item, Generation("t/1", "42", (1,), "eos", 4), 1.0, {}).signs
    assert not set(THOUGHTS) & set(found)
