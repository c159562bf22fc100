"""What is too large, too deep or of a wrong kind is refused at once; a closed pipe is no verdict."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
from paths import ROOT

from harness.config.loading import load, parse
from harness.errors import ConfigError, ExitCode, NoSuchModel
from harness.models.resolve import resolve
from harness.suite.build import SliceBuilder
from harness.suite.catalogue import catalogue

HEAD = "name: x\nbaseline: {name: b, model: smollm2}\ncandidates: [{name: c, quantization: bnb-nf4}]\n"
SLICES = "slices: [{name: typical, items: 20, gating: false}]\n"


def laughs(kind: str) -> str:
    """Anchors that each stand for nine of the last one: lists, mappings or merges."""
    lines = ["a0: &a0 [x]" if kind == "list" else "a0: &a0 {k: x}"]
    for at in range(1, 12):
        inner = ", ".join([f"*a{at - 1}"] * 9)
        own = {"list": f"[{inner}]", "merge": f"{{<<: [{inner}]}}"}.get(kind)
        own = own or "{" + ", ".join(f"k{n}: *a{at - 1}" for n in range(9)) + "}"
        lines.append(f"a{at}: &a{at} {own}")
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (laughs("list"), "stand for more than 100,000 values"),
        (laughs("mapping"), "stand for more than 100,000 values"),
        (laughs("merge"), "stand for more than 100,000 values"),
        ("notes: " + "[" * 5000 + "]" * 5000, "more than 32 deep"),
        ("notes: " + "{a: " * 5000 + "}" * 5000, "more than 32 deep"),
        ("\n".join([f"b{n}: &b{n} [*b{n - 1}]" if n else "b0: &b0 [x]" for n in range(200)]), "more than 32 deep"),
        ("notes: &n [*n]", "inside its own anchor"),
        ("? [a]\n: c", "a key is a sequence"),
        ("? {a: b}\n: c", "a key is a mapping"),
        ("seed: 2024-99-99", "cannot be read"),
        ("seed: " + "9" * 5000, "cannot be read"),
        ("1: 2", "key"),
        ("null: 2", "key"),
        ("# " + "x" * 300_000, "longer than 262,144 bytes"),
        ("notes: !!python/object:os.system x", "not YAML"),
    ],
)
def test_a_config_that_no_person_wrote_is_refused_at_once(tmp_path, more, said):
    """Billion laughs, deep nesting, odd keys and odd scalars: one ConfigError within two seconds."""
    path = tmp_path / "x.yaml"
    path.write_text(HEAD + SLICES + more)
    start = time.perf_counter()
    with pytest.raises(ConfigError, match=said) as caught:
        load(path)
    assert time.perf_counter() - start < 2
    assert str(path) in str(caught.value)


def test_honest_aliases_still_work(tmp_path):
    """An anchor and two aliases are read as what they stand for."""
    path = tmp_path / "x.yaml"
    path.write_text(
        HEAD + "slices: [{name: typical, axes: &a {topic: [science]}}, {name: typical, label: b, axes: *a}]"
    )
    assert load(path).slices[1].axes == {"topic": ("science",)}


def spec(**changes):
    """A config's slice."""
    data = {
        "name": "x",
        "baseline": {"name": "b", "model": "m"},
        "candidates": [{"name": "c", "quantization": "bnb-nf4"}],
        "slices": [changes],
    }
    return parse(data).slices[0]


@pytest.mark.parametrize(
    ("changes", "count"),
    [
        ({"axes": {"keys": list(range(3, 1003)), "context_tokens": list(range(1000, 1500))}}, "4,000,000 combinations"),
        ({"axes": {"keys": [3] * 2000, "context_tokens": [1024] * 2000, "depth": ["start"]}, "items": 1}, "8,000,000"),
        ({"tasks": ["quantcliff_lookup"], "items": 900_000}, "900,000 items"),
    ],
)
def test_axes_that_multiply_to_millions_are_refused_with_the_count(changes, count):
    """Nothing is multiplied out before it is counted."""
    info = next(one for one in catalogue() if one.name == "long_context")
    start = time.perf_counter()
    problems = []
    SliceBuilder(spec(name="long_context", **changes), "slices[0]", problems, None, 0).check(info, None)
    assert time.perf_counter() - start < 1
    assert any("at most 1,000,000" in one.message for one in problems)
    assert any(count in one.message for one in problems)


