"""Erasing an item: its texts are gone from the whole run, and the verdict is computed again to the byte."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import making
import private_runs
import pytest
from private_runs import PLAIN, call, holding, own_word

from harness.errors import ExitCode, StoreError
from harness.judge import judging
from harness.records import Item, Scored
from harness.report import run_evidence
from harness.store import erasing
from harness.store.rundir import RunDir, Shard
from harness.store.whole import load_run


@pytest.fixture(scope="module")
def original(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A judged run that keeps all texts; every item has a word of its own in all of them."""
    directory = private_runs.run(tmp_path_factory.mktemp("original"), tiny_llama)
    (directory / private_runs.STEP_SUMMARY).unlink()  # the CI system's, who keeps it: out of reach
    return directory


@pytest.fixture
def made(original: Path, tmp_path: Path) -> Path:
    """A copy of the run to erase from, with words of the first flip in a worker's log and in what a kill left."""
    copy = Path(shutil.copytree(original, tmp_path / "private"))
    index, _ = flipped(copy)
    (copy / "nf4" / "worker-1of1.log").write_text(f"warning: {own_word(index)} is long\n")
    (copy / "items" / ".typical.jsonl.k1ll3d").write_text(own_word(index))
    with (copy / "nf4" / "multi_hop_math-1of1.jsonl").open("a") as file:
        file.write(f'{{"item_id": "cut {own_word(index)}')
    return copy


def flipped(directory: Path) -> tuple[int, Item]:
    """The first item that the candidate lost: the reports show it. With its number among all items."""
    scores = {one.item_id: one.score for one in RunDir(directory).all_results("nf4")}
    right = {one.item_id for one in RunDir(directory).all_results("bf16") if one.score == 1.0}
    items = RunDir(directory).items()
    return next((index, item) for index, item in enumerate(items) if item.id in right and scores[item.id] == 0.0)


def scored(directory: Path) -> list[tuple[str, str, float | None, int]]:
    """What is left of each answer beside its text."""
    results: list[Scored] = [one for name in ("bf16", "control", "nf4") for one in RunDir(directory).all_results(name)]
    return [(one.item_id, one.item_digest, one.score, one.unit) for one in results]


