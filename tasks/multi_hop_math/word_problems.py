"""GSM8K by its number of annotated steps, and MGSM by language, from the hub or from files in `data_dir`.

The model works a problem out in writing and announces the result after "Answer:". lm_eval calls `gsm8k`, `mgsm` and
`score`, named in the YAML files.
"""

from __future__ import annotations

import re
from typing import Any

import datasets

from harness.suite.toolkit.datafiles import find, read_json_lines, read_tsv
from harness.suite.toolkit.scoring import near_number
from harness.suite.toolkit.strata import sample_documents, wanted, with_cue

ENDING = "Work it out step by step, then write the result after 'Answer:'."
LANGUAGES = ("bn", "de", "en", "es", "fr", "ja", "ru", "sw", "te", "th", "zh")
ZERO = {"bn": 0x09E6, "te": 0x0C66, "th": 0x0E50}
"""The sign for zero in the languages of MGSM that have digits of their own (Unicode code points)."""
MANY = 7


def gsm8k(**metadata: Any) -> dict[str, datasets.Dataset]:
    """Give the test problems of GSM8K; steps are the ``<<...>>`` annotations of the reference solution."""
    want = wanted(metadata)
    if data_dir := metadata.get("data_dir"):
        rows = read_json_lines(find(data_dir, ["gsm8k/test.jsonl", "test.jsonl"]))
    else:
        rows = list(datasets.load_dataset("openai/gsm8k", "main", split="test"))
    docs = [_gsm8k_doc(number, row) for number, row in enumerate(rows)]
    return {"test": datasets.Dataset.from_list(with_cue(sample_documents(docs, want, "gsm8k"), metadata))}


def mgsm(**metadata: Any) -> dict[str, datasets.Dataset]:
    """Give the problems of MGSM, the same 250 in every language; digits may be written in the language's own signs."""
    want = wanted(metadata)
    docs = [
        _mgsm_doc(language, number, row, native=digits == "native")
        for language in want.axes["language"]
        for digits in want.axes["digits"]
        if digits == "ascii" or language in ZERO
        for number, row in enumerate(_mgsm_rows(language, metadata.get("data_dir")))
    ]
    return {"test": datasets.Dataset.from_list(with_cue(sample_documents(docs, want, "mgsm"), metadata))}


def score(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """Score 1 where the announced number, or the last one, is the right one; digits of any script count."""
    return {"exact_match": near_number(results[0], doc["target"])}


def _mgsm_rows(language: str, data_dir: str | None) -> list[dict[str, str]]:
    if data_dir:
        name = f"mgsm_{language}.tsv"
        return read_tsv(find(data_dir, [f"mgsm/{name}", name]), ["question", "answer_number"])
    return list(datasets.load_dataset("juletxara/mgsm", language, split="test"))


def _gsm8k_doc(number: int, row: dict[str, str]) -> dict[str, Any]:
    steps = row["answer"].count("<<")
    return {
        "id": f"{number}",
        "cluster": f"gsm8k/{number}",
        "steps": f"{MANY}+" if steps >= MANY else str(steps),
        "prompt": f"{row['question']}\n\n{ENDING}",
        "target": row["answer"].rpartition("#### ")[2].strip().replace(",", ""),
        "chance": 0.0,
        "language": "en",
    }


def _mgsm_doc(language: str, number: int, row: dict[str, Any], *, native: bool) -> dict[str, Any]:
    question = row["question"]
    if native:
        question = re.sub(r"[0-9]", lambda sign: chr(ZERO[language] + int(sign.group())), question)
    return {
        "id": f"{language}/{'native' if native else 'ascii'}/{number}",
        "cluster": f"mgsm/{number}",
        "language": language,
        "digits": "native" if native else "ascii",
        "prompt": f"{question}\n\n{ENDING}",
        "target": str(row["answer_number"]).replace(",", ""),
        "chance": 0.0,
    }
