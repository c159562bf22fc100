"""The command line in this process, and a config for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from harness.cli import program as cli

REHEARSAL = {"lost": {"nf4/multi_hop_math": 0.3}}


def write(folder: Path, model: Path | str, **changes: Any) -> Path:
    """Write a config of a rehearsal over one slice, and give its path."""
    data = {
        "name": "trial",
        "baseline": {"name": "bf16", "model": str(model)},
        "candidates": [{"name": "nf4", "quantization": "bnb-nf4"}],
        "slices": [{"name": "multi_hop_math", "axes": {"hops": [1]}, "items": 60, "margin": 0.1}],
        **changes,
    }
    # Damage is only for slices that are asked.
    damaged = any(one["name"] == "multi_hop_math" for one in data["slices"])
    data.setdefault("execution", {"device": "cpu", "rehearsal": REHEARSAL if damaged else {}, "control": False})
    path = folder / "trial.yaml"
    path.write_text(yaml.safe_dump(data), encoding="utf-8")
    return path


def call(*words: object) -> int:
    """Run the command line in this process and give its exit code."""
    return int(cli._run([str(word) for word in words]))
