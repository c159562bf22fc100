"""What a model's folder says of itself: its quantization, its weight files, and whether those files are whole."""

import contextlib
import json
import math
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.config.methods import METHODS
from harness.config.schema import Quantization
from harness.errors import ModelError

_INDEX = "model.safetensors.index.json"
_AUTOGPTQ_ONLY = ("is_marlin_format", "model_name_or_path", "model_file_base_name")  # loaders stumble over these


@dataclass(frozen=True, slots=True)
class Header:
    """One tensor of a safetensors file, known without reading it."""

    dtype: str  # as safetensors names it: ``BF16``, ``I32``, ``F8_E4M3``
    shape: tuple[int, ...]
    size: int  # its bytes in the file


@dataclass(frozen=True, slots=True)
class Stored:
    """How the weights of a folder are stored."""

    method: str  # a name of `harness.config.methods.METHODS`, ``none`` for plain weights
    autogptq: bool = False  # in AutoGPTQ's own layout, which loaders read only through `view`
    gguf_file: str = ""  # the GGUF file to read, empty for every other format
    config: dict[str, Any] = field(default_factory=dict)  # the quantization config, empty for plain weights

    @property
    def bits(self) -> int | None:
        """Bits per weight where the config says it in the common way."""
        bits = self.config.get("bits", self.config.get("w_bit"))
        return bits if isinstance(bits, int) else None

    @property
    def group_size(self) -> int | None:
        """Weights that share a scale, where the config says it in the common way and it is a number above 0."""
        size = self.config.get("group_size", self.config.get("q_group_size"))
        return size if isinstance(size, int) and size > 0 else None


@dataclass(frozen=True, slots=True)
class Request:
    """All that loading a model depends on."""

    folder: Path  # the model's folder
    stored: Stored  # what the folder says of itself
    method: str  # the method to load by
    options: Quantization  # the options of the config
    device: str  # ``cpu``, ``cuda``, ``cuda:1``
    dtype: Any  # the one compute dtype of torch
    attention: str  # attention implementation, ``auto`` for the library's choice
    trust_remote_code: bool  # whether the model's own code may run
    tensors: Mapping[str, Header]  # headers of the safetensors files


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object. Raises `ModelError` naming the file where it is missing, unreadable or something else."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise ModelError(f"{path} is not JSON ({error}): the checkpoint is damaged, fetch or make it again") from error
    if not isinstance(data, dict):
        raise ModelError(f"{path} holds {type(data).__name__}, not an object: this is not a model's config")
    return data


def stored(folder: Path, gguf_file: str | None = None) -> Stored:
    """Say how the weights of `folder` are stored. Raises `ModelError` if its configs are damaged or name no method."""
    path, beside, adapter = (folder / f"{one}config.json" for one in ("", "quantize_", "adapter_"))
    if adapter.is_file():  # transformers adds it to the weights where peft is installed, and else says nothing
        raise ModelError(f"{folder}: has an adapter beside its weights: merge it into them, and remove {adapter.name}")
    if gguf_file or not path.is_file():
        return Stored(method="gguf", gguf_file=_gguf(folder, gguf_file))
    config = read_json(path)
    text = config.get("text_config") or {}
    inner = config.get("quantization_config") or (text.get("quantization_config") if isinstance(text, dict) else text)
    if inner and not isinstance(inner, dict):
        raise ModelError(f"{path}: its quantization_config or text_config is not an object: {inner!r}")
    if not inner and not beside.is_file():
        return Stored(method="none")
    quantization = {**(read_json(beside) if beside.is_file() else {}), **(inner or {})}
    method = _method(quantization, path)
    standard = any((folder / name).exists() for name in ("model.safetensors", _INDEX, "pytorch_model.bin"))
    own_layout = method == "gptq" and (not inner or "is_marlin_format" in quantization or not standard)
    return Stored(method=method, autogptq=own_layout, config=quantization)


def _method(quantization: dict[str, Any], path: Path) -> str:
    stored_as = str(quantization.get("quant_method", "gptq" if "bits" in quantization else "")).lower()
    if stored_as == "torchao":
        text = json.dumps(quantization.get("quant_type", "")).lower().replace("_", "")
        for name, method in METHODS.items():
            if name.startswith("torchao-") and any(stored in text for stored in method.stored_as):
                return name
        raise ModelError(f"torchao weights of a kind that quantcliff does not know: {text[:80]}")
    if stored_as == "bitsandbytes":
        kind = "int8" if quantization.get("load_in_8bit") else quantization.get("bnb_4bit_quant_type", "fp4")
        stored_as = f"bnb-{kind}"
    known = {name: one for name, one in METHODS.items() if one.stored_as and not name.startswith("torchao-")}
    for name, method in known.items():
        if stored_as in method.stored_as:
            return name
    loads, other = f"it loads {', '.join(sorted(known))}, torchao and gguf", stored_as or "an unnamed method"
    raise ModelError(f"{path}: the weights are quantized by {other!r}, which quantcliff does not load ({loads})")


