"""Times a comparison of many items: a million items in 60 strata, a baseline and 4 candidates, unless said otherwise.

    python scripts/bench_compare.py [--items N] [--strata K] [--candidates C] [--graded] [--sources N] [--json]

Making the data is not timed; pairing, every test, averages, cliffs and the verdict are. The peak is that of the whole
process, data included.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from pathlib import Path

import numpy as np

from harness.judge import compare, gate
from harness.judge.outcomes import Outcomes, build
from harness.judge.rules import Rules


def main() -> None:
    """Make, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--strata", type=int, default=60)
    parser.add_argument("--candidates", type=int, default=4)
    parser.add_argument("--sources", type=int, default=0, help="items per source; 0: every item is its own")
    parser.add_argument("--graded", action="store_true", help="scores anywhere in [0, 1]")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    baseline, candidates = variants(options)
    rules = Rules.from_flags(margin=0.02)
    start, busy = time.perf_counter(), time.process_time()
    judgement = gate.judge(compare.compare(baseline, candidates, rules), rules)
    seconds, busy = time.perf_counter() - start, time.process_time() - busy
    figures = {
        "items": options.items,
        "strata": len(judgement.candidates[0].strata),
        "candidates": len(judgement.candidates),
        "seconds": round(seconds, 2),
        "cpu_seconds": round(busy, 2),
        "peak_mib": _peak_kib() // 1024,
        "verdicts": [one.verdict for one in judgement.candidates],
    }
    print(json.dumps(figures) if options.json else "  ".join(f"{key}: {value}" for key, value in figures.items()))


def _peak_kib() -> int:
    """Give this program's largest resident set; what getrusage says includes the process that started it."""
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
