"""What becomes of a search: the items and variants of its proof, the candidate for a config, the exit code."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from paths import RESULTS

from harness.config.fields import Layers
from harness.config.loading import parse
from harness.damage import commands
from harness.errors import ExitCode, NotComparable
from harness.judge import judging
from harness.report.damage import sentences, write_page
from harness.run import plan as run_plan
from harness.run import runner
from harness.run.progress import Reporter
from harness.store.erasing import erase
from harness.store.record import RunRecord
from harness.store.rundir import RunDir, Shard
from harness.store.whole import load_run

LINEAR = [
    f"model.layers.{layer}.{place}"
    for layer in range(2)
    for place in ("self_attn.q_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj")
]
SUMMARY: dict[str, Any] = json.loads((RESULTS / "damage" / "damage-nf4.json").read_text("utf-8"))


def line(at: int) -> dict[str, Any]:
    """A line of traffic with two choices."""
    choices = ["river stone", "green cloud"]
    return {
        "id": f"q{at}",
        "prompt": f"Which of the two, {at}?",
        "scorer": "choice",
        "choices": choices,
        "target": choices[at % 2],
    }


@pytest.fixture(scope="module")
def damaged(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> RunRecord:
    """A run over 60 of 90 lines of traffic whose answers are made up; NF4 loses half. Its models are at hand."""
    folder = tmp_path_factory.mktemp("damaged")
    file = folder / "traffic.jsonl"
    file.write_text("".join(f"{json.dumps(line(at))}\n" for at in range(90)), "utf-8")
    config = {
        "name": "own",
        "baseline": {"name": "bf16", "model": str(tiny_llama)},
        "candidates": [{"name": "nf4", "quantization": "bnb-nf4"}],
        "slices": [{"name": "traffic", "options": {"file": str(file)}, "split_by": [], "items": 60, "margin": 0.2}],
        "policy": {"inconclusive": "fail"},
        "execution": {
            "control": False,
            "device": "cpu",
            "divergence": False,
            "rehearsal": {"accuracy": 0.95, "lost": {"nf4/traffic": 0.5}},
        },
    }
    directory = RunDir(folder / "own")
    runner.run(run_plan.make_plan(parse(config), "own.yaml"), directory, Shard(), Reporter())
    return load_run(directory)


def real(run: RunRecord, **execution: Any) -> RunRecord:
    """The run as if its models had answered, with changes of its execution."""
    changes = {"execution": run.experiment.execution.model_copy(update={"rehearsal": None, **execution})}
    return dataclasses.replace(run, experiment=run.experiment.model_copy(update=changes))


def test_what_was_erased_was_asked_and_is_not_asked_again(damaged):
    """An item without texts is known by its digest: it is not held out, and its texts do not come back."""
    nf4 = damaged.experiment.candidates[0]
    summary = {"candidate": "nf4", "strata": ["traffic/all"]}
    before, seen = commands.held_out(damaged, summary, [nf4])
    erase(damaged.directory, damaged.items[:40])
    run = load_run(damaged.directory)
    after, seen_after = commands.held_out(run, summary, [nf4])
    assert (after.items, seen_after) == (before.items, seen)
    assert not {one.id for one in after.items} & {one.id for one in run.items}


def test_held_out_items_are_asked_in_full(damaged):
    """Layers choose among answers that the search did not see; of strata of texts there are none to choose from."""
    run = real(damaged, layers=Layers(unsure=0.3, sure_share=0.5))
    plan, _ = commands.held_out(run, {"candidate": "nf4", "strata": ["traffic/all"]}, run.experiment.candidates)
    assert plan.experiment.execution.layers is None


def test_what_cannot_be_proved_is_refused_before_the_search(damaged):
    """Where every question was in the run, `repair` says so at once, and not after an hour."""
    more, _ = commands.held_out(damaged, {"candidate": "nf4", "strata": ["traffic/all"]}, damaged.experiment.candidates)
    run = dataclasses.replace(real(damaged), items=(*damaged.items, *more.items))
    how: dict[str, Any] = {"share": 0.1, "minutes": 1, "say": pytest.fail, "proof": True}
    with pytest.raises(NotComparable, match="none that the search never saw"):
        commands.localize(run, judging.judge(damaged), "nf4", **how)


def test_a_repair_goes_into_a_config_and_each_set_has_a_proof(damaged):
    """Most weights may be restored, an undecided verdict is the policy's, and other modules are proved next to it."""
    run, judgement, codes = real(damaged), judging.judge(damaged), []
    kept = {path.name for path in run.directory.path.iterdir()}
    for modules in (LINEAR, LINEAR[:1]):
        sets = {"repaired": modules, "by-divergence": modules, "random": LINEAR[-1:]}
        summary, code = commands.repair(
            run,
            judgement,
            SUMMARY | {"candidate": "nf4", "strata": ["traffic/all"], "sets": sets},
            Reporter(),
            command="",
            bits=None,
        )
        rows = {one["name"]: one for one in summary["held_out"]["variants"]}
        assert list(rows) == ["nf4", "nf4-repaired", "nf4-random"]
        assert rows["nf4-repaired"]["more"] > 0
        codes.append((rows["nf4-repaired"]["verdict"], code))
        entry = yaml.safe_load((run.directory.path / "repair-nf4.yaml").read_text("utf-8"))["candidates"][0]
        assert entry["quantization"]["skip_modules"] == modules
    assert codes == [("no_signal", ExitCode.FAIL)] * 2
    made = {path.name for path in run.directory.path.iterdir() if path.is_dir()} - kept
    assert "repair-nf4" in made
    assert len(made) == 2


