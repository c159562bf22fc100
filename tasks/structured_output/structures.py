"""Answers that a program must read: JSON to a given schema, flat, nested and long, and tool calls with arguments.

The facts are given in words, the schema in JSON Schema, and one JSON value is right. Every document is a function of
(seed, task, cell, number). lm_eval calls the functions named in the YAML files.
"""

from __future__ import annotations

import json
from typing import Any

import datasets

from harness.suite.toolkit.scoring_json import NOT_JSON, fits_schema, json_of, same_value
from harness.suite.toolkit.seeded import TRIES, SeededRandom, unseen
from harness.suite.toolkit.strata import cells, draw_plan, wanted, with_cue

WORDS = {
    "name": (
        "Anna Berg",
        "Tom Okafor",
        "Mei Tanaka",
        "Luis Ortega",
        "Sara Novak",
        "Omar Haddad",
        "Ida Lund",
        "Raj Patel",
    ),
    "city": ("Lisbon", "Nairobi", "Osaka", "Lima", "Tartu", "Cork", "Hanoi", "Quito"),
    "title": ("Silent River", "The Last Orchard", "Night Trains", "Paper Moons", "Salt and Stone", "Nine Bridges"),
    "street": ("Mill Lane", "Harbour Road", "Oak Avenue", "Station Street", "Chapel Hill", "Garden Row"),
    "company": ("Norwind", "Bluepeak", "Tessera", "Falkon Works", "Marlow Foods", "Quartz Labs"),
    "material": ("oak", "steel", "glass", "wool", "copper", "linen"),
    "language": ("Spanish", "Finnish", "Tamil", "Arabic", "Welsh", "Korean"),
    "department": ("sales", "support", "finance", "research", "logistics", "design"),
}
CHOICES = {
    "color": ("red", "green", "blue", "black", "white"),
    "size": ("small", "medium", "large"),
    "status": ("open", "closed", "pending"),
    "priority": ("low", "normal", "high"),
}
WHOLE = {
    "age": (18, 90),
    "quantity": (1, 99),
    "year": (1950, 2024),
    "pages": (40, 900),
    "floor": (1, 40),
    "seats": (2, 80),
}
HALVES = {"price": (2, 400), "rating": (1, 9), "height": (50, 220), "distance": (1, 900)}
FLAGS = ("active", "paid", "fragile", "public", "verified")
LEAVES = (*WORDS, *CHOICES, *WHOLE, *HALVES, *FLAGS)
BRANCHES = ("owner", "address", "product", "vehicle", "event", "account", "room", "shipment")

TOOLS = {
    "set_alarm": ("sets an alarm", ("hour", "minute", "label")),
    "send_message": ("sends a text message", ("recipient", "text", "urgent")),
    "book_table": ("books a table in a restaurant", ("restaurant", "guests", "hour")),
    "convert_currency": ("converts an amount of money", ("amount", "from_currency", "to_currency")),
    "play_song": ("plays a song", ("song", "volume", "repeat")),
    "find_train": ("looks for a train", ("origin", "destination", "hour")),
    "create_invoice": ("writes an invoice", ("customer", "amount", "paid")),
    "set_thermostat": ("sets the temperature of a room", ("room", "degrees", "repeat")),
    "add_task": ("adds a task to a list", ("task", "priority", "urgent")),
    "translate": ("translates a text", ("text", "to_language", "formal")),
    "order_item": ("orders an article", ("item", "quantity", "express")),
    "start_timer": ("starts a timer", ("minute", "label", "repeat")),
}
VALUES: dict[str, tuple[Any, ...]] = {
    "hour": (6, 7, 9, 14, 18, 21), "minute": (5, 10, 15, 25, 40, 55), "guests": (2, 3, 5, 8),
    "amount": (20, 75, 130, 999),
    "volume": (10, 35, 60, 90), "degrees": (17, 19, 21, 23), "quantity": (1, 4, 12, 30),
    "label": ("tea", "bus", "medicine", "laundry"), "recipient": ("Anna", "Omar", "Mei", "the landlord"),
    "text": ("I am late", "see you at noon", "the key is under the mat"),
    "restaurant": ("Luna", "The Olive Tree", "Koto"),
    "from_currency": ("EUR", "JPY", "USD"), "to_currency": ("GBP", "CHF", "SEK"),
    "song": ("Blue Hour", "Paper Kites"),
    "origin": ("Porto", "Turin", "Ghent"), "destination": ("Lyon", "Basel", "Oslo"),
    "customer": ("Norwind", "Bluepeak"),
    "room": ("kitchen", "bedroom", "office"), "task": ("buy milk", "call the bank", "water the plants"),
    "priority": ("low", "normal", "high"), "to_language": ("Spanish", "Finnish", "Tamil"),
    "item": ("desk lamps", "ink cartridges", "office chairs"),
    "urgent": (True, False), "repeat": (True, False),
    "paid": (True, False),
    "formal": (True, False), "express": (True, False),
}  # fmt: skip


