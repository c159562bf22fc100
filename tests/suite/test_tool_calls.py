"""Tool calls: read in each family's format, each failure in one class, and a slice whose twin offers no right tool."""

from __future__ import annotations

import json
import time

import conftest
import pytest
from test_tasks_generated import docs, fingerprint, module

from harness.config.loading import parse
from harness.records import Generation, Item
from harness.suite.scorer import load_items
from harness.suite.tail.detectors import examine, possible
from harness.suite.toolkit.scoring_json import NOT_JSON
from harness.suite.toolkit.tool_calls import FAILURES, ToolCall, failure, tool_calls

ALARM = ("set_alarm", {"hour": 7, "label": "tea"})
TIMER = ("start_timer", {"minute": 5})
A = json.dumps(ALARM[1])
T = json.dumps(TIMER[1])

FORMATS = {
    "hermes": f'<tool_call>\n{{"name": "set_alarm", "arguments": {A}}}\n</tool_call>\n'
    f'<tool_call>\n{{"name": "start_timer", "arguments": {T}}}\n</tool_call>',
    "qwen, with a word before": f'I will.\n<tool_call>{{"name": "set_alarm", "arguments": {A}}}</tool_call>'
    f'<tool_call>{{"name": "start_timer", "arguments": {T}}}',
    "qwen3-coder": "<tool_call>\n<function=set_alarm>\n<parameter=hour>\n7\n</parameter>\n<parameter=label>\ntea\n"
    "</parameter>\n</function>\n</tool_call>\n<tool_call>\n<function=start_timer>\n<parameter=minute>\n5\n</parameter>\n"
    "</function>\n</tool_call>",
    "llama": f'<|python_tag|>{{"name": "set_alarm", "parameters": {A}}}; {{"name": "start_timer", "parameters": {T}}}',
    "llama, bare": f'{{"name": "set_alarm", "parameters": {A}}}\n{{"name": "start_timer", "parameters": {T}}}',
    "mistral": f'[TOOL_CALLS] [{{"name": "set_alarm", "arguments": {A}}}, {{"name": "start_timer", "arguments": {T}}}]',
    "mistral, new": f"[TOOL_CALLS]set_alarm[ARGS]{A}[TOOL_CALLS]start_timer[CALL_ID]a1b2c3d4e[ARGS]{T}",
    "mistral, new, marks dropped": f"set_alarm{A}start_timer{T}",
    "kimi": "<|tool_calls_section_begin|><|tool_call_begin|>functions.set_alarm:0<|tool_call_argument_begin|>"
    f"{A}<|tool_call_end|><|tool_call_begin|>functions.start_timer:1<|tool_call_argument_begin|>{T}<|tool_call_end|>"
    "<|tool_calls_section_end|>",
    "kimi, marks dropped": f"functions.set_alarm:0{A}functions.start_timer:1{T}",
    "openai": json.dumps(
        {
            "tool_calls": [
                {"type": "function", "function": {"name": name, "arguments": json.dumps(arguments)}}
                for name, arguments in (ALARM, TIMER)
            ]
        }
    ),
    "list in a fence": f'```json\n[{{"name": "set_alarm", "arguments": {A}}}, '
    f'{{"name": "start_timer", "arguments": {T}}}]\n```',
}


@pytest.mark.parametrize("name", FORMATS)
def test_both_calls_are_read_in_each_familys_format(name):
    """Two calls with their arguments, and neither more nor fewer."""
    assert tool_calls(FORMATS[name]) == [ToolCall(*ALARM), ToolCall(*TIMER)]


@pytest.mark.parametrize("text", ["", "None of the tools fits.", '{"answer": 7}', "The [list] of tools: {alarm}", "7"])
def test_prose_is_no_call(text):
    """Neither prose nor JSON of something else is a call."""
    assert tool_calls(text) == []


