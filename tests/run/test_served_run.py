"""Whole runs against servers: judged, killed, resumed, refused. The server is a stub, all else is real."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import processes
import pytest
import yaml
from commands import call
from paths import ROOT
from stub_server import Answers, Stub, served, settings_file

from harness.config.loading import parse
from harness.engines.server_probe import CANARY, PROBE
from harness.errors import ConfigError, NotComparable
from harness.run import plan as run_plan
from harness.run.identity import _lasting
from harness.store.rundir import RunDir, Shard
from harness.store.whole import load_run

pytestmark = pytest.mark.model

STUB = [sys.executable, str(ROOT / "tests" / "stub_server.py")]


def config(model: Path, engine: Any, other: Any, **changes: Any) -> dict[str, Any]:
    """A run over one slice, the baseline on one engine and the candidate on the other."""
    return {
        "name": "trial",
        "baseline": {"name": "full", "model": str(model), "engine": engine},
        "candidates": [{"name": "small", "engine": other}],
        "slices": [{"name": "multi_hop_math", "axes": {"hops": [1]}, "items": 60, "margin": 0.1}],
        "execution": {"device": "cpu", "unit_items": 10, **changes.pop("execution", {})},
        "sampling": {"chat_template": False},
        **changes,
    }


def endpoint(stub: Stub, **more: Any) -> dict[str, Any]:
    """An engine that asks a stub."""
    return {"name": "openai", "url": stub.url, "model": stub.model, "retry_seconds": 3, **more}


def written(data: dict[str, Any], folder: Path) -> Path:
    """The config as a file."""
    path = folder / "trial.yaml"
    path.write_text(yaml.safe_dump(data), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def known(tiny_llama: Path) -> dict[str, Answers]:
    """What a stub knows that answers right, and one that loses every third item."""
    from transformers import AutoTokenizer

    from harness.engines.server_probe import PromptEncoder

    address = {"name": "openai", "url": "http://localhost:1/v1", "model": "stub"}
    plan = run_plan.make_plan(parse(config(tiny_llama, address, {**address, "model": "small"})), "trial.yaml")
    talk = PromptEncoder(AutoTokenizer.from_pretrained(tiny_llama))
    sound, lossy = Answers(), Answers()
    for made in (sound, lossy):
        made.add(talk.prompt(PROBE), PROBE, " eight", talk.encode(" eight"))
    for number, item in enumerate(plan.items):
        ids = talk.prompt(item.prompt)
        for made, text in ((sound, item.target), (lossy, item.target if number % 3 else "-1")):
            made.add(ids, item.prompt, f" The answer is {text}", talk.encode(f" The answer is {text}"))
    return {"sound": sound, "lossy": lossy}


@contextlib.contextmanager
def two(known: dict[str, Answers], *faults: str) -> Iterator[tuple[Stub, Stub]]:
    """The baseline's server and the candidate's; the faults are the candidate's."""
    with served(known["sound"], model="full") as one, served(known["lossy"], *faults, model="small") as other:
        yield one, other


def answers(directory: Path) -> dict[str, bytes]:
    """The files of answers."""
    found = sorted(directory.glob("*/multi_hop_math-*of*.jsonl"))
    return {f"{path.parent.name}/{path.name}": path.read_bytes() for path in found}


