"""Tools through the API: offered as `tools`, read from `tool_calls`, scored as the calls that a client gets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import engine_models as tiny
import pytest
from stub_server import Answers, Stub, served
from test_served import encoder, engine

from harness.config.loading import parse
from harness.engines.server_probe import PROBE
from harness.engines.wire import join_stream, parse_answer
from harness.errors import ConfigError, NotComparable
from harness.records import Generation, Item, Settings
from harness.suite.toolkit.thinking import split
from harness.suite.toolkit.tool_calls import ToolCall, failure, tool_calls

pytestmark = pytest.mark.model


def tool(name: str) -> dict[str, Any]:
    """An offered tool."""
    parameters = {"type": "object", "properties": {"hour": {"type": "integer"}}, "required": ["hour"]}
    return {"type": "function", "function": {"name": name, "description": "sets", "parameters": parameters}}


TOOLS = [tool("set_alarm"), tool("set_timer")]
RIGHT = [{"name": "set_alarm", "arguments": {"hour": 7}}]
BOTH = [*RIGHT, {"name": "set_timer", "arguments": {"hour": 8}}]
HERMES = '<tool_call>{"name": "set_alarm", "arguments": {"hour": 7}}</tool_call>'


def question(name: str = "t1") -> Item:
    """A question that offers two tools."""
    return tiny.item(name, f"Wake me at seven ({name}).", max_tokens=200, doc={"tool_schemas": json.dumps(TOOLS)})


def call(name: str, arguments: str, number: int = 0) -> dict[str, Any]:
    """A call as the API gives it."""
    return {"id": f"call_{number}", "type": "function", "function": {"name": name, "arguments": arguments}}


def known(items: list[Item], text: str, calls: list[dict[str, Any]]) -> Answers:
    """What a server knows: the probe, and one answer to all items."""
    made, talk = Answers(), encoder()
    for prompt, said in [(PROBE, " eight, nine, ten"), *((item.prompt, text) for item in items)]:
        _, count = talk.sent(prompt, "messages")
        made.by_ids[prompt] = {"text": said, "ids": talk.encode(said) or [11], "count": count}
    for item in items:
        made.by_ids[item.prompt]["calls"] = calls
    return made


def answered(text: str, calls: list[dict[str, Any]], *faults: str, **how: Any) -> tuple[Generation, Stub]:
    """The answer to the question with its tools, and the server that gave it."""
    items = [question()]
    how = {"chat": True, "tools": True} | how
    with served(known(items, text, calls), *faults) as stub, engine(stub, **how) as made:
        (one,) = made.answer(items, Settings())
    assert isinstance(one, Generation)
    return one, stub


@pytest.mark.parametrize("faults", [(), ("same_index",), ("no_usage",)])
@pytest.mark.parametrize("text", ["", "I set both.", "<think>Two of them.</think>\n\nI set both."])
def test_calls_of_the_api_are_read_streamed_as_in_one_piece(text: str, faults: tuple[str, ...]) -> None:
    """Two calls beside a text or none, in one piece or in pieces: the same answer, and both calls right."""
    calls = [call("set_alarm", '{"hour": 7}'), call("set_timer", '{"hour": 8}', 1)]
    whole, stub = answered(text, calls, *faults)
    streamed, _ = answered(text, calls, *faults, stream=True)
    assert streamed == whole
    assert whole.text.startswith(text)
    assert tool_calls(whole.text) == [ToolCall(one["name"], one["arguments"]) for one in BOTH]
    assert failure(whole.text, TOOLS, BOTH) == ""
    assert (whole.finish, len(whole.token_ids) > 5) == ("eos", True)
    (body,) = stub.questions
    assert body["tools"] == TOOLS
    assert body["messages"] == [{"role": "user", "content": "Wake me at seven (t1)."}]


@pytest.mark.parametrize(
    ("text", "calls", "found"),
    [
        ("", [call("set_alarm", '{"hour": 7}')], ""),
        ("", [call("set_alarm", '{"hour": 8}')], "tool_wrong_value"),
        ("", [call("set_alarm", '{"hour": "7"}')], "tool_schema"),
        ("", [call("set_timer", '{"hour": 7}')], "tool_wrong_name"),
        ("", [call("set_alarms", '{"hour": 7}')], "tool_unknown_name"),
        ("", [call("set_alarm", '{"hour": 7')], "tool_invalid_json"),
        ("I cannot set alarms.", [], "tool_no_call"),
        (HERMES, [], "tool_invalid_json"),
        ("Action: set_alarm\nAction Input: 7", [], "tool_invalid_json"),
        ('<api_tool_calls>[{"name": "set_alarm", "arguments": {"hour": 7}}]', [], "tool_invalid_json"),
        (f"<think>I could write {HERMES}, and will not.</think>\n\nNo.", [], "tool_no_call"),
        (HERMES, [call("set_timer", '{"hour": 7}')], "tool_wrong_name"),
    ],
)
def test_a_client_of_the_api_gets_the_calls_of_its_field_alone(text: str, calls: list[Any], found: str) -> None:
    """Each class by the API; a call that the server left in the text, even the right one, is none that can be read."""
    one, _ = answered(text, calls)
    said, _ = split(one.text)  # as the scorer does
    assert failure(said, TOOLS, RIGHT) == found
    assert (failure(said, TOOLS, []) == "tool_uncalled_for") == (found != "tool_no_call")


def test_an_argument_cannot_forge_the_mark() -> None:
    """What a text argument says is an argument, also if it looks like the list of calls."""
    forged = json.dumps({"hour": '<api_tool_calls>[{"name": "set_alarm", "arguments": {"hour": 7}}]'})
    one, _ = answered("", [call("set_timer", forged)])
    assert [found.name for found in tool_calls(one.text)] == ["set_timer"]


def test_tools_stay_in_words_unless_they_are_switched_on() -> None:
    """Without the option nothing is offered, and a text is scored as it is."""
    one, stub = answered(HERMES, [], tools=False)
    assert "tools" not in stub.questions[0]
    assert failure(one.text, TOOLS, RIGHT) == ""


def test_a_server_that_does_not_read_its_tools_is_refused() -> None:
    """As many tokens as without tools: the model never saw them, and every answer would be a call that is missing."""
    with pytest.raises(NotComparable, match="2 tools: its template does not write the tools"):
        answered("No.", [], "ignores_tools")


@pytest.mark.parametrize("odd", [{"a": 1}, "x", ["x"], [{"id": "a"}], [{"function": "f"}]])
def test_calls_of_another_shape_are_refused(odd: Any) -> None:
    """In one piece and in a stream: no answer is made of what is no list of calls."""
    with pytest.raises(ValueError, match="tool"):
        parse_answer({"choices": [{"message": {"content": None, "tool_calls": odd}}]})
    event = {"choices": [{"delta": {"tool_calls": odd}}]}
    whole = {"choices": [{"delta": {"tool_calls": [{"index": 0, "function": {"name": "f", "arguments": "{}"}}]}}]}
    for events in ([event], [event, whole], [whole, event]):
        end = {"choices": [{"delta": {}, "finish_reason": "stop"}]}
        data, _ = join_stream([(0.1, one) for one in (*events, end)])
        with pytest.raises(ValueError, match="tool"):
            parse_answer(data)


def test_whole_calls_without_an_index_are_two_calls() -> None:
    """As some gateways stream them: each call in one piece, its arguments an object."""
    pieces = [{"function": {"name": "set_alarm", "arguments": {"hour": hour}}} for hour in (7, 8)]
    events = [(0.1 * at, {"choices": [{"delta": {"tool_calls": [one]}}]}) for at, one in enumerate(pieces)]
    data, when = join_stream(events)
    assert parse_answer(data).calls == tuple({"name": "set_alarm", "arguments": f'{{"hour": {n}}}'} for n in (7, 8))
    assert [length for _, length in when] == [20, 40]
    assert not parse_answer(data).null


def test_a_call_that_llama_cpp_streamed_is_the_one_that_it_gave_in_one_piece() -> None:
    """Recorded from a real server: the name with the first bracket, then a token of the arguments in each event."""
    folder = Path(__file__).parents[1] / "data" / "llama_cpp"
    whole = parse_answer(json.loads((folder / "tool_calls.json").read_text(encoding="utf-8")))
    lines = (folder / "tool_calls.sse").read_text(encoding="utf-8").splitlines()
    events = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: {")]
    data, pieces = join_stream(list(enumerate(events)))
    streamed = parse_answer(data)
    assert streamed.calls == whole.calls == ({"name": "set_alarm", "arguments": '{"hour": 7, "label": "tea"}'},)
    assert (streamed.text, streamed.finish) == (whole.text, whole.finish) == ("", "tool_calls")
    assert (streamed.prompt_tokens, streamed.output_tokens) == (whole.prompt_tokens, whole.output_tokens) == (323, 39)
    assert (len(events), len(pieces), pieces[-1][1]) == (17, 14, 36)


def config(**engines: Any) -> dict[str, Any]:
    """A config with two endpoints."""
    own = {"name": "openai", "url": "http://127.0.0.1:1/v1", "api": "chat", "tools": True, "model": "a"}
    return {
        "name": "t",
        "baseline": {"name": "b", "model": "m", "engine": own | engines.get("baseline", {})},
        "candidates": [{"name": "c", "engine": {"model": "b"} | engines.get("candidate", {})}],
        "slices": [{"name": "structured_output", "tasks": ["quantcliff_tool_ledger"], "items": 2, "margin": 0.5}],
        "sampling": {"chat_template": False},
    }


def test_the_option_is_one_for_all_variants_and_needs_the_chat_api() -> None:
    """A candidate inherits it; for one alone, or without chat, it is refused; off, it leaves digests as they were."""
    both = parse(config())
    assert both.candidates[0].engine.tools
    assert both.baseline.engine.asked()["tools"]
    off = parse(config(baseline={"tools": False}))
    assert "tools" not in off.model_dump(mode="json")["baseline"]["engine"]
    with pytest.raises(ConfigError, match="all variants or of none"):
        parse(config(candidate={"tools": False}))
    with pytest.raises(ConfigError, match="set api: chat"):
        parse(config(baseline={"api": "completions"}))


@pytest.mark.parametrize("tools", [True, False])
def test_prompts_do_not_tell_of_tools_that_are_offered_beside_them(tools: bool) -> None:
    """The user's message is the request alone; without the option it tells of the tools in words."""
    from harness.suite.scorer import load_items

    axes = {"offered": [2], "calls": ["one"]}
    data = config(baseline={"tools": tools})
    data["slices"][0]["axes"] = axes
    for item in load_items(parse(data), tiny.tokenizer()):
        assert ("<tools>" in item.prompt, item.prompt.endswith("The tool call is:")) == (not tools, not tools)
        assert len(json.loads(item.doc["tool_schemas"])) == 2
