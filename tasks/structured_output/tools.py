"""Tool calls among 2 to 128 offered tools with look-alike names: one, nested arguments, several at once, or none.

Every tool is a verb with an object; those offered beside the right one share its object or its verb first. The twin
``calls=none`` is the request of ``calls=one`` with the right tool taken away. Every document is a function of (seed,
cell, number). The prompt is the model's own chat template with ``tools=``; see `harness.suite.items`.
"""

from __future__ import annotations

import json
import re
from typing import Any

import datasets

from harness.suite.tail.text import empty, repetition
from harness.suite.toolkit.seeded import SeededRandom
from harness.suite.toolkit.strata import cells, draw_plan, wanted, with_cue
from harness.suite.toolkit.tool_calls import FAILURES, failure

VERBS = {
    "get": "Show",
    "list": "List",
    "create": "Create",
    "update": "Change",
    "delete": "Delete",
    "search": "Search for",
    "cancel": "Cancel",
    "export": "Export",
}
OBJECTS: dict[str, tuple[str, tuple[Any, ...]]] = {
    "invoice": ("amount", (20, 75, 130, 999)),
    "invoice_item": ("quantity", (1, 4, 12, 30)),
    "booking": ("seats", (2, 3, 5, 8)),
    "booking_note": ("author", ("Anna", "Omar", "Mei")),
    "calendar_event": ("hour", (6, 9, 14, 18)),
    "calendar": ("owner", ("Ida", "Raj", "Luis")),
    "alarm": ("hour", (5, 7, 8, 22)),
    "timer": ("minute", (5, 15, 25, 40)),
    "user": ("department", ("sales", "support", "finance")),
    "user_role": ("role", ("admin", "editor", "viewer")),
    "order": ("express", (True, False)),
    "order_line": ("quantity", (2, 6, 24)),
    "shipment": ("destination", ("Lyon", "Basel", "Oslo")),
    "shipment_label": ("copies", (1, 2, 3)),
    "message": ("recipient", ("Tom", "Sara", "the landlord")),
    "message_thread": ("archived", (True, False)),
    "payment": ("currency", ("EUR", "USD", "SEK")),
}
DECLINES = re.compile(
    r"(?i)(?<![a-z])(?:no|not|none|null|nothing|neither|nor|n/a|cannot|without|unable|unavailable|lacks?|sorry|missing"
    r"|unfortunately|afraid|apologi[sz]e|impossible|beyond|outside|only|limited|please|would need"
    r"|kein\w{0,2}|nicht|ne|pas|aucune?|n[a\u00e3]o|non|ning\w{2,4}|nessun\w?|imposible|niet|geen)(?![a-z])"
    r"|n['\u2019]t\b|\?\s*\Z|\u6ca1|\u65e0|\u4e0d|\u7121|\u306a|\u307e\u305b\u3093|\uc5c6|\b\u043d\u0435"
)
"""What an answer says to which no tool fits: that, or a question. Anything else, as the request again, says nothing."""
CHANNELS = ("mail", "sms", "none")
NAMES = [f"{verb}_{thing}" for verb in VERBS for thing in OBJECTS]


def tool_ledger(**metadata: Any) -> dict[str, datasets.Dataset]:
    """Make requests to be answered by calls of some of many tools, or by none."""
    want = wanted(metadata)
    plan = draw_plan(cells(want.axes), want.split_by, want.items)
    docs = [_document(want.seed, cell, number) for cell, number in plan]
    # Beside tools of an API the prompt is a message of the user, which no template continues.
    return {"test": datasets.Dataset.from_list(docs if metadata.get("tools_apart") else with_cue(docs, metadata))}


