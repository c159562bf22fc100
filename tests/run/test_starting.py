"""`quantcliff init`: a config that a budget allows, which loads and can be planned."""

from __future__ import annotations

import pytest
import yaml
from click.testing import CliRunner

from harness.cli.program import commands
from harness.config.loading import load
from harness.errors import UsageError
from harness.run.starting import config_text
from harness.stats.plan import Design, route
from harness.stats.sequential import Spending


def test_the_config_fits_the_hours_and_loads(tmp_path):
    """Four hours at 6,000 items: two points pooled and five for each stratum, within the items that there are."""
    path = tmp_path / "gate.yaml"
    done = CliRunner().invoke(commands, ["init", "org/My Model", "--hours", "4", "-o", str(path)])
    assert done.exit_code == 0, done.output
    experiment = load(path)
    policy = experiment.policy
    assert (policy.margin, policy.pooled_margin, experiment.execution.looks) == (0.05, 0.02, 10)
    assert [one.quantization.method for one in experiment.candidates] == ["bnb-int8", "bnb-nf4"]
    items = experiment.slices[0].items
    assert items * 7 * 3.25 <= 4 * 6000
    needed = route(Design((0.05,) * 7, 0.02, 10, Spending.of(policy.spending)))
    assert items * 7 >= needed.largest
    again = CliRunner().invoke(commands, ["init", "m", "--hours", "4", "-o", str(path)])
    assert isinstance(again.exception, UsageError)
    assert "cannot be written" in str(again.exception)


@pytest.mark.parametrize(("hours", "margin", "pooled"), [(0.5, 0.15, 0.05), (1, 0.1, 0.04), (20, 0.02, None)])
def test_more_hours_buy_a_stricter_promise(hours, margin, pooled):
    """The strictest promise whose items fit."""
    policy = yaml.safe_load(config_text("m", ["int8", "nf4"], hours, 6000))["policy"]
    assert (policy["margin"], policy.get("pooled_margin")) == (margin, pooled)


def test_what_cannot_be_is_said():
    """Too few hours, an unknown method, the same one twice."""
    for hours, methods, said in (
        (0.01, ["int8"], "decide nothing; give more hours"),
        (4, ["int9"], "is not a method that is applied as a model loads; there are: .*nf4"),
        (4, ["int8", "int8"], "give different methods"),
    ):
        with pytest.raises(UsageError, match=said):
            config_text("m", methods, hours, 6000)


@pytest.mark.parametrize("model", ["a\x07b", "a\x1bb", "a\nb", "a\x85b", "a\u2028b", "a\ud800", "", "  "])
def test_a_model_that_no_path_or_hub_id_can_be_is_said(model):
    """YAML has no control characters, and a line break would end the first line's comment."""
    with pytest.raises(UsageError, match="is no model: give a directory or a hub id"):
        config_text(model, ["int8"], 4, 6000)


@pytest.mark.parametrize("model", ["${name}", "a, b", "[a]", "it's", "- x", "a: b #c", "null", "m\xfc/\u6a21"])
def test_a_model_of_any_other_name_is_written_as_it_is(model):
    """Also with what YAML takes for a sign of its own."""
    assert yaml.safe_load(config_text(model, ["int8"], 4, 6000))["baseline"]["model"] == model
