"""Parallel test sets in many languages: Belebele (reading), XCOPA (cause and effect), SIB-200 (topics).

From the hub or from files in `data_dir`. A question is one cluster in all its languages, and the same questions are
kept in every language. lm_eval calls the functions named in the YAML files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import datasets

from harness.suite.chance import guessing
from harness.suite.toolkit.datafiles import find, read_json_lines, read_tsv
from harness.suite.toolkit.strata import sample_documents, wanted, with_cue

TOPICS = ("science/technology", "travel", "politics", "sports", "health", "entertainment", "geography")
LETTERS = ("A", "B", "C", "D")
WHY = {"cause": "What was the cause of this?", "effect": "What happened as a result?"}

Rows = list[dict[str, Any]]


@cache
def languages() -> dict[str, tuple[str, str, str]]:
    """Give each language's name in FLORES-200, its script and its resource class (Joshi et al. 2020, see cldr.py)."""
    table = read_tsv(Path(__file__).parent / "languages.tsv", ["language", "flores", "resource"])[1:]
    return {row["language"]: (row["flores"], row["flores"].rpartition("_")[2], row["resource"]) for row in table}


def belebele(**metadata: Any) -> dict[str, datasets.Dataset]:
    """Give reading-comprehension questions over a passage, four answers each."""
    return _made(metadata, "belebele", _belebele_rows, _belebele_doc)


def xcopa(**metadata: Any) -> dict[str, datasets.Dataset]:
    """Give a premise and two sentences, one of them its cause or effect."""
    return _made(metadata, "xcopa", _xcopa_rows, _xcopa_doc)


def sib200(**metadata: Any) -> dict[str, datasets.Dataset]:
    """Give sentences to be sorted into seven topics."""
    return _made(metadata, "sib200", _sib_rows, _sib_doc)


def _made(
    metadata: dict[str, Any],
    name: str,
    rows_of: Callable[[str, str | None], Rows],
    doc_of: Callable[[dict[str, Any]], dict[str, Any]],
) -> dict[str, datasets.Dataset]:
    want = wanted(metadata)
    asked = "language" in (metadata.get("axes") or {})
    docs = []
    for language, rows in _read(want.axes["language"], metadata.get("data_dir"), rows_of, needed=asked):
        _, script, resource = languages()[language]
        place = {"language": language, "script": script, "resource": resource}
        made = [doc_of(row) for row in rows]
        often = guessing([str(doc["gold"]) for doc in made])  # a quarter of SIB-200 is science/technology
        for doc in made:
            guess = max(doc["chance"], often)
            docs.append({**doc, **place, "id": f"{language}/{doc['id']}", "chance": guess})
    return {"test": datasets.Dataset.from_list(with_cue(sample_documents(docs, want, name), metadata))}


def _read(
    names: tuple[str, ...], data_dir: str | None, rows_of: Callable[[str, str | None], Rows], *, needed: bool
) -> Iterator[tuple[str, Rows]]:
    """Read language by language. The task's own languages that `data_dir` lacks are left out, asked ones never."""
    found, missing = 0, None
    for language in names:
        if language not in languages():
            raise ValueError(f"language={language}: not among {', '.join(languages())}")
        try:
            rows = rows_of(language, data_dir)
        except ValueError as error:
            if needed or data_dir is None:
                raise
            missing = error
            continue
        found += 1
        yield language, rows
    if not found and missing is not None:
        raise missing


def _belebele_rows(language: str, data_dir: str | None) -> Rows:
    if data_dir is None:
        return list(datasets.load_dataset("facebook/belebele", languages()[language][0], split="test"))
    name = "belebele.jsonl" if language == "en" else f"belebele_{language}.jsonl"
    folders = ("belebele_african/belebele", "belebele", ".")
    return read_json_lines(
        find(data_dir, [*(f"{folder}/{name}" for folder in folders), f"{languages()[language][0]}.jsonl"])
    )


def _belebele_doc(row: dict[str, Any]) -> dict[str, Any]:
    answers = "\n".join(f"{letter}: {row[f'mc_answer{place}']}" for place, letter in enumerate(LETTERS, start=1))
    gold = int(row["correct_answer_num"]) - 1
    return {
        "id": f"{row['link']}#{row['question_number']}",
        "cluster": f"belebele/{row['link']}",
        "prompt": f"{row['flores_passage']}\n\n{row['question'].strip()}\n{answers}\nAnswer with the letter.",
        "choices": list(LETTERS),
        "gold": gold,
        "target": LETTERS[gold],
        "chance": 0.25,
    }


def _xcopa_rows(language: str, data_dir: str | None) -> Rows:
    if data_dir is None:
        return list(datasets.load_dataset("cambridgeltl/xcopa", language, split="test"))
    name = f"test.{language}.jsonl"
    return read_json_lines(
        find(data_dir, [f"xcopa/data/{language}/{name}", f"data/{language}/{name}", f"{language}/{name}", name])
    )


def _xcopa_doc(row: dict[str, Any]) -> dict[str, Any]:
    choices = [row["choice1"], row["choice2"]]
    listed = "\n".join(f"- {choice}" for choice in choices)
    return {
        "id": str(row["idx"]),
        "cluster": f"xcopa/{row['idx']}",
        "prompt": f"{row['premise']}\n\n{WHY[row['question']]} Answer with one of these sentences.\n{listed}",
        "choices": choices,
        "gold": int(row["label"]),
        "target": choices[int(row["label"])],
        "chance": 0.5,
    }


def _sib_rows(language: str, data_dir: str | None) -> Rows:
    flores = languages()[language][0]
    if data_dir is None:
        return list(datasets.load_dataset("Davlan/sib200", flores, split="test"))
    places = [f"{folder}/{flores}/test.tsv" for folder in ("sib200_test/annotated", "annotated", "data/annotated", ".")]
    return read_tsv(find(data_dir, places), ["index_id", "category", "text"])[1:]


def _sib_doc(row: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": str(row["index_id"]),
        "cluster": f"sib200/{row['index_id']}",
        "prompt": f"{row['text']}\n\nWhat is this text about? Choose from: {', '.join(TOPICS)}.",
        "choices": list(TOPICS),
        "gold": TOPICS.index(row["category"]),
        "target": row["category"],
        "chance": 1 / len(TOPICS),
    }