@pytest.mark.parametrize("baseline", [{}, {"revision": "a" * 40}, {"trust_remote_code": True}])
@pytest.mark.parametrize("own", [{}, {"model": "other"}, {"revision": "b" * 40}, {"trust_remote_code": False}])
def test_the_candidate_for_a_config_has_its_own_weights(baseline, own):
    """Put beside the run's baseline, it is the variant that was proved: of its model, revision and trust."""
    data = {"name": "r", "slices": [{"name": "typical"}], "baseline": {"name": "b", "model": "m", **baseline}}
    run = parse(data | {"candidates": [{"name": "c", "quantization": "bnb-nf4", **own}]})
    cure = commands.skipping(run.candidates[0], "repaired", ["lm_head"])
    entry = commands._entry(cure, run.baseline)
    assert parse(data | {"candidates": [entry]}).candidates == (cure,)
    weights = [(one.model, one.revision, one.trust_remote_code) for one in (cure, run.baseline)]
    assert ("model" in entry) == (weights[0] != weights[1])


@pytest.fixture(scope="module")
def proved() -> RunRecord:
    """The committed demo run as a proof: INT8 is the chosen set, and a set that did not fit into memory follows."""
    demo = load_run(RunDir(RESULTS / "demo-cpu"))
    int8, nf4 = demo.experiment.candidates
    variants = [nf4, int8.model_copy(update={"name": "nf4-repaired"}), nf4.model_copy(update={"name": "nf4-random"})]
    return dataclasses.replace(
        demo,
        experiment=demo.experiment.model_copy(update={"candidates": tuple(variants)}),
        answers={**demo.answers, "nf4-repaired": demo.answers["int8"], "nf4-random": {}},
        identities={**demo.identities, "nf4-repaired": demo.identities["int8"]},
        failures={"nf4-random": ("out of memory: 3 GiB",)},
    )


def test_a_variant_of_the_proof_that_was_not_judged_has_no_figures(proved, tmp_path):
    """The figures of the others stand, on the page and in sentences, and the reason is beside them."""
    held = commands._held_out(proved, judging.judge(proved), "nf4", 0)
    rows = {one["name"]: one for one in held["variants"]}
    assert rows["nf4-random"] == {"name": "nf4-random", "verdict": "not_judged", "reason": "out of memory: 3 GiB"}
    assert rows["nf4-repaired"]["won"] > 20
    summary = SUMMARY | {"held_out": held | {"module_bits": None}}
    assert "Random modules, of the same bytes, could not be judged: out of memory: 3 GiB" in sentences(summary)
    write_page(tmp_path / "page.html", summary)
    assert "not judged" in (tmp_path / "page.html").read_text("utf-8")
    small = [{**rows["nf4-random"], "name": "nf4-repaired-8bit"}, *held["variants"]]
    said = sentences(SUMMARY | {"held_out": held | {"module_bits": 8, "variants": small}})
    assert "The same modules at 8 bits could not be judged: out of memory: 3 GiB" in said


def test_a_chosen_set_that_was_not_judged_ends_with_its_reason(proved):
    """Without it there is nothing to compare the others with."""
    failures = {"nf4-repaired": ("out of memory",)}
    run = dataclasses.replace(
        proved, failures=failures, answers={**proved.answers, "nf4-random": proved.answers["nf4"]}
    )
    run.identities["nf4-random"] = run.identities["nf4"]
    with pytest.raises(NotComparable, match="nf4-repaired was not judged: out of memory"):
        commands._held_out(run, judging.judge(run), "nf4", 0)


def test_answers_without_tokens_are_not_searched():
    """A run that stores redacted answers keeps no tokens of them, also where its items are whole."""
    run = load_run(RunDir(RESULTS / "demo-cpu"))
    _, places = commands.lost_variant(run, judging.judge(run), "nf4")
    redacted = dataclasses.replace(run, experiment=run.experiment.model_copy(update={"store_text": "redacted"}))
    with pytest.raises(NotComparable, match="cannot be asked again"):
        commands.chosen_items(redacted, "nf4", places)
