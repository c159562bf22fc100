"""Results of NeMo Evaluator and details of lighteval become outcomes and verdicts."""

from __future__ import annotations

import json
import math
from contextlib import nullcontext
from pathlib import Path

import pyarrow as pa
import pytest
from making import stratum
from pyarrow import parquet
from written import compared

from harness.errors import NotComparable, UsageError
from harness.judge.imported import judge_imported
from harness.judge.importers import ImportOptions, format_of, load
from harness.judge.outcomes import pair

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
        {
            "problem_idx": at,
            "repeat": repeat,
            "reward": reward if repeat == 0 else 0.0,
            "prompt": f"What is {at}?",
            "expected_answer": str(at),
            "model_response": f"{reward}",
            "metadata": {"category": "ab"[at % 2]},
        }
        for at, reward in enumerate(rewards)
        for repeat in range(repeats)
    ]
    (place / "results.jsonl").write_text("".join(json.dumps(one) + "\n" for one in lines))
    return folder


def _lighteval(folder, scores, metric="extractive_match"):
    """What lighteval writes with --save-details."""
    place = folder / "details" / "m" / "2026-11-26T12-00-00.000000"
    place.mkdir(parents=True)
    rows = [
        {
            "doc": {"query": f"What is {at}?", "choices": [str(at)], "id": str(at), "specific": {"hops": at % 2}},
            "model_response": {"text": [f"{one}"]},
            "metric": {metric: one, "length": 3.0},
        }
        for at, one in enumerate(scores)
    ]
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


def test_repeats_of_nel_that_are_not_there_do_not_count_as_right(tmp_path):
    """An item that lacks one of four repeats is unanswered; the summary or another item says how many there were."""
    folder = _nel(tmp_path, [1.0] * 4, repeats=4)
    file = folder / "gsm8k" / "results.jsonl"
    lines = file.read_text().splitlines()
    file.write_text("\n".join(lines[::4]))
    assert all(map(math.isnan, load(folder).score))
    file.write_text("\n".join(lines[1:]))
    assert [math.isnan(one) for one in load(folder).score] == [True, False, False, False]
    file.write_text("\n".join([*lines[:5], *lines[8::4]]))
    assert [one for one in load(folder).score if not math.isnan(one)] == [0.25]


@pytest.mark.parametrize(
    "changed",
    [
        {"generation_size": 8},
        {"stop_sequences": ["."]},
        {"instruction": "Be brief."},
        {"system_prompt": "Be brief."},
        {"fewshot_samples": [{"query": "What is 1?"}]},  # SGLang's details have no text of the input
        {"input": "<|user|>"},
    ],
)
def test_details_of_lighteval_asked_with_other_settings_do_not_match(tmp_path, changed):
    """A baseline that was cut short, or told something else, or by another template, is no measure of a candidate."""
    sides = []
    for name, more in (("a", {}), ("b", {}), ("c", changed)):
        folder = _lighteval(tmp_path / name, [1.0] * 9)
        (file,) = folder.rglob("*.parquet")
        rows = parquet.read_table(file, partitioning=None).to_pylist()
        for row in rows:
            row["model_response"]["input"] = more.get("input", "")
            told = {key: one for key, one in more.items() if key != "input"}
            row["doc"] |= {"generation_size": 256, "stop_sequences": ["\n"], "instruction": ""} | told
        parquet.write_table(pa.Table.from_pylist(rows), file)
        sides.append(load(folder))
    assert len(pair(sides[0], sides[1], 0.0).baseline) == 9
    with pytest.raises(NotComparable, match="asked differently"):
        pair(sides[0], sides[2], 0.0)


def _results(folder, **config):
    """What lighteval writes beside the details, given or not."""
    (file,) = folder.rglob("details_*.parquet")
    place = folder / "results" / "m"
    place.mkdir(parents=True)
    name = file.name.rpartition("_")[2].replace("parquet", "json")
    (place / f"results_{name}").write_text(json.dumps({"config_general": config}))
    return folder


GREEDY = {"temperature": 0.0, "max_new_tokens": 256, "seed": 1, "top_p": None}


