"""Calibration sets: the texts that GPTQ and AWQ look at while they quantize, and whether evaluation has seen them.

A checkpoint that was calibrated on the items it is judged by is flattered. So a set has a name, the checkpoint keeps
fingerprints of it (never its texts), and `calibration_overlap` finds prompts that share a passage with it. Knows texts
only: no tokenizer, no model.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import ModelError, UsageError

__all__ = ["BUILT_IN", "SIDECAR", "Calibration", "Overlap", "built_in", "calibration_overlap", "from_file", "sidecar"]

BUILT_IN = "quantcliff-calibration-v1"
"""The name of the set that comes with quantcliff."""

SIDECAR = "quantcliff_calibration.json"
"""The file in a checkpoint's folder that says what it was calibrated on."""

_TEXTS = Path(__file__).with_name("calibration_texts.json")  # changing a word makes another set: rename BUILT_IN
_SHORTEST = 32  # characters; less teaches a quantizer nothing
_TEXT = 1400  # characters of a built-in text, at least: about 350 tokens of English
_ROUNDS = 2  # each piece is seen twice, among other neighbours

# Winnowing (Schleimer, Wilkerson, Aiken: Local Algorithms for Document Fingerprinting, SIGMOD 2003): of every _WINDOW
# consecutive hashes of _GRAM characters the smallest is kept, so any shared run of _GRAM + _WINDOW - 1 = 50 characters
# is found for certain, and none shorter than _GRAM ever.
_GRAM = 40
_WINDOW = 11
_BOILERPLATE = 0.5  # what more than this share of the prompts contain is their frame, not their question
_FEW = 4  # prompts, below which nothing is taken for boilerplate


@dataclass(frozen=True, slots=True)
class Calibration:
    """A named set of texts."""

    name: str
    """What the checkpoint's sidecar and the report call it."""
    texts: tuple[str, ...]
    """The texts, each seen whole by the quantizer (up to the model's context)."""


@dataclass(frozen=True, slots=True)
class Overlap:
    """A prompt that shares a passage with a calibration text."""

    prompt: int
    """Index of the prompt."""
    text: int
    """Index of the calibration text that shares most with it."""
    share: float
    """Share of the prompt's fingerprints that the calibration set has."""


def built_in() -> Calibration:
    """The set that comes with quantcliff: prose, notes, code, worked sums and 22 languages; the same everywhere."""
    chance = random.Random(BUILT_IN)
    kinds = json.loads(_TEXTS.read_text(encoding="utf-8"))
    pieces = [text for kind in kinds.values() for text in kind] + [_sums(chance) for _ in range(12)]
    texts: list[str] = []
    for _ in range(_ROUNDS):
        chance.shuffle(pieces)
        texts += _joined(pieces)
    return Calibration(BUILT_IN, tuple(texts))


def _joined(pieces: Sequence[str]) -> list[str]:
    """Join pieces in their order into texts of at least `_TEXT` characters, the last one longer."""
    texts = [""]
    for piece in pieces:
        if len(texts[-1]) >= _TEXT:
            texts.append("")
        texts[-1] += ("\n\n" if texts[-1] else "") + piece
    if len(texts) > 1 and len(texts[-1]) < _TEXT:
        texts[-2:] = ["\n\n".join(texts[-2:])]
    return texts


def _sums(chance: random.Random) -> str:
    """A column of worked sums, in the way of a ledger."""
    lines = []
    for _ in range(8):
        a, b, c = chance.randint(2, 99), chance.randint(2, 99), chance.randint(2, 12)
        kind = chance.randrange(4)
        if kind == 0:
            lines.append(f"{a} + {b} = {a + b}")
        elif kind == 1:
            lines.append(f"{max(a, b)} - {min(a, b)} = {max(a, b) - min(a, b)}")
        elif kind == 2:  # noqa: PLR2004 - one of four kinds
            lines.append(f"{a} x {c} = {a * c}, and {b} more make {a * c + b}")
        else:
            lines.append(f"{a * c} / {c} = {a}; {a * c / 8:.3f} is an eighth of {a * c}")
    return "\n".join(lines)


