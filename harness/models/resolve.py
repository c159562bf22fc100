"""From what a config calls a model to a folder on this machine, and what can be known of it without loading it."""

import contextlib
import difflib
import hashlib
import json
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from harness.errors import ModelError, NoSuchModel
from harness.models.cache import cache_dir
from harness.models.formats import read_json
from harness.models.smollm2 import smollm2_checkpoint
from harness.records import digest

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_BESIDE_WEIGHTS = ["*.json", "*.jinja", "*.model", "*.txt", "*.py", "*.tiktoken"]
_HUB_LIMIT = 1 << 40  # tokenizers say 1e30 where they know no limit
_HUB_ERRORS = json.loads(Path(__file__).with_name("hub_errors.json").read_text("utf-8"))  # by the nearest class
_WEIGHT_SUFFIXES = frozenset({".safetensors", ".bin", ".gguf", ".pt", ".pth"})
_MEANING_SUFFIXES = _WEIGHT_SUFFIXES | {pattern[1:] for pattern in _BESIDE_WEIGHTS}
_MEANINGLESS = frozenset(
    {"quantcliff_calibration.json", "quant_log.csv", "training_args.bin", "optimizer.pt", "trainer_state.json"}
)
# Every habit in which tokenizers of one vocabulary have been seen to differ: digits in runs, spaces before digits and
# words, line ends, indentation, capitals, contractions, scripts, combining marks, emoji, special tokens as text.
_PROBES = tuple(json.loads(Path(__file__).with_name("tokenizer_probes.json").read_text("utf-8")))


def resolve(model: str, revision: str | None = None) -> Path:
    """The folder of a model: a directory, a hub id (fetched if need be), or ``smollm2``. Raises `ModelError`."""
    local = Path(model).expanduser()
    if revision and (model == "smollm2" or local.exists()):
        text = f"has no revisions, so revision {revision!r} names nothing"
        raise NoSuchModel(f"model {model!r} {text}: leave it out, or give the directory of that version")
    if model == "smollm2":
        return smollm2_checkpoint()
    if local.exists():
        return _usable(local.absolute())
    if model.startswith((".", "~", os.sep)) or not _HUB_ID.fullmatch(model):
        raise NoSuchModel(f"model {model!r}: there is no such directory.{_near(local)}")
    return _usable(_from_hub(model, revision))


def _usable(folder: Path) -> Path:
    if folder.is_file():
        hint = f" with `quantization: {{method: gguf, gguf_file: {folder.name}}}`" if folder.suffix == ".gguf" else ""
        raise NoSuchModel(f"model {folder} is a file: give its directory, {folder.parent}{hint}")
    names = [entry.name for entry in folder.iterdir()]
    if "config.json" not in names and not any(name.endswith(".gguf") for name in names):
        holds = ", ".join(sorted(names)[:6]) or "nothing"
        raise NoSuchModel(f"model {folder}: no config.json and no .gguf file in it (it holds {holds})")
    if not any(Path(name).suffix in _WEIGHT_SUFFIXES for name in names):
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


def _from_hub(model: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    def fetched(weights: str) -> Path:
        return Path(snapshot_download(model, revision=revision, allow_patterns=[weights, *_BESIDE_WEIGHTS]))

    try:
        folder = fetched("*.safetensors")
        return folder if any(folder.glob("*.safetensors")) else fetched("*.bin")
    except (HfHubHTTPError, HFValidationError, OSError, ValueError) as error:
        raise NoSuchModel(_hub_message(model, revision, error)) from error


def _hub_message(model: str, revision: str | None, error: Exception) -> str:
    local = Path(model)
    also = _near(local) if "/" in model and local.parent.is_dir() else ""
    said = next(_HUB_ERRORS[one.__name__] for one in type(error).__mro__ if one.__name__ in _HUB_ERRORS)
    return f"model {model!r}: {said.format(model=model, revision=revision, also=also)}"


def tokenizer_place(path: Path) -> tuple[Path, dict[str, str]]:
    """Give the folder of a tokenizer and config, and how transformers reads them: from a GGUF file unless beside it."""
    if not path.is_file():
        return path, {}
    beside = all((path.parent / name).is_file() for name in ("tokenizer.json", "config.json"))
    return path.parent, {} if beside else {"gguf_file": path.name}


def context_limit(config: Any) -> int:
    """Longest prompt plus answer in tokens, from a transformers config or its dict. Raises `ModelError` without one."""
    data = config if isinstance(config, dict) else config.to_dict()
    data = data.get("text_config") or data
    for key in ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "n_ctx"):
        value = data.get(key)
        if isinstance(value, int) and 0 < value < _HUB_LIMIT:
            return value
    raise ModelError("the model's config names no context limit (max_position_embeddings)")


