"""Rehearsals over items with planted secrets, and a search through everything that a run leaves."""

from __future__ import annotations

import dataclasses
import html
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness.cli import program as cli
from harness.records import Item
from harness.run import plan as run_plan

SECRETS = {
    "e-mail": "anna.maier+shop@kunden.example.org",
    "phone": "+49 30 901820",
    "card": "4111 1111 1111 1111",
    "IBAN": "DE89 3704 0044 0532 0130 00",
    "IP": "203.0.113.77",
}
"""One of each kind; two items of three have them all, in every text of theirs."""

PLAIN = "orchidvault"
"""A word that is no personal data, in every text of every item."""

SYSTEM = f"You are the {PLAIN} desk: {', '.join(SECRETS.values())}."
"""The config's system message, which stands in every prompt and in the config that the run records."""

STEP_SUMMARY = "step-summary.md"


def own_word(number: int) -> str:
    """A word that stands in the texts of one item only."""
    return f"vault{number:05d}x"


def planted(number: int, item: Item) -> Item:
    """Write secrets into all of an item's texts; what is right stays the last number, or one of the choices."""
    words = [PLAIN, own_word(number), *(SECRETS.values() if number % 3 else ())]
    note = f"({', '.join(words)}) "
    return dataclasses.replace(
        item,
        prompt=note + item.prompt,
        choices=tuple(f" {note}{choice.strip()}" for choice in item.choices),
        target=note + item.target,
        doc={**item.doc, "customer": {"words": words, "phone": 4930901820}},
    )


def config(folder: Path, model: Path, **changes: Any) -> Path:
    """Write the config of a rehearsal with a slice of answers in words and one of choices, and give its path."""
    data = {
        "name": "private",
        "baseline": {"name": "bf16", "model": str(model)},
        "candidates": [{"name": "nf4", "quantization": "bnb-nf4"}],
        "slices": [
            {"name": "multi_hop_math", "axes": {"hops": [1]}, "items": 60, "margin": 0.1},
            {"name": "typical", "tasks": ["quantcliff_groups"], "items": 60, "margin": 0.1},
        ],
        "sampling": {"system": SYSTEM},
        "execution": {"device": "cpu", "unit_items": 10, "rehearsal": {"lost": {"nf4": 0.3}}},
        **changes,
    }
    path = folder / "private.yaml"
    path.write_text(yaml.safe_dump(data), encoding="utf-8")
    return path


def call(*words: object) -> int:
    """Run the command line in this process, its items planted with secrets, and give its exit code."""
    original = run_plan.load_items
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            run_plan, "load_items", lambda *args, **how: [planted(*one) for one in enumerate(original(*args, **how))]
        )
        return int(cli._run([str(word) for word in words]))


def run(folder: Path, model: Path, *flags: str, **changes: Any) -> Path:
    """Run, judge and report, the step summary beside the rest; give the run's directory."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GITHUB_STEP_SUMMARY", str(folder / "private" / STEP_SUMMARY))
        call("run", config(folder, model, **changes), "--output", folder, "--quiet", *flags)
    return folder / "private"


def texts(directory: Path) -> dict[str, str]:
    """Give every file under a directory as a reader sees it: entities resolved, Markdown's guard comments gone."""
    found = {}
    for path in sorted(directory.rglob("*")):
        if path.is_file():
            raw = path.read_bytes()
            if path.suffix == ".parquet":
                import pyarrow.parquet

                raw = str(pyarrow.parquet.read_table(path).to_pylist()).encode()
            found[str(path.relative_to(directory))] = html.unescape(raw.decode("utf-8", "replace")).replace(
                "<!-- -->", ""
            )
    return found


def holding(directory: Path, word: str) -> list[str]:
    """Name the files under a directory in which a word stands."""
    return [name for name, text in texts(directory).items() if word in text]
