"""What to run first wherever a GPU is to be had: from a bare node with torch and transformers, without a network.

    python scripts/gpu_programme.py smoke    (a) the engine on CUDA against the CPU, out-of-memory, every method
    python scripts/gpu_programme.py shape    (b) an 8B model of random weights; --ways all: before and after each remedy
    python scripts/gpu_programme.py tests    (c) pytest -m gpu
    python scripts/gpu_programme.py hflm     (d) lm_eval's `hf` model side by side, on a made model of 1B weights
    python scripts/gpu_programme.py demo     (e) the shipped demo through the whole runner
    python scripts/gpu_programme.py pack PART FOLDER [options of offline_bundle.sh], on a machine
                                             with a network: what a part needs on the node

Each part begins no measurement after nine minutes, writes every row to OUT/PART.jsonl as it is measured, and prints a
table last, also if it is told to stop; the same command again measures only what is missing. `--device cpu --tiny`
runs every part with tiny sizes anywhere. Exit code: 0 all rows are there and right, 1 some failed or are missing.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

SCRIPTS = Path(__file__).resolve().parent
ROOT = SCRIPTS.parent
sys.path.insert(0, str(ROOT))
PARTS = ("smoke", "shape", "tests", "hflm", "demo")

CORE = ("pydantic", "pydantic-core", "annotated-types", "typing-inspection", "pyyaml", "psutil")
"""What `smoke` and `shape` need besides torch, transformers and numpy; the others need the extra `run`."""
LARGEST_PART = 45
"""MiB that a node takes at a time besides the checkout."""


def pairs(text: str) -> list[tuple[int, int]]:
    """Read `64x2048,4x32768`."""
    return [(int(one), int(other)) for one, other in (part.split("x") for part in text.split(",") if part)]


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--device", help="cuda unless given, where there is one")
    parser.add_argument("--tiny", action="store_true", help="tiny sizes: whether the programme runs, not how fast")
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT") or "results/gpu"))
    parser.add_argument("--minutes", type=float, default=9, help="no measurement is begun later (default: 9)")
    parser.add_argument("--size", default="8b", help="of shape's model: tiny, 135m, 1b or 8b (default: 8b)")
    parser.add_argument("--decode", type=pairs, default=pairs("64x2048,1x2048,4x32768,12x32768,1x131072"))
    parser.add_argument(
        "--shared", type=pairs, default=pairs("8x32768,8x131072"), help="questions x tokens of the text"
    )
    parser.add_argument("--steps", type=int, default=24, help="tokens of each answer of shape (default: 24)")
    parser.add_argument("--ways", default="default", help="of shape: all, or names with commas (scripts/gpu/shape.py)")
    return parser.parse_args(argv)


def run_part(args: argparse.Namespace) -> int:
    """Run a part and print its table, whatever ends it."""
    import torch
    from gpu import outside, shape, smoke
    from gpu.log import Log, setting_of

    from harness.models.cuda import prepare_cuda

    device = args.device or ("cuda:0" if torch.cuda.is_available() else "cpu")
    if device.startswith("cuda"):
        prepare_cuda(device)
    size = "tiny" if args.tiny else args.size
    sizes = {"size": size, "steps": args.steps} if args.part == "shape" else {}
    log = Log(args.out, args.part, device, setting_of(device, tiny=args.tiny, **sizes), args.minutes)
    try:
        if args.part == "smoke":
            smoke.smoke(log, device, tiny=args.tiny)
        elif args.part == "shape":
            names = list(shape.WAYS) if args.ways == "all" else args.ways.split(",")
            decode, shared = (pairs("4x96,1x96"), pairs("3x400")) if args.tiny else (args.decode, args.shared)
            shape.shape(log, device, size, decode, shared, names, 6 if args.tiny else args.steps)
        elif args.part == "tests":
            outside.gpu_tests(log, device)
        elif args.part == "hflm":
            outside.side_by_side(log, device, tiny=args.tiny)
        else:
            outside.demo(log, args.out, device, tiny=args.tiny)
    finally:
        print(log.table(), flush=True)
    return int(log.failed())


def stop(*_: object) -> None:
    """End with the table."""
    raise SystemExit(143)


def pack(part: str, folder: Path, options: Sequence[str]) -> int:
    """Fetch what a part needs for a node, and say what to type there."""
    from offline_wheels import Target, fetch
    from packaging.requirements import Requirement

    if part not in {"smoke", "shape"}:
        more = ["--with", "pytest", "--with", "pytest-timeout", "--with", "hypothesis"] if part == "tests" else []
        bundle = ["bash", str(SCRIPTS / "offline_bundle.sh"), "--part-size", str(LARGEST_PART), "--out", str(folder)]
        done = subprocess.run([*bundle, *more, *options], check=False).returncode
        install = f"bash {folder}/run_on_node.sh python $PWD/"
    else:
        folder.mkdir(parents=True, exist_ok=True)
        version = options[options.index("--python") + 1] if "--python" in options else "3.12"
        fetch([Requirement(name) for name in CORE], folder, Target(python=version, glibc=28, machine="x86_64"))
        done, site = 0, "$HOME/site"
        print(f"python3 -m pip install --no-index --no-deps --target {site} {folder}/*.whl && export PYTHONPATH={site}")
        install = "python3 "
    print(f"then, in the checkout on the node: {install}scripts/gpu_programme.py {part}")
    return done


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    given = list(sys.argv[1:] if argv is None else argv)
    if given[:1] == ["pack"] and len(given) >= 3:  # noqa: PLR2004 - a part and a folder
        return pack(given[1], Path(given[2]), given[3:])
    args = arguments(given)
    signal.signal(signal.SIGTERM, stop)
    return run_part(args)


if __name__ == "__main__":
    sys.exit(main())
