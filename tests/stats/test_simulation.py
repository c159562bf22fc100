"""The simulation of the whole judge, in small: its draws, its shortcut, its table."""

from __future__ import annotations

import csv
import dataclasses
import math
import sys
from pathlib import Path

import numpy as np
import pytest
from paths import SCRIPTS

sys.path.insert(0, str(SCRIPTS))

import simulate_gate
import simulation_cells
import simulation_routes

from harness.stats.stratum import FEW_CLUSTERS

CELLS = list(simulation_cells.cells(quick=True))


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: cell.name())
def test_few_rollouts_of_every_kind_hold_their_level(cell: simulation_cells.Cell):
    """Each kind of cell runs; verdicts from remembered tables are the gate's; 5 % holds within three errors."""
    row = simulate_gate.simulate(cell, 7, simulate_gate.Tables())
    assert row.holds() in ((True,) if cell.wrong else (None,))
    assert 0.0 < row.items <= 1.0
    assert 0.0 <= row.passed + row.failed <= 1.0
    if not cell.wrong:
        assert row.passed > 0.6


def test_a_judge_that_errs_too_often_would_be_seen():
    """A judge that gives a wrong verdict in 8 % of 20,000 rollouts does not hold; one that gives it in 5.3 % may."""
    row = simulate_gate.Row(dataclasses.replace(CELLS[0], rollouts=20_000), 0.08, 0.01, 1.0, 0.0)
    assert row.holds() is False
    assert dataclasses.replace(row, passed=0.01, failed=0.08).holds() is False
    assert dataclasses.replace(row, passed=0.053).holds() is True
    assert row.error(0.08) == pytest.approx(0.00192, abs=1e-5)


@pytest.mark.parametrize("law", simulation_cells.LAWS)
def test_laws_draw_the_difference_and_correlation_that_they_name(law: str):
    """The mean is the margin's, differences stay in [-1, 1], and items of a source correlate as said."""
    size, icc = (5, 0.3) if "sources" in law else (1, 0.0)
    cell = simulation_cells.Cell(law, 100, 0.05, 0.2, -0.05, -0.05, size=size, icc=icc)
    diffs = simulation_cells.LAWS[law](cell, 4000, np.random.default_rng(3))
    assert diffs.shape == (4000, 100)
    assert np.abs(diffs).max() <= 1.0
    assert diffs.mean() == pytest.approx(-0.05, abs=0.004)
    if size > 1:
        pairs = diffs.reshape(-1, size)
        assert np.corrcoef(pairs[:, 0], pairs[:, 1])[0, 1] == pytest.approx(icc, abs=0.03)


def test_the_committed_table_is_of_these_cells_and_holds(repository: Path):
    """results/simulation has a row for every cell, with its rollouts, and each holds its level within three errors."""
    with (repository / "results" / "simulation" / "cells.csv").open(newline="", encoding="utf-8") as file:
        records = list(csv.DictReader(file))
    wanted = [{key: str(value) for key, value in dataclasses.asdict(cell).items()} for cell in simulation_cells.cells()]
    assert [{key: record[key] for key in wanted[0]} for record in records] == wanted
    for record in records:
        resampled = record["law"].startswith("graded") or int(record["n"]) // int(record["size"]) < FEW_CLUSTERS
        assert int(record["rollouts"]) == (simulation_cells.RESAMPLED if resampled else simulation_cells.ROLLOUTS)
        assert record["holds"] == ("yes" if record["wrong"] else ""), record
        if record["wrong"]:
            limit = 0.05 + 3 * math.sqrt(0.05 * 0.95 / int(record["rollouts"]))
            assert max(float(record["passed"]), float(record["failed"])) <= limit


def test_what_the_page_says_of_the_table_is_in_it(repository: Path):
    """The README beside the table states its number of cells and its largest shares of wrong verdicts."""
    folder = repository / "results" / "simulation"
    text = (folder / "README.md").read_text(encoding="utf-8")
    with (folder / "cells.csv").open(newline="", encoding="utf-8") as file:
        at_margin = [record for record in csv.DictReader(file) if record["wrong"]]
    assert f"{len(at_margin)} cells" in text
    for share in ("passed", "failed"):
        assert f"{100 * max(float(record[share]) for record in at_margin):.2f} %" in text


@pytest.mark.parametrize("route", ["looks", "pooled", "pooled sources", "layered"])
def test_few_rollouts_of_every_route_hold_their_level(route: str):
    """A cell of each route: verdicts from arrays of counts are the gate's, and 5 % holds within three errors."""
    cell = next(one for one in simulation_routes.route_cells() if one.route == route and one.wrong)
    few = dataclasses.replace(cell, rollouts=20 if route == "pooled sources" else 500)
    row = simulation_routes.simulate(few, 7)
    assert row.holds() is True
    assert 0.0 < row.items <= 1.0


def test_the_committed_table_of_routes_is_of_these_cells_and_holds(repository: Path):
    """results/simulation/routes.csv has a row for every cell, and each holds its level within three errors."""
    with (repository / "results" / "simulation" / "routes.csv").open(newline="", encoding="utf-8") as file:
        records = list(csv.DictReader(file))
    cells = list(simulation_routes.route_cells())
    wanted = [{key: str(value) for key, value in dataclasses.asdict(cell).items()} for cell in cells]
    assert [{key: record[key] for key in wanted[0]} for record in records] == wanted
    for record in records:
        limit = 0.05 + 3 * math.sqrt(0.05 * 0.95 / int(record["rollouts"]))
        judged = {"pass": ["passed"], "fail": ["failed"], "both": ["passed", "failed"], "": []}[record["wrong"]]
        assert all(float(record[one]) <= limit for one in judged), record
        assert record["holds"] == ("yes" if record["wrong"] else "")
    text = (repository / "results" / "simulation" / "README.md").read_text(encoding="utf-8")
    assert f"{sum(bool(one['wrong']) for one in records)} cells of routes" in text
