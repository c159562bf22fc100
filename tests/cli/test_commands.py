"""The command line: what a person types wrong, what they are told, and the exit code that a scheduler sees."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import processes
import pytest
import yaml
from commands import call, write
from paths import RESULTS

from harness.errors import ExitCode


@pytest.fixture(scope="module")
def judged(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A judged run in which nf4 fails."""
    folder = tmp_path_factory.mktemp("judged")
    assert call("run", write(folder, tiny_llama), "--output", folder, "--quiet") == ExitCode.FAIL
    return folder / "trial"


def test_run_leaves_everything_that_a_person_or_a_program_reads(judged: Path) -> None:
    """Comparisons, verdict, manifest, report and JUnit are there, and agree on the verdict."""
    for name in ("comparisons.json", "verdict.json", "manifest.json", "report.md", "junit.xml"):
        assert (judged / name).stat().st_size > 100, name
    verdict = json.loads((judged / "verdict.json").read_text(encoding="utf-8"))
    assert (verdict["verdict"], verdict["exit_code"]) == ("fail", 1)
    assert "nf4" in (judged / "report.md").read_text(encoding="utf-8")


def test_compare_json_prints_one_object_with_the_names_that_programs_rely_on(
    judged: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The names of the design's section on interfaces are there, for the whole, candidates and strata."""
    assert call("compare", judged, "--json") == ExitCode.FAIL
    whole = json.loads(capsys.readouterr().out)
    assert {"verdict", "exit_code", "policy", "candidates"} <= set(whole)
    candidate = whole["candidates"][0]
    assert {"name", "verdict", "reasons", "strata"} <= set(candidate)
    names = (
        "slice stratum n clusters baseline_mean candidate_mean delta low high lost gained mid_p p_adjusted margin "
        "gating verdict items_to_decide"
    )
    assert set(names.split()) <= set(candidate["strata"][0])


@pytest.mark.parametrize(
    ("words", "twice"),
    [
        ("compare RUN --margin 0.02 --margin=0.5", "--margin"),
        ("gate RUN --policy a.yaml --policy b.yaml", "--policy"),
        ("init MODEL --hours 4 -o a.yaml --output b.yaml", "--output"),
        ("run demo --shard 1/2 --shard 2/2", "--shard"),
        ("verify RUN --url https://a --url https://b", "--url"),
        ("compare --baseline a.csv --candidate b.csv --candidate c.csv --quiet --quiet", ""),
    ],
)
def test_an_option_given_twice_is_bad_usage(words: str, twice: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The last one would count, silently; what may be repeated, and flags, are as before."""
    assert call(*words.split()) == ExitCode.USAGE
    said = capsys.readouterr().err
    assert (f"{twice} is given 2 times: give it once" in said) == bool(twice), said


def test_gate_judges_under_another_policy_and_leaves_the_files(judged: Path, tmp_path: Path) -> None:
    """A margin of 50 points passes; a policy file does the same; comparisons.json stays as it is."""
    before = (judged / "comparisons.json").read_bytes()
    assert call("gate", judged, "--margin", "0.5", "--quiet", "--rehearsal-ok") == ExitCode.PASS
    policy = tmp_path / "policy.yaml"
    policy.write_text("policy: {margin: 0.5}\n", encoding="utf-8")
    assert call("gate", judged, "--policy", policy, "--quiet", "--rehearsal-ok") == ExitCode.PASS
    assert call("gate", judged, "--quiet") == ExitCode.FAIL
    for text, flags, right in (
        ("{margin: 0.5, margins: {other/*: 0.01}}", (), ExitCode.USAGE),
        ("{margin: 0.5, advisory: ['multi_hop_math/hops=2']}", (), ExitCode.USAGE),
        ("{margin: 0.01, margins: {multi_*: 0.5}}", (), ExitCode.PASS),
        ("{margin: 0.01, margins: {multi_hop_math/*: 0.5}}", (), ExitCode.PASS),
        ("{margin: 0.5, margins: {multi_hop_math/*: 0.01}}", (), ExitCode.FAIL),
        ("{margin: 0.01, margins: {multi_hop_math/*: 0.01, '*': 0.5}}", (), ExitCode.PASS),  # the last match, of equals
        ("{margin: 0.5}\nmargin: 0.01", (), ExitCode.USAGE),  # indented too little
        ("{margins: {'*': 0.5}}", (), ExitCode.PASS),
        ("{margins: {'*': 0.5}}", ("--margin", "0.01"), ExitCode.FAIL),
    ):  # a margin is that of all strata that no glob beside it names, and the flag's that of all
        policy.write_text(f"policy: {text}\n", encoding="utf-8")
        assert call("gate", judged, "--policy", policy, *flags, "--quiet", "--rehearsal-ok") == right, text
    assert (judged / "comparisons.json").read_bytes() == before


@pytest.mark.parametrize(
    "words",
    [
        ("run", "demo", "--shard", "1/99999999999999999999"),
        ("run", "demo", "--shard", "\u00b2/\u00b2"),
        ("init", "m", "--hours", "1e308"),
        ("init", "m", "--hours", "5", "--rate", "1e308"),
    ],
)
def test_numbers_beyond_all_measure_are_bad_usage(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    """Not a traceback."""
    assert call(*words) == ExitCode.USAGE
    assert words[-2] in capsys.readouterr().err


def test_report_writes_the_same_reports_again(judged: Path) -> None:
    """What was deleted comes back byte for byte, with the gate's exit code."""
    before = (judged / "report.md").read_bytes()
    (judged / "report.md").unlink()
    assert call("report", judged, "--quiet") == ExitCode.FAIL
    assert (judged / "report.md").read_bytes() == before


def test_show_prints_both_answers(judged: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An item that was lost shows the right answer on one side and another on the other."""
    items = [json.loads(line) for line in (judged / "items" / "multi_hop_math.jsonl").read_text().splitlines()]
    scores = {}
    for line in (judged / "nf4" / "multi_hop_math-1of1.jsonl").read_text(encoding="utf-8").splitlines():
        scores[json.loads(line)["item_id"]] = json.loads(line)["score"]
    item = next(one for one in items if scores[one["id"]] == 0.0)
    assert call("show", judged, item["id"], "--candidate", "nf4") == ExitCode.PASS
    out = capsys.readouterr().out
    assert item["target"] in out
    assert "do not know" in out


def test_an_unknown_item_or_candidate_is_said(judged: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 2, with the names that are there."""
    assert call("show", judged, "no-such-item") == ExitCode.USAGE
    assert "'no-such-item' is not an item of this run" in capsys.readouterr().err
    assert call("show", judged, "quantcliff", "--candidate", "int9") == ExitCode.USAGE
    assert "matches 60 items" in capsys.readouterr().err


def test_plan_says_what_the_items_can_decide(
    tiny_llama: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One stratum with its items, margin, smallest drop and items to pass, before any model is loaded."""
    path = write(tmp_path, tiny_llama)
    assert call("plan", path, "--json") == ExitCode.PASS
    made = json.loads(capsys.readouterr().out)
    (row,) = made["power"]
    assert (row["items"], row["margin"], row["can_pass"]) == (60, 0.1, True)
    assert 0 < row["detectable_drop"] < 0.5
    assert row["items_for_pass"] > 60
    assert call("plan", path) == ExitCode.PASS
    shown = capsys.readouterr().out
    assert "margin 10.0" in shown
    assert "never pass" not in shown
    slices = [{"name": "multi_hop_math", "axes": {"hops": [1]}, "items": 20, "gating": False}]
    assert call("plan", write(tmp_path, tiny_llama, slices=slices)) == ExitCode.PASS
    assert "no stratum is gating: such a run can report, and never pass" in capsys.readouterr().out


def test_plan_refuses_what_can_never_pass(tiny_llama: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The table is printed all the same; the exit code is 2 and the number of items needed is named."""
    slices = [{"name": "multi_hop_math", "axes": {"hops": [1]}, "items": 20, "margin": 0.02}]
    assert call("plan", write(tmp_path, tiny_llama, slices=slices)) == ExitCode.USAGE
    captured = capsys.readouterr()
    assert "never" in captured.out
    assert "slices[0].items: 20 items in" in captured.err


BAD_CONFIGS: list[tuple[dict[str, Any], str]] = [
    ({"polcy": {}}, "polcy: is not a key here. Did you mean 'policy'?"),
    ({"seed": "one"}, "seed: 'one': input should be a valid integer"),
    ({"candidates": [{"name": "a", "quantization": "bnb-nf4"}] * 2}, "candidates[1].name: 'a' is taken"),
    ({"slices": [{"name": "typical", "margin": 2}]}, "Did you mean 0.02?"),
    ({"slices": [{"name": "typical", "margin": 0}]}, "0 is not a proportion in (0, 0.5]"),
    ({"slices": [{"name": "multi_hop_maths", "items": 40}]}, "slices[0].name: 'multi_hop_maths'"),
    ({"candidates": [{"name": "same"}]}, "candidates[0]: 'same' is the baseline itself"),
    ({"slices": [{"name": "multi_hop_math", "axes": {"hopps": [1]}}]}, "slices[0].axes.hopps"),
    (
        {"slices": [{"name": "long_context", "axes": {"context_tokens": [65536]}, "items": 40, "margin": 0.1}]},
        "slices[0].axes.context_tokens",
    ),
]


@pytest.mark.parametrize(("changes", "expected"), BAD_CONFIGS, ids=[expected[:40] for _, expected in BAD_CONFIGS])
def test_bad_configs_end_in_2_and_write_nothing(
    changes: dict[str, Any], expected: str, tiny_llama: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One clear message with the place, and no run directory."""
    path = write(tmp_path, tiny_llama, **changes)
    assert call("run", path, "--output", tmp_path / "out", "--quiet") == ExitCode.USAGE
    assert expected in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_missing_config_names_those_that_ship(capsys: pytest.CaptureFixture[str]) -> None:
    """A typo in a config's name ends in 2."""
    assert call("run", "absent.yaml") == ExitCode.USAGE
    captured = capsys.readouterr().err
    assert "absent.yaml" in captured
    assert "demo" in captured


def test_an_empty_config_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An empty file is not a config."""
    (tmp_path / "empty.yaml").write_text("", encoding="utf-8")
    assert call("plan", tmp_path / "empty.yaml") == ExitCode.USAGE
    assert "is empty" in capsys.readouterr().err


@pytest.mark.model
def test_a_model_that_does_not_exist_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The baseline's model is needed for everything: exit code 4, the path named."""
    assert call("run", write(tmp_path, tmp_path / "absent"), "--output", tmp_path) == ExitCode.USAGE
    assert "there is no such directory" in capsys.readouterr().err


def test_a_chat_template_that_is_not_there_is_said(
    tiny_llama: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`sampling.chat_template: true` with a tokenizer that has none ends in 2."""
    plain = Path(shutil.copytree(tiny_llama, tmp_path / "plain"))
    for path in plain.glob("*.jinja"):
        path.unlink()
    config = json.loads((plain / "tokenizer_config.json").read_text(encoding="utf-8"))
    config.pop("chat_template", None)
    (plain / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    path = write(tmp_path, plain, sampling={"chat_template": True})
    assert call("run", path, "--output", tmp_path / "out") == ExitCode.USAGE
    assert "sampling.chat_template" in capsys.readouterr().err


@pytest.mark.slow
def test_a_corrupted_checkpoint_is_said(tiny_llama: Path, tmp_path: Path) -> None:
    """A baseline with a truncated weight file ends in 4, and the file is named."""
    broken = Path(shutil.copytree(tiny_llama, tmp_path / "broken"))
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    path = write(tmp_path, broken, execution={"device": "cpu", "control": False})
    process = processes.start(["run", path, "--output", tmp_path / "out", "--quiet"], tmp_path / "said")
    process.join(60)
    said = (tmp_path / "said").read_text(encoding="utf-8")
    assert process.exitcode == ExitCode.NOT_COMPARABLE, said
    assert "model.safetensors" in said
    assert "Traceback" not in said


@pytest.mark.parametrize("shard", ["5/4", "0/4", "1", "a/b", "1/0"])
def test_a_shard_that_does_not_exist_is_said(
    shard: str, tiny_llama: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 2, and nothing is written."""
    assert call("run", write(tmp_path, tiny_llama), "--shard", shard, "--output", tmp_path / "out") == ExitCode.USAGE
    assert f"--shard {shard}" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_device_that_is_not_there_is_said(
    tiny_llama: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A hundredth GPU, and a word that is no device, end in 2."""
    for device in ("cuda:99", "graphics-card"):
        assert call("run", write(tmp_path, tiny_llama), "--device", device, "--output", tmp_path) == ExitCode.USAGE
        assert f"execution.device: '{device}'" in capsys.readouterr().err


def test_compare_without_its_sides_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    """Neither a run nor two sides: exit code 2 with what to give."""
    assert call("compare") == ExitCode.USAGE
    assert "give a run directory, or --baseline PATH with at least one --candidate" in capsys.readouterr().err
    assert call("compare", "absent-run") == ExitCode.NOT_COMPARABLE
    assert "there is no such directory" in capsys.readouterr().err


NOPE = """
import sys
from harness.cli import main
sys.argv = ["quantcliff", *sys.argv[1:]]
try:
    main()
finally:
    print("torch" in sys.modules)
"""


@pytest.mark.parametrize("command", ["localize", "repair"])
def test_an_unknown_candidate_is_said_before_torch_is_loaded(command: str) -> None:
    """Its warnings would stand above the one sentence that matters."""
    words = [sys.executable, "-c", NOPE, command, str(RESULTS / "demo-cpu"), "nope"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (ExitCode.USAGE, "False\n")
    assert done.stderr.endswith("demo-cpu: has no judged candidate 'nope': give one of int8, nf4\n")
    assert done.stderr.count("\n") == 1


def test_an_unknown_command_or_flag_ends_in_2(capsys: pytest.CaptureFixture[str]) -> None:
    """The refusals of click itself have the same exit code as ours."""
    assert call("jugde") == ExitCode.USAGE
    assert call("run") == ExitCode.USAGE
    assert call("plan", "x", "--no-such-flag") == ExitCode.USAGE
    capsys.readouterr()


def test_an_unforeseen_error_is_never_a_failed_candidate(
    judged: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A bug ends in 4, with its traceback for the report; 1 would say that the candidate failed."""
    from harness.judge import judging

    def bug(*arguments: object, **options: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(judging, "judge", bug)
    assert call("compare", judged) == ExitCode.NOT_COMPARABLE
    assert "ZeroDivisionError" in capsys.readouterr().err


@contextlib.contextmanager
def mounted(folder: Path, options: str) -> Iterator[Path]:
    """A file system of its own in a folder; skips where mounting is not allowed."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("mounting a file system is not allowed here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_disk_that_fills_loses_nothing(tiny_llama: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A real file system of 100 KiB fills in the middle of a run: exit code 4 and a remedy; with room it goes on."""
    with mounted(tmp_path / "small", "size=100k") as small:
        path = write(tmp_path, tiny_llama)
        assert call("run", path, "--output", small, "--quiet") == ExitCode.NOT_COMPARABLE
        assert "the disk is full: free some space and give the same command again" in capsys.readouterr().err
        subprocess.run(["mount", "-o", "remount,size=20m", str(small)], check=True)
        assert call("run", path, "--output", small, "--quiet") == ExitCode.FAIL


@pytest.mark.parametrize("name", ["nf4/failure-1of1.json", "shards/1of1.cut", "nf4/variant.json", "run.json"])
@pytest.mark.parametrize("command", ["run", "compare", "status"])
def test_a_folder_in_a_files_place_is_said(
    judged: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, command: str
) -> None:
    """Whichever file of a run it is: one sentence with its place, and no traceback."""
    run = Path(shutil.copytree(judged, tmp_path / "trial"))
    (run / name).unlink(missing_ok=True)
    (run / name).mkdir()
    words = (judged.parent / "trial.yaml", "--output", tmp_path) if command == "run" else (run,)
    code, said = call(command, *words, "--quiet"), capsys.readouterr().err
    assert "Traceback" not in said
    if command == "run":
        assert (code, name in said) == (ExitCode.NOT_COMPARABLE, True)


def test_a_read_only_output_directory_is_said(
    tiny_llama: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file system mounted read-only: exit code 4 and the flag that helps."""
    with mounted(tmp_path / "fixed", "ro") as fixed:
        assert call("run", write(tmp_path, tiny_llama), "--output", fixed) == ExitCode.NOT_COMPARABLE
        said = capsys.readouterr().err
        assert "the file system is read-only: give another place with --output" in said
        assert "quantcliff gate RUN" in said


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_an_output_directory_without_permission_is_said(
    tiny_llama: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A folder that belongs to somebody else: exit code 4 and the flag that helps."""
    fixed = tmp_path / "fixed"
    fixed.mkdir(mode=0o500)
    assert call("run", write(tmp_path, tiny_llama), "--output", fixed) == ExitCode.NOT_COMPARABLE
    assert "permission denied: give a directory you may write with --output" in capsys.readouterr().err


def test_the_demo_prints_its_config_to_start_from(capsys: pytest.CaptureFixture[str]) -> None:
    """What is printed is the config that ships, and it is valid."""
    assert call("demo", "--print-config") == ExitCode.PASS
    text = capsys.readouterr().out
    from harness.config.loading import parse

    assert parse(yaml.safe_load(text)).name == "demo"


def test_plain_tables_are_judged_by_the_flags_that_the_readme_names(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two candidates, strata and sources from columns, one margin: JSON with both, and exit code 1."""

    def table(name: str, wrong: int) -> Path:
        rows = [f"q{at},{int(at % 100 >= wrong)},{'law' if at < 400 else 'art'},text {at // 2}" for at in range(800)]
        path = tmp_path / f"{name}.csv"
        path.write_text("item,score,subject,source\n" + "\n".join(rows) + "\n", encoding="utf-8")
        return path

    base, same, worse = table("base", 10), table("same", 10), table("worse", 40)
    same.write_text(same.read_text(encoding="utf-8") + "\n", encoding="utf-8")  # a file of another tool, byte by byte
    flags = ["--item", "item", "--score", "score", "--stratum", "subject", "--cluster", "source", "--margin", "0.05"]
    sides = ["--baseline", base, "--candidate", f"int8={same}", "--candidate", f"nf4={worse}"]
    assert call("compare", *sides, *flags, "--json") == ExitCode.FAIL
    found = json.loads(capsys.readouterr().out)
    assert [(one["name"], one["verdict"]) for one in found["candidates"]] == [("int8", "pass"), ("nf4", "fail")]
    strata = found["candidates"][1]["strata"]
    assert [(one["stratum"], one["n"], one["clusters"]) for one in strata] == [
        ("subject=art", 400, 200),
        ("subject=law", 400, 200),
    ]
    assert {one["margin"] for one in strata} == {0.05}
    assert (found["verdict"], found["exit_code"]) == ("fail", 1)


def test_a_pattern_of_the_policy_that_matches_no_stratum_is_refused_when_planned(
    tiny_llama: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A typo would leave the stratum under the laxer margin; of a part of the config it may match what is left out."""
    policy = {"margin": 0.3, "margins": {"multi_hop_math/hosp=1": 0.01}}
    path = write(tmp_path, tiny_llama, policy=policy)
    for words in (("plan", path), ("run", path, "--output", tmp_path, "--quiet")):
        assert call(*words) == ExitCode.USAGE
        assert "'multi_hop_math/hosp=1' matches no stratum" in (said := capsys.readouterr().err)
        assert "Did you mean 'multi_hop_math/task=chains,hops=1'" in said
    assert call("plan", path, "--limit", "5") == ExitCode.PASS