@pytest.mark.parametrize(
    ("told", "differs"),
    [
        ({"model_config": {"model_name": "m", "dtype": "int4", "generation_parameters": GREEDY | {"seed": 2}}}, ""),
        ({"generation_parameters": GREEDY}, ""),
        ({"model_name": "m"}, ""),
        ({"model_config": {"generation_parameters": GREEDY | {"max_new_tokens": 16}}}, "generation_parameters of"),
        ({"model_config": {"generation_parameters": {"temperature": 0.6}}}, "generation_parameters of"),
        ({"generation_parameters": GREEDY | {"top_p": 0.9}}, "generation_parameters of"),
        ({"model_config": {"system_prompt": "Be brief."}}, "system_prompt of"),
        ({"model_config": {"max_model_length": 512}}, "max_model_length of"),
    ],
)
def test_details_of_lighteval_generated_with_other_settings_are_not_compared(tmp_path, told, differs):
    """A baseline that was cut short or sampled: the results say so, not the details."""
    own = {"generation_parameters": GREEDY, "model_name": "m", "system_prompt": None, "max_model_length": 4096}
    base = _results(_lighteval(tmp_path / "a", [1.0] * 9), model_config=own)
    side = _results(_lighteval(tmp_path / "b", [1.0] * 9), **told)
    with pytest.raises(NotComparable, match=differs) if differs else nullcontext():
        assert len(pair(load(base), load(side / "details" / "m"), 0.0).baseline) == 9
    assert len(pair(load(base), load(_lighteval(tmp_path / "c", [1.0] * 9)), 0.0).baseline) == 9


def test_a_task_of_lighteval_without_its_details_is_refused(tmp_path):
    """Left out alike on both sides, its losses would be, too; averages of subsets have no details."""
    base = _results(_lighteval(tmp_path, [1.0] * 4))
    (file,) = base.rglob("results_*.json")
    known = {"lighteval|gsm8k|0": {}, "lighteval|mmlu:_average|5": {}, "all": {}}
    for more, fits in (({}, True), ({"lighteval|mmlu:law|5": {}}, False)):
        file.write_text(json.dumps(json.loads(file.read_text()) | {"results": known | more}))
        with nullcontext() if fits else pytest.raises(NotComparable, match="mmlu_law_5, of which there are no"):
            assert len(load(base)) == 4
    (details,) = base.rglob("*.parquet")
    assert len(load(details)) == 4


def test_tasks_of_two_variants_are_not_one_side(tmp_path):
    """lighteval names the folder by the model alone, `nel` not at all: another task is of another variant."""
    base = _results(_lighteval(tmp_path / "a", [1.0] * 4), model_config={"model_name": "m", "dtype": "bfloat16"})
    (file,) = base.rglob("*.parquet")
    other = file.with_name("details_cups_2026-11-27T12-00-00.000000.parquet")
    parquet.write_table(parquet.read_table(file), other)
    assert len(load(base)) == 8
    later = {"config_general": {"model_config": {"model_name": "m", "dtype": "4bit"}}}
    (base / "results" / "m" / "results_2026-11-27T12-00-00.000000.json").write_text(json.dumps(later))
    with pytest.raises(UsageError, match=r"several models \(dtype: 4bit and bfloat16\)"):
        load(base)
    folders = [_nel(tmp_path / "nel" / name, [1.0] * 4) for name in ("one", "two")]
    for at, folder in enumerate(folders):
        (bundle,) = folder.rglob("eval-*.json")
        told = {"config": {"model": f"m{at}"}, "benchmark": {"name": f"task {at}"}}
        bundle.write_text(json.dumps(json.loads(bundle.read_text()) | told))
    with pytest.raises(UsageError, match=r"several models \(model: m0 and m1\)"):
        load(tmp_path / "nel")


