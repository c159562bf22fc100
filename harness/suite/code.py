"""Whether what a model wrote may be run: said by a person at the command line, never by a config of anyone's."""

import contextlib
import re
import tomllib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, repeat
from pathlib import Path
from typing import Any

from harness.config.schema import Experiment, SliceSpec
from harness.errors import ConfigError, Problem, UsageError
from harness.records import Item
from harness.suite.catalogue import slice_named
from harness.suite.sandbox import Program, execute, isolation, missing
from harness.suite.sandbox.names import taken
from harness.suite.toolkit.traffic import read_rows

FLAG = "--allow-code-execution"
LANGUAGE = "code_language"  # the field of a document that says in which language its answer will be run
_TRIAL: dict[str, Any] = tomllib.loads(Path(__file__).with_name("sandbox").joinpath("trial.toml").read_text("utf-8"))


def runs_code(item: Item) -> bool:
    """Say whether scoring an item runs the answer."""
    return LANGUAGE in item.doc


def refuse_code(items: Iterable[Item], *, allowed: bool) -> None:
    """Raise UsageError where an item's answer would be run and that is not allowed."""
    if not allowed and (first := next(filter(runs_code, items), None)):
        raise UsageError(_refusal(first.slice))


def _refusal(name: str) -> str:
    told = f"{name!r} is scored by running what the models write. docs/sandbox.md says how that is shut away"
    return f"{told}; to allow it give `quantcliff run {FLAG}` (a config cannot), or leave the slice out"


def untestable(items: Iterable[Item]) -> list[Problem]:
    """Try two programs without content, and say which items have tests that both pass, or that none can pass."""
    found = defaultdict[str, list[str]](list)
    for language, told in _TRIAL["languages"].items():
        own = [item.doc for item in items if item.doc.get(LANGUAGE) == language and {"tests", "setup"} <= {*item.doc}]
        own.sort(key=lambda doc: not re.search(told["first"], "".join(doc["tests"])))
        some = [own[at : at + told["together"]] for at in range(0, min(len(own), told["most"]), told["together"])]
        with ThreadPoolExecutor(2) as pool:
            ends = chain(*pool.map(_ends, repeat(told["raises"]), some))
        for doc, end in zip(own, ends, strict=False):
            if end == "passes" and re.search(_TRIAL["expecting"], "".join(doc["tests"])):
                end = _ends(told["returns"], [doc])[0]  # noqa: PLW2901 - how it ends
            if text := next((text for how, text in _TRIAL["problems"].items() if re.fullmatch(how, end)), ""):
                found[text].append(str(doc["id"]))
    return [Problem("slices", f"the tests of {', '.join(ids[:9])} {text}") for text, ids in found.items()]


def _ends(stub: str, docs: Sequence[Any]) -> list[str]:
    """How the tests of documents end for a stub: in one execution, but those that may be a problem each alone."""
    language, setup, tests = (docs[0][key] for key in (LANGUAGE, "setup", "tests"))
    asked = [doc.get("functions") or taken(doc["setup"], doc["tests"], language) for doc in docs]
    if len(docs) > 1:
        setup, tests = f"TOLD = {[(doc['setup'], *doc['tests']) for doc in docs]!r}", [_TRIAL["driver"]]
    code = "".join(dict.fromkeys(stub.replace("NAME", name) for name in chain(*asked)))
    program = Program(code, tuple(tests), setup, tuple(dict.fromkeys(chain(*asked))), language)
    tried, *ends = execute(program).reason.split() or ["passes"]
    if tried != "tried":
        return [tried] if len(docs) == 1 else [end for doc in docs for end in _ends(stub, [doc])]
    ends = [_ends(stub, [doc])[0] if end == "again" else end for doc, end in zip(docs, ends, strict=False)]
    return ends + (_ends(stub, docs[len(ends) :]) if len(ends) < len(docs) else [])


def check_consent(experiment: Experiment, source: str, *, allowed: bool) -> None:
    """Check, before anything loads, that code may run where a slice needs it (ConfigError), and can here (RunError)."""
    problems, needed = [], [_languages(spec) for spec in experiment.slices]
    for index, (spec, languages) in enumerate(zip(experiment.slices, needed, strict=True)):
        said = [_refusal(spec.key) if languages and not allowed else "", *map(missing, sorted(languages))]
        problems += [Problem(f"slices[{index}]", text) for text in filter(None, said)]
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
