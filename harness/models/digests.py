"""Identities of models and tokenizers, for cache keys and comparisons.

`weights_digest` reads files and `tokenizer_digest` asks a tokenizer; neither needs torch, nor loads a model.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from harness.models.cache import cache_dir
from harness.records import digest

__all__ = ["WEIGHT_SUFFIXES", "model_files", "tokenizer_digest", "weights_digest"]

WEIGHT_SUFFIXES = frozenset({".safetensors", ".bin", ".gguf", ".pt", ".pth"})
"""How the names of weight files end."""

_MEANING_SUFFIXES = WEIGHT_SUFFIXES | {".json", ".jinja", ".model", ".txt", ".py", ".tiktoken"}
_MEANINGLESS = frozenset(
    {"quantcliff_calibration.json", "quant_log.csv", "training_args.bin", "optimizer.pt", "trainer_state.json"},
)
_BLOCK = 1 << 22

# Every habit in which tokenizers of one vocabulary have been seen to differ: digits in runs, spaces before digits and
# words, line ends, indentation, capitals, contractions, scripts, combining marks, emoji, special tokens as text.
_PROBES = (
    "The quick brown fox jumps over the lazy dog, doesn't it? We're 12 of 1,234,567; that's 3.14159%.",
    "a  12   x = 3\n  45\n\n\n        return [i**2 for i in range(10)]  # twice\t\tTAB\r\n  7",
    "  leading and trailing  ",
    'HELLO World camelCase snake_case kebab-case https://example.org/a?b=c&d=e#f <b>&amp;</b> {"k": [1, null]}',
    "Ünïcödé naïve café nin\u0303o Straße İstanbul \u200bzero\u200dwidth \u00a0nbsp — “quotes” … ½ ² ﬁ",
    "Столица России — Москва. Αθήνα, Ελλάδα. ירושלים היא 12. العاصمة هي القاهرة ١٢٣.",
    "東京は日本の首都です。北京是中国的首都。서울은 대한민국의 수도이다. กรุงเทพมหานคร ១២៣",
    "नई दिल्ली भारत की राजधानी है। ঢাকা தமிழ் తెలుగు አዲስ አበባ ქართული հայերեն",
    "👩‍👩‍👧‍👦 🇫🇷 ✅ ∑∫√ ≤≥",
    "<s></s><|im_start|>user\nhi<|im_end|><|endoftext|><unk><pad>[INST] [/INST]<eos><bos>",
)


def model_files(folder: Path) -> list[Path]:
    """The files directly in a model's folder that decide its answers: weights, config, tokenizer, template, code."""
    return sorted(
        path
        for path in folder.iterdir()
        if path.suffix in _MEANING_SUFFIXES and path.name not in _MEANINGLESS and path.is_file()
    )


def weights_digest(path: Path) -> str:
    """The first 16 hex digits of a SHA-256 over a model folder's weight, config and tokenizer files, names included.

    A file is read again only when its size, its times or its inode changed; what was read is remembered in the cache.
    """
    memory = cache_dir() / "digests" / f"{hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:24]}.json"
    known = _recall(memory)
    found = {file.name: _known_or_read(file, known.get(file.name)) for file in model_files(path)}
    if found != known:
        _remember(memory, found)
    return digest([[name, entry["sha256"]] for name, entry in sorted(found.items())])


def _known_or_read(file: Path, known: Any) -> dict[str, Any]:
    status = file.stat()
    stamp = [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]
    if isinstance(known, dict) and known.get("stamp") == stamp and isinstance(known.get("sha256"), str):
        return known
    running = hashlib.sha256()
    with file.open("rb", buffering=0) as stream:
        while block := stream.read(_BLOCK):
            running.update(block)
    return {"stamp": stamp, "sha256": running.hexdigest()}


def _recall(memory: Path) -> dict[str, Any]:
    """What was remembered; nothing where the memory is missing, foreign or torn: it is read again then."""
    try:
        data = json.loads(memory.read_text())
    except (OSError, ValueError):
        return {}
    return data if isinstance(data, dict) else {}


def _remember(memory: Path, found: dict[str, Any]) -> None:
    """Keep the digests for the next time. A cache that cannot be written costs time, not correctness."""
    try:
        memory.parent.mkdir(parents=True, exist_ok=True)
        draft = memory.with_suffix(f".{os.getpid()}")
        draft.write_text(json.dumps(found))
        draft.replace(memory)
    except OSError:
        return


def tokenizer_digest(tokenizer: Any) -> str:
    """The first 16 hex digits of a SHA-256 over what a tokenizer does: give the tokenizer, or its model's folder.

    Taken over the vocabulary, the end token and the tokens of probe texts in many scripts, so that two files that say
    the same in other words are the same tokenizer. The chat template and the pad token stay out: prompts are rendered
    by the baseline, and padding is masked.
    """
    if isinstance(tokenizer, (str, Path)):
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(str(tokenizer))
    vocabulary = sorted((index, token) for token, index in tokenizer.get_vocab().items())
    plain = [tokenizer.encode(text, add_special_tokens=False) for text in _PROBES]
    framed = tokenizer.encode("a", add_special_tokens=True)
    return digest([vocabulary, plain, framed, tokenizer.eos_token_id])
