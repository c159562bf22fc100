"""JSON Schema, feature by feature: of four values that the facts offer, the schema allows one, by one keyword alone.

Every keyword of draft 2020-12 that can forbid a value has a rule. A value that its keyword forbids fits the schema once
that keyword is taken out, so a wrong choice shows that this keyword was not read. `format`, which validators do not
check by default, and dynamic references are left out. Every document is a function of (seed, feature, number).
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import datasets

from harness.suite.toolkit.seeded import SeededRandom
from harness.suite.toolkit.strata import cells, draw_plan, wanted, with_cue

PEOPLE = ("Anna Berg", "Tom Okafor", "Mei Tanaka", "Luis Ortega", "Sara Novak", "Omar Haddad", "Ida Lund", "Raj Patel")
WRONG = 3
"""Values beside the right one."""


class Rule(NamedTuple):
    """A keyword with the values that it allows and those that it forbids."""

    schema: dict[str, Any]
    """The schema of the value."""
    right: tuple[Any, ...]
    """Values that fit it."""
    wrong: tuple[Any, ...]
    """Values that the keyword alone forbids."""
    keyword: str = ""
    """The keyword, where the feature has another name."""


_TEXT, _WHOLE, _OBJECT, _LIST = {"type": "string"}, {"type": "integer"}, {"type": "object"}, {"type": "array"}
_SEAT = {"row": _WHOLE, "seat": _TEXT}
_PERSON = {"type": "object", "properties": {"city": _TEXT, "country": _TEXT}}
_PAY = {"type": "object", "properties": {"card": _TEXT, "expires": _TEXT, "cash": _WHOLE}}
_KIND = {"properties": {"kind": {"const": "parcel"}}, "required": ["kind"]}
_TREE = {
    "type": "object",
    "properties": {"name": _TEXT, "parts": {"type": "array", "items": {"$ref": "#/$defs/part"}}},
    "required": ["name"],
}

RULES: dict[str, Rule] = {
    # Any value
    "type": Rule(_WHOLE, (12, 40, 7), ("12", 12.5, [12], True)),
    "enum": Rule({"enum": ["small", "medium", "large"]}, ("small", "medium", "large"), ("tiny", "Small", "huge", "")),
    "const": Rule({"const": "v2"}, ("v2",), ("v1", "v3", "V2", 2)),
    # Numbers
    "multipleOf": Rule({**_WHOLE, "multipleOf": 25}, (50, 75, 125, 200), (40, 52, 101, 130)),
    "minimum": Rule({**_WHOLE, "minimum": 18}, (18, 21, 44), (17, 9, 0, -18)),
    "maximum": Rule({**_WHOLE, "maximum": 60}, (60, 59, 12), (61, 75, 600, 106)),
    "exclusiveMinimum": Rule({**_WHOLE, "exclusiveMinimum": 0}, (1, 5, 30), (0, -1, -5, -30)),
    "exclusiveMaximum": Rule({**_WHOLE, "exclusiveMaximum": 100}, (99, 50, 10), (100, 101, 150, 500)),
    # Texts
    "minLength": Rule({**_TEXT, "minLength": 6}, ("harbour", "station", "chapel"), ("mill", "oak", "row", "quay")),
    "maxLength": Rule({**_TEXT, "maxLength": 4}, ("mill", "oak", "quay"), ("harbour", "station", "chapel", "garden")),
    "pattern": Rule(
        {**_TEXT, "pattern": "^[A-Z]{2}-[0-9]{3}$"},
        ("AB-123", "QX-907", "LM-440"),
        ("AB123", "ab-123", "AB-12", "123-AB", "ABC-123"),
    ),
    # Lists
    "items": Rule({**_LIST, "items": _WHOLE}, ([3, 5], [8, 1], [2, 4]), (["3", "5"], [3, "5"], ["a"], [3.5])),
    "prefixItems": Rule(
        {**_LIST, "prefixItems": [_TEXT, _WHOLE]},
        (["B", 4], ["A", 12], ["C", 7]),
        ([4, "B"], ["B", "4"], [4, 4], ["B", 4.5]),
    ),
    "minItems": Rule({**_LIST, "minItems": 3}, ([4, 6, 9], [1, 2, 8, 5]), ([4, 6], [9], [], [1, 2])),
    "maxItems": Rule({**_LIST, "maxItems": 2}, ([4, 6], [9]), ([4, 6, 9], [1, 2, 8, 5], [9, 9, 9], [0, 0, 0])),
    "uniqueItems": Rule(
        {**_LIST, "uniqueItems": True}, ([4, 6, 9], [1, 2, 3]), ([4, 6, 4], [9, 9], [1, 1, 2, 3], [2, 2])
    ),
    "contains": Rule(
        {**_LIST, "contains": {"const": "oak"}},
        (["oak", "wool"], ["glass", "oak"]),
        (["wool", "glass"], ["steel"], [], ["linen", "copper"]),
    ),
    "minContains": Rule(
        {**_LIST, "contains": {"const": "oak"}, "minContains": 2},
        (["oak", "wool", "oak"], ["oak", "oak"]),
        (["oak", "wool"], ["oak"], ["glass", "oak"], ["steel", "oak", "wool"]),
    ),
    "maxContains": Rule(
        {**_LIST, "contains": {"const": "oak"}, "maxContains": 1},
        (["oak", "wool"], ["glass", "oak"]),
        (["oak", "oak"], ["oak", "wool", "oak"], ["oak", "oak", "glass"], ["oak", "oak", "oak"]),
    ),
    "unevaluatedItems": Rule(
        {**_LIST, "allOf": [{"prefixItems": [_TEXT, _WHOLE]}], "unevaluatedItems": False},
        (["B", 4], ["A", 12]),
        (["B", 4, 1], ["A", 12, "x"], ["B", 4, 4], ["C", 7, None]),
    ),
    # Objects
    "properties": Rule(
        {**_OBJECT, "properties": _SEAT},
        ({"row": 4, "seat": "B"}, {"row": 9, "seat": "A"}),
        ({"row": "4", "seat": "B"}, {"row": 4, "seat": 2}, {"row": "B", "seat": 4}, {"row": None, "seat": "A"}),
    ),
    "required": Rule(
        {**_PERSON, "required": ["city", "country"]},
        ({"city": "Lima", "country": "Peru"}, {"city": "Cork", "country": "Ireland"}),
        ({"city": "Lima"}, {"country": "Peru"}, {}, {"town": "Cork", "country": "Ireland"}),
    ),
    "additionalProperties": Rule(
        {**_PERSON, "additionalProperties": False},
        ({"city": "Lima", "country": "Peru"}, {"city": "Cork"}),
        (
            {"city": "Lima", "zip": "15001"},
            {"town": "Cork"},
            {"city": "Lima", "country": "Peru", "since": 1999},
            {"City": "Cork"},
        ),
    ),
    "patternProperties": Rule(
        {**_OBJECT, "patternProperties": {"^n_": _WHOLE}},
        ({"n_beds": 2, "view": "sea"}, {"n_seats": 6}),
        ({"n_beds": "2", "view": "sea"}, {"n_seats": "six"}, {"n_beds": 2.5}, {"n_beds": None}),
    ),
    "propertyNames": Rule(
        {**_OBJECT, "propertyNames": {"maxLength": 3}},
        ({"fr": 4, "it": 2}, {"de": 9}),
        ({"french": 4, "it": 2}, {"german": 9}, {"fr": 4, "italy": 2}, {"spain": 1}),
    ),
    "minProperties": Rule(
        {**_OBJECT, "minProperties": 2},
        ({"fr": 4, "it": 2}, {"de": 9, "fr": 1, "es": 2}),
        ({"fr": 4}, {}, {"de": 9}, {"it": 2}),
    ),
    "maxProperties": Rule(
        {**_OBJECT, "maxProperties": 1},
        ({"fr": 4}, {"de": 9}),
        ({"fr": 4, "it": 2}, {"de": 9, "fr": 1}, {"es": 2, "it": 2, "fr": 4}, {"de": 9, "es": 2}),
    ),
    "dependentRequired": Rule(
        {**_PAY, "dependentRequired": {"card": ["expires"]}},
        ({"card": "4417", "expires": "2031-05"}, {"cash": 40}),
        ({"card": "4417"}, {"card": "4417", "cash": 40}, {"cash": 5, "card": "9020"}, {"card": "9020"}),
    ),
    "dependentSchemas": Rule(
        {**_PAY, "dependentSchemas": {"card": {"properties": {"cash": {"maximum": 0}}}}},
        ({"card": "4417", "cash": 0}, {"cash": 40}),
        (
            {"card": "4417", "cash": 40},
            {"card": "9020", "cash": 5},
            {"cash": 1, "card": "4417"},
            {"card": "1", "cash": 9},
        ),
    ),
    "unevaluatedProperties": Rule(
        {
            **_OBJECT,
            "allOf": [{"properties": {"city": _TEXT}}],
            "properties": {"zip": _TEXT},
            "unevaluatedProperties": False,
        },
        ({"city": "Lima", "zip": "15001"}, {"city": "Cork"}),
        (
            {"city": "Lima", "country": "Peru"},
            {"town": "Cork"},
            {"city": "Cork", "code": 7},
            {"zip": "15001", "floor": 2},
        ),
    ),
    # Combinations
    "allOf": Rule({"allOf": [{**_WHOLE, "minimum": 10}, {"maximum": 20}]}, (10, 14, 20), (9, 21, 4, "14")),
    "anyOf": Rule({"anyOf": [{**_WHOLE, "maximum": 5}, {"const": "all"}]}, (3, 5, "all"), (6, "5", "none", 12)),
    "oneOf": Rule({"oneOf": [{"multipleOf": 2}, {"multipleOf": 3}], **_WHOLE}, (4, 9, 10), (6, 12, 18, 7)),
    "not": Rule(
        {**_TEXT, "not": {"enum": ["draft", "void", "lost", "test"]}},
        ("paid", "open"),
        ("draft", "void", "lost", "test"),
    ),
    "if": Rule(
        {**_OBJECT, "if": _KIND, "then": {"required": ["weight"]}},
        ({"kind": "parcel", "weight": 3}, {"kind": "letter"}),
        (
            {"kind": "parcel"},
            {"kind": "parcel", "size": 2},
            {"kind": "parcel", "Weight": 3},
            {"size": 1, "kind": "parcel"},
        ),
    ),
    "then": Rule(
        {**_OBJECT, "if": _KIND, "then": {"properties": {"weight": {"maximum": 20}}}},
        ({"kind": "parcel", "weight": 20}, {"kind": "letter", "weight": 30}),
        (
            {"kind": "parcel", "weight": 30},
            {"kind": "parcel", "weight": 21},
            {"weight": 44, "kind": "parcel"},
            {"kind": "parcel", "weight": 99},
        ),
    ),
    "else": Rule(
        {**_OBJECT, "if": _KIND, "else": {"required": ["stamp"]}},
        ({"kind": "letter", "stamp": "A"}, {"kind": "parcel"}),
        ({"kind": "letter"}, {"kind": "card"}, {"kind": "letter", "weight": 1}, {}),
    ),
    "ref": Rule({"$ref": "#/$defs/code"}, ("LX7", "QB2"), ("lx7", "LX", "LX77", "7LX"), "$ref"),
    "recursion": Rule(
        {"$ref": "#/$defs/part"},
        ({"name": "axle", "parts": [{"name": "pin"}]}, {"name": "lamp", "parts": [{"name": "bulb", "parts": []}]}),
        (
            {"name": "axle", "parts": [{"size": 2}]},
            {"name": "lamp", "parts": ["bulb"]},
            {"name": "axle", "parts": [{"name": "pin", "parts": [{}]}]},
            {"name": "lamp", "parts": [{"name": 7}]},
        ),
        "$ref",
    ),
}
"""Feature to its rule; a feature is named as its keyword, but for the two kinds of reference."""

_DEFS = {"ref": {"code": {**_TEXT, "pattern": "^[A-Z]{2}[0-9]$"}}, "recursion": {"part": _TREE}}


def schema_features(**metadata: Any) -> dict[str, datasets.Dataset]:
    """Make one question after another about each feature."""
    want = wanted(metadata)
    if unknown := sorted(set(want.axes["feature"]) - set(RULES)):
        raise ValueError(f"no feature {unknown[0]!r}; there are {', '.join(RULES)}")
    docs = [
        document(want.seed, cell, number) for cell, number in draw_plan(cells(want.axes), want.split_by, want.items)
    ]
    return {"test": datasets.Dataset.from_list(with_cue(docs, metadata))}


def document(seed: int, cell: dict[str, str], number: int) -> dict[str, Any]:
    """Make one question: a name, four values of which the schema allows one, and the schema."""
    feature = cell["feature"]
    rule, draw = RULES[feature], SeededRandom(seed, "schema_features", feature, number)
    name, right = draw.choice(PEOPLE), draw.choice(rule.right)
    offered = draw.shuffled([right, *draw.sample(rule.wrong, WRONG)])
    facts = [
        f"name: {name}",
        f"entry: one of {' or '.join(map(json.dumps, offered))}; the schema allows only one of them",
    ]
    place = f"feature={feature}/{number}"
    return {
        "id": place,
        "cluster": place,
        **cell,
        "prompt": "Write these facts as JSON that fits the schema. Reply with the JSON only.\n\nFacts:\n"
        + "\n".join(f"- {fact}" for fact in draw.shuffled(facts))
        + f"\n\nSchema:\n{json.dumps(schema_of(feature))}",
        "target": json.dumps({"name": name, "entry": right}),
        "schema": json.dumps(schema_of(feature)),
        "chance": 1 / (1 + WRONG),
    }


def schema_of(feature: str, *, without: bool = False) -> dict[str, Any]:
    """Return the whole schema of a feature; without: its keyword left out, so that what it forbids is allowed."""
    rule = RULES[feature]
    keyword = rule.keyword or feature
    entry = {key: one for key, one in rule.schema.items() if not (without and key == keyword)}
    schema = {
        "type": "object",
        "properties": {"name": _TEXT, "entry": entry},
        "required": ["name", "entry"],
        "additionalProperties": False,
    }
    return schema | ({"$defs": _DEFS[feature]} if feature in _DEFS else {})
