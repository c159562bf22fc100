"""Makes outcomes with exact counts, for tests of what is made of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from harness.judge import compare, gate
from harness.judge.outcomes import Outcomes, build
from harness.judge.rules import Rules
from harness.judge.verdicts import Judgement, StratumVerdict
from harness.store.files import sealed


class Cell(NamedTuple):
    """A stratum: items, of which some only the baseline and some only the candidate gets right, the rest both."""

    n: int
    lost: int = 0
    gained: int = 0
    wrong: int = 0
    chance: float = 0.0

    def scores(self) -> tuple[list[float], list[float]]:
        """The two sides' scores; `wrong` items are wrong on both sides."""
        both = self.n - self.lost - self.gained - self.wrong
        assert both >= 0
        before = [1.0] * self.lost + [0.0] * self.gained + [0.0] * self.wrong + [1.0] * both
        after = [0.0] * self.lost + [1.0] * self.gained + [0.0] * self.wrong + [1.0] * both
        return before, after


Cells = Mapping[str, Cell]
"""``slice/stratum`` to a cell."""


def side(name: str, cells: Cells, which: int) -> Outcomes:
    """One side of the cells: 0 the baseline, 1 the candidate."""
    rows = [
        (f"{place}/{at}", score, *place.split("/", 1), cell.chance)
        for place, cell in cells.items()
        for at, score in enumerate(cell.scores()[which])
    ]
    items, scores, slices, strata, chances = zip(*rows, strict=True)
    return build(name, items, scores, slices=slices, strata=strata, chance=chances)


def reordered(outcomes: Outcomes, order: np.ndarray, name: str | None = None) -> Outcomes:
    """The same outcomes with the items in another order."""
    return build(
        name or outcomes.name,
        [outcomes.items[at] for at in order],
        outcomes.score[order],
        slices=[outcomes.slice[at] for at in order],
        strata=[outcomes.stratum[at] for at in order],
        clusters=[outcomes.cluster[at] for at in order],
        chance=outcomes.chance[order],
        looks=outcomes.look[order],
    )


def judged(cells: Cells, rules: Rules | None = None, **options: object) -> Judgement:
    """The judgement of one candidate, named ``int4``."""
    rules = rules or Rules.from_flags(margin=0.05)
    compared = compare.compare(side("bf16", cells, 0), [side("int4", cells, 1)], rules)
    return gate.judge(compared, rules, **options)


def stratum(judgement: Judgement, place: str, candidate: int = 0) -> StratumVerdict:
    """One stratum of a judgement."""
    (found,) = [one for one in judgement.candidates[candidate].strata if f"{one.slice}/{one.stratum}" == place]
    return found


def rewrite(path: Path, change: Callable[[int, dict[str, Any]], object]) -> None:
    """Change lines of a run's items or answers in place, and give them the checks that a run would have written."""
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    for at, line in enumerate(lines):
        line.pop("check", None)
        change(at, line)
    path.write_text("".join(sealed(line, path.parent.name) for line in lines), encoding="utf-8")
