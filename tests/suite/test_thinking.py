"""What a model thinks is not its answer: found by the marks of the families, left out of scores, measured."""

from __future__ import annotations

import pytest

from harness.config.schema import Sampling
from harness.suite.toolkit.thinking import split

SPLIT = {
    "think": ("<think>\nmaybe 7\n</think>\n\nAnswer: 8", "Answer: 8"),
    "two blocks": ("<think>7</think>\nFirst.\n<think>9</think>\nAnswer: 8", "First.\n\nAnswer: 8"),
    "nested": ("<think>a <think> b </think> c 7</think>8", "8"),
    "empty": ("<think>\n\n</think>\n\n8", "8"),
    "unclosed": ("<think>\nmaybe 8", ""),
    "closed only": ("maybe 7\n</think>\n8", "8"),
    "indentation stays": ("<think>7</think>\n    return 8", "    return 8"),
    "thought": ("<thought>7</thought>8", "8"),
    "LongCat": ("<longcat_think>7</longcat_think>8", "8"),
    "MedGemma": ("<unused94>thought\n7<unused95>8", "8"),
    "Apertus": ("<|inner_prefix|>7<|inner_suffix|>8", "8"),
    "scratchpad": ("<scratchpad>\n7\n</scratchpad>\n8", "8"),
    "Magistral": ("[THINK]7[/THINK]8", "8"),
    "Kimi": ("\u25c1think\u25b77\u25c1/think\u25b78", "8"),
    "harmony": ("<|channel|>analysis<|message|>7<|end|><|start|>assistant<|channel|>final<|message|>8<|return|>", "8"),
    "harmony, cut": ("<|channel|>analysis<|message|>7, no 8", ""),
    "harmony, constrained": (
        "<|channel|>analysis<|message|>7<|end|><|start|>assistant<|channel|>final <|constrain|>json<|message|>{}",
        "{}",
    ),
    "harmony, only final": ("<|channel|>final<|message|>8", "8"),
    "harmony without marks": ("analysisWe need 7.assistantfinal8", "8"),
}


@pytest.mark.parametrize("case", SPLIT)
def test_thinking_is_told_apart(case):
    """The answer is what is left, and nothing is lost: an unclosed block is thinking to its end."""
    text, answer = SPLIT[case]
    found, thought = split(text)
    assert found == answer
    assert thought or case == "harmony, only final"
    assert split(found) == (found, "")


@pytest.mark.parametrize(
    "text",
    [
        "Answer: 8",
        "",
        "I think 8",
        "Write `<think>` before it",
        "re.sub('<think>.*</think>', '', x)",
        "print('</think>')",
        "The tag is <think>",
        "analysis of variance gives 8",
    ],
)
def test_answers_without_blocks_do_not_change(text):
    """Marks that an answer quotes are part of it."""
    assert split(text) == (text, "")


def test_what_the_prompt_opened_is_closed_by_the_answer():
    """A template that opens the block: without a closing mark the answer never came."""
    assert split("so 7\n</think>\n8", prompt="<|user|>x<|assistant|><think>\n") == ("8", "so 7\n</think>")
    assert split("so 8", prompt="<|assistant|><think>\n") == ("", "so 8")
    assert split("so 8", prompt="<|assistant|><think>\n\n</think>\n") == ("so 8", "")


def test_the_config_says_which():
    """By family, none, or one's own marks; a bare off of YAML is off."""
    assert Sampling().marks == "auto"
    assert Sampling.model_validate({"thinking": False}).marks == "off"
    own = Sampling.model_validate({"thinking": {"start": "<a>", "end": "</a>"}}).marks
    assert split("<a>7</a>8", own)[0] == "8"
    assert split("<think>7</think>8", own)[1] == split("<think>7</think>8", "off")[1] == ""