def to_schema(**metadata: Any) -> dict[str, datasets.Dataset]:
    """Make facts to be written as JSON to a schema."""
    want = wanted(metadata)
    docs = [
        _json_doc(want.seed, cell, number) for cell, number in draw_plan(cells(want.axes), want.split_by, want.items)
    ]
    return {"test": datasets.Dataset.from_list(with_cue(docs, metadata))}


def tool_calls(**metadata: Any) -> dict[str, datasets.Dataset]:
    """Make requests to be turned into a call of one of several tools."""
    want = wanted(metadata)
    seen: set[Any] = set()
    plan = draw_plan(cells(want.axes), want.split_by, want.items)
    docs = [_call_doc(want.seed, cell, number, seen) for cell, number in plan]
    return {"test": datasets.Dataset.from_list(with_cue(docs, metadata))}


def score(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """Score 1 for JSON of the right value; beside it, whether it is JSON at all and whether it fits the schema."""
    return {
        "exact_match": same_value(results[0], json.loads(doc["target"])),
        "valid": fits_schema(results[0], json.loads(doc["schema"])),
        "parses": float(json_of(results[0]) is not NOT_JSON),
    }


def _json_doc(seed: int, cell: dict[str, str], number: int) -> dict[str, Any]:
    draw = SeededRandom(seed, "to_schema", cell["shape"], cell["fields"], number)
    make = {"flat": _flat, "nested": _nested, "list": _list}[cell["shape"]]
    value, schema, facts = make(draw, int(cell["fields"]))
    prompt = (
        "Write these facts as JSON that fits the schema. Reply with the JSON only.\n\nFacts:\n"
        + "\n".join(f"- {fact}" for fact in facts)
        + f"\n\nSchema:\n{json.dumps(schema)}"
    )
    return _document(cell, number, prompt, value, schema)


def _leaf(draw: SeededRandom, key: str) -> tuple[Any, dict[str, Any], str]:
    """Draw a value for a key: the value, its schema, and how it is said."""
    if key in WORDS:
        value: Any = draw.choice(WORDS[key])
        return value, {"type": "string"}, value
    if key in CHOICES:
        value = draw.choice(CHOICES[key])
        return value, {"enum": list(CHOICES[key])}, value
    if key in WHOLE:
        value = draw.between(*WHOLE[key])
        return value, {"type": "integer"}, str(value)
    if key in HALVES:
        value = draw.between(*HALVES[key]) + 0.5
        return value, {"type": "number"}, str(value)
    value = bool(draw.below(2))
    return value, {"type": "boolean"}, "yes" if value else "no"


def _object(schemas: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": schemas, "required": list(schemas), "additionalProperties": False}


def _flat(draw: SeededRandom, fields: int) -> tuple[Any, dict[str, Any], list[str]]:
    value, schemas, facts = {}, {}, []
    for key in draw.sample(LEAVES, fields):
        value[key], schemas[key], said = _leaf(draw, key)
        facts.append(f"{key}: {said}")
    return value, _object(schemas), draw.shuffled(facts)


def _nested(draw: SeededRandom, fields: int) -> tuple[Any, dict[str, Any], list[str]]:
    """Spread the fields over branches, each branch inside the last."""
    names = draw.sample(BRANCHES, min(3, fields))
    value: dict[str, Any] = {}
    schema = _object({})
    facts: list[str] = []
    at, at_schema, path = value, schema, ""
    for place, branch in enumerate(names):
        own = fields // len(names) + (place < fields % len(names))
        at[branch], inner = {}, _object({})
        at_schema["properties"][branch] = inner
        at_schema["required"].append(branch)
        at, at_schema = at[branch], inner
        path = f" of the {branch}{path}"
        for key in draw.sample(LEAVES, own):
            at[key], at_schema["properties"][key], said = _leaf(draw, key)
            at_schema["required"].append(key)
            facts.append(f"{key}{path}: {said}")
    return value, schema, facts


def _list(draw: SeededRandom, fields: int) -> tuple[Any, dict[str, Any], list[str]]:
    """Make a list of records of three fields, as many as fill the number of fields."""
    keys = draw.sample(LEAVES, 3)
    rows, facts, schemas = [], [], {}
    for place in range(max(1, fields // 3)):
        row, said = {}, []
        for key in keys:
            row[key], schemas[key], told = _leaf(draw, key)
            said.append(f"{key} {told}")
        rows.append(row)
        facts.append(f"record {place + 1}: {', '.join(said)}")
    return rows, {"type": "array", "items": _object(schemas)}, facts


def _drawn_call(draw: SeededRandom, tools: int, count: int) -> tuple[tuple[str, ...], str, tuple[Any, ...]]:
    """Draw the tools that are offered, the one that is meant and the values of its arguments."""
    names = draw.sample(list(TOOLS), tools)
    name = draw.choice(names)
    return tuple(names), name, tuple(draw.choice(VALUES[key]) for key in TOOLS[name][1][:count])


def _call_doc(seed: int, cell: dict[str, str], number: int, seen: set[Any]) -> dict[str, Any]:
    draw = SeededRandom(seed, "tool_calls", cell["tools"], cell["arguments"], number)
    count = int(cell["arguments"])
    names, name, values = unseen((_drawn_call(draw, int(cell["tools"]), count) for _ in range(TRIES)), seen)
    offered = [
        {
            "name": one,
            "description": TOOLS[one][0],
            "parameters": _object({key: _type(key) for key in TOOLS[one][1][:count]}),
        }
        for one in names
    ]
    arguments = dict(zip(TOOLS[name][1], values, strict=False))
    said = ", ".join(f"{key.replace('_', ' ')} {_said(value)}" for key, value in arguments.items())
    prompt = (
        "Call the tool that does what is asked. Reply with JSON only, in this form: "
        '{"name": ..., "arguments": {...}}\n\nTools:\n'
        + "\n".join(json.dumps(one) for one in offered)
        + f"\n\nRequest: use the tool that {TOOLS[name][0]}, with {said}."
    )
    schema = {
        "type": "object",
        "oneOf": [_object({"name": {"const": one["name"]}, "arguments": one["parameters"]}) for one in offered],
    }
    return _document(cell, number, prompt, {"name": name, "arguments": arguments}, schema)


def _type(key: str) -> dict[str, str]:
    first = VALUES[key][0]
    return {"type": "boolean" if isinstance(first, bool) else "integer" if isinstance(first, int) else "string"}


def _said(value: Any) -> str:
    return (
        ("yes" if value else "no")
        if isinstance(value, bool)
        else str(value)
        if isinstance(value, int)
        else f'"{value}"'
    )


def _document(cell: dict[str, str], number: int, prompt: str, value: Any, schema: dict[str, Any]) -> dict[str, Any]:
    name = ",".join(f"{axis}={level}" for axis, level in cell.items()) + f"/{number}"
    return {
        "id": name,
        "cluster": name,
        **cell,
        "prompt": prompt,
        "target": json.dumps(value),
        "schema": json.dumps(schema),
        "chance": 0.0,
    }
