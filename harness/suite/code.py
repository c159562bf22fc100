"""Whether what a model wrote may be run: said by a person at the command line, never by a config of anyone's."""

import contextlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from harness.config.schema import Experiment, SliceSpec
from harness.errors import ConfigError, Problem, UsageError
from harness.records import Item
from harness.suite.catalogue import slice_named
from harness.suite.sandbox import isolation, missing
from harness.suite.toolkit.traffic import read_rows

FLAG = "--allow-code-execution"
LANGUAGE = "code_language"  # the field of a document that says in which language its answer will be run


def runs_code(item: Item) -> bool:
    """Say whether scoring an item runs the answer."""
    return LANGUAGE in item.doc


def refuse_code(items: Iterable[Item], *, allowed: bool) -> None:
    """Raise UsageError where an item's answer would be run and that is not allowed."""
    first = None if allowed else next(filter(runs_code, items), None)
    if first is not None:
        raise UsageError(_refusal(first.slice))


def _refusal(name: str) -> str:
    return (
        f"{name!r} is scored by running what the models write. docs/sandbox.md says how that is shut away; "
        f"to allow it give `quantcliff run {FLAG}` (a config cannot), or leave the slice out"
    )


def check_consent(experiment: Experiment, source: str, *, allowed: bool) -> None:
    """Check, before anything loads, that code may run where a slice needs it (ConfigError), and can here (RunError)."""
    problems = []
    needed = [_languages(spec) for spec in experiment.slices]
    for index, (spec, languages) in enumerate(zip(experiment.slices, needed, strict=True)):
        said = [_refusal(spec.key)] if languages and not allowed else []
        said += filter(None, map(missing, sorted(languages)))
        problems += [Problem(f"slices[{index}]", text) for text in said]
    if problems:
        raise ConfigError(source, problems)
    for language in sorted(set().union(*needed)):
        isolation(language)


def _languages(spec: SliceSpec) -> set[str]:
    info = slice_named(spec.name)
    found: set[str] = set()
    for note in info.asked(spec.tasks) if info else ():
        if note.runs_code and "file" not in note.options:
            found.update(note.levels[LANGUAGE])
        elif note.runs_code:
            with contextlib.suppress(OSError, ValueError):  # what is wrong is said where the file is read for good
                rows = read_rows(Path(spec.data_dir or ".") / str(spec.options.get("file")))
                found.update(row.code_language for row in rows if row.scorer == "code_tests")
    return found


def record(items: Iterable[Item]) -> dict[str, Any]:
    """Give what a run puts down about the isolation in force: nothing where no code is run."""
    languages = sorted({str(item.doc[LANGUAGE]) for item in items if runs_code(item)})
    return {"generated_code": {one: isolation(one) for one in languages}} if languages else {}
