"""Logs of lm_eval, as that tool wrote them, become outcomes and verdicts."""

from __future__ import annotations

import hashlib
import json
import shutil
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
from making import stratum
from paths import DATA
from written import DATE, compared, judged_pair, lm_eval_sample, samples_of

from harness.errors import NotComparable, UsageError
from harness.judge import compare, gate
from harness.judge.importers import ImportOptions, format_of, load
from harness.judge.rules import Rules

LM_EVAL = DATA / "lm_eval"


def _lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def _write(path, lines):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.fixture
def samples(tmp_path):
    """A copy of an lm_eval output directory that a test may change."""
    return Path(shutil.copytree(LM_EVAL / "bf16", tmp_path / "bf16"))


def _only(folder, task):
    (found,) = folder.glob(f"samples_{task}_*.jsonl")
    return found


def test_samples_are_items_by_task():
    """Two tasks of 12 documents: ids by task and doc_id, acc and the first filter's exact_match, the variant's name."""
    found = load(LM_EVAL / "bf16")
    assert found.name == "bf16"
    assert len(found) == 24
    assert found.items[0] == "colors/0"
    assert set(found.slice.names) == {"colors", "sums"}
    colors = found.score[[name.startswith("colors") for name in found.items]]
    assert colors.tolist() == [float(at != 3) for at in range(12)]
    assert found.measure == {"colors": "acc", "sums": "exact_match,strict-match"}
    assert any("filter 'strict-match' of strict-match, flexible-extract" in note for note in found.notes)


def test_scores_are_what_lm_eval_printed():
    """The means of the items are the averages of lm_eval's own table for the same logs (0.25 and 0.75 on int4)."""
    for name, expected in (("strict-match", 0.25), ("flexible-extract", 0.75)):
        found = load(LM_EVAL / "int4", ImportOptions(filter=name, metric=None))
        mine = [score for score, item in zip(found.score, found.items, strict=True) if item.startswith("sums")]
        assert np.mean(mine) == expected


def test_a_filter_that_is_not_there_is_named():
    """Where a task has several filters, another name is refused with those that there are."""
    with pytest.raises(UsageError, match="no filter 'loose'; there are: strict-match, flexible-extract"):
        load(LM_EVAL / "bf16", ImportOptions(filter="loose"))


def test_choices_give_the_chance():
    """Three choices: guessing gives a third; free text gives nothing."""
    found = load(LM_EVAL / "bf16")
    chances = dict(zip(found.items, found.chance.tolist(), strict=True))
    assert chances["colors/5"] == pytest.approx(1 / 3)
    assert chances["sums/5"] == 0.0


def test_doc_fields_make_strata_and_clusters(samples):
    """A field of the document splits, a nested one too; another names the source."""
    _only(samples, "sums").unlink()
    found = load(samples, ImportOptions(strata=("hops", "source.book"), cluster="source.book"))
    assert found.stratum[0] == "hops=1,book=b0"
    assert found.stratum[11] == "hops=2,book=b2"
    assert found.levels["book"][4] == "b1"
    assert found.cluster[4] == "colors/b1"


def test_a_document_without_a_source_is_one_by_itself(tmp_path):
    """All of them as one source would count as one item."""
    lines = [lm_eval_sample(at, doc={"q": f"jar {at}", "book": None if at % 2 else "b"}) for at in range(8)]
    found = load(samples_of(tmp_path, "jars", lines), ImportOptions(cluster="book"))
    assert len(found.cluster.names) == 5


def test_a_field_that_is_not_there_is_named_with_those_that_are():
    """`--stratum level` over documents that have no level: usage, and the fields to choose from."""
    with pytest.raises(
        UsageError, match="no field 'level'; there are: answer, choices, hops, question, source"
    ) as caught:
        load(LM_EVAL / "bf16", ImportOptions(strata=("level",)))
    assert caught.value.exit_code == 2


def test_two_models_are_compared():
    """int4 lost documents 5 and 7 of each task: 2 of 12 in colors, one of 12 in sums (even ones fail strict-match)."""
    found = judged_pair(LM_EVAL)
    colors, sums = stratum(found, "colors/all"), stratum(found, "sums/all")
    assert (colors.n, colors.lost, colors.gained, colors.baseline_mean) == (12, 2, 0, 11 / 12)
    assert (sums.n, sums.lost, sums.gained) == (12, 2, 0)
    assert found.exit_code == 3


