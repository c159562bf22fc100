"""The package as users get it: pins, make targets, the wheel, and the wheel where no checkout is near."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import sysconfig
import tomllib
import venv
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from zipfile import ZipFile

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from paths import ROOT

import harness
from harness.config import resources
from harness.errors import RunError

SITE = Path(sysconfig.get_paths()["purelib"])
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def run(*command: str | Path, **settings) -> subprocess.CompletedProcess[str]:
    """Run a program and give what it said and its exit code."""
    words = [str(word) for word in command]
    return subprocess.run(words, capture_output=True, text=True, check=False, timeout=240, **settings)


# --- pins -----------------------------------------------------------------------------------------------------


def pins() -> dict[str, str]:
    """The versions in constraints.txt, by normalised name."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pairs = (line.split("==") for line in lines if line and not line.startswith("#"))
    return {canonicalize_name(name): version for name, version in pairs}


def declared() -> list[Requirement]:
    """Every requirement of pyproject.toml, base and extras."""
    extras = PROJECT["optional-dependencies"].values()
    texts = [*PROJECT["dependencies"], *(text for extra in extras for text in extra)]
    return [r for r in map(Requirement, texts) if r.name != PROJECT["name"]]


@pytest.mark.parametrize("requirement", sorted(declared(), key=str), ids=str)
def test_every_requirement_is_pinned_within_its_range(requirement):
    """What pyproject.toml asks for is in constraints.txt, at a version that it allows."""
    version = pins().get(canonicalize_name(requirement.name))
    assert version is not None, f"{requirement.name} has no pin in constraints.txt"
    assert requirement.specifier.contains(version)


def test_pins_fit_any_index():
    """No pin carries a local version such as +cpu, which only one index has."""
    assert len(pins()) > 100
    assert [name for name, version in pins().items() if "+" in version] == []


def test_judging_asks_for_no_torch():
    """The base requirements bring none of the heavy packages, not through each other either."""
    names = set(closure(PROJECT["dependencies"]))
    assert {"numpy", "pydantic", "markupsafe"} <= names
    assert names & {"torch", "transformers", "datasets", "lm-eval", "accelerate"} == set()


def test_all_means_all():
    """The extra `all` names every other extra except the developers'."""
    extras = PROJECT["optional-dependencies"]
    (everything,) = map(Requirement, extras["all"])
    assert everything.extras == set(extras) - {"all", "dev"}


