"""Times a comparison of many items: by default a million items in 60 strata, a baseline and 4 candidates.

    python scripts/bench_compare.py [--items N] [--strata K] [--candidates C] [--graded] [--sources N] [--json]
    python scripts/bench_compare.py --csv [--items N] [--strata K]

Making the data is not timed; pairing, every test, averages, cliffs and the verdict are. The peak is that of the whole
process, data included. With --csv it times `quantcliff compare` on two CSV files as a process by itself, start and
imports included: 766,000 items in 1,707 strata by default, the size of a public evaluation with per-item outcomes.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from harness.judge import compare, gate
from harness.judge.outcomes import Outcomes, build
from harness.judge.rules import Rules


def main() -> None:
    """Make, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--csv", action="store_true", help="read both sides from CSV files")
    parser.add_argument("--items", type=int, help="1,000,000, or 766,000 with --csv")
    parser.add_argument("--strata", type=int, help="60, or 1,707 with --csv")
    parser.add_argument("--candidates", type=int, default=4)
    parser.add_argument("--sources", type=int, default=0, help="items per source; 0: every item is its own")
    parser.add_argument("--graded", action="store_true", help="scores anywhere in [0, 1]")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    options.items = options.items or (766_000 if options.csv else 1_000_000)
    options.strata = options.strata or (1707 if options.csv else 60)
    figures = from_csv(options) if options.csv else in_memory(options)
    print(json.dumps(figures) if options.json else "  ".join(f"{key}: {value}" for key, value in figures.items()))


def in_memory(options: argparse.Namespace) -> dict[str, Any]:
    """Compare and gate columns that are already there."""
    baseline, candidates = variants(options)
    rules = Rules.from_flags(margin=0.02)
    start, busy = time.perf_counter(), time.process_time()
    judgement = gate.judge(compare.compare(baseline, candidates, rules), rules)
    seconds, busy = time.perf_counter() - start, time.process_time() - busy
    return {
        "items": options.items,
        "strata": len(judgement.candidates[0].strata),
        "candidates": len(judgement.candidates),
        "seconds": round(seconds, 2),
        "cpu_seconds": round(busy, 2),
        "peak_mib": _peak_kib() // 1024,
        "verdicts": [one.verdict for one in judgement.candidates],
    }


def from_csv(options: argparse.Namespace) -> dict[str, Any]:
    """Run `quantcliff compare` on two files, each in its own order."""
    rng = np.random.default_rng(0)
    before = rng.random(options.items) < 0.7  # noqa: PLR2004
    sides = {"baseline": before, "candidate": before ^ (rng.random(options.items) < 0.02)}  # noqa: PLR2004
    with tempfile.TemporaryDirectory() as folder:
        for name, scores in sides.items():
            order = rng.permutation(options.items).tolist()
            lines = (f"task/{item},{scores[item]:d},subject-{item % options.strata}\n" for item in order)
            Path(folder, f"{name}.csv").write_text("item,score,subject\n" + "".join(lines))
        arguments = ["--baseline", f"{folder}/baseline.csv", "--candidate", f"{folder}/candidate.csv"]
        command = [sys.executable, "-m", "harness", "compare", *arguments, "--stratum", "subject", "--margin", "0.05"]
        start = time.perf_counter()
        done = subprocess.run([*command, "--json"], capture_output=True, check=False)
        seconds = time.perf_counter() - start
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "items": options.items,
        "strata": len(json.loads(done.stdout)["candidates"][0]["strata"]),
        "seconds": round(seconds, 2),
        "cpu_seconds": round(used.ru_utime + used.ru_stime, 2),
        "peak_mib": used.ru_maxrss // 1024,
        "exit_code": done.returncode,
    }


def _peak_kib() -> int:
    """Return this program's largest resident set; what getrusage says includes the process that started it."""
    status = Path("/proc/self/status")
    if status.is_file():
        return int(status.read_text(encoding="ascii").split("VmHWM:")[1].split()[0])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def variants(options: argparse.Namespace) -> tuple[Outcomes, list[Outcomes]]:
    """Make a baseline and candidates that flip 4 % of its items and more, each in its own order."""
    rng = np.random.default_rng(0)
    number = np.arange(options.items)
    before = rng.random(options.items) if options.graded else (rng.random(options.items) < 0.7).astype(float)  # noqa: PLR2004
    sides = [side("baseline", number, before, options)]
    for at in range(options.candidates):
        flipped = rng.random(options.items) < 0.04 + 0.02 * at
        other = rng.random(options.items) if options.graded else 1.0 - before
        after = np.where(flipped, other, before)
        sides.append(side(f"candidate-{at + 1}", rng.permutation(number), after, options))
    return sides[0], sides[1:]


def side(name: str, order: np.ndarray, scores: np.ndarray, options: argparse.Namespace) -> Outcomes:
    """Lay one variant's items out in the given order."""
    levels = (order % options.strata).tolist()
    hops = [f"hops={level}" for level in range(options.strata)]
    return build(
        name,
        [f"task/{number}" for number in order.tolist()],
        scores[order],
        slices="math",
        strata=[hops[level] for level in levels],
        clusters=[f"source-{number}" for number in (order // options.sources).tolist()] if options.sources else None,
        levels={"hops": [str(level) for level in levels]},
    )


if __name__ == "__main__":
    main()
