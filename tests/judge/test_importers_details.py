"""Results of NeMo Evaluator and details of lighteval become outcomes and verdicts."""

from __future__ import annotations

import json

import pyarrow as pa
import pytest
from making import stratum
from pyarrow import parquet

from harness.errors import NotComparable, UsageError
from harness.judge.imported import judge_imported
from harness.judge.importers import ImportOptions, format_of, load

FLAGS = "item score strata cluster slice prompt weight chance metric filter repeats margin alpha"
NOTHING = dict.fromkeys(FLAGS.split()) | {"allow_unmatched": 0.01}


def _nel(folder, rewards, repeats=1):
    """What `nel eval` writes (engine/artifacts.py of 0.3.0)."""
    place = folder / "gsm8k"
    place.mkdir(parents=True)
    scores = {"mean_reward": {"value": sum(rewards) / len(rewards)}}
    (place / "eval-20261126T120000Z-gsm8k.json").write_text(
        json.dumps({"run_id": "x", "benchmark": {"name": "gsm8k", "repeats": repeats, "scores": scores}})
    )
    lines = [
        {"problem_idx": at, "repeat": repeat, "reward": reward if repeat == 0 else 0.0, "prompt": f"What is {at}?",
         "expected_answer": str(at), "model_response": f"{reward}", "metadata": {"category": "ab"[at % 2]}}
        for at, reward in enumerate(rewards) for repeat in range(repeats)
    ]  # fmt: skip
    (place / "results.jsonl").write_text("".join(json.dumps(one) + "\n" for one in lines))
    return folder


def _lighteval(folder, scores, metric="extractive_match"):
    """What lighteval writes with --save-details."""
    place = folder / "details" / "m" / "2026-11-26T12-00-00.000000"
    place.mkdir(parents=True)
    rows = [
        {"doc": {"query": f"What is {at}?", "choices": [str(at)], "id": str(at), "specific": {"hops": at % 2}},
         "model_response": {"text": [f"{one}"]}, "metric": {metric: one, "length": 3.0}}
        for at, one in enumerate(scores)
    ]  # fmt: skip
    file = place / "details_lighteval|gsm8k|0_2026-11-26T12-00-00.000000.parquet"
    parquet.write_table(pa.Table.from_pylist(rows), file)
    return folder


def test_results_of_nel_are_items_by_benchmark(tmp_path):
    """A reward per problem, strata from the metadata, repeats averaged, and a verdict at the end."""
    base = _nel(tmp_path / "base", [1.0] * 200)
    assert format_of(base) == "nel"
    assert load(base, ImportOptions(strata=("category",))).items[:2] == ("gsm8k/0", "gsm8k/1")
    assert set(load(_nel(tmp_path / "twice", [1.0] * 4, repeats=2)).score) == {0.5}
    worse = _nel(tmp_path / "worse", [float(at % 2 == 0) for at in range(200)])
    found = judge_imported(base, [f"int4={worse}"], NOTHING | {"strata": ("category",), "margin": 0.05})
    assert stratum(found, "gsm8k/category=a").verdict == "pass"
    assert stratum(found, "gsm8k/category=b").verdict == "fail"
    with pytest.raises(NotComparable, match="there is nothing to compare"):
        judge_imported(base, [str(_nel(tmp_path / "again", [1.0] * 200))], NOTHING)
    with pytest.raises(UsageError, match="holds gsm8k twice"):
        load(tmp_path)


def test_details_of_lighteval_are_items_by_task(tmp_path):
    """The metric among several that is a score; strata from the document; the newest of two files."""
    base, worse = (_lighteval(tmp_path / n, s) for n, s in (("a", [1.0] * 200), ("b", [0.0] * 100 + [1.0] * 100)))
    assert format_of(base) == "lighteval"
    found = load(base, ImportOptions(strata=("specific.hops",)))
    assert found.measure == {"lighteval|gsm8k|0": "extractive_match"}
    assert found.stratum.names == ("hops=0", "hops=1")
    judged = judge_imported(base, [f"int4={worse}"], NOTHING | {"margin": 0.05})
    assert stratum(judged, "lighteval|gsm8k|0/all").lost == 100
    assert judged.verdict == "fail"
    (file,) = base.rglob("*.parquet")
    assert format_of(file) == "lighteval"
    assert format_of(file, ImportOptions(item="doc.id", score="metric.length")) == "table"


def test_a_metric_that_no_one_knows_is_asked_for(tmp_path):
    """Two unknown metrics: the message lists them, and --metric settles it."""
    base = _lighteval(tmp_path / "a", [1.0] * 4, metric="my_score")
    with pytest.raises(UsageError, match=r"which metric is the score\? .* one of length, my_score"):
        load(base)
    assert load(base, ImportOptions(metric="my_score")).score.tolist() == [1.0] * 4
