"""The config: everything wrong is said at once, with its place and what to write instead."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from harness.config.loading import load, parse, policy_overrides, with_overrides
from harness.config.methods import METHODS
from harness.config.schema import Experiment
from harness.errors import ConfigError, ExitCode
from harness.judge.rules import Rules

GOOD: dict[str, Any] = {
    "name": "trial",
    "baseline": {"name": "bf16", "model": "smollm2"},
    "candidates": [{"name": "nf4", "quantization": "bnb-nf4"}],
    "slices": [{"name": "typical", "items": 50, "margin": 0.1}],
}


def problems(**changes: Any) -> list[str]:
    """The problems of a good config with something changed, as printed."""
    with pytest.raises(ConfigError) as caught:
        parse({**GOOD, **changes}, "trial.yaml")
    assert caught.value.exit_code is ExitCode.USAGE
    return [str(problem) for problem in caught.value.problems]


def test_a_candidate_inherits_the_model_and_says_only_what_differs() -> None:
    """The candidate has the baseline's model and revision, and its own quantization."""
    experiment = parse({**GOOD, "baseline": {"name": "bf16", "model": "some/model", "revision": "abc"}})
    (candidate,) = experiment.candidates
    assert (candidate.model, candidate.revision) == ("some/model", "abc")
    assert candidate.quantization.method == "bnb-nf4"
    assert experiment.baseline.quantization.method == "none"


def test_a_candidate_with_a_model_of_its_own_does_not_get_the_baselines_revision() -> None:
    """A revision names a commit of one repository, not of another."""
    checkpoint = {"name": "gptq", "model": "other/checkpoint"}
    experiment = parse(
        {**GOOD, "baseline": {"name": "b", "model": "some/model", "revision": "abc"}, "candidates": [checkpoint]}
    )
    assert experiment.candidates[0].revision is None


def test_all_problems_are_reported_together() -> None:
    """Four mistakes in four places give four lines, each with its path."""
    found = problems(
        candidates=[{"name": "a", "quantization": {"method": "gtpq"}}, {"name": "a", "quantization": "bnb-nf4"}],
        slices=[{"name": "typical", "margin": 2}],
        polcy={},
    )
    assert len(found) == 4
    text = "\n".join(found)
    assert "candidates[0].quantization.method: 'gtpq' is not a method. Did you mean 'gptq'?" in text
    assert "slices[0].margin: 2 is not a proportion in (0, 0.5]. Did you mean 0.02?" in text
    assert "candidates[1].name: 'a' is taken by candidates[0]" in text
    assert "polcy: is not a key here. Did you mean 'policy'?" in text


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"slices": [{"name": "typical", "margin": 0}]}, "slices[0].margin: 0 is not a proportion in (0, 0.5]."),
        ({"slices": [{"name": "typical", "margin": "2%"}]}, "slices[0].margin: '2%' is not a number"),
        (
            {"slices": [{"name": "typical", "items": "many"}]},
            "slices[0].items: 'many': input should be a valid integer",
        ),
        ({"slices": []}, "slices: []: tuple should have at least 1 item"),
        ({"candidates": []}, "candidates: []: tuple should have at least 1 item"),
        ({"slices": [{"name": "typical"}, {"name": "typical"}]}, "slices[1].label: 'typical' is taken by slices[0]"),
        ({"candidates": [{"name": "same"}]}, "candidates[0]: 'same' is the baseline itself"),
        (
            {"candidates": [{"name": "bf16", "quantization": "bnb-nf4"}]},
            "candidates[0].name: 'bf16' is taken by baseline",
        ),
        ({"candidates": [{"name": "items", "quantization": "bnb-nf4"}]}, "candidates[0].name: 'items' is a name that"),
        ({"candidates": [{"name": "../up", "quantization": "bnb-nf4"}]}, "candidates[0].name: '../up' is not a name"),
        ({"candidates": [{"name": "g", "quantization": "gptq"}]}, "candidates[0].model: gptq weights lie in their own"),
        (
            {"candidates": [{"name": "f", "quantization": "bnb-nf4", "dtype": "float32"}]},
            "candidates[0].dtype: float32 differs from the baseline's compute dtype",
        ),
        (
            {"candidates": [{"name": "f", "quantization": {"method": "bnb-nf4", "bits": 4}}]},
            "candidates[0].quantization: bnb-nf4 does not take bits",
        ),
        ({"baseline": {"name": "b"}}, "baseline.model: is missing"),
        ({"execution": {"dtype": "bfloat"}}, "execution.dtype: 'bfloat' is not one of the known values. Did you mean"),
        ({"sampling": {"samples": 4}}, "sampling.samples: 4 samples at temperature 0 are all the same"),
        ({"policy": {"alpha": 0.5}}, "policy.alpha: 0.5: input should be less than or equal to 0.2"),
    ],
)
def test_bad_values_are_named_with_their_place(changes: dict[str, Any], expected: str) -> None:
    """Each mistake gives one line that starts with its path and says what is wrong."""
    found = problems(**changes)
    assert [line for line in found if line.startswith(expected)], found
    assert len(found) == 1