def test_another_prompt_is_another_item(samples):
    """The same doc_ids under another prompt hash: nothing matches, and it says that they were asked differently."""
    path = _only(samples, "colors")
    _write(path, [line | {"prompt_hash": "other"} for line in _lines(path)])
    rules = Rules.from_flags(margin=0.4)
    compared = compare.compare(load(LM_EVAL / "bf16", name="a"), [load(samples, name="b")], rules)
    assert "12 asked differently" in compared.candidates[0].refused
    assert gate.judge(compared, rules).exit_code == 4


def test_other_documents_are_other_items(samples):
    """The same doc_ids over shuffled documents (another doc hash) do not match either."""
    path = _only(samples, "colors")
    lines = _lines(path)
    _write(path, [line | {"doc_id": 11 - line["doc_id"]} for line in lines])
    compared = compare.compare(
        load(LM_EVAL / "bf16", name="a"), [load(samples, name="b")], Rules.from_flags(margin=0.4)
    )
    assert "12 asked differently" in compared.candidates[0].refused


def test_metric_by_name_and_by_preference(samples):
    """acc is taken before acc_norm; --metric takes the other; one that is not there is named with those that are."""
    _only(samples, "sums").unlink()
    assert load(samples).measure == {"colors": "acc"}
    assert load(samples, ImportOptions(metric="acc_norm")).measure == {"colors": "acc_norm"}
    with pytest.raises(UsageError, match="no metric 'f1'; there are: acc, acc_norm"):
        load(samples, ImportOptions(metric="f1"))


def test_metrics_of_two_sides_must_be_one(samples):
    """acc of one side against acc_norm of the other is refused."""
    _only(samples, "sums").unlink()
    sides = [load(samples, ImportOptions(metric=name), name) for name in ("acc", "acc_norm")]
    compared = compare.compare(sides[0], sides[1:], Rules.from_flags())
    assert "--metric" in compared.candidates[0].refused


@pytest.mark.parametrize(
    "name", ["word_perplexity", "bits_per_byte", "exact_mismatch", "miss_rate", "no_answer", "invalid_json", "broken"]
)
def test_less_is_better_is_no_score(samples, name):
    """A perplexity is never taken for a score, asked for or not; nor are others passed over beside a task."""
    path = _only(samples, "colors")
    if name in {"word_perplexity", "bits_per_byte"}:
        _only(samples, "sums").unlink()
    _write(path, [line | {"metrics": [name], name: 0.5} for line in _lines(path)])
    for options in (ImportOptions(), ImportOptions(metric=name)):
        with pytest.raises(UsageError):
            load(samples, options)


def test_a_perplexity_beside_other_tasks_is_left_out_and_named(tmp_path):
    """wikitext in the run of other tasks: they are judged. By itself, or asked for, it is refused."""
    for side, right in (("a", 100), ("b", 101)):
        samples_of(tmp_path / side, "jars", [lm_eval_sample(at, float(at < right)) for at in range(101)])
        names = ["word_perplexity", "bits_per_byte"]
        words = {name: [-7.5, 3 * len(side) + right] for name in names}
        samples_of(tmp_path / side, "wikitext", [lm_eval_sample(at, metrics=names, **words) for at in range(9)])
        told = {"wikitext": {"version": right}, "jars": {"version": 1}}  # of what is not judged nothing must agree
        (tmp_path / side / f"results_{DATE}.json").write_text(json.dumps({"versions": told}))
    found = load(tmp_path / "a")
    assert (len(found), found.measure) == (101, {"jars": "exact_match"})
    says = "not judged: less is better of all its metrics: word_perplexity, bits_per_byte"
    assert [f"samples_wikitext_{DATE}.jsonl: {says}" in note for note in found.notes] == [True]
    assert compared(tmp_path / "a", tmp_path / "b") == 0
    assert compared(tmp_path / "a", tmp_path / "b", "--metric", "exact_match") == 0
    for asked in ("word_perplexity", "wikitext=bits_per_byte"):
        assert compared(tmp_path / "a", tmp_path / "b", "--metric", asked) == 2
    for side in "ab":
        (tmp_path / side / f"results_{DATE}.json").unlink()
        wikitext = tmp_path / side / f"samples_wikitext_{DATE}.jsonl"
        shutil.copy(wikitext, tmp_path / side / f"samples_jars_{DATE}.jsonl")
    assert compared(tmp_path / "a", tmp_path / "b") == 2
    (tmp_path / "a" / f"samples_jars_{DATE}.jsonl").unlink()
    assert compared(tmp_path / "a", tmp_path / "b") == 2