def test_every_lint_exception_is_signed():
    """Each rule that is switched off says why on its own line."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    ruff = text[text.index("[tool.ruff.lint]") : text.index("[tool.mypy]")]
    rules = [line for line in ruff.splitlines() if re.match(r'\s+"[A-Z]+[0-9]*",', line)]
    assert len(rules) > 20
    assert [line for line in rules if not re.search(r"# \S+", line)] == []


# --- make -----------------------------------------------------------------------------------------------------


@pytest.fixture
def ready(tmp_path):
    """A folder that make takes for an installed environment, whose quantcliff ends with $CODE."""
    folder = tmp_path / "env"
    (folder / "bin").mkdir(parents=True)
    command = folder / "bin" / "quantcliff"
    command.write_text('#!/bin/sh\necho "quantcliff $*"\nexit "$CODE"\n')
    command.chmod(0o755)
    for stamp in (".installed", ".smollm2"):
        (folder / stamp).touch()
    return folder


@pytest.mark.parametrize(("code", "succeeds"), [(0, True), (1, True), (3, True), (2, False), (4, False), (130, False)])
def test_make_demo_succeeds_when_the_demo_reached_a_verdict(ready, code, succeeds):
    """Pass, fail and inconclusive are results of a demo that ran; the code is named in each case."""
    done = run("make", "demo", f"VENV={ready}", cwd=ROOT, env={**os.environ, "CODE": str(code)})
    assert (done.returncode == 0) is succeeds
    assert "quantcliff demo\n" in done.stdout
    assert f"quantcliff returned {code}" in done.stdout


def test_make_names_its_targets():
    """`make` alone says what there is to make and does nothing."""
    done = run("make", cwd=ROOT)
    assert done.returncode == 0
    for target in ("install", "demo", "test", "test-gpu", "lint"):
        assert f"make {target} " in done.stdout


def test_make_install_refuses_an_old_python(tmp_path):
    """A Python that is too old is named, with the way to name another one, before anything is made."""
    old = tmp_path / "python3"
    old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo Python 3.9.1 && exit 0\nexit 1\n')
    old.chmod(0o755)
    done = run("make", "install", f"PYTHON={old}", f"VENV={tmp_path / 'env'}", cwd=ROOT)
    assert done.returncode != 0
    assert "Python 3.9.1" in done.stdout
    assert "PYTHON=python3.12" in done.stdout
    assert not (tmp_path / "env").exists()


# --- where the files lie --------------------------------------------------------------------------------------


def test_a_checkout_has_its_tasks_and_configs_beside_the_package():
    """In a checkout the folders that a person edits are the ones in use."""
    assert resources.shipped("tasks") == ROOT / "tasks"
    assert resources.shipped("configs") == ROOT / "configs"


def test_packed_files_go_before_strangers_beside_the_package(tmp_path):
    """An installed package uses what travelled inside it, whatever folder `tasks` lies in site-packages."""
    (tmp_path / "tasks").mkdir()
    packed = tmp_path / "harness" / "_data" / "tasks"
    packed.mkdir(parents=True)
    assert resources.shipped("tasks", tmp_path / "harness") == packed


def test_missing_files_are_said(tmp_path):
    """Neither place has them: the message names both, and what to do."""
    with pytest.raises(RunError, match=r"tasks are missing.*install it again"):
        resources.shipped("tasks", tmp_path / "harness")


# --- the wheel ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def wheel(tmp_path_factory) -> Path:
    """The wheel of this checkout, built without a network."""
    folder = tmp_path_factory.mktemp("wheel")
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--wheel-dir", folder]
    done = run(sys.executable, "-m", "pip", "wheel", *options, ROOT)
    assert done.returncode == 0, done.stderr
    (path,) = folder.glob("*.whl")
    return path


def test_the_wheel_carries_tasks_and_configs(wheel):
    """Every file of tasks, configs and the package that git knows is in it, templates too; caches and tests are not."""
    with ZipFile(wheel) as archive:
        names = set(archive.namelist())
    listed = run("git", "ls-files", "--", "tasks", "configs", cwd=ROOT)
    assert listed.returncode == 0, listed.stderr
    travelling = listed.stdout.split()
    assert travelling
    assert {f"harness/_data/{name}" for name in travelling} <= names
    own = run("git", "ls-files", "--", "harness", cwd=ROOT).stdout.split()
    assert "harness/run/kubernetes.yaml.in" in own
    assert set(own) <= names
    info = f"quantcliff-{harness.__version__}.dist-info/"
    assert {name.split("/")[0] for name in names} == {"harness", info.strip("/")}
    assert not [name for name in names if "__pycache__" in name or name.endswith(".pyc")]
    assert f"{info}licenses/LICENSE" in names


def closure(requirements: list[str]) -> Iterator[str]:
    """The normalised names of packages and of all that they require, as installed here."""
    waiting, seen = [Requirement(text) for text in requirements], set()
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        if name in seen or (requirement.marker and not requirement.marker.evaluate()):
            continue
        seen.add(name)
        yield name
        waiting += [r for r in map(Requirement, metadata.requires(name) or []) if "extra" not in str(r.marker)]


def lend(name: str, folder: Path) -> None:
    """Make an installed package visible in another environment, it alone."""
    tops = {file.parts[0] for file in metadata.files(name) or [] if file.parts[0] != ".."}
    assert tops, f"{name} lists no files"
    for top in tops - {"__pycache__"}:
        if not (folder / top).exists():
            (folder / top).symlink_to(SITE / top)


@pytest.fixture(scope="session")
def installed(wheel, tmp_path_factory) -> Path:
    """The `quantcliff` command of an environment that holds the wheel and what it requires, and nothing else."""
    folder = tmp_path_factory.mktemp("empty")
    venv.create(folder, with_pip=False, symlinks=True)
    python = folder / "bin" / "python"
    (site,) = folder.glob("lib/python*/site-packages")
    for name in closure(PROJECT["dependencies"]):
        lend(name, site)
    options = ["--no-deps", "--no-index", "--quiet", "--disable-pip-version-check"]
    done = run(sys.executable, "-m", "pip", "--python", python, "install", *options, wheel)
    assert done.returncode == 0, done.stderr
    return folder / "bin" / "quantcliff"


def outside(command: Path, *arguments: str, cwd: Path, **extra: str) -> subprocess.CompletedProcess[str]:
    """Run the installed command in a folder that is no checkout."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "COV"))}
    return run(command, *arguments, cwd=cwd, env={**env, **extra})


