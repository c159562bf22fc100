"""Asking an endpoint again what was gated: same, another variant of the run, drifted, unknown, gone."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import shutil
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import processes
import pytest
import scipy
import yaml
from commands import call
from paths import RESULTS
from stub_server import Answers, served

from harness.config.engines import EngineSpec
from harness.config.loading import parse
from harness.engines.server_probe import PROBE
from harness.errors import NotComparable, StoreError
from harness.records import Generation, Response, Unanswered
from harness.run import plan as run_plan
from harness.run.certificate import Question, agrees, calls_of, certify
from harness.run.verifying import ALPHA, THRESHOLD, Verification, choose_variant, count, judge_calls, verify
from harness.stats.monitoring import evidence, noise_limit, noise_rate
from harness.store.record import RunRecord, read_run
from harness.store.rundir import RunDir

pytestmark = pytest.mark.model


@pytest.fixture(scope="module", params=["demo-cpu", "tail-cpu"])
def committed(request: pytest.FixtureRequest) -> RunRecord:
    """A committed run of real models."""
    return read_run(RunDir(RESULTS / request.param))


def given(run: RunRecord, variant: str, *kinds: str) -> dict[str, Response]:
    """A variant's recorded answers, as if an endpoint gave them."""
    wanted = {item.id for item in run.items if item.kind in (kinds or ("generate", "choice"))}
    return {one.item_id: one.response for one in run.of(variant) if one.item_id in wanted}


def judged(run: RunRecord, variant: str, answers: dict[str, Response], before: int = 0) -> Verification:
    """What one call with these answers says, after so many in which all was the same."""
    certificate = certify(run, variant)
    quiet = dict.fromkeys((part.kind for part in certificate.parts), 0)
    return judge_calls(certificate, [*[quiet] * before, count(certificate, answers)], answers)


@pytest.mark.parametrize("variant", ["bf16", "int8", "nf4"])
@pytest.mark.parametrize("other", ["bf16", "int8", "nf4"])
def test_real_variants_are_told_apart_in_one_call(committed: RunRecord, variant: str, other: str) -> None:
    """On recorded answers of SmolLM2, each variant is itself and each other one is named, in about 300 tokens."""
    found = judged(committed, variant, given(committed, other))
    assert found.verdict == ("same" if other == variant else "other")
    assert found.looks_like == ("" if other == variant else other)
    texts = certify(committed, variant).parts[0].questions
    assert sum(min(one.item.max_tokens, len(one.answers[variant].token_ids)) for one in texts) <= 320  # type: ignore[union-attr]


def test_nf4_is_named_by_its_texts_alone(committed: RunRecord) -> None:
    """A server that cannot weigh choices is told apart by a few tokens of text; the control's own pass is the same."""
    found = judged(committed, "bf16", given(committed, "nf4", "generate"))
    assert (found.verdict, found.looks_like) == ("other", "nf4")
    assert [one.kind for one in found.parts] == ["generate"]
    again = {**given(committed, "bf16"), **given(committed, "control")}
    assert judged(committed, "bf16", again).verdict == "same"


def test_what_an_endpoint_refuses_does_not_differ(committed: RunRecord) -> None:
    """It says nothing of the weights; `verify` says so. What it answers can still show others."""
    certificate, choices = certify(committed, "bf16"), given(committed, "nf4", "choice")
    assert count(certificate, given(committed, "bf16", "choice")) == {"generate": 0, "choice": 0}
    assert judged(committed, "bf16", choices).verdict == "other"


def test_what_texts_alone_cannot_tell_is_said(committed: RunRecord) -> None:
    """int8 changes no more texts than noise may: the call passes, and says that it is no proof against int8."""
    found = judged(committed, "bf16", given(committed, "int8", "generate"))
    assert (found.verdict, found.reasons) == ("same", ("these questions do not tell it from int8",))
    assert judged(committed, "bf16", given(committed, "bf16")).reasons == ()


