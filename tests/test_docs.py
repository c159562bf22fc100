"""The docs say what is true: their commands exist, their links lead somewhere, their table was measured."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest

from harness.cli import commands


def pages(repository: Path) -> list[Path]:
    """The README and every page of docs/."""
    found = [
        repository / "README.md",
        *sorted((repository / "docs").glob("*.md")),
        repository / "results" / "README.md",
    ]
    return [path for path in found if path.is_file()]


def command_lines(text: str) -> list[str]:
    """Every `quantcliff ...` line of the console blocks, without comments and prompts."""
    blocks = re.findall(r"```(?:console|bash|sh)\n(.*?)```", text, flags=re.DOTALL)
    lines = [line.removeprefix("$ ").split("  #")[0].strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if re.match(r"(?:\.venv/bin/)?quantcliff ", line)]


def test_every_command_in_the_docs_exists_with_its_flags(repository: Path) -> None:
    """click parses each documented line up to the point of running it."""
    seen = 0
    for page in pages(repository):
        for line in command_lines(page.read_text(encoding="utf-8")):
            words = shlex.split(line.split(" > ")[0].split(" | ")[0].split(" && ")[0])[1:]
            command = commands.commands.get(words[0])
            if command is None:
                assert words[0].startswith("-"), f"{page.name}: {line}"
                continue
            context = click.Context(command, info_name=words[0], resilient_parsing=True)
            known = {flag for option in command.params for flag in (*option.opts, *option.secondary_opts)}
            flags = {word.split("=")[0] for word in words[1:] if word.startswith("-")}
            assert flags <= known | {"--help"}, f"{page.name}: {line}"
            command.make_parser(context).parse_args([word for word in words[1:] if word != "--help"])
            seen += 1
    assert seen > 10


def test_every_relative_link_leads_somewhere(repository: Path) -> None:
    """A link to a file or picture of the repository names one that is there."""
    links = 0
    for page in pages(repository):
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8")):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name}: {target}"
                links += 1
    assert links > 4


def test_every_config_and_script_named_in_the_readme_is_there(repository: Path) -> None:
    """Paths in the README's code are paths of the repository."""
    text = (repository / "README.md").read_text(encoding="utf-8")
    named = set(re.findall(r"\b(?:configs|scripts|docs|results)/[\w./-]*\w", text))
    missing = [
        name for name in named if not (repository / name).exists() and name not in {"results/my", "results/demo"}
    ]
    assert not missing


def test_the_readme_shows_the_committed_demo(repository: Path) -> None:
    """The table between the markers is, line by line, what the committed demo printed."""
    text = (repository / "README.md").read_text(encoding="utf-8")
    shown = re.search(r"<!-- demo:begin -->\n```text\n(.*?)```\n<!-- demo:end -->", text, flags=re.DOTALL)
    assert shown is not None
    printed = repository / "results" / "demo-cpu" / "terminal.txt"
    if not printed.is_file():
        pytest.fail("results/demo-cpu/terminal.txt is not there")
    lines = [line.rstrip() for line in printed.read_text(encoding="utf-8").splitlines()]
    for line in shown.group(1).splitlines():
        assert line.rstrip() in {*lines, "..."}, line


def test_nothing_tracked_names_a_machine(repository: Path) -> None:
    """Docs, configs and sources speak of no path of one machine."""
    for folder in ("harness", "configs", "docs", "scripts", "tasks"):
        for path in (repository / folder).rglob("*"):
            if path.suffix in {".py", ".md", ".yaml", ".sh", ".sbatch"}:
                assert not re.search(r"(?<![\w.])/(?:root|home/\w+|work)/", path.read_text(encoding="utf-8")), path
