#!/usr/bin/env python3
"""Kills a run with SIGKILL at random moments, lets it finish, and compares it byte for byte with one never interrupted.

    scripts/kill_and_resume.py configs/demo.yaml --kills 10 --reference results/demo

Without --reference an uninterrupted run is made first. Prints each kill and what it left; ends with 0 if the run was
killed at least once and comparisons.json and every answer are the same bytes, else with 1.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def answers(run: Path) -> dict[str, bytes]:
    """Every results file of a run, by its path in the run."""
    paths = [path for path in run.glob("*/*of1.jsonl") if not path.name.startswith("timings")]
    return {str(path.relative_to(run)): path.read_bytes() for path in sorted(paths)}


def count(run: Path) -> int:
    """Answers on disk."""
    return sum(content.count(b"\n") for content in answers(run).values())


def start(config: str, output: Path) -> subprocess.Popen[bytes]:
    """Start the run in a process group of its own."""
    command = [sys.executable, "-m", "harness", "run", config, "--output", str(output), "--quiet"]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)


def kill_at_random(config: str, output: Path, run: Path, chance: random.Random, longest: float) -> bool:
    """Start, wait for a random time, kill the whole group. Gives whether there was anything left to kill."""
    process = start(config, output)
    wait = chance.uniform(0.5, longest)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout=wait)
        return False
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    print(f"killed after {wait:5.1f} s; {count(run)} answers on disk", flush=True)
    return True


def main() -> int:
    """Kill, resume, compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config")
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--longest", type=float, default=60.0, help="longest time before a kill, in seconds")
    parser.add_argument("--reference", type=Path, help="the directory of a run that was not interrupted")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    chance = random.Random(asked.seed)
    with tempfile.TemporaryDirectory() as folder:
        reference = asked.reference
        if reference is None:
            start(asked.config, Path(folder) / "whole").wait()
            reference = next((Path(folder) / "whole").iterdir())
        output = Path(folder) / "killed"
        run = output / reference.name
        kills = 0
        while kills < asked.kills and kill_at_random(asked.config, output, run, chance, asked.longest):
            kills += 1
        started = time.monotonic()
        code = start(asked.config, output).wait()
        print(f"killed {kills} times; finished in {time.monotonic() - started:.0f} s with exit code {code}")
        same = answers(run) == answers(reference)
        judged = (run / "comparisons.json").read_bytes() == (reference / "comparisons.json").read_bytes()
        print(f"answers byte-identical: {same}; comparisons.json byte-identical: {judged}")
    return 0 if kills and same and judged else 1


if __name__ == "__main__":
    sys.exit(main())
