"""JSON Schema by feature: every keyword that can forbid a value has questions that it alone decides."""

from __future__ import annotations

import json

import pytest
from jsonschema import Draft202012Validator
from paths import TASKS
from test_tasks_generated import docs, fingerprint, module, read

TOLD = read(TASKS / "structured_output" / "schema_features.yaml")["metadata"]
ALL = TOLD["levels"]["feature"]


def features():
    """The generator, which loads `datasets`."""
    return module("structured_output", "features")


def test_every_keyword_that_validates_is_a_feature() -> None:
    """The keywords of draft 2020-12 that jsonschema checks; formats are annotations, dynamic references not taken."""
    checked = set(Draft202012Validator.VALIDATORS) - {"format", "$dynamicRef", "$ref"}
    handled_by_another = {"then", "else", "minContains", "maxContains"}
    assert set(ALL) == checked | handled_by_another | {"ref", "recursion"}
    assert (list(features().RULES), TOLD["items"]) == (ALL, len(ALL))


def test_by_default_there_is_one_item_of_each_feature() -> None:
    """One stratum with every feature once; seed 0 gives the known bytes."""
    made = docs("structured_output", "schema_features")
    assert [doc["feature"] for doc in made] == ALL
    assert fingerprint(made) == "dab2e9cdd4696bfc"


@pytest.mark.parametrize("feature", ALL)
def test_the_keyword_alone_decides(feature: str) -> None:
    """What is right fits the schema. What is wrong does not, and would if the keyword were not there."""
    schema, without = features().schema_of(feature), features().schema_of(feature, without=True)
    Draft202012Validator.check_schema(schema)
    assert schema != without
    rule = features().RULES[feature]
    values = [json.dumps(one, sort_keys=True) for one in (*rule.right, *rule.wrong)]
    assert len(set(values)) == len(values)
    for entries, fits in ((rule.right, True), (rule.wrong, False)):
        for entry in entries:
            value = {"name": "Anna Berg", "entry": entry}
            assert Draft202012Validator(schema).is_valid(value) == fits, entry
            assert Draft202012Validator(without).is_valid(value), entry


def test_one_of_four_values_is_right_and_all_are_told() -> None:
    """The facts offer the right value and three others, in an order that says nothing; another is another score."""
    places = set()
    for doc in docs("structured_output", "schema_features", items=3 * len(ALL)):
        target, schema = json.loads(doc["target"]), json.loads(doc["schema"])
        told = doc["prompt"].split("entry: one of ")[1].split("; the schema allows")[0].split(" or ")
        offered = [{**target, "entry": json.loads(one)} for one in told]
        assert [one for one in offered if Draft202012Validator(schema).is_valid(one)] == [target]
        assert (len(offered), doc["chance"]) == (4, 0.25)
        assert f"name: {target['name']}" in doc["prompt"]
        scores = [module("structured_output", "structures").score(doc, [json.dumps(one)]) for one in offered]
        assert sorted(one["exact_match"] for one in scores) == [0.0, 0.0, 0.0, 1.0]
        assert all(one["valid"] == one["exact_match"] for one in scores)
        places.add(offered.index(target))
    assert places == {0, 1, 2, 3}


def test_an_unknown_feature_is_refused() -> None:
    """With the names that there are."""
    with pytest.raises(ValueError, match="no feature 'minimun'; there are type, enum"):
        docs("structured_output", "schema_features", axes={"feature": ["minimun"]})