def test_a_metric_of_several_numbers_is_refused(samples):
    """[log-likelihood, weight] pairs are not one number per item."""
    path = _only(samples, "colors")
    _write(path, [line | {"acc": [-3.0, 5]} for line in _lines(path)])
    with pytest.raises(NotComparable, match="not one number per item"):
        load(samples)


def test_a_task_run_twice_counts_with_its_newest_file(samples):
    """Two dates of one task: the newer counts, and the comparison says so."""
    path = _only(samples, "colors")
    newer = path.with_name("samples_colors_2027-01-01T00-00-00.000000.jsonl")
    _write(newer, [line | {"acc": 0.0} for line in _lines(path)])
    found = load(samples)
    assert found.score[:12].tolist() == [0.0] * 12
    assert any("colors was run 2 times; the newest counts" in note for note in found.notes)


def test_runs_of_one_task_with_other_model_arguments_are_refused(tmp_path):
    """lm_eval names the folder by the weights: a variant quantized as it is loaded would replace the baseline."""
    folder = samples_of(tmp_path, "jars", [lm_eval_sample(at) for at in range(9)])
    lines = [lm_eval_sample(at, 0.0) for at in range(9)]
    _write(folder / "samples_jars_2026-03-02T10-00-00.000000.jsonl", lines)
    for date, more in ((DATE, ""), ("2026-03-02T10-00-00.000000", ",load_in_4bit=True")):
        told = {"config": {"model_args": f"pretrained=m{more}"}}
        (folder / f"results_{date}.json").write_text(json.dumps(told))
    with pytest.raises(UsageError, match=r"models \(model_args: load_in_4bit=True,pretrained=m and pretrained=m\)"):
        load(folder)
    (folder / f"results_{DATE}.json").unlink()
    assert load(folder).score.tolist() == [0.0] * 9


@pytest.mark.parametrize(
    ("told", "names"),
    [
        (
            {"model": "hf", "model_args": "pretrained=m,load_in_4bit=True"},
            "model_args: load_in_4bit=True,pretrained=m and p",
        ),
        ({"model": "hf", "model_args": {"pretrained": "other"}}, "model_args: pretrained=m and pretrained=other"),
        ({"model": "vllm", "model_args": "pretrained=m"}, "model: hf and vllm"),
        ({"model": "hf", "model_args": "pretrained=m", "model_dtype": "torch.float16"}, ""),
        ({}, ""),
    ],
)
def test_tasks_of_two_variants_are_not_one_side(tmp_path, told, names):
    """lm_eval names the folder by the weights: another task's run of another variant lies beside the first one."""
    samples_of(tmp_path, "jars", [lm_eval_sample(at) for at in range(9)])
    _write(tmp_path / "samples_cups_2026-03-02T10-00-00.000000.jsonl", [lm_eval_sample(at, 0.0) for at in range(9)])
    first = {"config": {"model": "hf", "model_args": "pretrained=m"}}
    for date, one in ((DATE, first), ("2026-03-02T10-00-00.000000", {"config": told})):
        (tmp_path / f"results_{date}.json").write_text(json.dumps(one))
    with pytest.raises(UsageError, match=f"several models .{names}") if names else nullcontext():
        assert len(load(tmp_path)) == 18
    assert len(load(tmp_path / f"samples_jars_{DATE}.jsonl")) == 9


def test_several_models_in_one_directory_are_refused():
    """The parent of two models' directories is neither of them."""
    with pytest.raises(UsageError, match="several models"):
        load(LM_EVAL)


@pytest.mark.parametrize(
    ("told", "fits"),
    [
        ("dtype=auto,pretrained=m", True),
        ({"dtype": "auto", "pretrained": "m"}, True),
        ("pretrained=m, dtype=auto, tensor_parallel_size=2,device=cuda:1", True),
        ({"pretrained": "m", "batch_size": "auto", "dtype": "auto", "num_concurrent": 32, "seed": 7}, True),
        ("pretrained=m", False),
        ("pretrained=m,dtype=float16", False),
        ("pretrained=m,dtype=auto,max_length=512", False),
        ("pretrained=m,dtype=auto,device_map=auto", False),
        ("pretrained=m,dtype=auto,base_url=http://localhost:8001/v1", False),
    ],
)
def test_arguments_that_decide_no_answer_do_not_make_another_model(tmp_path, told, fits):
    """A second task's run on two GPUs, say, or with the arguments in another order."""
    _task_of_its_own(tmp_path, "jars", {"model": "hf", "model_args": "pretrained=m,dtype=auto,batch_size=8"})
    _task_of_its_own(tmp_path, "cups", {"model": "hf", "model_args": told})
    with nullcontext() if fits else pytest.raises(UsageError, match=r"several models \(model_args"):
        assert len(load(tmp_path)) == 18


