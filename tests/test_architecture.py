"""The layers of the design, checked against what the modules really import."""

from __future__ import annotations

import ast
import functools
import json
import os
import resource
import subprocess
import sys
import tomllib
from fnmatch import fnmatchcase
from pathlib import Path

import pytest
from paths import ROOT

PACKAGE = ROOT / "harness"

ORDER = (
    "errors",
    "stops",
    "records",
    "config",
    "stats",
    "suite",
    "models",
    "store",
    "engines",
    "judge",
    "run",
    "report",
    "history",
    "damage",
    "cli",
    "__main__",
)
"""The rooms of the package. A module imports from rooms that stand before its own, or from its own."""

HEAVY: dict[str, tuple[str, ...]] = {
    "torch": (
        "damage.hybrid",
        "engines.lm_eval",
        "engines.transformers.*",
        "models.audit",
        "models.backends",
        "models.checkpoints_worker",
        "models.completeness",
        "models.cuda",
        "models.devices",
        "models.doctor",
        "models.doctor_models",
        "models.loading",
        "models.methods",
        "models.smollm2",
        "run.worker",
    ),
    "transformers": (
        "engines.registry",
        "engines.transformers.*",
        "models.completeness",
        "models.doctor_models",
        "models.loading",
        "models.methods",
        "models.quiet",
        "models.smollm2",
        "run.plan",
        "suite.templates",
        "suite.toolkit.haystack",
    ),
    "lm_eval": ("engines.lm_eval", "engines.registry", "suite.scorer", "suite.tasks"),
    "datasets": ("suite.tasks",),
}
"""Which modules import what is heavy. All others judge, plan and report on a laptop without these packages."""

JUDGES = ("--help", "compare --help", "history --help", "gate --help", "report --help", "plan --help", "demo --help")


def module_names() -> list[str]:
    """Every module of the package but the package itself: `stats`, or `report.html` in a sub-package."""
    paths = sorted(PACKAGE.rglob("*.py"))
    dotted = (".".join(path.relative_to(PACKAGE).with_suffix("").parts) for path in paths)
    return [name.removesuffix(".__init__") for name in dotted if name != "__init__"]


MODULES = module_names()


def room_of(module: str) -> str:
    """The room of a module: the first part of its name."""
    return module.partition(".")[0]


@functools.cache
def imports_of(module: str) -> set[str]:
    """All that a module imports, at its top or late: `harness.stats`, `torch.nn`; relative names resolved."""
    path = PACKAGE.joinpath(*module.split("."))
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}:{node.lineno}: import from harness by its full name"
            found.update(meant(str(node.module), alias.name) for alias in node.names)
    return found


def meant(source: str, name: str) -> str:
    """What `from source import name` imports: a module where the name is one's, else the module that holds the name."""
    inner = f"{source}.{name}".removeprefix("harness.")
    return f"harness.{inner}" if inner in MODULES else source


def own_imports(module: str) -> set[str]:
    """The modules of the package that a module imports."""
    inner = (name.removeprefix("harness.") for name in imports_of(module) if name.startswith("harness."))
    return {name for name in inner if name in MODULES and name != module}


def python(code: str, *arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run code in a fresh interpreter that finds the package and is no worker of the tests."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    env |= {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    return subprocess.run(  # noqa: PLW1510 - the caller reads the code
        [sys.executable, "-c", code, *arguments], env=env, capture_output=True, text=True, timeout=240, cwd=cwd
    )


def test_there_are_modules():
    """The tests below look at a package that is really there."""
    assert {"errors", "records", "config"} <= set(MODULES)


def test_rooms_import_in_one_order():
    """A module imports from rooms that stand before its own in ORDER, or from its own."""
    rank = {room: place for place, room in enumerate(ORDER)}
    wrong = [
        f"harness.{module} imports harness.{other}"
        for module in MODULES
        for other in sorted(own_imports(module))
        if rank[room_of(other)] > rank[room_of(module)]
    ]
    assert wrong == []
    assert {room_of(module) for module in MODULES} == set(ORDER)


def test_no_module_reaches_itself():
    """The imports inside a family make no circle either."""
    above: dict[str, set[str]] = {module: own_imports(module) for module in MODULES}
    while ready := [module for module, needs in above.items() if not needs]:
        for module in ready:
            del above[module]
        for needs in above.values():
            needs.difference_update(ready)
    assert not above, f"these modules import each other in a circle: {sorted(above)}"


