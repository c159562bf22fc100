"""Puts the same counts through quantcliff and through other gates, and prints how often each is wrong or undecided.

    python scripts/compare_gates.py [--out results/gates] [--rollouts 2000] [--nel DIRECTORY] [--python python3.12]

One stratum of independent right-or-wrong items: a baseline that gets 90 % right, 10 or 2 % of the items flipping, and
true losses of 0 to 10 points. A loss below 5 points is tolerated, so a pass at 5 or more is wrong, and a fail below 5
is. Gates without such a margin are asked the question that they are used for: may this be shipped? The real
`nel gate` needs an environment of its own (see nel_gate.py); where none can be made its column is left out.
"""

from __future__ import annotations

import argparse
import csv
import functools
from collections.abc import Callable
from pathlib import Path

import nel_gate
import numpy as np
from scipy import stats as scipy_stats

from harness.stats import paired_counts_test

MARGIN, ALPHA, BASELINE = 0.05, 0.05, 0.9
SIZES = ((50, 0.1), (200, 0.1), (500, 0.1), (1000, 0.1), (20, 0.02), (50, 0.02))
"""Items, and the share of them that flips (at least the true loss)."""
LOSSES = (0.0, 0.01, 0.025, 0.05, 0.075, 0.1)

Gate = Callable[[int, int, int], str]
"""Items lost, items gained and all items to pass, fail or undecided."""


def right(n: int) -> int:
    """Items that the baseline gets right."""
    return round(BASELINE * n)


@functools.cache
def quantcliff(lost: int, gained: int, n: int) -> str:
    """Decide as `quantcliff compare` with a margin of 5 points does, where the stratum is the only one."""
    found = paired_counts_test(lost, gained, n, MARGIN, ALPHA)
    return "pass" if found.p_pass < ALPHA else "fail" if found.p_fail < ALPHA else "undecided"


def tolerance(lost: int, gained: int, n: int) -> str:
    """Compare the mean with the recorded one at a relative tolerance of .08, as CI tests on lm_eval's output do."""
    return "pass" if np.isclose(right(n) - lost + gained, right(n), rtol=0.08, atol=0.0) else "fail"


def recovery(lost: int, gained: int, n: int) -> str:
    """Ask for at least 95 % of the baseline's score, as model cards of compressed models report it."""
    return "pass" if right(n) - lost + gained >= 0.95 * right(n) else "fail"


@functools.cache
def mcnemar(lost: int, gained: int, n: int) -> str:
    """Pass if the exact two-sided McNemar test finds no significant loss."""
    del n
    significant = lost > gained and scipy_stats.binomtest(lost, lost + gained).pvalue < ALPHA
    return "fail" if significant else "pass"


GATES: dict[str, Gate] = {
    "quantcliff": quantcliff,
    "tolerance .08": tolerance,
    "recovery .95": recovery,
    "McNemar": mcnemar,
}


def draws(n: int, flips: float, loss: float, rollouts: int) -> np.ndarray:
    """Draw lost and gained items. Shape [rollouts, 2]."""
    discordance = max(flips, loss)
    lost, gained = (discordance + loss) / 2.0, (discordance - loss) / 2.0
    wrong = n - right(n)
    rng = np.random.default_rng([n, round(flips * 1000), round(loss * 1000)])
    # Only items that the baseline gets right can be lost, and only the others gained.
    return np.stack(
        [
            rng.binomial(right(n), lost * n / right(n), rollouts),
            rng.binomial(wrong, min(gained * n / wrong, 1.0), rollouts),
        ],
        axis=1,
    )