def end_token_ids(model: Any) -> tuple[int, ...]:
    """Give the tokens at which a transformers model's own generation ends."""
    places = (getattr(model, "generation_config", None), getattr(model.config, "text_config", None) or model.config)
    return _ends(getattr(place, "eos_token_id", None) for place in places)


def stored_end_tokens(folder: Path) -> tuple[int, ...]:
    """Give the tokens at which a server ends the answers of a folder's model, as its files say."""
    own, config = folder / "generation_config.json", read_json(folder / "config.json")
    places = (read_json(own) if own.is_file() else {}, config.get("text_config") or config)
    return _ends(place.get("eos_token_id") for place in places)


def _ends(said: Iterable[Any]) -> tuple[int, ...]:
    first = next((one for one in said if one is not None), ())
    return tuple(int(one) for one in (first if isinstance(first, list | tuple) else [first]) if one is not None)


def weights_digest(path: Path) -> str:
    """First 16 hex digits of a SHA-256 over a file, or a folder's weight, config and tokenizer files, names included.

    A file is read again only when its size, its times or its inode changed, or what the cache holds of it is torn.
    """
    memory = cache_dir() / "digests" / f"{hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:24]}.json"
    known: Any = None
    with contextlib.suppress(OSError, ValueError):
        known = json.loads(memory.read_text())
    before = known if isinstance(known, dict) else {}
    files = [path] if path.is_file() else sorted(path.iterdir())
    meant = (one for one in files if one.suffix in _MEANING_SUFFIXES and one.name not in _MEANINGLESS and one.is_file())
    found = {file.name: _known_or_read(file, before.get(file.name)) for file in meant}
    if found != known:
        with contextlib.suppress(OSError):  # a cache that cannot be written costs time, not correctness
            memory.parent.mkdir(parents=True, exist_ok=True)
            draft = memory.with_suffix(f".{os.getpid()}")
            draft.write_text(json.dumps(found))
            draft.replace(memory)
    sums = [[name, entry["sha256"]] for name, entry in sorted(found.items())]
    return str(sums[0][1][:16]) if path.is_file() else digest(sums)


def _known_or_read(file: Path, known: Any) -> dict[str, Any]:
    status = file.stat()
    stamp = [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]
    if isinstance(known, dict) and known.get("stamp") == stamp and isinstance(known.get("sha256"), str):
        return known
    with file.open("rb") as stream:
        return {"stamp": stamp, "sha256": hashlib.file_digest(stream, "sha256").hexdigest()}


def tokenizer_digest(tokenizer: Any) -> str:
    """The first 16 hex digits of a SHA-256 over vocabulary, end token, and the tokens of probe texts in many scripts.

    The chat template and the pad token stay out: prompts are rendered by the baseline, and padding is masked.
    """
    vocabulary = sorted((index, token) for token, index in tokenizer.get_vocab().items())
    plain = [tokenizer.encode(text, add_special_tokens=False) for text in _PROBES]
    return digest([vocabulary, plain, tokenizer.encode("a", add_special_tokens=True), tokenizer.eos_token_id])
