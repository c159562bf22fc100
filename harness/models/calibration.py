"""The texts that GPTQ and AWQ look at while they quantize, and whether evaluation, then flattered, has seen them."""

import hashlib
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from harness.errors import ModelError, UsageError
from harness.suite.toolkit.datafiles import filled_lines

BUILT_IN = "quantcliff-calibration-v1"  # the name of the set that comes with quantcliff
SIDECAR = "quantcliff_calibration.json"  # the file in a checkpoint's folder that says what it was calibrated on
_TEXTS = Path(__file__).with_name("calibration_texts.json")  # changing a word makes another set: rename BUILT_IN
_SHORTEST = 32  # characters; less teaches a quantizer nothing
# Winnowing (Schleimer, Wilkerson, Aiken: Local Algorithms for Document Fingerprinting, SIGMOD 2003): of every _WINDOW
# consecutive hashes of _GRAM characters the smallest is kept, so any shared run of _GRAM + _WINDOW - 1 = 50 characters
# is found for certain, and none shorter than _GRAM ever.
_GRAM, _WINDOW = 40, 11
_BOILERPLATE = 0.5  # what more than this share of the prompts contain is their frame, not their question
_FEW = 4  # prompts, below which nothing is taken for boilerplate


class Calibration(NamedTuple):
    """A set of texts, each seen whole by the quantizer (up to the model's context)."""

    name: str  # as the checkpoint's sidecar and the report call it
    texts: tuple[str, ...]


def built_in() -> Calibration:
    """The set that comes with quantcliff: prose, notes, code, sums and 22 languages, each piece twice."""
    return Calibration(BUILT_IN, tuple(json.loads(_TEXTS.read_text(encoding="utf-8"))))


def from_file(path: Path) -> Calibration:
    """Read JSON lines with a ``text``, or texts between blank lines, else one a line. Raises `UsageError`."""
    try:
        content = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: cannot be read as calibration texts: {error}") from error
    parts = re.split(r"\n\s*\n", content.strip())
    plain = parts if len(parts) > 1 else content.splitlines()
    texts = _json_lines(path) if path.suffix in {".jsonl", ".json"} else plain
    kept = tuple(text.strip() for text in texts if len(text.strip()) >= _SHORTEST)
    if not kept:
        raise UsageError(f"{path}: no text of at least {_SHORTEST} characters in it")
    return Calibration(path.name, kept)


def _json_lines(path: Path) -> Iterator[str]:
    for number, line in filled_lines(path):
        try:
            data = json.loads(line)
        except ValueError as error:
            raise UsageError(f"{path}:{number}: not JSON ({error}): one object with a `text` to a line") from error
        text = data.get("text") if isinstance(data, dict) else data
        if not isinstance(text, str):
            raise UsageError(f"{path}:{number}: no `text` in it: one object with a `text` to a line")
        yield text


def sidecar(calibration: Calibration) -> dict[str, Any]:
    """What a checkpoint keeps of a set: its name, and of every text a digest, a length and fingerprints, no words."""
    digests = (hashlib.sha256(text.encode()).hexdigest() for text in calibration.texts)
    told = zip(digests, calibration.texts, strict=True)
    texts = [
        {"sha256": one, "characters": len(text), "fingerprints": sorted(_fingerprints(text))} for one, text in told
    ]
    return {"calibration": calibration.name, "texts": texts}


def calibration_overlap(checkpoint: Path, prompts: Sequence[str]) -> list[int]:
    """Return the indices of the prompts that share 50 characters or more with what `checkpoint` was calibrated on.

    What more than half of them share is their template, and not counted. Raises `ModelError` for a damaged sidecar.
    """
    path = checkpoint / SIDECAR
    if not path.is_file():
        return []
    try:
        known = {one for text in json.loads(path.read_text(encoding="utf-8"))["texts"] for one in text["fingerprints"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{path} is damaged, so what the checkpoint was calibrated on is unknown: {error}") from error
    found = [_fingerprints(prompt) for prompt in prompts]
    counts = Counter(one for prints in found for one in prints)
    template = {one for one, count in counts.items() if len(found) >= _FEW and count > _BOILERPLATE * len(found)}
    return [index for index, prints in enumerate(found) if (prints - template) & known]


def _fingerprints(text: str) -> set[str]:
    """The winnowed fingerprints of a text, each 12 hex digits."""
    plain = re.sub(r"\s+", " ", unicodedata.normalize("NFKC", text).casefold()).strip()
    grams = [plain[start : start + _GRAM] for start in range(len(plain) - _GRAM + 1)]
    hashes = [hashlib.blake2b(gram.encode(errors="replace"), digest_size=6).hexdigest() for gram in grams]
    starts = range(max(1, len(hashes) - _WINDOW + 1)) if hashes else ()
    return {min(hashes[start : start + _WINDOW]) for start in starts}