def test_a_change_after_a_year_is_named_at_once(committed: RunRecord) -> None:
    """365 quiet calls, and then the endpoint gives NF4's answers: the call is not a pass, and the next is an alarm."""
    found = judged(committed, "bf16", given(committed, "nf4"), before=365)
    assert found.exit_code != 0
    certificate, answers = certify(committed, "bf16"), given(committed, "nf4")
    quiet = dict.fromkeys((part.kind for part in certificate.parts), 0)
    found = judge_calls(certificate, [*[quiet] * 365, *[count(certificate, answers)] * 2], answers)
    assert (found.verdict, found.looks_like, found.calls) == ("other", "nf4", 367)
    assert found.evidence >= THRESHOLD


def test_the_first_word_of_each_answer_is_not_the_answer(committed: RunRecord) -> None:
    """An endpoint that cuts every answer at a limit of its own is not shown to serve the same weights."""
    own = given(committed, "int8", "generate")
    cut = {
        name: dataclasses.replace(one, text=one.text[:2], token_ids=one.token_ids[:1], finish="length")
        for name, one in own.items()
        if isinstance(one, Generation)
    }
    assert judged(committed, "int8", cut).verdict == "other"


def test_a_refusal_of_the_baseline_is_no_noise(committed: RunRecord) -> None:
    """One choice that the baseline's server refused and the control's did not: the other choices still count."""
    control = {one.item_id for one in committed.of("control") if one.item_id in given(committed, "bf16", "choice")}
    lost, refusal = min(control), Unanswered(min(control), "rejected", 9)
    files = committed.answers["bf16"].items()
    swapped = {
        name: tuple(dataclasses.replace(one, response=refusal) if one.item_id == lost else one for one in lines)
        for name, lines in files
    }
    refused = dataclasses.replace(committed, answers={**committed.answers, "bf16": swapped})
    for variant in ("int8", "bf16"):
        assert judged(refused, variant, given(committed, variant)).verdict == "same"
        assert judged(refused, variant, given(committed, "nf4")).verdict == "other"
        assert math.isfinite(certify(refused, variant).parts[1].tolerance)


def test_an_endpoint_that_no_longer_weighs_choices_is_not_the_same(committed: RunRecord) -> None:
    """The choices showed another model, and the next day there are texts alone, which cannot tell it."""
    certificate, texts = certify(committed, "bf16"), given(committed, "bf16", "generate")
    first, second = count(certificate, given(committed, "int8")), count(certificate, texts)
    assert judge_calls(certificate, [second, second], texts).verdict == "same"
    assert judge_calls(certificate, [first, second], texts).verdict == "inconclusive"


@pytest.mark.parametrize(
    "calls",
    [[{"time": "", "choice": float("nan")}], [{"time": "", "generate": "1"}], [{"time": "", "generate": -9}], 5],
)
def test_counts_that_no_call_left_are_refused(committed: RunRecord, tmp_path: Path, calls: object) -> None:
    """NaN among them made evidence that never reaches its bound."""
    path, certificate = tmp_path / "verify-int8.json", certify(committed, "int8")
    path.write_text(json.dumps({"certificate": certificate.digest(), "endpoints": {"here": calls}}), encoding="utf-8")
    with pytest.raises(StoreError, match="remove it to begin again"):
        calls_of(path, certificate, "here")


def test_calls_at_the_same_time_are_all_kept(committed: RunRecord, tmp_path: Path) -> None:
    """Each adds its counts to those that are there: one that ends in between must not be overwritten."""
    path, certificate = tmp_path / "verify-int8.json", certify(committed, "int8")
    with ThreadPoolExecutor(8) as pool:
        made = [{"time": str(at), "choice": 0} for at in range(40)]
        list(pool.map(lambda one: calls_of(path, certificate, f"at {int(one['time']) % 2}", one), made))
    kept = [one for name in ("at 0", "at 1") for one in calls_of(path, certificate, name)]
    assert sorted(int(one["time"]) for one in kept) == list(range(40))