def score(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """Score 1 for exactly the right calls; beside it, for each class of failure that can be, whether it is the one.

    An empty answer, one that ends in a loop, or one that does not decline is wrong where no tool fits: it says nothing.
    """
    target = json.loads(doc["target"])
    found = failure(results[0], json.loads(doc["tool_schemas"]), target)
    possible = [one for one in FAILURES if (one == "tool_uncalled_for") == (not target)]
    says = bool(target or DECLINES.search(results[0]))
    right = says and not (found or empty(results[0]) or repetition(results[0]))
    return {"exact_match": float(right), **{one: float(one == found) for one in possible}}


def _document(seed: int, cell: dict[str, str], number: int) -> dict[str, Any]:
    kind, count = cell["calls"], int(cell["offered"])
    # The twin shares the draws of `one`, so that nothing but the missing tool differs.
    draw = SeededRandom(seed, "tool_ledger", cell["offered"], "one" if kind == "none" else kind, number)
    names = draw.sample(NAMES, 2 if kind == "parallel" else 1)
    calls = [{"name": name, "arguments": _arguments(draw, name, nested=kind == "nested")} for name in names]
    near = sorted(draw.shuffled([one for one in NAMES if one not in names]), key=lambda one: -_likeness(one, names[0]))
    offered = near[:count] if kind == "none" else [*names, *near][: max(count, len(names))]
    tools = [_tool(name, nested=kind == "nested") for name in draw.shuffled(offered)]
    name = ",".join(f"{axis}={level}" for axis, level in cell.items()) + f"/{number}"
    return {
        "id": name,
        "cluster": f"offered={cell['offered']},calls={'one' if kind == 'none' else kind}/{number}",
        **cell,
        "prompt": " Also: ".join(_request(call) for call in calls),
        "tool_schemas": json.dumps(tools),
        "target": json.dumps([] if kind == "none" else calls),
        "chance": 0.0,
    }


def _parts(name: str) -> tuple[str, str]:
    verb, _, thing = name.partition("_")
    return verb, thing


def _likeness(name: str, right: str) -> int:
    """Rate how easily one tool is taken for another: the same object, a related one, the same verb."""
    (verb, thing), (right_verb, right_thing) = _parts(name), _parts(right)
    related = thing.split("_")[0] == right_thing.split("_")[0]
    return 3 * (thing == right_thing) + 2 * related + (verb == right_verb)


def _arguments(draw: SeededRandom, name: str, *, nested: bool) -> dict[str, Any]:
    field, values = OBJECTS[_parts(name)[1]]
    made = {"reference": f"{draw.choice('ABCDEFGH')}-{draw.between(100, 999)}", field: draw.choice(values)}
    if nested:
        made["options"] = {
            "notify": {"channel": draw.choice(CHANNELS), "urgent": bool(draw.below(2))},
            "retries": draw.between(0, 5),
        }
    return made


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def _type(value: Any) -> dict[str, str]:
    return {"type": "boolean" if isinstance(value, bool) else "integer" if isinstance(value, int) else "string"}


def _tool(name: str, *, nested: bool) -> dict[str, Any]:
    verb, thing = _parts(name)
    field, values = OBJECTS[thing]
    properties: dict[str, Any] = {"reference": {"type": "string"}, field: _type(values[0])}
    if nested:
        notify = _object({"channel": {"enum": list(CHANNELS)}, "urgent": {"type": "boolean"}})
        properties["options"] = _object({"notify": notify, "retries": {"type": "integer"}})
    description = f"{VERBS[verb]} the {thing.replace('_', ' ')}"
    function = {"name": name, "description": description, "parameters": _object(properties)}
    return {"type": "function", "function": function}


def _request(call: dict[str, Any]) -> str:
    verb, thing = _parts(call["name"])
    facts = [f"{key} {_said(value)}" for key, value in call["arguments"].items() if key != "options"]
    if "options" in call["arguments"]:
        options = call["arguments"]["options"]
        notify = options["notify"]
        facts.append(
            f"options: notify by channel {_said(notify['channel'])}, urgent {_said(notify['urgent'])}, "
            f"retries {options['retries']}"
        )
    return f"{VERBS[verb]} the {thing.replace('_', ' ')} with {', '.join(facts)}."


def _said(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, int) else f'"{value}"'
