"""From a variant of the config to a loaded model that proves what it is."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers

from harness.config.methods import METHODS, same_method, weights_format
from harness.config.schema import Variant
from harness.errors import ModelError, one_line
from harness.models.audit import audit_files, audit_gguf, audit_model, run_once, weight_bytes
from harness.models.backends import require
from harness.models.compatibility import partly_quantized
from harness.models.formats import Request, Stored, headers, read_json, stored, weight_files
from harness.models.methods import load_model, module_bits, notes_of
from harness.models.quiet import quiet, silence_forward
from harness.models.resolve import end_token_ids, tokenizer_digest
from harness.models.smollm2 import digits_apart
from harness.records import Proof

_DECOMPRESSED = "decompressed while loading: its answers are the method's, its memory and speed are not"
_GREW = 1.5
# Any: tokenizers and safetensors raise classes of their own, and what is damaged fails in whatever line meets it.
_LIBRARY_ERRORS = Exception


@dataclass(frozen=True, slots=True)
class Loaded:
    """A variant, ready to answer."""

    model: Any  # the transformers model, in eval mode, without gradients, on the device. Its `save_pretrained` refuses.
    tokenizer: Any  # the tokenizer that lies beside the weights
    proof: Proof  # what it showed of itself


def load(variant: Variant, path: Path, *, device: str, dtype: str, attention: str = "auto") -> Loaded:
    """Load `variant` from the folder `path`, ask for one answer, and count what was loaded.

    A folder that says itself how it is quantized is loaded as that. Raises `BackendMissing` if the method's package or
    device is not there, `ModelError` if the checkpoint is damaged, contradicts the config, or cannot answer.
    """
    request = _request(variant, path, device=device, dtype=dtype, attention=attention)

    def refuse(*_arguments: object, **_options: object) -> None:
        why = "a quantized model that has run is not saved, since bitsandbytes then writes damaged weights"
        raise ModelError(f"{path}: {why}: load it by transformers, and save it before its first forward")

    with quiet():
        tokenizer, model = _tokenizer(request), _model(request)
        model.eval()
        model.requires_grad_(requires_grad=False)
        if request.method != "none":
            model.save_pretrained = refuse
        proof = _prove(model, tokenizer, request)
    return Loaded(model, tokenizer, proof)


def _request(variant: Variant, path: Path, *, device: str, dtype: str, attention: str) -> Request:
    found = stored(path, variant.quantization.gguf_file)
    method = _agreed(variant.quantization.method, found, path)
    require(method, device, prequantized=found.method != "none")
    if (path / "generation_config.json").is_file():
        read_json(path / "generation_config.json")  # transformers goes on without a damaged one, and its end tokens
    tensors = headers(weight_files(path, found))
    _refuse_saved_after_forward(found, tensors, path)
    how = {"dtype": getattr(torch, dtype), "attention": attention, "trust_remote_code": variant.trust_remote_code}
    return Request(path, found, method, variant.quantization, device, tensors=tensors, **how)


def _agreed(wanted: str, found: Stored, path: Path) -> str:
    """The method to load by: the checkpoint's own where it has one. Raises `ModelError` if the config differs."""
    if found.method == "none":
        if METHODS[wanted].from_checkpoint:
            remedy = f"give the directory of a {wanted} checkpoint (`quantcliff quantize` makes one)"
            raise ModelError(f"{path}: the config says {wanted}, and these weights are not quantized: {remedy}")
        return wanted
    if wanted != "none" and not same_method(wanted, found.method):
        said = f"the config says {wanted}, and the checkpoint says that it is {found.method}"
        raise ModelError(f"{path}: {said}: correct the config, or give another directory")
    return found.method if wanted == "none" else wanted


def _refuse_saved_after_forward(found: Stored, tensors: dict[str, Any], path: Path) -> None:
    """Refuse a 4-bit bitsandbytes checkpoint saved after it had run on a CPU: it is broken (nll 3.57 became 15.98)."""
    for name, header in tensors.items() if found.method in {"bnb-nf4", "bnb-fp4"} else ():
        if name.endswith(".absmax") and (len(header.shape) != 1 or header.dtype in {"BF16", "F16"}):
            said = (
                f"{name} is {header.dtype} {list(header.shape)}: bitsandbytes wrote this 4-bit checkpoint after it had"
            )
            again = "Quantize and save it again, before its first forward"
            raise ModelError(f"{path}: {said} run on a CPU, and it is damaged. {again}")


