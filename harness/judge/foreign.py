"""`quantcliff compare --baseline ... --candidate ...`: judges what other tools ran, by the flags of the command line.

Puts the importers, the comparison and the gate together. Needs no torch, and none of the tools that wrote the files.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness import importers
from harness.errors import UsageError
from harness.importers import ImportOptions
from harness.judge import compare, gate
from harness.judge.evidence import Evidence
from harness.judge.rules import Rules
from harness.judge.verdicts import Judgement

__all__ = ["judge"]

_FLAGS = {"strata": "stratum"}
"""Options whose flag has another name than their field."""


def judge(baseline: Path, candidates: Sequence[str], options: Mapping[str, Any]) -> tuple[Judgement, Evidence]:
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
    material = compare.compare(base, sides, rules, allow_unmatched=options["allow_unmatched"])
    provenance = {"baseline": str(baseline), "candidates": {name: str(path) for name, path in named}}
    judgement = gate.judge(
        material, rules, order=[name for name, _ in named], extras=gate.Extras(provenance=provenance)
    )
    return judgement, Evidence(name="comparison", provenance=provenance)


def _named(text: str) -> tuple[str, Path]:
    """Split ``NAME=PATH``; a path alone is named after itself. Raises UsageError."""
    name, equals, path = text.partition("=")
    if not equals:
        return Path(text).stem or text, Path(text)
    if not name or not path:
        raise UsageError(f"--candidate {text}: write NAME=PATH, or PATH alone")
    return name, Path(path)