def test_a_drift_is_told_from_another_model(committed: RunRecord) -> None:
    """As many differing items as noise may explain, but beyond its rate day after day for a part of them."""
    certificate = certify(committed, "bf16")
    limits = {one.kind: one.limit for one in judged(committed, "bf16", given(committed, "bf16")).parts}
    beyond = [{kind: limit + 2 for kind, limit in limits.items()}] * 60
    calls = [dict.fromkeys(limits, 0), *beyond, dict(limits)]
    found = judge_calls(certificate, calls, given(committed, "bf16"))
    assert (found.verdict, found.exit_code) == ("drifted", 1)
    assert judge_calls(certificate, calls[:3], given(committed, "bf16")).verdict == "inconclusive"


def test_a_certificate_does_not_depend_on_what_is_random(committed: RunRecord) -> None:
    """The same run gives the same questions, and each has the variant's own answer."""
    certificate = certify(committed, "nf4")
    assert certificate.digest() == certify(read_run(committed.directory), "nf4").digest()
    assert all("nf4" in one.answers for part in certificate.parts for one in part.questions)
    assert "control" not in {name for part in certificate.parts for one in part.questions for name in one.answers}


def config(model: Path, *urls: str, **changes: Any) -> dict[str, Any]:
    """A run of two endpoints with a control."""
    engines = [{"name": "openai", "url": url, "model": "stub", "retry_seconds": 3} for url in urls]
    return {
        "name": "trial",
        "baseline": {"name": "full", "model": str(model), "engine": engines[0]},
        "candidates": [{"name": "small", "engine": engines[1]}],
        "slices": [{"name": "multi_hop_math", "axes": {"hops": [1]}, "items": 60, "margin": 0.1}],
        "execution": {"device": "cpu", "unit_items": 10, "control": 1.0},
        "sampling": {"chat_template": False},
        **changes,
    }


def known(model: Path, words: str, **changes: Any) -> Answers:
    """What a stub knows: the right answers in other words, or with every third one lost."""
    from transformers import AutoTokenizer

    from harness.engines.server_probe import PromptEncoder

    address = ("http://localhost:1/v1", "http://localhost:2/v1")
    plan = run_plan.make_plan(parse(config(model, *address, **changes)), "trial.yaml")
    talk, made = PromptEncoder(AutoTokenizer.from_pretrained(model)), Answers()
    made.add(talk.prompt(PROBE), PROBE, " eight", talk.encode(" eight"))
    for number, item in enumerate(plan.items):
        text = words.format(target=item.target if number % 3 or "lost" not in words else "-1").replace("lost", "")
        made.add(talk.prompt(item.prompt), item.prompt, text, talk.encode(text))
    return made


RIGHT, LOSSY, FOREIGN = " Answer: {target}", " lostAnswer: {target}", " I cannot say {target}"