@pytest.mark.parametrize("arguments", ["--help", "demo --help", "gate --help", "compare --help", "plan --help"])
def test_help_works_with_the_base_requirements_alone(installed, tmp_path, arguments):
    """A newcomer's `pip install` shows every help without torch."""
    done = outside(installed, *arguments.split(), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Usage: quantcliff" in done.stdout


def test_the_wheel_finds_its_own_files(installed, tmp_path):
    """Outside a checkout tasks and configs are those inside the package."""
    code = "from harness.config import resources as r; print(r.shipped('tasks')); print(r.shipped('configs'))"
    done = outside(installed.parent / "python", "-c", code, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    tasks, configs = map(Path, done.stdout.split())
    assert (tasks.parent.name, tasks.parent.parent.name) == ("_data", "harness")
    assert (configs / "demo.yaml").is_file()
    assert list(tasks.rglob("*.yaml"))


@pytest.fixture(scope="module")
def finished(installed, tiny_llama, tmp_path_factory) -> Path:
    """A rehearsal of the wheel: the folder that it left, outside any checkout."""
    folder = tmp_path_factory.mktemp("elsewhere")
    config = {
        "name": "tiny",
        "baseline": {"name": "bf16", "model": str(tiny_llama)},
        "candidates": [{"name": "nf4", "quantization": "bnb-nf4"}],
        "slices": [{"name": "typical", "items": 4, "gating": False}],
        "execution": {"device": "cpu", "control": False, "threads": 1, "rehearsal": {}},
    }
    (folder / "tiny.yaml").write_text(yaml.safe_dump(config))
    done = outside(installed, "run", "tiny.yaml", "--output", "out", cwd=folder, PYTHONPATH=str(SITE))
    assert done.returncode == 3, done.stderr  # what is only advisory decides nothing
    return folder / "out" / "tiny"


@pytest.mark.slow
@pytest.mark.parametrize("command", ["compare", "gate", "report"])
def test_a_run_of_the_wheel_is_judged_without_torch(installed, finished, tmp_path, command):
    """The wheel plans and asks outside a checkout, and an environment without torch judges what it left.

    That a packed quantcliff runs a real model is shown by the bundle of tests/test_scripts.py.
    """
    missing = outside(installed.parent / "python", "-c", "import torch", cwd=tmp_path)
    assert "No module named 'torch'" in missing.stderr
    done = outside(installed, command, finished, "--json", cwd=tmp_path)
    assert done.returncode == 3, done.stderr
    judgement = json.loads(done.stdout)
    assert judgement["exit_code"] == 3
    assert [one["name"] for one in judgement["candidates"]] == ["nf4"]
    assert all(stratum["n"] == 4 for stratum in judgement["candidates"][0]["strata"])


@pytest.mark.parametrize("arguments", ["run demo", "plan demo", "demo"])
def test_what_needs_a_model_names_the_extra(installed, tmp_path, arguments):
    """Without torch the commands that need it say in one sentence what to install, and never end as a verdict."""
    done = outside(installed, *arguments.split(), cwd=tmp_path, XDG_CACHE_HOME=str(tmp_path))
    assert (done.returncode, done.stderr.count("\n")) == (4, 1)
    assert "pip install" in done.stderr


@pytest.mark.parametrize("arguments", ["slices", "doctor"])
def test_what_needs_no_model_works_without_torch(installed, tmp_path, arguments):
    """The slices are listed with their items, and doctor says what is missing, by the base requirements alone."""
    done = outside(installed, arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert {"slices": "multi_hop_math", "doctor": "quantcliff[run]"}[arguments] in done.stdout