def _task_of_its_own(folder, task, told, date=DATE):
    """What a loop over tasks writes: `--output_path out/bf16/TASK`; told: what the summary says of the model."""
    place = folder / task / "m"
    lines = [lm_eval_sample(at, doc_hash=f"{task} {at}") for at in range(9)]
    samples_of(place, task, lines)
    (place / f"samples_{task}_{DATE}.jsonl").rename(place / f"samples_{task}_{date}.jsonl")
    if told is not None:
        (place / f"results_{date}.json").write_text(json.dumps({"config": told}))
    return place


@pytest.mark.parametrize(
    ("one", "other", "says"),
    [
        ({"model": "hf", "model_args": "pretrained=m"}, {"model": "hf", "model_args": "pretrained=m"}, ""),
        ({"model_args": "pretrained=m"}, {"model_args": "pretrained=m,load_in_4bit=True"}, "model_args: "),
        ({"model_args": "pretrained=m"}, {"model_args": ""}, "folder: "),
        ({"model_args": "pretrained=m"}, None, "folder: "),
        (None, None, "folder: "),
    ],
)
@pytest.mark.parametrize("date", [DATE, "2026-03-02T10-00-00.000000"])
def test_a_task_may_have_a_folder_of_its_own(tmp_path, one, other, says, date):
    """One model and its arguments by both summaries; a folder without such a summary may be another model's."""
    _task_of_its_own(tmp_path, "jars", one)
    _task_of_its_own(tmp_path, "cups", other, date)
    with pytest.raises(UsageError, match=rf"several models \({says}") if says else nullcontext():
        assert len(load(tmp_path)) == 18


def test_one_task_in_two_folders_is_refused(tmp_path):
    """Two servers of one name and address, one after the other: the later one's answers would replace the first's."""
    told = {"model": "local-completions", "model_args": "model=m,base_url=http://localhost:8000/v1"}
    _task_of_its_own(tmp_path / "bf16", "jars", told)
    _task_of_its_own(tmp_path / "int4", "jars", told, "2026-03-02T10-00-00.000000")
    with pytest.raises(UsageError, match=r"several models \(folder of jars: .*bf16/jars/m and .*int4/jars/m\)"):
        load(tmp_path)


def test_averages_alone_cannot_be_judged(tmp_path):
    """A directory with results_*.json only: the remedy is --log_samples."""
    (tmp_path / "results_2026-01-01.json").write_text('{"results": {}}')
    with pytest.raises(UsageError, match="--log_samples"):
        load(tmp_path)
    with pytest.raises(UsageError, match="averages alone"):
        load(tmp_path / "results_2026-01-01.json")


def test_a_log_cut_short_is_refused(samples):
    """A last line without its end: the file and line are named, nothing is judged on the rest."""
    path = _only(samples, "colors")
    path.write_text(path.read_text()[:-40])
    with pytest.raises(NotComparable, match=r"line 12 is not JSON.*cut there") as caught:
        load(samples)
    assert caught.value.exit_code == 4


def test_a_single_file_is_read_as_one():
    """One samples file is one task; its format is found from its first line."""
    path = _only(LM_EVAL / "bf16", "colors")
    assert format_of(path) == "lm_eval"
    assert len(load(path)) == 12


def test_hashes_that_one_side_lacks_are_computed(tmp_path):
    """Logs of an older lm_eval have no hashes: the same documents match, other documents under the same ids do not."""

    def hashed(text):
        return hashlib.sha256(text.encode()).hexdigest()

    old = [{key: value for key, value in lm_eval_sample(at).items() if "hash" not in key} for at in range(100)]
    new = [
        one
        | {
            "doc_hash": hashed(json.dumps(one["doc"], indent=2, ensure_ascii=False)),
            "prompt_hash": hashed(one["arguments"][0][0]),
            "target_hash": hashed("x"),
        }
        for one in old
    ]
    before = samples_of(tmp_path / "new", "jars", new)
    assert compared(before, samples_of(tmp_path / "old", "jars", old)) == 0
    assert compared(before, samples_of(tmp_path / "other", "jars", [one | {"doc": {"q": "other"}} for one in old])) == 4


