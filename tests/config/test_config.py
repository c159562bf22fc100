"""The config: everything wrong is said at once, with its place and what to write instead."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from harness.config.loading import load, parse, policy_overrides, with_overrides
from harness.config.methods import METHODS, methods_in
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
        ({"slices": [{"name": "typical", "margin": "2"}]}, "slices[0].margin: '2' is not a number"),
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
        ({"slices": [{"name": "typical", "items": True}]}, "slices[0].items: True is not a number"),
        ({"execution": {"threads": True}}, "execution.threads: True is not a number"),
        ({"policy": {"alpha": False}}, "policy.alpha: False is not a number"),
        (
            {"candidates": [{"name": "h", "quantization": {"method": "hqq", "bits": True}}]},
            "candidates[0].quantization.bits: True is not a number",
        ),
        (
            {"candidates": [{"name": "h", "kv_cache": {"backend": "hqq", "bits": True}}]},
            "candidates[0].kv_cache.bits: True is not a number",
        ),
        (
            {"candidates": [{"name": "h", "quantization": {"method": "hqq", "module_bits": {"*": True}}}]},
            "candidates[0].quantization.module_bits.*: True is not a number",
        ),
        ({"seed": "020"}, "seed: '020' is not a number"),
        (
            {"candidates": [{"name": "BF16", "quantization": "bnb-nf4"}]},
            "candidates[0].name: 'BF16' and 'bf16' differ by case alone",
        ),
        ({"candidates": [{"name": "Items", "quantization": "bnb-nf4"}]}, "candidates[0].name: 'Items' and 'items'"),
        (
            {"slices": [{"name": "typical", "label": "a"}, {"name": "typical", "label": "A"}]},
            "slices[1].label: 'A' and 'a' differ by case alone",
        ),
        (
            {"execution": {"rehearsal": {"lost": {"bf61/typical": 0.1}}}},
            "execution.rehearsal.lost: 'bf61/typical': 'bf61' is not a variant of this config. Did you mean 'bf16'?",
        ),
        (
            {"execution": {"rehearsal": {"lost": {"bf16/typicl/x=1": 0.1}}}},
            "execution.rehearsal.lost: 'bf16/typicl/x=1': 'typicl' is not a slice of this config. Did you",
        ),
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


@pytest.mark.parametrize("number", ["true", "on", "020", "-0_20", "1:20", "1:20.5", "0o20"])
def test_numbers_that_yaml_reads_as_other_numbers_are_refused(tmp_path: Path, number: str) -> None:
    """YAML 1.1 reads true as 1, 020 as 16 and 1:20 as 80: none of them is what was typed."""
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(GOOD) + f"seed: {number}\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"1 problem\n  seed: "):
        load(path)
    path.write_text(yaml.safe_dump(GOOD) + f"seed: 20\nexecution: {{divergence_gib: 1e1}}\nnotes: [{number!r}]\n")
    assert load(path).seed == 20


def test_a_commit_of_digits_is_text(tmp_path: Path) -> None:
    """A revision such as 0123456 is neither a number nor octal."""
    path = tmp_path / "config.yaml"
    baseline = {**GOOD["baseline"], "revision": "REV"}
    path.write_text(yaml.safe_dump({**GOOD, "baseline": baseline}).replace("REV", "0123456"), encoding="utf-8")
    assert load(path).baseline.revision == "0123456"


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


def _mixed(method: str, module_bits: object) -> dict[str, Any]:
    quantization = {"method": method, "module_bits": module_bits}
    return {**GOOD, "candidates": [{"name": "c", "model": "another/model", "quantization": quantization}]}


def test_bits_of_single_modules_are_read_where_the_method_has_them() -> None:
    """Globs to bits; a config without them has the digest that it had before the key was there."""
    experiment = parse(_mixed("quanto-int4", {"*.v_proj": 8, "*.k_proj": 2}))
    assert experiment.candidates[0].quantization.module_bits == {"*.v_proj": 8, "*.k_proj": 2}
    assert parse(experiment.model_dump(mode="json")) == experiment
    assert "module_bits" not in parse(GOOD).model_dump(mode="json")["candidates"][0]["quantization"]
    for name, method in METHODS.items():
        assert ("module_bits" in method.options) == bool(method.module_bits), name


@pytest.mark.parametrize(
    ("method", "module_bits", "says"),
    [
        ("bnb-nf4", {"*.v_proj": 8}, "bnb-nf4 does not take module_bits"),
        ("gptq", {"*.v_proj": 8}, "gptq does not take module_bits"),
        ("quanto-int4", {"*.v_proj": 3}, "for single modules quanto-int4 has 2, 4, 8 bits, and not 3"),
        ("torchao-intx4", {"*.v_proj": 8, "*.k_proj": 4}, "torchao-intx4 has 8 bits, and not 4"),
        ("hqq", {"*.v_proj": 16}, "module_bits"),
        ("hqq", {}, "module_bits"),
        ("hqq", 8, "module_bits"),
    ],
)
def test_bits_that_a_method_does_not_have_are_refused(method: str, module_bits: object, says: str) -> None:
    """The message says what the method takes."""
    with pytest.raises(ConfigError, match=re.escape(says)):
        parse(_mixed(method, module_bits))


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
    part = with_overrides(_two(), "config", only=("int8", "code"))
    assert [one.name for one in part.candidates] == ["int8"]
    assert [spec.key for spec in part.slices] == ["code"]
    assert part.name == "trial-only-code-int8"


def test_only_refuses_a_name_that_is_neither() -> None:
    """The message suggests what may have been meant."""
    with pytest.raises(ConfigError, match=r"'int9' is neither a slice nor a candidate\. Did you mean 'int8'"):
        with_overrides(_two(), "config", only=("int9",))


def test_limit_lowers_the_items_and_never_raises_them() -> None:
    """A slice with fewer items keeps its number."""
    part = with_overrides(_two(), "config", limit=20)
    assert [spec.items for spec in part.slices] == [20, 10]
    assert part.name == "trial-limit-20"


def test_a_policy_file_may_hold_the_policy_alone_or_in_its_section(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Both forms give the same overrides; an unknown key is refused, and slices, which are not read, are named."""
    path = tmp_path / "policy.yaml"
    for data in ({"margin": 0.05}, {"policy": {"margin": 0.05}}):
        path.write_text(yaml.safe_dump(data), encoding="utf-8")
        assert policy_overrides(path) == {"margin": 0.05}
    assert not capsys.readouterr().err
    path.write_text("policy: {margin: 0.05}\nslices: [{name: typical}]\n", encoding="utf-8")
    assert policy_overrides(path) == {"margin": 0.05}
    assert "its policy alone is read" in capsys.readouterr().err
    path.write_text('policy: {margin: "\\ud800"}\n', encoding="utf-8")
    with pytest.raises(ConfigError, match="holds a value that cannot be read"):
        policy_overrides(path)
    path.write_text("policy: {marign: 0.05}\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"policy\.marign: is not a key here\. Did you mean 'margin'"):
        policy_overrides(path)


@pytest.mark.parametrize(("key", "value"), [("margin", "0.1"), ("tail_events", "{empty: 0.1}")])
def test_a_whole_config_as_policy_file_does_not_overrule_its_own_slices(tmp_path: Path, key: str, value: str) -> None:
    """A run that failed would pass by its own config, whose slices ask for more than its policy."""
    path = tmp_path / "mine.yaml"
    slices = f"[{{name: a}}, {{name: b, {key}: {value}}}]"
    path.write_text(f"policy: {{{key}: {value}}}\nslices: {slices}\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=rf"policy\.{key}: would overrule the slices' own"):
        policy_overrides(path)


def test_renamed_keys_are_read(tmp_path):
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
    assert Rules.from_experiment(found).to_json()["floor_alpha"] == 0.01
    path.write_text("policy: {floor_alpha: 0.01}")
    assert policy_overrides(path) == {"chance_alpha": 0.01}
    path.write_text(text.replace("floor_alpha: 0.01", "floor_alpha: 0.01, chance_alpha: 0.05"))
    with pytest.raises(ConfigError, match=r"policy\.floor_alpha"):
        load(path)


ADDRESS = {"name": "openai", "url": "https://models.example/v1", "model": "m", "api_key_env": "KEY"}


def engine_problem(engine: object, **changes: Any) -> str:
    """What is wrong with a config whose baseline has an engine."""
    return "\n".join(problems(**{"baseline": {"name": "b", "model": "m", "engine": engine}, **changes}))


def test_a_candidate_inherits_the_engine_and_merges_its_arguments() -> None:
    """Arguments are merged one by one; another engine is taken as it is; a key never goes to another address."""
    engine = {"name": "vllm", "python": "/v/bin/python", "args": {"max_model_len": 2048}}
    others = [
        {"name": "kv8", "engine": {"args": {"kv-cache-dtype": "fp8"}}},
        {"name": "awq", "model": "other", "engine": "vllm"},
        {"name": "q4", "model": "a.gguf", "engine": "llama-cpp"},
    ]
    data = {**GOOD, "baseline": {"name": "b", "model": "m", "engine": engine}, "candidates": others}
    kv8, awq, q4 = parse(data).candidates
    assert kv8.engine.args == {"max_model_len": 2048, "kv_cache_dtype": "fp8"}
    assert (kv8.engine.python, awq.engine.python, q4.engine.python) == ("/v/bin/python", "/v/bin/python", None)
    data |= {
        "baseline": {"name": "b", "model": "m", "engine": ADDRESS},
        "candidates": [
            {"name": "c", "engine": {"model": "n"}},
            {"name": "d", "engine": {"url": "https://b.example/v1"}},
        ],
    }
    same, elsewhere = parse(data).candidates
    assert (same.engine.api_key_env, elsewhere.engine.api_key_env) == ("KEY", None)
    assert parse(parse(data).model_dump(mode="json")) == parse(data)


def test_an_engine_that_is_the_default_leaves_the_digest_as_it_was() -> None:
    """A run from before there were engines can be continued."""
    dumped = parse(GOOD).model_dump(mode="json")
    assert "engine" not in dumped["baseline"]
    assert "cross_engine" not in dumped["execution"]
    assert parse({**GOOD, "baseline": {**GOOD["baseline"], "engine": "transformers"}}).digest() == parse(GOOD).digest()


def test_keys_in_a_config_and_addresses_without_tls_are_refused() -> None:
    """No message repeats a secret."""
    secret = "sk-5f2a91"
    for engine, said in (
        ({**ADDRESS, "api_key": secret}, "a key does not belong in a file: export it"),
        ({**ADDRESS, "api_key_env": secret}, "is not the name of an environment variable"),
        ({**ADDRESS, "url": f"https://user:{secret}@models.example/v1"}, "a key does not belong in a file"),
        ({**ADDRESS, "url": f"https://models.example/v1?key={secret}"}, "a key does not belong in a file"),
        ({"name": "vllm", "args": {"api-key": secret}}, "a key does not belong in a file"),
        ({**ADDRESS, "url": "http://models.example/v1"}, "without TLS to another machine"),
        ({**ADDRESS, "url": "ftp://models.example"}, "is not a URL"),
    ):
        text = engine_problem(engine)
        assert said in text
        assert secret not in text
    for url in ("http://localhost:8000/v1", "http://127.0.0.1/v1", "http://[::1]:8000/v1"):
        assert parse({**GOOD, "baseline": {"name": "b", "model": "m", "engine": {**ADDRESS, "url": url}}})
    inside = {**ADDRESS, "url": "http://vllm.internal:8000/v1", "allow_http": True}
    assert parse({**GOOD, "baseline": {"name": "b", "model": "m", "engine": inside}})


def test_an_engine_takes_only_what_it_can_use() -> None:
    """Each mistake has its sentence."""
    assert "Did you mean 'vllm'" in engine_problem("vlm")
    assert "vllm does not take url" in engine_problem({"name": "vllm", "url": "http://localhost/v1"})
    assert "needs the server's url" in engine_problem("openai")
    assert "needs the name of a model class" in engine_problem("lm_eval")
    assert "args: port, seed: set by quantcliff itself" in engine_problem(
        {"name": "vllm", "args": {"port": 1, "seed": 2}}
    )
    assert "is not a key here. Did you mean 'concurrency'" in engine_problem({"name": "vllm", "concurency": 2})
    assert "applies bnb-nf4 in its own engine only" in engine_problem("vllm")
    chat = engine_problem({**ADDRESS, "api": "chat"})
    assert "sampling.chat_template: baseline.engine.api: chat sends each prompt as a message" in chat


def test_the_configs_in_the_docs_of_engines_are_valid(repository: Path) -> None:
    """What docs/engines.md shows can be copied."""
    blocks = (repository / "docs" / "engines.md").read_text(encoding="utf-8").split("```yaml\n")[1:]
    whole = [yaml.safe_load(block.partition("```")[0]) for block in blocks]
    configs = [parse(data) for data in whole if "baseline" in data]
    assert [one.candidates[-1].engine.name for one in configs] == ["vllm", "openai"]
    assert configs[0].candidates[0].engine.args == {"max_model_len": 8192}


def test_a_record_of_a_method_with_an_unknown_field_is_refused() -> None:
    """A misspelt field of methods.toml does not pass as one that was left out."""
    with pytest.raises(ValidationError, match="skip_module"):
        methods_in({"own": {"rounding": 0.1, "skip_module": True}})
