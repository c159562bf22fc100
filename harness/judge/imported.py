"""`quantcliff compare --baseline ... --candidate ...`: judges what other tools ran, by the flags of the command line.

Puts the importers, the comparison and the gate together. Needs no torch, and none of the tools that wrote the files.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.errors import NotComparable, UsageError
from harness.judge import compare, gate, importers
from harness.judge.importers import ImportOptions
from harness.judge.rules import Rules
from harness.judge.verdicts import Judgement

__all__ = ["judge_imported"]

_FLAGS = {"strata": "stratum"}
"""Options whose flag has another name than their field."""


def judge_imported(baseline: Path, candidates: Sequence[str], options: Mapping[str, Any]) -> Judgement:
    """Read both sides, compare and gate them.

    candidates: ``PATH`` or ``NAME=PATH``. options: the flags of `compare`, None or empty if not given. Raises
    UsageError, NotComparable.
    """
    named = [_named(one) for one in candidates]
    known = [one.name for one in dataclasses.fields(ImportOptions) if options.get(one.name) not in (None, ())]
    reading = ImportOptions(**{name: options[name] for name in known})
    used = [importers.format_of(path, reading) for path in (baseline, *(path for _, path in named))]
    importers.check_options([_FLAGS.get(name, name) for name in known], used)
    flags = {key: options[key] for key in ("margin", "alpha") if options[key] is not None}
    rules = Rules.from_flags(**flags)
    base = importers.load(baseline, reading, "baseline")
    sides = [importers.load(path, reading, name) for name, path in named]
    if not options.get("allow_identical"):
        for name, path in named:
            _refuse_same(baseline, path, name)
    material = compare.compare(base, sides, rules, allow_unmatched=options["allow_unmatched"])
    provenance = {"baseline": str(baseline), "candidates": {name: str(path) for name, path in named}}
    extras = gate.Extras(provenance=provenance)
    return gate.judge(material, rules, order=[name for name, _ in named], extras=extras)


def _refuse_same(baseline: Path, candidate: Path, name: str) -> None:
    """Refuse a candidate whose results are the baseline's, byte for byte. Raises NotComparable."""
    one, other = _contents(baseline), _contents(candidate)
    if one and one == other:
        text = (
            f"{candidate}: the results of {name} are the baseline's ({baseline}), byte for byte, so there is nothing "
        )
        raise NotComparable(f"{text}to compare: give the candidate's own, or --allow-identical for an A/A comparison")


def _contents(path: Path) -> frozenset[str]:
    """Return the digests of a file, or of a directory's files of results, without their names, which hold times.

    Summaries (``results_*.json`` of lm_eval) hold times too, and are left out if there is anything else.
    """
    files = [one for one in path.rglob("*") if one.is_file()] if path.is_dir() else [path] if path.is_file() else []
    items = [one for one in files if not one.name.startswith("results_")] or files
    found = set()
    for one in items:
        with one.open("rb") as stream:
            found.add(hashlib.file_digest(stream, "sha256").hexdigest())
    return frozenset(found)


def _named(text: str) -> tuple[str, Path]:
    """Split ``NAME=PATH``; a path alone is named after itself. Raises UsageError."""
    name, equals, path = text.partition("=")
    if not equals:
        return Path(text).stem or text, Path(text)
    if not name or not path:
        raise UsageError(f"--candidate {text}: write NAME=PATH, or PATH alone")
    return name, Path(path)
