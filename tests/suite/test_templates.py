"""Chat templates as they come: system messages, arguments, the clock, errors and loops."""

from __future__ import annotations

import json
import time
from datetime import datetime

import conftest
import pytest

from harness.config.loading import parse
from harness.errors import ConfigError, UsageError
from harness.suite import templates
from harness.suite.items import template_notes
from harness.suite.scorer import load_items
from harness.suite.templates import ChatTemplate

BODY = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<eos>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
USER_ONLY = BODY.replace("messages %}", "messages if m.role != 'system' %}")
RAISES = "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}" + BODY
DATED = "Today is {{ strftime_now('%d %b %Y %H:%M:%S') }}" + BODY
ROWS = [
    {"id": "a1", "messages": [{"role": "system", "content": "Clerk of TEAL-77."}, {"role": "user", "content": "Hi?"}]},
    {"id": "a2", "prompt": "Where is order 12?"},
]


@pytest.fixture
def tokenizer():
    """The tests' tokenizer, whose template a test replaces."""
    return conftest.make_tokenizer(2048)


def experiment(tmp_path, **sampling):
    """A config over two lines of traffic, one of them with a system message."""
    lines = [json.dumps({**row, "scorer": "contains", "target": "12"}) for row in ROWS]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    slices = [{"name": "traffic", "options": {"file": str(tmp_path / "rows.jsonl")}, "items": 2, "margin": 0.1}]
    data = {"name": "t", "baseline": {"name": "b", "model": "m"}, "slices": slices, "sampling": sampling}
    return parse({**data, "candidates": [{"name": "c", "quantization": "bnb-nf4"}]})


@pytest.mark.parametrize("template", [BODY, RAISES, USER_ONLY], ids=["takes", "raises", "drops"])
def test_no_system_message_is_dropped(tokenizer, tmp_path, template):
    """The config's and the row's own system message stand in the prompt, whatever the template does with the role."""
    tokenizer.chat_template = template
    items = load_items(experiment(tmp_path, system="MARKER-9."), tokenizer)
    by_id = {item.id.rpartition("/")[2]: item.prompt for item in items}
    assert all("MARKER-9." in prompt for prompt in by_id.values())
    assert "TEAL-77" in by_id["a1"]
    assert "TEAL-77" not in by_id["a2"]
    said = template_notes(tokenizer, experiment(tmp_path).sampling)
    assert any("no system role" in one for one in said) == (template != BODY)
    if template != BODY:
        assert "<|user|>MARKER-9.\n\nClerk of TEAL-77.\n\nHi?" in by_id["a1"]


def test_a_template_that_drops_everything_is_refused(tokenizer, tmp_path):
    """Neither the role nor the user's turn is written: refused before anything runs."""
    tokenizer.chat_template = "Hello {{ messages | length }}"
    with pytest.raises(UsageError, match="neither system messages"):
        template_notes(tokenizer, experiment(tmp_path).sampling)


TURNS = [("system", "Clerk of TEAL-77."), ("user", "First <b>?"), ("assistant", "Well."), ("user", "Then \n\n what?")]
LOSING = {
    "the last turn": BODY.replace("messages %}", "messages[:-1] %}"),
    "all but the last turn": "{{ messages[-1].content }}",
    "all but the first turn": "{{ messages[0].content }}",
    "the assistant's turns": BODY.replace("messages %}", "messages if m.role != 'assistant' %}"),
    "the system message of long conversations": BODY.replace(
        "messages %}", "messages if m.role != 'system' or messages | length < 3 %}"
    ),
    "signs of HTML": BODY.replace("m.content", "m.content | e"),
}


@pytest.mark.parametrize("what", LOSING)
def test_a_template_that_loses_a_turn_is_refused(tokenizer, what):
    """Whatever a template leaves out of a conversation, the question is not the one that is asked: exit code 2."""
    tokenizer.chat_template = LOSING[what]
    messages = [{"role": role, "content": text} for role, text in TURNS]
    with pytest.raises(UsageError, match=r"leaves out or changes message . of 4, the (system|user|assistant)'s"):
        ChatTemplate(tokenizer).write(messages)


