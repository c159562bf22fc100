"""A run is judged only if it is whole and itself, and each of its files is read once."""

from __future__ import annotations

import json
import math
import re
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import making
import pytest
import yaml
from paths import RESULTS

from harness.cli import program as cli
from harness.errors import ExitCode, NotComparable
from harness.judge import judging
from harness.records import digest, item_from_json
from harness.store import record as store_record
from harness.store import rundir
from harness.store.privacy import TextPolicy
from harness.store.rundir import RunDir
from harness.store.whole import load_run, write_manifest

pytestmark = pytest.mark.model

COMMITTED = ("demo-cpu", "demo-h200", "tail-cpu")
ANSWERS = "nf4/multi_hop_math-{shard}.jsonl"


def call(*words: object) -> int:
    """Run the command line in this process and give its exit code."""
    return int(cli._run([str(word) for word in words]))


def config(folder: Path, model: Path, **changes: object) -> Path:
    """Write the config of a rehearsal in which nf4 loses a third, and give its path."""
    data = {
        "name": "trial",
        "baseline": {"name": "bf16", "model": str(model)},
        "candidates": [{"name": "nf4", "quantization": "bnb-nf4"}],
        "slices": [
            {"name": "multi_hop_math", "axes": {"hops": [1]}, "items": 60, "margin": 0.1},
            {"name": "typical", "tasks": ["quantcliff_groups"], "items": 40, "margin": 0.2, "gating": False},
        ],
        "execution": {"device": "cpu", "unit_items": 10, "rehearsal": {"lost": {"nf4/multi_hop_math": 0.33}}},
        **changes,
    }
    path = folder / "trial.yaml"
    path.write_text(yaml.safe_dump(data), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def finished(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run in two shards, judged."""
    folder = tmp_path_factory.mktemp("whole")
    path = config(folder, tiny_llama)
    for shard in ("1/2", "2/2"):
        words = ("run", path, "--output", folder, "--quiet", "--shard", shard)
        assert call(*words) == ExitCode.NOT_COMPARABLE  # a rehearsal
        assert call(*words, "--rehearsal-ok") == ExitCode.PASS
    assert call("compare", folder / "trial", "--quiet") == ExitCode.FAIL
    return folder / "trial"


@pytest.fixture(params=["finished", "demo-cpu"])
def run(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A copy of a run as it is written today, and of a committed one, which has no schema."""
    source = request.getfixturevalue("finished") if request.param == "finished" else RESULTS / request.param
    return Path(shutil.copytree(source, tmp_path / "run"))


def answers(run: Path) -> Path:
    """A file of nf4's answers."""
    return next(run.glob(f"nf4/{damaged(run)}-1of*.jsonl"))


def damaged(run: Path) -> str:
    """The slice of a run that is damaged: one of free text that every variant was asked."""
    return "long_context" if (run / "items" / "long_context.jsonl").is_file() else "multi_hop_math"


def lines_of(path: Path, change: Callable[[list[str]], list[str]]) -> None:
    """Rewrite a file, line by line."""
    path.write_text("".join(change(path.read_text(encoding="utf-8").splitlines(keepends=True))), encoding="utf-8")


def edit(path: Path, pattern: str, new: str, line: int = 1) -> None:
    """Change what fits a pattern in a line of a file."""

    def changed(lines: list[str]) -> list[str]:
        lines[line - 1], count = re.subn(pattern, new, lines[line - 1], count=1)
        assert count, lines[line - 1]
        return lines

    lines_of(path, changed)


def edit_json(path: Path, **changes: object) -> None:
    """Change keys of a JSON file."""
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **changes}), encoding="utf-8")


def another_variant(run: Path) -> None:
    """The baseline's folder in place of nf4's."""
    shutil.rmtree(run / "nf4")
    shutil.copytree(run / "bf16", run / "nf4")