def test_results_of_nel_asked_with_other_settings_are_not_compared(tmp_path):
    """Prompts are the same, and what stands in the summary's config is not."""
    sides = []
    for name, config in (("a", {"max_tokens": 16}), ("b", {"max_tokens": 16}), ("c", {"temperature": 1.0}), ("d", {})):
        folder = _nel(tmp_path / name, [1.0] * 9)
        (file,) = folder.rglob("eval-*.json")
        file.write_text(json.dumps(json.loads(file.read_text()) | {"config": config}))
        sides.append(load(folder))
    for other, fits in zip(sides[1:], (True, False, True), strict=True):
        with nullcontext() if fits else pytest.raises(NotComparable, match="temperature of gsm8k"):
            pair(sides[0], other, 0.0)


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


def _relined(folder, change):
    """Rewrite each line of `nel` results: None drops it, a list gives several."""
    (file,) = folder.rglob("results.jsonl")
    found = [change(at, json.loads(line)) for at, line in enumerate(file.read_text().splitlines())]
    lines = [one for part in found for one in (part if isinstance(part, list) else [part]) if one is not None]
    file.write_text("".join(json.dumps(one) + "\n" for one in lines))
    return folder


def test_what_a_baseline_of_nel_failed_to_answer_is_no_wrong_answer(tmp_path):
    """Rewards of 0 that stand for a broken sandbox, endpoint or judge would hide as much damage of the candidate."""
    broken = [{"error_category": "infra_error"}, {"error_category": "system"}, {"judge": {"error": "timeout"}}]
    broken += [{"judge": {"score": 0, "parse_error": True}}, {"judge": {"total": None}}]
    base = _relined(
        _nel(tmp_path / "base", [1.0] * 400),
        lambda at, one: one | {"reward": 0.0, "scoring_details": broken[at % 5]} if at < 60 else one,
    )
    worse = _nel(tmp_path / "worse", [0.0 if 60 <= at < 120 else 1.0 for at in range(400)])
    judged = judge_imported(base, [f"int4={worse}"], NOTHING | {"margin": 0.02})
    assert judged.exit_code == 4
    details = [{"needs_judge": True}, {"needs_judge": True, "judge": {"normalized": 1.0}}]  # of a judge that raised
    asked = _relined(_nel(tmp_path / "asked", [1.0, 1.0]), lambda at, one: one | {"scoring_details": details[at]})
    assert [math.isnan(one) for one in load(asked).score] == [True, False]
    late = _relined(
        _nel(tmp_path / "late", [1.0] * 4), lambda _, one: one | {"scoring_details": {"error_category": "graceful"}}
    )
    assert load(late).score.tolist() == [1.0] * 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda at, one: one if at else None, "holds 7 of 8 results"),
        (lambda at, one: one if at < 7 else one | {"repeat": 0, "problem_idx": 0, "reward": 0.5}, "twice, and differ"),
        (lambda at, one: one | {"prompt": f"{at}"}, "asked differently"),
        (lambda at, one: one | {"metadata": "ab"}, "metadata is no object"),
    ],
)
def test_results_of_nel_that_are_not_whole_are_refused(tmp_path, change, message):
    """Cut, given twice, or repeats of different questions."""
    folder = _nel(tmp_path, [1.0] * 4, repeats=2)
    (bundle,) = folder.rglob("eval-*.json")
    bundle.write_text(json.dumps(json.loads(bundle.read_text()) | {"n_results": 8}))
    with pytest.raises(NotComparable, match=message):
        load(_relined(folder, change))


def test_results_of_nel_are_of_the_newest_summary(tmp_path):
    """A folder that was written twice holds the results of the second run; a line twice counts once."""
    folder = _relined(_nel(tmp_path, [1.0, 0.0]), lambda at, one: [one, one] if at else one)
    old = {"timestamp": "2025", "benchmark": {"name": "mmlu"}}
    (folder / "gsm8k" / "eval-zzz-mmlu.json").write_text(json.dumps(old))
    (folder / "gsm8k" / "eval-null.json").write_text(json.dumps({"benchmark": None}))
    (bundle,) = folder.rglob("eval-2026*.json")
    bundle.write_text(json.dumps(json.loads(bundle.read_text()) | {"timestamp": "2026"}))
    found = load(folder)
    assert found.items == ("gsm8k/0", "gsm8k/1")
    assert found.score.tolist() == [1.0, 0.0]
    assert "counted once" in found.notes[0]


