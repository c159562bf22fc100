"""Runs over time: copies of the committed demo with other answers, items and versions, read into one database."""

from __future__ import annotations

import json
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from commands import call
from making import rewrite

from harness import stats
from harness.errors import ExitCode
from harness.history import changes, sections
from harness.history.database import History
from harness.records import digest
from harness.store.files import read_json, write_json
from harness.store.rundir import RunDir
from harness.store.whole import write_manifest

LOST = 20
SAME = "task=lookup,keys=3,answer=present"
OTHER = "task=lookup,keys=12,answer=present"


def with_other_items(folder: Path) -> None:
    """Ask the items of one stratum in other words."""
    directory, label = RunDir(folder), "long_context"

    def reworded(_: int, line: dict[str, Any]) -> None:
        line["prompt"] += " " if line["stratum"] == OTHER else ""

    rewrite(directory.items_path(label), reworded)
    digests = {item.id: item.digest() for item in directory.items()}
    for path in folder.glob(f"*/{label}-*.jsonl"):
        rewrite(path, lambda _, line: line.update(item_digest=digests[line["item_id"]]))
    write_json(folder / "run.json", {**directory.plan(), "items_digest": digest([*digests.values()])})


def with_losses(folder: Path) -> None:
    """Take 20 of int8's right answers in the other stratum, under a newer torch."""
    stratum = {item.id: item.stratum for item in RunDir(folder).items()}
    left = LOST

    def lose(_: int, line: dict[str, Any]) -> None:
        nonlocal left
        if stratum[line["item_id"]] == SAME and line["score"] == 1.0 and left:
            left -= 1
            line["score"] = line["metrics"][line["metric"]] = 0.0

    rewrite(next(folder.glob("int8/long_context-*.jsonl")), lose)
    for path in folder.glob("*/variant.json"):
        known = read_json(path)
        write_json(path, {**known, "versions": {**known["versions"], "torch": "2.14.0"}})