def test_a_served_candidate_is_gated_like_any_other(
    tiny_llama: Path,
    known: dict[str, Answers],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It fails as it should; the record says what was declared, and the key is in no file."""
    monkeypatch.setenv("STUB_KEY", "sesame-9f3a")
    with two(known) as (one, other):
        data = config(tiny_llama, endpoint(one, api_key_env="STUB_KEY", concurrency=7), endpoint(other, concurrency=7))
        assert call("run", written(data, tmp_path), "--output", tmp_path) == 1
        assert one.headers[0]["Authorization"] == "Bearer sesame-9f3a"
        assert "Authorization" not in other.headers[0]  # another address does not get the baseline's key
        assert one.busiest <= 7
    said = capsys.readouterr()
    directory = tmp_path / "trial"
    identity = json.loads((directory / "small" / "variant.json").read_text())
    proof = identity["proof"]
    assert (proof["served"]["kind"], proof["served"]["engine"], proof["served"]["version"]) == (
        "declared",
        "openai",
        "1.2.3",
    )
    assert identity["weights"] == f"not seen: {other.url} small"
    asked = {name: json.loads((directory / name / "variant.json").read_text()) for name in ("full", "control")}
    assert [one["proof"]["served"]["concurrency"] for one in asked.values()] == [7, 2]
    assert "small: declared: what http" in (directory / "report.md").read_text()
    assert len((directory / "small" / "requests-1of1.log").read_text().splitlines()) == 60
    assert [path for path in directory.rglob("*") if path.is_file() and b"sesame-9f3a" in path.read_bytes()] == []
    assert "sesame-9f3a" not in said.out + said.err


@pytest.mark.parametrize("said", [" Service unavailable, please retry request {0:x}-4f2a-{1:08x}", ""])
def test_errors_of_the_baselines_server_in_words_hide_no_loss(
    tiny_llama: Path, known: dict[str, Answers], tmp_path: Path, said: str
) -> None:
    """They would be wrong answers, next to which the candidate loses nothing; so would empty ones."""
    failing = Answers(dict(known["sound"].by_ids))
    for number, (key, lost) in enumerate(known["lossy"].by_ids.items()):
        if lost["text"].endswith("-1"):
            failing.by_ids[key] = {**lost, "text": said.format(number, number + 5)}
    with served(failing, model="full") as one, served(known["lossy"], model="small") as other:
        data = config(tiny_llama, endpoint(one), endpoint(other), execution={"control": False})
        assert call("run", written(data, tmp_path), "--output", tmp_path, "--quiet") == 4
    shown = "Service unavailable, please retry request ..." if said else ""
    text = f"full answered 20 items with '{shown}', which looks like an error of its server"
    assert text in (tmp_path / "trial" / "report.md").read_text()


@pytest.mark.parametrize("side", ["full", "small"])
def test_a_chat_server_that_thinks_where_the_other_does_not_is_refused(
    tiny_llama: Path, known: dict[str, Answers], tmp_path: Path, capsys: pytest.CaptureFixture[str], side: str
) -> None:
    """Its server has another setting, whose gain would hide what the weights lose."""
    thinks = ("thinks", "no_completions")
    one, other = (thinks, thinks[1:]) if side == "full" else (thinks[1:], thinks)
    varied = Answers({**known["lossy"].by_ids})
    for number, (key, lost) in enumerate(known["lossy"].by_ids.items()):
        varied.by_ids[key] = {**lost, "text": lost["text"].replace("-1", f"-{number + 2}")}
    with served(varied, *one, model="full") as first, served(known["lossy"], *other, model="small") as second:
        data = config(tiny_llama, endpoint(first, api="chat"), endpoint(second, api="chat"))
        assert call("run", written(data, tmp_path), "--output", tmp_path, "--quiet") == 4
    assert "thinks otherwise than for the baseline" in capsys.readouterr().err


@pytest.mark.parametrize("how", ["a second name", "the same name"])
def test_a_name_that_is_declared_quantized_and_answers_as_the_baseline_is_refused(
    tiny_llama: Path, known: dict[str, Answers], tmp_path: Path, capsys: pytest.CaptureFixture[str], how: str
) -> None:
    """A gateway that routes both names to one model, without log-probabilities: what the config says proves nothing."""
    with served(known["sound"], model="full") as one, served(known["sound"], model="small") as other:
        data = config(tiny_llama, endpoint(one), endpoint(other if how == "a second name" else one))
        data["candidates"][0] |= {"quantization": "gptq"}
        data["execution"]["control"] = False
        assert call("run", written(data, tmp_path), "--output", tmp_path, "--quiet") == 4
    said = "every answer is the same" if how == "a second name" else "the same weights"
    assert f"small is the baseline itself ({said}" in capsys.readouterr().err
    assert call("gate", tmp_path / "trial", "--quiet", "--allow-identical") in {0, 3}


@pytest.mark.parametrize("how", ["one name", "log-probabilities", "answers"])
def test_two_candidates_that_one_model_answers_are_not_both_judged(
    tiny_llama: Path, known: dict[str, Answers], tmp_path: Path, how: str
) -> None:
    """A copied address, or a gateway that routes int4 to int8's weights: int4 would pass by what int8 loses."""
    from transformers import AutoTokenizer

    # The baseline answers one item otherwise, and loses it, so that neither candidate is the baseline itself.
    other, said = Answers(dict(known["sound"].by_ids)), " The answer is -1"
    key = next(one for one in other.by_ids if "answer" in other.by_ids[one]["text"])
    other.by_ids[key] = {**other.by_ids[key], "text": said}
    mild = Answers(dict(known["sound"].by_ids))
    if how == "log-probabilities":
        mild.add(AutoTokenizer.from_pretrained(tiny_llama).encode(CANARY), CANARY, " he read", list(range(20, 36)))
    with (
        served(other, model="full") as base,
        served(mild, model="int8") as one,
        served(mild, model="int4") as two,
    ):
        twin = endpoint(one if how == "one name" else two)
        data = config(tiny_llama, endpoint(base), endpoint(one), execution={"control": False})
        data["candidates"] = [
            {"name": "int8", "engine": endpoint(one), "quantization": "bnb-int8"},
            {"name": "int4", "engine": twin, "quantization": "gptq"},
        ]
        assert call("run", written(data, tmp_path), "--output", tmp_path, "--quiet") == 4
        assert call("gate", tmp_path / "trial", "--quiet", "--allow-identical") == 0
    found = json.loads((tmp_path / "trial" / "comparisons.json").read_text())["candidates"]
    assert {one["name"]: one["verdict"] for one in found} == {"int8": "pass", "int4": "not_judged"}
    shown = {"one name": "the same weights", "log-probabilities": "16 log-prob", "answers": "every answer is the same"}
    assert f"int4 is int8 itself ({shown[how]}" in (tmp_path / "trial" / "report.md").read_text()


@pytest.mark.parametrize("method", ["fp8", "bitsandbytes"])
def test_a_flag_that_quantizes_nothing_is_seen_by_the_answers(
    tiny_llama: Path, known: dict[str, Answers], tmp_path: Path, capsys: pytest.CaptureFixture[str], method: str
) -> None:
    """Of a server that shows no log-probabilities the command proves no more than a config does; any method's name."""
    settings = settings_file(tmp_path / "settings.json", known["sound"])
    engine = {"name": "vllm", "command": [*STUB, "--settings", str(settings)]}
    data = config(tiny_llama, engine, {"args": {"quantization": method}}, execution={"control": False})
    assert call("run", written(data, tmp_path), "--output", tmp_path, "--quiet") == 4
    assert "small is the baseline itself (every answer is the same)" in capsys.readouterr().err


def test_a_server_of_the_baseline_is_refused_before_its_items(
    tiny_llama: Path, known: dict[str, Answers], tmp_path: Path
) -> None:
    """Its log-probabilities show it, whatever batching does to answers; it may be the question."""
    from transformers import AutoTokenizer

    ids = AutoTokenizer.from_pretrained(tiny_llama).encode(CANARY)
    same = {name: Answers(dict(one.by_ids)) for name, one in known.items()}
    for one in same.values():
        one.add(ids, CANARY, " he read", list(range(20, 36)))
    with two(same) as (one, other):
        path = written(config(tiny_llama, endpoint(one), endpoint(other), execution={"control": False}), tmp_path)
        assert call("run", path, "--output", tmp_path, "--quiet") == 4
        failure = json.loads((tmp_path / "trial" / "small" / "failure-1of1.json").read_text())
        assert "small is the baseline itself (16 log-probabilities" in failure["message"]
        assert other.questions == []
        assert call("run", path, "--output", tmp_path, "--quiet", "--allow-identical") == 1
    assert call("compare", tmp_path / "trial", "--quiet") == 4
    identity = json.loads((tmp_path / "trial" / "small" / "variant.json").read_text())
    assert "canary" not in _lasting(identity)["proof"]["served"]  # a replica that rounds otherwise may go on


@pytest.mark.slow
def test_a_run_that_is_killed_goes_on_to_the_same_answers(
    tiny_llama: Path, known: dict[str, Answers], tmp_path: Path
) -> None:
    """SIGKILL in the middle, and the same command again: not a byte of any answer differs."""
    with two(known, "slow") as (one, other):
        data = config(tiny_llama, endpoint(one), endpoint(other))
        path = written(data, tmp_path)
        assert call("run", path, "--output", tmp_path / "whole", "--quiet") == 1
        process = processes.start(["run", path, "--output", tmp_path, "--quiet"], tmp_path / "said")
        small = tmp_path / "trial" / "small" / "multi_hop_math-1of1.jsonl"
        while process.exitcode is None and not (small.is_file() and small.read_bytes().count(b"\n") >= 20):
            time.sleep(0.01)
        assert process.exitcode is None, (tmp_path / "said").read_text()
        os.killpg(process.pid, signal.SIGKILL)
        process.join()
        before = len(other.asked)
        assert call("run", path, "--output", tmp_path, "--quiet") == 1
        assert len(other.asked) - before < 60  # what was there was not asked again
    assert answers(tmp_path / "trial") == answers(tmp_path / "whole" / "trial")


def test_a_server_that_goes_away_leaves_a_run_that_can_be_continued(
    tiny_llama: Path, known: dict[str, Answers], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A managed server dies: exit code 4, and no answer of the broken unit; then the same command finishes."""
    settings = settings_file(tmp_path / "settings.json", known["sound"], "dies")
    engine = {"name": "vllm", "command": [*STUB, "--settings", str(settings)], "concurrency": 4, "retry_seconds": 5}
    data = config(tiny_llama, engine, {"args": {"kv_cache_dtype": "fp8"}})
    path = written(data, tmp_path)
    assert call("run", path, "--output", tmp_path, "--quiet") == 4
    said = capsys.readouterr()
    assert "the server ended with exit code 7" in said.err
    assert "give the same command again to continue" in said.err
    assert answers(tmp_path / "trial")["full/multi_hop_math-1of1.jsonl"].count(b"\n") == 10
    settings_file(settings, known["sound"])
    # The stub answers alike in both variants: the run is whole, and what is judged is that they are the same.
    assert call("run", path, "--output", tmp_path, "--quiet", "--allow-identical") in {0, 3}
    identity = json.loads((tmp_path / "trial" / "small" / "variant.json").read_text())
    served_by = identity["proof"]["served"]
    assert (served_by["kind"], served_by["flags"]) == ("proven", {"kv_cache_dtype": "fp8"})
    assert served_by["command"][-2:] == ["--kv-cache-dtype", "fp8"]
    log = (tmp_path / "trial" / "small" / "worker-1of1.log").read_text()
    assert "flags: --dtype" in log
    for line in log.splitlines():
        if line.startswith("processes:"):
            assert not any(Path(f"/proc/{number}").exists() for number in line.split()[1:])


@pytest.mark.parametrize("said", [{"eos_token_id": 2}, {}], ids=["another", "none but the tokenizer's"])
def test_folders_that_end_answers_at_other_tokens_are_refused(
    tiny_llama: Path, known: dict[str, Answers], tmp_path: Path, said: dict[str, int]
) -> None:
    """A server reads them from the model's folder, as the own engine does."""
    own = Path(shutil.copytree(tiny_llama, tmp_path / "own"))
    (own / "generation_config.json").unlink(missing_ok=True)
    whole = json.loads((own / "config.json").read_text())
    (own / "config.json").write_text(json.dumps({**whole, "eos_token_id": None, **said}))
    settings = settings_file(tmp_path / "settings.json", known["sound"])
    engine = {"name": "vllm", "command": [*STUB, "--settings", str(settings)]}
    data = config(own, engine, engine, execution={"control": False})
    data["candidates"][0]["model"] = str(shutil.copytree(tiny_llama, tmp_path / "other"))
    (tmp_path / "other" / "generation_config.json").write_text(json.dumps({"eos_token_id": [7, 9]}))
    assert call("run", written(data, tmp_path), "--output", tmp_path, "--quiet") == 4
    failure = json.loads((tmp_path / "trial" / "small" / "failure-1of1.json").read_text())
    assert "its answers end at the tokens [" in failure["message"]


def test_flags_that_are_not_under_test_must_be_equal(
    tiny_llama: Path, known: dict[str, Answers], tmp_path: Path
) -> None:
    """Unless the change of engine is the question, which the report then begins with."""
    settings = settings_file(tmp_path / "settings.json", known["sound"])
    engine = {"name": "vllm", "command": [*STUB, "--settings", str(settings)]}
    data = config(tiny_llama, engine, {"args": {"enforce_eager": True}}, execution={"control": False})
    assert call("run", written(data, tmp_path), "--output", tmp_path, "--quiet") == 4
    failure = json.loads((tmp_path / "trial" / "small" / "failure-1of1.json").read_text())
    assert "its flag enforce_eager is True and the baseline's None" in failure["message"]
    assert "execution.cross_engine: true" in failure["message"]
    shutil.rmtree(tmp_path / "trial")
    data["execution"]["cross_engine"] = True
    path = written(data, tmp_path)
    assert call("run", path, "--output", tmp_path, "--quiet", "--allow-identical") in {0, 3}
    verdict = json.loads((tmp_path / "trial" / "comparisons.json").read_text())
    assert any("compares engines" in one for one in verdict["warnings"])


def test_a_server_is_compared_with_the_own_engine_if_that_is_the_question(
    tiny_llama: Path, known: dict[str, Answers], tmp_path: Path
) -> None:
    """One side is loaded here, the other answers over the network: the verdict comes with a warning.

    The random model that is loaded is worse than the stub by far, and is said to have gone wrong.
    """
    with two(known) as (_, other):
        data = config(tiny_llama, "transformers", endpoint(other), execution={"control": False, "cross_engine": True})
        data["execution"]["divergence"] = True
        assert call("run", written(data, tmp_path), "--output", tmp_path, "--quiet") == 4
    verdict = json.loads((tmp_path / "trial" / "comparisons.json").read_text())
    assert any("full on transformers, small on openai" in one for one in verdict["warnings"])
    assert "a baseline gone wrong" in verdict["warnings"][0]


def test_a_changed_fingerprint_stops_the_run(tiny_llama: Path, known: dict[str, Answers], tmp_path: Path) -> None:
    """The candidate is not judged, with the reason."""
    with two(known, "new_fingerprint") as (one, other):
        data = config(tiny_llama, endpoint(one), endpoint(other), execution={"control": 0.25})
        assert call("run", written(data, tmp_path), "--output", tmp_path, "--quiet") == 4
    failure = json.loads((tmp_path / "trial" / "small" / "failure-1of1.json").read_text())
    assert "fingerprint changed" in failure["message"]


@pytest.mark.parametrize("fault", ["new_weights", "fallback"])
def test_other_weights_behind_the_same_name_stop_the_run(
    tiny_llama: Path, known: dict[str, Answers], tmp_path: Path, fault: str
) -> None:
    """In the middle of a run, and when it is continued: neither name nor fingerprint says so, a canary does."""
    with two(known, fault) as (one, other):
        data = config(tiny_llama, endpoint(one), endpoint(other), execution={"control": False})
        assert call("run", written(data, tmp_path), "--output", tmp_path, "--quiet") == 4
    failure = json.loads((tmp_path / "trial" / "small" / "failure-1of1.json").read_text())
    assert "for one and the same prompt changed during the run" in failure["message"]


def test_a_run_is_not_continued_by_other_weights(
    tiny_llama: Path, known: dict[str, Answers], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The endpoint was gone in the middle, and is back with another build under its name."""
    with two(known) as (one, other):
        data = config(tiny_llama, endpoint(one), endpoint(other), execution={"control": False})
        path = written(data, tmp_path)
        assert call("run", path, "--output", tmp_path, "--quiet") == 1
        for lost in ("manifest.json", "shards/1of1.json"):
            (tmp_path / "trial" / lost).unlink()
        answered = tmp_path / "trial" / "small" / "multi_hop_math-1of1.jsonl"
        answered.write_text("".join(answered.read_text(encoding="utf-8").splitlines(keepends=True)[:20]))
        other.faults.add("new_weights")
        capsys.readouterr()
        assert call("run", path, "--output", tmp_path, "--quiet") == 4
    assert "log-probabilities of this variant differ from those of the earlier answers" in capsys.readouterr().err


def test_what_cannot_work_is_said_before_anything_runs(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A key that is not there, choices for a server without log-probabilities, and two engines."""
    monkeypatch.delenv("NO_KEY", raising=False)
    address = {"name": "openai", "url": "https://models.example/v1", "model": "m", "api_key_env": "NO_KEY"}
    with pytest.raises(ConfigError, match="the environment has no NO_KEY"):
        run_plan.make_plan(parse(config(tiny_llama, address, {"model": "n"})), "trial.yaml")
    slices = [{"name": "typical", "items": 60, "margin": 0.1}]
    light = config(tiny_llama, "transformers-serve", {"args": {"quantization": "bnb-4bit"}}, slices=slices)
    with pytest.raises(ConfigError, match=r"'typical' weighs choices, and the server of full .* gives no log-prob"):
        run_plan.make_plan(parse(light), "trial.yaml")
    slices[0] |= {"options": {"as_text": True}, "tasks": ["quantcliff_facts"]}
    assert {item.kind for item in run_plan.make_plan(parse(light), "trial.yaml").items} == {"generate"}
    mixed = config(tiny_llama, "transformers", "vllm")
    with pytest.raises(NotComparable, match="full on transformers, small on vllm: another engine changes answers"):
        run_plan.make_plan(parse(mixed), "trial.yaml")
    mixed["execution"] |= {"cross_engine": True, "divergence": True}
    notes = " ".join(run_plan.make_plan(parse(mixed), "trial.yaml").notes)
    assert "compares engines" in notes
    assert "divergence is not measured" in notes
    assert call("plan", written(mixed, tmp_path)) == 0
    assert "small: answers come from vllm, 8 at a time" in " ".join(capsys.readouterr().out.split())


def test_an_lm_eval_model_is_an_engine(tiny_llama: Path, tmp_path: Path) -> None:
    """Any of lm_eval's model classes, in this process: here its `hf` on the CPU, against itself."""
    engine = {"name": "lm_eval", "model": "hf", "args": {"pretrained": str(tiny_llama), "device": "cpu"}}
    data = config(tiny_llama, engine, {"args": {"dtype": "float32"}}, execution={"control": False, "unit_items": 4})
    data["slices"][0] |= {"items": 4}
    data["policy"] = {"refuse_hopeless": False}
    assert call("run", written(data, tmp_path), "--output", tmp_path, "--quiet", "--allow-identical") in {0, 1, 3}
    directory = RunDir(tmp_path / "trial")
    assert len(list(directory.results("small", "multi_hop_math", Shard()))) == 4


def test_late_answers_are_gated_by_a_tolerance(tiny_llama: Path, known: dict[str, Answers], tmp_path: Path) -> None:
    """A candidate whose first tokens come late fails; without a tolerance its times are in the report alone."""
    policy = {"latency": {"slow_first_token": 0.25}, "tail_events": {"slow_first_token": 0.2}}
    with served(known["sound"], model="full") as one, served(known["sound"], "late", model="small") as other:
        engines = (endpoint(stub, stream=True, concurrency=16) for stub in (one, other))
        data = config(tiny_llama, *engines, execution={"control": False}, policy=policy)
        path = written(data, tmp_path)
        assert call("run", path, "--output", tmp_path, "--allow-identical") == 1
    assert "s to the first token, new prompt" in (tmp_path / "trial" / "report.md").read_text()
    found = json.loads((tmp_path / "trial" / "comparisons.json").read_text())["candidates"][0]["tail_events"]
    late = [one for one in found if one["kind"] == "slow_first_token"]
    assert [(one["verdict"], one["n"]) for one in late] == [("fail", 60)]
    (times,) = (tmp_path / "trial" / "small").glob("requests-*.log")
    lines = [json.loads(line) for line in times.read_text().splitlines()]
    times.write_text("".join(json.dumps(one | {"first": 0.01}) + "\n" for one in lines))
    with pytest.raises(NotComparable, match=r"small/requests-\*\.log: does not agree with manifest\.json"):
        load_run(RunDir(tmp_path / "trial"))
    plain = parse({**data, "policy": {}})
    assert "latency" not in plain.policy.model_dump()
    data["candidates"][0]["engine"]["stream"] = False
    with pytest.raises(ConfigError, match=r"policy\.latency needs stream: true"):
        run_plan.make_plan(parse(data), "trial.yaml")
