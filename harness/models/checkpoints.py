"""Making GPTQ and AWQ checkpoints from a plain model, with a calibration set that the checkpoint names.

The quantizing itself happens in a process of its own (`harness.models.checkpoints_worker`): it takes over the
environment, the terminal and the memory. Here is what comes before and after: refusing what cannot work, publishing the
result whole or not at all, and proving it by loading it.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from harness.config.methods import weights_format
from harness.config.schema import Quantization, Variant
from harness.errors import Interrupted, ModelError, UsageError
from harness.models.answers import compare_answers
from harness.models.backends import installed_version, require
from harness.models.cache import published
from harness.models.calibration import SIDECAR, Calibration, built_in, from_file, sidecar
from harness.models.digests import weights_digest
from harness.models.formats import Header, headers, stored, weight_files
from harness.models.loading import load
from harness.models.methods import GPTQMODEL_ENVIRONMENT
from harness.records import Proof

__all__ = ["Made", "calibration", "make_checkpoint"]

_BITS = {"gptq": (2, 3, 4, 8), "awq": (4,)}
_GROUPS = (16, 32, 64, 128, 256, 512, 1024)
_ANSWERS = "answers.safetensors"
_AWQ_ROWS = 64  # the search for clipping thresholds goes through the rows in blocks of this many

# What the quantizer rewrites and should not: it renames tokenizer classes and turns sampling on.
_FROM_SOURCE = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "generation_config.json",
)

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Made:
    """A checkpoint that was made and proved."""

    path: Path
    """Its folder."""
    proof: Proof
    """What it shows of itself when loaded."""
    calibration: str
    """The name of the calibration set."""
    seconds: float
    """From start to proof."""


@dataclass(frozen=True, slots=True)
class _Job:
    """What the worker is told."""

    source: Path
    method: str
    bits: int
    group_size: int
    device: str
    texts: tuple[str, ...]


def calibration(source: str) -> Calibration:
    """The calibration set that a person names: ``builtin``, or a file (see `calibration.from_file`)."""
    return built_in() if source == "builtin" else from_file(Path(source).expanduser())


def make_checkpoint(
    source: Path,
    out: Path,
    *,
    method: str,
    bits: int,
    group_size: int,
    calibration: Calibration,
    device: str,
    progress: Progress | None = None,
) -> Made:
    """Quantize the plain model in `source` into the new folder `out`, and prove the result by loading it.

    `method` is ``gptq`` (also under the name ``auto-gptq``: GPTQModel writes the same format) or ``awq``.
    `progress` is called with a sentence now and then. `out` appears whole or not at all. Raises `UsageError` where the
    options cannot work (naming ones that do), `BackendMissing` without GPTQModel, `ModelError` where the quantizer
    fails, `Interrupted` on Ctrl-C.
    """
    started = time.perf_counter()
    method = weights_format(method)
    require(method, device)
    _check(source, out, method=method, bits=bits, group_size=group_size)
    say = progress or (lambda _sentence: None)
    job = _Job(source, method, bits, group_size, device, calibration.texts)
    say(f"quantizing {source.name} to {method} {bits}-bit, calibrated on {calibration.name} ({len(job.texts)} texts)")
    try:
        with published(out) as folder:
            _work(job, folder, say)
            _finish(job, folder, calibration, started)
            say("loading it to compare its answers")
            proof = _read_back(folder, method, device)
    except KeyboardInterrupt as error:
        raise Interrupted(
            f"quantizing was interrupted; nothing was written to {out}. Start again to make it"
        ) from error
    return Made(out, proof, calibration.name, time.perf_counter() - started)


def _check(source: Path, out: Path, *, method: str, bits: int, group_size: int) -> None:
    if out.exists():
        raise UsageError(f"{out} is there already: name another folder, or remove it first")
    if method not in _BITS:
        raise UsageError(f"{method} checkpoints are not made here: take {' or '.join(_BITS)}")
    if bits not in _BITS[method]:
        raise UsageError(f"{method} takes {', '.join(map(str, _BITS[method]))} bits, not {bits}")
    found = stored(source)
    if found.method != "none":
        raise ModelError(f"{source} is quantized already ({found.method}): give the plain model that it was made from")
    shapes = _linear_shapes(headers(weight_files(source, found)))
    _check_groups(source, {columns for _, columns in shapes}, group_size)
    rows = sorted({rows for rows, _ in shapes if rows % _AWQ_ROWS})
    if method == "awq" and rows:
        raise UsageError(
            f"{source.name}: awq needs matrices with a multiple of {_AWQ_ROWS} rows, and some have {_listed(rows)};"
            " take gptq"
        )


def _check_groups(source: Path, columns: set[int], group_size: int) -> None:
    """Refuse a group size that does not divide the columns: it would quantize, save, and fail at the first answer."""
    if all(count % group_size == 0 for count in columns) and group_size in _GROUPS:
        return
    fit = [size for size in _GROUPS if all(count % size == 0 for count in columns)]
    raise UsageError(
        f"group_size {group_size} does not divide the columns of {source.name}'s weights ({_listed(columns)}):"
        f" take one of {_listed(fit)}",
    )


def _listed(numbers: Any) -> str:
    return ", ".join(str(number) for number in sorted(numbers))


def _linear_shapes(tensors: dict[str, Header]) -> set[tuple[int, int]]:
    """Rows and columns of the matrices in the layers; embeddings and head stay as they are."""
    return {
        (header.shape[0], header.shape[1])
        for name, header in tensors.items()
        if name.endswith(".weight") and len(header.shape) == 2 and ".layers." in name  # noqa: PLR2004 - a matrix
    }


def _work(job: _Job, folder: Path, say: Progress) -> None:
    """Run the worker to its end, passing on what it says; its noise is shown only if it fails."""
    paths = {"source": job.source, "out": folder / "model", "answers": folder / _ANSWERS}
    task = asdict(job) | {name: str(path.absolute()) for name, path in paths.items()}
    noise_folder = folder / "noise"
    noise_folder.mkdir()
    log = folder / "worker.log"
    read, write = os.pipe()
    with log.open("wb") as noise, os.fdopen(read, encoding="utf-8") as news:
        command = [sys.executable, "-m", "harness.models.checkpoints_worker", str(write)]
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=noise,
            stderr=noise,
            pass_fds=(write,),
            cwd=noise_folder,  # GPTQModel leaves a folder of logs where it works
            env=_environment(),
            start_new_session=True,  # Ctrl-C is for this process, which then ends that one
        )
        os.close(write)
        try:
            _tell(process.stdin, task)
            for line in news:
                say(line.strip())
            process.wait()
        finally:
            _stop(process)
    if process.returncode != 0:
        raise ModelError(f"quantizing {job.source} failed: {_last_words(log)}")


def _environment() -> dict[str, str]:
    """What the worker finds: GPTQModel's settings, and no way to the hub."""
    wanted = {**GPTQMODEL_ENVIRONMENT, "HF_HUB_OFFLINE": "1", **os.environ}
    package = str(Path(__file__).resolve().parents[2])
    paths = [package, *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**wanted, "PYTHONPATH": os.pathsep.join(paths)}