def test_metrics_and_filters_are_chosen_per_task(tmp_path):
    """A name applies to the tasks that have it; TASK=NAME, with patterns, to those tasks alone."""
    both = [lm_eval_sample(at, metrics=["acc", "acc_norm"], acc=0, acc_norm=1) for at in range(4)]
    folder = samples_of(samples_of(tmp_path / "lm", "arc_easy", both), "gsm", [lm_eval_sample(at) for at in range(4)])
    filtered = [
        lm_eval_sample(at, score, filter=name) for at in range(4) for name, score in (("strict", 0), ("loose", 1))
    ]
    samples_of(folder, "sums", filtered)
    found = load(folder, ImportOptions(metric="acc_norm", filter=("loose",)))
    assert found.measure == {"arc_easy": "acc_norm", "gsm": "exact_match", "sums": "exact_match,loose"}
    assert any("gsm: has no such --metric" in note for note in found.notes)
    assert load(folder, ImportOptions(metric=("arc_*=acc_norm",))).measure["arc_easy"] == "acc_norm"
    for wrong in ("gsm=acc_norm", "*=acc", "mmlu=acc"):
        with pytest.raises(UsageError, match="there are: "):
            load(folder, ImportOptions(metric=(wrong,)))


@pytest.mark.parametrize(
    "text", [lambda rows: "".join(json.dumps(row) + "\n" for row in rows), lambda rows: json.dumps(rows, indent=2)]
)
@pytest.mark.parametrize("suffix", ["json", "jsonl"])
def test_older_layouts_of_lm_eval_are_read(tmp_path, suffix, text):
    """JSON lines or one indented array, called .json or .jsonl, with results next to them; as a file or a folder."""
    rows = [lm_eval_sample(at) | {"arguments": {"gen_args_0": {"arg_0": f"Q: jar {at}"}}} for at in range(3)]
    path = tmp_path / f"samples_jars_{DATE}.{suffix}"
    path.write_text(text(rows))
    (tmp_path / f"results_{DATE}.json").write_text('{"results": {}}')
    assert load(path).items == load(tmp_path).items == ("jars/0", "jars/1", "jars/2")


@pytest.mark.parametrize(
    ("changes", "chance"),
    [
        ({}, 1 / 8),
        ({"doc": {"mc2_targets": {"choices": list("abcdefgh"), "labels": [1, 1, 1, 1, 0, 0, 0, 0]}}}, 0.5),
        ({"doc": {"mc1_targets": {"labels": [1, 0]}, "labels": [0] * 7 + [1]}}, 1 / 8),
        ({"doc": {"choices": {"label": list("ABCDEFGH")}}}, 1 / 8),
        ({"target": "[0, 5]"}, 0.25),
        ({"target": [3]}, 1 / 8),
        ({"doc": {"answers": [0, 5]}}, 0.25),
        ({"doc": {"is_correct": [True, True] + [False] * 6}}, 0.25),
        ({"target": "7"}, 1 / 8),
        ({"target": "[0, 5,, 01]"}, 1 / 8),
        ({"metrics": ["mc1"], "mc1": 0.5}, 1 / 8),
    ],
)
def test_guessing_gets_the_share_of_right_choices(tmp_path, changes, chance):
    """Several right choices, marked 0/1 in the document or listed as the target, are guessed more often."""
    line = lm_eval_sample(0, metrics=["acc"], acc=0.5, arguments=[["Q", f" {at}"] for at in range(8)]) | changes
    assert load(samples_of(tmp_path / "lm", "mc", [line])).chance.tolist() == [chance]


def test_a_baseline_at_the_chance_of_several_right_choices_has_no_signal(tmp_path):
    """Half of the choices are right and the baseline scores a half: no damage could be seen, so it does not pass."""
    doc = {"mc2_targets": {"labels": [1, 1, 0, 0]}}
    asked = [["Q", f" {at}"] for at in range(4)]
    lines = [lm_eval_sample(at, metrics=["acc"], acc=0.5, arguments=asked, doc=doc) for at in range(200)]
    folder = samples_of(tmp_path / "lm", "mc2", lines)
    assert compared(folder, folder) == 3


