"""Where the checkout's folders are."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / "tests" / "data"
RESULTS = ROOT / "results"
SCRIPTS = ROOT / "scripts"
SHARED = ROOT.parent / "shared"
TASKS = ROOT / "tasks"