@pytest.fixture(scope="module")
def finished(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two stubs, of which the candidate's is lossy."""
    folder = tmp_path_factory.mktemp("verify")
    with served(known(tiny_llama, RIGHT)) as one, served(known(tiny_llama, LOSSY)) as other:
        (folder / "trial.yaml").write_text(yaml.safe_dump(config(tiny_llama, one.url, other.url)), encoding="utf-8")
        assert call("run", folder / "trial.yaml", "--output", folder, "--quiet") == 1
    return folder / "trial"


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy of the run, to which calls are added."""
    return Path(shutil.copytree(finished, tmp_path / "trial"))


def verified(run: Path, url: str, capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    """What the command says as JSON; its exit code is in it."""
    capsys.readouterr()
    code = call("verify", run, "--url", url, "--retry-seconds", "0.2", "--json", *words)
    found = json.loads(capsys.readouterr().out)
    assert found["exit_code"] == code
    return dict(found)


def test_an_endpoint_is_same_or_named(run: Path, tiny_llama: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The gated one passes day after day; the baseline in its place is named, and a stranger is none of the run."""
    before = (run / "comparisons.json").read_bytes()
    with served(known(tiny_llama, LOSSY)) as stub:
        found = [verified(run, stub.url, capsys) for _ in range(3)]
        assert sum(one["max_tokens"] for one in stub.asked) <= 3 * 400
    assert [(one["verdict"], one["exit_code"], one["calls"]) for one in found] == [("same", 0, n) for n in (1, 2, 3)]
    with served(known(tiny_llama, RIGHT)) as stub:
        found = [verified(run, stub.url, capsys)]
        named = call("verify", run, "--url", stub.url, "--candidate", "full")
    assert (found[0]["verdict"], found[0]["exit_code"], found[0]["looks_like"]) == ("other", 1, "full")
    assert found[0]["calls"] == 1  # another endpoint has its own calls
    assert named == 0
    with served(known(tiny_llama, FOREIGN)) as stub:
        assert call("verify", run, "--url", stub.url) == 1
    said = capsys.readouterr().out
    assert "other; its answers are those of no other variant of this run" in said
    assert "false alarm over all calls, on the run's engine: at most 1%" in said
    assert call("compare", run, "--quiet") == 1
    assert (run / "comparisons.json").read_bytes() == before


def test_a_first_call_to_a_server_that_weighs_no_choices_is_not_the_same(
    tiny_llama: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The server of the run did: what told its builds apart cannot be asked here, and texts may not tell them."""
    slices = [
        {"name": "multi_hop_math", "axes": {"hops": [1]}, "items": 60, "margin": 0.1},
        {"name": "typical", "tasks": ["quantcliff_facts"], "items": 30, "gating": False},
    ]
    answers = known(tiny_llama, RIGHT, slices=slices)
    with served(answers) as other, served(answers) as stub:
        data = config(tiny_llama, other.url, stub.url, slices=slices)
        (tmp_path / "trial.yaml").write_text(yaml.safe_dump(data), encoding="utf-8")
        call("run", tmp_path / "trial.yaml", "--output", tmp_path, "--quiet", "--allow-identical")
        found = verified(tmp_path / "trial", stub.url, capsys)
        assert (found["verdict"], [one["kind"] for one in found["parts"]]) == ("same", ["generate", "choice"])
    with served(answers, "no_prompt_logprobs", "ignores_echo") as stub:
        found = verified(tmp_path / "trial", stub.url, capsys)
    assert (found["verdict"], found["exit_code"], found["calls"]) == ("inconclusive", 3, 1)
    assert found["reasons"][0].startswith("it weighs no choices, and the server of the run did")


def test_a_server_that_is_gone_exits_with_4(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No verdict, no call in the file."""
    with served() as stub:
        url = stub.url
    assert call("verify", run, "--url", url, "--retry-seconds", "0.2") == 4
    said = capsys.readouterr().err
    assert f"nothing was verified: {url} gave no answer" in said
    assert said.endswith(": is the server up at that address?\n")
    assert "finished work" not in said
    assert not (run / "verify-small.json").exists()


def test_a_server_that_refuses_every_question_is_no_other_model(
    run: Path, tiny_llama: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing was compared: exit code 3, and no call in the file."""
    with served(known(tiny_llama, LOSSY), "picky") as stub:
        found = verified(run, stub.url, capsys)
    assert (found["verdict"], found["exit_code"]) == ("inconclusive", 3)
    assert "answers none of the questions" in found["reasons"][0]
    assert not (run / "verify-small.json").exists()


def test_a_server_of_a_shorter_context_is_not_the_same(
    run: Path, tiny_llama: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It refuses no more of the questions than noise may change, and noise refuses none."""
    certificate = certify(read_run(RunDir(run)), "small")
    dear = certificate.parts[0].questions[0].item.prompt
    with served(known(tiny_llama, LOSSY)) as stub:
        (ids,) = (key for key, one in stub.answers.by_ids.items() if one["prompt"] == dear and key != dear)
        stub.too_long = {dear, ids}
        found = verified(run, stub.url, capsys)
    assert (found["verdict"], found["exit_code"], found["parts"][0]["differ"]) == ("inconclusive", 3, 0)
    assert "1 items refused or too long" in found["reasons"][0]
    assert not (run / "verify-small.json").exists()


def test_questions_that_are_refused_for_a_day_say_nothing_of_the_weights(
    run: Path, tiny_llama: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Most of them: no other model, and nothing is held against the next day; another model is seen by the rest."""
    certificate = certify(read_run(RunDir(run)), "small")
    prompts = {one.item.prompt for part in certificate.parts for one in part.questions}
    for answers, share, verdict in ((LOSSY, 2, "inconclusive"), (RIGHT, 10, "other")):
        with served(known(tiny_llama, answers)) as stub:
            asked = {key: one["prompt"] for key, one in stub.answers.by_ids.items() if one["prompt"] in prompts}
            refused = sorted(set(asked.values()))[: len(prompts) // share]
            stub.too_long = {*refused, *(key for key, prompt in asked.items() if prompt in refused)}
            found = verified(run, stub.url, capsys)
        assert found["verdict"] == verdict
        assert (run / "verify-small.json").exists() == (verdict == "other")


def test_a_server_too_short_for_what_the_gate_counted_is_not_the_same(run: Path, tiny_llama: Path) -> None:
    """It answers what it is asked again, of which no prompt is long; one of the run was longer than its limit."""
    record = read_run(RunDir(run))
    ((name, (first, *lines)),) = record.answers["small"].items()
    long = dataclasses.replace(first, response=dataclasses.replace(first.response, prompt_tokens=5000))
    grown = dataclasses.replace(record, answers={**record.answers, "small": {name: (long, *lines)}})
    with served(known(tiny_llama, LOSSY)) as stub:
        found = verify(grown, "small", EngineSpec(name="openai", url=stub.url, model="stub"))
    assert (found.verdict, found.reasons) == ("inconclusive", ("1 items refused or too long",))
    assert found.parts[0].differ == 0


def test_the_only_candidate_without_answers_is_not_asked(run: Path) -> None:
    """Named or not, it ends in 4."""
    record = read_run(RunDir(run))
    for name in (None, "small"):
        with pytest.raises(NotComparable, match="small has no answers"):
            choose_variant(dataclasses.replace(record, failures={"small": ("it broke",)}), name)


def test_another_template_is_named(run: Path, tiny_llama: Path) -> None:
    """The server counts other tokens in every prompt than the gated one did: no question of noise."""
    record = read_run(RunDir(run))
    identity = json.loads(json.dumps(record.identities["small"]))
    identity["proof"]["served"] |= {"prompt_offset": 9, "version": "1.0"}
    record = dataclasses.replace(record, identities={"small": identity})
    with served(known(tiny_llama, LOSSY)) as stub:
        found = verify(record, "small", EngineSpec(name="openai", url=stub.url, model="stub"))
    assert (found.verdict, found.exit_code) == ("other", 1)
    assert "another template" in found.reasons[0]
    assert found.reasons[1] == "its server's version was 1.0 and is 1.2.3"


def test_calls_survive_a_kill(run: Path, tiny_llama: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A call that is killed while it asks leaves the counts of the calls before it."""
    with served(known(tiny_llama, LOSSY)) as stub:
        assert verified(run, stub.url, capsys)["calls"] == 1
        before, asked = (run / "verify-small.json").read_bytes(), len(stub.asked)
        stub.faults.add("slow")
        process = processes.start(["verify", run, "--url", stub.url], run.parent / "said")
        while process.exitcode is None and len(stub.asked) < asked + 3:
            time.sleep(0.005)
        assert process.exitcode is None, (run.parent / "said").read_text()
        os.killpg(process.pid, signal.SIGKILL)
        process.join()
        assert (run / "verify-small.json").read_bytes() == before
        stub.faults.clear()
        assert verified(run, stub.url, capsys)["calls"] == 2
    assert "Answer" not in (run / "verify-small.json").read_text()


def test_a_run_without_texts_or_control_says_why(
    tiny_llama: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 3 and the reason, before a server is asked."""
    for name, changes, words in (
        ("texts", {"store_text": "none"}, "store_text: none"),
        ("control", {"execution": {"device": "cpu", "control": False}}, "no A/A control"),
    ):
        with served(known(tiny_llama, RIGHT)) as one, served(known(tiny_llama, LOSSY)) as other:
            data = config(tiny_llama, one.url, other.url, **changes)
            (tmp_path / "trial.yaml").write_text(yaml.safe_dump(data), encoding="utf-8")
            assert call("run", tmp_path / "trial.yaml", "--output", tmp_path / name, "--quiet") == 1
        found = verified(tmp_path / name / "trial", one.url, capsys)
        assert (found["verdict"], found["exit_code"]) == ("inconclusive", 3)
        assert words in found["reasons"][0]


def test_wrong_usage_exits_with_2(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A name that is no variant, a key that is not there, an address that is none, a rehearsal."""
    url = "http://localhost:1/v1"
    assert call("verify", run, "--url", url, "--candidate", "large") == 2
    assert "full, small" in capsys.readouterr().err
    assert call("verify", run, "--url", url, "--api-key-env", "NO_SUCH_KEY") == 2
    assert call("verify", run, "--url", "http://example.com/v1") == 2
    assert "TLS" in capsys.readouterr().err
    assert call("verify", RESULTS / "demo-cpu", "--url", url, "--candidate", "nf4") == 2
    assert "--model" in capsys.readouterr().err


@pytest.mark.parametrize("frozen", [0.0, 1.0], ids=["fresh", "frozen"])
def test_a_thousand_days_of_recorded_noise_raise_no_more_alarms_than_stated(frozen: float) -> None:
    """What real batching changed, at random among a certificate's questions and its control, for 400 endpoints.

    Frozen: the same items differ every day, as on another machine; fresh: each of them every other day.
    """
    run, rng, endpoints = read_run(RunDir(RESULTS / "tail-cpu")), np.random.default_rng(11), 400
    texts = certify(run, "bf16").parts[0]
    answers = {name: {one.item_id: one.response for one in run.of(name)} for name in run.answers}
    control = answers.pop("control")
    pool = [
        Question(item, {name: given[item.id] for name, given in answers.items()})
        for item in run.items
        if isinstance(control[item.id], Generation)
        and len({given[item.id].token_ids for given in answers.values()}) > 1
    ]
    differs = np.array([not agrees(one, one.answers["bf16"], control[one.item.id]) for one in pool])
    asked, level = len(texts.questions), ALPHA / 2 / 2
    assert differs.sum() > 50
    assert 2 * asked < len(pool)
    drawn = np.array([differs[rng.permutation(len(pool))[: 2 * asked]] for _ in range(endpoints)])
    flips, changed = drawn[:, :asked].sum(axis=1), drawn[:, asked:].sum(axis=1)
    still = np.rint(frozen * changed).astype(int)[:, None]
    days = still + rng.binomial(changed[:, None] - still, 0.5, (endpoints, 1000))
    alarms = 0
    for own in np.unique(flips):
        found = evidence(days[flips == own], asked, noise_rate(int(own), asked, asked, level)).max(axis=1)
        beyond = days[flips == own][:, 0] > noise_limit(int(own), asked, asked, level)
        alarms += int((beyond | (found >= 2 * THRESHOLD - 1)).sum())
    print(f"\n{frozen=}: {alarms} of {endpoints} endpoints, {differs.mean():.0%} of {len(pool)} questions noisy")
    assert alarms <= scipy.stats.binom.ppf(0.999, endpoints, ALPHA)