def test_a_metric_of_which_less_is_better_is_no_score(tmp_path):
    """The averages beside the samples say so of any metric: more of it must not read as an improvement."""
    line = {"doc_id": 0, "doc": {}, "target": "x", "arguments": [["q", "a"]], "resps": [["x"]], "filtered_resps": ["x"]}
    text = json.dumps({**line, "filter": "none", "metrics": ["score"], "score": 1.0})
    (tmp_path / "samples_toxic_2026-01-01T00-00-00.jsonl").write_text(text + "\n", encoding="utf-8")
    assert load(tmp_path).measure == {"toxic": "score"}
    averages = {"higher_is_better": {"toxic": {"score": False}}}
    (tmp_path / "results_2026-01-01T00-00-00.json").write_text(json.dumps(averages), encoding="utf-8")
    with pytest.raises(UsageError, match=r"less is better of all its metrics: score"):
        load(tmp_path)
    with pytest.raises(UsageError, match="less of it is better"):
        load(tmp_path, ImportOptions(metric="score"))


def test_a_task_run_again_over_fewer_documents_is_refused(samples):
    """A trial over the first documents, made later, would replace the whole run."""
    path = _only(samples, "colors")
    newer = path.with_name("samples_colors_2027-01-01T00-00-00.000000.jsonl")
    _write(newer, _lines(path)[:6])
    with pytest.raises(UsageError, match=r"colors was run with other items or prompts .* keep one run's file"):
        load(samples)


def test_a_task_run_again_over_other_documents_of_the_same_numbers_is_refused(tmp_path):
    """RULER at 4,096 tokens and then at 32,768 is one task to lm_eval: the shorter one would replace the longer."""
    folder = samples_of(tmp_path, "ruler", [lm_eval_sample(at, doc_hash=f"long {at}") for at in range(9)])
    _write(folder / "samples_ruler_2027-01-01T00-00-00.000000.jsonl", [lm_eval_sample(at) for at in range(9)])
    with pytest.raises(UsageError, match="ruler was run with other items or prompts"):
        load(folder)


def test_an_older_run_does_not_hide_that_the_newest_is_the_baselines(samples, tmp_path):
    """The answers that count are the same; those of the older run do not count."""
    other = Path(shutil.copytree(samples, tmp_path / "other"))
    path = _only(other, "colors")
    changed = [line | {"resps": [[["-1.0", "False"]]], "acc": 0.0} for line in _lines(path)]
    _write(path.with_name("samples_colors_2020-01-01T00-00-00.000000.jsonl"), changed)
    assert compared(samples, other, "--margin", "0.4") == 4


def test_a_task_of_the_summary_without_samples_is_refused(tmp_path):
    """Compressed or left behind on both sides, it would be left out without a word; one file alone may be judged."""
    folder = samples_of(tmp_path, "jars", [lm_eval_sample(at) for at in range(9)])
    samples_of(folder, "other_a", [lm_eval_sample(at) for at in range(9)])
    (folder / f"results_{DATE}.json").write_text(json.dumps({"n-samples": {"jars": {}, "other/a": {}}}))
    assert len(load(folder)) == 18
    gone = folder / f"samples_other_a_{DATE}.jsonl"
    gone.rename(f"{gone}.gz")
    with pytest.raises(NotComparable, match="its summary names other_a, of which there are no samples"):
        load(folder)
    assert len(load(folder / f"samples_jars_{DATE}.jsonl")) == 9


def test_samples_that_are_fewer_than_their_summary_says_are_refused(tmp_path):
    """Cut alike on both sides, as by `head` or a full disk, they would be judged as if they were all."""
    folder = samples_of(tmp_path, "jars", [lm_eval_sample(at) for at in range(9)])
    summary = folder / f"results_{DATE}.json"
    summary.write_text(json.dumps({"n-samples": {"jars": {"original": 20, "effective": 9}}}))
    assert len(load(folder)) == 9
    summary.write_text(json.dumps({"n-samples": {"jars": {"original": 20, "effective": 10}}}))
    with pytest.raises(NotComparable, match="holds 9 of the 10 documents in its summary"):
        load(folder)


def test_equal_questions_in_different_documents_are_one_source(tmp_path):
    """Sixteen questions fifty times each, as traffic has them, say no more than sixteen."""
    for side in "ab":
        lines = [
            lm_eval_sample(at, arguments=[[f"Q: jar {at % 16}", {}]], doc={"when": at}, resps=[[f"{side}{at}"]])
            for at in range(800)
        ]
        samples_of(tmp_path / side, "jars", lines)
    assert compared(tmp_path / "a", tmp_path / "b") == 3


