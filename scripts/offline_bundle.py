"""Packs wheels, models and a config for a machine without a network, for offline_bundle.sh."""

from __future__ import annotations

import argparse
import hashlib
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from offline_config import named_folders, packed_config
from offline_wheels import ROOT, BundleError, Target, collect, collect_spares, node_packages
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

NODE_HAS = "torch,transformers,accelerate"
MEBIBYTE = 1024 * 1024


class Parts:
    """A file to write to that lies in parts of a largest size, each with its SHA-256."""

    def __init__(self, folder: Path, part_bytes: int) -> None:
        self.folder = folder
        self.part_bytes = part_bytes
        self.digests: dict[str, str] = {}
        self._open: BinaryIO | None = None
        self._hash = hashlib.sha256()
        self._room = 0

    def write(self, data: bytes) -> int:
        """Append bytes, opening the next part whenever one is full."""
        view = memoryview(data)
        while view:
            if self._room == 0:
                self._next()
            piece = view[: self._room]
            assert self._open is not None  # noqa: S101 - _next has opened it
            self._open.write(piece)
            self._hash.update(piece)
            self._room -= len(piece)
            view = view[len(piece) :]
        return len(data)

    def close(self) -> None:
        """End the part being written."""
        if self._open is not None:
            self._open.close()
            self.digests[Path(self._open.name).name] = self._hash.hexdigest()
            self._open = None

    def _next(self) -> None:
        self.close()
        path = self.folder / f"bundle.tar.{len(self.digests):03d}"
        self._open = path.open("wb")
        self._hash = hashlib.sha256()
        self._room = self.part_bytes


def pack(out: Path, content: dict[str, Path], part_bytes: int) -> dict[str, str]:
    """Write the content (name in the bundle to file or folder) as parts, and give each part's SHA-256."""

    def plain(info: tarfile.TarInfo) -> tarfile.TarInfo | None:
        if "__pycache__" in info.name.split("/"):
            return None
        info.uid = info.gid = 0
        info.uname = info.gname = ""
        info.mtime = 0
        return info

    parts = Parts(out, part_bytes)
    # dereference: a model folder of the hub's cache is all symbolic links
    with tarfile.open(fileobj=parts, mode="w|", dereference=True) as archive:
        for name, path in sorted(content.items()):
            archive.add(path, arcname=name, filter=plain)
    parts.close()
    return parts.digests


def write_bundle(out: Path, content: dict[str, Path], target: Target, part_bytes: int) -> dict[str, str]:
    """Fill the bundle's folder: parts, run_on_node.sh, SHA256SUMS."""
    out.mkdir(parents=True, exist_ok=True)
    foreign = [
        path.name for path in out.iterdir() if not path.name.startswith(("bundle.tar.", "run_on_node", "SHA256"))
    ]
    if foreign:
        raise BundleError(f"{out} holds other files ({', '.join(sorted(foreign)[:5])}); name an empty folder in --out")
    for old in out.iterdir():
        old.unlink()
    digests = pack(out, content, part_bytes)
    script = (ROOT / "scripts" / "run_on_node.sh").read_text(encoding="utf-8")
    runner = out / "run_on_node.sh"
    runner.write_text(script.replace("@PYTHON_VERSION@", target.python), encoding="utf-8")
    runner.chmod(0o755)
    sums = {**digests, runner.name: hashlib.sha256(runner.read_bytes()).hexdigest()}
    lines = "".join(f"{digest}  {name}\n" for name, digest in sums.items())
    (out / "SHA256SUMS").write_text(lines, encoding="utf-8")
    return digests


