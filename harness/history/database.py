"""Finished runs in one SQLite database, which users query with SQL: docs/history.md describes the tables."""

import contextlib
import dataclasses
import json
import math
import sqlite3
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from harness.errors import StoreError, UsageError
from harness.judge import gate, judging
from harness.judge.rules import by_stratum
from harness.judge.summaries import TailRate
from harness.judge.verdicts import FIGURES, Judgement
from harness.records import digest
from harness.report.blocks.measured import flat
from harness.report.run_evidence import circumstances
from harness.store.files import read_json
from harness.store.record import RunRecord
from harness.store.rundir import RunDir
from harness.store.whole import load_run

_TYPES = {"string": "TEXT", "float64": "REAL", "int64": "INTEGER", "bool_": "INTEGER"}
_FIGURES = ", ".join(f"{name} {_TYPES[one.kind]}" for name, one in FIGURES.items())
_RATES = ", ".join(one.name for one in dataclasses.fields(TailRate))

TABLES = Path(__file__).with_suffix(".sql").read_text("utf-8").format(figures=_FIGURES, rates=_RATES)
_VERSION = zlib.crc32(TABLES.encode()) >> 1  # identifies these tables: a database of other ones is refused


class History:
    """The database, in memory if it has no path. Raises StoreError if the file is no such database."""

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        with self._explained():
            self._db = sqlite3.connect(":memory:" if path is None else path)
            self._db.row_factory = sqlite3.Row
            (version,) = self._db.execute("PRAGMA user_version").fetchone()
            if version == 0 and not self.rows("SELECT 1 FROM sqlite_master"):
                self._db.executescript(f"BEGIN; {TABLES} PRAGMA user_version = {_VERSION}; COMMIT;")
            elif version != _VERSION:
                raise StoreError(f"{path}: holds other tables than this version's: name another file with --db")

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            text = "name a file that can be written, and that no other program writes, with --db"
            raise StoreError(f"{self._path}: {error}: {text}") from error

    def rows(self, query: str, *values: Any) -> list[sqlite3.Row]:
        """Return the rows of a query."""
        return self._db.execute(query, values).fetchall()

    def add(self, name: str, directory: RunDir) -> None:
        """Read a finished run if it is not there. Raises UsageError for another's name, and what judging raises."""
        manifest, known = directory.path / "manifest.json", self.rows("SELECT digest FROM runs WHERE name = ?", name)
        if known and manifest.is_file() and known[0]["digest"] == digest(read_json(manifest)):
            return
        if known:
            raise UsageError(f"{directory.path}: another run is called {name!r}: name this one with NAME=DIR")
        run = load_run(directory)
        judgement, made_up = judging.judge(run), run.experiment.execution.rehearsal is not None
        with self._explained(), self._db:
            self._insert(name, digest(read_json(manifest)), run, gate.rehearsed(judgement) if made_up else judgement)

    def _fill(self, table: str, rows: Iterable[tuple[Any, ...]]) -> None:
        found = list(rows)
        if found:
            self._db.executemany(f"INSERT INTO {table} VALUES ({', '.join('?' * len(found[0]))})", found)  # noqa: S608

    def _insert(self, name: str, mark: str, run: RunRecord, judgement: Judgement) -> None:
        verdict = (run.experiment.name, judgement.verdict, judgement.exit_code, judgement.baseline)
        rehearsal = run.experiment.execution.rehearsal is not None
        asked = (judgement.policy["alpha"], len(run.items), run.plan["items_digest"], rehearsal)
        self._fill("runs", [(None, name, mark, *verdict, *asked)])
        ((number,),) = self.rows("SELECT max(run) FROM runs")
        self._fill("facts", ((number, *fact) for fact in facts(run).items()))
        places = {at: sorted(run.digests[one.id] for one in own) for at, own in by_stratum(run.items).items()}
        for one in judgement.candidates:
            self._fill("candidates", [(number, one.name, one.verdict, json.dumps(one.reasons))])
            for each in one.strata:
                items, figures = digest(places[each.slice, each.stratum]), each.to_json()
                figures["levels"] = json.dumps(figures["levels"])
                self._fill("strata", [(number, one.name, items, *(figures[name] for name in FIGURES))])
            self._fill("tail_rates", ((number, one.name, *dataclasses.astuple(rate)) for rate in one.tail_events))
        self._answers(number, run)

    def _answers(self, number: int, run: RunRecord) -> None:
        """Insert the items that are new, and each variant's score of each item: NULL if it has none."""
        self._db.executemany(
            "INSERT OR IGNORE INTO items VALUES (NULL, ?, ?, ?, ?, ?)",
            ((run.digests[one.id], one.id, one.slice, one.stratum, one.cluster) for one in run.items),
        )
        key_of = {row["digest"]: row["item"] for row in self.rows("SELECT digest, item FROM items")}
        for variant in run.answers:
            scores = judging.item_scores(run, variant)
            known = ((key_of[run.digests[one.id]], scores.get(one.id, math.nan)) for one in run.items)
            self._fill("answers", ((number, variant, key, score) for key, score in known))  # SQLite stores NaN as NULL


def facts(run: RunRecord) -> dict[str, str]:
    """Return all that may differ between two runs of one suite, by dotted key: config, versions, devices, weights."""
    config = run.experiment.model_dump(mode="json", exclude={"name", "description", "output", "notes", "track"})
    config["candidates"] = {one["name"]: one for one in config["candidates"]}
    config["slices"] = {one["label"] or one["name"]: one for one in config["slices"]}
    found = {name: one for name, one in circumstances(run).items() if name in ("versions", "engines", "devices")}
    found["weights"] = {name: one["weights"] for name, one in run.identities.items()}
    found["loaded"] = {name: {**one["proof"], "notes": ()} for name, one in run.identities.items()}
    return flat({"config": config, **found})