def test_a_missing_baseline_is_said() -> None:
    """Without a baseline there is nothing to compare against."""
    config = {key: value for key, value in GOOD.items() if key != "baseline"}
    with pytest.raises(ConfigError, match=r"baseline: is missing: give the model to compare against"):
        parse(config)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "is empty"),
        ("- a\n- b\n", "holds a list, not a mapping"),
        ("name: [unclosed\n", "is not YAML"),
        ("name: a\nname: b\n", "line 2: the key 'name' is given twice"),
    ],
)
def test_a_file_that_is_no_config_says_what_it_is(tmp_path: Path, text: str, expected: str) -> None:
    """Empty files, lists, broken YAML and repeated keys are told apart."""
    path = tmp_path / "trial.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=expected):
        load(path)


def test_a_missing_file_is_said(tmp_path: Path) -> None:
    """The message names the file."""
    with pytest.raises(ConfigError, match=r"absent\.yaml.*\n.*cannot be read: No such file"):
        load(tmp_path / "absent.yaml")


def test_a_file_that_is_not_text_is_said(tmp_path: Path) -> None:
    """Latin-1 bytes are no UTF-8."""
    path = tmp_path / "trial.yaml"
    path.write_bytes(b"name: caf\xe9\n")
    with pytest.raises(ConfigError, match="is not UTF-8"):
        load(path)


def test_every_method_is_accepted_by_its_name_alone() -> None:
    """A method without options is a valid quantization."""
    for method in METHODS:
        candidate = {"name": "c", "model": "another/model", "quantization": method}
        assert parse({**GOOD, "candidates": [candidate]}).candidates[0].quantization.method == method


def test_a_config_survives_a_round_trip() -> None:
    """What run.json holds is the same experiment with the same digest."""
    experiment = parse(GOOD)
    again = parse(experiment.model_dump(mode="json"))
    assert again == experiment
    assert again.digest() == experiment.digest()


def test_the_digest_follows_what_decides_a_result_and_nothing_else() -> None:
    """Another output directory is the same experiment; another margin is not."""
    experiment = parse(GOOD)
    assert parse({**GOOD, "output": "elsewhere"}).digest() == experiment.digest()
    assert parse({**GOOD, "slices": [{"name": "typical", "items": 50, "margin": 0.2}]}).digest() != experiment.digest()


def _two() -> Experiment:
    return parse(
        {
            **GOOD,
            "candidates": [{"name": "nf4", "quantization": "bnb-nf4"}, {"name": "int8", "quantization": "bnb-int8"}],
            "slices": [{"name": "typical"}, {"name": "code", "items": 10}],
        }
    )


def test_only_keeps_the_named_slices_and_candidates_under_a_name_of_their_own() -> None:
    """A part of a run never lands in the directory of the whole."""
    part = with_overrides(_two(), only=("int8", "code"))
    assert [one.name for one in part.candidates] == ["int8"]
    assert [spec.key for spec in part.slices] == ["code"]
    assert part.name == "trial-only-code-int8"


def test_only_refuses_a_name_that_is_neither() -> None:
    """The message suggests what may have been meant."""
    with pytest.raises(ConfigError, match=r"'int9' is neither a slice nor a candidate\. Did you mean 'int8'"):
        with_overrides(_two(), only=("int9",))


def test_limit_lowers_the_items_and_never_raises_them() -> None:
    """A slice with fewer items keeps its number."""
    part = with_overrides(_two(), limit=20)
    assert [spec.items for spec in part.slices] == [20, 10]
    assert part.name == "trial-limit-20"


def test_a_policy_file_may_hold_the_policy_alone_or_in_its_section(tmp_path: Path) -> None:
    """Both forms give the same overrides; an unknown key is refused."""
    path = tmp_path / "policy.yaml"
    for data in ({"margin": 0.05}, {"policy": {"margin": 0.05}}):
        path.write_text(yaml.safe_dump(data), encoding="utf-8")
        assert policy_overrides(path) == {"margin": 0.05}
    path.write_text("policy: {marign: 0.05}\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"policy\.marign: is not a key here\. Did you mean 'margin'"):
        policy_overrides(path)


def test_renamed_keys_are_read_with_a_notice(tmp_path, capsys):
    """The old names of `advisory` and `chance_alpha` still count; a key under both names is refused."""
    text = """
name: trial
baseline: m
candidates: [{name: nf4, quantization: bnb-nf4}]
slices: [{name: typical, informative: ["a*"]}]
policy: {floor_alpha: 0.01}
"""
    path = tmp_path / "old.yaml"
    path.write_text(text)
    found = load(path)
    assert (found.slices[0].advisory, found.policy.chance_alpha) == (("a*",), 0.01)
    notices = capsys.readouterr().err
    assert f"{path}: slices[0].informative is now called advisory" in notices
    assert f"{path}: policy.floor_alpha is now called chance_alpha" in notices
    assert Rules.from_experiment(found).to_json()["floor_alpha"] == 0.01
    path.write_text("policy: {floor_alpha: 0.01}")
    assert policy_overrides(path) == {"chance_alpha": 0.01}
    path.write_text(text.replace("floor_alpha: 0.01", "floor_alpha: 0.01, chance_alpha: 0.05"))
    with pytest.raises(ConfigError, match=r"policy\.floor_alpha"):
        load(path)