def arguments_of(argv: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="offline_bundle.sh", description=__doc__.splitlines()[0])
    parser.add_argument("--config", type=Path, help="the config that the node runs")
    parser.add_argument(
        "--model",
        action="append",
        default=[],
        metavar="NAME=DIR",
        help="take this folder for the model that the config calls NAME; without it models are found as a run here "
        "would find them. May be repeated",
    )
    parser.add_argument("--out", type=Path, required=True, help="an empty folder for the bundle")
    parser.add_argument("--python", default="3.12", help="the node's Python (default: %(default)s)")
    parser.add_argument("--glibc", default="2.28", help="the node's glibc, at least (default: %(default)s)")
    parser.add_argument("--machine", default="x86_64", help="the node's processor (default: %(default)s)")
    parser.add_argument(
        "--have",
        default=NODE_HAS,
        help="packages that the node has and that stay out (default: %(default)s); what they require in turn is "
        "packed too, and installed where the node lacks it",
    )
    parser.add_argument("--extras", default="run", help="quantcliff's extras to pack (default: %(default)s)")
    parser.add_argument(
        "--with",
        dest="more",
        action="append",
        default=[],
        metavar="PACKAGE",
        help="a further package to pack with what it requires, such as pytest. May be repeated",
    )
    parser.add_argument(
        "--include",
        action="append",
        default=[],
        type=Path,
        metavar="PATH",
        help="a further file or folder, which lies under files/ on the node. May be repeated",
    )
    parser.add_argument(
        "--part-size", type=float, default=60, metavar="MIB", help="largest part (default: %(default)s)"
    )
    return parser.parse_args(argv)


def wheel_folders(scratch: Path, wanted: Sequence[Requirement], have: Sequence[str], target: Target) -> dict[str, Path]:
    """Gather the wheels: those to install, and the spares for what the node may lack."""
    folders = {"wheels": scratch / "wheels", "spares": scratch / "spares"}
    for folder in folders.values():
        folder.mkdir()
    on_node = node_packages(have, target)
    collect(wanted, folders["wheels"], target, on_node)
    collect_spares(on_node - {canonicalize_name(name) for name in have}, folders["spares"], target)
    return folders


def what_it_runs(options: argparse.Namespace, scratch: Path) -> dict[str, Path]:
    """The config, the folders that it needs, and what else was asked for, by their place in the bundle."""
    given = named_folders(options.model)
    content = {f"files/{path.resolve().name}": path for path in options.include}
    if options.config is None:
        return content | {f"models/{path.resolve().name}": path for path in given.values()}
    text, folders = packed_config(options.config, given)
    config = scratch / "config.yaml"
    config.write_text(text, encoding="utf-8")
    return content | folders | {"config.yaml": config}


def make_bundle(options: argparse.Namespace) -> None:
    """Make the bundle and say what is in it."""
    major, _, minor = options.glibc.partition(".")
    if major != "2" or not minor.isdigit():
        raise BundleError(f"--glibc {options.glibc}: write it as 2.28")
    target = Target(python=options.python, glibc=int(minor), machine=options.machine)
    wanted = [Requirement(f"quantcliff[{options.extras}]" if options.extras else "quantcliff")]
    wanted += [Requirement(text) for text in options.more]
    with tempfile.TemporaryDirectory() as scratch:
        content = what_it_runs(options, Path(scratch))
        content |= wheel_folders(Path(scratch), wanted, options.have.split(","), target)
        digests = write_bundle(options.out, content, target, int(options.part_size * MEBIBYTE))
        wheels = sum(len(list(content[kind].iterdir())) for kind in ("wheels", "spares"))
    size = sum((options.out / name).stat().st_size for name in digests) / MEBIBYTE
    models = sum(place.startswith("models/") for place in content)
    print(
        f"{options.out}: {models} models, {wheels} wheels for Python {target.python}, "
        f"{size:.0f} MiB in {len(digests)} parts."
    )
    print(f"Copy the folder to the node and run: bash {options.out.name}/run_on_node.sh")


def main(argv: Sequence[str] | None = None) -> int:
    """Make a bundle; 0 when it is made, 2 with one sentence when it cannot be."""
    try:
        make_bundle(arguments_of(sys.argv[1:] if argv is None else argv))
    except (BundleError, OSError) as error:
        print(f"offline_bundle.sh: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
