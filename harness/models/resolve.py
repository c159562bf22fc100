"""From what a config calls a model to a folder on this machine, and what can be known of it without loading it.

Knows directories, hub ids and the word ``smollm2``; does not load weights and does not know what they hold.
"""

from __future__ import annotations

import difflib
import os
import re
from pathlib import Path
from typing import Any

from harness.errors import ModelError, NoSuchModel
from harness.models.digests import WEIGHT_SUFFIXES, tokenizer_digest, weights_digest
from harness.models.smollm2 import smollm2_checkpoint

__all__ = [
    "context_limit",
    "end_token_ids",
    "resolve",
    "smollm2_checkpoint",
    "tokenizer_digest",
    "weights_digest",
]

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_WHOLE_NUMBERS = {"I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}  # bytes of each
_BESIDE_WEIGHTS = ["*.json", "*.jinja", "*.model", "*.txt", "*.py", "*.tiktoken"]
_HUB_LIMIT = 1 << 40  # tokenizers say 1e30 where they know no limit


def resolve(model: str, revision: str | None = None, *, gguf_file: str | None = None) -> Path:
    """The folder of a model: a directory, a hub id (fetched unless it is in the hub's cache), or ``smollm2``.

    With `gguf_file` only that weight file is fetched from the hub. HF_HUB_OFFLINE is honoured by the hub's client.
    Raises `ModelError` where there is no such model, naming near ones, or the hub does not answer or refuses.
    """
    if model == "smollm2":
        return smollm2_checkpoint()
    local = Path(model).expanduser()
    if local.exists():
        return _usable(local.absolute())
    if _is_path(model):
        raise NoSuchModel(f"model {model!r}: there is no such directory.{_near(local)}")
    return _usable(_from_hub(model, revision, gguf_file))


def _is_path(model: str) -> bool:
    return model.startswith((".", "~", os.sep)) or not _HUB_ID.fullmatch(model)


def _usable(folder: Path) -> Path:
    if folder.is_file():
        hint = ""
        if folder.suffix == ".gguf":
            hint = f" with `quantization: {{method: gguf, gguf_file: {folder.name}}}`"
        raise NoSuchModel(f"model {folder} is a file: give its directory, {folder.parent}{hint}")
    names = [entry.name for entry in folder.iterdir()]
    if "config.json" not in names and not any(name.endswith(".gguf") for name in names):
        holds = ", ".join(sorted(names)[:6]) or "nothing"
        raise NoSuchModel(f"model {folder}: no config.json and no .gguf file in it (it holds {holds})")
    if not any(Path(name).suffix in WEIGHT_SUFFIXES for name in names):
        raise NoSuchModel(f"model {folder}: no weight file in it (*.safetensors, *.bin or *.gguf)")
    return folder


def _near(path: Path) -> str:
    """Name the directories that may have been meant, beside the nearest part of the path that exists."""
    parent = path.absolute()
    while not parent.parent.is_dir():
        parent = parent.parent
    siblings = [entry.name for entry in parent.parent.iterdir() if entry.is_dir() and entry.name[0] != "."]
    close = difflib.get_close_matches(parent.name, siblings, n=3, cutoff=0.6)
    if close:
        return " Did you mean " + " or ".join(repr(str(parent.parent / name)) for name in close) + "?"
    return f" ({parent.parent} exists and has no {parent.name!r} in it)"


def _from_hub(model: str, revision: str | None, gguf_file: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    weights = [gguf_file] if gguf_file else ["*.safetensors"]
    try:
        folder = Path(snapshot_download(model, revision=revision, allow_patterns=[*weights, *_BESIDE_WEIGHTS]))
        if not gguf_file and not any(folder.glob("*.safetensors")):
            older = [*_BESIDE_WEIGHTS, "*.bin"]
            folder = Path(snapshot_download(model, revision=revision, allow_patterns=older))
    except (HfHubHTTPError, HFValidationError, OSError, ValueError) as error:
        raise NoSuchModel(_hub_message(model, revision, error)) from error
    return folder


def _hub_message(model: str, revision: str | None, error: Exception) -> str:
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    local = Path(model)
    also = _near(local) if "/" in model and local.parent.is_dir() else ""
    if isinstance(error, GatedRepoError):
        return (
            f"model {model!r}: the hub lets only approved accounts read it; accept its terms at"
            f" https://huggingface.co/{model} and log in with `hf auth login` (or set HF_TOKEN)"
        )
    if isinstance(error, RevisionNotFoundError):
        return f"model {model!r}: the hub has no revision {revision!r} of it"
    if isinstance(error, RepositoryNotFoundError):
        return f"model {model!r}: neither a directory here nor a model on the hub (or a private one).{also}"
    return (
        f"model {model!r}: not a directory here, not in the hub's cache, and the hub cannot be asked (no network, or"
        f" HF_HUB_OFFLINE is set); give a directory, or fetch it first where there is a network.{also}"
    )


def context_limit(config: Any) -> int:
    """Longest prompt plus answer in tokens, from a transformers config (or its dict).

    Raises `ModelError` where the config names no limit.
    """
    data = config if isinstance(config, dict) else config.to_dict()
    data = data.get("text_config") or data
    for key in ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "n_ctx"):
        value = data.get(key)
        if isinstance(value, int) and 0 < value < _HUB_LIMIT:
            return value
    raise ModelError("the model's config names no context limit (max_position_embeddings)")


def end_token_ids(model: Any) -> tuple[int, ...]:
    """Give the tokens at which a transformers model's own generation ends."""
    config = getattr(model.config, "text_config", None) or model.config
    said = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    if said is None:
        said = getattr(config, "eos_token_id", None)
    if said is None:
        return ()
    return tuple(int(one) for one in said) if isinstance(said, list | tuple) else (int(said),)
