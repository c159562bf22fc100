"""Gathers the wheels that a machine without a network lacks, for its Python.

The versions are those of constraints.txt, so nothing has to be solved: from quantcliff's own wheel the
requirements are followed, those that the node has already are left out, and of the rest the wheel for the
node's Python is fetched with the ordinary pip. What the node's packages require in turn travels as a spare.
What exists as source only is built here, and taken if it is pure Python. Of models and configs this module
knows nothing.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from email.parser import HeaderParser
from importlib import metadata
from pathlib import Path
from zipfile import ZipFile

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name, parse_wheel_filename

ROOT = Path(__file__).resolve().parent.parent


class BundleError(Exception):
    """The bundle cannot be made; the message says why and what to do."""


@dataclass(frozen=True)
class Target:
    """The machine that the bundle is for."""

    python: str
    """Its Python, as in 3.12."""
    glibc: int
    """The minor version of its glibc 2, at least: 28 takes manylinux_2_28 wheels and all older ones."""
    machine: str
    """Its processor, as in x86_64."""

    def environment(self, extra: str) -> dict[str, str]:
        """The values that a requirement's marker is read with."""
        return {
            "implementation_name": "cpython",
            "implementation_version": f"{self.python}.0",
            "os_name": "posix",
            "platform_machine": self.machine,
            "platform_python_implementation": "CPython",
            "platform_release": "",
            "platform_system": "Linux",
            "platform_version": "",
            "python_full_version": f"{self.python}.0",
            "python_version": self.python,
            "sys_platform": "linux",
            "extra": extra,
        }

    def pip_options(self) -> list[str]:
        """The options that make pip fetch for this machine instead of the one it runs on."""
        names = [f"manylinux_2_{minor}_{self.machine}" for minor in range(self.glibc, 4, -1)]
        names += [f"{old}_{self.machine}" for old in ("manylinux2014", "manylinux2010", "manylinux1", "linux")]
        platforms = [option for name in names for option in ("--platform", name)]
        return ["--python-version", self.python, "--implementation", "cp", *platforms]


def needs(requirements: Iterable[str], extras: Iterable[str], target: Target) -> Iterator[Requirement]:
    """Those requirements of a package that hold on the target with these extras asked for."""
    environments = [target.environment(extra) for extra in ("", *extras)]
    for text in requirements:
        requirement = Requirement(text)
        marker = requirement.marker
        if marker is None or any(marker.evaluate(environment) for environment in environments):
            yield requirement


def installed_requirements(name: str) -> list[str]:
    """What a package requires, as far as the environment that this runs in knows it."""
    try:
        return metadata.requires(name) or []
    except metadata.PackageNotFoundError:
        print(f"  {name} is not installed here: taken to be on the node alone, without what it requires")
        return []


def node_packages(names: Iterable[str], target: Target) -> set[str]:
    """The packages that the node should have: the named ones and all that they require in their versions here."""
    found: set[str] = set()
    waiting = [Requirement(name) for name in names if name]
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        if name in found:
            continue
        found.add(name)
        waiting += needs(installed_requirements(name), requirement.extras, target)
    return found


def run_pip(*arguments: str) -> None:
    """Run pip quietly; what it says is shown when it fails."""
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        errors = "\n".join(line for line in done.stderr.splitlines() if line.startswith("ERROR"))
        raise BundleError(f"pip {arguments[0]} failed:\n{errors or done.stderr}")


def own_wheel(folder: Path) -> Path:
    """Build quantcliff's wheel into the folder."""
    here = importlib.util.find_spec("hatchling") is not None  # then nothing has to be fetched for the build
    run_pip(
        "wheel",
        "--no-deps",
        *(["--no-build-isolation"] if here else []),
        "--wheel-dir",
        str(folder),
        str(ROOT),
    )
    return next(folder.glob("quantcliff-*.whl"))


def fetch(requirements: Sequence[Requirement], folder: Path, target: Target) -> None:
    """Put the wheels of these packages into the folder; without what they require in turn."""
    with tempfile.TemporaryDirectory() as scratch:
        names = [f"{r.name}{r.specifier}" for r in requirements]
        pins = ["--constraint", str(ROOT / "constraints.txt")]
        run_pip("download", "--no-deps", *pins, *target.pip_options(), "--dest", scratch, *names)
        for path in sorted(Path(scratch).iterdir()):
            if path.suffix == ".whl":
                path.rename(folder / path.name)
            else:
                build_pure(path, folder, target)


def build_pure(source: Path, folder: Path, target: Target) -> None:
    """Build the wheel of a source package, and take it if any machine can use it."""
    with tempfile.TemporaryDirectory() as scratch:
        run_pip("wheel", "--no-deps", "--wheel-dir", scratch, str(source))
        wheel = next(Path(scratch).iterdir())
        _, _, _, tags = parse_wheel_filename(wheel.name)
        if not any(tag.abi == "none" and tag.platform == "any" for tag in tags):
            raise BundleError(
                f"{source.name} has no wheel for Python {target.python} on {target.machine}, and what is "
                f"built here ({wheel.name}) fits this machine only. Install it on the node and name it in "
                "--have, or leave out the extra that asks for it"
            )
        wheel.rename(folder / wheel.name)


def requirements_in(wheel: Path) -> list[str]:
    """What a wheel's metadata says it requires."""
    with ZipFile(wheel) as archive:
        name = next(n for n in archive.namelist() if n.endswith(".dist-info/METADATA") and n.count("/") == 1)
        headers = HeaderParser().parsestr(archive.read(name).decode("utf-8"))
    return [str(value) for value in headers.get_all("Requires-Dist", [])]


def collect(wanted: Sequence[Requirement], folder: Path, target: Target, have: set[str]) -> None:
    """Put quantcliff's wheel, the wanted packages and all that they require into the folder."""
    wheels = {"quantcliff": own_wheel(folder)}
    seen: set[tuple[str, str]] = set()
    level = [r for r in wanted if canonicalize_name(r.name) not in have]
    while level:
        missing = {canonicalize_name(r.name): r for r in level if canonicalize_name(r.name) not in {*wheels, *have}}
        if missing:
            print(f"  fetching {', '.join(sorted(missing))}", flush=True)
            fetch(list(missing.values()), folder, target)
        wheels |= {canonicalize_name(parse_wheel_filename(p.name)[0]): p for p in folder.glob("*.whl")}
        level = list(next_level(level, wheels, seen, target))


def next_level(
    level: Sequence[Requirement], wheels: dict[str, Path], seen: set[tuple[str, str]], target: Target
) -> Iterator[Requirement]:
    """What the packages of one level require; each package and extra is asked once.

    A package of the node is followed too where an extra of it is asked for: the node need not have those.
    """
    for requirement in level:
        name = canonicalize_name(requirement.name)
        for extra in sorted({"", *requirement.extras}):
            if (name, extra) in seen:
                continue
            seen.add((name, extra))
            if name in wheels:
                yield from needs(requirements_in(wheels[name]), [extra] if extra else [], target)
            elif extra:
                yield from needs(installed_requirements(name), [extra], target)


def collect_spares(names: Iterable[str], folder: Path, target: Target) -> None:
    """Put packages into the folder that the node should have, but may not: its versions may require other things.

    They are installed on the node only where they are missing.
    """
    wanted = [Requirement(name) for name in sorted(names)]
    if wanted:
        print(f"  fetching, should the node lack them: {', '.join(r.name for r in wanted)}", flush=True)
        fetch(wanted, folder, target)