def _gguf(folder: Path, name: str | None) -> str:
    files = sorted(path.name for path in folder.glob("*.gguf"))
    if name:
        if name not in files:
            raise ModelError(f"{folder}: there is no {name} in it (GGUF files there: {', '.join(files) or 'none'})")
        return name
    if len(files) != 1:
        what = f"several GGUF files ({', '.join(files)})" if files else "neither config.json nor a GGUF file"
        raise ModelError(f"{folder}: {what}; name one with `quantization: {{method: gguf, gguf_file: ...}}`")
    return files[0]


def weight_files(folder: Path, found: Stored) -> list[Path]:
    """The files that hold the weights. Raises `ModelError` naming one that is missing or not what its name says."""
    if found.gguf_file:
        file = folder / found.gguf_file
        with file.open("rb") as stream:
            if stream.read(4) != b"GGUF":
                raise ModelError(f"{file} is not a GGUF file: fetch it again")
        return [file]
    index = _index(folder)
    if index:
        names = read_json(index).get("weight_map")
        if not isinstance(names, dict) or not names:
            raise ModelError(f"{index} has no weight_map: the checkpoint is damaged, fetch or make it again")
        files = [folder / name for name in sorted(set(names.values()))]
    elif (folder / "model.safetensors").is_file():
        files = [folder / "model.safetensors"]
    else:
        files = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("*.bin"))
    if not files:
        raise ModelError(f"{folder}: no weight file in it (*.safetensors, *.bin or *.gguf)")
    for file in (one for one in files if not one.is_file()):
        raise ModelError(f"{file} is missing, and {index.name if index else 'config.json'} names it")
    mixed = {_INDEX: "model.safetensors", "model.safetensors": "model-*-of-*.safetensors"}
    pattern = mixed.get((index or files[0]).name)
    if pattern and (rivals := sorted({*folder.glob(pattern)} - {*files})):
        beside = f"{rivals[0]} lies beside {(index or files[0]).name}, which servers mix up"
        raise ModelError(f"{beside}: remove one of the two")
    return files


def _index(folder: Path) -> Path | None:
    standard = folder / _INDEX
    return standard if standard.is_file() else min(folder.glob("*.safetensors.index.json"), default=None)


def headers(files: list[Path]) -> dict[str, Header]:
    """Every tensor of the safetensors files, by name. Raises `ModelError` naming one that is damaged or cut short."""
    from safetensors import SafetensorError, safe_open

    found: dict[str, Header] = {}
    for file in (one for one in files if one.suffix == ".safetensors"):
        try:
            with safe_open(file, framework="numpy") as tensors:
                for name in tensors.keys():  # noqa: SIM118 - no mapping
                    piece = tensors.get_slice(name)
                    dtype, shape = piece.get_dtype(), tuple(piece.get_shape())
                    bits = int("".join(filter(str.isdigit, dtype.partition("_")[0])) or 8)
                    if name in found:  # which of the two counts, loaders disagree
                        raise ModelError(f"{file} and another file both hold {name}: fetch or make it again")
                    found[name] = Header(dtype, shape, math.prod(shape) * bits // 8)
        except (SafetensorError, OSError, ValueError) as error:
            message = f"{file} is not a whole safetensors file ({error}): cut short or altered; fetch or make it again"
            raise ModelError(message) from error
    return found


@contextlib.contextmanager
def view(folder: Path, found: Stored) -> Iterator[Path]:
    """Give a folder that today's loaders read: `folder` itself, or links to it in the layout that they expect.

    AutoGPTQ's differs in the weight file's name, quantize_config.json apart, three keys of its own, no `quant_method`.
    """
    if not found.autogptq:
        yield folder
        return
    if found.config.get("is_marlin_format"):
        remedy = "quantize the baseline again with `quantcliff quantize`"
        raise ModelError(f"{folder}: AutoGPTQ stored it in Marlin's layout, which nothing maintained reads; {remedy}")
    files, index = weight_files(folder, found), _index(folder)
    if len(files) > 1 and not index:
        names = ", ".join(file.name for file in files)
        raise ModelError(f"{folder}: several weight files ({names}) and no index that says how they belong together")
    replaced = {"config.json", "quantize_config.json", index.name if index else ""}
    with tempfile.TemporaryDirectory(prefix="quantcliff-view-") as place:
        links = Path(place)
        for entry in folder.iterdir():
            if entry.is_file() and entry.suffix not in {".safetensors", ".bin", ".pt"} and entry.name not in replaced:
                (links / entry.name).symlink_to(entry.resolve())
        for file in files:
            single = "model.safetensors" if file.suffix == ".safetensors" else "pytorch_model.bin"
            (links / (file.name if index else single)).symlink_to(file.resolve())
        if index:
            (links / _INDEX).symlink_to(index.resolve())
        kept = {key: value for key, value in found.config.items() if key not in _AUTOGPTQ_ONLY}
        shown = {**kept, "quant_method": "gptq", "checkpoint_format": found.config.get("checkpoint_format", "gptq")}
        config = {**read_json(folder / "config.json"), "quantization_config": shown}
        (links / "config.json").write_text(json.dumps(config))
        yield links