@pytest.fixture(scope="module")
def runs(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of four runs: the demo, the same again, one of other items, one with other items and losses."""
    folder = tmp_path_factory.mktemp("nightly")
    source = repository / "results" / "demo-cpu"
    for number, edits in enumerate(((), (), (with_other_items,), (with_other_items, with_losses)), 9):
        copy = folder / f"build-{number}"
        shutil.copytree(source, copy, ignore=shutil.ignore_patterns("report.*", "*.parquet"))
        for edit in edits:
            edit(copy)
        write_manifest(RunDir(copy))
    return folder


@pytest.fixture(scope="module")
def database(runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file that `quantcliff history` made of them."""
    path = tmp_path_factory.mktemp("db") / "history.sqlite"
    assert call("history", runs, "--db", path) == ExitCode.PASS
    return path


def test_runs_are_read_in_natural_order_with_the_judges_own_figures(database: Path, repository: Path) -> None:
    """build-9 comes before build-10, and each figure of the first is that of the demo's comparisons.json."""
    history = History(database)
    names = [row["name"] for row in history.rows("SELECT name FROM runs ORDER BY run")]
    assert names == ["build-9", "build-10", "build-11", "build-12"]
    whole = json.loads((repository / "results/demo-cpu/comparisons.json").read_text(encoding="utf-8"))
    for candidate in whole["candidates"]:
        for stratum in candidate["strata"]:
            (row,) = history.rows(
                "SELECT * FROM strata WHERE run = 1 AND candidate = ? AND slice = ? AND stratum = ?",
                *(candidate["name"], stratum["slice"], stratum["stratum"]),
            )
            for name in ("n", "delta", "low", "high", "lost", "gained", "margin", "verdict", "p_adjusted"):
                assert row[name] == stratum[name], name


def test_runs_of_other_items_are_another_series(database: Path) -> None:
    """The reworded stratum has two series, each with its runs only, the others have one; and it is said."""
    history = History(database)
    found = [(rows[0]["stratum"], which, {row["run"] for row in rows}) for which, rows in sections.series(history)]
    assert [one[1:] for one in found if one[0] == OTHER] == [("items 1 of 2", {1, 2}), ("items 2 of 2", {3, 4})]
    assert [one[1:] for one in found if one[0] == SAME] == [("", {1, 2, 3, 4})]
    shown = sections.trend(history)
    (chart,) = [one for one in shown.charts if "3 keys" in one.title]
    (line,) = [one for one in chart.lines if one.name == "int8"]
    assert [x for x, _ in line.points] == ["#1", "#2", "#3", "#4"]
    assert len(line.limits) == 4
    assert line.limits[0][0] < line.points[0][1] < line.limits[0][1]
    assert "12 keys" in shown.sentences[0]
    assert "3 keys" not in shown.sentences[0]


def test_a_regression_is_found_item_by_item(database: Path) -> None:
    """The planted losses are counted by the judge's own test; other items are compared with nothing."""
    compared = changes.since(History(database), "build-9")
    assert compared is not None
    (worst,) = compared.regressed
    assert (worst.variant, worst.stratum, worst.gating) == ("int8", SAME, True)
    assert worst.result is not None
    assert (worst.result.lost, worst.result.gained) == (LOST, 0)
    expected = stats.paired_counts_test(LOST, 0, worst.result.n, 0.15, 0.05)
    assert (worst.result.low, worst.result.high, worst.result.p_fail) == (expected.low, expected.high, expected.p_fail)
    assert OTHER not in {one.stratum for one in compared.moves}
    assert compared.left_out == (f"long_context/{OTHER}",)
    assert {one.variant for one in compared.moves} == {"bf16", "int8", "nf4"}
    assert all(one.result for one in compared.moves), "strata in which no candidate was asked are not listed"
    assert {one.verdict for one in compared.moves if one.variant == "bf16" and one.gating} == {"pass"}
    assert (
        f"1 regressed: int8 in long_context/{SAME} (-33.3 points);"
        in sections.headline(History(database), compared)[-1]
    )


def test_a_gated_rate_and_a_candidate_that_is_gone_are_found(database: Path, tmp_path: Path) -> None:
    """A rate of tail events that passed and fails has regressed; a candidate without a verdict is not passed over."""
    copy = shutil.copy(database, tmp_path / "copy.sqlite")
    with sqlite3.connect(copy) as file:
        change = (
            "UPDATE tail_rates SET verdict = iif(run = 4, 'fail', 'pass') WHERE (candidate, kind, stratum) = (?, ?, ?)"
        )
        file.execute(change, ("nf4", "repetition", SAME))
        file.execute("DELETE FROM strata WHERE run = 4 AND candidate = 'int8'")
    compared = changes.since(History(copy))
    assert compared is not None
    assert [(one.variant, one.kind, one.stratum) for one in compared.regressed] == [("nf4", "repetition", SAME)]
    assert compared.left_out == ("int8",)
    said = sections.headline(History(copy), compared)
    assert said[-1].startswith("Since build-11")
    assert said[-2] == "Settings that changed since build-11: versions.torch from 2.13.0+cpu to 2.14.0."


def test_a_gate_that_is_turned_off_is_said_and_hides_no_regression(
    database: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A stratum made advisory still counts; a wider margin is named; without a tolerance, or rehearsed, is unknown."""
    copy = tmp_path / "copy.sqlite"
    flags = "history", "--db", copy, "--fail-on-regression", "--since"

    def call_after(*updates: str) -> tuple[int, str]:
        shutil.copy(database, copy)
        with sqlite3.connect(copy) as file:
            for one in updates:
                file.execute(f"UPDATE {one}")
        return call(*flags, "build-11"), " ".join(capsys.readouterr().out.split())

    advisory = f"strata SET gating = 0 WHERE run = 4 AND stratum = '{SAME}'"
    code, said = call_after(advisory)
    assert (code, f"long_context/{SAME} (advisory now)" in said) == (ExitCode.FAIL, True)
    # In neither of the two runs it decides: no regression, and that it did once is said.
    longer = f"strata SET gating = 0 WHERE run IN (3, 4) AND stratum = '{SAME}'"
    code, said = call_after(longer, "strata SET gating = 0 WHERE run = 2")
    assert f"long_context/{SAME} (advisory then too, gated earlier)" in said
    assert f"long_context/{OTHER} (advisory" not in said
    others = f"strata SET gating = 0 WHERE stratum = '{SAME}'"
    assert f"long_context/{SAME} (advisory then" not in call_after(others)[1]
    passed = "candidates SET verdict = 'pass' WHERE run = 4"
    wider = "strata SET margin = 0.5, verdict = 'pass' WHERE run = 4 AND slice = 'long_context'"
    code, said = call_after(wider, passed)
    assert code == ExitCode.PASS
    assert f"The gate asks for less than in build-11: long_context/{OTHER} (margin 50, then 15 points)" in said
    held = "tail_rates SET tolerance = 0.1, verdict = 'pass' WHERE kind = 'repetition' AND run = 3"
    code, said = call_after(wider, passed, held)
    assert (code, "repetition (it has no tolerance now)" in said) == (ExitCode.NOT_COMPARABLE, True)
    more = "tail_rates SET tolerance = 0.2, verdict = 'pass' WHERE kind = 'repetition' AND run = 4"
    code, said = call_after(wider, passed, held, more)
    assert (code, "repetition (tolerance 20 %, then 10 %)" in said) == (ExitCode.PASS, True)
    assert call_after(wider, passed, "runs SET rehearsal = 1 WHERE run = 4")[0] == ExitCode.NOT_COMPARABLE


@pytest.mark.parametrize(
    ("before", "after", "code"),
    [("pass", "fail", ExitCode.FAIL), ("pass", "not_judged", ExitCode.NOT_COMPARABLE), ("fail", "fail", ExitCode.PASS)],
)
def test_a_candidate_as_a_whole_is_no_pass(
    database: Path, tmp_path: Path, before: str, after: str, code: ExitCode, capsys: pytest.CaptureFixture[str]
) -> None:
    """One that fails by its pooled margin, or that the control takes back, though each stratum is as it was."""
    copy = shutil.copy(database, tmp_path / "copy.sqlite")
    with sqlite3.connect(copy) as file:
        for table in ("runs", "strata", "candidates", "tail_rates", "answers", "facts"):
            file.execute(f"DELETE FROM {table} WHERE run > 2")  # noqa: S608 - names of our own
        for run, word in ((1, before), (2, after)):
            file.execute("UPDATE candidates SET verdict = ? WHERE run = ? AND candidate = 'int8'", (word, run))
    assert call("history", "--db", copy, "--fail-on-regression") == code
    said = " ".join(capsys.readouterr().out.split())
    assert ("int8 in all/all verdict" in said) == (code == ExitCode.FAIL)


def test_what_changed_names_versions_and_items(database: Path) -> None:
    """The newer torch and the reworded items are all that changed, and nothing did between equal runs."""
    history = History(database)
    assert changes.changed_facts(history, 3, 4) == [("versions.torch", "2.13.0+cpu", "2.14.0")]
    assert changes.changed_items(history, 2, 3) == [("long_context", 60, 60, 60)]
    assert changes.changed_facts(history, 1, 2) == changes.changed_items(history, 1, 2) == []


def test_exit_codes_are_for_those_who_ask(database: Path, runs: Path, tmp_path: Path) -> None:
    """A regression ends in 1 only if that is asked for; what cannot be compared is no pass either."""
    flags = "--db", database, "--fail-on-regression"
    assert call("history", "--db", database, "--since", "build-9") == ExitCode.PASS
    assert call("history", *flags, "--since", "build-9") == ExitCode.FAIL
    assert call("history", "--db", database, "--since", "build-8") == ExitCode.USAGE
    assert call("history", f"build-10={runs / 'build-12'}", "--db", database) == ExitCode.USAGE
    assert call("history", tmp_path) == ExitCode.USAGE
    alone = "history", "--db", tmp_path / "new.sqlite", runs / "build-9"
    assert (call(*alone), call(*alone[:3], "--fail-on-regression")) == (ExitCode.PASS, ExitCode.NOT_COMPARABLE)
    again = f"again={runs / 'build-12'}"
    copy = shutil.copy(database, tmp_path / "copy.sqlite")
    assert call("history", again, "--db", copy, "--fail-on-regression") == ExitCode.PASS
    assert call("history", again, "--db", copy, "--since", "build-11", "--fail-on-regression") == ExitCode.FAIL
    later = f"later={runs / 'build-11'}"
    assert call("history", later, "--db", copy, "--since", "build-9", "--fail-on-regression") == ExitCode.NOT_COMPARABLE


def test_the_exit_code_is_of_the_run_that_is_given(database: Path, runs: Path, tmp_path: Path) -> None:
    """The job of an earlier run, given again after another job's run was added, ends as it did; so does its badge."""
    copy = shutil.copy(database, tmp_path / "copy.sqlite")
    assert call("history", f"again={runs / 'build-12'}", "--db", copy, "--fail-on-regression") == ExitCode.PASS
    flags = "--db", copy, "--output", tmp_path, "--fail-on-regression"
    assert call("history", runs / "build-12", *flags) == ExitCode.FAIL
    assert json.loads((tmp_path / "badge.json").read_text())["message"] == "fail, 1 regressed"
    assert call("history", runs / "build-10", *flags, "--since", "build-11") == ExitCode.USAGE  # which came later


def test_what_was_not_seen_then_is_no_pass_now(
    database: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A candidate not judged, items that go unanswered, a promise taken away or widened, and a baseline renamed."""
    copy = tmp_path / "copy.sqlite"

    def call_after(*statements: str) -> tuple[int, str]:
        shutil.copy(database, copy)
        with sqlite3.connect(copy) as file:
            for table in ("runs", "strata", "candidates", "tail_rates", "answers", "facts"):
                file.execute(f"DELETE FROM {table} WHERE run > 2")  # noqa: S608 - names of our own
            for one in statements:
                file.execute(one)
        code = call("history", "--db", copy, "--fail-on-regression")
        return code, " ".join(capsys.readouterr().out.split())

    assert call_after()[0] == ExitCode.PASS
    crashed = [
        "DELETE FROM strata WHERE (run, candidate) = (1, 'int8')",
        "DELETE FROM answers WHERE (run, variant) = (1, 'int8')",
        "UPDATE candidates SET verdict = 'not_judged' WHERE (run, candidate) = (1, 'int8')",
    ]
    code, said = call_after(*crashed)
    assert (code, "with other items: int8." in said) == (ExitCode.NOT_COMPARABLE, True)
    for count, right in ((1, ExitCode.PASS), (2, ExitCode.NOT_COMPARABLE)):
        left = "UPDATE strata SET unanswered = {} WHERE run = 2 AND stratum = '{}'"
        code, said = call_after(left.format(count, SAME))
        assert (code, f"{SAME} (2 items unanswered, then 0)" in said) == (right, count == 2)
    held = "INSERT INTO facts VALUES ({}, 'config.policy.pooled_margin', '{}')"
    code, said = call_after(held.format(1, 0.01))
    assert (code, "pooled_margin (taken away since)" in said) == (ExitCode.NOT_COMPARABLE, True)
    late = "UPDATE tail_rates SET kind = 'slow_tokens', tolerance = 0.1 WHERE (run, kind) = (1, 'repetition')"
    code, said = call_after(late, "DELETE FROM tail_rates WHERE (run, kind) = (2, 'repetition')")
    assert (code, "slow_tokens (it has no tolerance now)" in said) == (ExitCode.NOT_COMPARABLE, True)
    renamed = [f"UPDATE {table} = 'plain' WHERE run = 2" for table in ("runs SET baseline", "answers SET variant")]
    code, said = call_after(renamed[0], f"{renamed[1]} AND variant = 'bf16'")
    assert (code, "the baseline bf16 (now plain)" in said) == (ExitCode.NOT_COMPARABLE, True)
    code, said = call_after(held.format(1, 0.01), held.format(2, 0.1))
    assert (code, "than in build-9: pooled_margin (0.1, then 0.01)." in said) == (ExitCode.PASS, True)


def test_a_newest_run_that_is_not_finished_is_no_pass(runs: Path, tmp_path: Path) -> None:
    """It is left out with a message, and the runs before it are not compared in its place."""
    for number in (9, 10):
        shutil.copytree(runs / f"build-{number}", tmp_path / f"build-{number}")
    assert call("history", tmp_path, "--fail-on-regression") == ExitCode.PASS
    cut = Path(shutil.copytree(runs / "build-10", tmp_path / "build-11"))
    (cut / "manifest.json").unlink()
    (cut / "shards" / "1of1.json").unlink()
    assert call("history", tmp_path) == ExitCode.PASS
    assert call("history", tmp_path, "--fail-on-regression") == ExitCode.NOT_COMPARABLE
    shutil.rmtree(cut)
    assert call("history", tmp_path, "--fail-on-regression") == ExitCode.PASS
    shutil.copytree(runs / "build-10" / "items", tmp_path / "build-12" / "items")  # killed before it wrote run.json
    assert call("history", tmp_path, "--fail-on-regression") == ExitCode.NOT_COMPARABLE


def test_a_regression_of_an_older_config_of_the_folder_is_no_pass(
    database: Path, runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Another config's run came later and is as it was: the regression before it ends in 1, and is said."""
    copy = shutil.copy(database, tmp_path / "copy.sqlite")
    with sqlite3.connect(copy) as file:
        file.execute("UPDATE runs SET experiment = 'other', run = run + 4 WHERE name IN ('build-9', 'build-10')")
        for table in ("facts", "candidates", "strata", "tail_rates", "answers"):
            file.execute(f"UPDATE {table} SET run = run + 4 WHERE run <= 2")  # noqa: S608
    flags = "history", "--db", copy, "--fail-on-regression"
    assert call(*flags, runs, "--output", tmp_path) == ExitCode.FAIL
    assert "Since build-11, of " in capsys.readouterr().out
    assert json.loads((tmp_path / "badge.json").read_text())["message"].endswith(", 1 regressed")
    assert "Since build-11, of " in (tmp_path / "history.md").read_text(encoding="utf-8")
    assert call(*flags, runs / "build-9", runs / "build-10") == ExitCode.PASS  # the other config's job
    assert call(*flags, runs, "--since", "build-9") == ExitCode.PASS  # what is compared was named


def test_what_repair_proved_inside_of_a_run_is_no_run_of_a_folder(runs: Path, tmp_path: Path) -> None:
    """It would be the newest run, and be compared with the one inside of the run before in place of that run."""
    for number in (11, 12):
        outer = shutil.copytree(runs / f"build-{number}", tmp_path / f"build-{number}")
        shutil.copytree(runs / "build-9", outer / "repair-nf4")
    assert call("history", tmp_path, "--fail-on-regression") == ExitCode.FAIL
    inner = tmp_path / "build-12" / "repair-nf4"  # one that is named is taken
    assert call("history", f"before={runs / 'build-12'}", inner, "--fail-on-regression") == ExitCode.NOT_COMPARABLE


def test_the_files_of_a_history(database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Page, Markdown, badge and step summary name the regression; the page asks the network for nothing."""
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))
    assert call("history", "--db", database, "--since", "build-9", "--output", tmp_path) == ExitCode.PASS
    page = (tmp_path / "history.html").read_text(encoding="utf-8")
    assert "1 regressed: int8 in long_context/task=lookup,keys=3,answer=present" in page
    assert "default-src 'none'" in page
    assert page.count('opacity=".5"') == 2 * 4, "limits of each point of both lines in the one chart"
    assert "http://" not in page
    assert "https://" not in page
    text = (tmp_path / "history.md").read_text(encoding="utf-8")
    assert "build-12" in text
    assert "versions.torch" in text
    assert (tmp_path / "summary.md").read_text(encoding="utf-8").strip() == text.strip()
    badge = json.loads((tmp_path / "badge.json").read_text(encoding="utf-8"))
    assert badge == {"schemaVersion": 1, "label": "quantcliff", "message": "fail, 1 regressed", "color": "#b3261e"}


def test_users_query_the_file_with_sql(database: Path) -> None:
    """A query as docs/history.md shows it answers from the file alone, and texts of items are not in it."""
    with sqlite3.connect(database) as file:
        worst = file.execute(
            "SELECT candidate, stratum, lost FROM strata WHERE run = 4 AND delta < 0 ORDER BY delta LIMIT 1"
        ).fetchone()
        assert worst[:2] == ("nf4", OTHER)
        (count,) = file.execute("SELECT count(*) FROM items WHERE stratum = ?", (OTHER,)).fetchone()
        assert count == 120
    assert b"prompt" not in database.read_bytes()


def test_a_file_that_is_no_history_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Neither another file nor another program's database is written to."""
    (text := tmp_path / "notes.txt").write_text("not a database, and longer than a header of one " * 20)
    with sqlite3.connect(other := tmp_path / "other.sqlite") as file:
        file.execute("CREATE TABLE mine (x)")
    for path in (text, other):
        assert call("history", "--db", path) == ExitCode.NOT_COMPARABLE
        assert "--db" in capsys.readouterr().err
