"""A whole run over tool calls that servers parse: gated class by class, and verified with the same tools."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from commands import call
from stub_server import Answers, served
from test_served_run import endpoint, written

from harness.config.loading import parse
from harness.engines.server_probe import CANARY, PROBE
from harness.records import Item
from harness.run import plan as run_plan

pytestmark = pytest.mark.model


def config(model: Path, engine: Any, other: Any) -> dict[str, Any]:
    """A run over tool calls, one tool of two."""
    axes = {"offered": [2], "calls": ["one", "nested"]}
    ledger = {"name": "structured_output", "tasks": ["quantcliff_tool_ledger"], "axes": axes}
    return {
        "name": "trial",
        "baseline": {"name": "full", "model": str(model), "engine": engine},
        "candidates": [{"name": "small", "engine": other}],
        "slices": [{**ledger, "items": 20, "margin": 0.2, "tail_events": {"tool_wrong_name": 0.2}}],
        "execution": {"device": "cpu"},
        "sampling": {"chat_template": False},
    }


def said(item: Item, *, wrong: bool) -> dict[str, Any]:
    """What a server gives: the right call; wrong: a call of the other tool."""
    (target,), tools = json.loads(item.target), json.loads(item.doc["tool_schemas"])
    other = next(one["function"]["name"] for one in tools if one["function"]["name"] != target["name"])
    function = {"name": other if wrong else target["name"], "arguments": json.dumps(target["arguments"])}
    return {"text": "", "ids": [11, 12], "calls": [{"id": "1", "type": "function", "function": function}]}


def test_calls_that_a_server_parses_are_gated(tiny_llama: Path, tmp_path: Path) -> None:
    """A candidate that calls a look-alike for every second item fails; events are in their class; verify agrees."""
    from transformers import AutoTokenizer

    from harness.engines.served import PromptEncoder

    address = {"name": "openai", "url": "http://localhost:1/v1", "model": "full", "api": "chat", "tools": True}
    plan = run_plan.make_plan(parse(config(tiny_llama, address, {**address, "model": "small"})), "trial.yaml")
    talk, sound, lossy = PromptEncoder(AutoTokenizer.from_pretrained(tiny_llama)), Answers(), Answers()
    for prompt in (PROBE, CANARY):
        for made in (sound, lossy):
            made.by_ids[prompt] = {"text": " eight", "ids": [11], "count": talk.sent(prompt, "messages")[1]}
    for number, item in enumerate(plan.items):
        count = talk.sent(item.prompt, "messages")[1]
        sound.by_ids[item.prompt] = said(item, wrong=False) | {"count": count}
        lossy.by_ids[item.prompt] = said(item, wrong=number % 2 == 0) | {"count": count}
    with served(sound, model="full") as one, served(lossy, model="small") as other:
        more = {"api": "chat", "tools": True, "stream": True}
        path = written(config(tiny_llama, endpoint(one, **more), endpoint(other, **more)), tmp_path)
        assert call("run", path, "--output", tmp_path) == 1
        asked = len(other.asked)
        assert all(len(body["tools"]) == 2 for body in other.questions)
        assert call("verify", tmp_path / "trial", "--url", other.url) == 0
        assert any("tools" in body for body in other.asked[asked:])
    rows = (tmp_path / "trial" / "tail_events.csv").read_text()
    report = (tmp_path / "trial" / "report.md").read_text()
    assert "tool_wrong_name" in rows
    assert "-50.0 points" in report
    (file,) = (tmp_path / "trial" / "small").glob("structured*.jsonl")
    answers = [json.loads(line) for line in file.read_text().splitlines()]
    classes = [name for one in answers for name, shown in one["signs"].items() if shown]
    assert {name: classes.count(name) for name in set(classes)} == {"tool_wrong_name": 20}
