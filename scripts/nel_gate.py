"""The real `nel gate` of NeMo Evaluator on tables of counts, in an environment of this script's own.

nemo-evaluator needs Python 3.12 or newer and many packages, so it never shares quantcliff's environment: `environment`
makes one, `verdicts` runs a driver in it. The driver writes each table as the results that `nel eval` writes and calls
the function behind `nel gate`; the first table also goes through the command itself, and must agree.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

VERSION = "0.3.0"
WORDS = {"GO": "pass", "NO-GO": "fail", "INCONCLUSIVE": "undecided"}

DRIVER = """
import json, logging, pathlib, subprocess, sys
from nemo_evaluator.config import load_gate_policy
from nemo_evaluator.engine import gate_runs
logging.disable(logging.CRITICAL)
task = json.load(sys.stdin)
root = pathlib.Path(task["folder"])
policy = root / "policy.yaml"
policy.write_text("version: 1\\ndefaults: {tier: critical, max_drop: %r, metric: mean_reward}\\n" % task["margin"])
def write(side, rewards):
    folder = root / side
    folder.mkdir(exist_ok=True)
    mean = sum(rewards) / len(rewards)
    scores = {"mean_reward": {"value": mean}}
    (folder / "eval-x.json").write_text(json.dumps({"run_id": side, "benchmark": {"name": "x", "scores": scores}}))
    lines = (json.dumps({"problem_idx": at, "repeat": 0, "reward": one}) for at, one in enumerate(rewards))
    (folder / "results.jsonl").write_text("\\n".join(lines))
found, loaded = [], load_gate_policy(policy)
for at, (lost, gained, n, right) in enumerate(task["tables"]):
    write("base", [1.0] * right + [0.0] * (n - right))
    write("cand", [0.0] * lost + [1.0] * (right - lost) + [1.0] * gained + [0.0] * (n - right - gained))
    found.append(gate_runs(root / "base", root / "cand", loaded).verdict)
    if at == 0:
        nel = pathlib.Path(sys.executable).parent / "nel"
        command = [nel, "gate", root / "base", root / "cand", "-p", policy, "--format", "json", "--no-strict"]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        if json.loads(said[said.index("{"):])["verdict"] != found[0]:
            raise SystemExit("nel gate and gate_runs differ")
json.dump(found, sys.stdout)
"""


def environment(folder: Path, python: str | None = None) -> Path | None:
    """Return the interpreter of an environment with nemo-evaluator, made if need be; None, with a word, if none can."""
    own = folder / "bin" / "python"
    if own.exists() and _runs(own, "import nemo_evaluator"):
        return own
    for name in (python, sys.executable, "python3.13", "python3.12"):
        found = shutil.which(name) if name else None
        if not found or not _runs(Path(found), "import sys; assert (3, 12) <= sys.version_info < (3, 14)"):
            continue
        packages = f"nemo-evaluator=={VERSION}"
        made = subprocess.run([found, "-m", "venv", str(folder)], check=False).returncode == 0
        if made and subprocess.run([str(own), "-m", "pip", "install", "-q", packages], check=False).returncode == 0:
            return own
    print(f"nel gate is left out: nemo-evaluator {VERSION} cannot be installed here (it needs Python 3.12 or 3.13)")
    return None


def _runs(python: Path, code: str) -> bool:
    return subprocess.run([str(python), "-c", code], check=False, capture_output=True).returncode == 0


def verdicts(python: Path, tables: Iterable[Sequence[int]], margin: float) -> list[str]:
    """Return what `nel gate` says of tables of (lost, gained, items, items that the baseline gets right)."""
    with tempfile.TemporaryDirectory() as folder:
        task = json.dumps({"folder": folder, "margin": margin, "tables": [list(map(int, one)) for one in tables]})
        done = subprocess.run([str(python), "-c", DRIVER], input=task, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"nel gate failed: {done.stderr.strip()[-2000:]}")
    return [WORDS[one] for one in json.loads(done.stdout)]