def _tell(stream: IO[bytes] | None, task: dict[str, Any]) -> None:
    if stream is None:
        return
    try:
        with stream:
            stream.write(json.dumps(task).encode())
    except BrokenPipeError:  # it died at once; its exit code and last words say why
        return


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End a worker that is still there: an error or Ctrl-C came in between."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _last_words(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return (lines[-1] if lines else "it ended without a word")[:400]


def _finish(job: _Job, folder: Path, calibration: Calibration, started: float) -> None:
    """Put the worker's files in place, the source's tokenizer beside them, and a sidecar naming the calibration."""
    (folder / "worker.log").unlink()
    shutil.rmtree(folder / "noise")
    for file in (folder / "model").iterdir():
        file.rename(folder / file.name)
    (folder / "model").rmdir()
    for name in _FROM_SOURCE:
        (folder / name).unlink(missing_ok=True)
        if (job.source / name).is_file():
            shutil.copyfile(job.source / name, folder / name)
    record = {
        "method": job.method,
        "bits": job.bits,
        "group_size": job.group_size,
        "source_digest": weights_digest(job.source),
        "gptqmodel": installed_version("gptqmodel"),
        "seconds": round(time.perf_counter() - started, 1),
        **sidecar(calibration),
    }
    (folder / SIDECAR).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def _read_back(folder: Path, method: str, device: str) -> Proof:
    """Load what was written and compare its answers with those before saving. Raises `ModelError` if they differ."""
    variant = Variant(name="made", model=str(folder), quantization=Quantization(method=method))
    answers = folder / _ANSWERS
    try:
        loaded = load(variant, folder, device=device, dtype="bfloat16")
    except ModelError as error:
        raise ModelError(
            f"GPTQModel wrote a checkpoint that cannot be read back, so it was removed: {error}"
        ) from error
    if difference := compare_answers(loaded.model, answers):
        raise ModelError(f"GPTQModel wrote a checkpoint that answers differently, so it was removed: {difference}")
    answers.unlink()
    return loaded.proof
