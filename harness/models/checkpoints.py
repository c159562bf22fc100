"""Making GPTQ and AWQ checkpoints from a plain model, in a process of its own (`checkpoints_worker`)."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from harness.config.methods import weights_format
from harness.config.schema import Quantization, Variant
from harness.errors import Interrupted, ModelError, UsageError
from harness.models.backends import installed_version, require
from harness.models.cache import published
from harness.models.calibration import SIDECAR, Calibration, sidecar
from harness.models.checkpoints_worker import compare_answers
from harness.models.formats import headers, stored, weight_files
from harness.models.loading import load
from harness.models.methods import GPTQMODEL_ENVIRONMENT
from harness.models.resolve import weights_digest
from harness.records import Proof

_BITS, _GROUPS = {"gptq": (2, 3, 4, 8), "awq": (4,)}, (16, 32, 64, 128, 256, 512, 1024)
_AWQ_ROWS = 64  # the search for clipping thresholds goes through the rows in blocks of this many
# What the quantizer rewrites and should not: it renames tokenizer classes and turns sampling on.
_FROM_SOURCE = Path(__file__).with_name("from_source.txt").read_text("utf-8").split()


def make_checkpoint(
    source: Path,
    out: Path,
    *,
    method: str,
    bits: int,
    group_size: int,
    calibration: Calibration,
    device: str,
    progress: Callable[[str], None] = lambda _: None,
) -> Proof:
    """Quantize the plain model in `source` into the new folder `out`; return what it shows of itself when loaded.

    progress: called with a sentence now and then. `out` appears whole or not at all. Raises `UsageError` for options
    that cannot work, `BackendMissing` without GPTQModel, `ModelError` if the quantizer fails, `Interrupted` on Ctrl-C.
    """
    started, texts, method = time.perf_counter(), calibration.texts, weights_format(method)
    require(method, device)
    _check(source, out, method=method, bits=bits, group_size=group_size)
    options: dict[str, Any] = {"method": method, "bits": bits, "group_size": group_size}
    progress(f"quantizing {source.name} to {method} {bits}-bit, calibrated on {calibration.name} ({len(texts)} texts)")
    try:
        with published(out) as folder:
            work = folder / "work"
            _quantize(source, work, {**options, "device": device, "texts": texts}, progress)
            record = options | {"source_digest": weights_digest(source), "gptqmodel": installed_version("gptqmodel")}
            record |= {"seconds": round(time.perf_counter() - started, 1), **sidecar(calibration)}
            (folder / SIDECAR).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
            progress("loading it to compare its answers")
            proof = _read_back(folder, method, device, work / "answers")
            shutil.rmtree(work)
            _check(source, out, method=method, bits=bits, group_size=group_size)  # another process may have made `out`
    except KeyboardInterrupt as error:
        message = f"quantizing was interrupted; nothing was written to {out}. Start again to make it"
        raise Interrupted(message) from error
    return proof


def _check(source: Path, out: Path, *, method: str, bits: int, group_size: int) -> None:
    if out.exists() or out.is_symlink():
        raise UsageError(f"{out} is there already: name another folder, or remove it first")
    if method not in _BITS:
        raise UsageError(f"{method} checkpoints are not made here: take {' or '.join(_BITS)}")
    if bits not in _BITS[method]:
        raise UsageError(f"{method} takes {_listed(_BITS[method])} bits, not {bits}")
    found = stored(source)
    if found.method != "none":
        raise ModelError(f"{source} is quantized already ({found.method}): give the plain model that it was made from")
    tensors = headers(weight_files(source, found))
    layers = [one.shape for name, one in tensors.items() if name.endswith(".weight") and ".layers." in name]
    shapes = [shape for shape in layers if len(shape) == 2]  # noqa: PLR2004 - matrices
    columns, rows = {shape[1] for shape in shapes}, {shape[0] for shape in shapes if shape[0] % _AWQ_ROWS}
    fit = [size for size in _GROUPS if all(count % size == 0 for count in columns)]
    if group_size not in fit:  # it would quantize, save, and fail at the first answer
        said = f"group_size {group_size} does not divide the columns of {source.name}'s weights ({_listed(columns)})"
        raise UsageError(f"{said}: take one of {_listed(fit)}")
    if method == "awq" and rows:
        said = f"awq needs matrices with a multiple of {_AWQ_ROWS} rows, and some have {_listed(rows)}"
        raise UsageError(f"{source.name}: {said}; take gptq")


def _listed(numbers: Iterable[int]) -> str:
    return ", ".join(map(str, sorted(numbers)))


def _quantize(source: Path, work: Path, options: dict[str, Any], say: Callable[[str], None]) -> None:
    """Run the worker to its end, passing on what it says, and put its files beside `work`; its log if it fails."""
    work.mkdir()
    task, log, model = work / "task", work / "log", work / "model"
    paths = {"source": source.absolute(), "out": model.absolute(), "answers": (work / "answers").absolute()}
    task.write_text(json.dumps(options | {name: str(path) for name, path in paths.items()}), encoding="utf-8")
    places = [str(Path(__file__).resolve().parents[2]), os.environ.get("PYTHONPATH")]
    environment = GPTQMODEL_ENVIRONMENT | {"HF_HUB_OFFLINE": "1"} | dict(os.environ)
    environment |= {"PYTHONPATH": os.pathsep.join(filter(None, places))}
    read, write = os.pipe()
    with task.open("rb") as asked, log.open("wb") as noise, os.fdopen(read, encoding="utf-8") as news:
        # GPTQModel leaves logs where it works; Ctrl-C is for this process, which then ends that one.
        command = [sys.executable, "-m", "harness.models.checkpoints_worker", str(write)]
        place: dict[str, Any] = {"stdin": asked, "stdout": noise, "stderr": noise, "cwd": work}
        process = subprocess.Popen(command, pass_fds=(write,), env=environment, start_new_session=True, **place)
        os.close(write)
        try:
            for line in news:
                say(line.strip())
            process.wait()
        finally:
            if process.poll() is None:  # an error or Ctrl-C came in between
                process.terminate()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(timeout=5)
                process.kill()
                process.wait()
    if process.returncode != 0:
        words = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
        raise ModelError(f"quantizing {source} failed: {(words or ['it ended without a word'])[-1][:400]}")
    for file in model.iterdir():
        file.rename(work.parent / file.name)
    for name in _FROM_SOURCE:
        (work.parent / name).unlink(missing_ok=True)
        if (source / name).is_file():
            shutil.copyfile(source / name, work.parent / name)


def _read_back(folder: Path, method: str, device: str, answers: Path) -> Proof:
    """Load what was written and compare its answers with those before saving. Raises `ModelError` if they differ."""
    variant = Variant(name="made", model=str(folder), quantization=Quantization(method=method))
    wrote = "GPTQModel wrote a checkpoint that"
    try:
        loaded = load(variant, folder, device=device, dtype="bfloat16")
    except ModelError as error:
        raise ModelError(f"{wrote} cannot be read back, so it was removed: {error}") from error
    if difference := compare_answers(loaded.model, answers):
        raise ModelError(f"{wrote} answers differently, so it was removed: {difference}")
    return loaded.proof