def test_more_than_a_million_items_are_no_number_of_items():
    """The config itself refuses a number of items that nobody can ask."""
    with pytest.raises(ConfigError, match=r"slices\[0\].items"):
        spec(name="typical", items=10**12)


@pytest.mark.parametrize("label", ["all", "all, by traffic", "timings"])
def test_the_name_of_the_average_or_of_a_file_is_no_label(label):
    """A slice called as the average over all slices would hide its own average; its file would be another's."""
    with pytest.raises(ConfigError, match="label"):
        spec(name="typical", label=label)
    with pytest.raises(ConfigError, match="a report uses"):
        spec(name="all")


@pytest.mark.parametrize("name", ["manifest.json", "run.json", "REPORT.html"])
def test_the_name_of_a_file_of_the_run_is_no_variant(name):
    """The run would end in a folder where the file has to be written, after all answers were given."""
    data = {"name": "x", "baseline": {"name": "b", "model": "m"}, "slices": [{"name": "typical"}]}
    with pytest.raises(ConfigError, match=r"candidates\[0\]\.name: .* the run directory uses"):
        parse({**data, "candidates": [{"name": name, "quantization": "bnb-nf4"}]})


@pytest.mark.parametrize("model", ["./gone", "/gone/model", "models/gone"])
def test_a_wrong_model_path_is_bad_usage_and_named(model, monkeypatch):
    """Exit code 2, and the message has the path as it was written."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(NoSuchModel, match=model) as caught:
        resolve(model)
    assert caught.value.exit_code == 2


@pytest.mark.slow
@pytest.mark.parametrize("extra", ["", " --json", " --no-color 2>&1"])
def test_a_closed_pipe_keeps_the_verdicts_own_code(tmp_path, extra):
    """`compare ... | true` ends with 0, as it passes, whatever is left unread."""
    table = "item,score\n" + "".join(f"q{at},1\n" for at in range(400))
    (tmp_path / "b.csv").write_text(table)
    (tmp_path / "c.csv").write_text(table.replace("q1,1", "q1,0"))
    command = f"{sys.executable} -m harness compare --baseline b.csv --candidate c=c.csv --margin 0.05{extra}"
    env = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}
    bash = ["/bin/bash", "-o", "pipefail", "-c", f"{command} | true"]
    done = subprocess.run(bash, cwd=tmp_path, env=env, capture_output=True, check=False)
    assert b"Traceback" not in done.stderr
    assert done.returncode == ExitCode.PASS


@pytest.mark.slow
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
@pytest.mark.parametrize("words", ["--help", "slices", "compare results/demo-cpu --margin 0.05 --json"])
def test_an_output_that_cannot_be_written_is_no_verdict(words):
    """A full disk ends in 4 with one sentence: the verdict was not delivered, so its code is not either."""
    command = f"{sys.executable} -m harness {words} > /dev/full"
    done = subprocess.run(["/bin/sh", "-c", command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == ExitCode.NOT_COMPARABLE
    assert done.stderr.startswith("quantcliff: the output cannot be written: No space left on device")
    assert done.stderr.count("\n") == 1


@pytest.mark.slow
@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_an_output_that_is_closed_from_the_start_is_no_verdict(closed):
    """`quantcliff ... >&-` keeps its exit code: not 1, which reads as a failed candidate."""
    words = f"{sys.executable} -m harness compare --baseline gone.csv --candidate c=gone.csv {closed}"
    assert subprocess.run(["/bin/sh", "-c", words], cwd=ROOT, check=False).returncode == ExitCode.USAGE