def another_variants_answers(run: Path) -> None:
    """The baseline's answers in place of nf4's, whose proof stays."""
    for path in run.glob("bf16/*-1of*.jsonl"):
        if (run / "nf4" / path.name).is_file():
            shutil.copy(path, run / "nf4")


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "an items file cut": (
        lambda run: lines_of(run / "items" / f"{damaged(run)}.jsonl", lambda lines: lines[:-5]),
        r"items/multi_hop_math\.jsonl: item .* is missing",
    ),
    "an items file emptied": (lambda run: (run / "items" / "typical.jsonl").write_text(""), r"items/typical\.jsonl"),
    "an items file missing": (lambda run: (run / "items" / "typical.jsonl").unlink(), r"items/typical\.jsonl"),
    "items in another order": (
        lambda run: lines_of(run / "items" / "typical.jsonl", lambda lines: lines[::-1]),
        r"items: its \d+ items are not the \d+ of run.json, or in another order",
    ),
    "an item twice": (
        lambda run: lines_of(run / "items" / "typical.jsonl", lambda lines: [*lines, lines[3]]),
        r"items/typical\.jsonl: line \d+: item .* is there twice",
    ),
    "a prompt edited": (
        lambda run: edit(run / "items" / "typical.jsonl", r'"prompt":"', '"prompt":"Psst. ', 3),
        r"items/typical\.jsonl: line 3",
    ),
    "a stratum edited": (
        lambda run: edit(run / "items" / f"{damaged(run)}.jsonl", r'"stratum":"', '"stratum":"a', 7),
        r"items/multi_hop_math\.jsonl: line 7",
    ),
    "an answer file missing": (lambda run: answers(run).unlink(), r"nf4 lacks answers to \d+ items in nf4/multi_hop"),
    "a line of answers missing": (
        lambda run: lines_of(answers(run), lambda lines: lines[1:]),
        r"nf4 lacks answers to 1 items in nf4/multi_hop",
    ),
    "a line cut short": (
        lambda run: answers(run).write_bytes(answers(run).read_bytes()[:-9]),
        r"multi_hop_math-1of\d\.jsonl: line \d+ is cut short",
    ),
    "a line damaged": (lambda run: edit(answers(run), "}$", "", 2), r"jsonl: line 2 is damaged"),
    "a second answer": (
        lambda run: lines_of(answers(run), lambda lines: [*lines, lines[4]]),
        r"multi_hop_math-1of\d\.jsonl: line \d+: item .* is answered more than once \(besides .*line 5\)",
    ),
    "a shard's file duplicated": (
        lambda run: shutil.copy(answers(run), run / "nf4" / f"{damaged(run)}-9of9.jsonl"),
        r"nf4/multi_hop_math-9of9\.jsonl: is not a file of this run",
    ),
    "a score edited": (
        lambda run: edit(answers(run), r'"score":[01]\.0', '"score":0.5', 2),
        r"nf4/multi_hop_math-1of\d\.jsonl: line 2",
    ),
    "a score that is not a number": (
        lambda run: edit(answers(run), r'"score":[01]\.0', '"score":NaN', 2),
        r"nf4/multi_hop_math-1of\d\.jsonl: line 2",
    ),
    "score and metric edited alike": (
        lambda run: edit(answers(run), r'"exact_match":[01]\.0(.*)"score":[01]\.0', r'"exact_match":0.5\1"score":0.5'),
        r"nf4/(\*\.jsonl|multi_hop_math-1of\d\.jsonl: line 1)",
    ),
    "a metric edited": (
        lambda run: edit(answers(run), r'"exact_match":[01]\.0', '"exact_match":0.5', 2),
        r"nf4/multi_hop_math-1of\d\.jsonl: line 2",
    ),
    "the control's score edited": (
        lambda run: edit(next(run.glob(f"control/{damaged(run)}-1of*.jsonl")), r'"score":[01]\.0', '"score":0.5', 2),
        r"control/multi_hop_math-1of\d\.jsonl: line 2",
    ),
    "another item's digest": (
        lambda run: edit(answers(run), r'"item_digest":"\w+"', '"item_digest":"0000000000000000"', 2),
        r"nf4/multi_hop_math-1of\d\.jsonl: line 2",
    ),
    "an unknown item": (
        lambda run: edit(answers(run), r'"item_id":"[^"]+"(.*)"item_id":"[^"]+"', r'"item_id":"x"\1"item_id":"x"', 2),
        r"nf4/multi_hop_math-1of\d\.jsonl: line 2",
    ),
    "another unit": (
        lambda run: edit(answers(run), r'"unit":\d+', '"unit":77', 2),
        r"nf4/multi_hop_math-1of\d\.jsonl: line 2",
    ),
    "another variant's folder": (another_variant, r"nf4/"),
    "another variant's answers": (another_variants_answers, r"nf4/"),
    "a proof edited": (
        lambda run: edit_json(run / "nf4" / "variant.json", proof={"method": "bnb-nf4"}),
        r"nf4/variant\.json: proof\.kernel: field required",
    ),
    "weights edited": (
        lambda run: edit_json(run / "nf4" / "variant.json", weights="0000000000000000"),
        r"nf4/variant\.json: does not agree with manifest\.json",
    ),
    "a proof missing": (lambda run: (run / "nf4" / "variant.json").unlink(), r"nf4/variant\.json"),
    "the manifest missing": (lambda run: (run / "manifest.json").unlink(), r"manifest\.json: is missing"),
    "the manifest edited": (
        lambda run: edit_json(run / "manifest.json", items_digest="0000000000000000"),
        r"run\.json: does not agree with manifest\.json",
    ),
    "the manifest emptied": (lambda run: (run / "manifest.json").write_text("{}"), r"agree with manifest\.json"),
    "a slice taken out of run.json": (
        lambda run: edit_json(run / "run.json", slices=json.loads((run / "run.json").read_text())["slices"][1:]),
        r"run\.json: slices",
    ),
    "a margin edited in run.json": (
        lambda run: (run / "run.json").write_text(
            re.sub(r'"margin": 0\.\d+', '"margin": 0.45', (run / "run.json").read_text(encoding="utf-8"))
        ),
        r"run\.json: config",
    ),
    "a config that cannot be": (
        lambda run: edit_json(run / "run.json", config={"name": "x"}),
        r"run\.json: its config was changed",
    ),
    "a failure removed or added": (
        lambda run: (run / "nf4" / "failure-1of1.json").write_text('{"message": "it did not load"}'),
        r"nf4/failure-\*\.json: does not agree",
    ),
    "a shard's record missing": (lambda run: next(run.glob("shards/1of*.json")).unlink(), r"shard\(s\) incomplete"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_run_that_is_not_itself_is_not_judged(run: Path, damage: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 4 with the file, and the line if there is one: under a margin that passes, and under one that fails."""
    apply, named = DAMAGES[damage]
    named = re.sub("multi_hop(_math)?", damaged(run), named)
    apply(run)
    for words in (("gate", run, "--margin", "0.5"), ("gate", run, "--margin", "0.001"), ("compare", run)):
        capsys.readouterr()
        assert call(*words, "--quiet", "--rehearsal-ok") == ExitCode.NOT_COMPARABLE
        told = capsys.readouterr().err
        assert re.search(named, told), told
        assert "Traceback" not in told


def _plan_with(**changes: object) -> str:
    """The demo's run.json with other numbers."""
    return json.dumps(json.loads((RESULTS / "demo-cpu" / "run.json").read_text(encoding="utf-8")) | changes)


@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        ("nf4/cost-1of1.json", "{}", "cost-1of1.json: load_seconds: field required"),
        ("nf4/cost-1of1.json", '{"load_seconds": "1", "peak_bytes": 1, "device": "x"}', "1of1.json: load_seconds: "),
        ("nf4/cost-1of1.json", '{"load_seconds": 1, "peak_bytes": 1, "device": "x", "notes": [1]}', "notes.0: "),
        ("nf4/variant.json", "{}", "nf4/variant.json: proof: field required"),
        ("nf4/failure-1of1.json", "{}", "failure-1of1.json: message: field required"),
        ("nf4/failure-1of1.json", '{"message": ["x"]}', "failure-1of1.json: message: "),
        ("nf4/calibration.json", '{"items": 3}', "nf4/calibration.json: items: "),
        ("nf4/timings-1of1.jsonl", '{"unit": 0, "seconds": "x"}\n', "timings-1of1.jsonl: line 1: seconds: "),
        ("erased.json", '{"items": [{}]}', "erased.json: items.0: "),
        ("shards/1of1.json", '{"command": "\\ud800"}', "shards/1of1.json: is not JSON"),
        ("shards/1of1.json", '{"skipped": {"nf4": 5}}', "shards/1of1.json: skipped.nf4: "),
        ("manifest.json", '{"variants": "\\udfff"}', "manifest.json: is not JSON"),
        ("manifest.json", '{"variants": [], "shards": 1}', "manifest.json: variants: "),
        ("run.json", '{"config": {}, "shards": 0, "slices": []}', "run.json: "),
        ("run.json", _plan_with(units=None), "run.json: units: "),
        ("run.json", _plan_with(units=10**12), "run.json: units: "),
        ("run.json", _plan_with(shards=10**9), "run.json: shards: "),
        ("run.json", '{"config": {}, "shards": 1, "slices": [1]}', "run.json: "),
    ],
)
def test_a_damaged_record_is_one_sentence(
    file: str, text: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 4 and the file, for a key that is missing or of another type and for half of a surrogate pair."""
    run = Path(shutil.copytree(RESULTS / "demo-cpu", tmp_path / "run"))
    (run / file).write_text(text, encoding="utf-8")
    assert call("compare", run, "--quiet") == ExitCode.NOT_COMPARABLE
    told = capsys.readouterr().err
    assert said in told
    assert told.startswith("quantcliff: ")
    assert told.count("\n") == 1


@pytest.mark.parametrize("metrics", [[1], 5, "x", None])
def test_metrics_that_are_no_object_are_one_sentence(
    metrics: object, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also if the line has a check that fits."""
    run = Path(shutil.copytree(RESULTS / "demo-cpu", tmp_path / "run"))
    making.rewrite(run / "nf4" / "long_context-1of1.jsonl", lambda at, line: line.update(metrics=metrics) if at else 0)
    assert call("compare", run, "--quiet") == ExitCode.NOT_COMPARABLE
    assert re.match(r"quantcliff: .*nf4/long_context-1of1\.jsonl: line 2 ", capsys.readouterr().err)


@pytest.mark.parametrize("sample", ["0", None, 0.5])
def test_a_sample_that_is_no_number_is_one_sentence(
    sample: object, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also if the line has a check that fits."""
    run = Path(shutil.copytree(RESULTS / "demo-cpu", tmp_path / "run"))
    file = run / "nf4" / "long_context-1of1.jsonl"
    making.rewrite(file, lambda at, line: line["response"].update(sample=sample) if at else 0)
    assert call("compare", run, "--quiet") == ExitCode.NOT_COMPARABLE
    assert re.match(r"quantcliff: .*nf4/long_context-1of1\.jsonl: line 2 ", capsys.readouterr().err)


def placed_otherwise(run: Path, **changes: object) -> None:
    """Change a field of every third item, with its digest as it was, and seal the lines again."""
    path = run / "items" / "multi_hop_math.jsonl"
    lines = rundir.read_lines(path, rundir.ITEMS)
    for line in lines[::3]:
        item = item_from_json({key: value for key, value in line.items() if key not in {"unit", "look"}})
        line |= {"asked": item.digest(), **changes}
    path.write_text("".join(rundir.sealed(line, rundir.ITEMS) for line in lines), encoding="utf-8")


@pytest.mark.parametrize(
    ("apply", "named"),
    [
        (lambda run: edit(answers(run), r'"text":"', '"text":"Yes. ', 4), r"nf4/multi_hop_math-1of2\.jsonl: line 4"),
        (lambda run: edit(answers(run), r'"check":"\w+",', "", 4), r"nf4/multi_hop_math-1of2\.jsonl: line 4"),
        (lambda run: edit(answers(run), r'"empty":false', '"empty":true', 4), r"multi_hop_math-1of2\.jsonl: line 4"),
        (lambda run: edit_json(run / "run.json", description="better"), r"run\.json: does not agree"),
        (lambda run: edit_json(run / "shards" / "1of2.json", skipped={"nf4": [0]}), r"shards/1of2\.json: does not"),
        (
            lambda run: (
                edit_json(run / "nf4" / "calibration.json")
                if False
                else (run / "nf4" / "calibration.json").write_text('{"items": ["a"]}')
            ),
            r"nf4/calibration\.json: does not",
        ),
        (lambda run: placed_otherwise(run, look=2), r"items/\*\.jsonl: does not agree with manifest\.json"),
        (lambda run: placed_otherwise(run, look=None), r"items/multi_hop_math\.jsonl: line 1 has no unit or look"),
        (lambda run: placed_otherwise(run, unit="0"), r"items/multi_hop_math\.jsonl: line 1 has no unit or look"),
        (lambda run: placed_otherwise(run, chance=0.0, cluster="one"), r"items/\*\.jsonl: does not agree"),
        (lambda run: (run / "shards" / "1of2.json").write_bytes(b"\xff"), r"shards/1of2\.json: is not JSON"),
        (lambda run: (run / "manifest.json").write_text("[" * 50_000), r"manifest\.json: is not JSON"),
        (lambda run: edit_json(run / "shards" / "1of2.json", config_digest=math.nan), r"1of2\.json: is not JSON"),
        (lambda run: edit(run / "shards" / "1of2.json", "{", '{"x": 1e999,'), r"1of2\.json: is not JSON"),
        (lambda run: (run / "nf4" / "timings-1of2.jsonl").write_text("{}\n"), r"1of2\.jsonl: line 1: unit: field"),
        (lambda run: edit_json(run / "run.json", schema=3), r"run: its layout \(schema 3\) is that of another"),
        (lambda run: edit_json(run / "run.json", schema=1), r"run: its layout \(schema 1\) is that of another"),
    ],
)
def test_lines_and_records_of_todays_runs_are_sealed(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], apply: Callable[[Path], object], named: str
) -> None:
    """What no score shows is found too: texts, tail events, checks taken out, what shards skipped, the description."""
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    apply(run)
    assert call("gate", run, "--margin", "0.5", "--quiet", "--rehearsal-ok") == ExitCode.NOT_COMPARABLE
    assert re.search(named, capsys.readouterr().err)


def test_a_run_is_judged_without_planning_it_again(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Units and looks are recorded, so a later change of the planner changes no old verdict."""

    def changed(*_: object) -> None:
        raise AssertionError("planned again")

    monkeypatch.setattr(store_record, "plan_units", changed)
    assert call("compare", finished, "--quiet") == ExitCode.FAIL


@pytest.mark.parametrize("name", COMMITTED)
def test_committed_runs_of_an_earlier_version_are_judged_to_the_same_bytes(name: str, tmp_path: Path) -> None:
    """They have no schema, and record neither units nor looks; `status` shows them as complete."""
    run = Path(shutil.copytree(RESULTS / name, tmp_path / name))
    before = (run / "comparisons.json").read_bytes()
    assert call("status", run) == ExitCode.PASS
    assert call("compare", run, "--quiet") == ExitCode.FAIL
    assert (run / "comparisons.json").read_bytes() == before


def test_every_file_is_read_once(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One `compare` opens run.json and each file of items and answers once."""
    opened: Counter[str] = Counter()
    read_bytes, read_text = Path.read_bytes, Path.read_text

    def note(path: Path) -> None:
        if path.is_relative_to(run) and (path.suffix == ".jsonl" or path.name in {"run.json", "variant.json"}):
            opened[str(path.relative_to(run))] += 1

    monkeypatch.setattr(Path, "read_bytes", lambda path: (note(path), read_bytes(path))[1])
    monkeypatch.setattr(Path, "read_text", lambda path, *how, **more: (note(path), read_text(path, *how, **more))[1])
    assert call("compare", run, "--quiet") == ExitCode.FAIL
    assert {"run.json", "nf4/variant.json", "items/typical.jsonl", str(answers(run).relative_to(run))} <= set(opened)
    assert set(opened.values()) == {1}, opened


def test_a_run_goes_on_over_a_damaged_items_file(tiny_llama: Path, finished: Path, tmp_path: Path) -> None:
    """`run` writes the items again as they were planned, and never works on fewer."""
    copy = Path(shutil.copytree(finished, tmp_path / "trial"))
    path = copy / "items" / "multi_hop_math.jsonl"
    before = path.read_bytes()
    path.write_bytes(b"")
    again = ("run", config(tmp_path, tiny_llama), "--output", tmp_path, "--quiet", "--shard", "1/2", "--rehearsal-ok")
    assert call(*again) == ExitCode.PASS
    assert path.read_bytes() == before
    assert call("compare", copy, "--quiet") == ExitCode.FAIL


def test_a_run_does_not_go_on_over_edited_or_copied_answers(
    tiny_llama: Path, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`run` names the line and writes no manifest over it, whether it was edited or is another variant's."""
    copy = Path(shutil.copytree(finished, tmp_path / "trial"))
    another_variants_answers(copy)
    again = ("run", config(tmp_path, tiny_llama), "--output", tmp_path, "--quiet", "--shard", "1/2", "--rehearsal-ok")
    assert call(*again) == ExitCode.NOT_COMPARABLE
    assert "jsonl: line 1 is not what the run wrote there" in capsys.readouterr().err


def test_an_earlier_versions_run_is_not_continued(
    tiny_llama: Path, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It can be judged; its answers and those of today are not put together."""
    copy = Path(shutil.copytree(finished, tmp_path / "trial"))
    edit_json(copy / "run.json", schema=0)
    again = ("run", config(tmp_path, tiny_llama), "--output", tmp_path, "--quiet", "--shard", "1/2")
    assert call(*again) == ExitCode.NOT_COMPARABLE
    assert "can be judged but not continued" in capsys.readouterr().err


def test_an_erased_run_is_still_itself(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Texts go, every digest holds, and the comparison is the same, byte for byte."""
    before = (run / "comparisons.json").read_bytes()
    first = json.loads((run / "items" / "typical.jsonl").read_text(encoding="utf-8").splitlines()[0])["id"]
    assert call("erase", run, "--item", first) == ExitCode.PASS
    assert first not in {one.id for one in RunDir(run).items() if one.prompt}
    assert call("compare", run, "--quiet") == ExitCode.FAIL
    assert (run / "comparisons.json").read_bytes() == before
    edit(run / "items" / "multi_hop_math.jsonl", r'"prompt":"', '"prompt":"Psst. ', 3)
    assert call("compare", run, "--quiet") == ExitCode.NOT_COMPARABLE
    assert "items/multi_hop_math.jsonl: line 3" in capsys.readouterr().err


def test_erasing_from_a_run_that_cannot_be_judged_removes_its_reports(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Reports that cannot be written again without a text do not keep it."""
    (run / "manifest.json").unlink()
    first = json.loads((run / "items" / "typical.jsonl").read_text(encoding="utf-8").splitlines()[0])["id"]
    assert call("erase", run, "--item", first) == ExitCode.PASS
    assert not any((run / name).exists() for name in ("report.html", "report.md", "junit.xml"))
    assert "deleted, as the run cannot be judged again: report.md, report.html, junit.xml" in capsys.readouterr().out


REPORTS = {"verdict.json", "comparisons.json", "comparisons.csv", "comparisons.parquet", "report.md", "junit.xml"}


@pytest.mark.parametrize("command", ["compare", "report", "run"])
def test_a_verdict_does_not_outlive_the_record_it_was_made_of(
    tiny_llama: Path, finished: Path, tmp_path: Path, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """What a CI reads says pass no longer once a command ends in 4 on a damaged run; records stay."""
    run = Path(shutil.copytree(finished, tmp_path / "trial"))
    edit(answers(run), r'"score":0\.0', '"score":1.0')
    records = {path: path.read_bytes() for path in run.glob("*/*.jsonl")}
    words = ("run", config(tmp_path, tiny_llama), "--output", tmp_path, "--shard", "1/2")
    assert call("gate", run, "--quiet") == ExitCode.NOT_COMPARABLE
    assert {path.name for path in run.iterdir()} >= REPORTS  # `gate` changes no file
    assert call(*(words if command == "run" else (command, run)), "--quiet") == ExitCode.NOT_COMPARABLE
    left = {path.name for path in run.iterdir()}
    assert not left & REPORTS
    assert not [name for name in left if name.startswith("model-index")]
    assert "(its earlier verdict and reports were deleted)" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in records} == records


def test_reports_stay_where_nothing_is_wrong_with_the_record(tiny_llama: Path, finished: Path, tmp_path: Path) -> None:
    """A run refused for another config, a run of another version, a folder that holds no run."""
    run = Path(shutil.copytree(finished, tmp_path / "trial"))
    other = config(tmp_path, tiny_llama, seed=7)
    assert call("run", other, "--output", tmp_path, "--shard", "1/2", "--quiet") == ExitCode.NOT_COMPARABLE
    edit_json(run / "run.json", schema=3)
    assert call("compare", run, "--quiet") == ExitCode.NOT_COMPARABLE
    assert {path.name for path in run.iterdir()} >= REPORTS
    (tmp_path / "junit.xml").write_text("of the project's own tests", encoding="utf-8")
    assert call("report", tmp_path, "--quiet") == ExitCode.NOT_COMPARABLE
    assert (tmp_path / "junit.xml").is_file()


def test_a_trial_does_not_replace_the_verdict(run: Path) -> None:
    """`compare --margin` and `gate` show; `report` judges by the run's own policy and ignores an edited exit code."""
    before = {name: (run / name).read_bytes() for name in ("comparisons.json", "verdict.json", "report.md")}
    assert call("compare", run, "--margin", "0.5", "--quiet", "--rehearsal-ok") != ExitCode.FAIL
    assert {name: (run / name).read_bytes() for name in before} == before
    edit_json(run / "comparisons.json", exit_code=0, verdict="pass")
    assert call("report", run, "--quiet") == ExitCode.FAIL
    assert (run / "comparisons.json").read_bytes() == before["comparisons.json"]


@pytest.mark.parametrize("command", ["compare", "gate"])
def test_a_rehearsal_does_not_end_in_0(finished: Path, command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Made-up answers pass nothing, unless the caller says so."""
    assert call(command, finished, "--margin", "0.5", "--quiet") == ExitCode.NOT_COMPARABLE
    assert "--rehearsal-ok" in capsys.readouterr().err
    assert call(command, finished, "--margin", "0.5", "--quiet", "--rehearsal-ok") == ExitCode.PASS
    for flags, code in (((), ExitCode.NOT_COMPARABLE), (("--rehearsal-ok",), ExitCode.PASS)):
        capsys.readouterr()
        assert call(command, finished, "--margin", "0.5", "--json", *flags) == code
        told = json.loads(capsys.readouterr().out)  # nor does what a program reads say so
        passed = code == ExitCode.PASS
        words = {told["verdict"], *(one["verdict"] for one in told["candidates"])}
        assert (told["exit_code"], words) == (code, {"pass" if passed else "not_judged"})


def green(run: Path) -> bool:
    """Whether a run's report and its JUnit file say that it passed: both do, or none does."""
    junit = (run / "junit.xml").read_text(encoding="utf-8").splitlines()[1]
    found = {(run / "report.md").read_text(encoding="utf-8").startswith("## ✔"), ' failures="0" errors="0"' in junit}
    assert len(found) == 1
    return found.pop()


def test_no_file_on_a_rehearsal_says_pass(tmp_path: Path, tiny_llama: Path) -> None:
    """Neither report nor badge does, nor the reports that are written again when an item is erased."""
    path = config(tmp_path, tiny_llama, execution={"device": "cpu", "rehearsal": {}})
    assert call("run", path, "--output", tmp_path / "run", "--quiet") == ExitCode.NOT_COMPARABLE
    (run,) = (path.parent for path in tmp_path.rglob("verdict.json"))
    item = RunDir(run).items()[0].id
    for _ in range(2):
        assert not green(run)
        assert "<strong>Yes:" not in (run / "report.html").read_text(encoding="utf-8")
        assert call("erase", run, "--item", item) == ExitCode.PASS
    assert call("history", run, "--output", tmp_path) == ExitCode.PASS
    assert json.loads((tmp_path / "badge.json").read_text())["message"] == "not judged"
    assert call("compare", run, "--quiet", "--rehearsal-ok") == ExitCode.PASS
    assert call("erase", run, "--item", item) == ExitCode.PASS
    assert green(run)


@pytest.mark.parametrize(
    "flag", ["--stratum=a", "--metric=acc", "--item=id", "--allow-unmatched=0", "--repeats=mean", "--output=x"]
)
def test_flags_for_files_are_refused_for_a_run(run: Path, flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A flag that would be ignored is refused by its name."""
    assert call("compare", run, flag) == ExitCode.USAGE
    assert flag.partition("=")[0] in capsys.readouterr().err


def as_baseline(run: Path, **changes: object) -> None:
    """Make nf4 of a committed run a candidate of method none, with the baseline's proof and what is given."""
    plan = json.loads((run / "run.json").read_text(encoding="utf-8"))
    for one in plan["config"]["candidates"]:
        if one["name"] == "nf4":
            one["quantization"], one["model"] = plan["config"]["baseline"]["quantization"], "./copy"
            one["dtype"] = changes.get("dtype")
    plan["config_digest"] = digest({key: value for key, value in plan["config"].items() if key != "store_text"})
    (run / "run.json").write_text(json.dumps(plan), encoding="utf-8")
    edit_json(run / "shards" / "1of1.json", config_digest=plan["config_digest"])
    shutil.copy(run / "bf16" / "variant.json", run / "nf4" / "variant.json")
    identity = json.loads((run / "nf4" / "variant.json").read_text(encoding="utf-8"))
    identity["weights"] = changes.get("weights", identity["weights"])
    identity["proof"]["compute_dtype"] = changes.get("dtype") or identity["proof"]["compute_dtype"]
    (run / "nf4" / "variant.json").write_text(json.dumps(identity), encoding="utf-8")
    if changes.get("answers"):
        another_variants_answers(run)
        for path in run.glob("nf4/[!t]*-1of*.jsonl"):
            making.rewrite(path, lambda *_: None)
        making.rewrite(run / "nf4" / "typical-1of1.jsonl", lambda *_: None)
    write_manifest(RunDir(run))


@pytest.mark.parametrize(
    ("changes", "right"),
    [
        ({}, ExitCode.NOT_COMPARABLE),
        ({"weights": "0123456789abcdef"}, ExitCode.FAIL),
        ({"weights": "0123456789abcdef", "answers": True}, ExitCode.NOT_COMPARABLE),
        ({"dtype": "float16"}, ExitCode.FAIL),
    ],
)
def test_a_candidate_that_is_the_baseline_is_refused(tmp_path: Path, changes: dict[str, object], right: int) -> None:
    """The same weights, or the same answers, of one method and dtype are one model; another dtype is another."""
    run = Path(shutil.copytree(RESULTS / "demo-cpu", tmp_path / "run"))
    as_baseline(run, **changes)
    refused = right == ExitCode.NOT_COMPARABLE
    assert call("gate", run, "--quiet") == right
    int8, nf4 = judging.judge(load_run(RunDir(run))).candidates
    assert int8.verdict == "pass"  # as without it
    assert (nf4.verdict == "not_judged" and not nf4.strata and "is the baseline itself" in nf4.reasons[0]) == refused
    assert call("history", run) == ExitCode.PASS
    assert call("gate", run, "--quiet", "--allow-identical") != ExitCode.NOT_COMPARABLE


def test_reports_on_an_erased_run_hold_the_baseline_to_be_a_candidate_only_if_they_did(tmp_path: Path) -> None:
    """A candidate that was not judged, as it is the baseline, does not pass because an item was erased."""
    run = Path(shutil.copytree(RESULTS / "demo-cpu", tmp_path / "run"))
    as_baseline(run, answers=True)
    item = RunDir(run).items()[0].id
    for flags, passed in (((), False), (("--allow-identical",), True)):
        assert (call("compare", run, "--quiet", *flags) == ExitCode.PASS) == passed
        assert call("erase", run, "--item", item) == ExitCode.PASS
        assert green(run) == passed
    (run / "verdict.json").write_text("{}")
    assert call("erase", run, "--item", item) == ExitCode.PASS
    assert not (run / "report.md").exists(), "how the run was judged is not known"


def test_a_run_of_which_no_candidate_is_left_is_refused(tmp_path: Path) -> None:
    """There is no table to show if every candidate is the baseline."""
    run = Path(shutil.copytree(RESULTS / "demo-cpu", tmp_path / "run"))
    as_baseline(run)
    record = load_run(RunDir(run))
    record.failures["int8"] = ("out of memory",)
    with pytest.raises(NotComparable, match=r"nf4.variant.json: nf4 is the baseline itself"):
        judging.judge(record)


def test_a_candidate_that_is_the_baseline_is_refused_without_its_texts(tmp_path: Path) -> None:
    """Where texts are not kept, or were erased, lengths and scores that are all the same tell it."""
    run = Path(shutil.copytree(RESULTS / "demo-cpu", tmp_path / "run"))
    as_baseline(run, weights="0123456789abcdef", answers=True)
    record, policy = load_run(RunDir(run)), TextPolicy("none")
    for files in record.answers.values():
        for name, lines in files.items():
            files[name] = [policy.scored(one) for one in lines if one.response.type == "generation"]
    record.failures["int8"] = ("out of memory",)
    with pytest.raises(NotComparable, match=r"nf4 is the baseline itself .*every answer is the same"):
        judging.judge(record)


@pytest.mark.parametrize("same", ["the file", "a copy"])
def test_one_file_on_both_sides_is_refused(tmp_path: Path, same: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The same bytes are no comparison, unless an A/A comparison is meant."""
    one, other = tmp_path / "a.csv", tmp_path / ("a.csv" if same == "the file" else "b.csv")
    one.write_text("item,score\n" + "".join(f"q{at},{int(at % 10 > 0)}\n" for at in range(400)), encoding="utf-8")
    other.write_bytes(one.read_bytes())
    words = ("compare", "--baseline", one, "--candidate", f"nf4={other}", "--quiet")
    assert call(*words) == ExitCode.NOT_COMPARABLE
    assert "byte for byte" in capsys.readouterr().err
    assert call(*words, "--allow-identical") == ExitCode.PASS
    good, bad = tmp_path / "good.csv", tmp_path / "bad.csv"
    for path, period in ((good, 11), (bad, 3)):
        rows = "".join(f"q{at},{int((at % 10 > 0 and at % period > 0) or at < 30)}\n" for at in range(400))
        path.write_text(f"item,score\n{rows}", encoding="utf-8")
    for path, right in ((good, ExitCode.NOT_COMPARABLE), (bad, ExitCode.FAIL)):  # it costs no other its verdict
        flags = ("--candidate", f"int8={path}", "--margin", "0.15", "--json")
        capsys.readouterr()
        assert call(*words[:-1], *flags) == right
        nf4, int8 = json.loads(capsys.readouterr().out)["candidates"]
        assert (nf4["verdict"], int8["verdict"]) == ("not_judged", "pass" if path is good else "fail")


def test_a_proof_must_fit_the_config(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A candidate loaded by another method than the config names is refused, though the manifest agrees."""
    run = Path(shutil.copytree(RESULTS / "demo-cpu", tmp_path / "run"))
    shutil.copy(run / "int8" / "variant.json", run / "nf4" / "variant.json")
    write_manifest(RunDir(run))
    assert call("gate", run, "--quiet") == ExitCode.NOT_COMPARABLE
    assert "nf4/variant.json: nf4: the config says bnb-nf4" in capsys.readouterr().err


def test_a_record_holds_what_is_judged(finished: Path) -> None:
    """Items with their unit and look, and the answers of every variant from both shards."""
    run = load_run(RunDir(finished))
    assert run.schema == rundir.SCHEMA
    assert set(run.unit_of) == set(run.look_of) == {item.id for item in run.items}
    assert {name: len(run.of(name)) for name in run.answers} == {"bf16": 100, "control": 100, "nf4": 100}
    assert all(one.unit == run.unit_of[one.item_id] for one in run.of("nf4"))


def test_a_candidate_that_read_the_prompts_otherwise_is_not_compared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A merge or a special token that its tokenizer lacks may be in no probe text, and is in the prompts."""
    run = Path(shutil.copytree(RESULTS / "demo-cpu", tmp_path / "run"))

    def longer(at: int, line: dict[str, Any]) -> None:
        line["response"]["prompt_tokens"] += at == 1

    making.rewrite(answers(run), longer)
    write_manifest(RunDir(run))
    assert call("compare", run, "--quiet") == ExitCode.NOT_COMPARABLE
    said = capsys.readouterr().err
    assert "nf4/variant.json: quantcliff_lookup/" in said
    assert "has other tokens than for the baseline" in said


@pytest.mark.parametrize("name", ["engine", "torch"])
def test_sides_that_another_version_answered_are_not_compared(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An upgrade between a kill and its resumption changes answers as much as int8 does; extra packages do not."""
    run = Path(shutil.copytree(RESULTS / "demo-cpu", tmp_path / "run"))
    path = run / "int8" / "variant.json"
    identity = json.loads(path.read_text(encoding="utf-8"))
    identity["versions"]["gguf"] = "1"
    edit_json(path, versions=identity["versions"])
    write_manifest(RunDir(run))
    assert call("compare", run, "--quiet") == ExitCode.FAIL
    changed = {"engine": {"engine": "hf/6"}, "torch": {"versions": {**identity["versions"], "torch": "2.0"}}}
    edit_json(path, **changed[name])
    write_manifest(RunDir(run))
    assert call("compare", run, "--quiet") == ExitCode.NOT_COMPARABLE
    assert f"int8/variant.json: int8 answered with {name} " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda run: edit_json(run / "nf4" / "variant.json", weights="0"), "nf4/variant.json"),
        (lambda run: (run / "nf4" / "calibration.json").write_text('{"items": []}'), "nf4/calibration.json"),
    ],
)
def test_a_run_given_again_does_not_take_over_what_was_edited(
    finished: Path, tmp_path: Path, change: Callable[[Path], object], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is asked, so what answered is what the manifest says; one that is asked again is taken anew."""
    run = Path(shutil.copytree(finished, tmp_path / "trial"))
    words = ("run", finished.parent / "trial.yaml", "--output", tmp_path, "--quiet", "--rehearsal-ok", "--shard", "1/2")
    change(run)
    assert call(*words) == ExitCode.NOT_COMPARABLE
    assert f"{named}: does not agree with manifest.json" in capsys.readouterr().err
    shutil.rmtree(run / "nf4")
    assert call(*words) == ExitCode.PASS


def test_the_record_of_another_runs_shard_is_none_of_this_run(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Copied here while the run went on, so that the manifest holds it too: `compare` refuses what `status` does."""
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    edit_json(run / "shards" / "2of2.json", config_digest="another")
    write_manifest(RunDir(run))
    for command in ("compare --quiet", "status"):
        assert call(*command.split(), run) == ExitCode.NOT_COMPARABLE
        said = "".join(capsys.readouterr())
        assert "is not the record of a shard of this run: remove it" in " ".join(said.split())