def test_a_turn_is_not_there_because_a_longer_one_holds_its_words(tokenizer):
    """`Hi` stands in `Hi there`: a template that leaves the first out is seen all the same."""
    messages = [
        {"role": role, "content": text} for role, text in (TURNS[0], ("user", "Hi"), TURNS[2], ("user", "Hi there"))
    ]
    tokenizer.chat_template = BODY
    assert ChatTemplate(tokenizer).write(messages)
    tokenizer.chat_template = BODY.replace("messages %}", "messages if m.content != 'Hi' %}")
    with pytest.raises(UsageError, match="leaves out or changes message 2 of 4, the user's"):
        ChatTemplate(tokenizer).write(messages)


def test_chance_in_a_template_starts_anew_for_each_prompt(tokenizer, tmp_path):
    """A run that is continued asks the same prompts, and the note about the clock does not stand there for it."""
    tokenizer.chat_template = "{{ range(10000) | random }}{{ range(10000) | random }}" + BODY
    assert load_items(experiment(tmp_path), tokenizer) == load_items(experiment(tmp_path), tokenizer)
    assert not any("clock" in one for one in template_notes(tokenizer, experiment(tmp_path).sampling))


@pytest.mark.parametrize("change", [" | trim", ".split('</think>')[-1]", ".replace('\n', ' ')"])
def test_a_template_may_change_white_space_and_drop_earlier_thoughts(tokenizer, change):
    """As those of Llama, Qwen and Falcon do."""
    tokenizer.chat_template = BODY.replace("m.content", f"m.content{change}")
    messages = [{"role": role, "content": text} for role, text in TURNS]
    messages[2]["content"] = "<think>\nLook.\n</think>\n\nWell."
    assert "Well." in ChatTemplate(tokenizer).write(messages)


def test_arguments_reach_the_template_and_unread_ones_are_said(tokenizer, tmp_path):
    """`enable_thinking: false` changes the prompt; an argument that no template reads is named in a note."""
    thinks = "{% if enable_thinking is defined and enable_thinking is false %}<think></think>{% endif %}"
    tokenizer.chat_template = BODY + thinks
    given = experiment(tmp_path, chat_template_kwargs={"enable_thinking": False, "enabel_thinking": True})
    assert all(item.prompt.endswith("<think></think>") for item in load_items(given, tokenizer))
    (note,) = template_notes(tokenizer, given.sampling)
    assert "'enabel_thinking'" in note
    assert given.digest() != experiment(tmp_path).digest()
    with pytest.raises(ConfigError, match="tokenize"):
        experiment(tmp_path, chat_template_kwargs={"tokenize": True})
    tokenizer.chat_template = None
    with pytest.raises(ConfigError, match="chat_template_kwargs"):
        load_items(given, tokenizer)


def test_the_clock_stands_still_and_is_said(tokenizer, tmp_path):
    """Prompts are the same on another day; the config may name the time."""
    tokenizer.chat_template = DATED
    first = load_items(experiment(tmp_path), tokenizer)
    time.sleep(1.1)
    assert load_items(experiment(tmp_path), tokenizer) == first
    assert all(item.prompt.startswith("Today is 01 Jan 2025 12:00:00") for item in first)
    own = load_items(experiment(tmp_path, clock="2026-03-04T05:06:07"), tokenizer)
    assert all(item.prompt.startswith("Today is 04 Mar 2026 05:06:07") for item in own)
    assert any("reads the clock" in one for one in template_notes(tokenizer, experiment(tmp_path).sampling))


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ now() }}",
        "{{ datetime.now() }}",
        "{% for m in",
        "{{ messages[0]['x']['y'] }}",
        "{{ 1 // 0 }}",
        "{{ raise_exception('no') }}",
        "{{ 'x' * 10 ** 7 }}",
        "{{ 'x' * 10 ** 10 }}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    ],
)
def test_a_bad_template_is_one_sentence(tokenizer, monkeypatch, template):
    """Errors, endless loops and huge outputs end in a UsageError (exit code 2) of one line."""
    monkeypatch.setattr(templates, "_SECONDS", 1.0)
    tokenizer.chat_template = template
    with pytest.raises(UsageError, match="the baseline's chat template") as caught:
        ChatTemplate(tokenizer, {}, datetime(2025, 1, 1)).notes()  # noqa: DTZ001
    assert "\n" not in str(caught.value)
