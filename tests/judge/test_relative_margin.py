"""`margin: 5%`: a candidate has to keep 95 % of the baseline's score."""

from __future__ import annotations

import json

import numpy as np
import pytest
from making import Cell, judged, stratum
from pydantic import ValidationError

from harness.config.fields import RelativeMargin
from harness.config.schema import Policy
from harness.judge.rules import Rules
from harness.stats import paired_test
from harness.stats.stratum import relative_test


def _rules(**policy: object) -> Rules:
    return Rules(Policy.model_validate(policy))


def test_a_share_is_read_and_written_as_it_was():
    """Read as a share, dumped as text, read again; what is no share is refused, and a plain margin stays a number."""
    policy = Policy.model_validate({"margin": "5%", "margins": {"s/*": "2.5 %", "t/*": 0.1}})
    assert isinstance(policy.margin, RelativeMargin)
    data = json.loads(json.dumps(policy.model_dump(mode="json")))
    assert (data["margin"], data["margins"]) == ("5%", {"s/*": "2.5%", "t/*": 0.1})
    assert Policy.model_validate(data) == policy
    assert Policy().model_dump(mode="json")["margin"] == 0.02
    for wrong in ("0%", "60%", "five", "5", True):
        with pytest.raises(ValidationError):
            Policy.model_validate({"margin": wrong})
    with pytest.raises(ValidationError):
        Policy.model_validate({"pooled_margin": "5%"})


def test_the_margin_is_smaller_if_the_baseline_scores_less():
    """Ten percent of .4 is four points and of 1.0 ten: the same five points lost fail one and pass the other."""
    cells = {"s/weak": Cell(2000, 100, 0, 1200), "s/strong": Cell(2000, 100, 0, 0)}
    found = judged(cells, _rules(margin="10%"))
    weak, strong = (stratum(found, f"s/{name}") for name in ("weak", "strong"))
    assert (weak.margin, strong.margin) == (pytest.approx(0.04), pytest.approx(0.1))
    assert (strong.verdict, weak.verdict) == ("pass", "fail" if weak.high < -0.04 else "inconclusive")
    assert strong.low > -0.1
    assert weak.low < -0.04
    assert weak.lost == strong.lost == 100
    assert "of the share kept" in weak.method
    assert found.to_json()["policy"]["margin"] == "10%"


def test_with_a_baseline_that_is_always_right_it_is_nearly_the_plain_test():
    """A score of 1 has no uncertainty of its own: limits agree with those of an absolute margin to half a point."""
    before, after = np.ones(3000), (np.arange(3000) % 25 > 0) * 1.0
    found, plain = relative_test(before, after, share=0.05), paired_test(after - before, margin=0.05)
    assert (found.low, found.high) == (pytest.approx(plain.low, abs=0.005), pytest.approx(plain.high, abs=0.005))
    assert (found.low > -0.05) == (found.p_pass < 0.05)