def importers_of(package: str) -> tuple[str, ...]:
    """The modules that import a package, at their top or late."""
    return tuple(module for module in MODULES if any(name.partition(".")[0] == package for name in imports_of(module)))


def named(package: str, module: str) -> bool:
    """Whether HEAVY names a module for a package."""
    return any(fnmatchcase(module, pattern) for pattern in HEAVY[package])


@pytest.mark.parametrize("package", sorted(HEAVY))
def test_heavy_packages_are_imported_exactly_where_named(package: str):
    """HEAVY names all modules that import a heavy package, late imports included, and no other."""
    modules = importers_of(package)
    assert [module for module in modules if not named(package, module)] == []
    idle = [pattern for pattern in HEAVY[package] if not any(fnmatchcase(module, pattern) for module in modules)]
    assert idle == []


HEAVY_BELOW = {
    "__main__",
    "models.checkpoints",
    "run.preload",
}
"""Modules that import what imports torch."""
LIGHT = [m for m in MODULES if m not in HEAVY_BELOW and not named("torch", m)]

IMPORT = """
import importlib, json, sys, warnings
names, rules = map(json.loads, sys.argv[1:])
for rule in rules:
    warnings.filterwarnings(*rule.split(":")[:2])
for name in names:
    try:
        importlib.import_module("harness." + name)
    except BaseException as error:
        print(f"harness.{name} failed: {type(error).__name__}: {error}")
    if heavy := sorted({"torch", "transformers", "lm_eval", "datasets"} & set(sys.modules)):
        print(f"harness.{name} brings {','.join(heavy)}")
"""


def imported(modules: list[str]) -> list[str]:
    """Import modules one after the other with warnings as errors: which failed, and what was loaded by then.

    One process will do for all: no module reaches itself, so each can be the first that is imported.
    """
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    rules = settings["tool"]["pytest"]["ini_options"]["filterwarnings"]
    done = python(IMPORT, json.dumps(modules), json.dumps(rules))
    assert done.returncode == 0, done.stderr
    return [line for line in done.stdout.splitlines() if line.startswith("harness.")]


def test_light_modules_import_and_stay_light():
    """A module that needs no torch is imported without a warning, and brings no heavy package with it."""
    assert len(LIGHT) >= 3
    assert imported(LIGHT) == []


@pytest.mark.slow
def test_heavy_modules_import():
    """A module that may use torch is imported without a warning."""
    modules = [m for m in MODULES if m != "__main__" and m not in LIGHT]
    assert modules
    assert [line for line in imported(modules) if " failed: " in line] == []


COMMAND = """
import json, os, sys, time, warnings
warnings.simplefilter("error")
for words in json.loads(sys.argv[1]):
    if os.fork() == 0:  # each command is the first thing that its process does
        from harness.cli import main
        sys.argv = ["quantcliff", *words.split()]
        try:
            main()
        except SystemExit as exit:
            assert not exit.code, exit.code
        heavy = {"torch", "transformers", "lm_eval", "datasets", "scipy.stats", "matplotlib", "pandas"}
        print("LOADED", sorted(heavy & set(sys.modules)), flush=True)
        os._exit(0)
    os.wait()
"""


def test_help_and_judging_load_nothing_heavy():
    """`quantcliff --help` and the help of the commands that judge answer without torch, and without scipy."""
    done = python(COMMAND, json.dumps(JUDGES))
    assert done.stderr == ""
    assert done.stdout.count("Usage: ") == len(JUDGES)
    assert [line for line in done.stdout.splitlines() if line.startswith("LOADED")] == ["LOADED []"] * len(JUDGES)


def test_help_is_quick():
    """`quantcliff --help` takes half a second of an idle processor: here less than two seconds of a busy one."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = python("from harness.cli import main; main()", "--help")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stderr
    took = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert took < 2, f"--help took {took:.1f} s of processor time"


COLLECT = """
import sys, pytest
assert pytest.main(["--collect-only", "-qq", "-p", "no:cacheprovider"]) == 0
print("LOADED", sorted({"torch", "transformers", "lm_eval", "datasets", "pandas"} & set(sys.modules)))
"""


@pytest.mark.slow
def test_collecting_the_tests_loads_nothing_heavy():
    """Test modules import torch when a test needs it (`lazily.lazy`), so that one test of one file starts at once."""
    done = python(COLLECT, cwd=ROOT)
    assert done.stdout.splitlines()[-1] == "LOADED []", done.stdout[-2000:]