def rows_of(rollouts: int, python: Path | None, own: int) -> list[dict[str, object]]:
    """Judge every cell by every gate. own: rollouts of the gate that runs in another environment."""
    rows = []
    for n, flips in SIZES:
        tables = {loss: draws(n, flips, loss, rollouts) for loss in LOSSES}
        gates = dict(GATES)
        if python is not None:
            unique = np.unique(np.concatenate([one[:own] for one in tables.values()]), axis=0).tolist()
            said = nel_gate.verdicts(python, [(lost, gained, n, right(n)) for lost, gained in unique], MARGIN)
            known = {tuple(table): word for table, word in zip(unique, said, strict=True)}
            gates["nel gate"] = lambda lost, gained, _, known=known: known[lost, gained]  # type: ignore[misc]
        for loss, drawn in tables.items():
            for name, gate in gates.items():
                few = drawn[:own] if name == "nel gate" else drawn
                words = [gate(int(lost), int(gained), n) for lost, gained in few]
                rate = {word: words.count(word) / len(words) for word in ("pass", "fail", "undecided")}
                wrong = rate["pass"] if loss >= MARGIN else rate["fail"]
                rows.append(
                    {"gate": name, "n": n, "flips": flips, "loss": loss, "rollouts": len(words), **rate, "wrong": wrong}
                )
    return rows


def table(rows: list[dict[str, object]]) -> list[str]:
    """Return the table as Markdown: pass / fail / undecided in per cent, wrong ones in bold."""
    names = list(dict.fromkeys(str(row["gate"]) for row in rows))
    lines = [f"| items | flips | true loss | {' | '.join(names)} |", "|---:|---:|---:|" + "---|" * len(names)]
    for n, flips in SIZES:
        for loss in LOSSES:
            cells = []
            for name in names:
                wanted = name, n, flips, loss
                (row,) = [one for one in rows if (one["gate"], one["n"], one["flips"], one["loss"]) == wanted]
                bad = "pass" if loss >= MARGIN else "fail"
                shown = {word: f"{float(str(row[word])) * 100:.0f}" for word in ("pass", "fail", "undecided")}
                shown[bad] = f"**{shown[bad]}**" if float(str(row[bad])) > ALPHA else shown[bad]
                cells.append(" / ".join(shown.values()))
            lines.append(f"| {n} | {flips * 100:g} % | {loss * 100:g} | {' | '.join(cells)} |")
    return lines


def plot(rows: list[dict[str, object]], picture: Path) -> None:
    """Draw the share of passes against the true loss, a panel per number of items; needs matplotlib."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, len(SIZES), figsize=(19, 4), sharey=True, constrained_layout=True)
    for place, (n, flips) in zip(axes, SIZES, strict=True):
        for name in dict.fromkeys(str(row["gate"]) for row in rows):
            own = [one for one in rows if (one["gate"], one["n"], one["flips"]) == (name, n, flips)]
            line = "-" if name == "quantcliff" else "--"
            place.plot([one["loss"] for one in own], [one["pass"] for one in own], line, marker="o", ms=3, label=name)
        place.axvspan(MARGIN, max(LOSSES), color="0.93")
        place.axhline(ALPHA, color="0.6", lw=0.7)
        place.set(title=f"{n} items, {flips:.0%} flip", xlabel="true loss")
    axes[0].set(ylabel="share that passes (grey: a pass is wrong)")
    axes[-1].legend(fontsize=8)
    figure.savefig(picture, dpi=100)


def main() -> None:
    """Judge, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("results/gates"))
    parser.add_argument("--rollouts", type=int, default=2000)
    parser.add_argument("--nel-rollouts", type=int, default=400, help="of nel gate, which takes longest")
    parser.add_argument("--nel", type=Path, default=Path.home() / ".cache" / "quantcliff-nel", help="its environment")
    parser.add_argument("--python", help="a Python 3.12 or 3.13 to make that environment with")
    options = parser.parse_args()
    python = nel_gate.environment(options.nel, options.python)
    rows = rows_of(options.rollouts, python, options.nel_rollouts)
    print("\n".join(table(rows)))
    options.out.mkdir(parents=True, exist_ok=True)
    with (options.out / "gates.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    (options.out / "table.md").write_text("\n".join(table(rows)) + "\n", encoding="utf-8")
    try:
        plot(rows, options.out / "gates.png")
    except ModuleNotFoundError as error:
        print(f"no picture: {error}")


if __name__ == "__main__":
    main()