def test_an_erased_item_is_nowhere(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Items, answers of every variant, token ids, logs, half-written files, page, comment: its word is in none."""
    index, item = flipped(made)
    before = holding(made, own_word(index))
    expected = ("items/multi_hop_math.jsonl", "bf16/multi_hop_math-1of1.jsonl", "report.html", "nf4/worker-1of1.log")
    assert {*expected, "items/.typical.jsonl.k1ll3d"} <= set(before)
    assert call("erase", made, "--item", item.id) == ExitCode.PASS
    assert holding(made, own_word(index)) == []
    responses = [one.response for name in ("bf16", "nf4") for one in RunDir(made).all_results(name)]
    assert [one.token_ids for one in responses if one.item_id == item.id] == [(), ()]
    out = capsys.readouterr().out
    assert f"erased 1 item(s): {item.id}" in out
    assert "removed: the texts of 1 item(s) and 3 answer(s); 1 log(s) emptied, 1 half-written file(s) deleted" in out
    assert "written again without them: report.md" in out
    assert "not reached: copies outside of the run" in out


def test_nothing_else_is_gone(made: Path) -> None:
    """Every other item keeps its texts, and every answer its item, digest and score."""
    index, item = flipped(made)
    before, words = scored(made), RunDir(made).items()
    assert call("erase", made, "--item", item.id) == ExitCode.PASS
    assert scored(made) == before
    after = RunDir(made).items()
    assert [one for one in after if one.id != item.id] == [one for one in words if one.id != item.id]
    assert after[index].digest() == item.digest()
    assert len(holding(made, PLAIN)) >= 6


def test_the_verdict_is_computed_again_to_the_byte(made: Path) -> None:
    """Compare after erasing half of a slice gives the comparisons, the verdict and the manifest of before."""
    names = ("comparisons.json", "verdict.json", "manifest.json", "comparisons.csv", "junit.xml")
    before = {name: (made / name).read_bytes() for name in names}
    chosen = [word for item in RunDir(made).items()[::2] for word in ("--item", item.id)]
    assert call("erase", made, *chosen) == ExitCode.PASS
    assert call("compare", made, "--quiet") == ExitCode.FAIL
    assert {name: (made / name).read_bytes() for name in names} == before


def test_a_whole_source_is_erased_at_once(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With --cluster all items of a source go; with --item the others that share it are pointed out."""
    path = made / "items" / "multi_hop_math.jsonl"
    lines = [json.loads(line) for line in path.read_bytes().splitlines()]
    making.rewrite(path, lambda at, line: line.update(cluster="customer 7") if at < 3 else None)
    assert call("erase", made, "--item", lines[0]["id"]) == ExitCode.PASS
    assert "left alone: 2 item(s) that share a source" in capsys.readouterr().out
    assert call("erase", made, "--cluster", "customer 7") == ExitCode.PASS
    assert "erased 3 item(s)" in capsys.readouterr().out
    assert [bool(item.prompt) for item in RunDir(made).items()[:4]] == [False, False, False, True]
    assert RunDir(made).erased() == {line["id"] for line in lines[:3]}


def test_erasing_again_finds_nothing(made: Path) -> None:
    """An erasure that was cut short is given again: what is gone already is not counted twice."""
    _, item = flipped(made)
    directory = RunDir(made)
    assert " 3 answer(s)" in erasing.erase(directory, [item])[1]
    assert " 0 answer(s)" in erasing.erase(directory, erasing.select_items(directory, [item.id], []))[1]


def test_what_was_erased_does_not_come_back(made: Path, tiny_llama: Path) -> None:
    """Answers are lost and the run is given again: the erased item is answered and scored, its texts are not kept."""
    index, item = flipped(made)
    assert call("erase", made, "--item", item.id) == ExitCode.PASS
    comparisons = (made / "comparisons.json").read_bytes()
    for path in (made / "nf4" / f"{item.slice}-1of1.jsonl", made / "shards" / "1of1.json"):
        path.unlink()
    private_runs.run(made.parent, tiny_llama)
    assert (made / "comparisons.json").read_bytes() == comparisons
    assert item.id in {one.item_id for one in RunDir(made).all_results("nf4")}
    assert holding(made, own_word(index)) == []


@pytest.mark.parametrize("flag", ["--item", "--cluster"])
def test_an_unknown_name_erases_nothing(made: Path, flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 2; not even the items that were named rightly beside it are touched, and no part of an id counts."""
    _, item = flipped(made)
    before = {path: path.read_bytes() for path in made.rglob("*") if path.is_file()}
    assert call("erase", made, "--item", item.id, flag, item.id[:-1]) == ExitCode.USAGE
    error = capsys.readouterr().err
    assert f"{item.id[:-1]}' is not" in error
    assert "nothing was erased" in error
    assert {path: path.read_bytes() for path in made.rglob("*") if path.is_file()} == before
    assert call("erase", made) == ExitCode.USAGE
    assert "--item ID or --cluster NAME" in capsys.readouterr().err


def test_a_run_that_is_being_worked_on_is_left_alone(made: Path) -> None:
    """What another process appends at the same moment would be lost, or would stay: it is refused."""
    _, item = flipped(made)
    with RunDir(made).locked(Shard()), pytest.raises(StoreError, match="another process is working on shard"):
        erasing.erase(RunDir(made), [item])


def test_an_erased_item_is_shown_as_such(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The page, the comment and `show` say that texts are missing and why."""
    _, item = flipped(made)
    call("erase", made, "--item", item.id)
    capsys.readouterr()
    assert call("show", made, item.id) == ExitCode.PASS
    assert "The texts of this item are not stored" in capsys.readouterr().out
    assert "Items whose texts were erased (quantcliff erase): 1." in (made / "report.html").read_text(encoding="utf-8")
    record = load_run(RunDir(made))
    evidence = run_evidence.evidence(record, judging.judge(record))
    assert [one.stored for one in evidence.flips if one.item_id == item.id] == [False]
