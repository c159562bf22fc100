"""What a part of the programme measures: printed and written at once, and not measured again by the next call.

A row is kept with its setting (card, versions, a digest of the code, the sizes asked for), so that rows of different
cards or of changed code never stand in one table.
"""

from __future__ import annotations

import hashlib
import json
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import transformers

from harness.models.cuda import cuda_state, cuda_versions

ROOT = Path(__file__).resolve().parents[2]
Row = dict[str, Any]


def code_digest() -> str:
    """Identify the code that is measured: the package and these scripts."""
    found = hashlib.sha256()
    for path in sorted([*(ROOT / "harness").rglob("*.py"), *(ROOT / "scripts" / "gpu").glob("*.py")]):
        found.update(path.read_bytes())
    return found.hexdigest()[:8]


def setting_of(device: str, *, tiny: bool, **sizes: Any) -> dict[str, Any]:
    """Return what a row depends on besides its name."""
    cuda = device.startswith("cuda")
    return {
        "device": torch.cuda.get_device_name(torch.device(device)) if cuda else "cpu",
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        **(cuda_versions() if cuda else {}),
        "code": code_digest(),
        "tiny": tiny,
        **sizes,
    }


class Log:
    """The rows of one part in the file OUT/PART.jsonl, and the time that is left."""

    def __init__(self, out: Path, part: str, device: str, setting: Mapping[str, Any], minutes: float) -> None:
        out.mkdir(parents=True, exist_ok=True)
        self.path, self.setting = out / f"{part}.jsonl", dict(setting)
        self._cuda = device if device.startswith("cuda") else ""
        self._ends = time.monotonic() + 60 * minutes
        self.rows: dict[str, Row] = {row["name"]: row for row in self._read() if row["setting"] == self.setting}
        self.left_out: list[str] = []

    def _read(self) -> list[Row]:
        """Read the rows back; a last line that was cut off by a kill is dropped."""
        lines = self.path.read_text(encoding="utf-8").splitlines() if self.path.is_file() else []
        try:
            return [json.loads(line) for line in lines]
        except json.JSONDecodeError:
            self.path.write_text("".join(line + "\n" for line in lines[:-1]), encoding="utf-8")
            return [json.loads(line) for line in lines[:-1]]

    @property
    def seconds_left(self) -> float:
        """Seconds until no new measurement is begun."""
        return self._ends - time.monotonic()

    def done(self, name: str) -> bool:
        """Return whether a row is there and did not fail; say so if no time is left for it."""
        if name in self.rows and "failed" not in self.rows[name]["found"]:
            return True
        if self.seconds_left <= 0:
            self.left_out.append(name)
            return True
        return False

    def measure(self, name: str, run: Callable[[], Mapping[str, Any]]) -> None:
        """Measure one row unless it is there; what it raises is its result."""
        if self.done(name):
            return
        began = time.monotonic()
        if self._cuda:
            torch.cuda.reset_peak_memory_stats()
        try:
            found = dict(run())
        except Exception as error:  # noqa: BLE001 - out of memory and a missing kernel are answers too
            traceback.print_exc()
            found = {"failed": f"{type(error).__name__}: {str(error).splitlines()[0][:160] if str(error) else ''}"}
        if self._cuda:
            found["peak_gib"] = round(torch.cuda.max_memory_allocated() / 2**30, 2)
            torch.cuda.empty_cache()
        self.add(name, found, time.monotonic() - began)

    def add(self, name: str, found: Mapping[str, Any], seconds: float) -> None:
        """Write a row and print it."""
        state = cuda_state(self._cuda) if self._cuda else {}
        row = {"name": name, "found": dict(found), "seconds": round(seconds, 1), "state": state}
        self.rows[name] = {**row, "setting": self.setting}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(self.rows[name]) + "\n")
        print(f"{name}: {found} ({seconds:.1f} s)", flush=True)

    def table(self) -> str:
        """Return the rows, those with the same columns under one heading, and what no time was left for."""
        groups: dict[tuple[str, ...], list[Row]] = {}
        for row in self.rows.values():
            groups.setdefault(tuple(row["found"]), []).append(row)
        lines = ["", ", ".join(f"{key} {value}" for key, value in self.setting.items())]
        for columns, rows in groups.items():
            cells = [("", *columns), *((row["name"], *(str(row["found"][key]) for key in columns)) for row in rows)]
            widths = [max(len(row[at]) for row in cells) for at in range(len(columns) + 1)]
            lines += ["", *("  ".join(f"{cell:{w}}" for cell, w in zip(row, widths, strict=True)) for row in cells)]
        if self.left_out:
            lines += ["", f"no time was left for {len(self.left_out)}: give the same command again"]
        return "\n".join(line.rstrip() for line in lines)

    def failed(self) -> bool:
        """Return whether a row failed or is missing."""
        return bool(self.left_out) or any("failed" in row["found"] for row in self.rows.values()) or not self.rows