@pytest.mark.parametrize(
    "text",
    [
        '<tool_call>{"name": "set_alarm", "arguments": {"hour": 7,}}</tool_call>',
        '[TOOL_CALLS][{"name": "set_alarm", "arguments": {"hour": 7',
        "[TOOL_CALLS] the alarm",
        '<|tool_call_begin|>functions.set_alarm:0<|tool_call_argument_begin|>{"hour": }<|tool_call_end|>',
        '{"name": "set_alarm", "arguments": "{hour: 7}"}',
    ],
)
def test_a_call_that_cannot_be_read_is_said(text):
    """It counts as a call, and not as none."""
    assert any(call.arguments is NOT_JSON for call in tool_calls(text))


def tool(name: str, **kinds: str) -> dict:
    """An offered tool."""
    properties = {key: {"type": kind} for key, kind in kinds.items()}
    parameters = {"type": "object", "properties": properties, "required": list(kinds), "additionalProperties": False}
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


TOOLS = [
    tool("set_alarm", hour="integer", label="string"),
    tool("set_alarms", hour="integer", label="string"),
    tool("start_timer", minute="integer"),
]


def hermes(*calls: tuple[str, object]) -> str:
    """Calls as Hermes writes them."""
    written = (json.dumps({"name": name, "arguments": arguments}) for name, arguments in calls)
    return "\n".join(f"<tool_call>\n{one}\n</tool_call>" for one in written)


WRONG = {
    "tool_no_call": ["I set it.", hermes(ALARM)],
    "tool_unknown_name": [hermes(("set_the_alarm", ALARM[1]), TIMER)],
    "tool_wrong_name": [hermes(("set_alarms", ALARM[1]), TIMER), hermes(ALARM, TIMER, TIMER)],
    "tool_invalid_json": [hermes(ALARM) + '<tool_call>{"name": "start_timer", "arguments": {"minute": 5</tool_call>'],
    "tool_schema": [hermes(("set_alarm", {"hour": "7", "label": "tea"}), TIMER), hermes(("set_alarm", {}), TIMER)],
    "tool_wrong_value": [hermes(("set_alarm", {"hour": 8, "label": "tea"}), TIMER)],
}


def test_each_failure_is_in_exactly_one_class():
    """Real examples of each class; the right calls in either order are in none; a call where none fits is the last."""
    target = [{"name": name, "arguments": arguments} for name, arguments in (ALARM, TIMER)]
    for kind, texts in WRONG.items():
        assert [failure(text, TOOLS, target) for text in texts] == [kind] * len(texts)
    for text in (*FORMATS.values(), hermes(TIMER, ALARM)):
        assert failure(text, TOOLS, target) == ""
    assert failure(hermes(ALARM), TOOLS, []) == "tool_uncalled_for"
    assert failure("<tool_call>{</tool_call>", TOOLS, []) == "tool_uncalled_for"
    assert failure("No tool fits.", TOOLS, []) == ""
    assert set(WRONG) | {"tool_uncalled_for"} == set(FAILURES)


A_CALL, T_CALL = (json.dumps({"name": name, "arguments": arguments}) for name, arguments in (ALARM, TIMER))
FORGED = {
    "a second call after a word": f"{A_CALL}\n\nand then\n{T_CALL}",
    "a second call in a sentence": f"{A_CALL} and [this], {{}} or {T_CALL}.",
    "a second fence": f"```json\n{A_CALL}\n```\n```json\n{T_CALL}\n```",
    "a fence after a bare call": f"{T_CALL}\n```json\n{A_CALL}\n```",
    "more in one tag": f"<tool_call>{A_CALL} or {T_CALL}</tool_call>",
    "a brace behind it in its tag": f"<tool_call>\n{A_CALL}}}\n</tool_call>",
    "words behind it in its tag": f"<tool_call>{A_CALL} the the</tool_call>",
    "signs behind it in its tag": f"<tool_call>{A_CALL}!!!!</tool_call>",
    "a brace behind it, mistral": f"[TOOL_CALLS]set_alarm{A}}}",
    "a second call that is cut": f'{A_CALL}; {{"name": "start_timer", "argum',
    "a parameter twice": "<function=set_alarm><parameter=hour>9</parameter><parameter=hour>7</parameter>"
    "<parameter=label>tea</parameter></function>",
    "arguments twice": f'{{"name": "set_alarm", "arguments": {A}, "parameters": {T}}}',
    "a name twice": f'{{"name": "start_timer", "name": "set_alarm", "arguments": {A}}}',
    "a name outside": f'{{"name": "start_timer", "function": {A_CALL}}}',
    "a call around the calls": f'{{"name": "start_timer", "arguments": {T}, "tool_calls": [{A_CALL}]}}',
}