def test_one_choice_for_all_items_is_a_guess(tmp_path):
    """Where 19 of 20 right answers are `no`, who says nothing else loses nothing; in choices or in text."""
    for name, choices in (("both", [" yes", " no"]), ("text", None)):
        sides = []
        for at_most in (1900, 1895):
            folder = _lighteval(tmp_path / name / str(at_most), [float(at % 20 > 0) for at in range(2000)])
            (file,) = folder.rglob("*.parquet")
            rows = parquet.read_table(file, partitioning=None).to_pylist()
            for at, row in enumerate(rows):
                no = at % 20 > 0
                row["doc"] |= {"choices": choices or ["no" if no else "yes"], "gold_index": [int(no and bool(choices))]}
                row["metric"] = {key: float(no and at > 2000 - at_most) for key in row["metric"]}
                row["model_response"] = {"text": [f"{at_most} {at}"]}
            parquet.write_table(pa.Table.from_pylist(rows), file)
            sides.append(folder)
        assert set(load(sides[0]).chance) == {0.95}
        assert judge_imported(sides[0], [f"int4={sides[1]}"], NOTHING | {"margin": 0.05}).exit_code == 3


def test_letters_are_guessed(tmp_path):
    """A baseline of `nel` or lighteval that guesses among four letters has nothing to lose, whatever the metric."""
    guess = [float(at % 4 == 0) for at in range(400)]
    lettered = lambda at, one: one | {"expected_answer": "ABCD"[at % 4]}  # noqa: E731
    base, same = (_relined(_nel(tmp_path / name, guess), lettered) for name in ("one", "two"))
    judged = judge_imported(base, [f"int4={same}"], NOTHING | {"margin": 0.05, "allow_identical": True})
    assert judged.candidates[0].verdict == "no_signal"

    for choices, gold, chance in (
        (["A", "B", "C", "D"], [2], 0.25),
        (["A", "B"], 1, 0.5),
        (["4", "four"], [0, 1], 0.0),
        (["4"], 0, 0.0),
        (["A", "B", "C", "D"], [0, 3], 0.5),
        (None, None, 0.0),
    ):
        file = tmp_path / "details_gpqa_2026-11-26T12-00-00.parquet"
        doc = {"query": "?", "choices": choices, "gold_index": gold}
        parquet.write_table(pa.Table.from_pylist([{"doc": doc, "metric": {"extractive_match": 1.0}}]), file)
        assert load(file).chance.tolist() == [chance]


def test_details_of_several_models_are_not_one_side(tmp_path):
    """The directory above two models' details is neither of them."""
    base = _lighteval(tmp_path / "a", [1.0] * 4)
    (base / "details" / "m").rename(base / "details" / "bf16")
    other = _lighteval(tmp_path / "b", [0.0] * 4)
    (other / "details" / "m").rename(base / "details" / "int4")
    with pytest.raises(UsageError, match=r"several models \(folder: .*bf16 and .*int4\)"):
        load(base)
    assert load(base / "details" / "int4").score.tolist() == [0.0] * 4


@pytest.mark.parametrize(("told", "fits"), [({"model_name": "m"}, True), ({"model_name": "n"}, False), ({}, False)])
def test_a_task_of_lighteval_may_have_a_folder_of_its_own(tmp_path, told, fits):
    """A loop over tasks writes one folder each; the results beside the details say that the model is the same."""
    _results(_lighteval(tmp_path / "gsm8k", [1.0] * 4), model_config={"model_name": "m"})
    (file,) = _results(_lighteval(tmp_path / "cups", [1.0] * 4), model_config=told).rglob("*.parquet")
    file.rename(file.with_name("details_cups_2026-11-26T12-00-00.000000.parquet"))
    with nullcontext() if fits else pytest.raises(UsageError, match="several models"):
        assert len(load(tmp_path)) == 8


def test_a_folder_of_nel_that_a_second_model_wrote_to_is_refused(tmp_path):
    """The results are the later model's, and would be taken for the other's."""
    folder = _nel(tmp_path, [1.0] * 4)
    (first,) = folder.rglob("eval-*.json")
    for model in ("bf16", "int4"):
        text = json.dumps(json.loads(first.read_text()) | {"timestamp": model, "config": {"model": model}})
        first.with_name(f"eval-{model}-gsm8k.json").write_text(text)
    with pytest.raises(UsageError, match=r"several models \(model: bf16 and int4\)"):
        load(folder)