def from_file(path: Path) -> Calibration:
    """Read a set: JSON lines with a ``text`` field; or plain text, blank lines between texts, or else a text to a line.

    Raises `UsageError` naming the file and line where it is something else, or holds nothing of use.
    """
    try:
        content = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: cannot be read as calibration texts: {error}") from error
    parts = re.split(r"\n\s*\n", content.strip())
    plain = parts if len(parts) > 1 else content.splitlines()
    texts = _json_lines(path, content) if path.suffix in {".jsonl", ".json"} else plain
    kept = tuple(text.strip() for text in texts if len(text.strip()) >= _SHORTEST)
    if not kept:
        raise UsageError(f"{path}: no text of at least {_SHORTEST} characters in it")
    return Calibration(path.name, kept)


def _json_lines(path: Path, content: str) -> list[str]:
    texts = []
    for number, line in enumerate(content.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            data = json.loads(line)
        except ValueError as error:
            raise UsageError(f"{path}:{number}: not JSON ({error}): one object with a `text` to a line") from error
        text = data if isinstance(data, str) else data.get("text") if isinstance(data, dict) else None
        if not isinstance(text, str):
            raise UsageError(f"{path}:{number}: no `text` in it: one object with a `text` to a line")
        texts.append(text)
    return texts


def sidecar(calibration: Calibration) -> dict[str, Any]:
    """What a checkpoint keeps of a set: its name, and of every text a digest, a length and fingerprints, no words."""
    texts = [
        {
            "sha256": hashlib.sha256(text.encode()).hexdigest(),
            "characters": len(text),
            "fingerprints": sorted(_fingerprints(text)),
        }
        for text in calibration.texts
    ]
    return {"calibration": calibration.name, "texts": texts}


def calibration_overlap(checkpoint: Path, prompts: Sequence[str]) -> list[Overlap]:
    """Find the prompts that share a passage of 50 characters or more with what `checkpoint` was calibrated on.

    Case, white space and Unicode's spellings do not matter. Passages that more than half of the prompts share (their
    template) are not counted. A checkpoint without a sidecar gives none: nothing is known of it. Raises `ModelError`
    where the sidecar is damaged.
    """
    known = _known_fingerprints(checkpoint / SIDECAR)
    if not known:
        return []
    found = [_fingerprints(prompt) for prompt in prompts]
    frame = _frame(found)
    return [overlap for index, prints in enumerate(found) if (overlap := _overlap(index, prints - frame, known))]


def _overlap(index: int, prints: set[str], known: dict[str, list[int]]) -> Overlap | None:
    shared = [one for one in prints if one in known]
    if not shared:
        return None
    texts = Counter(text for one in shared for text in known[one])
    return Overlap(index, min(texts, key=lambda text: (-texts[text], text)), len(shared) / len(prints))


def _frame(found: Sequence[set[str]]) -> set[str]:
    """The fingerprints of the template that most prompts share."""
    if len(found) < _FEW:
        return set()
    counts = Counter(one for prints in found for one in prints)
    return {one for one, count in counts.items() if count > _BOILERPLATE * len(found)}


def _known_fingerprints(path: Path) -> dict[str, list[int]]:
    """Fingerprint to the indices of the texts that have it."""
    if not path.is_file():
        return {}
    known: dict[str, list[int]] = {}
    try:
        for index, text in enumerate(json.loads(path.read_text(encoding="utf-8"))["texts"]):
            for one in text["fingerprints"]:
                known.setdefault(one, []).append(index)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{path} is damaged, so what the checkpoint was calibrated on is unknown: {error}") from error
    return known


def _fingerprints(text: str) -> set[str]:
    """The winnowed fingerprints of a text, each 12 hex digits."""
    plain = re.sub(r"\s+", " ", unicodedata.normalize("NFKC", text).casefold()).strip()
    hashes = [_hash(plain[start : start + _GRAM]) for start in range(len(plain) - _GRAM + 1)]
    return set(_smallest(hashes))


def _hash(gram: str) -> str:
    return hashlib.blake2b(gram.encode(errors="replace"), digest_size=6).hexdigest()


def _smallest(hashes: Sequence[str]) -> Iterable[str]:
    for start in range(max(1, len(hashes) - _WINDOW + 1)):
        window = hashes[start : start + _WINDOW]
        if window:
            yield min(window)