def test_a_summary_is_known_by_any_name(tmp_path):
    """`--output_path out/bf16.json` writes `bf16_DATE.json` beside the samples, which are as whole as it says."""
    folder = samples_of(tmp_path, "jars", [lm_eval_sample(at) for at in range(9)])
    summary = folder / f"bf16_{DATE}.json"
    told = {"config": {"model": "hf", "model_args": "pretrained=bf16"}, "n-samples": {"jars": {"effective": 9}}}
    summary.write_text(json.dumps(told))
    (folder / "notes_1.json").write_text("none of lm_eval's")
    assert len(load(folder)) == 9
    later = DATE.replace("-03-", "-04-")
    (folder / f"samples_jars_{later}.jsonl").write_text((folder / f"samples_jars_{DATE}.jsonl").read_text())
    (folder / f"int4_{later}.json").write_text(json.dumps(told | {"config": {"model_args": "pretrained=int4"}}))
    with pytest.raises(UsageError, match="results of several models"):
        load(folder)
    assert len(load(folder / f"samples_jars_{DATE}.jsonl")) == 9
    summary.write_text(json.dumps({"n-samples": {"jars": {"effective": 10}}}))
    with pytest.raises(NotComparable, match="holds 9 of the 10 documents in its summary"):
        load(folder / f"samples_jars_{DATE}.jsonl")


@pytest.mark.parametrize(
    ("changed", "code"),
    [
        ({}, 0),
        ({"metric_list": [{"metric": "exact_match", "fn": "<function f at 0x7f02>", "ignore_case": True}]}, 4),
        ({"filter_list": [{"name": "none", "filter": [{"function": "regex", "regex_pattern": "(.*)"}]}]}, 4),
        ({"metric_list": None, "description": "Another."}, 0),
    ],
)
def test_answers_that_are_scored_by_other_rules_are_not_compared(tmp_path, changed, code):
    """A task's own file may be edited between two runs, without another version: prompts and answers are the same."""
    own = {"metric_list": [{"metric": "exact_match", "fn": "<function f at 0x7f01>"}], "filter_list": []}
    sides = []
    for name, right, config in (("a", 100, own), ("b", 101, own | changed)):
        folder = samples_of(tmp_path / name, "jars", [lm_eval_sample(at, float(at < right)) for at in range(101)])
        (folder / f"results_{DATE}.json").write_text(json.dumps({"configs": {"jars": config}}))
        sides.append(folder)
    assert compared(*sides) == code


def test_a_later_summary_says_nothing_of_older_samples(tmp_path):
    """A task that was edited and run again without --log_samples: what is there was scored before."""
    for name, right, rules in (("a", 100, {DATE: 1, DATE.replace("-03-", "-04-"): 2}), ("b", 101, {DATE: 2})):
        samples_of(tmp_path / name, "jars", [lm_eval_sample(at, float(at < right)) for at in range(101)])
        for date, version in rules.items():
            (tmp_path / name / f"results_{date}.json").write_text(json.dumps({"versions": {"jars": version}}))
    assert compared(tmp_path / "a", tmp_path / "b") == 4


@pytest.mark.parametrize(
    ("dates", "code"),
    [
        ((DATE,), 0),
        ((DATE, DATE.replace("-03-", "-04-")), 0),
        ((), 0),
        (("of jars",), 0),
        ((DATE.replace("-03-", "-04-"),), 4),
        ((DATE.replace("-03-", "-02-"), "of jars"), 4),
    ],
)
def test_samples_among_summaries_of_other_runs_are_refused(tmp_path, capsys, dates, code):
    """Another variant's samples, copied in the place of a run's own: its summary says nothing of their model."""
    for name, right in (("a", 100), ("b", 101)):
        samples_of(tmp_path / name, "jars", [lm_eval_sample(at, float(at < right)) for at in range(101)])
    for date in dates:
        (tmp_path / "b" / f"results_{date}.json").write_text(json.dumps({"config": {"model_args": "pretrained=m"}}))
    assert compared(tmp_path / "a", tmp_path / "b") == code
    assert ("b: its own summary is missing" in capsys.readouterr().err.replace(f"/samples_jars_{DATE}.jsonl", "")) == (
        code > 0
    )