@pytest.mark.parametrize("name", FORGED)
def test_the_right_call_next_to_another_is_wrong(name):
    """What a server would run, or might, is not exactly the right call."""
    assert failure(FORGED[name], TOOLS, [{"name": ALARM[0], "arguments": ALARM[1]}]) != ""


ONE = {
    "hermes": hermes(ALARM),
    "qwen3-coder": "<function=set_alarm><parameter=hour>7</parameter><parameter=label>tea</parameter></function>",
    "kimi": f"functions.set_alarm:0{A}",
    "mistral": f'[TOOL_CALLS][{{"name": "set_alarm", "arguments": {A}}}]',
    "mistral, marks dropped": f"set_alarm{A}",
    "llama": A_CALL,
    "a fence": f"```json\n{A_CALL}\n```",
    "python": '[set_alarm(hour=7, label="tea")]',
    "phi": f"<|tool_call|>[{A_CALL}]",
    "react": f"Action: set_alarm\nAction Input: {A}",
    "mistral, its first mark dropped": f"set_alarm[ARGS]{A}",
    "deepseek": f"<\uff5ctool\u2581sep\uff5c>set_alarm\n```json\n{A}\n```",
    "deepseek, marks dropped": f"function set_alarm\n```json\n{A}\n```",
    "command": f'Action: ```json\n[{{"tool_name": "set_alarm", "parameters": {A}}}]\n```',
    "gpt-oss": f"<|channel|>commentary to=functions.set_alarm <|constrain|>json<|message|>{A}",
    "gpt-oss, marks dropped": f"commentary to=functions.set_alarm json{A}",
}
READ = tuple(ONE)[:7]


@pytest.mark.parametrize("name", READ)
def test_the_same_call_in_two_formats_is_not_one_right_call(name):
    """A client of a family reads its own format, so that the other one is lost, or made by another client."""
    target = [{"name": ALARM[0], "arguments": ALARM[1]}]
    assert failure(ONE[name], TOOLS, target) == ""
    assert failure(f"I set it.\n{ONE[name]}" if name == "hermes" else f"{ONE[name]}\n", TOOLS, target) == ""
    for other in ONE.keys() - {name}:
        for text in (f"{ONE[name]}\n{ONE[other]}", f"{ONE[other]} and {ONE[name]}"):
            assert failure(text, TOOLS, target) in FAILURES, other


@pytest.mark.parametrize("name", FORMATS)
def test_a_call_that_is_cut_has_a_class(name):
    """Wherever the token limit cuts it: right is the first call alone, whole; where no tool fits, hardly a mark."""
    text, target = FORMATS[name], [{"name": ALARM[0], "arguments": ALARM[1]}]
    unseen = [text[:at] for at in range(len(text)) if not failure(text[:at], TOOLS, [])]
    assert unseen[-1].strip("<[|T") in {"", "```json\n", "I will.\n", "set_", "functions", "python_tag|>"}
    for at in range(len(text)):
        if not failure(text[:at], TOOLS, target):
            assert "tea" in text[:at]
            assert "start" not in text[:at]
    assert failure("<function=start_timer>\n<parameter=minute>\n5", TOOLS, [{"name": "start_timer", "arguments": T}])