def _tokenizer(request: Request) -> Any:
    own = any((request.folder / name).is_file() for name in ("tokenizer.json", "tokenizer_config.json"))
    gguf = "" if own else request.stored.gguf_file
    more = {"trust_remote_code": request.trust_remote_code} | ({"gguf_file": gguf} if gguf else {})
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(str(request.folder), **more)
    except _LIBRARY_ERRORS as error:
        raise ModelError(f"{request.folder}: its tokenizer does not load: {one_line(error)}") from error
    if gguf:
        from gguf import GGUFReader

        entry = GGUFReader(str(request.folder / gguf)).fields.get("tokenizer.ggml.pre")
        if entry and entry.contents() == "smollm":
            digits_apart(tokenizer)
    return tokenizer


def _model(request: Request) -> Any:
    if request.method.startswith("bnb-"):
        silence_forward()
    try:
        return load_model(request)
    except ModelError:
        raise
    except torch.cuda.OutOfMemoryError as error:
        message = f"{request.folder}: does not fit into the memory of {request.device}: {one_line(error)}"
        raise ModelError(message) from error
    except _LIBRARY_ERRORS as error:
        raise ModelError(f"{_unreadable(request)}: does not load as {request.method}: {one_line(error)}") from error


def _unreadable(request: Request) -> Path:
    """The first pickled weight file that cannot be read, else the folder: headers of the others were read before."""
    for file in (one for one in weight_files(request.folder, request.stored) if one.suffix == ".bin"):
        try:
            torch.load(file, map_location="meta", weights_only=True)
        except _LIBRARY_ERRORS:
            return file
    return request.folder


def _prove(model: Any, tokenizer: Any, request: Request) -> Proof:
    quantized, notes = request.method != "none", notes_of(request)
    counted, before, asked = audit_model(model), weight_bytes(model), str(request.dtype).removeprefix("torch.")
    dtype, rows = run_once(model, f"{request.folder} as {request.method} in {asked}")
    held, files = weight_bytes(model), weight_files(request.folder, request.stored)
    if quantized and not counted.quantized:
        counted = audit_gguf(model, files[0]) if request.stored.gguf_file else audit_files(model, request.tensors)
    if held > _GREW * before:  # packed until the first answer, plain from then on
        counted = dataclasses.replace(counted, kernel=f"{counted.kernel} (decompressed)")
    if counted.kernel.endswith("(decompressed)"):
        notes.append(_DECOMPRESSED)
    if quantized and (said := partly_quantized(counted.share)):
        notes.append(said)
    mixed = _mixed(model, request)
    for number, one in mixed.items():
        globs = [glob for glob, wanted in (request.options.module_bits or {}).items() if str(wanted) == number]
        named = ", ".join(globs[:5]) + (f" and {len(globs) - 5} more" if len(globs) > 5 else "")  # noqa: PLR2004
        notes.append(f"{len(one['modules'])} modules at {number} bits, {one['bytes'] / 2**20:.1f} MiB ({named})")
    quantized_here = quantized and request.stored.method == "none"
    bits, share = round(counted.bits, 4), round(counted.share, 4) if quantized else None
    about = (weights_format(request.method), counted.kernel, counted.quantized, counted.linear, bits, held)
    disk_bytes = 0 if quantized_here else sum(file.stat().st_size for file in files)
    known = (dtype, rows, tokenizer_digest(tokenizer), tuple(notes), share)
    ends = tuple(sorted({*end_token_ids(model), tokenizer.eos_token_id} - {None}))
    return Proof(*about, disk_bytes, *known, ends, module_bits=mixed or None)


def _mixed(model: Any, request: Request) -> dict[str, Any]:
    """Return bits to the modules that have them by name, and what these hold in memory."""
    found: dict[str, Any] = {}
    for name, bits in sorted(module_bits(model, request).items()):
        one = found.setdefault(str(bits), {"modules": [], "bytes": 0})
        one["modules"].append(name)
        one["bytes"] += weight_bytes(model.get_submodule(name))
    return found
