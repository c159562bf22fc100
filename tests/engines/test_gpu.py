"""The engine on a GPU: the CPU's answers by every way of asking, divergence 0 from itself, a whole run."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os

import commands
import conftest
import engine_models as tiny
import pytest
from lazily import lazy

from harness.records import ChoiceLogprobs, Settings

torch = lazy("torch")
divergence = lazy("harness.engines.transformers.divergence")
hf_engine = lazy("harness.engines.transformers.engine")

pytestmark = pytest.mark.gpu

SAMPLED = Settings(temperature=0.8, top_p=0.9, seed=3)
WAYS = {"greedy": Settings(), "sampled": SAMPLED}
FAMILIES = ("llama", "mistral", "gemma2", "mamba")


def engine(device, family="llama", dtype="float32", **options):
    """An engine round a copy of a tiny model on a device."""
    import copy

    model = copy.deepcopy(tiny.model(family, dtype=dtype)).to(device)
    return hf_engine.HFEngine(model, tiny.tokenizer(), tiny.proof(), device=device, max_batch=8, **options)


def answers(on, settings, items=None, observer=None):
    """The answers by item and sample."""
    items = items or [*tiny.choice_items(), *tiny.text_items()]
    return {(one.item_id, getattr(one, "sample", 0)): one for one in on.answer(items, settings, observer=observer)}


def assert_same(found, wanted, gap):
    """Texts are equal token for token, log-probabilities within a gap."""
    assert found.keys() == wanted.keys()
    for name, one in wanted.items():
        if isinstance(one, ChoiceLogprobs):
            assert found[name].logprobs == pytest.approx(one.logprobs, abs=gap)
        else:
            assert found[name].token_ids == one.token_ids, name


@pytest.mark.parametrize(("family", "way"), list(itertools.product(FAMILIES, WAYS)))
def test_answers_are_the_cpus(gpu_device, family, way):
    """In float32, for models with shared rows, with windows and with a state of their own; greedy and sampled."""
    assert_same(answers(engine(gpu_device, family), WAYS[way]), answers(engine("cpu", family), WAYS[way]), 1e-3)


def test_sixteen_bit_choices_are_near_the_cpus(gpu_device):
    """bfloat16 rounds otherwise in other kernels: by less than what the engine takes for noise, for each token."""
    found, wanted = (answers(engine(device, dtype="bfloat16"), Settings()) for device in (gpu_device, "cpu"))
    for name, one in wanted.items():
        if isinstance(one, ChoiceLogprobs):
            gaps = [
                abs(a - b) / n for a, b, n in zip(one.logprobs, found[name].logprobs, one.token_counts, strict=True)
            ]
            assert max(gaps) < 0.5


@pytest.mark.parametrize("way", WAYS)
def test_slots_branches_and_shared_rows_change_no_answer(gpu_device, way):
    """With all of them and without any."""
    plain = engine(gpu_device, optimizations=False)
    assert_same(answers(engine(gpu_device), WAYS[way]), answers(plain, WAYS[way]), 1e-3)


def test_drafts_change_no_answer(gpu_device):
    """Right and wrong drafts give what no draft gives."""
    items, own = tiny.text_items(), engine(gpu_device)
    wanted = {one.item_id: one for one in own.answer(items, Settings())}
    ids = {name: one.token_ids for name, one in wanted.items()}
    wrong = {name: tuple(reversed(one)) for name, one in ids.items()}
    for drafts in (ids, wrong):
        found = {one.item_id: one for one in own.answer(items, Settings(), drafts=drafts)}
        assert {name: one.token_ids for name, one in found.items()} == ids


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_divergence_from_itself_is_exactly_0(gpu_device, dtype):
    """The same passes sum in the same order: no noise at all, in any dtype."""
    recorder = divergence.Recorder()
    baseline, same = engine(gpu_device, dtype=dtype), engine(gpu_device, dtype=dtype)
    answers(baseline, Settings(), observer=recorder)
    comparer = divergence.Comparer(recorder.traces, baseline.head, same.head)
    answers(same, Settings(), observer=comparer)
    assert len(comparer.found) == len(recorder.traces) > 0
    assert {value for one in comparer.found.values() for value in one.kl} == {0.0}


def test_steps_as_graphs_give_the_answers_of_eager_steps(gpu_device):
    """Where the decode step is captured: the same answers with and without."""
    graphs, eager = engine(gpu_device), engine(gpu_device)
    if not getattr(graphs.context.model, "graphs", False):
        pytest.skip("this device captures no graphs")
    eager.context.model.graphs = False
    items = [dataclasses.replace(one, max_tokens=60) for one in tiny.text_items()]
    assert_same(answers(graphs, SAMPLED, items), answers(eager, SAMPLED, items), 0.0)
    assert not [note for note in graphs.usage().notes if "captured" in note or "graph" in note]


def test_a_run_of_two_variants_is_judged(gpu_device, tmp_path):
    """The whole runner: workers on the device, the control, divergence, and what is recorded of the device."""
    model, copied = (conftest.make_tiny_llama(tmp_path / name) for name in ("model", "copied"))
    config = {
        "name": "gpu",
        "baseline": {"name": "base", "model": str(model)},
        "candidates": [{"name": "same", "model": str(copied)}],
        "slices": [{"name": "typical", "tasks": ["quantcliff_facts"], "items": 4, "gating": False}],
        "execution": {"divergence": True, "unit_items": 4, "dtype": "float32"},
    }
    path = tmp_path / "gpu.yaml"
    path.write_text(json.dumps(config))  # JSON is YAML
    command = ("run", path, "--device", gpu_device, "--output", tmp_path / "runs", "--allow-identical", "-q")
    assert commands.call(*command) == 3  # nothing gates
    folder = next((tmp_path / "runs").glob("*/run.json")).parent
    cost = json.loads(next((folder / "same").glob("cost-*.json")).read_text())
    variant = json.loads((folder / "same" / "variant.json").read_text())
    if gpu_device.startswith("cuda"):
        assert cost["load_peak_bytes"] > 0
        assert cost["reserved_peak_bytes"] >= cost["peak_bytes"] > 0
        assert {"cuda", "cudnn", "attention"} <= variant["versions"].keys()
        assert "cudnn" not in variant["versions"]["attention"]
    comparison = json.loads((folder / "comparisons.json").read_text())
    assert os.environ.get("QUANTCLIFF_GPU_TESTS") or variant["device"] != "cpu"
    assert comparison["candidates"]
