"""A run's traces: the baseline writes them unit by unit next to its head, and each candidate is compared with them.

A unit's file is written whole and renamed, so that a killed process leaves a whole one or none. Knows files and
engines. Does not know who asks, nor how long the files are kept.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from harness.engines.transformers.divergence import Comparer, Recorder, load_traces, save_traces
from harness.engines.transformers.engine import HFEngine
from harness.engines.transformers.head import Head
from harness.errors import StoreError
from harness.records import Item, Response, Settings
from harness.stats.divergence import Divergence
from harness.store.divergence import trace_path

__all__ = ["DivergenceMeter", "TraceComparer", "TraceWriter"]

HEAD = "head.safetensors"
"""The file of the baseline's head."""


class DivergenceMeter(Protocol):
    """Answers work units with an engine and takes part in measuring divergence."""

    def answer(self, unit: int, items: Sequence[Item], settings: Settings) -> Iterator[Response]:
        """Yield the responses to a unit."""
        ...

    def measured(self) -> tuple[tuple[Divergence, ...], str] | None:
        """Return what was measured in the last unit, and why nothing was; None from a baseline."""
        ...


class TraceWriter:
    """Answers as the baseline and leaves its traces in a folder: the first `tokens` tokens of every answer."""

    def __init__(self, engine: HFEngine, folder: Path, tokens: int, excluded: frozenset[str]) -> None:
        self._engine, self._folder, self._tokens, self._excluded = engine, folder, tokens, excluded
        with _explained(folder):
            folder.mkdir(parents=True, exist_ok=True)
            _save_head(folder / HEAD, engine.head)

    def answer(self, unit: int, items: Sequence[Item], settings: Settings) -> Iterator[Response]:
        """Yield the responses to a unit; its traces are on the disk after the last one."""
        recorder = Recorder(self._tokens, self._excluded)
        yield from self._engine.answer(items, settings, observer=recorder)
        path = trace_path(self._folder, unit)
        part = path.with_suffix(".part")
        with _explained(path):
            save_traces(part, list(recorder.traces.values()))
            part.replace(path)

    def measured(self) -> None:
        """Return None: a baseline is not compared with anything."""


class TraceComparer:
    """Answers as a candidate and measures how far it is from the baseline's traces.

    The baseline's answers are drafts for the candidate's.
    """

    def __init__(self, engine: HFEngine, folder: Path, tokens: int) -> None:
        self._engine, self._folder, self._tokens = engine, folder, tokens
        self._baseline, self._why = _load_head(folder / HEAD, engine)
        self._comparer: Comparer | None = None

    def answer(self, unit: int, items: Sequence[Item], settings: Settings) -> Iterator[Response]:
        """Yield the responses to a unit."""
        self._comparer = None
        if self._baseline is not None:
            traces = load_traces(trace_path(self._folder, unit))
            self._comparer = Comparer(traces, self._baseline, self._engine.head, self._tokens)
        yield from self._engine.answer(items, settings, observer=self._comparer)

    def measured(self) -> tuple[tuple[Divergence, ...], str]:
        """Return what was measured in the last unit, by item id, and why nothing was."""
        found = self._comparer.found if self._comparer is not None else {}
        return tuple(found[name] for name in sorted(found)), self._why


def _other_vocabulary(baseline: int, candidate: int) -> str:
    return f"the baseline knows {baseline} tokens, this variant {candidate}"


def _save_head(path: Path, head: Head) -> None:
    """Write a head, or that it cannot be read; an equal one that is there already is kept."""
    described = {"digest": head.digest(), "softcap": repr(head.softcap), "vocabulary": str(head.vocabulary)}
    weights = head.weights()
    if weights is None:
        described["digest"] = ""
    elif path.is_file() and _described(path) == described:
        return
    part = path.with_suffix(".part")
    save_file(weights or {"none": torch.zeros(1)}, part, metadata=described)
    part.replace(path)


def _described(path: Path) -> dict[str, str]:
    with safe_open(path, framework="pt") as file:
        return dict(file.metadata() or {})


def _load_head(path: Path, engine: HFEngine) -> tuple[Head | None, str]:
    """Return the baseline's head: the engine's own if they are the same; or why there is none."""
    own = engine.head
    with _explained(path):
        described = _described(path)
        if not described["digest"]:
            return None, "the baseline's head cannot be applied apart from its model"
        if int(described["vocabulary"]) != own.vocabulary:
            return None, _other_vocabulary(int(described["vocabulary"]), own.vocabulary)
        if described["digest"] == own.digest():
            return own, ""
        with safe_open(path, framework="pt") as file:
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no mapping
    softcap = None if described["softcap"] == "None" else float(described["softcap"])
    return Head.of(weights["weight"], weights.get("bias"), softcap, engine.context.model.device), ""


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, KeyError, ValueError, SafetensorError) as error:
        msg = f"{path}: cannot be used: {error}; give the same command again, or set execution.divergence: false"
        raise StoreError(msg) from error