def test_a_benchmark_of_nel_that_was_copied_into_the_candidates_folder_is_refused(tmp_path):
    """Its summary holds the moment when it was written; the other benchmark is the candidate's own."""

    def side(name: str, moments: dict[str, str]) -> Path:
        for task, moment in moments.items():
            place = _nel(tmp_path / name / task, [float(at % 9 > 0) for at in range(200)]) / "gsm8k"
            (bundle,) = place.glob("eval-*.json")
            told = {"timestamp": moment, "benchmark": {"name": task}, "n_results": 200}
            bundle.write_text(json.dumps(json.loads(bundle.read_text()) | told))
            lines = map(json.loads, (place / "results.jsonl").read_text().splitlines())
            said = (
                one | {"model_response": f"{name} {one['problem_idx']}" if moment == tuesday else "B"} for one in lines
            )
            (place / "results.jsonl").write_text("".join(f"{json.dumps(one)}\n" for one in said))
        return tmp_path / name

    monday, tuesday = "2026-11-23T12:00:00.123456+00:00", "2026-11-24T12:00:00.654321+00:00"
    base = side("base", {"jars": monday, "sums": monday})
    assert compared(base, side("copied", {"jars": tuesday, "sums": monday})) == 4
    assert compared(base, side("own", {"jars": tuesday, "sums": tuesday})) == 0


@pytest.mark.parametrize("name", ["wer", "bits_per_byte"])
def test_a_metric_of_lighteval_of_which_less_is_better_is_no_score(tmp_path, name):
    """The only one of a task is not taken either."""
    with pytest.raises(UsageError, match=f"{name} is not a score: less of it is better"):
        load(_lighteval(tmp_path / "a", [0.1] * 4, metric=name), ImportOptions(metric=name))


def test_a_task_of_lighteval_run_again_over_fewer_items_is_refused(tmp_path):
    """As many items: the newest counts. Fewer: it would replace the whole run."""
    base = _lighteval(tmp_path / "a", [1.0] * 4)
    (file,) = base.rglob("*.parquet")
    newer = file.with_name(file.name.replace("2026-11-26", "2026-11-27"))
    table = parquet.read_table(file)
    parquet.write_table(table, newer)
    assert any("was run 2 times; the newest counts" in note for note in load(base).notes)
    parquet.write_table(table.slice(0, 2), newer)
    with pytest.raises(UsageError, match="was run with other items"):
        load(base)


def test_a_benchmark_of_nel_without_its_results_is_refused(tmp_path):
    """Left out without a word, its losses would be, too; alike on both sides, nothing else would show it."""
    folder = _nel(tmp_path / "base", [1.0] * 9)
    other = folder / "mmlu"
    (folder / "gsm8k").rename(other)
    text = (other / "eval-20261126T120000Z-gsm8k.json").read_text().replace("gsm8k", "mmlu")
    (other / "eval-20261126T120000Z-gsm8k.json").write_text(text)
    assert len(load(_nel(folder, [1.0] * 9))) == 18
    (other / "results.jsonl").rename(other / "results.jsonl.gz")
    with pytest.raises(UsageError, match="lacks results"):
        load(folder)


def test_results_of_nel_graded_by_other_judges_are_not_compared(tmp_path):
    """What a judge is, only its grades say."""
    sides = []
    for name, judge in (("a", "large"), ("b", "large"), ("c", "small")):
        told = {"judge": {"normalized": 1.0, "judge_model": judge}}
        change = lambda at, one, told=told: one | {"scoring_details": told if at else {}}  # noqa: E731
        sides.append(load(_relined(_nel(tmp_path / name, [1.0] * 9), change)))
    assert len(pair(sides[0], sides[1], 0.0).baseline) == 9
    with pytest.raises(NotComparable, match="reward,small"):
        pair(sides[0], sides[2], 0.0)