@pytest.mark.parametrize("junk", ['x{"', '["', "[[", "a_", "a(", '{"name": "', "w", '[["a",'])
def test_a_long_answer_is_read_in_no_time(junk):
    """Neither many brackets nor long words make reading quadratic: four times the text takes four times as long."""

    def taken(length: int) -> float:
        began = time.process_time()
        failure(f"{A_CALL} {junk * length}", TOOLS, [])
        failure(junk * length, TOOLS, [])
        failure(f"{junk}{' ' * 2 * length}{{{' ' * 2 * length}x", TOOLS, [])
        return time.process_time() - began

    most = 8 * min(taken(5_000) for _ in range(3)) + 0.1
    assert any(taken(20_000) < most for _ in range(3))  # by chance a machine is slow once


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("None of the tools fits; set_alarm sets alarms, and `start_timer` timers (in minutes).", 1.0),
        ('There is no tool for {"hour": 7}.', 1.0),
        ("", 0.0),
        (" \n", 0.0),
        ("..... !!", 0.0),
        ("the " * 60, 0.0),
        (f"Sure: {A_CALL}", 0.0),
        ('[set_alarm(hour=7, label="tea")]', 0.0),
        (
            f"<\uff5ctool\u2581calls\u2581begin\uff5c>function<\uff5ctool\u2581sep\uff5c>set_alarm\n```json\n{A}\n```",
            0.0,
        ),
        (f"function set_alarm\n```json\n{A}\n```", 0.0),
        (f'<|tool_call|>[{{"name": "set_alarm", "arguments": {A}}}]', 0.0),
        (f"Action: set_alarm\nAction Input: {A}", 0.0),
        (f'Action: ```json\n[{{"tool_name": "set_alarm", "parameters": {A}}}]\n```', 0.0),
        ('set_alarm("07:30")', 0.0),
        (f'{{"tool": "set_alarm", "args": {A}}}', 0.0),
        (f'{{"action": "set_alarm", "action_input": {A}}}', 0.0),
        ('<invoke name="set_alarm"><parameter name="hour">7</parameter></invoke>', 0.0),
        ("<function_calls>", 0.0),
        ("The tool set_alarm (for alarms) does not fit.", 1.0),
        ("Set an alarm for 7 with the label tea.", 0.0),
        ("558", 0.0),
        ("I have set the alarm.", 0.0),
        ("I can't set alarms.", 1.0),
        ("Could you say which timer you mean?", 1.0),
        ("The tools are: set_alarm, start_timer. I would need another: none fits.", 1.0),
        ('The tools are "set_alarm" and "start_timer", and neither fits.', 1.0),
        ("- set_alarm: sets alarms\n- start_timer: starts timers\n\nNone fits.", 1.0),
        *(
            (text, 1.0)
            for text in (
                "That is beyond my abilities.",
                "Please provide the number of the timer.",
                "I only have tools for alarms.",
                "Impossible.",
                "no_tool",
                "Das kann ich nicht.",
                "Aucun outil ne convient.",
                "\u041d\u0435\u0432\u043e\u0437\u043c\u043e\u0436\u043d\u043e.",
                "I can't do that; set_alarm() is for alarms, start_timer(minutes) for timers.",
            )
        ),
        *(
            (form.replace("NAME", "set_alarm").replace("ARGS", A), 0.0)
            for form in (
                '{"NAME": ARGS}',
                '{"method": "NAME", "params": ARGS}',
                '{"call": "NAME", "hour": 7}',
                '["NAME"]',
                '{"tool_uses": [{"recipient_name": "functions.NAME", "parameters": ARGS}]}',
                "NAME()",
                "NAME(7, tea)",
                "name: NAME\narguments:\n  hour: 7",
                "NAME:\n  hour: 7",
                "NAME: ARGS",
                "NAME\nInput: ARGS",
                "`NAME`",
                "Action: NAME",
                "The tool call is: NAME",
                "I call NAME with ARGS.",
                "| NAME | ARGS |",
                "NAME --hour 7",
                "/NAME hour=7",
                "<NAME><hour>7</hour></NAME>",
                '<tool name="NAME">ARGS</tool>',
                "`NAME`(hour: 7)",
            )
        ),
    ],
)
def test_where_no_tool_fits_a_call_in_any_format_is_wrong_and_so_is_silence(text, right):
    """A model that says nothing, or calls in a format that is not read, has not seen that no tool fits."""
    doc = {"tool_schemas": json.dumps(TOOLS), "target": "[]"}
    assert module("structured_output", "tools").score(doc, [text])["exact_match"] == right


def test_the_ledger_is_what_it_says():
    """As many tools as the axis says; the right ones among them, or in the twin the same request without; seed 0."""
    made = {doc["id"]: doc for doc in docs("structured_output", "tool_ledger", items=3)}
    assert len(made) == 4 * 4 * 3
    for doc in made.values():
        tools, target = json.loads(doc["tool_schemas"]), json.loads(doc["target"])
        names = [one["function"]["name"] for one in tools]
        assert len(names) == len(set(names)) == int(doc["offered"])
        assert {one["name"] for one in target} <= set(names)
        assert len(target) == {"none": 0, "parallel": 2}.get(doc["calls"], 1)
        assert failure(hermes(*((one["name"], one["arguments"]) for one in target)), tools, target) == ""
        if doc["calls"] == "none":
            twin = made[doc["id"].replace("calls=none", "calls=one")]
            assert (doc["prompt"], doc["cluster"]) == (twin["prompt"], twin["cluster"])
            assert json.loads(twin["target"])[0]["name"] not in names
    assert fingerprint(docs("structured_output", "tool_ledger", items=8)) == "307af6f9c0654569"


TEMPLATE = (
    "{% if tools %}<|tools|>{% for t in tools %}{{ t | tojson }}{% endfor %}{% endif %}"
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}<|assistant|>"
)


@pytest.mark.parametrize("own", [True, False])
def test_tools_are_told_by_the_models_own_template(own):
    """A template with `tools` writes them itself; one without is told of them in words, in the form of Hermes."""
    tokenizer = conftest.make_tokenizer(8192)
    if own:
        tokenizer.chat_template = TEMPLATE
    tasks = ["quantcliff_tool_ledger"]
    axes = {"offered": [2], "calls": ["one", "none"]}
    slices = [{"name": "structured_output", "tasks": tasks, "axes": axes, "items": 2, "margin": 0.5}]
    data = {"name": "t", "baseline": {"name": "b", "model": "m"}, "slices": slices}
    items = load_items(parse({**data, "candidates": [{"name": "c", "quantization": "bnb-nf4"}]}), tokenizer)
    assert len(items) == 4
    for item in items:
        assert item.prompt.startswith("<|tools|>") == own
        assert ("<tools>" in item.prompt) != own
        assert json.loads(item.doc["tool_schemas"])[0]["function"]["name"] in item.prompt


def test_a_class_is_a_tail_event_of_the_items_that_can_show_it():
    """The score's metrics become signs; only the twin can be called for nothing."""
    doc = next(one for one in docs("structured_output", "tool_ledger", items=1) if one["calls"] == "one")
    metrics = module("structured_output", "tools").score(doc, ["I did it."])
    assert metrics == {"exact_match": 0.0, "tool_no_call": 1.0} | dict.fromkeys(FAILURES[1:-1], 0.0)
    item = Item("t/1", "s", "t", "generate", "?", {}, "a", "c", target=doc["target"], doc=doc)
    signs = examine(item, Generation("t/1", "I did it.", (1, 2), "eos", 3), 0.0, metrics).signs
    assert {kind for kind in FAILURES if signs.get(kind)} == {"tool_no_call"}
    assert set(signs) <= possible(item) >= set(FAILURES[:-1])
    twin = Item("t/2", "s", "t", "generate", "?", {}, "a", "c", target="[]", doc=doc)
    assert possible(twin) & set(FAILURES) == {"tool_uncalled_for"}


@pytest.mark.parametrize("text", ["<function=" * 20_000, "<function=f><parameter=" * 10_000, " " * 100_000 + "{"])
def test_a_name_that_never_ends_takes_no_time(text):
    """A loop over an opened tag, or white space up to the token limit: minutes, if each start is read to the end."""
    began = time.process_time()
    assert all(call.arguments is NOT_JSON for call in tool_calls(text))
    assert time.process_time() - began < 3
